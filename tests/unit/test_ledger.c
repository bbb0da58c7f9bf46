#include "scheduler/core/ledger.h"
#include "sim/audit.h"
#include "sim/invariants.h"
#include "tests/unit/core_steps.h"

#define DAY INT64_C(86400)

/* The world's clock begins at 01:46:40 UTC of a day. */
enum { DAY_FIRST = 11574 };

static struct entry_ckpt_committed commit_of(struct world *w, int64_t id, int64_t step,
                                             int64_t stall_us) {
    static uint8_t digest[DIGEST_BYTES];

    return (struct entry_ckpt_committed){
        id, job_at(w, id)->r.epoch, step, (char *)"/ckpt", {digest, sizeof digest},
              stall_us
    };
}

static void saved(struct world *w, int64_t id, int64_t step, int64_t stall_us) {
    struct entry_ckpt_committed in = commit_of(w, id, step, stall_us);

    CHECK_EQ(world_append(w, "system:hai", ENTRY_CKPT_COMMITTED, &in), 0);
}

/* Time passes to a whole second after the world's beginning, so that microseconds of entries do not
 * show in sums of seconds. */
static void pass_to(struct world *w, int64_t begun_us, int64_t s) {
    world_pass(w, begun_us + S(s) - w->now_us);
}

static void check_counts(struct world *w, const int64_t want[static LEDGER_COUNT]) {
    struct hai_err err = {0};

    CHECK_EQ(invariants_state(w->state, &err), 0, "%s", err.text);
    for (int k = 0; k < LEDGER_COUNT; k++)
        CHECK_EQ(w->state->ledger.gpus[k], want[k], "%s", ledger_class_text((enum ledger_class)k));
    check_same(w);
}

/* By class: c(.SUSPENDED = 2) and so on. */
#define c(...) ((const int64_t[LEDGER_COUNT]){__VA_ARGS__})

static void check_audit(struct world *w) {
    struct hai_err err = {0};

    CHECK_EQ(audit_log(w->log, w->n_log, NULL, &err), 0, "%s", err.text);
    check_same(w);
}

struct sums {
    int64_t job; // 0: all
    int64_t day; // 0: all
    int64_t jobs[LEDGER_JOB_CLASSES];
    int64_t class[LEDGER_COUNT];
};

static void add_job(void *data, const struct job *job, int64_t day,
                    const int64_t gpu_us[static LEDGER_JOB_CLASSES]) {
    struct sums *sums = data;

    if ((sums->job && job->r.id != sums->job) || (sums->day && sums->day != day))
        return;
    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        sums->jobs[k] += gpu_us[k];
}

static void add_day(void *data, const struct ledger_day *day) {
    struct sums *sums = data;

    if (sums->day && sums->day != day->day)
        return;
    for (int k = 0; k < LEDGER_COUNT; k++)
        sums->class[k] += day->gpu_us[k];
}

/* What left the state as rows, and what is open. */
static struct sums sums_of(struct world *w, int64_t job, int64_t day) {
    struct sums sums = {.job = job, .day = day};
    struct ledger_peek peek = {add_job, add_day, &sums};

    for (size_t i = 0; i < w->fx->n_usage; i++) {
        const struct usage_row *row = &w->fx->usage[i];
        struct job key = {.r.id = row->job};
        add_job(&sums, &key, row->day, row->gpu_us);
    }
    for (size_t i = 0; i < w->fx->n_days; i++)
        add_day(&sums, &w->fx->days[i]);
    ledger_peek(w->state, w->now_us, &peek);
    return sums;
}

/* In GPU-seconds, to within the microseconds that entries take. */
static int64_t seconds(int64_t us) {
    return (us + 500000) / 1000000;
}

static void check_job(struct world *w, int64_t id, int64_t day,
                      const int64_t want[static LEDGER_COUNT]) {
    struct sums sums = sums_of(w, id, day);

    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        CHECK_EQ(seconds(sums.jobs[k]), want[k], "%s", ledger_class_text((enum ledger_class)k));
    check_audit(w);
}

TEST(every_gpu_is_in_one_class)
{
    struct world w;

    small_cluster(&w, 1, 4); // of 2 GPUs each
    check_counts(&w, c([LEDGER_IDLE] = 8));
    int64_t id = submit(&w, 2, 2, 1);
    check_counts(&w, c([LEDGER_IDLE_DEMAND] = 8));
    CHECK_EQ(world_decide(&w), 1);
    check_counts(&w, c([LEDGER_START_UP] = 4, [LEDGER_IDLE] = 4));
    all_started(&w, id);
    check_counts(&w, c([LEDGER_PRODUCTIVE] = 4, [LEDGER_IDLE] = 4));
    world_restart(&w, true);
    CHECK_EQ(drain(&w, "a1", true), 0); // its job goes on
    CHECK_EQ(drain(&w, "a4", true), 0);
    check_counts(&w, c([LEDGER_PRODUCTIVE] = 4, [LEDGER_IDLE] = 2, [LEDGER_DRAINED] = 2));
    CHECK_EQ(node_lost(&w, "a3", w.now_us), 0);
    check_counts(&w, c([LEDGER_PRODUCTIVE] = 4, [LEDGER_UNHEALTHY] = 2, [LEDGER_DRAINED] = 2));
    CHECK_EQ(suspend(&w, id), 0);
    check_counts(&w, c([LEDGER_SUSPENDED] = 4, [LEDGER_UNHEALTHY] = 2, [LEDGER_DRAINED] = 2));
    all_left(&w, id);
    check_counts(&w, c([LEDGER_IDLE] = 2, [LEDGER_UNHEALTHY] = 2, [LEDGER_DRAINED] = 4));
    world_restart(&w, false);
    CHECK_EQ(drain(&w, "a1", false), 0);
    CHECK_EQ(resume(&w, id), 0);
    CHECK_EQ(world_decide(&w), 1);
    check_counts(&w, c([LEDGER_SUSPENDED] = 4, [LEDGER_UNHEALTHY] = 2, [LEDGER_DRAINED] = 2));
    all_started(&w, id);
    CHECK_EQ(node_lost(&w, "a2", w.now_us), 0); // the other half is taken down
    check_counts(&w, c([LEDGER_RECOMPUTED] = 2, [LEDGER_UNHEALTHY] = 4, [LEDGER_DRAINED] = 2));
    world_restart(&w, true);
    CHECK_EQ(node_up(&w, "a2", w.state->nodes[1]->r.boot_id), 0); // what it holds there is back
    check_counts(&w, c([LEDGER_RECOMPUTED] = 4, [LEDGER_UNHEALTHY] = 2, [LEDGER_DRAINED] = 2));
    check_audit(&w);
    world_free(&w);
}

TEST(gpus_no_longer_described_count_while_they_are_held)
{
    struct world w;
    struct world_cluster smaller = {
        .n_zones = 1, .leaves_per_zone = 1, .nodes_per_leaf = 1, .gpus = 2, .cpus = 8};

    small_cluster(&w, 1, 3);
    int64_t id = submit(&w, 2, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    world_cluster(&w, &smaller); // a1 is left; a2 is held, a3 is not
    check_counts(&w, c([LEDGER_START_UP] = 4));
    all_started(&w, id);
    all_succeed(&w, id);
    check_counts(&w, c([LEDGER_IDLE] = 2));
    check_audit(&w);
    world_free(&w);
}

/* Two groups that share a node, and a node in none: GPUs are idle with demand where the job that
 * waits might run. */
TEST(demand_is_of_the_groups_of_a_node)
{
    struct world w;
    struct entry_cluster_set set;

    small_cluster(&w, 1, 1);
    schema_init(entry_cluster_set_schema(), &set);
    LIST_ADD(&set.zones)->name = hai_strdup("a");
    *LIST_ADD(&set.leaves) = (struct entry_leaf){hai_strdup("a-leaf1"), 0};
    for (int i = 1; i <= 4; i++) {
        struct entry_node *node = LIST_ADD(&set.nodes);
        schema_init(entry_node_schema(), node);
        node->name = hai_asprintf("a%d", i);
        node->gpus = 2;
        node->cpus = 8;
    }
    for (int g = 0; g < 2; g++) {
        struct entry_group *group = LIST_ADD(&set.groups);
        schema_init(entry_group_schema(), group);
        group->name = hai_strdup(g ? "other" : "default");
        *LIST_ADD(&group->nodes) = g;
        *LIST_ADD(&group->nodes) = g + 1;
    }
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_CLUSTER_SET, &set), 0);
    for (int i = 1; i <= 4; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "a%d", i);
        CHECK_EQ(node_up(&w, name, "boot"), 0);
    }
    schema_free(entry_cluster_set_schema(), &set);
    check_counts(&w, c([LEDGER_IDLE] = 8));
    int64_t big = submit(&w, 2, 2, 1); // a1 and a2
    CHECK_EQ(world_decide(&w), 1);
    int64_t waits = submit(&w, 1, 1, 1);
    int64_t second = submit(&w, 1, 1, 1);
    check_counts(&w, c([LEDGER_START_UP] = 4, [LEDGER_IDLE] = 4)); // a3 is no place for it
    CHECK_EQ(drain(&w, "a1", true), 0);
    all_started(&w, big);
    all_succeed(&w, big);
    check_counts(&w, c([LEDGER_DRAINED] = 2, [LEDGER_IDLE_DEMAND] = 2, [LEDGER_IDLE] = 4));
    struct entry_job_set to_other = {waits, S_ABSENT, S_ABSENT, (char *)"other"};
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &to_other), 0);
    check_counts(&w, c([LEDGER_DRAINED] = 2, [LEDGER_IDLE_DEMAND] = 4, [LEDGER_IDLE] = 2));
    CHECK_EQ(stop(&w, "submit:alice", second, false), 0);
    check_counts(&w, c([LEDGER_DRAINED] = 2, [LEDGER_IDLE_DEMAND] = 4, [LEDGER_IDLE] = 2));
    CHECK_EQ(stop(&w, "submit:alice", waits, false), 0);
    check_counts(&w, c([LEDGER_DRAINED] = 2, [LEDGER_IDLE] = 6));
    struct entry_job_spec cpus = world_spec();
    cpus.nodes = 3; // waits for CPUs: no demand for GPUs
    (void)world_submit(&w, &cpus);
    check_counts(&w, c([LEDGER_DRAINED] = 2, [LEDGER_IDLE] = 6));
    check_audit(&w);
    world_free(&w);
}

/* 10 s of start, 100 s of work of which the last 40 are in no checkpoint, a fault, 5 s until the
 * last rank is gone, and a second attempt. */
TEST(a_fault_takes_back_what_no_checkpoint_covers)
{
    struct world w;
    int64_t used_us, again_us;

    small_cluster(&w, 1, 2);
    int64_t begun_us = w.now_us;
    int64_t id = submit(&w, 2, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    pass_to(&w, begun_us, 10);
    all_started(&w, id);
    pass_to(&w, begun_us, 70);
    saved(&w, id, 100, S(6));
    saved(&w, id, 100, S(6)); // told twice
    check_job(&w, id, 0,
              c([LEDGER_START_UP] = 40, [LEDGER_STALLED] = 24, [LEDGER_PRODUCTIVE] = 216));
    pass_to(&w, begun_us, 110);
    CHECK_EQ(ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF), 0);
    world_restart(&w, true);
    pass_to(&w, begun_us, 115);
    CHECK_EQ(ended(&w, id, 1, 0, 9, EXIT_CAUSE_ORDER), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    CHECK_EQ(w.fx->n_usage, 1);
    /* The node of the rank that failed is free at once. */
    check_job(&w, id, 0,
              c([LEDGER_START_UP] = 40, [LEDGER_STALLED] = 24, [LEDGER_PRODUCTIVE] = 216,
                [LEDGER_RECOMPUTED] = 160 + 10));
    CHECK_EQ(world_decide(&w), 1);
    pass_to(&w, begun_us, 116);
    all_started(&w, id);
    pass_to(&w, begun_us, 126);
    all_succeed(&w, id);
    check_job(&w, id, 0,
              c([LEDGER_START_UP] = 44, [LEDGER_STALLED] = 24, [LEDGER_PRODUCTIVE] = 256,
                [LEDGER_RECOMPUTED] = 170));
    ledger_used(job_at(&w, id), w.now_us + S(100), &used_us, &again_us);
    CHECK_EQ(seconds(used_us), 44 + 24 + 256 + 170);
    CHECK_EQ(seconds(again_us), 170);
    world_free(&w);
}

/* A job of two GPUs, alone on one node, runs for 10 s. */
static int64_t run_10_s(struct world *w, int64_t *ret_begun_us) {
    small_cluster(w, 1, 1);
    *ret_begun_us = w->now_us;
    int64_t id = submit(w, 1, 2, 1);
    CHECK_EQ(world_decide(w), 1);
    all_started(w, id);
    pass_to(w, *ret_begun_us, 10);
    return id;
}

/* A stall cannot be longer than the work it was in, and of a job that has ended it moves nothing.
 */
TEST(a_stall_is_part_of_the_work)
{
    struct world w;

    int64_t begun_us, id = run_10_s(&w, &begun_us);
    saved(&w, id, 1, DURATION_US_MAX);
    check_job(&w, id, 0, c([LEDGER_STALLED] = 20));
    pass_to(&w, begun_us, 20);
    struct entry_ckpt_committed late = commit_of(&w, id, 2, S(5));
    all_succeed(&w, id);
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_CKPT_COMMITTED, &late), 0);
    check_job(&w, id, 0, c([LEDGER_STALLED] = 20, [LEDGER_PRODUCTIVE] = 20));
    world_free(&w);
}

/* A failure of its own that starts nothing again: nothing is run again. */
TEST(a_job_that_fails_for_good_recomputes_nothing)
{
    struct world w;

    int64_t begun_us, id = run_10_s(&w, &begun_us);
    CHECK_EQ(ended(&w, id, 0, 3, 0, EXIT_CAUSE_SELF), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_FAILED);
    check_job(&w, id, 0, c([LEDGER_PRODUCTIVE] = 20));
    world_free(&w);
}

TEST(to_save_and_to_load_again_is_what_a_suspension_costs)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t begun_us = w.now_us;
    int64_t id = submit(&w, 2, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    pass_to(&w, begun_us, 3);
    all_started(&w, id);
    world_restart(&w, false);
    pass_to(&w, begun_us, 33);
    CHECK_EQ(suspend(&w, id), 0);
    pass_to(&w, begun_us, 38);
    all_left(&w, id);
    CHECK_EQ(w.fx->n_usage, 1);
    pass_to(&w, begun_us, 138);
    CHECK_EQ(resume(&w, id), 0);
    CHECK_EQ(world_decide(&w), 1);
    pass_to(&w, begun_us, 140);
    all_started(&w, id);
    pass_to(&w, begun_us, 150);
    check_job(
        &w, id, 0,
        c([LEDGER_START_UP] = 12, [LEDGER_PRODUCTIVE] = 120 + 40, [LEDGER_SUSPENDED] = 20 + 8));
    struct sums all = sums_of(&w, 0, 0);
    CHECK_EQ(seconds(all.class[LEDGER_IDLE]), 400);
    CHECK_EQ(seconds(all.class[LEDGER_IDLE_DEMAND]), 0);
    CHECK_EQ(ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF), 0); // after that, a start is a start
    CHECK_EQ(ended(&w, id, 1, 0, 9, EXIT_CAUSE_ORDER), 0);
    CHECK_EQ(world_decide(&w), 1);
    pass_to(&w, begun_us, 151);
    struct sums after = sums_of(&w, id, 0);
    CHECK_EQ(seconds(after.jobs[LEDGER_START_UP]), 16);
    CHECK_EQ(seconds(after.jobs[LEDGER_RECOMPUTED]), 40);
    check_audit(&w);
    world_free(&w);
}

/* Half of a gang is on a node that is lost: that half is out of service until the lease is over,
 * the other half is taken down, and both were lost. */
TEST(a_lost_node_is_nobodys)
{
    struct world w;
    struct world_cluster cluster = {
        .n_zones = 1, .leaves_per_zone = 1, .nodes_per_leaf = 3, .gpus = 2, .cpus = 8};

    world_init(&w);
    world_cluster(&w, &cluster); // leases of 10 s and 1 s of drift
    int64_t begun_us = w.now_us;
    int64_t id = submit(&w, 2, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    const char *lost = node_of(&w, id, 1);
    pass_to(&w, begun_us, 100);
    CHECK_EQ(node_lost(&w, lost, w.now_us), 0);
    pass_to(&w, begun_us, 104);
    CHECK_EQ(ended(&w, id, 0, 0, 9, EXIT_CAUSE_ORDER), 0);
    pass_to(&w, begun_us, 120);
    CHECK_EQ(job_at(&w, id)->r.attempt, 2); // at 111
    check_job(&w, id, 0, c([LEDGER_RECOMPUTED] = 400 + 22, [LEDGER_START_UP] = 36));
    struct sums all = sums_of(&w, 0, 0);
    CHECK_EQ(seconds(all.class[LEDGER_UNHEALTHY]), 40);
    CHECK_EQ(seconds(all.class[LEDGER_IDLE]), 200 + 22);
    world_free(&w);
}

/* The job runs for more than two days, in which nothing else happens; the fault takes back what is
 * of the last one. */
TEST(days_are_closed_one_by_one)
{
    struct world w;
    int64_t days;
    struct hai_err err = {0};

    small_cluster(&w, 1, 2);
    int64_t midnight_us = (DAY_FIRST + 1) * S(DAY);
    int64_t id = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    int64_t first_s = (midnight_us - w.now_us + 500000) / S(1);
    pass_to(&w, midnight_us, 2 * DAY + 3600);
    struct sums open = sums_of(&w, id, DAY_FIRST + 2); // nothing was appended yet
    CHECK_EQ(open.jobs[LEDGER_PRODUCTIVE], 2 * S(DAY));
    world_restart(&w, true);
    CHECK_EQ(w.fx->n_days, 3);
    CHECK_EQ(w.fx->n_usage, 3);
    CHECK_EQ(w.fx->days[1].capacity_us, 4 * S(DAY));
    CHECK_EQ(w.fx->days[1].gpu_us[LEDGER_PRODUCTIVE], 2 * S(DAY));
    CHECK_EQ(w.fx->days[1].gpu_us[LEDGER_IDLE], 2 * S(DAY));
    CHECK_EQ(w.fx->usage[1].gpu_us[LEDGER_PRODUCTIVE], 2 * S(DAY));
    CHECK_EQ(w.fx->usage[1].attempt, 1);
    check_job(&w, id, DAY_FIRST, c([LEDGER_PRODUCTIVE] = 2 * first_s));
    check_job(&w, id, DAY_FIRST + 3, c([LEDGER_PRODUCTIVE] = 7200));
    CHECK_EQ(ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF), 0);
    check_job(&w, id, DAY_FIRST + 2, c([LEDGER_PRODUCTIVE] = 2 * DAY));
    check_job(&w, id, DAY_FIRST + 3, c([LEDGER_RECOMPUTED] = 7200));
    CHECK_EQ(audit_log(w.log, w.n_log, &days, &err), 0, "%s", err.text);
    CHECK_EQ(days, 4);
    world_free(&w);
}

/* A clock that jumps ahead must not make rows for years. */
TEST(a_leap_of_the_clock_is_in_no_day)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t id = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    pass_to(&w, w.now_us, 100 * 365 * DAY);
    world_restart(&w, true);
    CHECK_EQ(w.fx->n_days, LEDGER_GAP_DAYS_MAX + 1);
    CHECK_EQ(w.fx->n_usage, LEDGER_GAP_DAYS_MAX + 1);
    check_audit(&w);
    world_free(&w);
}

/* Rows say whose and what for it was. */
TEST(rows_have_team_group_and_stage)
{
    struct world w;
    struct entry_job_spec spec = world_spec();

    small_cluster(&w, 1, 1);
    spec.gpus_per_node = 2;
    spec.team = (char *)"nlp";
    spec.stage = (char *)"pretrain";
    int64_t id = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 1);
    pass_to(&w, w.now_us, 5);
    all_started(&w, id);
    all_succeed(&w, id);
    CHECK_EQ(w.fx->n_usage, 1);
    const struct usage_row *row = &w.fx->usage[0];
    CHECK_STR(row->user, "alice");
    CHECK_STR(row->team, "nlp");
    CHECK_STR(row->group, "default");
    CHECK_STR(row->stage, "pretrain");
    CHECK_EQ(row->day, DAY_FIRST);
    CHECK_EQ(seconds(row->gpu_us[LEDGER_START_UP]), 10);
    world_free(&w);
}

/* A log of a scheduler that kept no ledger leads to a state without one; the next start begins it,
 * with what runs. */
TEST(the_ledger_begins_with_a_start_of_this_version)
{
    struct world w;
    struct hai_err err = {0};

    small_cluster(&w, 1, 2);
    int64_t id = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    world_pass(&w, S(100));
    world_restart(&w, true);
    size_t n = w.n_log - 1;
    for (size_t i = 0; i < n; i++)
        if (w.log[i].kind == ENTRY_SCHED_START)
            w.log[i].version = 3;
    _cleanup_(state_freep) struct state *state = world_replay(w.log, n);
    struct job *job = state_job_find(state, id);
    CHECK_EQ(state->r.ledger.n, 0);
    CHECK_EQ(job->r.booked.n, 0);
    CHECK_EQ(job->r.booked_us, S_ABSENT);
    CHECK_EQ(state->ledger.gpus[LEDGER_PRODUCTIVE], 2);
    world_apply(state, &w.log[n], n + 1, NULL);
    CHECK_EQ(state->r.ledger.n, LEDGER_COUNT + 1);
    CHECK_EQ(job->r.booked_us, w.log[n].time_us);
    CHECK_EQ(job->r.booked.items[LEDGER_PRODUCTIVE], 0);
    CHECK_EQ(invariants_state(state, &err), 0, "%s", err.text);
    world_pass(&w, S(10));
    world_restart(&w, false);
    CHECK_EQ(seconds(w.state->r.ledger.items[LEDGER_PRODUCTIVE]), 20);
    CHECK_EQ(seconds(w.state->r.ledger.items[LEDGER_COUNT]), 40);
    check_audit(&w);
    world_free(&w);
}

/* Free GPUs of an active reservation are reserved; who runs there counts as ever. A job that waits
 * for reserved nodes is no demand for others. */
TEST(reserved_nodes_are_in_a_class_of_their_own)
{
    struct world w;
    char *nodes[] = {(char *)"a1", (char *)"a2"}, *users[] = {(char *)"alice"};
    struct entry_user_set user = {(char *)"alice", 1000, 1000, SCOPE_SUBMIT, false};
    struct entry_reserve_set set;
    struct entry_job_spec spec = world_spec();

    small_cluster(&w, 1, 3);
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &user), 0);
    schema_init(entry_reserve_set_schema(), &set);
    set.name = (char *)"demo";
    set.nodes.items = nodes;
    set.nodes.n = 2;
    set.users.items = users;
    set.users.n = 1;
    set.from_us = w.now_us + S(50);
    set.until_us = w.now_us + S(150);
    CHECK_EQ(world_append(&w, "operate:root", ENTRY_RESERVE_SET, &set), 0);
    check_counts(&w, c([LEDGER_IDLE] = 6));
    world_pass(&w, S(60));
    check_counts(&w, c([LEDGER_RESERVED] = 4, [LEDGER_IDLE] = 2));
    spec.gpus_per_node = 2;
    spec.nodes = 2;
    spec.reservation = (char *)"demo";
    int64_t id = world_submit(&w, &spec);
    int64_t second = world_submit(&w, &spec);
    check_counts(&w, c([LEDGER_RESERVED] = 4, [LEDGER_IDLE] = 2));
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    check_counts(&w, c([LEDGER_PRODUCTIVE] = 4, [LEDGER_IDLE] = 2));
    all_succeed(&w, id);
    CHECK_EQ(stop(&w, "submit:alice", second, true), 0);
    CHECK_EQ(drain(&w, "a1", true), 0);
    check_counts(&w, c([LEDGER_DRAINED] = 2, [LEDGER_RESERVED] = 2, [LEDGER_IDLE] = 2));
    world_pass(&w, S(100)); // it is over
    check_counts(&w, c([LEDGER_DRAINED] = 2, [LEDGER_IDLE] = 4));
    check_audit(&w);
    world_free(&w);
}
