#include "scheduler/store/query.h"

#include "lib/pure/schema.h"
#include "scheduler/store/db.h"

DEFINE_ENUM(query_by, QUERY_BY, QUERY_BY);

#define JOB_COLUMNS "id, user, name, state, submitted_us, ended_us, idx, record"
#define EVENT_COLUMNS "idx, n, time_us, kind, job, attempt, rank, node, principal, message"

static const char *column_text(sqlite3_stmt *s, int column) {
    return (const char *)sqlite3_column_text(s, column);
}

/* SQLite takes the view with the first read. */
int query_view(struct store *store, struct hai_err *err) {
    int64_t version;
    int r = db_exec(store_db(store), "BEGIN", err);

    return r < 0 ? r : db_meta_get(store_db(store), "schema_version", 0, &version, err);
}

static int give_jobs(struct db *db, sqlite3_stmt *s, query_job_fn fn, void *data,
                     struct hai_err *err) {
    int n = 0, r;

    while ((r = db_step(db, s, err)) > 0) {
        struct rows_job job = {
            .id = sqlite3_column_int64(s, 0),
            .user = column_text(s, 1),
            .name = column_text(s, 2),
            .state = sqlite3_column_int(s, 3),
            .submitted_us = sqlite3_column_int64(s, 4),
            .ended_us = sqlite3_column_int64(s, 5),
            .index = sqlite3_column_int64(s, 6),
            .record = sqlite3_column_blob(s, 7),
            .record_bytes = (size_t)sqlite3_column_bytes(s, 7),
        };
        fn(data, &job);
        n++;
    }
    return r < 0 ? r : n;
}

int query_jobs(struct store *store, const struct query_jobs *query, query_job_fn fn, void *data,
               struct hai_err *err) {
    /* Texts of their own, so that each finds its rows in order by an index: with a user and name
     * by job_by_user, with a user by job_by_owner, in one state by job_by_state, else by id. */
    static const char all[] = "SELECT " JOB_COLUMNS " FROM job WHERE id < ?1"
                              " AND ?2 IS NULL AND (?3 IS NULL OR name = ?3)"
                              " AND (?4 = 0 OR ?4 >> state & 1) AND ended_us >= ?5"
                              " ORDER BY id DESC LIMIT ?6";
    static const char named[] = "SELECT " JOB_COLUMNS " FROM job WHERE id < ?1"
                                " AND user = ?2 AND name = ?3"
                                " AND (?4 = 0 OR ?4 >> state & 1) AND ended_us >= ?5"
                                " ORDER BY id DESC LIMIT ?6";
    static const char owned[] = "SELECT " JOB_COLUMNS " FROM job WHERE id < ?1"
                                " AND user = ?2 AND ?3 IS NULL"
                                " AND (?4 = 0 OR ?4 >> state & 1) AND ended_us >= ?5"
                                " ORDER BY id DESC LIMIT ?6";
    static const char in_state[] = "SELECT " JOB_COLUMNS " FROM job WHERE id < ?1"
                                   " AND ?2 IS NULL AND (?3 IS NULL OR name = ?3)"
                                   " AND state = ?4 AND ended_us >= ?5"
                                   " ORDER BY id DESC LIMIT ?6";
    _cleanup_(db_donep) sqlite3_stmt *s = NULL;
    bool one_state = __builtin_popcount(query->states) == 1;

    assert(query->limit >= 1 && query->limit <= QUERY_ROWS_MAX);
    const char *text = query->user && query->name ? named
                       : query->user              ? owned
                       : one_state                ? in_state
                                                  : all;
    int r = db_sql(store_db(store), text, &s, err);
    if (r < 0)
        return r;
    db_int(s, 1, query->below ? query->below : INT64_MAX);
    db_text(s, 2, query->user);
    db_text(s, 3, query->name);
    db_int(s, 4, text == in_state ? (int64_t)__builtin_ctz(query->states) : query->states);
    db_int(s, 5, query->since_us);
    db_int(s, 6, query->limit);
    return give_jobs(store_db(store), s, fn, data, err);
}

int query_job(struct store *store, int64_t id, query_job_fn fn, void *data, struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *s = NULL;
    int r = db_sql(store_db(store), "SELECT " JOB_COLUMNS " FROM job WHERE id = ?", &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, id);
    return give_jobs(store_db(store), s, fn, data, err);
}

static int give_events(struct db *db, sqlite3_stmt *s, int64_t limit, query_event_fn fn, void *data,
                       struct hai_err *err) {
    int64_t last = 0;
    int n = 0, r;

    while ((r = db_step(db, s, err)) > 0) {
        struct rows_event event = {
            .index = sqlite3_column_int64(s, 0),
            .n = sqlite3_column_int64(s, 1),
            .time_us = sqlite3_column_int64(s, 2),
            .kind = column_text(s, 3),
            .job = db_column_int(s, 4),
            .attempt = db_column_int(s, 5),
            .rank = db_column_int(s, 6),
            .node = column_text(s, 7),
            .principal = column_text(s, 8),
            .message = column_text(s, 9),
        };
        if (n >= limit && event.index != last)
            return n;
        last = event.index;
        fn(data, &event);
        n++;
    }
    return r < 0 ? r : n;
}

int query_events(struct store *store, int64_t job, int64_t since, int64_t limit, query_event_fn fn,
                 void *data, struct hai_err *err) {
    static const char of_job[] = "SELECT " EVENT_COLUMNS " FROM event WHERE job = ?1 AND idx > ?2"
                                 " ORDER BY idx, n";
    static const char of_all[] = "SELECT " EVENT_COLUMNS " FROM event WHERE ?1 = 0 AND idx > ?2"
                                 " ORDER BY idx, n";
    _cleanup_(db_donep) sqlite3_stmt *s = NULL;
    int r = db_sql(store_db(store), job ? of_job : of_all, &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, job);
    db_int(s, 2, since);
    return give_events(store_db(store), s, limit, fn, data, err);
}

int query_events_newest(struct store *store, int64_t before, int64_t limit, query_event_fn fn,
                        void *data, struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *s = NULL;
    int r = db_sql(store_db(store),
                   "SELECT " EVENT_COLUMNS " FROM event WHERE idx < ?"
                   " ORDER BY idx DESC, n DESC",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, before ? before : INT64_MAX);
    return give_events(store_db(store), s, limit, fn, data, err);
}

static int give_usage(struct db *db, sqlite3_stmt *s, query_usage_fn fn, void *data,
                      struct hai_err *err) {
    int n = 0, r;

    while ((r = db_step(db, s, err)) > 0) {
        struct usage_row sum = {.day = sqlite3_column_int64(s, 0),
                                .group = (char *)column_text(s, 1),
                                .job = sqlite3_column_int64(s, 3)};
        for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
            sum.gpu_us[k] = sqlite3_column_int64(s, 4 + k);
        fn(data, &sum, column_text(s, 2));
        n++;
    }
    return r < 0 ? r : n;
}

int query_usage(struct store *store, const struct query_usage *query, query_usage_fn fn, void *data,
                struct hai_err *err) {
    /* Days that are over were added up already, but for jobs. A day's row in `ledger` was written
     * after its sums, and days end in order. */
#define LAST_DAY_ "ifnull((SELECT max(day) FROM ledger), -1)"
#define CLASSES_ "productive_us, recomputed_us, stalled_us, start_up_us, suspended_us"
#define SUMS_(key, from)                                                                           \
    "SELECT day, grp, " key ", max(job), sum(productive_us), sum(recomputed_us), sum(stalled_us)," \
    " sum(start_up_us), sum(suspended_us) FROM (" from ") GROUP BY day, grp, " key
#define OF_ROWS_                                                                                   \
    " FROM usage WHERE day BETWEEN ?1 AND ?2 AND (?3 IS NULL OR user = ?3)"                        \
    " AND (?4 IS NULL OR grp = ?4)"
#define OF_SUMS_                                                                                   \
    " FROM usage_sum WHERE day BETWEEN ?1 AND ?2 AND (?3 IS NULL OR user = ?3)"                    \
    " AND (?4 IS NULL OR grp = ?4)"
#define QUICK_(key)                                                                                \
    SUMS_(key, "SELECT day, user, team, grp, stage, 0 AS job, " CLASSES_ OF_SUMS_                  \
               " AND day <= " LAST_DAY_                                                            \
               " UNION ALL SELECT day, user, ifnull(team, ''), grp, ifnull(stage, ''), 0,"         \
               " " CLASSES_ OF_ROWS_ " AND day > " LAST_DAY_)
    static const char *const texts[] = {
        [QUERY_BY_STAGE] = QUICK_("stage"),
        [QUERY_BY_USER] = QUICK_("user"),
        [QUERY_BY_TEAM] = QUICK_("team"),
        [QUERY_BY_GROUP] = QUICK_("grp"),
        [QUERY_BY_JOB] = SUMS_("job", "SELECT day, grp, job, " CLASSES_ OF_ROWS_),
        [QUERY_BY_DAY] = QUICK_("day"),
    };
    _Static_assert(ARRAY_SIZE(texts) == QUERY_BY_COUNT, "texts");
    _cleanup_(db_donep) sqlite3_stmt *s = NULL;
    int r = db_sql(store_db(store), texts[query->by], &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, query->first);
    db_int(s, 2, query->last);
    db_text(s, 3, query->user);
    db_text(s, 4, query->group);
    return give_usage(store_db(store), s, fn, data, err);
}

int query_ledger(struct store *store, int64_t first, int64_t last, query_ledger_fn fn, void *data,
                 struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *s = NULL;
    int n = 0;
    int r = db_sql(store_db(store),
                   "SELECT day, class, gpu_us FROM ledger WHERE day BETWEEN ? AND ?"
                   " ORDER BY day, class",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, first);
    db_int(s, 2, last);
    while ((r = db_step(store_db(store), s, err)) > 0) {
        fn(data, sqlite3_column_int64(s, 0), column_text(s, 1), sqlite3_column_int64(s, 2));
        n++;
    }
    return r < 0 ? r : n;
}

int query_tail(struct store *store, int64_t job, int64_t attempt, int64_t rank,
               struct query_tail *ret, struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *s = NULL;
    int r = db_sql(store_db(store),
                   "SELECT attempt, total, data FROM tail WHERE job = ?1 AND rank = ?3"
                   " AND attempt BETWEEN ?2 AND ?4 ORDER BY attempt DESC LIMIT 1",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, job);
    db_int(s, 2, attempt ? attempt : 1);
    db_int(s, 3, rank);
    db_int(s, 4, attempt ? attempt : INT64_MAX);
    r = db_step(store_db(store), s, err);
    if (r < 0)
        return r;
    if (r == 0)
        return hai_fail(err, -ENOENT, "no output of rank %lld of job %lld is kept", (long long)rank,
                        (long long)job);
    ret->attempt = sqlite3_column_int64(s, 0);
    buf_add(&ret->data, sqlite3_column_blob(s, 2), (size_t)sqlite3_column_bytes(s, 2));
    ret->total = MAX(sqlite3_column_int64(s, 1), (int64_t)ret->data.n_bytes);
    return 0;
}

int query_place(struct store *store, int64_t job, int64_t attempt, int64_t node_rank, char **ret,
                struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *s = NULL;
    int r =
        db_sql(store_db(store),
               "SELECT node FROM place WHERE job = ? AND attempt = ? AND node_rank = ?", &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, job);
    db_int(s, 2, attempt);
    db_int(s, 3, node_rank);
    r = db_step(store_db(store), s, err);
    if (r < 0)
        return r;
    if (r == 0)
        return hai_fail(err, -ENOENT, "attempt %lld of job %lld is not known", (long long)attempt,
                        (long long)job);
    *ret = hai_strdup(column_text(s, 0));
    return 0;
}
