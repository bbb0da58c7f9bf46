/* spikes.h - does a step look like those before it? Asked before the optimizer changes anything.
 *
 * A value is a spike if it is no number, or lies above median + factor * spread of the last
 * `window` accepted steps; spread is 1.4826 times the median distance from the median (the
 * deviation, were they normal), at least 0.1 % of the median. A spike's batch is passed over. After
 * `patience` of them in a row it is not the batches: the run goes back to its newest checkpoint and
 * on with the samples that it has not seen. The first window/4 steps, at least 8, judge nothing but
 * what is no number.
 *
 * All of it is float32 and lies in one array that is part of the checkpoint, so every rank and
 * every restart decides alike.
 */
#pragma once
#include "lib/base.h"

enum { SPIKES_WINDOW_MAX = 10000 };

struct spikes_rule {
    int64_t window;    // steps; 0: nothing is looked at
    double loss, norm; // factors; 0: that value is only asked to be a number
    int64_t patience;  // spikes in a row that are passed over
    int64_t backs;     // times that the run may go back, until the end of the run
};

enum spikes_verdict {
    SPIKES_FINE,
    SPIKES_SKIP, // pass the batch over
    SPIKES_BACK, // go back to a checkpoint
    SPIKES_STOP, // the run has gone back often enough
    SPIKES_COUNT,
};

struct spikes;

struct spikes *spikes_new(const struct spikes_rule *rule);
void spikes_free(struct spikes *s);
DEFINE_CLEANUP(struct spikes *, spikes_free)

/* Judge a step. SPIKES_FINE takes its values into the window. */
enum spikes_verdict spikes_judge(struct spikes *s, double loss, double norm);

/* What a person is told of the last verdict: "loss 14.2, median 3.1, limit 4.4". */
const char *spikes_text(const struct spikes *s);

/* The state, for checkpoints: float32, all of it. */
float *spikes_state(struct spikes *s, size_t *ret_n);

/* After the state of a checkpoint has taken the place of the one that said SPIKES_BACK: the times
 * that the run went back do not go back with it. */
int64_t spikes_backs(const struct spikes *s);
void spikes_set_backs(struct spikes *s, int64_t backs);
