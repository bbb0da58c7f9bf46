#include "scheduler/core/arrivals.h"
#include "scheduler/core/array.h"
#include "scheduler/core/later.h"

#define DAY_US (INT64_C(24) * 3600 * 1000000)
/* Less than this says little of what comes. */
enum { KNOWN = 8 };
#define KNOWN_US (INT64_C(600) * 1000000)

/* Did the submission ask for nodes? An array does not, nor what was stopped before it ran. */
static bool counts(const struct job *job) {
    return job->group >= 0 && !array_is(job) &&
           !(state_job_ended(job) && job->r.started_us == S_ABSENT);
}

/* Jobs submitted since then are all still known. */
static int64_t known_since_us(const struct state *state, int64_t now_us) {
    int64_t since_us = state->jobs_first ? state->jobs_first->r.submitted_us : now_us;

    if (state->n_ended >= JOBS_ENDED_KEPT)
        since_us = MAX(since_us, state->ended_first->r.ended_us);
    return MAX(since_us, now_us - DAY_US);
}

void arrivals_of(const struct state *state, int64_t now_us, struct arrivals *ret) {
    int64_t since_us = known_since_us(state, now_us);
    size_t n = 0;

    *ret = (struct arrivals){0};
    for (const struct job *job = state->jobs_last; job && job->r.submitted_us >= since_us;
         job = job->prev) {
        if (!counts(job))
            continue;
        if (n == ARRIVALS_KEPT) {
            since_us = ret->jobs[0]->r.submitted_us;
            break;
        }
        ret->jobs[ARRIVALS_KEPT - ++n] = job;
        since_us = MIN(since_us, job->r.submitted_us);
    }
    memmove(ret->jobs, ret->jobs + ARRIVALS_KEPT - n, n * sizeof(struct job *));
    ret->window_us = now_us - since_us;
    if (n < KNOWN || ret->window_us < KNOWN_US)
        return;
    if (n == ARRIVALS_KEPT)
        ret->window_us = now_us - ret->jobs[0]->r.submitted_us;
    ret->n = n;
    for (size_t i = 0; i < n; i++)
        ret->offsets_us[i] = ret->jobs[i]->r.submitted_us - (now_us - ret->window_us);
}

void arrivals_begin(struct arrivals_walk *walk, const struct arrivals *arrivals, int64_t now_us,
                    int part, int parts) {
    int64_t ahead_us = arrivals->window_us / parts * part;

    *walk = (struct arrivals_walk){arrivals, 0, now_us + ahead_us - arrivals->window_us};
    while (arrivals_next_us(walk) < now_us)
        if (++walk->at == arrivals->n) {
            walk->at = 0;
            walk->base_us += arrivals->window_us;
        }
}

int64_t arrivals_next_us(const struct arrivals_walk *walk) {
    if (!walk->arrivals->n)
        return INT64_MAX;
    return walk->base_us + walk->arrivals->offsets_us[walk->at];
}

struct job arrivals_take(struct arrivals_walk *walk, const struct state *state, int64_t id) {
    int64_t at_us = arrivals_next_us(walk);
    struct job job = *walk->arrivals->jobs[walk->at];

    if (++walk->at == walk->arrivals->n) {
        walk->at = 0;
        walk->base_us += walk->arrivals->window_us;
    }
    job.r.id = id;
    job.r.state = JOB_STATE_QUEUED;
    job.r.submitted_us = job.r.since_us = at_us;
    job.r.started_us = job.r.ckpt_us = S_ABSENT;
    job.r.place = S_ABSENT;
    job.r.array = job.r.array_index = S_ABSENT; // it belongs to none that is open
    if (job.r.reserve != S_ABSENT && !state_reserve_find(state, job.r.reserve))
        job.r.reserve = S_ABSENT; // it is over, and forgotten
    job.r.ran_us = 0;
    job.r.avoid.n = 0;
    later_line_up(state, &job);
    return job;
}
