/* restore.h - the state from its newest sound snapshot and the log behind it.
 *
 * Used when the scheduler starts, and by hai-replay, which compares several ways to the same state.
 */
#pragma once
#include "scheduler/core/effects.h"
#include "scheduler/store/entry_log.h"
#include "scheduler/store/rows.h"

/* Restore the newest state and project what rows lack. A damaged snapshot is passed over with a
 * warning. fx must be the one that is used with this state ever after: what it has touched is
 * marked in the state. It is left cleared. ret_applied: entries that were applied. */
int restore_state(struct store *store, struct entry_log *log, struct rows *rows, struct effects *fx,
                  struct state **ret, int64_t *ret_applied, struct hai_err *err);

/* The state in the snapshot at an index; 0: a new one. */
int restore_snapshot(struct store *store, int64_t index, struct state **ret, struct hai_err *err);

/* Apply the log's entries behind the state's index, up to and including an index. rows and fx: both
 * or none (NULL). */
int restore_replay(struct entry_log *log, struct rows *rows, struct effects *fx,
                   struct state *state, int64_t to, struct hai_err *err);
