/* Strict order in which others may pass a blocked job if they do not delay it. */
#include "scheduler/core/forecast.h"
#include "scheduler/core/whyplan.h"
#include "sim/rng.h"
#include "tests/unit/core_steps.h"

static void cluster(struct world *w, int n_zones, int leaves, int nodes, int64_t backfill) {
    struct world_cluster described = {.n_zones = n_zones,
                                      .leaves_per_zone = leaves,
                                      .nodes_per_leaf = nodes,
                                      .gpus = 4,
                                      .cpus = 16,
                                      .fence = true,
                                      .backfill = backfill};

    world_init(w);
    w->naive = naive_new(1);
    world_cluster(w, &described);
}

static int64_t submit_for(struct world *w, int64_t nodes, int64_t gpus, int64_t limit_s) {
    struct entry_job_spec spec = world_spec();

    spec.nodes = nodes;
    spec.gpus_per_node = gpus;
    spec.time_limit_us = limit_s ? S(limit_s) : S_ABSENT;
    return world_submit(w, &spec);
}

static bool runs(struct world *w, int64_t id) {
    return state_job_live(job_at(w, id));
}

static void start_all(struct world *w) {
    world_decide(w);
    for (struct job *job = w->state->live_first, *next; job; job = next) {
        next = job->live_next;
        if (job->n_assigned)
            all_started(w, job->r.id);
    }
    CHECK_EQ(naive_error(w->naive)->r, 0, "%s", hai_err_text(naive_error(w->naive)));
}

/* When a waiting job is planned to start, in seconds from now; -1: it has no plan. */
static int64_t planned_in_s(struct world *w, int64_t id) {
    _cleanup_(backfill_freep) struct backfill *b = backfill_new();
    _cleanup_(room_freep) struct room *room = room_new();
    struct place_scratch scratch = {0};
    const struct job *ahead;
    int64_t in_s = -1;

    room_follow(room, w->state);
    whyplan_lead(b, w->state, room, NULL, &scratch, &ahead);
    for (size_t i = 0; i < backfill_n_plans(b); i++)
        if (backfill_planned(b, i).job->r.id == id)
            in_s = backfill_planned(b, i).at_s - w->state->r.time_us / S(1);
    place_scratch_free(&scratch);
    return in_s;
}

TEST(who_is_done_in_time_passes)
{
    struct world w;

    cluster(&w, 1, 1, 2, 1);
    int64_t half = submit_for(&w, 1, 4, 1000);
    start_all(&w);
    int64_t head = submit_for(&w, 2, 4, 500);
    int64_t longer = submit_for(&w, 1, 1, 2000), endless = submit_for(&w, 1, 1, 0);
    int64_t shorter = submit_for(&w, 1, 1, 900);
    start_all(&w);
    CHECK(runs(&w, half) && !runs(&w, head));
    CHECK(!runs(&w, longer), "it would still run when the head starts");
    CHECK(!runs(&w, endless), "nobody knows how long it runs");
    CHECK(runs(&w, shorter));
    CHECK_EQ(planned_in_s(&w, head), 1000);
    CHECK_EQ(planned_in_s(&w, longer), -1);
    world_pass(&w, S(899));
    all_succeed(&w, shorter);
    world_pass(&w, S(100));
    all_succeed(&w, half);
    start_all(&w);
    CHECK(runs(&w, head));
    world_free(&w);
}

TEST(what_no_plan_needs_is_free_for_all)
{
    struct world w;

    cluster(&w, 1, 1, 4, 4);
    int64_t first = submit_for(&w, 3, 4, 1000);
    start_all(&w);
    int64_t head = submit_for(&w, 3, 4, 500), endless = submit_for(&w, 1, 4, 0);
    start_all(&w);
    CHECK(runs(&w, first) && !runs(&w, head));
    CHECK(runs(&w, endless), "the head needs three nodes of four");
    world_free(&w);
}

TEST(only_the_first_blocked_jobs_have_a_plan)
{
    struct world w;

    cluster(&w, 1, 1, 2, 2);
    submit_for(&w, 2, 4, 1000);
    start_all(&w);
    int64_t a = submit_for(&w, 2, 4, 100), b = submit_for(&w, 1, 4, 100);
    int64_t c = submit_for(&w, 1, 4, 100);
    start_all(&w);
    CHECK_EQ(planned_in_s(&w, a), 1000);
    CHECK_EQ(planned_in_s(&w, b), 1100);
    CHECK_EQ(planned_in_s(&w, c), -1);
    world_free(&w);
}

/* Nobody knows when nodes come back. */
TEST(without_enough_nodes_it_blocks_nobody)
{
    struct world w;

    cluster(&w, 1, 1, 2, 4);
    CHECK_EQ(drain(&w, "a1", true), 0);
    int64_t head = submit_for(&w, 2, 4, 100), other = submit_for(&w, 1, 4, 0);
    start_all(&w);
    CHECK(!runs(&w, head) && runs(&w, other));
    world_free(&w);
}

TEST(a_job_that_outlives_its_end_moves_the_plan)
{
    struct entry_job_spec spec = world_spec();
    struct world w;

    cluster(&w, 1, 1, 1, 4);
    spec.name = (char *)"known";
    spec.gpus_per_node = 4;
    for (int i = 0; i < 3; i++) {
        int64_t id = world_submit(&w, &spec);
        start_all(&w);
        world_pass(&w, S(100));
        all_succeed(&w, id);
    }
    int64_t one = world_submit(&w, &spec);
    start_all(&w);
    CHECK(runs(&w, one));
    int64_t head = submit_for(&w, 1, 4, 100);
    start_all(&w);
    CHECK_EQ(planned_in_s(&w, head), 128); // the end of the bucket of 100 s
    world_pass(&w, S(130));
    start_all(&w);
    CHECK(!runs(&w, head));
    CHECK(planned_in_s(&w, head) >= 100, "as long again, at least 10 min");
    check_same(&w);
    world_free(&w);
}

/* A running job's limit is changed: the plan follows. */
TEST(a_new_limit_moves_the_plan)
{
    struct world w;

    cluster(&w, 1, 1, 1, 4);
    int64_t one = submit_for(&w, 1, 4, 1000);
    start_all(&w);
    int64_t head = submit_for(&w, 1, 4, 100);
    start_all(&w);
    CHECK_EQ(planned_in_s(&w, head), 1000);
    struct entry_job_set set = {one, S_ABSENT, S(300), NULL};
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
    CHECK_EQ(planned_in_s(&w, head), 300);
    check_same(&w);
    world_free(&w);
}

TEST(a_waiting_job_is_told_of_the_plans)
{
    struct world w;
    struct why why;

    cluster(&w, 1, 1, 2, 1);
    submit_for(&w, 1, 4, 10000);
    start_all(&w);
    int64_t head = submit_for(&w, 2, 4, 500), longer = submit_for(&w, 1, 1, 20000);
    int64_t endless = submit_for(&w, 1, 1, 0), large = submit_for(&w, 2, 4, 10);
    start_all(&w);
    int64_t start_us = (w.state->r.time_us / S(1) + 10000) * S(1);
    why_job(w.state, job_at(&w, head), &why);
    whyplan_explain(w.state, job_at(&w, head), &why);
    CHECK_STR(why.code, "planned");
    CHECK_STR(why.message,
              "needs 2 nodes with 4 free GPUs each in group default; 1 node is free, 1 "
              "node is full; planned on 2 nodes");
    CHECK_EQ(why.at_us, start_us);
    why_job(w.state, job_at(&w, longer), &why);
    whyplan_explain(w.state, job_at(&w, longer), &why);
    CHECK_STR(why.code, "would_delay");
    CHECK_STR(why.message,
              "it may not pass job 2 (alice, priority 30): it would still run when that "
              "needs 2 nodes");
    CHECK_EQ(why.ahead, head);
    CHECK_EQ(why.at_us, start_us);
    CHECK_STR(why.sooner, "with --time-limit 2h it starts now");
    why_job(w.state, job_at(&w, endless), &why);
    whyplan_explain(w.state, job_at(&w, endless), &why);
    CHECK_STR(why.message, "it may not pass job 2 (alice, priority 30): it has no time limit, and "
                           "might still run when that needs 2 nodes");
    why_job(w.state, job_at(&w, large), &why);
    whyplan_explain(w.state, job_at(&w, large), &why);
    CHECK_STR(why.code, "resources");
    world_free(&w);
}

/* What is said would start sooner does. */
TEST(the_forecast_lets_them_pass)
{
    _cleanup_free_ struct forecast_job *all = NULL;
    struct world w;

    cluster(&w, 1, 1, 2, 1);
    submit_for(&w, 1, 4, 1000);
    int64_t other = submit_for(&w, 1, 4, 500);
    start_all(&w);
    int64_t head = submit_for(&w, 2, 4, 500), longer = submit_for(&w, 1, 4, 600);
    int64_t shorter = submit_for(&w, 1, 4, 400);
    start_all(&w);
    CHECK(runs(&w, other) && !runs(&w, shorter));
    size_t n = forecast_run(w.state, w.now_us, 0, NULL, &all);
    CHECK_EQ(n, 3);
    for (size_t i = 0; i < n; i++) {
        int64_t in_s = (all[i].start_us - w.now_us) / S(1);
        int64_t at_s = all[i].id == head ? 1000 : all[i].id == longer ? 1500 : 500;
        CHECK(llabs(in_s - at_s) <= at_s / 20, "job %lld in %lld s", (long long)all[i].id,
              (long long)in_s);
    }
    world_free(&w);
}

/* ---- nobody who has a plan is delayed ---- */

enum { JOBS = 80 };

struct played {
    int64_t id, planned_s, strict_s;
    bool was_head;
};

/* Jobs run for exactly as long as they may. To the next end, or to a time; false: nothing ends. */
static bool to_next_end(struct world *w, int64_t until_us) {
    int64_t end_us = INT64_MAX;

    for (const struct job *job = w->state->live_first; job; job = job->live_next)
        end_us = MIN(end_us, job->r.placed_us + job->r.time_limit_us);
    w->now_us = MAX(w->now_us, MIN(end_us, until_us));
    if (end_us > until_us)
        return false;
    for (struct job *job = w->state->live_first, *next; job; job = next) {
        next = job->live_next;
        if (job->r.placed_us + job->r.time_limit_us <= w->now_us)
            all_end(w, job->r.id, 0, EXIT_CAUSE_SELF);
    }
    world_clear(w);
    return true;
}

/* When the first that waits would start if nobody passed: in a copy of the state. */
static int64_t strict_start_s(const struct world *w, int64_t id) {
    struct world copy = {.fx = effects_new(), .decide = decide_new(), .forget = true};
    struct buf bytes = {0};

    copy.now_us = w->now_us;
    state_encode(w->state, &bytes);
    CHECK_EQ(state_decode(bytes.data, bytes.n_bytes, &copy.state, NULL), 0);
    copy.state->r.backfill = S_ABSENT;
    copy.naive = naive_new(1000);
    do {
        start_all(&copy);
        world_clear(&copy);
    } while (!runs(&copy, id) && to_next_end(&copy, INT64_MAX - 1));
    int64_t start_s = job_at(&copy, id)->r.placed_us / S(1);
    buf_free(&bytes);
    world_free(&copy);
    return start_s;
}

static void note_plans(struct world *w, struct played *jobs, int n, int *ret_n_plans) {
    _cleanup_(backfill_freep) struct backfill *b = backfill_new();
    _cleanup_(room_freep) struct room *room = room_new();
    struct place_scratch scratch = {0};
    const struct job *ahead;

    room_follow(room, w->state);
    whyplan_lead(b, w->state, room, NULL, &scratch, &ahead);
    for (size_t i = 0; i < backfill_n_plans(b); i++) {
        struct backfill_planned plan = backfill_planned(b, i);
        for (int k = 0; k < n; k++) {
            if (jobs[k].id != plan.job->r.id)
                continue;
            if (!jobs[k].planned_s) {
                jobs[k].planned_s = plan.at_s;
                ++*ret_n_plans;
            }
            CHECK(plan.at_s <= jobs[k].planned_s, "job %lld moved by %lld s", (long long)jobs[k].id,
                  (long long)(plan.at_s - jobs[k].planned_s));
            if (i == 0 && !jobs[k].was_head) {
                jobs[k].was_head = true;
                jobs[k].strict_s = strict_start_s(w, jobs[k].id);
            }
        }
    }
    place_scratch_free(&scratch);
}

/* Returns how many jobs passed another. */
static int play(uint64_t seed, int *ret_n_plans) {
    struct played jobs[JOBS] = {0};
    struct rng rng = {seed};
    struct world w;
    int n_passed = 0;

    cluster(&w, 1 + (int)rng_below(&rng, 3), 1 + (int)rng_below(&rng, 3),
            1 + (int)rng_below(&rng, 4), 1 + rng_below(&rng, 8));
    w.state->r.cross_zone_jobs = rng_below(&rng, 3);
    for (int i = 0; i < JOBS; i++) {
        struct entry_job_spec spec = world_spec();
        spec.nodes = rng_once_in(&rng, 2) ? 1 : 1 + rng_below(&rng, 6);
        spec.gpus_per_node = spec.nodes > 1 ? 4 : rng_below(&rng, 5);
        spec.cpus_per_node = 1 + rng_below(&rng, 6);
        spec.cross_zones = rng_once_in(&rng, 2);
        spec.time_limit_us = S(1 + rng_below(&rng, rng_once_in(&rng, 2) ? 100 : 3000));
        jobs[i].id = world_submit(&w, &spec);
        if (jobs[i].id < 0)
            continue;
        start_all(&w);
        note_plans(&w, jobs, i + 1, ret_n_plans);
        for (int64_t until_us = w.now_us + S(rng_below(&rng, 150)); to_next_end(&w, until_us);) {
            start_all(&w);
            note_plans(&w, jobs, i + 1, ret_n_plans);
        }
    }
    while (to_next_end(&w, INT64_MAX - 1)) {
        start_all(&w);
        note_plans(&w, jobs, JOBS, ret_n_plans);
    }
    for (int i = 0; i < JOBS; i++) {
        if (jobs[i].id < 0)
            continue;
        const struct job *job = job_at(&w, jobs[i].id);
        CHECK(job->r.attempt == 1, "job %lld never ran", (long long)jobs[i].id);
        int64_t start_s = job->r.placed_us / S(1);
        CHECK(!jobs[i].planned_s || start_s <= jobs[i].planned_s, "seed %llu: job %lld",
              (unsigned long long)seed, (long long)jobs[i].id);
        CHECK(!jobs[i].was_head || start_s <= jobs[i].strict_s, "seed %llu: head %lld",
              (unsigned long long)seed, (long long)jobs[i].id);
        for (int k = 0; k < i; k++)
            n_passed += jobs[k].id > 0 && job_at(&w, jobs[k].id)->r.placed_us > job->r.placed_us;
    }
    world_free(&w);
    return n_passed;
}

TEST(nobody_with_a_plan_starts_later)
{
    enum { SEEDS = 60 };
    int n_passed = 0, n_plans = 0;

    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        n_passed += play(seed, &n_plans);
    CHECK(n_plans > 10 * SEEDS, "%d plans", n_plans);
    CHECK(n_passed > 10 * SEEDS, "%d passed", n_passed);
}

/* One gang may span zones at a time, and the head's plan does: who would have to span them because
 * a node that should be free is not yet must wait for that node. */
TEST(nobody_passes_by_spanning_zones_before_a_plan_that_does)
{
    struct entry_job_spec spec = world_spec();
    struct world w;

    cluster(&w, 2, 1, 2, 2);
    int64_t leaving = submit_for(&w, 1, 4, 0); // a1
    start_all(&w);
    spec.nodes = 1;
    spec.gpus_per_node = 4;
    spec.time_limit_us = S(1000);
    spec.zones.items = (char *[]){(char *)"b"};
    spec.zones.n = 1;
    int64_t half = world_submit(&w, &spec);
    start_all(&w);
    CHECK_STR(node_of(&w, leaving, 0), "a1");
    CHECK_STR(node_of(&w, half, 0), "b1");
    CHECK_EQ(stop(&w, "operate:root", leaving, true), 0);
    spec = world_spec();
    spec.cross_zones = true;
    spec.nodes = 4;
    spec.gpus_per_node = 1;
    int64_t head = world_submit(&w, &spec);
    spec.nodes = 2;
    spec.gpus_per_node = 3;
    int64_t behind = world_submit(&w, &spec);
    start_all(&w);
    CHECK_EQ(planned_in_s(&w, head), 1000);
    CHECK(!runs(&w, behind), "in both zones the head could not start before it ends");
    all_left(&w, leaving);
    start_all(&w);
    CHECK(runs(&w, behind));
    CHECK(!job_at(&w, behind)->spans);
    CHECK_EQ(planned_in_s(&w, head), 1000);
    world_free(&w);
}
