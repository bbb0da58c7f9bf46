/* predict.h - how long a job will still run, from how long others ran.
 *
 * Pure. When a job ends, apply adds its run time to three histories: of its user and name, of its
 * user, of all. A history holds weights by half octaves of run time; each new one weighs 8, and all
 * are halved when their sum passes 512, so that what was long ago fades. Predictions are quantiles
 * of the run times that are longer than what the job has had: a job that outlives a prediction gets
 * a later one. The newest PASTS_MAX histories are kept.
 */
#pragma once
#include "scheduler/core/state.h"

enum { PREDICT_LEVELS = 3 }; // histories that a job adds to

/* Users and names whose own history made room for newer ones. */
struct predict_lost {
    struct {
        char *user, *name;
    } items[PREDICT_LEVELS];
    size_t n;
};

/* Remember how long a job that has ended ran; one that never ran teaches nothing, and logs from
 * before there was this memory lead to the state that they led to then. What is expected of jobs
 * that wait may change: those of its user and name, and those of ret, which the caller frees. */
void predict_learn(struct state *state, const struct job *job, struct predict_lost *ret);
void predict_lost_free(struct predict_lost *lost);

/* The run time still to come, at two quantiles (50 and 90 %), of a job that has run for had_us.
 * Never more than its time limit leaves. A product over the half octaves of the chance to end in
 * each; a history weighs against what is less specific (of all, of the user, of user and name; in
 * the end: as long again in half the cases) as the number of its jobs that came so far against
 * four. So the tail of a history that few outlived is not that of those few. Without any history:
 * the limit, or as long again as it has had, at least 10 min, in half the cases, and four times as
 * long at most in 8 of 10. */
struct predict_rest {
    int64_t p50_us, p90_us;
};
struct predict_rest predict_rest(const struct state *state, const struct job *job, int64_t had_us);

/* The same at any quantile, 1 to 999 thousandths. */
int64_t predict_rest_us(const struct state *state, const struct job *job, int64_t had_us,
                        int64_t thousandths);

/* How long a fresh job of its user and name that names no time limit is expected to run
 * (backfill.h): the 90 % quantile of that history, up to the end of its bucket, so that it changes
 * rarely. INT64_MAX: nobody knows. */
int64_t predict_usual_us(const struct state *state, const struct job *job);

/* For how long a waiting job takes its nodes: what its own time limit leaves; else what it has not
 * had of the usual; else what the group's limit leaves. INT64_MAX: nobody knows. */
int64_t predict_hold_us(const struct state *state, const struct job *job);

/* The same of one that holds them already, of which nobody knew or that outlives what was thought:
 * what its own limit leaves; else the 90 % quantile of those who ran longer, by the first of its
 * histories that knows some; else as long again as it has had, at least 10 min. Never endless. */
int64_t predict_longer_us(const struct state *state, const struct job *job, int64_t had_us);

/* For state_decode: the table of keys. -EBADMSG: a history twice, or of another form. */
int predict_derive(struct state *state);
