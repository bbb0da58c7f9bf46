/* waits.h - how long jobs like one waited of late.
 *
 * Pure and reading only: from the jobs that the state still knows. forecast.h takes it as one more
 * draw: what a draw cannot foresee, such as a whole series of jobs that turns out longer than all
 * before, has happened to those who waited lately.
 */
#pragma once
#include "scheduler/core/state.h"

struct waits;

/* Of the newest starts of each group, priority and kind of size: a GPU, a part of a node, a node,
 * several. The caller frees. */
struct waits *waits_new(const struct state *state);
void waits_free(struct waits *waits);

/* When a job that waits would start if it waited for as long as the median of those like it that
 * waited for longer than it has at now_us; INT64_MAX if too few did, or it has run before. */
int64_t waits_start_us(const struct waits *waits, const struct state *state, const struct job *job,
                       int64_t now_us);
