/* order.h - who goes first, and who gives way to whom.
 *
 * Pure and reading only: the policy of docs/policy.md as arithmetic. The tier of a job depends on
 * its record and the time alone, so that queues can be kept in order; a smaller tier goes first,
 * and within a tier the smaller id. Nothing here is written to the log or the state: it may change
 * from one version to the next.
 */
#pragma once
#include "scheduler/core/spread.h"

/* Time-sharing: while jobs wait, who goes first and who may give way is looked at again at the
 * latest then. Depends on nothing but the policy and the time. */
int64_t order_next_look_us(const struct state *state);

/* May a gang still wait for nodes under the fewest leaves that it could lie under, although others
 * would fit? Not after a fault: then to go on is worth more. */
bool order_waits_for_leaves(const struct state *state, const struct job *job, int64_t fewest);

/* When it has waited for them long enough. */
int64_t order_waits_until_us(const struct state *state, const struct job *job, int64_t fewest);

/* The most loss that is accepted for victims under fewer leaves or zones instead of the cheapest,
 * which would have the gang lie as plain: GPU time in microseconds. */
int64_t order_leaves_worth(const struct state *state, const struct job *job, struct spread plain,
                           struct spread better);

/* What starting again after a suspension is taken to cost each GPU. */
#define ORDER_RESTART_US (INT64_C(60) * 1000000)

/* Do jobs share time? If not, one that waits its turn blocks those behind it in its group. */
bool order_shares(const struct state *state);

/* Strict order: the number of blocked jobs of a group that get a planned start (backfill.h), so
 * that others may pass; 0: nobody may. */
int64_t order_backfills(const struct state *state);

/* GPUs of the whole gang. */
int64_t order_gpus(const struct job *job);

/* The tier of a job, 0 to ORDER_TIERS - 1 (state.h). */
int order_tier(const struct state *state, const struct job *job);

/* What the order makes of a job. Of one that runs undisturbed it stays the same until its record
 * changes: runners.h keeps those. */
struct order_view {
    const struct job *job;
    int64_t id;
    int64_t began_us;   // it has run for the time since then: breaks are left out
    int64_t running_us; // since when its attempt runs
    int64_t saved_us;   // what it did since then would be lost
    int64_t gpus;       // of the whole gang
    int position;       // of its priority in PRIORITIES
    bool gang;          // more than one node
    bool over;          // over quota
};
struct order_view order_view_of(const struct state *state, const struct job *job);

/* Does it run undisturbed? Only such a job can be asked to give way. */
bool order_runs(const struct job *job);

/* May a running job be suspended for a waiting one now? ORDER_FOR_GAIN: it is as important or more,
 * but may be asked if all victims together hold clearly fewer GPUs than the waiting job takes: then
 * more are busy. */
enum order_way { ORDER_STAYS, ORDER_GIVES_WAY, ORDER_FOR_GAIN };
enum order_way order_gives_way(const struct state *state, const struct job *running,
                               const struct job *to);

/* The same for one job that asks many who run undisturbed: what is of its own, at this time. */
struct order_asker {
    const struct state *state;
    struct order_view view;
    int tier;       // without aging
    int aged;       // position with it
    bool waited;    // min_run
    bool too_long;  // it has waited for too long
    bool never_ran; // and was submitted min_run ago
    bool gains;     // it may ask for the gain
};
struct order_asker order_asker_of(const struct state *state, const struct job *job);
enum order_way order_answer(const struct order_view *running, const struct order_asker *to);

/* The most that victims may hold, if one gives way for the gain, in tenths of what the waiting job
 * takes. */
enum { ORDER_GAIN_TENTHS = 9 };

/* Strict order: in whose way the jobs before stand, of those who want nodes of a reservation (by
 * its position), else of a group. Start from {0}; order_blocked: the one of a need. */
struct order_blocked {
    bool groups[GROUPS_MAX], reserves[RESERVES_MAX];
};
bool *order_blocked(struct order_blocked *blocked, const struct state *state,
                    const struct place_need *need);

/* What suspending a running job would lose: GPU time in microseconds for each GPU that it frees. */
int64_t order_loss(const struct state *state, const struct order_view *running);

/* Since when a job waits in its present state: where jobs age, what it waited for others, for its
 * time or for quota before it stood in line does not count. */
int64_t order_waits_since_us(const struct job *job);

/* When a waiting job will have waited for too long: then it may ask more of those who run. */
int64_t order_too_long_us(const struct state *state, const struct job *job);

/* Has a waiting job waited long enough to make others give way? */
bool order_may_ask(const struct state *state, const struct job *job);
