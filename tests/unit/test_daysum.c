/* A day ends: rows of all attempts and their sums are written in parts, and nothing is lost or
 * counted twice wherever that is cut off. */
#include "lib/fileio.h"
#include "scheduler/store/query.h"
#include "tests/unit/power_vfs.h"
#include "tests/unit/test.h"
#include <stdio.h>

enum {
    ATTEMPTS = 10 * 1000,
    USERS = 500,
    PART_MAX = 4096, // rows of a transaction
    TIME_US = 3,     // of the first attempt; each has one more
};

struct fixture {
    char dir[64];
    struct store *store;
    struct rows *rows;
};

static void open_rows(struct fixture *f, const char *vfs) {
    struct store_options options = {.dir = f->dir, .vfs = vfs, .create = true};
    struct hai_err err = {0};

    CHECK_EQ(store_open(&options, &f->store, &err), 0, "%s", err.text);
    CHECK_EQ(rows_new(f->store, &f->rows, &err), 0, "%s", err.text);
}

/* What was not written is lost, as with kill -9. */
static void close_rows(struct fixture *f) {
    rows_free(f->rows);
    store_close(f->store);
}

static void setup(struct fixture *f, const char *vfs) {
    strcpy(f->dir, "/tmp/hai-daysum-XXXXXX");
    CHECK(mkdtemp(f->dir) != NULL);
    open_rows(f, vfs);
}

static void teardown(struct fixture *f) {
    close_rows(f);
    CHECK_EQ(fileio_remove_tree(f->dir, NULL), 0);
}

static void add_attempt(struct fixture *f, int64_t day, int64_t job) {
    char user[32];

    (void)snprintf(user, sizeof user, "user-%d", (int)(job % USERS));
    rows_add_usage(f->rows, &(struct usage_row){.day = day,
                                                .job = job,
                                                .attempt = 1,
                                                .user = user,
                                                .group = (char *)"default",
                                                .gpu_us = {[LEDGER_PRODUCTIVE] = TIME_US + job}});
}

/* What the entry adds in whose time two days are over. */
static void add_days(struct fixture *f) {
    for (int64_t day = 100; day < 102; day++) {
        struct ledger_day row = {.day = day, .capacity_us = 1};
        for (int64_t job = 0; job < ATTEMPTS; job++)
            add_attempt(f, day, job);
        rows_add_day(f->rows, &row);
    }
    rows_set_applied(f->rows, 7);
}

struct seen {
    int64_t sum_us, n;
};

static void see_sum(void *data, const struct usage_row *sum, const char *key) {
    struct seen *seen = data;

    (void)key;
    seen->sum_us += sum->gpu_us[LEDGER_PRODUCTIVE];
    seen->n++;
}

static void see_row(void *data, const struct usage_row *row) {
    see_sum(data, row, NULL);
}

static void see_day(void *data, const struct ledger_day *day) {
    (void)data;
    (void)day;
}

static void see_class(void *data, int64_t day, const char *class, int64_t gpu_us) {
    *(int64_t *)data += !strcmp(class, "capacity") ? gpu_us : 0;
    (void)day;
}

/* The GPU time there is, in the tables and in memory: at every moment all of it. */
static void check_all(struct fixture *f, enum query_by by) {
    int64_t all_us = 2 * ((int64_t)ATTEMPTS * TIME_US + (int64_t)ATTEMPTS * (ATTEMPTS - 1) / 2);
    struct query_usage query = {.first = 100, .last = 101, .by = by};
    struct hai_err err = {0};
    struct seen seen = {0};

    CHECK(query_usage(f->store, &query, see_sum, &seen, &err) >= 0, "%s", err.text);
    rows_outstanding_usage(f->rows, 100, 101, see_row, see_day, &seen);
    CHECK_EQ(seen.sum_us, all_us);
}

/* All is in the tables, as if it had been written at once. */
static void check_written(struct fixture *f) {
    struct query_usage query = {.first = 100, .last = 101, .by = QUERY_BY_USER};
    struct hai_err err = {0};
    struct seen seen = {0};
    int64_t capacity_us = 0;

    CHECK_EQ(rows_outstanding(f->rows), 0);
    CHECK_EQ(rows_written_index(f->rows), 7);
    check_all(f, QUERY_BY_USER);
    check_all(f, QUERY_BY_JOB);
    CHECK(query_usage(f->store, &query, see_sum, &seen, &err) >= 0, "%s", err.text);
    CHECK_EQ(seen.n, 2 * USERS);
    CHECK(query_ledger(f->store, 100, 101, see_class, &capacity_us, &err) >= 0);
    CHECK_EQ(capacity_us, 2);
}

TEST(a_transaction_writes_a_part_of_a_day)
{
    struct hai_err err = {0};
    struct fixture f;
    int n_parts = 0, r = 1;

    setup(&f, NULL);
    add_days(&f);
    while (r > 0 && n_parts < 100) {
        size_t before = rows_outstanding(f.rows);
        CHECK(rows_due(f.rows), "the log's transactions go on with it");
        r = rows_flush_some(f.rows, &err);
        CHECK(r >= 0, "%s", err.text);
        CHECK(before - rows_outstanding(f.rows) <= PART_MAX + 1);
        CHECK_EQ(rows_written_index(f.rows), r ? 0 : 7, "behind the entry until all is written");
        CHECK_EQ(rows_index(f.rows), rows_written_index(f.rows));
        check_all(&f, QUERY_BY_USER);
        check_all(&f, QUERY_BY_JOB);
        n_parts++;
    }
    CHECK(n_parts > 2 * 2 * ATTEMPTS / PART_MAX && n_parts < 100, "%d parts", n_parts);
    check_written(&f);
    teardown(&f);
}

TEST(cut_off_anywhere_nothing_is_lost_or_counted_twice)
{
    for (int cut = 1; cut < 14; cut += 2) {
        struct hai_err err = {0};
        struct fixture f;
        setup(&f, NULL);
        add_days(&f);
        for (int i = 0; i < cut; i++)
            CHECK(rows_flush_some(f.rows, &err) >= 0, "%s", err.text);
        bool whole = rows_written_index(f.rows) == 7;
        close_rows(&f);
        open_rows(&f, NULL);
        CHECK_EQ(rows_written_index(f.rows), whole ? 7 : 0);
        if (!whole)
            add_days(
                &f); // the entry is projected again, and written before anybody asks: turn_open
        CHECK_EQ(rows_flush(f.rows, &err), 0, "%s", err.text);
        check_written(&f);
        teardown(&f);
    }
}

TEST(a_part_that_is_not_committed_is_written_again)
{
    struct hai_err err = {0};
    struct fixture f;
    int n_failed = 0;

    power_vfs_register(false);
    setup(&f, "power");
    add_days(&f);
    for (int i = 0, r = 1; i < 100 && r; i++) {
        power_vfs_fail_syncs(i % 6 == 5); // a day is added up by four in a row
        r = rows_flush_some(f.rows, &err);
        n_failed += r < 0;
        power_vfs_fail_syncs(0);
        check_all(&f, QUERY_BY_USER);
    }
    CHECK(n_failed >= 2, "%d", n_failed);
    CHECK_EQ(rows_flush(f.rows, &err), 0, "%s", err.text);
    check_written(&f);
    teardown(&f);
}

TEST(held_rows_wait_and_others_do_not)
{
    struct hai_err err = {0};
    struct fixture f;

    setup(&f, NULL);
    add_days(&f);
    CHECK(rows_flush_some(f.rows, &err) > 0);
    size_t n = rows_outstanding(f.rows);
    rows_hold(f.rows, true);
    rows_hold(f.rows, true);
    CHECK_EQ(rows_flush_some(f.rows, &err), 0);
    rows_add_place(f.rows, &(struct rows_place){7, 1, 0, "a1"});
    CHECK_EQ(rows_flush_some(f.rows, &err), 0);
    CHECK_EQ(rows_outstanding(f.rows), n);
    CHECK_EQ(rows_written_index(f.rows), 0);
    _cleanup_free_ char *node = NULL;
    CHECK_EQ(query_place(f.store, 7, 1, 0, &node, &err), 0, "%s", err.text);
    rows_hold(f.rows, false);
    CHECK_EQ(rows_flush_some(f.rows, &err), 0);
    rows_hold(f.rows, false);
    CHECK_EQ(rows_flush(f.rows, &err), 0, "%s", err.text);
    check_written(&f);
    teardown(&f);
}
