/* ema.h - an average of the weights over the run, kept in host memory and made beside training.
 *
 * After an optimizer step: average += (1 - decay) * (weights - average), in float32, begun with the
 * first weights. A thread does it while the next step computes, for which the weights are read
 * only; so training waits for it only where the next optimizer step comes sooner. DeepSeek-V3
 * (arXiv 2412.19437, 3.2.3) keeps it that way to look early at what a decayed rate will give.
 */
#pragma once
#include "lib/base.h"

struct ema;

/* weights [n] are read until ema_free; the average begins as a copy of them. NULL: no thread could
 * be started. */
struct ema *ema_new(const float *weights, size_t n, double decay);
void ema_free(struct ema *e);
DEFINE_CLEANUP(struct ema *, ema_free)

/* The weights have changed: begin. The one before must have been waited for. */
void ema_update(struct ema *e);

/* Until the average is that of the last ema_update: before weights change, or it is read. */
void ema_wait(struct ema *e);

/* Begin again from the weights as they are. */
void ema_restart(struct ema *e);

float *ema_values(struct ema *e); // [n]
