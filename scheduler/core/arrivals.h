/* arrivals.h - what will be submitted next: what was submitted lately, over again.
 *
 * Pure and reading only. A forecast that knows only who waits is too early wherever newer jobs go
 * first. Nothing is fitted: bursts, users, sizes and priorities come as they came in the last day,
 * or for as long of it as all submissions are still known (JOBS_ENDED_KEPT), or as the last
 * ARRIVALS_KEPT did. That many are kept since the last few hours alone make too much of a burst
 * that is just over: 512 were tried.
 */
#pragma once
#include "scheduler/core/state.h"

enum { ARRIVALS_KEPT = 2048 };

struct arrivals {
    const struct job *jobs[ARRIVALS_KEPT]; // in the order of their submission
    int64_t offsets_us[ARRIVALS_KEPT];     // since the window's start
    size_t n;                              // 0: too little is known
    int64_t window_us;
};

/* Fill in *ret. now_us: not before the state's time. */
void arrivals_of(const struct state *state, int64_t now_us, struct arrivals *ret);

/* A walk over the submissions to come. part: of so many walks, each begins at another place of the
 * window, so that bursts come at different times. */
struct arrivals_walk {
    const struct arrivals *arrivals;
    size_t at;
    int64_t base_us;
};
void arrivals_begin(struct arrivals_walk *walk, const struct arrivals *arrivals, int64_t now_us,
                    int part, int parts);

/* When the next one comes; INT64_MAX: none does. */
int64_t arrivals_next_us(const struct arrivals_walk *walk);

/* Take it: a job that was submitted then and has not run, whose id comes after all others. The copy
 * shares what the original owns. */
struct job arrivals_take(struct arrivals_walk *walk, const struct state *state, int64_t id);
