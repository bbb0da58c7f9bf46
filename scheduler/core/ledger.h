/* ledger.h - what the time of every GPU went into.
 *
 * Pure. At any time every GPU of the capacity is in exactly one class (LEDGER_CLASSES of state.h).
 * The capacity is the GPUs of the nodes that the cluster file describes, those never heard of
 * included, and of what it no longer describes the GPUs that an attempt still holds. A lost node is
 * out of service with all its GPUs, also those that are held until its lease is over. Apply keeps
 * the counts in step, at O(1) for each job, node or line that changes; state_decode derives them.
 *
 * Counts become GPU time as time passes from entry to entry: for the cluster in state_head.ledger,
 * for an attempt in state_job.booked whenever its class or its GPUs change. Sums are kept for one
 * UTC day, so that they fit into 64 bits at any size of cluster. When the day of an entry is
 * another one the days that are over are closed: they, and the jobs' parts of them, leave the state
 * as rows of struct effects. So does an attempt's part of the day when it ends.
 *
 * What runs is productive until a fault decides otherwise: then what the attempt ran since its last
 * checkpoint, on that day, is moved to recomputed. What an earlier day booked stays.
 */
#pragma once
#include "scheduler/core/effects.h"
#include "scheduler/core/place.h"

#define LEDGER_DAY_US (INT64_C(24) * 3600 * 1000000)

/* Days without an entry that are closed one by one. A clock that is set further ahead than that
 * skips what lies before: in no day's ledger, neither as capacity nor in a class. */
enum { LEDGER_GAP_DAYS_MAX = 32 };

/* ---- for apply and state_decode ---- */

/* Time has passed since last_us, up to the state's. */
void ledger_pass(struct state *state, int64_t last_us, struct effects *fx);

/* From now on a ledger is kept. */
void ledger_begin(struct state *state);

/* Count anew: all nodes, because they or their groups were described anew; a node that changed; a
 * job that may have got into another class. */
void ledger_groups(struct state *state);
void ledger_node(struct state *state, int number);
void ledger_job(struct state *state, struct job *job);

/* A job with this need gets into line (n 1) or leaves it (-1). */
void ledger_wait(struct state *state, const struct place_need *need, int n);

/* An attempt is about to take its GPUs; took, or gave back, what it holds on one node; has a
 * checkpoint, for which its ranks waited so long (S_ABSENT: not known); is over: it will be run
 * again because of a fault, or not. ledger_derive: what a snapshot says that it holds. */
void ledger_open(struct state *state, struct job *job);
void ledger_hold(struct state *state, struct job *job, size_t alloc);
void ledger_derive(struct state *state, struct job *job, size_t alloc);
void ledger_release(struct state *state, struct job *job, size_t alloc);
void ledger_saved(struct state *state, struct job *job, int64_t stall_us);
void ledger_close(struct state *state, struct job *job, bool again, struct effects *fx);

/* Is what a snapshot says of a job's booking possible? */
bool ledger_sound(const struct state *state, const struct job *job);

/* ---- for readers ---- */

/* What would leave the state as rows if its open days were closed at until_us, from the state's
 * time on: one row for each day and attempt with GPU time, and one for each day. A function may be
 * NULL. No ledger: none. */
struct ledger_peek {
    void (*on_job)(void *data, const struct job *job, int64_t day,
                   const int64_t gpu_us[static LEDGER_JOB_CLASSES]);
    void (*on_day)(void *data, const struct ledger_day *day);
    void *data;
};
void ledger_peek(const struct state *state, int64_t until_us, const struct ledger_peek *peek);

/* GPU time that a job used until now_us, and of it what was run again. */
void ledger_used(const struct job *job, int64_t now_us, int64_t *ret_used_us,
                 int64_t *ret_recomputed_us);
