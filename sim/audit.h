/* audit.h - the ledger of a log, reckoned anew from the records alone.
 *
 * Pure. The log is applied again; before every entry each GPU is looked at one by one, and its time
 * up to the entry added to its class. Every day that closes, and the open one at the end, must have
 * the same sums: each class, the capacity, and over the rows of jobs the classes of jobs. What a
 * fault or a checkpoint moved between classes is reckoned together with what it was moved from.
 */
#pragma once
#include "sim/world.h"

/* 0, or -EINVAL and what is wrong. ret_days, if not NULL: how many days were compared. */
int audit_log(const struct world_entry *log, size_t n, int64_t *ret_days, struct hai_err *err);

/* The same; state, empty at first, is then what the log leads to. */
int audit_replay(const struct world_entry *log, size_t n, struct state *state, int64_t *ret_days,
                 struct hai_err *err);

/* How many GPUs of a state are in each class, looked at one by one; returns the capacity. */
int64_t audit_count(const struct state *state, int64_t ret[static LEDGER_COUNT]);
