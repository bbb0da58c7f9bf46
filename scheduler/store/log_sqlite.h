/* log_sqlite.h - the log in a table of the store, for a lone scheduler.
 *
 * An append is one transaction that also takes along the rows that are outstanding (rows.h): one
 * fsync for both. It is committed when the call returns.
 */
#pragma once
#include "scheduler/store/entry_log.h"
#include "scheduler/store/rows.h"

/* store and rows must outlive the log. rows may be NULL for a log that is only read. */
int log_sqlite_new(struct store *store, struct rows *rows, struct entry_log **ret,
                   struct hai_err *err);
void log_sqlite_free(struct entry_log *log);
DEFINE_CLEANUP(struct entry_log *, log_sqlite_free)
