#include "scheduler/store/db.h"

#include "lib/pure/schema.h"
#include <sys/stat.h>
#include <unistd.h>

enum {
    STATEMENTS_MAX = 64,
    BUSY_WAIT_MS = 5000, // a reader that recovers the WAL may hold the lock for a moment
};

struct db {
    sqlite3 *sqlite;
    char *path;
    struct {
        const char *text;
        sqlite3_stmt *statement;
    } statements[STATEMENTS_MAX];
    int n_statements;
};

sqlite3 *db_sqlite(struct db *db) {
    return db->sqlite;
}

const char *db_path(const struct db *db) {
    return db->path;
}

int db_fail(struct db *db, const char *what, struct hai_err *err) {
    int code = sqlite3_errcode(db->sqlite) & 0xff;
    int r = code == SQLITE_FULL                               ? -ENOSPC
            : code == SQLITE_BUSY                             ? -EBUSY
            : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? -EBADMSG
                                                              : -EIO;

    return hai_fail_at(err, r, "store", NULL, NULL, "%s: %s: %s", db->path, what,
                       sqlite3_errmsg(db->sqlite));
}

int db_sql(struct db *db, const char *text, sqlite3_stmt **ret, struct hai_err *err) {
    sqlite3_stmt *statement;

    for (int i = 0; i < db->n_statements; i++) {
        if (db->statements[i].text == text) {
            *ret = db->statements[i].statement;
            return 0;
        }
    }
    assert(db->n_statements < STATEMENTS_MAX);
    if (sqlite3_prepare_v3(db->sqlite, text, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL))
        return db_fail(db, text, err);
    db->statements[db->n_statements].text = text;
    db->statements[db->n_statements++].statement = statement;
    *ret = statement;
    return 0;
}

void db_done(sqlite3_stmt *statement) {
    if (!statement)
        return;
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}

int db_step(struct db *db, sqlite3_stmt *statement, struct hai_err *err) {
    int code = sqlite3_step(statement);

    if (code == SQLITE_ROW)
        return 1;
    if (code == SQLITE_DONE)
        return 0;
    return db_fail(db, "statement", err);
}

int db_run(struct db *db, sqlite3_stmt *statement, struct hai_err *err) {
    int r = db_step(db, statement, err);

    db_done(statement);
    return r;
}

int db_exec(struct db *db, const char *text, struct hai_err *err) {
    if (sqlite3_exec(db->sqlite, text, NULL, NULL, NULL) != SQLITE_OK)
        return db_fail(db, "statement", err);
    return 0;
}

void db_int(sqlite3_stmt *statement, int position, int64_t value) {
    if (value == S_ABSENT)
        sqlite3_bind_null(statement, position);
    else
        sqlite3_bind_int64(statement, position, value);
}

void db_text(sqlite3_stmt *statement, int position, const char *value) {
    sqlite3_bind_text(statement, position, value, -1, SQLITE_STATIC);
}

void db_blob(sqlite3_stmt *statement, int position, const void *data, size_t n_bytes) {
    sqlite3_bind_blob64(statement, position, n_bytes ? data : "", n_bytes, SQLITE_STATIC);
}

int64_t db_column_int(sqlite3_stmt *statement, int column) {
    if (sqlite3_column_type(statement, column) == SQLITE_NULL)
        return S_ABSENT;
    return sqlite3_column_int64(statement, column);
}

int db_begin(struct db *db, struct hai_err *err) {
    sqlite3_stmt *statement;
    int r = db_sql(db, "BEGIN IMMEDIATE", &statement, err);

    return r < 0 ? r : db_run(db, statement, err);
}

void db_rollback(struct db *db) {
    /* SQLite has rolled back by itself after some errors; then there is nothing to do. */
    if (!sqlite3_get_autocommit(db->sqlite))
        sqlite3_exec(db->sqlite, "ROLLBACK", NULL, NULL, NULL);
}

int db_commit(struct db *db, struct hai_err *err) {
    sqlite3_stmt *statement;
    int r = db_sql(db, "COMMIT", &statement, err);

    if (r == 0)
        r = db_run(db, statement, err);
    if (r < 0)
        db_rollback(db);
    return r;
}

int db_meta_get(struct db *db, const char *key, int64_t fallback, int64_t *ret,
                struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *statement = NULL;
    int r = db_sql(db, "SELECT value FROM meta WHERE key = ?", &statement, err);

    if (r < 0)
        return r;
    db_text(statement, 1, key);
    r = db_step(db, statement, err);
    if (r < 0)
        return r;
    *ret = r ? sqlite3_column_int64(statement, 0) : fallback;
    return 0;
}

int db_meta_set(struct db *db, const char *key, int64_t value, struct hai_err *err) {
    sqlite3_stmt *statement;
    int r = db_sql(db, "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", &statement, err);

    if (r < 0)
        return r;
    db_text(statement, 1, key);
    db_int(statement, 2, value);
    return db_run(db, statement, err);
}

int db_has_table(struct db *db, const char *name, struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *statement = NULL;
    int r = db_sql(db, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", &statement,
                   err);

    if (r < 0)
        return r;
    db_text(statement, 1, name);
    return db_step(db, statement, err);
}

int db_open(const char *path, const char *vfs, bool create, bool read_only, struct db **ret,
            struct hai_err *err) {
    _cleanup_(db_closep) struct db *db = hai_new(struct db);
    int flags = SQLITE_OPEN_NOMUTEX | (read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE) |
                (create ? SQLITE_OPEN_CREATE : 0);

    db->path = hai_strdup(path);
    if (sqlite3_open_v2(path, &db->sqlite, flags, vfs) != SQLITE_OK)
        return db->sqlite ? db_fail(db, "opening", err)
                          : hai_fail(err, -ENOMEM, "%s: cannot open", path);
    sqlite3_busy_timeout(db->sqlite, BUSY_WAIT_MS);
    if (!read_only) {
        if (chmod(path, 0600) < 0)
            return hai_fail(err, -errno, "%s: %m", path);
        int r = db_exec(db,
                        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                        "PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;"
                        "PRAGMA journal_size_limit = 67108864;",
                        err);
        if (r < 0)
            return r;
    }
    *ret = TAKE_PTR(db);
    return 0;
}

void db_close(struct db *db) {
    if (!db)
        return;
    for (int i = 0; i < db->n_statements; i++)
        sqlite3_finalize(db->statements[i].statement);
    if (db->sqlite)
        sqlite3_close(db->sqlite);
    free(db->path);
    free(db);
}
