#include "scheduler/store/rows.h"

#include "lib/pure/arena.h"
#include "lib/pure/schema.h"
#include "scheduler/store/daysum.h"

enum { AUDITS_MAX = 100 * 1000 }; // outstanding ones; more while nothing can be written are lost

/* One growing array of outstanding rows of a kind. */
#define ROW_LIST(type)                                                                             \
    struct {                                                                                       \
        struct type *items;                                                                        \
        size_t n, n_max;                                                                           \
    }

/* How many of the outstanding rows of GPU time are in the tables: they are written in parts. */
struct usage_progress {
    size_t usage, days;
};

struct rows {
    struct db *db;
    struct arena texts; // of all outstanding rows; ends with them
    ROW_LIST(rows_job) jobs;
    ROW_LIST(rows_event) events;
    ROW_LIST(rows_place) places;
    ROW_LIST(rows_tail) tails;
    ROW_LIST(rows_audit) audits;
    ROW_LIST(usage_row) usage;
    ROW_LIST(ledger_day) days;
    struct usage_progress written_usage, next_usage; // next: once this transaction is committed
    struct daysum *daysum;                           // of the first day that is not written
    int n_holds;                                     // of usage and days
    int64_t applied;                                 // rows of entries up to here were added
    int64_t written;                                 // and are in the tables
};

/* Rows that wait for company: every table and index that a transaction touches costs a page, so 64
 * submissions one after another write theirs once. */
enum { ROWS_WAIT_MAX = 64 };

/* Rows of GPU time that one transaction writes, or reads to add them up: some 20 ms. More than the
 * entries of a batch, so that what ends is written as fast as it comes. */
enum { ROWS_USAGE_MAX = 4096 };

static size_t grow(size_t n_max) {
    return n_max ? 2 * n_max : 64;
}

#define PUSH(list, value)                                                                          \
    do {                                                                                           \
        if ((list).n == (list).n_max) {                                                            \
            (list).n_max = grow((list).n_max);                                                     \
            (list).items = hai_realloc_array((list).items, (list).n_max, sizeof *(list).items);    \
        }                                                                                          \
        (list).items[(list).n++] = (value);                                                        \
    } while (0)

static const void *keep(struct rows *rows, const void *data, size_t n_bytes) {
    if (!n_bytes)
        return "";
    return memcpy(arena_alloc(&rows->texts, n_bytes), data, n_bytes);
}

static const char *keep_text(struct rows *rows, const char *text) {
    return arena_strdup(&rows->texts, text);
}

void rows_add_job(struct rows *rows, const struct rows_job *job) {
    struct rows_job copy = *job;

    copy.user = keep_text(rows, job->user);
    copy.name = keep_text(rows, job->name);
    copy.record = keep(rows, job->record, job->record_bytes);
    PUSH(rows->jobs, copy);
}

void rows_add_event(struct rows *rows, const struct rows_event *event) {
    struct rows_event copy = *event;

    copy.kind = keep_text(rows, event->kind);
    copy.node = keep_text(rows, event->node);
    copy.principal = keep_text(rows, event->principal);
    copy.message = keep_text(rows, event->message);
    PUSH(rows->events, copy);
}

void rows_add_place(struct rows *rows, const struct rows_place *place) {
    struct rows_place copy = *place;

    copy.node = keep_text(rows, place->node);
    PUSH(rows->places, copy);
}

/* A report that could not be saved comes again, for hours if the disk is full. */
static bool is_kept(const struct rows *rows, const struct rows_tail *tail) {
    for (size_t i = 0; i < rows->tails.n; i++) {
        const struct rows_tail *kept = &rows->tails.items[i];
        if (kept->job == tail->job && kept->attempt == tail->attempt && kept->rank == tail->rank &&
            kept->total == tail->total && kept->n_bytes == tail->n_bytes)
            return true;
    }
    return false;
}

void rows_add_tail(struct rows *rows, const struct rows_tail *tail) {
    struct rows_tail copy = *tail;

    if (is_kept(rows, tail))
        return;
    copy.data = keep(rows, tail->data, tail->n_bytes);
    PUSH(rows->tails, copy);
}

void rows_add_audit(struct rows *rows, const struct rows_audit *audit) {
    struct rows_audit copy = *audit;

    if (rows->audits.n >= AUDITS_MAX)
        return;
    copy.principal = keep_text(rows, audit->principal);
    copy.method = keep_text(rows, audit->method);
    copy.path = keep_text(rows, audit->path);
    copy.detail = keep_text(rows, audit->detail);
    PUSH(rows->audits, copy);
}

/* The arena's texts are freed as a whole, so the struct's are never freed one by one. */
void rows_add_usage(struct rows *rows, const struct usage_row *usage) {
    struct usage_row copy = *usage;

    copy.user = (char *)keep_text(rows, usage->user);
    copy.team = (char *)keep_text(rows, usage->team);
    copy.group = (char *)keep_text(rows, usage->group);
    copy.stage = (char *)keep_text(rows, usage->stage);
    PUSH(rows->usage, copy);
}

void rows_add_day(struct rows *rows, const struct ledger_day *day) {
    PUSH(rows->days, *day);
}

static int write_job(struct db *db, const struct rows_job *job, struct hai_err *err) {
    sqlite3_stmt *s;
    int r = db_sql(db,
                   "INSERT OR REPLACE INTO job"
                   " (id, user, name, state, submitted_us, ended_us, idx, record)"
                   " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, job->id);
    db_text(s, 2, job->user);
    db_text(s, 3, job->name);
    db_int(s, 4, job->state);
    db_int(s, 5, job->submitted_us);
    db_int(s, 6, job->ended_us);
    db_int(s, 7, job->index);
    db_blob(s, 8, job->record, job->record_bytes);
    return db_run(db, s, err);
}

static int write_event(struct db *db, const struct rows_event *event, struct hai_err *err) {
    sqlite3_stmt *s;
    int r = db_sql(db,
                   "INSERT OR REPLACE INTO event"
                   " (idx, n, time_us, kind, job, attempt, rank, node, principal, message)"
                   " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, event->index);
    db_int(s, 2, event->n);
    db_int(s, 3, event->time_us);
    db_text(s, 4, event->kind);
    db_int(s, 5, event->job);
    db_int(s, 6, event->attempt);
    db_int(s, 7, event->rank);
    db_text(s, 8, event->node);
    db_text(s, 9, event->principal);
    db_text(s, 10, event->message);
    return db_run(db, s, err);
}

static int write_place(struct db *db, const struct rows_place *place, struct hai_err *err) {
    sqlite3_stmt *s;
    int r = db_sql(db,
                   "INSERT OR REPLACE INTO place (job, attempt, node_rank, node)"
                   " VALUES (?, ?, ?, ?)",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, place->job);
    db_int(s, 2, place->attempt);
    db_int(s, 3, place->node_rank);
    db_text(s, 4, place->node);
    return db_run(db, s, err);
}

static int write_tail(struct db *db, const struct rows_tail *tail, struct hai_err *err) {
    sqlite3_stmt *s;
    int r = db_sql(db,
                   "INSERT OR REPLACE INTO tail (job, attempt, rank, time_us, total, data)"
                   " VALUES (?, ?, ?, ?, ?, ?)",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, tail->job);
    db_int(s, 2, tail->attempt);
    db_int(s, 3, tail->rank);
    db_int(s, 4, tail->time_us);
    db_int(s, 5, tail->total);
    db_blob(s, 6, tail->data, tail->n_bytes);
    return db_run(db, s, err);
}

static int write_audit(struct db *db, const struct rows_audit *audit, struct hai_err *err) {
    sqlite3_stmt *s;
    int r = db_sql(db,
                   "INSERT INTO audit (time_us, principal, method, path, status, detail)"
                   " VALUES (?, ?, ?, ?, ?, ?)",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, audit->time_us);
    db_text(s, 2, audit->principal);
    db_text(s, 3, audit->method);
    db_text(s, 4, audit->path);
    db_int(s, 5, audit->status);
    db_text(s, 6, audit->detail);
    return db_run(db, s, err);
}

static int write_usage(struct db *db, const struct usage_row *usage, struct hai_err *err) {
    sqlite3_stmt *s;
    int r = db_sql(db,
                   "INSERT OR REPLACE INTO usage"
                   " (day, job, attempt, user, team, grp, stage, productive_us, recomputed_us,"
                   " stalled_us, start_up_us, suspended_us)"
                   " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, usage->day);
    db_int(s, 2, usage->job);
    db_int(s, 3, usage->attempt);
    db_text(s, 4, usage->user);
    db_text(s, 5, usage->team);
    db_text(s, 6, usage->group);
    db_text(s, 7, usage->stage);
    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        db_int(s, 8 + k, usage->gpu_us[k]);
    return db_run(db, s, err);
}

static int write_sum(struct db *db, int64_t day, const char *class, int64_t gpu_us,
                     struct hai_err *err) {
    sqlite3_stmt *s;
    int r =
        db_sql(db, "INSERT OR REPLACE INTO ledger (day, class, gpu_us) VALUES (?, ?, ?)", &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, day);
    db_text(s, 2, class);
    db_int(s, 3, gpu_us);
    return db_run(db, s, err);
}

static int write_day(struct db *db, const struct ledger_day *day, struct hai_err *err) {
    int r = write_sum(db, day->day, "capacity", day->capacity_us, err);

    for (int k = 0; r == 0 && k < LEDGER_COUNT; k++)
        r = write_sum(db, day->day, ledger_class_text((enum ledger_class)k), day->gpu_us[k], err);
    return r;
}

#define WRITE_ALL(list, write)                                                                     \
    for (size_t i = 0; r == 0 && i < (list).n; i++)                                                \
    r = write(rows->db, &(list).items[i], err)

/* When a day ends every attempt has a row of it, and all of them are added up: a part in each
 * transaction, so that none keeps everybody waiting. The day's row in `ledger` comes last. */
static int write_usage_part(struct rows *rows, struct hai_err *err) {
    struct usage_progress *next = &rows->next_usage;
    int r = 0;

    for (int n = 0; r == 0 && n < ROWS_USAGE_MAX && next->usage < rows->usage.n; n++)
        r = write_usage(rows->db, &rows->usage.items[next->usage++], err);
    if (r < 0 || next->usage < rows->usage.n || next->days == rows->days.n)
        return r;
    const struct ledger_day *day = &rows->days.items[next->days];
    r = daysum_step(rows->daysum, rows->db, day->day, ROWS_USAGE_MAX, err);
    if (r <= 0)
        return r;
    next->days++;
    return write_day(rows->db, day, err);
}

int rows_write(struct rows *rows, struct hai_err *err) {
    int r = 0;

    WRITE_ALL(rows->jobs, write_job);
    WRITE_ALL(rows->events, write_event);
    WRITE_ALL(rows->places, write_place);
    WRITE_ALL(rows->tails, write_tail);
    WRITE_ALL(rows->audits, write_audit);
    if (r == 0 && !rows->n_holds)
        r = write_usage_part(rows, err);
    return r;
}

/* Would nothing be left once the transaction is committed? */
static bool is_whole(const struct rows *rows) {
    return rows->next_usage.usage == rows->usage.n && rows->next_usage.days == rows->days.n;
}

int64_t rows_index(const struct rows *rows) {
    return is_whole(rows) ? rows->applied : rows->written;
}

void rows_written(struct rows *rows, bool committed) {
    if (!committed) { // kept for the next transaction
        rows->next_usage = rows->written_usage;
        daysum_again(rows->daysum);
        return;
    }
    rows->jobs.n = rows->events.n = rows->places.n = rows->tails.n = rows->audits.n = 0;
    rows->written_usage = rows->next_usage;
    if (!is_whole(rows))
        return;
    rows->written = rows->applied;
    rows->usage.n = rows->days.n = 0;
    rows->written_usage = rows->next_usage = (struct usage_progress){0};
    arena_clear(&rows->texts);
}

static size_t usage_outstanding(const struct rows *rows) {
    return rows->usage.n - rows->written_usage.usage + rows->days.n - rows->written_usage.days;
}

static size_t others_outstanding(const struct rows *rows) {
    return rows->jobs.n + rows->events.n + rows->places.n + rows->tails.n + rows->audits.n;
}

size_t rows_outstanding(const struct rows *rows) {
    return others_outstanding(rows) + usage_outstanding(rows);
}

bool rows_due(const struct rows *rows) {
    bool parts = !rows->n_holds && rows->written_usage.usage; // of a day that is being written
    size_t n = others_outstanding(rows) + (rows->n_holds ? 0 : usage_outstanding(rows));

    return rows->tails.n || rows->audits.n || parts || n >= ROWS_WAIT_MAX;
}

void rows_hold(struct rows *rows, bool hold) {
    rows->n_holds += hold ? 1 : -1;
    assert(rows->n_holds >= 0);
}

static int write_some(struct rows *rows, struct hai_err *err) {
    int r = db_begin(rows->db, err);

    if (r == 0) {
        r = rows_write(rows, err);
        if (r == 0)
            r = db_meta_set(rows->db, "applied_index", rows_index(rows), err);
        if (r < 0)
            db_rollback(rows->db);
        else
            r = db_commit(rows->db, err);
    }
    rows_written(rows, r == 0);
    return r;
}

int rows_flush_some(struct rows *rows, struct hai_err *err) {
    if (!rows_outstanding(rows) && rows->applied == rows->written)
        return 0;
    if (!others_outstanding(rows) && usage_outstanding(rows) && rows->n_holds)
        return 0; // nothing that may be written
    int r = write_some(rows, err);
    return r < 0 ? r : usage_outstanding(rows) > 0 && !rows->n_holds;
}

int rows_flush(struct rows *rows, struct hai_err *err) {
    int r;

    assert(!rows->n_holds);
    while ((r = rows_flush_some(rows, err)) > 0)
        continue;
    return r;
}

void rows_set_applied(struct rows *rows, int64_t index) {
    assert(index >= rows->applied);
    rows->applied = index;
}

int64_t rows_written_index(const struct rows *rows) {
    return rows->written;
}

void rows_outstanding_events(const struct rows *rows, int64_t job, int64_t since,
                             void (*fn)(void *data, const struct rows_event *event), void *data) {
    for (size_t i = 0; i < rows->events.n; i++) {
        const struct rows_event *event = &rows->events.items[i];
        if (event->index > since && (!job || event->job == job))
            fn(data, event);
    }
}

const struct rows_job *rows_outstanding_job(const struct rows *rows, int64_t id) {
    for (size_t i = rows->jobs.n; i-- > 0;)
        if (rows->jobs.items[i].id == id)
            return &rows->jobs.items[i];
    return NULL;
}

void rows_outstanding_usage(const struct rows *rows, int64_t first, int64_t last,
                            void (*on_usage)(void *data, const struct usage_row *usage),
                            void (*on_day)(void *data, const struct ledger_day *day), void *data) {
    for (size_t i = rows->written_usage.usage; i < rows->usage.n; i++)
        if (rows->usage.items[i].day >= first && rows->usage.items[i].day <= last)
            on_usage(data, &rows->usage.items[i]);
    for (size_t i = rows->written_usage.days; i < rows->days.n; i++)
        if (rows->days.items[i].day >= first && rows->days.items[i].day <= last)
            on_day(data, &rows->days.items[i]);
}

static int expire(struct db *db, const char *sql, int64_t before_us, int64_t n_max,
                  struct hai_err *err) {
    sqlite3_stmt *s;
    int r = db_sql(db, sql, &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, before_us);
    db_int(s, 2, n_max);
    r = db_run(db, s, err);
    return r < 0 ? r : sqlite3_changes(db_sqlite(db));
}

int rows_expire(struct rows *rows, int64_t before_us, int64_t tails_before_us, int64_t n_max,
                struct hai_err *err) {
    /* Each step looks at the oldest rows only: nothing here reads a whole table. */
    static const struct {
        const char *sql;
        bool tails;
    } steps[] = {
        {"DELETE FROM place WHERE job IN (SELECT id FROM job WHERE ended_us < ? LIMIT ?)",     false},
        {"DELETE FROM job WHERE id IN (SELECT id FROM job WHERE ended_us < ? LIMIT ?)",        false},
        {"DELETE FROM event WHERE time_us < ?1 AND idx IN (SELECT idx FROM event"
         " ORDER BY idx, n LIMIT ?2)",                                                false},
        {"DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE time_us < ? LIMIT ?)",   false},
 /* Of a day that is over: whole days only, so that a day is there with all its rows or has
  * begun to go. */
        {"DELETE FROM usage WHERE (day, job, attempt) IN (SELECT day, job, attempt FROM usage"
         " WHERE day < ?1 / 86400000000 - 1 ORDER BY day, job, attempt LIMIT ?2)",    false},
        {"DELETE FROM usage_sum WHERE (day, user, team, grp, stage) IN"
         " (SELECT day, user, team, grp, stage FROM usage_sum WHERE day < ?1 / 86400000000 - 1"
         " ORDER BY day, user, team, grp, stage LIMIT ?2)",                           false},
        {"DELETE FROM ledger WHERE (day, class) IN (SELECT day, class FROM ledger"
         " WHERE day < ?1 / 86400000000 - 1 ORDER BY day, class LIMIT ?2)",           false},
        {"DELETE FROM tail WHERE rowid IN (SELECT rowid FROM tail WHERE time_us < ? LIMIT ?)",
         true                                                                                       },
    };
    int total = 0;

    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        int r = expire(rows->db, steps[i].sql, steps[i].tails ? tails_before_us : before_us, n_max,
                       err);
        if (r < 0)
            return r;
        total += r;
    }
    return total;
}

/* What the newest entry says, and what a flush behind it says: the later one counts. */
static int read_applied(struct db *db, int64_t *ret, struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *s = NULL;
    int r = db_meta_get(db, "applied_index", 0, ret, err);

    if (r == 0)
        r = db_sql(db, "SELECT projected FROM log ORDER BY idx DESC LIMIT 1", &s, err);
    if (r == 0)
        r = db_step(db, s, err);
    if (r > 0)
        *ret = MAX(*ret, sqlite3_column_int64(s, 0));
    return MIN(r, 0);
}

int rows_new(struct store *store, struct rows **ret, struct hai_err *err) {
    int64_t applied;
    int r = read_applied(store_db(store), &applied, err);

    if (r < 0)
        return r;
    struct rows *rows = hai_new(struct rows);
    rows->db = store_db(store);
    rows->daysum = daysum_new();
    rows->applied = rows->written = applied;
    *ret = rows;
    return 0;
}

void rows_free(struct rows *rows) {
    if (!rows)
        return;
    arena_free(&rows->texts);
    free(rows->jobs.items);
    free(rows->events.items);
    free(rows->places.items);
    free(rows->tails.items);
    free(rows->audits.items);
    free(rows->usage.items);
    free(rows->days.items);
    daysum_free(rows->daysum);
    free(rows);
}
