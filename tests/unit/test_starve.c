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
    CHECK_EQ(starve.n_ran, 1);
    CHECK_EQ(starve.n_near, 1);
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

/* ---- hours of a cluster whose nodes one gang takes ---- */

#define STEP_S 10

/* Jobs that never end: they are suspended and start again. */
struct play {
    struct world w;
    struct starve starve;
    int64_t longest_us; // wait of any of them
    struct hai_err err;
};

static void ranks_leave(struct world *w, int64_t id) {
    for (size_t i = 0; i < job_at(w, id)->r.ranks.n; i++)
        if (job_at(w, id)->r.ranks.items[i].state != RANK_STATE_EXITED)
            ended(w, id, (int64_t)i, 0, 15, EXIT_CAUSE_ORDER);
}

/* What was asked for comes about at once. */
static void obey(struct world *w) {
    for (struct job *job = w->state->jobs_first, *next; job; job = next) {
        next = job->next;
        if (job->r.state == JOB_STATE_STARTING)
            all_started(w, job->r.id);
        else if (job->r.state == JOB_STATE_SUSPENDING)
            ranks_leave(w, job->r.id);
    }
    world_decide(w);
}

static void step(struct play *p, const int64_t *ids, int n) {
    struct entry_tick tick = {p->w.now_us + S(STEP_S)};

    p->w.now_us += S(STEP_S);
    world_append(&p->w, "system:hai", ENTRY_TICK, &tick);
    world_decide(&p->w);
    obey(&p->w);
    obey(&p->w);
    CHECK_EQ(starve_watch(&p->starve, p->w.state, &p->err), 0, "%s", p->err.text);
    for (int i = 0; i < n; i++) {
        const struct job *job = job_at(&p->w, ids[i]);
        if (job->queued)
            p->longest_us = MAX(p->longest_us, p->w.state->r.time_us - job->r.since_us);
    }
}

static void play_begin(struct play *p) {
    *p = (struct play){0};
    sharing_cluster(&p->w, 1, 2, 2, 600);
    starve_init(&p->starve, p->w.state);
}

/* Of three that take turns none is left out, though the ids of the others are smaller. */
TEST(all_of_a_line_have_their_turn)
{
    struct play p;
    int64_t ids[3];

    play_begin(&p);
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
        ids[i] = submit_at(&p.w, 20);
    for (int i = 0; i < 72 * 3600 / STEP_S && !test_failed(); i++)
        step(&p, ids, ARRAY_SIZE(ids));
    CHECK(p.longest_us < S(2 * (WAIT_S + 2 * LOOK_S + 2 * STEP_S)), "%lld s",
          (long long)(p.longest_us / 1000000));
    end(&p.w, &p.starve);
}

/* Nor one that has run for long, though there are always fresh ones of its shape before it. */
TEST(fresh_ones_do_not_hide_who_has_waited)
{
    int64_t old, fresh[2] = {0};
    struct play p;

    play_begin(&p);
    old = submit_at(&p.w, 20);
    for (int i = 0; i < 24 * 3600 / STEP_S && !test_failed(); i++) {
        step(&p, &old, 1);
        for (int k = 0; k < 2 && i * STEP_S > 2400; k++) {
            const struct job *job = fresh[k] ? job_at(&p.w, fresh[k]) : NULL;
            if (job && job->queued && job->r.started_us == S_ABSENT)
                continue;
            if (job && job->r.state != JOB_STATE_RUNNING) // it ran, and left
                CHECK_EQ(stop(&p.w, "submit:alice", fresh[k], true), 0);
            fresh[k] = submit_at(&p.w, 20);
        }
    }
    CHECK(p.longest_us > S(WAIT_S), "it was never contested");
    CHECK(p.longest_us < S(WAIT_S + 2 * LOOK_S + 2 * STEP_S), "%lld s",
          (long long)(p.longest_us / 1000000));
    end(&p.w, &p.starve);
}

static int64_t submit_for(struct world *w, int64_t priority, int64_t nodes, int64_t not_before_us) {
    struct entry_job_spec spec = world_spec();

    spec.priority = priority;
    spec.nodes = nodes;
    spec.gpus_per_node = 2;
    spec.not_before_us = not_before_us;
    return world_submit(w, &spec);
}

/* Two are free, but under two leaves: a fresh gang waits for others, and one behind it that has
 * waited for too long takes them, though it has just asked in vain. */
TEST(who_waits_for_leaves_lets_by_who_has_waited)
{
    int64_t singles[4], fresh, old;
    struct world w;

    sharing_cluster(&w, 2, 2, 2, 600);
    for (size_t i = 0; i < ARRAY_SIZE(singles); i++)
        singles[i] = submit_for(&w, 40, 1, S_ABSENT);
    CHECK_EQ(world_decide(&w), 4);
    for (size_t i = 0; i < ARRAY_SIZE(singles); i++)
        all_started(&w, singles[i]);
    fresh = submit_for(&w, 20, 2, S_ABSENT);
    old = submit_for(&w, 20, 2, S_ABSENT);
    CHECK_EQ(suspend(&w, fresh), 0);
    world_pass(&w, S(WAIT_S + LOOK_S + 1)); // it asks at the end of it
    CHECK_EQ(state_of(&w, old), JOB_STATE_QUEUED);
    all_succeed(&w, singles[0]);
    all_succeed(&w, singles[2]);
    CHECK_EQ(resume(&w, fresh), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, fresh), JOB_STATE_QUEUED);
    CHECK_EQ(state_of(&w, old), JOB_STATE_STARTING);
    world_free(&w);
}

/* What a job waits before its time has come is not waiting in line: it has no more right than who
 * is submitted then. */
TEST(time_before_it_stands_in_line_does_not_count)
{
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 2,
                                    .gpus = 2,
                                    .cpus = 8,
                                    .fence = true,
                                    .min_run_us = S(600),
                                    .aging_us = S(72 * 3600)};
    struct world w;

    world_init(&w);
    world_cluster(&w, &cluster);
    int64_t first = submit_at(&w, 20);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, first);
    int64_t later = submit_for(&w, 20, 2, w.now_us + S(WAIT_S + 3600));
    world_pass(&w, S(WAIT_S + 3600 - 100));
    all_succeed(&w, first);
    int64_t second = submit_at(&w, 20);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, second);
    world_pass(&w, S(100 + 3 * LOOK_S)); // the second has run for longer than those in need let it
    CHECK_EQ(job_at(&w, later)->queued, true);
    CHECK_EQ(job_at(&w, later)->r.claim.n, 0);
    world_pass(&w, S(WAIT_S));
    CHECK_EQ(job_at(&w, later)->r.claim.n, 2);
    world_free(&w);
}
