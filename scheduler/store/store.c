#include "scheduler/store/store.h"

#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/pure/schema.h"
#include "lib/random.h"
#include "scheduler/store/migrate.h"
#include "scheduler/store/schema_sql.h"
#include "scheduler/store/store_sql.h"
#include <sys/stat.h>

enum {
    STATEMENTS_MAX = 64,
    BUSY_WAIT_MS = 5000, // a reader that recovers the WAL may hold the lock for a moment
    CACHE_KIB = 8192,
};

struct store {
    sqlite3 *db;
    char *dir;
    char id[STORE_ID_BYTES];
    int lock_fd;
    struct {
        const char *text;
        sqlite3_stmt *statement;
    } statements[STATEMENTS_MAX];
    int n_statements;
};

sqlite3 *store_db(struct store *store) {
    return store->db;
}

const char *store_id(const struct store *store) {
    return store->id;
}

const char *store_dir(const struct store *store) {
    return store->dir;
}

int store_sql_fail(struct store *store, const char *what, struct hai_err *err) {
    int code = sqlite3_errcode(store->db) & 0xff;
    int r = code == SQLITE_FULL                               ? -ENOSPC
            : code == SQLITE_BUSY                             ? -EBUSY
            : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? -EBADMSG
                                                              : -EIO;

    return hai_fail_at(err, r, "store", NULL, NULL, "%s/schedd.db: %s: %s", store->dir, what,
                       sqlite3_errmsg(store->db));
}

int store_sql(struct store *store, const char *text, sqlite3_stmt **ret, struct hai_err *err) {
    sqlite3_stmt *statement;

    for (int i = 0; i < store->n_statements; i++) {
        if (store->statements[i].text == text) {
            *ret = store->statements[i].statement;
            return 0;
        }
    }
    assert(store->n_statements < STATEMENTS_MAX);
    if (sqlite3_prepare_v3(store->db, text, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL))
        return store_sql_fail(store, text, err);
    store->statements[store->n_statements].text = text;
    store->statements[store->n_statements++].statement = statement;
    *ret = statement;
    return 0;
}

void store_sql_done(sqlite3_stmt *statement) {
    if (!statement)
        return;
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}

int store_sql_step(struct store *store, sqlite3_stmt *statement, struct hai_err *err) {
    int code = sqlite3_step(statement);

    if (code == SQLITE_ROW)
        return 1;
    if (code == SQLITE_DONE)
        return 0;
    return store_sql_fail(store, "statement", err);
}

int store_sql_run(struct store *store, sqlite3_stmt *statement, struct hai_err *err) {
    int r = store_sql_step(store, statement, err);

    store_sql_done(statement);
    return r;
}

int store_sql_exec(struct store *store, const char *text, struct hai_err *err) {
    if (sqlite3_exec(store->db, text, NULL, NULL, NULL) != SQLITE_OK)
        return store_sql_fail(store, "statement", err);
    return 0;
}

void store_sql_int(sqlite3_stmt *statement, int position, int64_t value) {
    if (value == S_ABSENT)
        sqlite3_bind_null(statement, position);
    else
        sqlite3_bind_int64(statement, position, value);
}

void store_sql_text(sqlite3_stmt *statement, int position, const char *value) {
    sqlite3_bind_text(statement, position, value, -1, SQLITE_STATIC);
}

void store_sql_blob(sqlite3_stmt *statement, int position, const void *data, size_t n_bytes) {
    sqlite3_bind_blob64(statement, position, n_bytes ? data : "", n_bytes, SQLITE_STATIC);
}

int64_t store_sql_column_int(sqlite3_stmt *statement, int column) {
    if (sqlite3_column_type(statement, column) == SQLITE_NULL)
        return S_ABSENT;
    return sqlite3_column_int64(statement, column);
}

int store_begin(struct store *store, struct hai_err *err) {
    sqlite3_stmt *statement;
    int r = store_sql(store, "BEGIN IMMEDIATE", &statement, err);

    return r < 0 ? r : store_sql_run(store, statement, err);
}

void store_rollback(struct store *store) {
    /* SQLite has rolled back by itself after some errors; then there is nothing to do. */
    if (!sqlite3_get_autocommit(store->db))
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
}

int store_commit(struct store *store, struct hai_err *err) {
    sqlite3_stmt *statement;
    int r = store_sql(store, "COMMIT", &statement, err);

    if (r == 0)
        r = store_sql_run(store, statement, err);
    if (r < 0)
        store_rollback(store);
    return r;
}

int store_meta_get(struct store *store, const char *key, int64_t fallback, int64_t *ret,
                   struct hai_err *err) {
    _cleanup_(store_sql_donep) sqlite3_stmt *statement = NULL;
    int r = store_sql(store, "SELECT value FROM meta WHERE key = ?", &statement, err);

    if (r < 0)
        return r;
    store_sql_text(statement, 1, key);
    r = store_sql_step(store, statement, err);
    if (r < 0)
        return r;
    *ret = r ? sqlite3_column_int64(statement, 0) : fallback;
    return 0;
}

int store_meta_set(struct store *store, const char *key, int64_t value, struct hai_err *err) {
    sqlite3_stmt *statement;
    int r =
        store_sql(store, "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", &statement, err);

    if (r < 0)
        return r;
    store_sql_text(statement, 1, key);
    store_sql_int(statement, 2, value);
    return store_sql_run(store, statement, err);
}

static int write_id(struct store *store, struct hai_err *err) {
    uint8_t bytes[(STORE_ID_BYTES - 1) / 2];
    sqlite3_stmt *statement;
    int r =
        store_sql(store, "INSERT INTO meta (key, value) VALUES ('store_id', ?)", &statement, err);

    if (r < 0)
        return r;
    random_bytes(bytes, sizeof bytes);
    digest_hex(bytes, sizeof bytes, store->id);
    store_sql_text(statement, 1, store->id);
    return store_sql_run(store, statement, err);
}

static int read_id(struct store *store, struct hai_err *err) {
    _cleanup_(store_sql_donep) sqlite3_stmt *statement = NULL;
    int r = store_sql(store, "SELECT value FROM meta WHERE key = 'store_id'", &statement, err);

    if (r < 0)
        return r;
    r = store_sql_step(store, statement, err);
    if (r < 0)
        return r;
    const char *id = r ? (const char *)sqlite3_column_text(statement, 0) : NULL;
    if (!id || strlen(id) != STORE_ID_BYTES - 1)
        return hai_fail(err, -EBADMSG, "%s/schedd.db: not a store of hai", store->dir);
    memcpy(store->id, id, STORE_ID_BYTES);
    return 0;
}

/* Make all tables in one transaction, so that a store is there whole or not at all. */
static int make_tables(struct store *store, struct hai_err *err) {
    int r = store_begin(store, err);

    if (r < 0)
        return r;
    r = store_sql_exec(store, SCHEMA_SQL, err);
    if (r == 0)
        r = store_meta_set(store, "schema_version", STORE_SCHEMA_VERSION, err);
    if (r == 0)
        r = write_id(store, err);
    if (r < 0) {
        store_rollback(store);
        return r;
    }
    return store_commit(store, err);
}

/* 1: the store has tables, 0: it is an empty file. */
static int has_tables(struct store *store, struct hai_err *err) {
    sqlite3_stmt *statement;
    int r;

    if (sqlite3_prepare_v2(store->db, "SELECT 1 FROM sqlite_master WHERE name = 'meta'", -1,
                           &statement, NULL))
        return store_sql_fail(store, "reading the schema", err);
    r = store_sql_step(store, statement, err);
    sqlite3_finalize(statement);
    return r;
}

static int open_db(struct store *store, const struct store_options *options, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/schedd.db", options->dir);
    int flags = options->read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
    _cleanup_free_ char *pragmas =
        hai_asprintf("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                     "PRAGMA cache_size = -%d; PRAGMA temp_store = MEMORY;"
                     "PRAGMA journal_size_limit = 67108864;",
                     CACHE_KIB);

    if (access(path, F_OK) < 0 && !options->create)
        return hai_fail(err, -ENOENT, "%s: no store there; `hai-schedd init` makes one", path);
    if (options->create)
        flags |= SQLITE_OPEN_CREATE;
    if (sqlite3_open_v2(path, &store->db, flags | SQLITE_OPEN_NOMUTEX, options->vfs) != SQLITE_OK)
        return store->db ? store_sql_fail(store, "opening", err)
                         : hai_fail(err, -ENOMEM, "%s: cannot open", path);
    sqlite3_busy_timeout(store->db, BUSY_WAIT_MS);
    if (options->read_only)
        return 0;
    if (chmod(path, 0600) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    return store_sql_exec(store, pragmas, err);
}

static int open_locked(struct store *store, const struct store_options *options,
                       struct hai_err *err) {
    int r = open_db(store, options, err);

    if (r < 0)
        return r;
    r = has_tables(store, err);
    if (r < 0)
        return r;
    if (r == 0) {
        if (!options->create)
            return hai_fail(err, -EBADMSG, "%s/schedd.db: not a store of hai", store->dir);
        return make_tables(store, err);
    }
    int n_steps;
    const struct migrate_step *steps = migrate_steps(&n_steps);
    r = migrate_run(store, STORE_SCHEMA_VERSION, steps, n_steps, options->read_only, err);
    return r < 0 ? r : read_id(store, err);
}

int store_open(const struct store_options *options, struct store **ret, struct hai_err *err) {
    _cleanup_(store_closep) struct store *store = hai_new(struct store);
    int r;

    assert(options->dir);
    store->lock_fd = -1;
    store->dir = hai_strdup(options->dir);
    if (!options->read_only) {
        _cleanup_free_ char *lock = hai_asprintf("%s/schedd.lock", options->dir);
        r = options->create ? fileio_mkdir_p(options->dir, 0700, err) : 0;
        if (r < 0)
            return r;
        r = fileio_lock(lock, &store->lock_fd, err);
        if (r == -EBUSY)
            return hai_fail(err, r, "%s: another hai-schedd uses this state directory",
                            options->dir);
        if (r < 0)
            return r;
    }
    r = open_locked(store, options, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(store);
    return 0;
}

void store_close(struct store *store) {
    if (!store)
        return;
    for (int i = 0; i < store->n_statements; i++)
        sqlite3_finalize(store->statements[i].statement);
    if (store->db)
        sqlite3_close(store->db);
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    free(store->dir);
    free(store);
}
