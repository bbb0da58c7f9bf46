/* fair.h - who of equals goes first: whoever had less of late, and whoever has waited for long.
 *
 * Pure. Fair share (`fair_share: 7d` in the cluster file): each user's GPU time is summed up and
 * halves every 7 days. Of jobs in the same tier (order.h) those of users who had less go first, in
 * FAIR_LEVELS levels about the mean of all users who had any. Aging (`aging: 1d`): a job goes up a
 * priority for each such time that it has waited in line, at most to FAIR_AGED_MAX; those of
 * priority 0 do not, they run when nobody else wants to; nor do those of external users.
 *
 * Both are reckoned anew at turns only, a few times in each of these periods: between two turns the
 * order of the queue stays, so it need not be sorted all the time. What a turn found is state.
 */
#pragma once
#include "scheduler/core/state.h"

/* The highest position in PRIORITIES that aging leads to: 50 is nobody's by waiting. */
enum { FAIR_AGED_MAX = 1 };

/* By the last turn: the level of the job's user, 0 to FAIR_LEVELS - 1, best first; the position in
 * PRIORITIES at which the job waits. */
int fair_level(const struct state *state, const struct job *job);
int fair_position(const struct state *state, const struct job *job);

/* What a user had of late, GPU time in microseconds as of the last turn, and the mean of all who
 * had any. False: nothing is known of the user, or fair share is off. */
bool fair_used(const struct state *state, const char *user, int64_t *ret_us, int64_t *ret_mean_us);

/* When the next turn is due; INT64_MAX: never. */
int64_t fair_next_us(const struct state *state);

/* For apply: it is due (whoever calls then sorts the queue); fair share was set, maybe anew; the
 * user of a job that was submitted is known from now on; an attempt is over. */
void fair_turn(struct state *state);
void fair_set(struct state *state, int64_t fair_share_us, int64_t aging_us);
void fair_enter(struct state *state, const struct job *job);
void fair_left(struct state *state, const struct job *job);

/* For state_decode. -EBADMSG: a user is there twice. */
int fair_derive(struct state *state);
