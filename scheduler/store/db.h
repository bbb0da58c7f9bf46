/* db.h - SQLite as the files of this folder use it: one connection, statements prepared once.
 *
 * WAL with synchronous=FULL: a transaction that db_commit has returned 0 for survives kill -9 and
 * power loss. Errors name the file. A statement is taken with db_sql, bound, stepped, and given
 * back with db_done, which resets it; it stays prepared until the connection is closed.
 */
#pragma once
#include "lib/base.h"
#include <sqlite3.h>

struct db;

/* vfs: SQLite VFS, NULL for the system's. -EIO, -EBUSY, -ENOSPC, -EBADMSG (no database). */
int db_open(const char *path, const char *vfs, bool create, bool read_only, struct db **ret,
            struct hai_err *err);
void db_close(struct db *db); // NULL is fine
DEFINE_CLEANUP(struct db *, db_close)

sqlite3 *db_sqlite(struct db *db);
const char *db_path(const struct db *db);

/* One transaction at a time. After a failed db_commit nothing of it is there. */
int db_begin(struct db *db, struct hai_err *err);
int db_commit(struct db *db, struct hai_err *err);
void db_rollback(struct db *db);

/* The prepared form of a text. The text must be a string literal: it is known again by address. */
int db_sql(struct db *db, const char *text, sqlite3_stmt **ret, struct hai_err *err);

/* Give a statement back; NULL is fine. */
void db_done(sqlite3_stmt *statement);
DEFINE_CLEANUP(sqlite3_stmt *, db_done)

/* Run a bound statement that returns no rows and give it back. */
int db_run(struct db *db, sqlite3_stmt *statement, struct hai_err *err);

/* 1: there is a row, 0: no more, negative: failed. */
int db_step(struct db *db, sqlite3_stmt *statement, struct hai_err *err);

/* Any texts, for pragmas and schemas. */
int db_exec(struct db *db, const char *text, struct hai_err *err);

/* 1: there is such a table, 0: there is not. */
int db_has_table(struct db *db, const char *name, struct hai_err *err);

/* Translate the connection's last error. what is part of the message. */
int db_fail(struct db *db, const char *what, struct hai_err *err);

/* Bind in positions from 1. Texts and blobs must stay until the statement was stepped. NULL texts
 * and S_ABSENT numbers become NULL. */
void db_int(sqlite3_stmt *statement, int position, int64_t value);
void db_text(sqlite3_stmt *statement, int position, const char *value);
void db_blob(sqlite3_stmt *statement, int position, const void *data, size_t n_bytes);

/* The number of a column from 0, S_ABSENT for NULL. */
int64_t db_column_int(sqlite3_stmt *statement, int column);

/* Numbers of the table `meta`. Reading: fallback if there is none. */
int db_meta_get(struct db *db, const char *key, int64_t fallback, int64_t *ret,
                struct hai_err *err);
int db_meta_set(struct db *db, const char *key, int64_t value, struct hai_err *err);
