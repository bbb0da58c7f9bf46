/* What decide proposes with its memories, pictures and searches by halves is what a search from
 * scratch proposes: after every event at 100 nodes, now and then at full size. */
#include "sim/naive.h"
#include "tests/unit/core_steps.h"

struct day {
    struct world w;
    struct rng rng;
    int n_steps;
    int per_step; // jobs that come and go
};

static void submit_one(struct day *d) {
    static const int64_t levels[] = {50, 30, 30, 10};
    struct entry_job_spec spec = world_spec();

    spec.nodes = rng_once_in(&d->rng, 3) ? 1 + rng_below(&d->rng, 12) : 1;
    spec.gpus_per_node = spec.nodes > 1 ? 8 : rng_below(&d->rng, 9);
    spec.priority = levels[rng_below(&d->rng, ARRAY_SIZE(levels))];
    spec.cross_zones = rng_once_in(&d->rng, 3);
    CHECK(world_submit(&d->w, &spec) > 0, "%s", d->w.reply.err.text);
}

/* A job somewhere among those that hold nodes: a gang that starts runs, one that runs ends. */
static void move_one(struct day *d) {
    struct job *job = d->w.state->live_first;

    for (int64_t skip = rng_below(&d->rng, 20); job && job->live_next && skip > 0; skip--)
        job = job->live_next;
    if (!job)
        return;
    int64_t id = job->r.id;
    if (job->r.state == JOB_STATE_STARTING && rng_once_in(&d->rng, 2)) {
        all_started(&d->w, id);
        return;
    }
    all_succeed(&d->w, id);
}

static void run_day(struct day *d) {
    for (int i = 0; i < d->n_steps && !test_failed(); i++) {
        for (int k = 0; k < d->per_step; k++)
            if (rng_once_in(&d->rng, 2))
                submit_one(d);
            else
                move_one(d);
        if (rng_once_in(&d->rng, 10))
            change_a_node(&d->w, &d->rng);
        world_decide(&d->w);
        world_pass(&d->w, rng_below(&d->rng, S(20)));
        world_clear(&d->w);
        CHECK_EQ(naive_error(d->w.naive)->r, 0, "step %d: %s", i, naive_error(d->w.naive)->text);
    }
}

static void day_begin(struct day *d, uint64_t seed, const struct world_cluster *cluster,
                      int64_t every) {
    d->rng.state = seed;
    world_init(&d->w);
    d->w.forget = true;
    world_cluster(&d->w, cluster);
    d->w.naive = naive_new(every);
}

TEST(decides_as_a_search_from_scratch_at_100_nodes)
{
    for (uint64_t seed = 1; seed <= 4 && !test_failed(); seed++) {
        struct world_cluster cluster = {.n_zones = 2,
                                        .leaves_per_zone = 5,
                                        .nodes_per_leaf = 10,
                                        .gpus = 8,
                                        .cpus = 64,
                                        .min_run_us = seed % 2 ? S(60) : 0};
        struct day d = {.n_steps = 200, .per_step = 3};
        day_begin(&d, seed, &cluster, 1);
        run_day(&d);
        CHECK(naive_compared(d.w.naive) > d.n_steps);
        world_free(&d.w);
    }
}

/* One run in eighty, of a dozen events each: about every thousandth event. */
TEST(decides_as_a_search_from_scratch_at_10000_nodes)
{
    for (int shares = 0; shares < 2 && !test_failed(); shares++) {
        struct world_cluster cluster = {.n_zones = 2,
                                        .leaves_per_zone = 50,
                                        .nodes_per_leaf = 100,
                                        .gpus = 8,
                                        .cpus = 64,
                                        .min_run_us = shares ? S(60) : 0};
        struct day d = {.n_steps = 600, .per_step = 12};
        day_begin(&d, 7, &cluster, 80);
        run_day(&d);
        CHECK(naive_compared(d.w.naive) >= 5, "%lld", (long long)naive_compared(d.w.naive));
        world_free(&d.w);
    }
}
