#include "lib/fileio.h"
#include "lib/pure/schema.h"
#include "scheduler/store/db.h"
#include "scheduler/store/log_sqlite.h"
#include "scheduler/store/migrate.h"
#include "scheduler/store/query.h"
#include "scheduler/store/snapshot.h"
#include "tests/unit/power_vfs.h"
#include "tests/unit/test.h"

#include <sys/wait.h>

struct fixture {
    char *dir;
    struct store *store;
    struct rows *rows;
    struct entry_log *log;
};

static int open_with(struct fixture *f, const char *vfs, bool create, struct hai_err *err) {
    struct store_options options = {.dir = f->dir, .vfs = vfs, .create = create};
    int r = store_open(&options, &f->store, err);

    if (r == 0)
        r = rows_new(f->store, &f->rows, err);
    if (r == 0)
        r = log_sqlite_new(f->store, f->rows, &f->log, err);
    return r;
}

static void close_store(struct fixture *f) {
    log_sqlite_free(f->log);
    rows_free(f->rows);
    store_close(f->store);
    f->log = NULL;
    f->rows = NULL;
    f->store = NULL;
}

static void make_dir(struct fixture *f) {
    f->dir = hai_strdup("/tmp/hai-test-store-XXXXXX");
    CHECK(mkdtemp(f->dir) != NULL);
}

static void teardown(struct fixture *f) {
    close_store(f);
    CHECK_EQ(fileio_remove_tree(f->dir, NULL), 0);
    free(f->dir);
}

static void note_result(void *data, int r, const struct hai_err *err) {
    *(int *)data = r;
}

static void fill(struct entry *entry, int64_t index, char *text) {
    *entry = (struct entry){
        .index = index,
        .term = 1,
        .time_us = 1000 + index,
        .principal = "submit:alice",
        .kind = ENTRY_TICK,
        .version = 1,
        .payload = text,
        .payload_bytes = (size_t)sprintf(text, "payload %lld", (long long)index),
    };
}

/* Append n entries as one batch. */
static int append(struct fixture *f, int n) {
    struct entry entries[16];
    char texts[16][32];
    int r = 1;

    for (int i = 0; i < n; i++)
        fill(&entries[i], entry_log_committed(f->log) + 1 + i, texts[i]);
    entry_log_append(f->log, entries, (size_t)n, note_result, &r);
    return r;
}

static int check_entry(void *data, const struct entry *entry, struct hai_err *err) {
    int64_t *next = data;
    struct entry want;
    char text[32];

    fill(&want, (*next)++, text);
    CHECK_EQ(entry->index, want.index);
    CHECK_EQ(entry->time_us, want.time_us);
    CHECK_EQ(entry->kind, want.kind);
    CHECK_STR(entry->principal, want.principal);
    CHECK_EQ(entry->payload_bytes, want.payload_bytes);
    CHECK(memcmp(entry->payload, want.payload, want.payload_bytes) == 0);
    return 0;
}

static void check_log(struct fixture *f, int64_t from, int64_t to) {
    int64_t next = from;

    CHECK_EQ(entry_log_read(f->log, from, check_entry, &next, NULL), 0);
    CHECK_EQ(next, to + 1);
}

static void add_event(struct fixture *f, int64_t index) {
    rows_add_event(f->rows, &(struct rows_event){.index = index,
                                                 .time_us = 5 * index,
                                                 .kind = "submitted",
                                                 .job = index % 2 + 1,
                                                 .attempt = S_ABSENT,
                                                 .rank = S_ABSENT,
                                                 .principal = "submit:alice",
                                                 .message = "m"});
    rows_set_applied(f->rows, index);
}

TEST(log_is_kept)
{
    struct fixture f = {0};
    struct hai_err err = {0};
    char id[STORE_ID_BYTES];

    make_dir(&f);
    CHECK_EQ(open_with(&f, NULL, false, &err), -ENOENT);
    CHECK_EQ(open_with(&f, NULL, true, &err), 0, "%s", err.text);
    strcpy(id, store_id(f.store));
    CHECK_EQ(strlen(id), STORE_ID_BYTES - 1);
    CHECK_EQ(entry_log_first(f.log), 1);
    CHECK_EQ(entry_log_committed(f.log), 0);
    CHECK_EQ(append(&f, 3), 0);
    CHECK_EQ(append(&f, 1), 0);
    struct fixture second = {.dir = f.dir};
    CHECK_EQ(open_with(&second, NULL, false, &err), -EBUSY);
    CHECK(strstr(err.text, "another hai-schedd"));
    close_store(&f);
    CHECK_EQ(open_with(&f, NULL, false, &err), 0);
    CHECK_STR(store_id(f.store), id);
    CHECK_EQ(entry_log_committed(f.log), 4);
    check_log(&f, 1, 4);
    check_log(&f, 4, 4);
    check_log(&f, 5, 4);
    teardown(&f);
}

TEST(truncation_keeps_the_newest)
{
    struct fixture f = {0};
    struct hai_err err = {0};
    int64_t next = 1;

    make_dir(&f);
    CHECK_EQ(open_with(&f, NULL, true, NULL), 0);
    CHECK_EQ(append(&f, 10), 0);
    CHECK_EQ(entry_log_truncate_before(f.log, 5, 2, NULL), 2);
    CHECK_EQ(entry_log_first(f.log), 3);
    CHECK_EQ(entry_log_truncate_before(f.log, 5, 100, NULL), 2);
    CHECK_EQ(entry_log_truncate_before(f.log, 5, 100, NULL), 0);
    CHECK_EQ(entry_log_read(f.log, 4, check_entry, &next, &err), -ENODATA);
    check_log(&f, 5, 10);
    CHECK_EQ(entry_log_truncate_before(f.log, 1000, 100, NULL), 5);
    close_store(&f);
    CHECK_EQ(open_with(&f, NULL, false, NULL), 0);
    CHECK_EQ(entry_log_first(f.log), 10);
    CHECK_EQ(entry_log_committed(f.log), 10);
    CHECK_EQ(append(&f, 1), 0);
    check_log(&f, 10, 11);
    teardown(&f);
}

static void add_audit(struct fixture *f) {
    rows_add_audit(f->rows, &(struct rows_audit){.time_us = 1,
                                                 .principal = "",
                                                 .method = "GET",
                                                 .path = "/api/v1/jobs",
                                                 .status = 401,
                                                 .detail = "no token"});
}

static void count_event(void *data, const struct rows_event *event) {
    int64_t *sum = data;

    sum[0]++;
    sum[1] = event->index;
}

TEST(rows_follow_a_batch_later)
{
    struct fixture f = {0};
    int64_t seen[2] = {0};

    make_dir(&f);
    CHECK_EQ(open_with(&f, NULL, true, NULL), 0);
    CHECK_EQ(append(&f, 1), 0);
    add_event(&f, 1);
    CHECK_EQ(rows_outstanding(f.rows), 1);
    CHECK_EQ(query_events(f.store, 0, 0, 10, count_event, seen, NULL), 0);
    rows_outstanding_events(f.rows, 0, 0, count_event, seen);
    CHECK_EQ(seen[0], 1);
    CHECK_EQ(append(&f, 1), 0);
    CHECK_EQ(rows_written_index(f.rows), 0, "one row waits for company");
    add_audit(&f);
    CHECK_EQ(append(&f, 1), 0);
    CHECK_EQ(rows_written_index(f.rows), 1, "a row that nothing else keeps waits for nobody");
    CHECK_EQ(rows_outstanding(f.rows), 0);
    CHECK_EQ(query_events(f.store, 2, 0, 10, count_event, seen, NULL), 1);
    CHECK_EQ(query_events(f.store, 1, 0, 10, count_event, seen, NULL), 0);
    add_event(&f, 3);
    close_store(&f); // as a crash would: the row of entry 3 is not written
    CHECK_EQ(open_with(&f, NULL, false, NULL), 0);
    CHECK_EQ(rows_written_index(f.rows), 1);
    add_event(&f, 3);
    CHECK_EQ(rows_flush(f.rows, NULL), 0);
    CHECK_EQ(rows_written_index(f.rows), 3);
    CHECK_EQ(query_events(f.store, 0, 1, 10, count_event, seen, NULL), 1);
    CHECK_EQ(seen[1], 3);
    CHECK_EQ(query_events_newest(f.store, 0, 1, count_event, seen, NULL), 1);
    CHECK_EQ(seen[1], 3);
    teardown(&f);
}

TEST(rows_wait_for_company_not_for_ever)
{
    struct fixture f = {0};

    make_dir(&f);
    CHECK_EQ(open_with(&f, NULL, true, NULL), 0);
    for (int64_t i = 1; i <= 64; i++) {
        CHECK_EQ(append(&f, 1), 0);
        CHECK_EQ(rows_written_index(f.rows), 0);
        add_event(&f, i);
    }
    CHECK_EQ(append(&f, 1), 0);
    CHECK_EQ(rows_written_index(f.rows), 64);
    CHECK_EQ(rows_outstanding(f.rows), 0);
    teardown(&f);
}

static void take_job(void *data, const struct rows_job *job) {
    int64_t *ids = data;

    ids[++ids[0]] = job->id;
}

TEST(jobs_and_tails_are_found)
{
    struct fixture f = {0};
    int64_t ids[8] = {0};
    struct query_tail tail = {0};

    make_dir(&f);
    CHECK_EQ(open_with(&f, NULL, true, NULL), 0);
    for (int64_t id = 1; id <= 4; id++)
        rows_add_job(f.rows, &(struct rows_job){.id = id,
                                                .user = id == 3 ? "bob" : "alice",
                                                .name = id == 4 ? "other" : "train",
                                                .state = (int)(id % 2),
                                                .submitted_us = id,
                                                .ended_us = 10 * id,
                                                .index = id,
                                                .record = "rec",
                                                .record_bytes = 3});
    for (int64_t a = 1; a <= 2; a++)
        rows_add_tail(f.rows, &(struct rows_tail){.job = 2,
                                                  .attempt = a,
                                                  .rank = 1,
                                                  .time_us = 10 * a,
                                                  .total = 5,
                                                  .data = a == 1 ? "one" : "two",
                                                  .n_bytes = 3});
    CHECK(rows_outstanding_job(f.rows, 3) && !strcmp(rows_outstanding_job(f.rows, 3)->user, "bob"));
    CHECK_EQ(rows_flush(f.rows, NULL), 0);
    CHECK(!rows_outstanding_job(f.rows, 3));
    struct query_jobs query = {.user = "alice", .name = "train", .limit = 1};
    CHECK_EQ(query_jobs(f.store, &query, take_job, ids, NULL), 1);
    CHECK_EQ(ids[1], 2);
    query = (struct query_jobs){.user = "alice", .below = 4, .limit = 10};
    CHECK_EQ(query_jobs(f.store, &query, take_job, (ids[0] = 0, ids), NULL), 2);
    CHECK_EQ(ids[1] * 10 + ids[2], 21);
    query = (struct query_jobs){.since_us = 20, .below = 4, .limit = 10};
    CHECK_EQ(query_jobs(f.store, &query, take_job, (ids[0] = 0, ids), NULL), 2);
    CHECK_EQ(ids[1] * 10 + ids[2], 32);
    query = (struct query_jobs){.states = 1 << 1, .limit = 10};
    CHECK_EQ(query_jobs(f.store, &query, take_job, (ids[0] = 0, ids), NULL), 2);
    CHECK_EQ(ids[1] * 10 + ids[2], 31);
    query.states |= 1 << 0;
    CHECK_EQ(query_jobs(f.store, &query, take_job, (ids[0] = 0, ids), NULL), 4);
    CHECK_EQ(query_tail(f.store, 2, 0, 1, &tail, NULL), 0);
    CHECK_EQ(tail.attempt, 2);
    CHECK_EQ(tail.total, 5);
    CHECK_EQ(query_tail(f.store, 2, 1, 1, &tail, NULL), 0);
    CHECK_STR(buf_cstr(&tail.data), "twoone");
    CHECK_EQ(query_tail(f.store, 2, 0, 2, &tail, NULL), -ENOENT);
    CHECK_EQ(rows_expire(f.rows, 30, 15, 100, NULL), 3); // jobs 1, 2, one tail
    CHECK_EQ(rows_expire(f.rows, 30, 15, 100, NULL), 0);
    CHECK_EQ(query_job(f.store, 3, take_job, (ids[0] = 0, ids), NULL), 1);
    CHECK_EQ(query_job(f.store, 2, take_job, ids, NULL), 0);
    rows_add_place(f.rows, &(struct rows_place){7, 2, 1, "a2"});
    CHECK_EQ(rows_flush(f.rows, NULL), 0);
    _cleanup_free_ char *node = NULL;
    CHECK_EQ(query_place(f.store, 7, 2, 1, &node, NULL), 0);
    CHECK_STR(node, "a2");
    CHECK_EQ(query_place(f.store, 7, 1, 1, &node, NULL), -ENOENT);
    buf_free(&tail.data);
    teardown(&f);
}

TEST(failed_commit_leaves_nothing)
{
    struct fixture f = {0};

    power_vfs_register(false);
    make_dir(&f);
    CHECK_EQ(open_with(&f, "power", true, NULL), 0);
    CHECK_EQ(append(&f, 2), 0);
    add_event(&f, 2);
    add_audit(&f);
    power_vfs_fail_syncs(1);
    CHECK(append(&f, 2) < 0);
    CHECK_EQ(entry_log_committed(f.log), 2);
    CHECK_EQ(rows_written_index(f.rows), 0);
    CHECK_EQ(rows_outstanding(f.rows), 2, "kept for the next transaction");
    check_log(&f, 1, 2);
    /* While nothing can be written agents and strangers go on asking: what is kept is bounded. */
    for (int i = 0; i < 100 * 1000 + 5; i++) {
        if (i < 3)
            rows_add_tail(f.rows,
                          &(struct rows_tail){
                              .job = 1, .attempt = 1, .total = 4, .data = "tail", .n_bytes = 4});
        rows_add_audit(
            f.rows,
            &(struct rows_audit){
                .principal = "", .method = "GET", .path = "/", .status = 401, .detail = ""});
    }
    CHECK_EQ(rows_outstanding(f.rows), 1 + 1 + 100 * 1000);
    CHECK_EQ(append(&f, 3), 0);
    CHECK_EQ(rows_outstanding(f.rows), 0);
    CHECK_EQ(rows_written_index(f.rows), 2);
    check_log(&f, 1, 5);
    teardown(&f);
}

enum { V = STORE_SCHEMA_VERSION };

static const struct migrate_step steps[] = {
    {V,     "SELECT nonsense"               },
    {V + 1, "CREATE TABLE added (x INTEGER)"},
    {V + 2, "INSERT INTO added VALUES (7)"  },
    {V + 3, "SELECT nonsense FROM nowhere"  },
};

static void check_says(const struct hai_err *err, const char *what, int version) {
    char text[64];

    (void)snprintf(text, sizeof text, "%s %d", what, version);
    CHECK(strstr(err->text, text) != NULL, "%s: %s", text, err->text);
}

TEST(migration)
{
    struct fixture f = {0};
    struct hai_err err = {0};
    int64_t version;

    make_dir(&f);
    CHECK_EQ(open_with(&f, NULL, true, NULL), 0);
    _cleanup_free_ char *backup = hai_asprintf("%s/schedd.db.v%d", f.dir, V);
    CHECK_EQ(migrate_run(store_db(f.store), V + 3, steps, ARRAY_SIZE(steps), false, &err), -EIO);
    check_says(&err, "schema version", V + 3);
    CHECK_EQ(db_meta_get(store_db(f.store), "schema_version", 0, &version, NULL), 0);
    CHECK_EQ(version, V, "all steps or none");
    CHECK_EQ(migrate_run(store_db(f.store), V + 2, steps, ARRAY_SIZE(steps), false, &err), 0);
    CHECK_EQ(access(backup, F_OK), 0);
    CHECK_EQ(db_exec(store_db(f.store), "UPDATE added SET x = 8 WHERE x = 7", NULL), 0);
    close_store(&f);
    CHECK_EQ(open_with(&f, NULL, false, &err), -EPROTO, "a newer store is refused by name");
    check_says(&err, "schema version", V + 2);
    check_says(&err, "knows", V);
    teardown(&f);
}

/* Texts of all that a store is made of, in one order. */
static void describe_tables(struct fixture *f, struct buf *ret) {
    sqlite3_stmt *statement;

    CHECK_EQ(
        db_sql(store_db(f->store), "SELECT sql FROM sqlite_master ORDER BY name", &statement, NULL),
        0);
    while (db_step(store_db(f->store), statement, NULL) > 0)
        buf_printf(ret, "%s;", (const char *)sqlite3_column_text(statement, 0));
    db_done(statement);
}

TEST(a_store_of_the_first_release_becomes_one_of_this)
{
    struct fixture f = {0};
    _cleanup_(buf_free) struct buf made = {0};
    _cleanup_(buf_free) struct buf migrated = {0};

    make_dir(&f);
    CHECK_EQ(open_with(&f, NULL, true, NULL), 0);
    describe_tables(&f, &made);
    CHECK_EQ(db_exec(store_db(f.store),
                     "DROP INDEX job_by_owner; DROP INDEX job_by_state; "
                     "DROP TABLE usage; DROP TABLE usage_sum; DROP TABLE ledger",
                     NULL),
             0);
    CHECK_EQ(db_meta_set(store_db(f.store), "schema_version", 1, NULL), 0);
    close_store(&f);
    CHECK_EQ(open_with(&f, NULL, false, NULL), 0);
    describe_tables(&f, &migrated);
    CHECK_STR(buf_cstr(&migrated), buf_cstr(&made));
    teardown(&f);
}

static void encode_text(const void *state, struct buf *ret) {
    buf_add_str(ret, state);
}

TEST(snapshots)
{
    struct fixture f = {0};
    struct hai_err err = {0};
    _cleanup_free_ int64_t *list = NULL;
    _cleanup_(buf_free) struct buf got = {0};
    int status;

    make_dir(&f);
    CHECK_EQ(open_with(&f, NULL, true, NULL), 0);
    CHECK_EQ(snapshot_prune(f.store, NULL), 0);
    CHECK_EQ(snapshot_write(f.store, 9, "nine", 4, NULL), 0);
    CHECK_EQ(snapshot_prune(f.store, NULL), 0, "one alone lets no entry go");
    CHECK_EQ(snapshot_write(f.store, 15, "large", (size_t)1 << 30, &err), -EFBIG);
    CHECK_EQ(snapshot_prune(f.store, NULL), 0, "nor does one that could not be read");
    CHECK_EQ(snapshot_write(f.store, 20, "twenty", 6, NULL), 0);
    pid_t pid = snapshot_start(f.store, 100, encode_text, "hundred");
    CHECK(pid > 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK_EQ(snapshot_prune(f.store, NULL), 20);
    CHECK_EQ(snapshot_list(f.store, &list, NULL), 2);
    CHECK_EQ(list[0], 100);
    CHECK_EQ(snapshot_read(f.store, 100, &got, NULL), 0);
    CHECK_STR(buf_cstr(&got), "hundred");
    _cleanup_free_ char *path = hai_asprintf("%s/snapshots/100.snap", f.dir);
    CHECK_EQ(truncate(path, 100), 0);
    CHECK_EQ(snapshot_read(f.store, 100, &got, &err), -EBADMSG);
    CHECK_EQ(snapshot_read(f.store, 9, &got, &err), -ENOENT);
    teardown(&f);
}

/* Append batches and rows until the power goes; returns the newest acknowledged entry. */
static int64_t run_until_loss(struct fixture *f) {
    int64_t acknowledged = 0;

    if (open_with(f, "power", true, NULL) < 0)
        return 0;
    /* Small, so that pages move from the WAL into the database within the test. */
    db_exec(store_db(f->store), "PRAGMA wal_autocheckpoint = 4", NULL);
    for (int i = 0; i < 12 && !power_vfs_failed(); i++) {
        if (append(f, i % 3 + 1) == 0)
            acknowledged = entry_log_committed(f->log);
        else
            CHECK(power_vfs_failed());
        add_event(f, entry_log_committed(f->log));
    }
    return acknowledged;
}

TEST(power_loss_at_every_write_point)
{
    int64_t n_points = 1;

    power_vfs_register(false);
    for (int64_t point = 1; point <= n_points; point++) {
        for (int loss = 0; loss < POWER_LOSS_COUNT; loss++) {
            struct fixture f = {0};
            struct hai_err err = {0};

            make_dir(&f);
            power_vfs_fail_at(point, (enum power_loss)loss, (uint64_t)point * 7919);
            int64_t acknowledged = run_until_loss(&f);
            close_store(&f);
            if (power_vfs_points() >= n_points && !test_failed())
                n_points = power_vfs_failed() ? point + 1 : point;
            power_vfs_restore();
            CHECK_EQ(open_with(&f, NULL, true, &err), 0, "point %d loss %d: %s", (int)point, loss,
                     err.text);
            if (f.log) {
                int64_t there = entry_log_committed(f.log);
                CHECK(there >= acknowledged, "point %d loss %d: %d of %d", (int)point, loss,
                      (int)there, (int)acknowledged);
                CHECK(rows_written_index(f.rows) <= there);
                check_log(&f, 1, there);
                CHECK_EQ(append(&f, 1), 0);
            }
            teardown(&f);
            if (test_failed())
                return;
        }
    }
    CHECK(n_points > 100, "%d write points", (int)n_points);
}
