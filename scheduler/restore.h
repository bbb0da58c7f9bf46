/* restore.h - the state from its newest sound snapshot and the log behind it.
 *
 * Used when the scheduler starts, and by hai-replay, which compares several ways to the same state.
 */
#pragma once
#include "scheduler/core/state.h"
#include "scheduler/store/entry_log.h"
#include "scheduler/store/rows.h"

/* Restore the newest state and project what rows lack (rows may be NULL). A damaged snapshot is
 * passed over with a warning. ret_applied: entries that were applied. */
int restore_state(struct store *store, struct entry_log *log, struct rows *rows, struct state **ret,
                  int64_t *ret_applied, struct hai_err *err);

/* The state in the snapshot at an index; 0: a new one. */
int restore_snapshot(struct store *store, int64_t index, struct state **ret, struct hai_err *err);

/* Apply the log's entries behind the state's index, up to and including an index. */
int restore_replay(struct entry_log *log, struct rows *rows, struct state *state, int64_t to,
                   struct hai_err *err);
