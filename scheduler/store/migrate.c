#include "scheduler/store/migrate.h"

#include "lib/pure/schema.h"
#include "scheduler/store/store_sql.h"
#include <unistd.h>

const struct migrate_step *migrate_steps(int *ret_n) {
    /* Version 1 is the first. The next change of schema.sql adds {2, "ALTER TABLE ..."} here. */
    *ret_n = 0;
    return NULL;
}

static int back_up(struct store *store, int64_t version, struct hai_err *err) {
    _cleanup_free_ char *path =
        hai_asprintf("%s/schedd.db.v%lld", store_dir(store), (long long)version);
    _cleanup_free_ char *sql = NULL;
    char *quoted = sqlite3_mprintf("VACUUM INTO %Q", path);

    assert(quoted);
    sql = hai_strdup(quoted);
    sqlite3_free(quoted);
    if (unlink(path) < 0 && errno != ENOENT)
        return hai_fail(err, -errno, "%s: %m", path);
    return store_sql_exec(store, sql, err);
}

static int run_steps(struct store *store, int64_t version, int64_t target,
                     const struct migrate_step *steps, int n_steps, struct hai_err *err) {
    for (int i = 0; i < n_steps; i++) {
        if (steps[i].to <= version || steps[i].to > target)
            continue;
        int r = store_sql_exec(store, steps[i].sql, err);
        if (r < 0)
            return hai_err_prefix(err,
                                  "migration to schema version %lld: ", (long long)steps[i].to);
        version = steps[i].to;
    }
    if (version != target)
        return hai_fail(err, -EPROTO, "%s/schedd.db: no way from schema version %lld to %lld",
                        store_dir(store), (long long)version, (long long)target);
    return store_meta_set(store, "schema_version", target, err);
}

int migrate_run(struct store *store, int64_t target, const struct migrate_step *steps, int n_steps,
                bool read_only, struct hai_err *err) {
    int64_t version;
    int r = store_meta_get(store, "schema_version", S_ABSENT, &version, err);

    if (r < 0)
        return r;
    if (version == S_ABSENT)
        return hai_fail(err, -EBADMSG, "%s/schedd.db: not a store of hai", store_dir(store));
    if (version > target || (read_only && version < target))
        return hai_fail_at(err, -EPROTO, "schema_version", NULL, NULL,
                           "%s/schedd.db has schema version %lld; this hai-schedd (%s) knows %lld",
                           store_dir(store), (long long)version, HAI_VERSION, (long long)target);
    if (version == target)
        return 0;
    r = back_up(store, version, err);
    if (r < 0)
        return r;
    r = store_begin(store, err);
    if (r < 0)
        return r;
    r = run_steps(store, version, target, steps, n_steps, err);
    if (r < 0) {
        store_rollback(store);
        return r;
    }
    return store_commit(store, err);
}
