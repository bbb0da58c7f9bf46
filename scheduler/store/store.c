#include "scheduler/store/store.h"

#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/random.h"
#include "scheduler/store/db.h"
#include "scheduler/store/migrate.h"
#include "scheduler/store/schema_sql.h"

struct store {
    struct db *db;
    char *dir;
    char id[STORE_ID_BYTES];
    int lock_fd;
};

struct db *store_db(const struct store *store) {
    return store->db;
}

const char *store_id(const struct store *store) {
    return store->id;
}

const char *store_dir(const struct store *store) {
    return store->dir;
}

static int write_id(struct store *store, struct hai_err *err) {
    uint8_t bytes[(STORE_ID_BYTES - 1) / 2];
    sqlite3_stmt *statement;
    int r =
        db_sql(store->db, "INSERT INTO meta (key, value) VALUES ('store_id', ?)", &statement, err);

    if (r < 0)
        return r;
    random_bytes(bytes, sizeof bytes);
    digest_hex(bytes, sizeof bytes, store->id);
    db_text(statement, 1, store->id);
    return db_run(store->db, statement, err);
}

static int read_id(struct store *store, struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *statement = NULL;
    int r = db_sql(store->db, "SELECT value FROM meta WHERE key = 'store_id'", &statement, err);

    if (r < 0)
        return r;
    r = db_step(store->db, statement, err);
    if (r < 0)
        return r;
    const char *id = r ? (const char *)sqlite3_column_text(statement, 0) : NULL;
    if (!id || strlen(id) != STORE_ID_BYTES - 1)
        return hai_fail(err, -EBADMSG, "%s: not a store of hai", db_path(store->db));
    memcpy(store->id, id, STORE_ID_BYTES);
    return 0;
}

/* Make all tables in one transaction, so that a store is there whole or not at all. */
static int make_tables(struct store *store, struct hai_err *err) {
    int r = db_begin(store->db, err);

    if (r < 0)
        return r;
    r = db_exec(store->db, schema_sql_text, err);
    if (r == 0)
        r = db_meta_set(store->db, "schema_version", STORE_SCHEMA_VERSION, err);
    if (r == 0)
        r = write_id(store, err);
    if (r < 0) {
        db_rollback(store->db);
        return r;
    }
    return db_commit(store->db, err);
}

static int open_db(struct store *store, const struct store_options *options, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/schedd.db", options->dir);
    int n_steps;
    const struct migrate_step *steps = migrate_steps(&n_steps);

    if (access(path, F_OK) < 0 && !options->create)
        return hai_fail(err, -ENOENT, "%s: no store there; `hai-schedd init` makes one", path);
    int r = db_open(path, options->vfs, options->create, options->read_only, &store->db, err);
    if (r < 0)
        return r;
    r = db_has_table(store->db, "meta", err);
    if (r < 0)
        return r;
    if (r == 0 && !options->create)
        return hai_fail(err, -EBADMSG, "%s: not a store of hai", path);
    if (r == 0)
        return make_tables(store, err);
    r = migrate_run(store->db, STORE_SCHEMA_VERSION, steps, n_steps, options->read_only, err);
    return r < 0 ? r : read_id(store, err);
}

static int lock_dir(struct store *store, const struct store_options *options, struct hai_err *err) {
    _cleanup_free_ char *lock = hai_asprintf("%s/schedd.lock", options->dir);
    int r = options->create ? fileio_mkdir_durable(options->dir, 0700, err) : 0;

    if (r < 0)
        return r;
    r = fileio_lock(lock, &store->lock_fd, err);
    if (r == -EBUSY)
        return hai_fail(err, r, "%s: another hai-schedd uses this state directory", options->dir);
    return r;
}

int store_open(const struct store_options *options, struct store **ret, struct hai_err *err) {
    _cleanup_(store_closep) struct store *store = hai_new(struct store);
    int r = 0;

    assert(options->dir);
    store->lock_fd = -1;
    store->dir = hai_strdup(options->dir);
    if (!options->read_only)
        r = lock_dir(store, options, err);
    if (r == 0)
        r = open_db(store, options, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(store);
    return 0;
}

void store_close(struct store *store) {
    if (!store)
        return;
    db_close(store->db);
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    free(store->dir);
    free(store);
}
