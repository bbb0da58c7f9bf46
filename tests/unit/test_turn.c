#include "lib/fileio.h"
#include "lib/log.h"
#include "scheduler/api_call.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/quota.h"
#include "scheduler/restore.h"
#include "scheduler/setup.h"
#include "scheduler/spec.h"
#include "scheduler/store/query.h"
#include "scheduler/store/snapshot.h"
#include "scheduler/turn.h"
#include "tests/unit/power_vfs.h"
#include "tests/unit/test.h"

#include <fcntl.h>

struct fixture {
    char *dir;
    struct store *store;
    struct turn *turn;
    int n_again;
    int64_t n_applied;
};

struct answer {
    int r;
    int64_t index, id;
    bool called, repeated;
    char code[HAI_ERR_CODE_BYTES];
};

static void on_again(void *data) {
    ((struct fixture *)data)->n_again++;
}

static void on_applied(void *data, const struct effects *fx, int64_t index) {
    ((struct fixture *)data)->n_applied = index;
}

static void note(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct answer *answer = data;

    *answer = (struct answer){r, index, reply->id, true, reply->repeated, ""};
    strcpy(answer->code, reply->err.code);
}

static void open_turn(struct fixture *f, const char *vfs) {
    struct store_options options = {.dir = f->dir, .vfs = vfs, .create = true};
    struct turn_hooks hooks = {on_applied, on_again, f};
    struct hai_err err = {0};

    CHECK_EQ(store_open(&options, &f->store, &err), 0, "%s", err.text);
    CHECK_EQ(turn_open(f->store, &hooks, &f->turn, &err), 0, "%s", err.text);
}

static void close_turn(struct fixture *f) {
    turn_close(f->turn);
    store_close(f->store);
}

static void setup(struct fixture *f, const char *vfs) {
    f->dir = hai_strdup("/tmp/hai-test-turn-XXXXXX");
    CHECK(mkdtemp(f->dir) != NULL);
    open_turn(f, vfs);
}

static void teardown(struct fixture *f) {
    close_turn(f);
    CHECK_EQ(fileio_remove_tree(f->dir, NULL), 0);
    free(f->dir);
}

static void describe(struct fixture *f) {
    struct entry_cluster_set set;
    struct entry_user_set user;
    struct answer answer[2] = {0};

    schema_init(entry_cluster_set_schema(), &set);
    *LIST_ADD(&set.zones) = (struct entry_zone){.name = hai_strdup("a")};
    *LIST_ADD(&set.leaves) = (struct entry_leaf){.name = hai_strdup("a")};
    *LIST_ADD(&set.nodes) =
        (struct entry_node){.name = hai_strdup("a1"), .gpus = 2, .cpus = 8, .nvlink = S_ABSENT};
    struct entry_group *group = LIST_ADD(&set.groups);
    schema_init(entry_group_schema(), group);
    group->name = hai_strdup("default");
    *LIST_ADD(&group->nodes) = 0;
    turn_append(f->turn, ENTRY_CLUSTER_SET, &set, "system:hai", note, &answer[0]);
    schema_free(entry_cluster_set_schema(), &set);
    schema_init(entry_user_set_schema(), &user);
    user.name = (char *)"alice";
    user.uid = 1000;
    turn_append(f->turn, ENTRY_USER_SET, &user, "system:hai", note, &answer[1]);
    turn_run(f->turn);
    CHECK_EQ(answer[0].r, 0);
    CHECK_EQ(answer[1].r, 0);
}

static void submit_gpus(struct fixture *f, const char *name, const char *key, int64_t gpus,
                        struct answer *answer) {
    struct job_spec spec;
    struct entry_job_submit entry;
    struct hai_err err = {0};

    schema_init(job_spec_schema(), &spec);
    spec.version = 3;
    spec.name = hai_strdup(name);
    spec.workdir = hai_strdup("/tmp");
    *LIST_ADD(&spec.command) = hai_strdup("true");
    spec.resources.gpus_per_node = gpus;
    CHECK_EQ(spec_to_entry(&spec, state_user_find(turn_state(f->turn), "alice"), NULL, key, &entry,
                           &err),
             0, "%s", err.text);
    turn_append(f->turn, ENTRY_JOB_SUBMIT, &entry, "submit:alice", note, answer);
    schema_free(entry_job_submit_schema(), &entry);
    schema_free(job_spec_schema(), &spec);
}

static void submit(struct fixture *f, const char *name, const char *key, struct answer *answer) {
    submit_gpus(f, name, key, 0, answer);
}

TEST(nothing_is_answered_before_the_commit)
{
    struct fixture f = {0};
    struct answer first = {0}, again = {0}, other = {0};

    setup(&f, NULL);
    describe(&f);
    int64_t n_commits = turn_stats(f.turn).n_commits;
    submit(&f, "one", "key", &first);
    submit(&f, "one", "key", &again);
    submit(&f, "two", "key", &other);
    CHECK(!first.called);
    turn_run(f.turn);
    CHECK_EQ(turn_stats(f.turn).n_commits, n_commits + 1, "one transaction for all of a turn");
    CHECK_EQ(first.r, 0);
    CHECK_EQ(first.id, 1);
    CHECK_EQ(again.id, 1);
    CHECK(again.repeated);
    CHECK_EQ(other.r, -EEXIST, "the same key with another body");
    CHECK_EQ(api_call_status(other.r, NULL), 409);
    CHECK_EQ(api_call_status(-E2BIG, &(struct hai_err){.code = "too_many"}), 429);
    CHECK_EQ(api_call_status(-EBADMSG, &(struct hai_err){.code = "store"}), 503);
    CHECK_EQ(f.n_applied, other.index);
    teardown(&f);
}

TEST(a_failed_commit_changes_nothing)
{
    struct fixture f = {0};
    struct answer answer = {0};
    uint8_t before[DIGEST_BYTES], after[DIGEST_BYTES];
    int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);

    power_vfs_register(false);
    setup(&f, "power");
    describe(&f);
    turn_digest(f.turn, before);
    log_set_output(quiet, LOG_FORM_JSON);
    power_vfs_fail_syncs(1);
    submit(&f, "one", "key", &answer);
    turn_run(f.turn);
    log_set_output(2, LOG_FORM_AUTO);
    close(quiet);
    CHECK_EQ(answer.r, -EIO);
    CHECK_STR(answer.code, "not_saved");
    CHECK_EQ(api_call_status(answer.r, NULL), 503);
    turn_digest(f.turn, after);
    CHECK(memcmp(before, after, sizeof before) == 0, "nothing was applied");
    submit(&f, "one", "key", &answer);
    turn_run(f.turn);
    CHECK_EQ(answer.r, 0);
    CHECK(!answer.repeated, "the key was not taken by the failed one");
    teardown(&f);
}

/* Syncs fail n times, quietly. */
static void fail_syncs(int n) {
    log_set_output(-1, LOG_FORM_JSON);
    power_vfs_fail_syncs(n);
}

TEST(a_placement_lost_with_its_commit_is_proposed_again)
{
    struct fixture f = {0};
    struct answer answer = {0};
    struct entry_node_up up;

    power_vfs_register(false);
    setup(&f, "power");
    describe(&f);
    schema_init(entry_node_up_schema(), &up);
    up.node = (char *)"a1";
    up.boot_id = (char *)"boot";
    turn_append(f.turn, ENTRY_NODE_UP, &up, "node:a1", NULL, NULL);
    submit(&f, "one", NULL, &answer);
    turn_run(f.turn);
    CHECK_EQ(answer.r, 0);
    const struct job *job = state_job_find(turn_state(f.turn), answer.id);
    fail_syncs(1);
    turn_run(f.turn);
    log_set_output(2, LOG_FORM_AUTO);
    CHECK_EQ((int)job->r.state, JOB_STATE_QUEUED);
    int64_t wait_us = turn_due_us(f.turn) - turn_now_us(f.turn);
    CHECK(wait_us > 0 && wait_us <= 2000000, "nothing else will happen that looks at it");
    usleep((useconds_t)MIN(wait_us, INT64_C(2000000)) + 1000);
    turn_run(f.turn);
    turn_run(f.turn);
    CHECK_EQ((int)job->r.state, JOB_STATE_STARTING);
    CHECK_EQ(turn_due_us(f.turn), INT64_MAX);
    teardown(&f);
}

TEST(no_start_without_its_entry)
{
    struct fixture f = {0};
    struct turn_hooks hooks = {on_applied, on_again, &f};
    struct turn *turn = NULL;
    struct hai_err err = {0};

    power_vfs_register(false);
    setup(&f, "power");
    turn_close(f.turn);
    fail_syncs(1);
    CHECK_EQ(turn_open(f.store, &hooks, &turn, &err), -EIO);
    log_set_output(2, LOG_FORM_AUTO);
    CHECK(turn == NULL);
    CHECK_EQ(turn_open(f.store, &hooks, &f.turn, &err), 0, "%s", err.text);
    teardown(&f);
}

static void encode(const void *state, struct buf *ret) {
    state_encode(state, ret);
}

TEST(a_restart_gives_the_same_bytes)
{
    struct fixture f = {0};
    struct answer answer;
    _cleanup_(buf_free) struct buf live = {0};
    _cleanup_(buf_free) struct buf restored = {0};
    _cleanup_(state_freep) struct state *state = NULL;
    struct hai_err err = {0};
    int64_t index;

    setup(&f, NULL);
    describe(&f);
    for (int i = 0; i < 20; i++) {
        submit(&f, "job", NULL, &answer);
        if (i % 3 == 0)
            turn_run(f.turn);
        if (i == 10) {
            turn_run(f.turn);
            CHECK_EQ(rows_flush(turn_rows(f.turn), NULL), 0);
            encode(turn_state(f.turn), &live);
            CHECK_EQ(
                snapshot_write(f.store, turn_state(f.turn)->r.index, live.data, live.n_bytes, NULL),
                0);
        }
    }
    turn_run(f.turn);
    buf_clear(&live);
    encode(turn_state(f.turn), &live);
    index = turn_state(f.turn)->r.index;
    CHECK_EQ(restore_snapshot(f.store, 0, &state, &err), 0);
    CHECK_EQ(restore_replay(turn_log(f.turn), NULL, NULL, state, index, &err), 0, "%s", err.text);
    encode(state, &restored);
    CHECK_EQ(restored.n_bytes, live.n_bytes);
    CHECK(memcmp(restored.data, live.data, live.n_bytes) == 0, "from the first entry");
    close_turn(&f);
    open_turn(&f, NULL);
    CHECK_EQ(turn_stats(f.turn).n_replayed, 9, "from the snapshot on");
    CHECK_EQ(turn_state(f.turn)->r.index, index + 1, "the start is saved before anything else");
    CHECK_EQ(restore_replay(turn_log(f.turn), NULL, NULL, state, index + 1, &err), 0, "%s",
             err.text);
    buf_clear(&restored);
    encode(state, &restored);
    buf_clear(&live);
    encode(turn_state(f.turn), &live);
    CHECK(restored.n_bytes == live.n_bytes && !memcmp(restored.data, live.data, live.n_bytes));
    teardown(&f);
}

static void count(void *data, const struct rows_event *event) {
    ++*(int *)data;
}

static void count_job(void *data, const struct rows_job *job) {
    ++*(int *)data;
}

TEST(rows_that_a_crash_left_out_are_made_again)
{
    struct fixture f = {0};
    struct answer answer;
    int n = 0;

    power_vfs_register(false);
    setup(&f, "power");
    describe(&f);
    for (int i = 0; i < 5; i++) {
        submit(&f, "job", NULL, &answer);
        turn_run(f.turn);
    }
    power_vfs_fail_at(1, POWER_LOSS_DROP, 1); // the outstanding rows are not written any more
    log_set_output(-1, LOG_FORM_JSON);
    close_turn(&f);
    log_set_output(2, LOG_FORM_AUTO);
    power_vfs_restore();
    open_turn(&f, NULL);
    for (int64_t job = 1; job <= 5; job++)
        CHECK_EQ(query_events(f.store, job, 0, 10, count, &n, NULL), 1);
    /* What the replay touched is seen again when the first live batch touches it. */
    struct entry_job_stop stop;
    schema_init(entry_job_stop_schema(), &stop);
    stop.job = 5;
    turn_append(f.turn, ENTRY_JOB_STOP, &stop, "submit:alice", note, &answer);
    turn_run(f.turn);
    CHECK_EQ(answer.r, 0);
    CHECK_EQ(rows_flush(turn_rows(f.turn), NULL), 0);
    n = 0;
    CHECK_EQ(query_job(f.store, 5, count_job, &n, NULL), 1);
    teardown(&f);
}

/* A job with GPUs runs and ends; its GPU time waits to be written. */
static int64_t run_job(struct fixture *f) {
    struct answer answer = {0};
    struct entry_node_up up;

    schema_init(entry_node_up_schema(), &up);
    up.node = (char *)"a1";
    up.boot_id = (char *)"boot";
    turn_append(f->turn, ENTRY_NODE_UP, &up, "node:a1", NULL, NULL);
    submit_gpus(f, "one", NULL, 2, &answer);
    turn_run(f->turn);
    turn_run(f->turn);
    const struct job *job = state_job_find(turn_state(f->turn), answer.id);
    CHECK_EQ((int)job->r.state, JOB_STATE_STARTING);
    int64_t epoch = job->r.epoch;
    struct entry_ranks_started started = {answer.id, epoch, up.node};
    struct entry_ranks_gone gone = {answer.id, epoch, up.node, NULL};
    turn_append(f->turn, ENTRY_RANKS_STARTED, &started, "node:a1", NULL, NULL);
    for (int64_t rank = 0; rank < 2; rank++) {
        struct entry_rank_exited exited = {.job = answer.id, .epoch = epoch, .rank = rank};
        turn_append(f->turn, ENTRY_RANK_EXITED, &exited, "node:a1", NULL, NULL);
    }
    turn_append(f->turn, ENTRY_RANKS_GONE, &gone, "node:a1", NULL, NULL);
    turn_run(f->turn);
    return answer.id;
}

struct gpu_time {
    int64_t job, us;
};

static void add_row(void *data, const struct usage_row *row) {
    struct gpu_time *time = data;

    for (int k = 0; row->job == time->job && k < LEDGER_JOB_CLASSES; k++)
        time->us += row->gpu_us[k];
}

static void add_sum(void *data, const struct usage_row *row, const char *key) {
    add_row(data, row);
}

static void no_day(void *data, const struct ledger_day *day) {
}

/* In the tables and in memory. */
static int64_t gpu_us(struct fixture *f, int64_t job) {
    int64_t today = turn_now_us(f->turn) / LEDGER_DAY_US;
    struct query_usage query = {today - 1, today, NULL, NULL, QUERY_BY_JOB};
    struct gpu_time time = {.job = job};
    struct hai_err err = {0};

    CHECK(query_usage(f->store, &query, add_sum, &time, &err) >= 0, "%s", err.text);
    rows_outstanding_usage(turn_rows(f->turn), query.first, query.last, add_row, no_day, &time);
    return time.us;
}

TEST(gpu_time_that_was_written_in_part_counts_once_after_a_crash)
{
    struct fixture f = {0};

    power_vfs_register(false);
    setup(&f, "power");
    describe(&f);
    int64_t job = run_job(&f), us = gpu_us(&f, job);
    CHECK(us > 0);
    for (int64_t n = 0; n < 5000; n++) // a part of a day that is over: more than one transaction
        rows_add_usage(turn_rows(f.turn), &(struct usage_row){.day = 100,
                                                              .job = 1000 + n,
                                                              .attempt = 1,
                                                              .user = (char *)"alice",
                                                              .group = (char *)"default"});
    CHECK_EQ(rows_flush_some(turn_rows(f.turn), NULL), 1);
    CHECK_EQ(gpu_us(&f, job), us);
    power_vfs_fail_at(1, POWER_LOSS_DROP, 1);
    log_set_output(-1, LOG_FORM_JSON);
    close_turn(&f);
    log_set_output(2, LOG_FORM_AUTO);
    power_vfs_restore();
    open_turn(&f, NULL);
    CHECK_EQ(gpu_us(&f, job), us, "before anything else is done");
    teardown(&f);
}

TEST(rows_ahead_of_the_log_are_a_damaged_store)
{
    struct fixture f = {0};
    struct answer answer;
    struct turn *turn = NULL;
    struct hai_err err = {0};

    setup(&f, NULL);
    describe(&f);
    submit(&f, "job", NULL, &answer);
    turn_run(f.turn);
    rows_set_applied(turn_rows(f.turn), 1000); // as if entries up to there had been in the log
    close_turn(&f);
    struct store_options options = {.dir = f.dir};
    CHECK_EQ(store_open(&options, &f.store, &err), 0, "%s", err.text);
    CHECK_EQ(turn_open(f.store, &(struct turn_hooks){0}, &turn, &err), -EBADMSG);
    CHECK(strstr(err.text, "the tables hold entry 1000, but the log ends at ") != NULL, "%s",
          err.text);
    store_close(f.store);
    CHECK_EQ(fileio_remove_tree(f.dir, NULL), 0);
    free(f.dir);
}

/* Jobs are charged anew once, however many quotas there are. */
TEST(quotas_of_the_cluster_file_are_set_together)
{
    enum { N = 3000 };
    struct cluster_zone zone = {.name = (char *)"a"};
    struct cluster_file file = {
        .name = (char *)"test", .zones = {.items = &zone, .n = 1}
    };
    struct fixture f = {0};
    struct hai_err err = {0};
    char names[N][8];

    setup(&f, NULL);
    file.scheduler_outage_us = INT64_C(600) * 1000000;
    file.quotas.items = hai_new_array(struct cluster_quota, N + 1);
    file.quotas.n = N + 1;
    for (int i = 0; i < N; i++) {
        (void)snprintf(names[i], sizeof names[i], "u%d", i);
        file.quotas.items[i] = (struct cluster_quota){.user = names[i], .priority = 30, .gpus = i};
    }
    file.quotas.items[N] = (struct cluster_quota){.user = names[7], .priority = 30, .gpus = 99};
    CHECK_EQ(setup_describe(f.turn, &file, &err), 0, "%s", err.text);
    const struct state *state = turn_state(f.turn);
    CHECK_EQ(state->n_quotas, N);
    CHECK_EQ(quota_find(state, QUOTA_HOLDER_USER, "u8", "default", 30)->gpus, 8);
    CHECK_EQ(quota_find(state, QUOTA_HOLDER_USER, "u7", "default", 30)->gpus, 99); // the last
    CHECK_EQ(turn_stats(f.turn).n_entries, 3); // start, cluster, quotas
    /* The next start finds all as it should be, or sets what is not. */
    struct turn_stats before = turn_stats(f.turn);
    CHECK_EQ(setup_describe(f.turn, &file, &err), 0, "%s", err.text);
    CHECK_EQ(turn_stats(f.turn).n_entries, before.n_entries);
    file.quotas.items[5].gpus = 1;
    CHECK_EQ(setup_describe(f.turn, &file, &err), 0, "%s", err.text);
    CHECK_EQ(turn_stats(f.turn).n_entries, before.n_entries + 1);
    file.quotas.items[6].group = (char *)"nowhere";
    CHECK_EQ(setup_describe(f.turn, &file, &err), -EINVAL);
    CHECK_STR(err.code, "unknown_group");
    free(file.quotas.items);
    teardown(&f);
}
