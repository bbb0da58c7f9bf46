/* How long jobs will still run, and when those that wait will start. */
#include "scheduler/core/arrivals.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/forecast.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/predict.h"
#include "scheduler/core/waits.h"
#include "sim/invariants.h"
#include "sim/rng.h"
#include "tests/unit/core_steps.h"

static int64_t submit_limited(struct world *w, const char *name, int64_t nodes, int64_t gpus,
                              int64_t limit_s) {
    struct entry_job_spec spec = world_spec();

    spec.name = (char *)name;
    spec.nodes = nodes;
    spec.gpus_per_node = gpus;
    spec.time_limit_us = limit_s ? S(limit_s) : S_ABSENT;
    return world_submit(w, &spec);
}

static void run_once(struct world *w, const char *name, int64_t us) {
    int64_t id = submit_limited(w, name, 1, 1, 0);

    CHECK_EQ(world_decide(w), 1);
    all_started(w, id);
    w->now_us += us;
    all_succeed(w, id);
}

static struct predict_rest rest_of(struct world *w, const char *name, int64_t had_us,
                                   int64_t limit_s) {
    int64_t id = submit_limited(w, name, 1, 1, limit_s);
    struct predict_rest rest = predict_rest(w->state, job_at(w, id), had_us);

    CHECK_EQ(stop(w, "submit:alice", id, true), 0);
    return rest;
}

#define CHECK_BETWEEN(value, low, high)                                                            \
    CHECK((value) >= (low) && (value) <= (high), "%lld s", (long long)(value) / 1000000)

TEST(run_times_are_predicted_from_those_of_the_same_name)
{
    struct world w;

    small_cluster(&w, 1, 2);
    struct predict_rest rest = rest_of(&w, "train", 0, 0);
    CHECK_EQ(rest.p50_us, S(600)); // nothing is known
    rest = rest_of(&w, "train", 0, 7200);
    CHECK_EQ(rest.p50_us, S(7200)); // but the limit
    for (int i = 0; i < 12; i++)
        run_once(&w, "train", S(100 + i));
    for (int i = 0; i < 8; i++)
        run_once(&w, "train", S(5000 + i));
    rest = rest_of(&w, "train", 0, 0);
    CHECK_BETWEEN(rest.p50_us, S(96), S(128));
    CHECK_BETWEEN(rest.p90_us, S(4096), S(6144));
    /* Who outlives the short ones is a long one. */
    rest = rest_of(&w, "train", S(200), 0);
    CHECK_BETWEEN(rest.p50_us, S(4096 - 200), S(6144 - 200));
    rest = rest_of(&w, "train", S(200), 1000);
    CHECK_EQ(rest.p50_us, S(800)); // no longer than it may
    /* A name that is new is like the user's others; what nobody outlived runs on as long again. */
    rest = rest_of(&w, "new", 0, 0);
    CHECK_BETWEEN(rest.p50_us, S(96), S(128));
    rest = rest_of(&w, "train", S(100000), 0);
    CHECK_BETWEEN(rest.p50_us, S(95000), S(105000));
    check_same(&w);
    world_free(&w);
}

/* Two jobs that ran for long are not all that may happen to the third. */
TEST(few_long_ones_say_little)
{
    struct world w;

    small_cluster(&w, 1, 2);
    for (int i = 0; i < 30; i++)
        run_once(&w, "train", S(100));
    run_once(&w, "train", S(5000));
    run_once(&w, "train", S(5000));
    struct predict_rest rest = rest_of(&w, "train", S(200), 0);
    CHECK_BETWEEN(rest.p50_us, S(400), S(4096 - 200));   // it may end sooner
    CHECK_BETWEEN(rest.p90_us, S(4096 - 200), S(40000)); // and run on for longer
    world_free(&w);
}

TEST(what_was_long_ago_fades)
{
    struct world w;

    small_cluster(&w, 1, 2);
    for (int i = 0; i < 60; i++)
        run_once(&w, "train", S(10));
    for (int i = 0; i < 120; i++)
        run_once(&w, "train", S(1000));
    CHECK_BETWEEN(rest_of(&w, "train", 0, 0).p50_us, S(768), S(1024));
    CHECK_EQ(w.state->n_pasts, 3); // of this name, of alice, of all
    check_same(&w);
    world_free(&w);
}

TEST(only_so_many_histories_are_kept)
{
    struct world w;
    char name[32];

    small_cluster(&w, 1, 2);
    for (int i = 0; i < PASTS_MAX + 100; i++) {
        (void)snprintf(name, sizeof name, "job-%d", i);
        run_once(&w, name, S(10));
        world_clear(&w);
    }
    CHECK_EQ(w.state->n_pasts, PASTS_MAX);
    CHECK_EQ(map_count(&w.state->past_by_key), PASTS_MAX);
    CHECK(map_get_text(&w.state->past_by_key, "alice\njob-0") == NULL);
    CHECK(map_get_text(&w.state->past_by_key, "\n") != NULL, "that of all is always in use");
    check_same(&w);
    world_free(&w);
}

/* A state that was decoded knows no more of what a waiting job was once taken to last. */
TEST(jobs_that_wait_forget_with_the_histories)
{
    struct world_cluster described = {.n_zones = 1,
                                      .leaves_per_zone = 1,
                                      .nodes_per_leaf = 2,
                                      .gpus = 2,
                                      .cpus = 8,
                                      .fence = true,
                                      .backfill = 4};
    struct world w;
    struct hai_err err = {0};
    char name[32];

    world_init(&w);
    world_cluster(&w, &described);
    for (int i = 0; i < 4; i++)
        run_once(&w, "old", S(100));
    CHECK_EQ(drain(&w, w.state->nodes[0]->r.name, true), 0);
    struct entry_job_spec spec = world_spec();
    spec.name = (char *)"old";
    spec.nodes = 2;
    spec.gpus_per_node = 1;
    spec.priority = 5;
    int64_t waits = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 0);
    CHECK_BETWEEN(job_at(&w, waits)->hold_s * S(1), S(100), S(200));
    for (int i = 0; i < PASTS_MAX; i++) {
        (void)snprintf(name, sizeof name, "job-%d", i);
        run_once(&w, name, S(1));
        world_clear(&w);
    }
    CHECK(map_get_text(&w.state->past_by_key, "alice\nold") == NULL);
    CHECK(job_at(&w, waits)->hold_s >= HOLD_ENDLESS, "%lld s",
          (long long)job_at(&w, waits)->hold_s);
    CHECK_EQ(invariants_state(w.state, &err), 0, "%s", hai_err_text(&err));
    check_same(&w);
    world_free(&w);
}

static const struct forecast_job *of(const struct forecast_job *all, size_t n, int64_t id) {
    static const struct forecast_job none;

    for (size_t i = 0; i < n; i++)
        if (all[i].id == id)
            return &all[i];
    CHECK(false, "no forecast for job %lld", (long long)id);
    return &none;
}

TEST(one_after_the_other)
{
    _cleanup_free_ struct forecast_job *all = NULL;
    struct world w;

    small_cluster(&w, 1, 2); // first come, first served
    int64_t a = submit_limited(&w, "a", 2, 2, 600);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, a);
    world_pass(&w, S(100));
    int64_t b = submit_limited(&w, "b", 2, 2, 1000), c = submit_limited(&w, "c", 1, 1, 60);
    CHECK_EQ(world_decide(&w), 0);
    int64_t a_ends_us = job_at(&w, a)->r.placed_us + S(600);
    size_t n = forecast_run(w.state, w.now_us, 0, NULL, &all);
    CHECK_EQ(n, 2);
    CHECK_BETWEEN(of(all, n, b)->start_us - a_ends_us, 0, S(17)); // a step of a thirtieth
    CHECK_EQ(of(all, n, b)->after, a);
    CHECK_BETWEEN(of(all, n, c)->start_us - a_ends_us, S(1000), S(1070));
    CHECK_EQ(of(all, n, c)->after, b);
    world_free(&w);
}

TEST(who_may_ask_does_not_wait_for_the_end)
{
    _cleanup_free_ struct forecast_job *all = NULL;
    struct entry_job_spec spec = world_spec();
    struct world w;

    sharing_cluster(&w, 1, 2, 2, 600);
    spec.priority = 10;
    spec.nodes = 2;
    spec.gpus_per_node = 2;
    spec.time_limit_us = S(100000);
    int64_t low = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, low);
    world_pass(&w, S(100));
    spec.priority = 50;
    int64_t high = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 0);
    size_t n = forecast_run(w.state, w.now_us, 0, NULL, &all);
    int64_t foreseen_us = of(all, n, high)->start_us;
    CHECK_EQ(of(all, n, high)->after, low);
    while (state_of(&w, low) == JOB_STATE_RUNNING)
        world_pass(&w, S(1));
    CHECK_BETWEEN(foreseen_us - w.now_us, -S(40), S(40));
    /* Once it has asked, the start is when the other has to have left. */
    free(all);
    n = forecast_run(w.state, w.now_us, 0, NULL, &all);
    CHECK_EQ(of(all, n, high)->start_us, job_at(&w, low)->r.kill_at_us);
    world_free(&w);
}

/* Far away steps are long, but nodes do not stand idle within them. */
TEST(the_last_of_many_rounds)
{
    enum { JOBS = 400, RUN_S = 300, AT_ONCE = 4 };
    _cleanup_free_ struct forecast_job *all = NULL;
    struct world w;
    int64_t last = 0;

    small_cluster(&w, 1, 2);
    for (int i = 0; i < JOBS; i++)
        last = submit_limited(&w, "many", 1, 1, RUN_S);
    CHECK_EQ(world_decide(&w), AT_ONCE);
    size_t n = forecast_run(w.state, w.now_us, 0, NULL, &all);
    CHECK_EQ(n, JOBS - AT_ONCE);
    int64_t rounds = JOBS / AT_ONCE - 1;
    CHECK_BETWEEN(of(all, n, last)->start_us - w.now_us, S(rounds * RUN_S),
                  S(rounds * RUN_S * 9 / 8));
    world_free(&w);
}

struct played {
    int64_t id, run_us, end_us, foreseen_us, at_us;
};

/* Jobs that run for as long as they may, submitted at random, first come, first served: then the
 * forecast at the submission is what happens, but for the steps: where two jobs end in one, the
 * packing may come out differently. */
TEST(what_is_foreseen_happens)
{
    enum { JOBS = 60 };
    struct played jobs[JOBS] = {0};
    struct rng rng = {7};
    struct world w;
    int n_late = 0, n_right = 0, n = 0;

    small_cluster(&w, 1, 4);
    w.state->r.remembers = S_ABSENT; // so that the limits are all that is known
    for (int i = 0; i < JOBS; i++) {
        _cleanup_free_ struct forecast_job *all = NULL;
        jobs[i].run_us = S(60 + rng_below(&rng, 5000));
        jobs[i].id = submit_limited(&w, "job", 1 + rng_below(&rng, 4), 1 + rng_below(&rng, 2),
                                    jobs[i].run_us / 1000000);
        jobs[i].at_us = w.now_us;
        jobs[i].foreseen_us = INT64_MAX;
        world_decide(&w);
        size_t n_all = forecast_run(w.state, w.now_us, jobs[i].id, NULL, &all);
        for (size_t k = 0; k < n_all; k++)
            if (all[k].id == jobs[i].id)
                jobs[i].foreseen_us = all[k].start_us;
        for (int64_t end_us = w.now_us + S(rng_below(&rng, 1500)); w.now_us < end_us;) {
            world_pass(&w, S(5));
            for (int k = 0; k <= i; k++) {
                struct job *job = job_at(&w, jobs[k].id);
                if (job->n_assigned)
                    all_started(&w, job->r.id);
                if (state_job_live(job) && w.now_us >= job->r.placed_us + jobs[k].run_us - S(1))
                    all_succeed(&w, job->r.id);
            }
            world_decide(&w);
        }
    }
    for (int i = 0; i < JOBS; i++) {
        const struct job *job = job_at(&w, jobs[i].id);
        if (job->r.attempt == 0 || jobs[i].foreseen_us == INT64_MAX)
            continue;
        int64_t waited_us = job->r.placed_us - jobs[i].at_us;
        int64_t error_us = jobs[i].foreseen_us - job->r.placed_us;
        n_right += llabs(error_us) <= waited_us / 12 + S(60);
        n_late += waited_us > S(600);
        n++;
    }
    CHECK(n_late >= 10, "%d jobs waited", n_late);
    CHECK(n_right * 10 >= n * 9, "%d of %d", n_right, n);
    world_free(&w);
}

/* What goes first may not be there yet: it is foreseen from what came lately. */
TEST(what_comes_is_foreseen)
{
    enum { ROUNDS = 20, RUN_S = 100 };
    _cleanup_free_ struct forecast_job *all = NULL;
    struct entry_job_spec spec = world_spec();
    struct world w;

    small_cluster(&w, 1, 2);
    spec.priority = 50;
    spec.nodes = spec.gpus_per_node = 2;
    spec.time_limit_us = S(RUN_S);
    for (int i = 0; i < ROUNDS; i++) {
        int64_t id = world_submit(&w, &spec);
        CHECK_EQ(world_decide(&w), 1);
        all_started(&w, id);
        if (i + 1 == ROUNDS)
            break;
        w.now_us += S(RUN_S);
        all_succeed(&w, id);
    }
    spec.priority = 10;
    int64_t low = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 0);
    size_t n = forecast_run(w.state, w.now_us, 0, NULL, &all);
    CHECK_EQ(n, 1);
    CHECK(of(all, n, low)->start_us > w.now_us + S(10 * RUN_S), "others will go first");
    check_same(&w);
    world_free(&w);
}

/* It comes as new: not at the place that a job was moved to, nor with the level or the reservation
 * that it had. */
TEST(what_comes_has_the_level_of_today)
{
    enum { ROUNDS = 8, HOUR_S = 3600 };
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 1,
                                    .gpus = 2,
                                    .cpus = 8,
                                    .fair_share_us = S(16 * HOUR_S),
                                    .aging_us = S(4 * HOUR_S)};
    struct entry_job_spec spec = world_spec();
    struct entry_tick tick = {S_ABSENT};
    struct arrivals arrivals;
    struct arrivals_walk walk;
    struct world w;
    int n_stale = 0;

    world_init(&w);
    world_cluster(&w, &cluster);
    for (int i = 0; i < ROUNDS; i++) {
        spec.user = (char *)(i % 2 ? "alice" : "bob");
        spec.gpus_per_node = i % 2 + 1;
        int64_t id = world_submit(&w, &spec);
        n_stale += i % 2 && job_at(&w, id)->level == 0;
        CHECK_EQ(world_decide(&w), 1);
        all_started(&w, id);
        w.now_us += S(i % 2 ? HOUR_S / 4 : 1);
        job_at(&w, id)->r.place = 1; // as if they had been moved, in a reservation that is over
        job_at(&w, id)->r.reserve = 7;
        all_succeed(&w, id);
    }
    w.now_us += S(HOUR_S);
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_TICK, &tick), 0); // a turn
    arrivals_of(w.state, w.now_us, &arrivals);
    CHECK_EQ(arrivals.n, ROUNDS);
    CHECK(n_stale > 0, "all had their level already");
    arrivals_begin(&walk, &arrivals, w.now_us, 0, 1);
    for (int i = 0; i < ROUNDS; i++) {
        int64_t at_us = arrivals_next_us(&walk);
        struct job job = arrivals_take(&walk, w.state, 1000 + i);
        CHECK_EQ(job.r.submitted_us, at_us);
        CHECK_EQ(job.level, strcmp(job.r.spec.user, "alice") ? 0 : 2);
        CHECK_EQ(job.level, fair_level(w.state, &job));
        CHECK_EQ(job.r.place, S_ABSENT);
        CHECK_EQ(job.r.line_us, S_ABSENT);
        CHECK_EQ(job.r.reserve, S_ABSENT);
    }
    world_free(&w);
}

/* Of many that run the first ends long before half of their like do. */
TEST(the_first_of_many_ends_soon)
{
    enum { AT_ONCE = 4 };
    _cleanup_free_ struct forecast_job *all = NULL;
    struct world w;

    small_cluster(&w, 1, 2);
    for (int64_t run_s = 100; run_s < 20000; run_s = run_s * 3 / 2)
        run_once(&w, "train", S(run_s));
    struct predict_rest rest = rest_of(&w, "train", 0, 0);
    for (int i = 0; i < AT_ONCE; i++)
        submit_limited(&w, "train", 1, 1, 0);
    CHECK_EQ(world_decide(&w), AT_ONCE);
    int64_t next = submit_limited(&w, "train", 1, 1, 0);
    size_t n = forecast_run(w.state, w.now_us, next, NULL, &all);
    int64_t wait_us = of(all, n, next)->start_us - w.now_us;
    CHECK(wait_us < rest.p50_us * 2 / 3, "%lld s of %lld s", (long long)wait_us / 1000000,
          (long long)rest.p50_us / 1000000);
    CHECK(of(all, n, next)->late_us > of(all, n, next)->start_us, "and may end later");
    world_free(&w);
}

/* Who gives way goes on before those behind it. */
TEST(who_gave_way_comes_back)
{
    _cleanup_free_ struct forecast_job *all = NULL;
    struct entry_job_spec spec = world_spec();
    struct world w;

    sharing_cluster(&w, 1, 2, 2, 600);
    spec.priority = 10;
    spec.nodes = spec.gpus_per_node = 2;
    spec.time_limit_us = S(100000);
    int64_t low = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, low);
    world_pass(&w, S(100));
    spec.priority = 50;
    spec.time_limit_us = S(1000);
    world_submit(&w, &spec);
    spec.priority = 10;
    int64_t behind = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 0);
    size_t n = forecast_run(w.state, w.now_us, 0, NULL, &all);
    CHECK(of(all, n, behind)->start_us > w.now_us + S(5000), "%lld s",
          (long long)(of(all, n, behind)->start_us - w.now_us) / 1000000);
    world_free(&w);
}

/* A burst fills an hour: what is expected comes from more than that. */
TEST(a_burst_is_not_all_that_comes)
{
    enum { BEFORE = 40, BURST = 600 };
    struct arrivals arrivals;
    struct world w;

    small_cluster(&w, 1, 2);
    for (int i = 0; i < BEFORE; i++)
        run_once(&w, "train", S(900));
    for (int i = 0; i < BURST; i++) {
        run_once(&w, "burst", S(2));
        world_clear(&w);
    }
    arrivals_of(w.state, w.now_us, &arrivals);
    CHECK_EQ(arrivals.n, BEFORE + BURST);
    CHECK(arrivals.window_us > S(BEFORE * 800), "%lld s", (long long)arrivals.window_us / 1000000);
    world_free(&w);
}

/* How long those like a job waited, as long as it has not waited for longer itself. */
TEST(who_waits_waits_like_others)
{
    enum { STARTS = 9, WAIT_S = 300 };
    _cleanup_free_ struct forecast_job *all = NULL;
    struct world w;

    small_cluster(&w, 1, 2);
    for (int i = 0; i < STARTS; i++) {
        int64_t id = submit_limited(&w, "train", 1, 1, 0);
        w.now_us += S(WAIT_S + i);
        CHECK_EQ(world_decide(&w), 1);
        all_started(&w, id);
        all_succeed(&w, id);
    }
    int64_t id = submit_limited(&w, "train", 1, 1, 0), gang = submit_limited(&w, "train", 2, 2, 0);
    int64_t at_us = job_at(&w, id)->r.submitted_us;
    struct waits *waits = waits_new(w.state);
    CHECK_BETWEEN(waits_start_us(waits, w.state, job_at(&w, id), at_us) - at_us,
                  S(WAIT_S + STARTS / 2), S(WAIT_S + STARTS / 2 + 1));
    CHECK_EQ(waits_start_us(waits, w.state, job_at(&w, gang), at_us), INT64_MAX);
    CHECK_EQ(waits_start_us(waits, w.state, job_at(&w, id), at_us + S(2 * WAIT_S)), INT64_MAX);
    waits_free(waits);
    /* Where all draws agree the others' waits only make the late end later. */
    size_t n = forecast_run(w.state, w.now_us, 0, NULL, &all);
    CHECK_BETWEEN(of(all, n, id)->start_us - w.now_us, 0, S(1));
    CHECK_BETWEEN(of(all, n, id)->late_us - at_us, S(WAIT_S), S(WAIT_S + STARTS));
    world_free(&w);
}
