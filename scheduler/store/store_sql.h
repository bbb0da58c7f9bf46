/* store_sql.h - SQLite as the files of this folder use it: statements that are prepared once.
 *
 * Private to scheduler/store/. A statement is taken with store_sql, bound, stepped, and given back
 * with store_sql_done, which resets it; it stays prepared until the store is closed.
 */
#pragma once
#include "scheduler/store/store.h"
#include <sqlite3.h>

sqlite3 *store_db(struct store *store);

/* The prepared form of a text. The text must be a string literal: it is known again by address. */
int store_sql(struct store *store, const char *text, sqlite3_stmt **ret, struct hai_err *err);

/* Give a statement back; NULL is fine. */
void store_sql_done(sqlite3_stmt *statement);
DEFINE_CLEANUP(sqlite3_stmt *, store_sql_done)

/* Run a bound statement that returns no rows and give it back. */
int store_sql_run(struct store *store, sqlite3_stmt *statement, struct hai_err *err);

/* 1: there is a row, 0: no more, negative: failed. */
int store_sql_step(struct store *store, sqlite3_stmt *statement, struct hai_err *err);

/* Any texts, for pragmas and schemas. */
int store_sql_exec(struct store *store, const char *text, struct hai_err *err);

/* Translate the connection's last error. what is part of the message. */
int store_sql_fail(struct store *store, const char *what, struct hai_err *err);

/* Bind in positions from 1. Texts and blobs must stay until the statement was stepped. NULL text
 * and S_ABSENT numbers become NULL. */
void store_sql_int(sqlite3_stmt *statement, int position, int64_t value);
void store_sql_text(sqlite3_stmt *statement, int position, const char *value);
void store_sql_blob(sqlite3_stmt *statement, int position, const void *data, size_t n_bytes);

/* The number of a column from 0, S_ABSENT for NULL. */
int64_t store_sql_column_int(sqlite3_stmt *statement, int column);
