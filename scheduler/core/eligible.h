/* eligible.h - may a job that is queued want nodes yet? Its time, and the jobs that it waits for.
 *
 * Pure. A job waits for its time (spec.not_before_us), for the jobs of spec.after to end as they
 * should, and, if it is a singleton, for all earlier jobs of its user and name. Until then it is
 * queued and stands in no line (queue.h). What has come true stays true. Ids ascend and a job waits
 * for earlier ones only, so no jobs wait for each other in a circle.
 *
 * A job whose condition can no longer come true is stopped, with reason `dependency`, and so are
 * those that wait for it in turn: a job that can never start is nobody's wish. How a job ended is
 * kept in spec.after of those that waited, since the job itself may be dropped from the state.
 *
 * Derived, made again by state_decode: who waits for whom, and a series, the jobs of one user and
 * name that have not ended, ascending.
 */
#pragma once
#include "scheduler/core/state.h"

/* Why a job may not want nodes yet.
 *
 * code   "dependency", "singleton", "not_before"
 * text   a sentence; where at_us is set the time is the caller's to add
 * ahead  the job waited for, 0: none; want: how it must end
 */
struct eligible_wait {
    const char *code;
    char text[512];
    int64_t ahead;
    enum after_want want;
    int64_t at_us; // when its time comes, S_ABSENT: unknown
};

/* May the job want nodes now? */
bool eligible(const struct state *state, const struct job *job);

/* The first thing that it waits for; false: it is eligible. */
bool eligible_wait(const struct state *state, const struct job *job, struct eligible_wait *ret);

/* When the job must be looked at again because its time has come, or INT64_MAX. */
int64_t eligible_due_us(const struct state *state, const struct job *job);

/* Put ids for names in the spec of a job that is about to be submitted, and note which jobs have
 * ended. -ENOENT: there is no such job, or nobody knows how it ended. */
int eligible_resolve(const struct state *state, struct entry_job_spec *spec, struct hai_err *err);

/* The first condition that can no longer come true, or NULL; and why, as a sentence. */
const struct entry_after *eligible_broken(const struct job *job);
void eligible_say_broken(const struct state *state, const struct entry_after *after, char *ret,
                         size_t n_bytes);

/* The jobs of the spec's user and name that have not ended, an array for its elements; NULL: none.
 */
struct series *eligible_series(const struct state *state, const struct entry_job_spec *spec);

/* For apply and state_decode. A job that was made or read is waited for, and waits. One that ended
 * becomes news (dependents.h) for those that wait for it; returns the singleton whose turn it is
 * then, or NULL. */
void eligible_enter(struct state *state, struct job *job);
struct job *eligible_ended(struct state *state, struct job *job);
