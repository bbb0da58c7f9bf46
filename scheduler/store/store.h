/* store.h - the scheduler's durable store: one SQLite file in a state directory.
 *
 * Opens it, makes or migrates its tables. What is in the tables is the business of log_sqlite.h
 * (the log), rows.h (the projection, writing) and query.h (reading); snapshots of the state are
 * files beside it (snapshot.h).
 *
 * One process writes at a time (a lock file); others may read a live store with `read_only`.
 */
#pragma once
#include "lib/base.h"

enum { STORE_SCHEMA_VERSION = 4, STORE_ID_BYTES = 33 };

struct store;
struct db;

/* dir        state directory; DIR/schedd.db is the file
 * vfs        SQLite VFS to use, NULL: the system's; tests lose power with one of their own
 * create     make the store if there is none
 * read_only  for replays and checks; takes no lock */
struct store_options {
    const char *dir;
    const char *vfs;
    bool create;
    bool read_only;
};

/* -ENOENT: no store and not told to create one; -EBUSY: another scheduler has it; -EPROTO: written
 * by a newer version, which the error names; -EBADMSG: no store of hai; -EIO. */
int store_open(const struct store_options *options, struct store **ret, struct hai_err *err);
void store_close(struct store *store); // NULL is fine; outstanding rows are rows.h's business
DEFINE_CLEANUP(struct store *, store_close)

/* 32 hexadecimal digits, drawn when the store was made; and the directory. */
const char *store_id(const struct store *store);
const char *store_dir(const struct store *store);

/* The connection, for the files of this folder. */
struct db *store_db(const struct store *store);
