/* Who of equals goes first, aging, and a user's own order. */
#include "scheduler/core/fair.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/why.h"
#include "tests/unit/core_steps.h"

#define SECOND INT64_C(1000000)
#define HOUR (3600 * SECOND)

static void setup(struct world *w, int64_t fair_share_us, int64_t aging_us, int64_t min_run_us) {
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 1,
                                    .gpus = 2,
                                    .cpus = 8,
                                    .min_run_us = min_run_us,
                                    .fair_share_us = fair_share_us,
                                    .aging_us = aging_us};

    world_init(w);
    world_cluster(w, &cluster);
}

static int64_t submit_of(struct world *w, const char *user, int64_t priority) {
    struct entry_job_spec spec = world_spec();

    spec.user = (char *)user;
    spec.priority = priority;
    spec.gpus_per_node = 2;
    return world_submit(w, &spec);
}

static int tick(struct world *w, int64_t us) {
    struct entry_tick in = {S_ABSENT};

    world_pass(w, us);
    return world_append(w, "system:hai", ENTRY_TICK, &in);
}

static int move(struct world *w, const char *principal, int64_t id, enum job_move how,
                int64_t before) {
    struct entry_job_set set = {id, S_ABSENT, S_ABSENT, NULL, how, before};

    return world_append(w, principal, ENTRY_JOB_SET, &set);
}

static void check_queue(struct world *w, const int64_t *expected, size_t n) {
    int64_t *ids;
    size_t n_ids = queue_list(w->state, &ids);

    CHECK_EQ(n_ids, n);
    for (size_t i = 0; i < MIN(n, n_ids); i++)
        CHECK_EQ(ids[i], expected[i], "place %zu", i);
    free(ids);
}

#define CHECK_QUEUE(w, ...)                                                                        \
    check_queue((w), (const int64_t[]){__VA_ARGS__},                                               \
                sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

/* Run a job of the user for so long, alone. */
static void run_for(struct world *w, const char *user, int64_t us) {
    int64_t id = submit_of(w, user, 30);

    CHECK_EQ(world_decide(w), 1);
    all_started(w, id);
    CHECK_EQ(tick(w, us), 0);
    all_succeed(w, id);
}

TEST(of_equals_those_who_had_less_go_first)
{
    struct world w;
    int64_t used_us, mean_us;

    setup(&w, 16 * HOUR, 0, 0);
    run_for(&w, "alice", 10 * HOUR);
    run_for(&w, "bob", HOUR);
    int64_t running = submit_of(&w, "dave", 50);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, running);
    int64_t alice = submit_of(&w, "alice", 30), bob = submit_of(&w, "bob", 30);
    int64_t carol = submit_of(&w, "carol", 30), high = submit_of(&w, "alice", 40);
    CHECK_EQ(tick(&w, HOUR), 0); // a turn
    CHECK(fair_used(w.state, "alice", &used_us, &mean_us));
    CHECK(used_us > 12 * HOUR && used_us < 20 * HOUR, "%lld h", (long long)(used_us / HOUR));
    /* carol had nothing, bob less than half of the mean; both before alice's, except a higher
     * priority of hers. */
    CHECK_QUEUE(&w, high, bob, carol, alice);
    check_same(&w);
    world_free(&w);
}

TEST(what_was_had_fades)
{
    struct entry_job_spec spec = world_spec();
    struct world w;
    int64_t early_us, late_us, mean_us;

    setup(&w, 16 * HOUR, 0, 0);
    run_for(&w, "alice", 10 * HOUR);
    spec.user = (char *)"alice"; // so that she is not forgotten
    spec.held = true;
    CHECK(world_submit(&w, &spec) > 0);
    CHECK_EQ(tick(&w, HOUR), 0);
    CHECK(fair_used(w.state, "alice", &early_us, &mean_us));
    for (int i = 0; i < 16; i++)
        CHECK_EQ(tick(&w, HOUR), 0);
    CHECK(fair_used(w.state, "alice", &late_us, &mean_us));
    CHECK(late_us > early_us * 49 / 100 && late_us < early_us * 51 / 100, "%lld of %lld",
          (long long)late_us, (long long)early_us);
    CHECK_EQ(tick(&w, 16 * HOUR), 0); // all steps at once
    CHECK(fair_used(w.state, "alice", &early_us, &mean_us));
    CHECK(early_us > late_us * 49 / 100 && early_us < late_us * 51 / 100);
    world_free(&w);
}

TEST(what_runs_counts_before_it_ends)
{
    struct world w;
    int64_t used_us, mean_us;

    setup(&w, 16 * HOUR, 0, 0);
    int64_t id = submit_of(&w, "alice", 30);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(tick(&w, HOUR), 0);
    CHECK(fair_used(w.state, "alice", &used_us, &mean_us));
    CHECK(used_us > 4 * HOUR && used_us < 8 * HOUR, "%lld", (long long)(used_us / HOUR));
    check_same(&w);
    world_free(&w);
}

TEST(a_job_goes_up_as_it_waits)
{
    struct world w;

    setup(&w, 0, 4 * HOUR, 0);
    int64_t running = submit_of(&w, "dave", 50);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, running);
    int64_t low = submit_of(&w, "alice", 20), last = submit_of(&w, "alice", 0);
    CHECK_EQ(tick(&w, 5 * HOUR), 0);
    int64_t normal = submit_of(&w, "bob", 30), high = submit_of(&w, "bob", 40);
    CHECK_QUEUE(&w, high, low, normal, last); // 20 is as good as 30 by now
    CHECK_EQ(tick(&w, 4 * HOUR), 0);
    CHECK_QUEUE(&w, low, high, normal, last); // as 40, and earlier
    CHECK_EQ(tick(&w, 40 * HOUR), 0);
    int64_t top = submit_of(&w, "bob", 50);
    CHECK_QUEUE(&w, top, low, normal, high, last); // 50 is reached by nobody, 0 never goes up
    check_same(&w);
    world_free(&w);
}

TEST(aging_counts_from_when_a_job_stands_in_line)
{
    struct entry_job_spec spec = world_spec();
    struct world w;

    setup(&w, 0, 4 * HOUR, 0);
    int64_t running = submit_of(&w, "dave", 50);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, running);
    spec.user = (char *)"alice";
    spec.gpus_per_node = 2;
    spec.priority = 20;
    spec.not_before_us = w.now_us + 8 * HOUR;
    int64_t later = world_submit(&w, &spec);
    CHECK_EQ(tick(&w, 9 * HOUR), 0);
    int64_t late_us = job_at(&w, later)->r.line_us - spec.not_before_us;
    CHECK(late_us >= 0 && late_us < SECOND, "%lld us late", (long long)late_us);
    CHECK_EQ(fair_position(w.state, job_at(&w, later)), state_priority_level(20));
    world_free(&w);
}

/* By waiting alone it goes ahead in line; others give way to it when it has waited for too long,
 * too. */
TEST(an_aged_job_suspends_those_of_its_new_priority_late)
{
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 2,
                                    .gpus = 2,
                                    .cpus = 8,
                                    .min_run_us = HOUR,
                                    .aging_us = 4 * HOUR};
    struct entry_job_spec spec = world_spec();
    struct world w;

    world_init(&w);
    world_cluster(&w, &cluster);
    spec.nodes = 2; // gangs: a short job on one node would be served at once
    spec.gpus_per_node = 2;
    int64_t running = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, running);
    spec.priority = 10;
    int64_t low = world_submit(&w, &spec);
    for (int i = 0; i < 15; i++) {
        CHECK_EQ(tick(&w, HOUR), 0);
        world_decide(&w);
    }
    CHECK_EQ(fair_position(w.state, job_at(&w, low)), state_priority_level(40));
    CHECK_EQ(state_of(&w, running), JOB_STATE_RUNNING);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(tick(&w, HOUR), 0);
        world_decide(&w);
    }
    CHECK_EQ(state_of(&w, running), JOB_STATE_SUSPENDING);
    check_same(&w);
    world_free(&w);
}

TEST(a_user_orders_his_own_jobs)
{
    struct world w;

    setup(&w, 0, 0, 0);
    int64_t running = submit_of(&w, "dave", 50);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, running);
    int64_t a1 = submit_of(&w, "alice", 30), b1 = submit_of(&w, "bob", 30);
    int64_t a2 = submit_of(&w, "alice", 30), b2 = submit_of(&w, "bob", 30);
    int64_t a3 = submit_of(&w, "alice", 30);
    CHECK_EQ(move(&w, "submit:alice", a3, JOB_MOVE_FIRST, 0), 0);
    CHECK_QUEUE(&w, a3, b1, a1, b2, a2);
    check_same(&w);
    CHECK_EQ(move(&w, "submit:alice", a3, JOB_MOVE_LAST, 0), 0);
    CHECK_QUEUE(&w, a1, b1, a2, b2, a3);
    CHECK_EQ(job_at(&w, a1)->r.place, S_ABSENT);
    CHECK_EQ(move(&w, "operate:root", a3, JOB_MOVE_BEFORE, a2), 0);
    CHECK_QUEUE(&w, a1, b1, a3, b2, a2);
    CHECK_EQ(move(&w, "submit:alice", a3, JOB_MOVE_BEFORE, a3), 0);
    CHECK_QUEUE(&w, a1, b1, a3, b2, a2);
    CHECK_EQ(move(&w, "submit:alice", a1, JOB_MOVE_BEFORE, b1), -EINVAL);
    CHECK_EQ(move(&w, "submit:alice", b1, JOB_MOVE_FIRST, 0), -EACCES);
    CHECK_EQ(move(&w, "submit:dave", running, JOB_MOVE_FIRST, 0), -EINVAL);
    CHECK_STR(w.reply.err.text, "job 1 is running; only jobs that wait have an order");
    CHECK_EQ(move(&w, "submit:alice", a1, JOB_MOVE_BEFORE, 999), -EINVAL);
    /* The first in line starts, and the others keep their places. */
    all_succeed(&w, running);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, a1), JOB_STATE_STARTING);
    CHECK_QUEUE(&w, b1, a3, b2, a2);
    check_same(&w);
    world_free(&w);
}

TEST(fair_share_can_be_switched_on_and_off)
{
    struct world w;
    int64_t used_us, mean_us;

    setup(&w, 0, 0, 0);
    run_for(&w, "alice", 10 * HOUR);
    CHECK(!fair_used(w.state, "alice", &used_us, &mean_us));
    CHECK_EQ(w.state->n_shares, 0);
    int64_t running = submit_of(&w, "alice", 30), waiting = submit_of(&w, "bob", 30);
    CHECK_EQ(world_decide(&w), 1);
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 1,
                                    .gpus = 2,
                                    .cpus = 8,
                                    .fair_share_us = 16 * HOUR,
                                    .aging_us = HOUR};
    world_cluster(&w, &cluster);
    CHECK(fair_used(w.state, "alice", &used_us, &mean_us));
    CHECK_EQ(job_at(&w, waiting)->r.line_us, w.state->r.turn_us);
    check_same(&w);
    cluster.fair_share_us = cluster.aging_us = 0;
    world_cluster(&w, &cluster);
    CHECK_EQ(w.state->n_shares, 0);
    CHECK_EQ(job_at(&w, waiting)->r.line_us, S_ABSENT);
    CHECK_EQ(w.state->r.turn_us, S_ABSENT);
    check_same(&w);
    (void)running;
    world_free(&w);
}

/* A clock that was not set when the store began: what runs through the leap must not overflow. */
TEST(a_leap_of_the_clock_is_survived)
{
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 1,
                                    .gpus = NODE_GPUS_MAX,
                                    .cpus = 64,
                                    .fair_share_us = 16 * HOUR};
    struct entry_job_spec spec = world_spec();
    struct entry_tick in = {S_ABSENT};
    int64_t used_us, mean_us;
    struct world w;

    world_init(&w);
    world_cluster(&w, &cluster);
    spec.gpus_per_node = NODE_GPUS_MAX;
    int64_t id = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    w.now_us += INT64_MAX / (NODE_GPUS_MAX - 1);
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_TICK, &in), 0);
    CHECK(fair_used(w.state, "alice", &used_us, &mean_us));
    CHECK(used_us >= 0);
    check_same(&w);
    world_free(&w);
}

/* A job goes back to its place, wherever the one before it went. */
TEST(places_are_found_from_the_one_before)
{
    struct world w;
    int64_t ids[6];

    setup(&w, 0, 0, 0);
    int64_t running = submit_of(&w, "dave", 50);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, running);
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
        ids[i] = submit_of(&w, "alice", 30);
    struct entry_job_set set = {.job = ids[1], .priority = 40, .time_limit_us = S_ABSENT};
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
    set.job = ids[4];
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
    CHECK_QUEUE(&w, ids[1], ids[4], ids[0], ids[2], ids[3], ids[5]);
    static const int order[] = {1, 4, 0, 3, 2};
    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        set.job = ids[order[i]];
        set.priority = 30;
        CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
    }
    CHECK_QUEUE(&w, ids[0], ids[1], ids[2], ids[3], ids[4], ids[5]);
    check_same(&w);
    world_free(&w);
}
