/* runners.h - the jobs that run undisturbed, side by side, those that would lose least last.
 *
 * Pure. Whoever looks for nodes that others might leave reads all of them, many times over: as they
 * lie in their jobs that is mostly waiting for memory, and to sort them each time took longer than
 * all else. A job that begins to run, or saves, has nothing to lose yet and comes last; time passes
 * for all alike. Derived state.
 */
#pragma once
#include "scheduler/core/order.h"

/* A job is among them, as it is now, if it runs undisturbed. To be called when its record has
 * changed. */
void runners_follow(struct state *state, struct job *job);

/* Between the two they come in whatever order, each once: for state_decode. */
void runners_fill(struct state *state);
void runners_sort(struct state *state);

/* The next one, from the last to the first; NULL: no more. at: start from state->runners.n. */
static inline const struct order_view *runners_next(const struct state *state, size_t *at) {
    while (*at > 0) {
        const struct order_view *one = &state->runners.items[--*at];
        if (one->job)
            return one;
    }
    return NULL;
}
