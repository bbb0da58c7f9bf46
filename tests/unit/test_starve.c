/* The bounds on waiting: when their clocks run, and when not. */
#include "sim/starve.h"
#include "tests/unit/core_steps.h"

#define WAIT_S 9600 // 16 times the min_run of these clusters
#define LOOK_S 20   // a thirtieth

/* Time passes, and the scheduler decides nothing. */
static int watch_after(struct world *w, struct starve *starve, int64_t us) {
    struct entry_tick tick = {w->now_us + us};
    struct hai_err err = {0};

    w->now_us += us;
    world_append(w, "system:hai", ENTRY_TICK, &tick);
    return starve_watch(starve, w->state, &err);
}

static int64_t submit_at(struct world *w, int64_t priority) {
    struct entry_job_spec spec = world_spec();

    spec.priority = priority;
    spec.nodes = 2;
    spec.gpus_per_node = 2;
    return world_submit(w, &spec);
}

/* One runs on all nodes, others wait. */
static void contested(struct world *w, struct starve *starve, int64_t priority, int64_t *ret) {
    sharing_cluster(w, 1, 2, 2, 600);
    starve_init(starve, w->state);
    int64_t first = submit_at(w, 10);
    CHECK_EQ(world_decide(w), 1);
    all_started(w, first);
    *ret = submit_at(w, priority);
}

static void end(struct world *w, struct starve *starve) {
    starve_free(starve);
    world_free(w);
}

TEST(who_has_waited_for_too_long_is_given_room_at_the_next_look)
{
    struct starve starve;
    struct world w;
    int64_t id;

    contested(&w, &starve, 10, &id);
    CHECK_EQ(watch_after(&w, &starve, S(WAIT_S - 1)), 0);
    CHECK_EQ(starve.n_waited, 0);
    CHECK_EQ(watch_after(&w, &starve, S(2)), 0);
    CHECK_EQ(starve.n_waited, 1);
    CHECK_EQ(watch_after(&w, &starve, S(LOOK_S)), 0);
    CHECK_EQ(watch_after(&w, &starve, S(1)), -EINVAL);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(job_at(&w, id)->r.claim.n, 2);
    CHECK_EQ(watch_after(&w, &starve, 1), 0);
    CHECK_EQ(starve.n_served, 1);
    CHECK_EQ(starve.n_claims, 1);
    end(&w, &starve);
}

TEST(a_break_starts_the_clock_anew)
{
    struct starve starve;
    struct world w;
    int64_t id;

    contested(&w, &starve, 10, &id);
    struct entry_node_drain drain = {(char *)"a1", NULL};
    struct entry_node_undrain undrain = {(char *)"a1"};
    CHECK_EQ(watch_after(&w, &starve, S(WAIT_S + 1)), 0);
    CHECK_EQ(world_append(&w, "operate:root", ENTRY_NODE_DRAIN, &drain), 0);
    CHECK_EQ(watch_after(&w, &starve, S(LOOK_S)), 0);
    CHECK_EQ(world_append(&w, "operate:root", ENTRY_NODE_UNDRAIN, &undrain), 0);
    CHECK_EQ(watch_after(&w, &starve, S(LOOK_S)), 0);
    starve_forget(&starve, w.state); // the scheduler was down
    CHECK_EQ(watch_after(&w, &starve, S(LOOK_S)), 0);
    CHECK_EQ(watch_after(&w, &starve, S(LOOK_S)), 0);
    CHECK_EQ(watch_after(&w, &starve, S(1)), -EINVAL);
    end(&w, &starve);
}

TEST(who_has_no_bound)
{
    struct starve starve;
    struct world w;
    int64_t id;

    contested(&w, &starve, 0, &id); // and the other one has a higher priority
    CHECK_EQ(watch_after(&w, &starve, S(WAIT_S + 1)), 0);
    CHECK_EQ(watch_after(&w, &starve, S(LOOK_S + 1)), 0);
    CHECK_EQ(starve.n_waited, 0);
    end(&w, &starve);

    contested(&w, &starve, 8, &id); // has one, but the other one has a higher priority
    CHECK_EQ(watch_after(&w, &starve, S(WAIT_S + 1)), 0);
    CHECK_EQ(watch_after(&w, &starve, S(LOOK_S + 1)), 0);
    CHECK_EQ(starve.n_waited, 1);
    end(&w, &starve);
}

TEST(who_is_told_to_end_is_gone_unless_its_node_is_out_of_reach)
{
    struct entry_job_stop stop = {.job = 1};
    struct starve starve;
    struct world w;
    int64_t id;

    contested(&w, &starve, 10, &id);
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_STOP, &stop), 0);
    int64_t grace_us = job_at(&w, 1)->r.kill_at_us - w.now_us;
    CHECK_EQ(watch_after(&w, &starve, grace_us), 0);
    CHECK_EQ(watch_after(&w, &starve, S(30)), 0);
    starve_trouble(&starve, 0, w.now_us);
    starve_trouble(&starve, 1, w.now_us);
    CHECK_EQ(watch_after(&w, &starve, S(39)), 0);
    CHECK_EQ(watch_after(&w, &starve, S(2)), -EINVAL);
    all_left(&w, 1);
    CHECK_EQ(watch_after(&w, &starve, 1), 0);
    end(&w, &starve);
}
