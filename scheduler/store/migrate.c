#include "scheduler/store/migrate.h"

#include "lib/pure/schema.h"
#include <unistd.h>

const struct migrate_step *migrate_steps(int *ret_n) {
    /* GPU time by job and day, and by day: what schema.sql says of them, without the remarks. */
    static const char usage_tables[] = "CREATE TABLE usage (\n"
                                       "    day           INTEGER NOT NULL,\n"
                                       "    job           INTEGER NOT NULL,\n"
                                       "    attempt       INTEGER NOT NULL,\n"
                                       "    user          TEXT NOT NULL,\n"
                                       "    team          TEXT,\n"
                                       "    grp           TEXT NOT NULL,\n"
                                       "    stage         TEXT,\n"
                                       "    productive_us INTEGER NOT NULL,\n"
                                       "    recomputed_us INTEGER NOT NULL,\n"
                                       "    stalled_us    INTEGER NOT NULL,\n"
                                       "    start_up_us   INTEGER NOT NULL,\n"
                                       "    suspended_us  INTEGER NOT NULL,\n"
                                       "    PRIMARY KEY (day, job, attempt)\n"
                                       ") WITHOUT ROWID;\n"
                                       "CREATE TABLE usage_sum (\n"
                                       "    day           INTEGER NOT NULL,\n"
                                       "    user          TEXT NOT NULL,\n"
                                       "    team          TEXT NOT NULL,\n"
                                       "    grp           TEXT NOT NULL,\n"
                                       "    stage         TEXT NOT NULL,\n"
                                       "    productive_us INTEGER NOT NULL,\n"
                                       "    recomputed_us INTEGER NOT NULL,\n"
                                       "    stalled_us    INTEGER NOT NULL,\n"
                                       "    start_up_us   INTEGER NOT NULL,\n"
                                       "    suspended_us  INTEGER NOT NULL,\n"
                                       "    PRIMARY KEY (day, user, team, grp, stage)\n"
                                       ") WITHOUT ROWID;\n"
                                       "CREATE TABLE ledger (\n"
                                       "    day    INTEGER NOT NULL,\n"
                                       "    class  TEXT NOT NULL,\n"
                                       "    gpu_us INTEGER NOT NULL,\n"
                                       "    PRIMARY KEY (day, class)\n"
                                       ") WITHOUT ROWID";
    /* Version 1 is the first. Each change of schema.sql adds its step here. */
    static const struct migrate_step steps[] = {
        {2, "CREATE INDEX job_by_owner ON job (user, id)" },
        {3, "CREATE INDEX job_by_state ON job (state, id)"},
        {4, usage_tables                                  },
    };

    *ret_n = ARRAY_SIZE(steps);
    return steps;
}

static int back_up(struct db *db, int64_t version, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s.v%lld", db_path(db), (long long)version);
    _cleanup_free_ char *sql = NULL;
    char *quoted = sqlite3_mprintf("VACUUM INTO %Q", path);

    assert(quoted);
    sql = hai_strdup(quoted);
    sqlite3_free(quoted);
    if (unlink(path) < 0 && errno != ENOENT)
        return hai_fail(err, -errno, "%s: %m", path);
    return db_exec(db, sql, err);
}

static int run_steps(struct db *db, int64_t version, int64_t target,
                     const struct migrate_step *steps, int n_steps, struct hai_err *err) {
    for (int i = 0; i < n_steps; i++) {
        if (steps[i].to <= version || steps[i].to > target)
            continue;
        int r = db_exec(db, steps[i].sql, err);
        if (r < 0)
            return hai_err_prefix(err,
                                  "migration to schema version %lld: ", (long long)steps[i].to);
        version = steps[i].to;
    }
    if (version != target)
        return hai_fail(err, -EPROTO, "%s: no way from schema version %lld to %lld", db_path(db),
                        (long long)version, (long long)target);
    return db_meta_set(db, "schema_version", target, err);
}

int migrate_run(struct db *db, int64_t target, const struct migrate_step *steps, int n_steps,
                bool read_only, struct hai_err *err) {
    int64_t version;
    int r = db_meta_get(db, "schema_version", S_ABSENT, &version, err);

    if (r < 0)
        return r;
    if (version == S_ABSENT)
        return hai_fail(err, -EBADMSG, "%s: not a store of hai", db_path(db));
    if (version > target || (read_only && version < target))
        return hai_fail_at(err, -EPROTO, "schema_version", NULL, NULL,
                           "%s has schema version %lld; this hai-schedd (%s) knows %lld",
                           db_path(db), (long long)version, HAI_VERSION, (long long)target);
    if (version == target)
        return 0;
    r = back_up(db, version, err);
    if (r < 0)
        return r;
    r = db_begin(db, err);
    if (r < 0)
        return r;
    r = run_steps(db, version, target, steps, n_steps, err);
    if (r < 0) {
        db_rollback(db);
        return r;
    }
    return db_commit(db, err);
}
