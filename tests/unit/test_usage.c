#include "lib/fileio.h"
#include "lib/json_schema.h"
#include "lib/pure/tlv.h"
#include "scheduler/core/ledger.h"
#include "scheduler/usage.h"
#include "tests/unit/test.h"
#include <math.h>

#define DAY_US LEDGER_DAY_US
#define H INT64_C(3600000000)

/* A scheduler's store with rows of days long past, and a state in which nothing runs. */
struct fixture {
    char dir[64];
    struct schedd s;
    int64_t today;
};

static void setup(struct fixture *f) {
    struct store_options options = {.dir = f->dir, .create = true};
    struct turn_hooks hooks = {0};
    struct hai_err err = {0};

    *f = (struct fixture){0};
    strcpy(f->dir, "/tmp/hai-usage-XXXXXX");
    CHECK(mkdtemp(f->dir) != NULL);
    schema_init(cluster_file_schema(), &f->s.cluster);
    CHECK_EQ(store_open(&options, &f->s.store, &err), 0, "%s", err.text);
    CHECK_EQ(turn_open(f->s.store, &hooks, &f->s.turn, &err), 0, "%s", err.text);
    f->today = turn_now_us(f->s.turn) / DAY_US;
}

static void teardown(struct fixture *f) {
    turn_close(f->s.turn);
    store_close(f->s.store);
    schema_free(cluster_file_schema(), &f->s.cluster);
    CHECK_EQ(fileio_remove_tree(f->dir, NULL), 0);
}

static void add_row(struct fixture *f, int64_t day, int64_t job, const char *user,
                    const char *group, const char *stage, int64_t productive_us,
                    int64_t recomputed_us) {
    rows_add_usage(
        turn_rows(f->s.turn),
        &(struct usage_row){
            .day = day,
            .job = job,
            .attempt = 1,
            .user = (char *)user,
            .team = (char *)"nlp",
            .group = (char *)group,
            .stage = (char *)stage,
            .gpu_us = {[LEDGER_PRODUCTIVE] = productive_us, [LEDGER_RECOMPUTED] = recomputed_us},
    });
}

/* A day on which jobs had so much and the rest was idle. */
static void add_day(struct fixture *f, int64_t day, int64_t productive_us, int64_t recomputed_us) {
    struct ledger_day row = {.day = day, .capacity_us = 100 * H};

    row.gpu_us[LEDGER_PRODUCTIVE] = productive_us;
    row.gpu_us[LEDGER_RECOMPUTED] = recomputed_us;
    row.gpu_us[LEDGER_IDLE] = 100 * H - productive_us - recomputed_us;
    rows_add_day(turn_rows(f->s.turn), &row);
}

/* As the daemon and its child do it: the task goes from one to the other as JSON. */
static struct usage collect(struct fixture *f, enum query_by by, int64_t ago, const char *user,
                            const char *group) {
    struct query_usage query = {f->today - ago, f->today, user, group, by};
    _cleanup_(buf_free) struct buf text = {0};
    struct usage_task task;
    struct hai_err err = {0};
    struct usage usage = {0};

    usage_gather(&f->s, &query, turn_now_us(f->s.turn), &task);
    json_schema_dump(usage_task_schema(), &task, &text);
    schema_free(usage_task_schema(), &task);
    CHECK_EQ(json_schema_parse(usage_task_schema(), text.data, text.n_bytes, 0, &task, &err), 0,
             "%s", err.text);
    CHECK_EQ(usage_collect(f->s.store, &task, &usage, &err), 0, "%s", err.text);
    schema_free(usage_task_schema(), &task);
    return usage;
}

static void check_sum(const struct usage *usage, size_t at, const char *key, int64_t all_us,
                      double cost) {
    CHECK(at < usage->n_sums, "%s", key);
    if (at >= usage->n_sums)
        return;
    CHECK_STR(usage->sums[at].key, key);
    CHECK_EQ(usage->sums[at].all_us, all_us, "%s", key);
    CHECK(isnan(cost) ? isnan(usage->sums[at].cost) : fabs(usage->sums[at].cost - cost) < 1e-6,
          "%s: %g, not %g", key, usage->sums[at].cost, cost);
}

static void fill(struct fixture *f) {
    add_row(f, f->today - 2, 1, "alice", "default", "pretrain", 5 * H, 1 * H);
    add_row(f, f->today - 2, 2, "bob", "a100", NULL, 3 * H, 0);
    add_day(f, f->today - 2, 8 * H, 1 * H);
    add_row(f, f->today - 1, 1, "alice", "default", "pretrain", 2 * H, 0);
    add_row(f, f->today - 1, 3, "alice", "a100", "sft", 4 * H, 0);
    add_day(f, f->today - 1, 6 * H, 0);
}

static void check_all(struct fixture *f) {
    struct usage usage = collect(f, QUERY_BY_STAGE, 7, NULL, NULL);

    CHECK_EQ(usage.n_sums, 3);
    check_sum(&usage, 0, "pretrain", 8 * H, 16);
    check_sum(&usage, 1, "sft", 4 * H, 40);
    check_sum(&usage, 2, "", 3 * H, 30);
    CHECK_EQ(usage.total.all_us, 15 * H);
    CHECK_EQ(usage.total.gpu_us[LEDGER_RECOMPUTED], 1 * H);
    CHECK_EQ(usage.cluster.capacity_us, 200 * H);
    CHECK_EQ(usage.cluster.of_jobs_us, 15 * H);
    CHECK_EQ(usage.cluster.gpu_us[LEDGER_IDLE], 185 * H);
    CHECK(usage.cluster.agrees);
    usage_free(&usage);
    usage = collect(f, QUERY_BY_DAY, 7, NULL, NULL);
    CHECK_EQ(usage.n_sums, 2);
    CHECK(strcmp(usage.sums[0].key, usage.sums[1].key) < 0, "days in order");
    CHECK_EQ(usage.sums[1].all_us, 6 * H);
    usage_free(&usage);
    usage = collect(f, QUERY_BY_JOB, 1, NULL, NULL); // of yesterday on
    CHECK_EQ(usage.n_sums, 2);
    check_sum(&usage, 0, "3", 4 * H, 40);
    check_sum(&usage, 1, "1", 2 * H, 4);
    CHECK(usage.cluster.agrees);
    usage_free(&usage);
    usage = collect(f, QUERY_BY_GROUP, 7, "alice", NULL); // one's own
    CHECK_EQ(usage.n_sums, 2);
    check_sum(&usage, 0, "default", 8 * H, 16);
    check_sum(&usage, 1, "a100", 4 * H, 40);
    usage_free(&usage);
    usage = collect(f, QUERY_BY_USER, 7, NULL, "a100");
    CHECK_EQ(usage.n_sums, 2);
    check_sum(&usage, 0, "alice", 4 * H, 40);
    check_sum(&usage, 1, "bob", 3 * H, 30);
    usage_free(&usage);
}

TEST(rows_that_are_written_and_those_that_wait_are_added_up)
{
    struct fixture f;
    struct hai_err err = {0};

    setup(&f);
    f.s.cluster.prices.gpu_hour = 2;
    struct cluster_price *price = LIST_ADD(&f.s.cluster.prices.groups);
    price->name = hai_strdup("a100");
    price->gpu_hour = 10;
    fill(&f);
    check_all(&f);
    CHECK_EQ(rows_flush(turn_rows(f.s.turn), &err), 0, "%s", err.text);
    check_all(&f);
    fill(&f); // projected once more after a crash
    CHECK_EQ(rows_flush(turn_rows(f.s.turn), &err), 0, "%s", err.text);
    check_all(&f);
    teardown(&f);
}

TEST(a_group_without_a_price_hides_no_cost_of_others)
{
    struct fixture f;

    setup(&f);
    struct cluster_price *price = LIST_ADD(&f.s.cluster.prices.groups);
    price->name = hai_strdup("a100");
    price->gpu_hour = 10;
    fill(&f);
    struct usage usage = collect(&f, QUERY_BY_STAGE, 7, NULL, NULL);
    check_sum(&usage, 0, "pretrain", 8 * H, NAN);
    check_sum(&usage, 1, "sft", 4 * H, 40);
    check_sum(&usage, 2, "", 3 * H, 30);
    CHECK(fabs(usage.total.cost - 70) < 1e-6, "%g", usage.total.cost);
    usage_free(&usage);
    teardown(&f);
}

/* Element 3 of array 17 ended long ago: only the store knows it. Job 30 is of before there was such
 * a row. */
TEST(elements_that_are_gone_are_called_as_people_call_them)
{
    struct usage_task task;
    struct usage_view view;
    struct hai_err err = {0};
    struct fixture f;
    struct state_job job;
    _cleanup_(buf_free) struct buf record = {0};

    setup(&f);
    schema_init(state_job_schema(), &job);
    job.id = 21;
    job.array = 17;
    job.array_index = 3;
    job.spec.user = hai_strdup("alice");
    job.spec.name = hai_strdup("x");
    job.spec.group = hai_strdup("default");
    job.spec.uid = job.spec.gid = 1000;
    tlv_encode(state_job_schema(), &job, &record);
    rows_add_job(turn_rows(f.s.turn), &(struct rows_job){.id = 21,
                                                         .user = "alice",
                                                         .name = "x",
                                                         .record = record.data,
                                                         .record_bytes = record.n_bytes});
    add_row(&f, f.today, 21, "alice", "default", NULL, 2 * H, 0);
    add_row(&f, f.today, 30, "alice", "default", NULL, 1 * H, 0);
    CHECK_EQ(rows_flush(turn_rows(f.s.turn), &err), 0, "%s", err.text);
    usage_gather(&f.s, &(struct query_usage){f.today, f.today, NULL, NULL, QUERY_BY_JOB},
                 turn_now_us(f.s.turn), &task);
    struct usage usage = collect(&f, QUERY_BY_JOB, 0, NULL, NULL);
    usage_fill(&task, &usage, &view);
    usage_label_jobs(f.s.store, &task, &view);
    CHECK_EQ(view.sums.n, 2);
    CHECK_STR(view.sums.items[0].key, "21");
    CHECK_STR(view.sums.items[0].label, "17_3");
    CHECK_STR(view.sums.items[1].label, "30");
    schema_free(usage_view_schema(), &view);
    schema_free(usage_task_schema(), &task);
    usage_free(&usage);
    schema_free(state_job_schema(), &job);
    teardown(&f);
}

TEST(a_row_that_is_missing_or_wrong_is_noticed)
{
    struct fixture f;

    setup(&f);
    fill(&f);
    add_row(&f, f.today - 1, 4, "bob", "a100", NULL, 1, 0); // a microsecond too much
    struct usage usage = collect(&f, QUERY_BY_TEAM, 7, NULL, NULL);
    CHECK(!usage.cluster.agrees);
    CHECK(isnan(usage.total.cost), "without prices there is no cost");
    usage_free(&usage);
    add_day(&f, f.today - 3, 0, 0);
    usage = collect(&f, QUERY_BY_TEAM, 0, NULL, NULL); // of today nothing is wrong
    CHECK(usage.cluster.agrees);
    usage_free(&usage);
    teardown(&f);
}

/* 320,000 GPUs for more days than 64 bits have room for: shown as the most there is. */
TEST(sums_that_are_too_long_stay_at_their_limit)
{
    struct fixture f;

    setup(&f);
    for (int64_t day = 1; day <= 399; day++)
        add_row(&f, f.today - day, 1, "alice", "default", "all", 320000 * DAY_US, 0);
    struct usage usage = collect(&f, QUERY_BY_STAGE, 399, NULL, NULL);
    CHECK_EQ(usage.n_sums, 1);
    CHECK_EQ(usage.sums[0].all_us, INT64_MAX - 1);
    usage_free(&usage);
    teardown(&f);
}

TEST(old_days_go_with_all_their_rows)
{
    struct fixture f;
    struct hai_err err = {0};

    setup(&f);
    fill(&f);
    CHECK_EQ(rows_flush(turn_rows(f.s.turn), &err), 0, "%s", err.text);
    /* Of all classes and the capacity, 2 jobs and as many sums, of the older day. */
    CHECK_EQ(rows_expire(turn_rows(f.s.turn), f.today * DAY_US, 0, 100, &err),
             LEDGER_COUNT + 1 + 2 + 2);
    struct usage usage = collect(&f, QUERY_BY_STAGE, 7, NULL, NULL);
    CHECK_EQ(usage.total.all_us, 6 * H);
    CHECK(usage.cluster.agrees);
    usage_free(&usage);
    teardown(&f);
}
