/* bench_core - the scheduler's core alone: submissions, decisions, snapshots.
 *
 *     bench-core [JOBS] [NODES] [fifo|backfill] [quotas]     default: 10000 1250
 *
 * One core of the machine, no log and no store. The waiting jobs have about a thousand shapes and
 * 500 users; time is shared unless strict order is asked for: `fifo`, or `backfill`, where half of
 * the jobs name one of eight time limits, and the others are known by their names. A change is a
 * submission or the end of a job. quotas: every user may hold 96 GPUs at each level, each of 20
 * teams 1,600, and every fifth job is automatic.
 */
#include "lib/pure/tlv.h"
#include "scheduler/core/forecast.h"
#include "scheduler/core/queue.h"
#include "sim/rng.h"
#include "sim/world.h"

#include <malloc.h>
#include <stdio.h>
#include <time.h>

enum { ROUNDS = 400, CHANGES = 10, USERS = 500, TEAMS = 20, USER_GPUS = 96, TEAM_GPUS = 1600 };

static const int64_t levels[] = {10, 20, 30, 40};
static bool quotas;
static int64_t n_refused; // in strict order: larger than the whole quota

static double seconds(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static bool backfills;

static int64_t submit(struct world *w, int i) {
    static const int64_t limits_h[] = {1, 2, 4, 8, 12, 24, 48, 72};
    static uint8_t blob[800]; // a job file as JSON
    struct entry_job_spec spec = world_spec();
    char user[16], team[16];

    (void)snprintf(user, sizeof user, "u%d", i % USERS);
    (void)snprintf(team, sizeof team, "t%d", i % USERS % TEAMS);
    spec.user = user;
    spec.team = team;
    if (quotas && i % 5 == 2)
        spec.auto_priority = 1;
    spec.priority = levels[i % 4];
    spec.gpus_per_node = i % 5 ? 1 + i % 8 : 8;
    spec.nodes = i % 5 ? 1 : 1 + i / 5 % 32;
    spec.cpus_per_node = 1 + i / 160 % 7;
    spec.cross_zones = i % 3 == 0;
    spec.spec = (struct schema_blob){blob, sizeof blob};
    if (backfills && i / 7 % 2)
        spec.time_limit_us = limits_h[i / 14 % 8] * 3600 * INT64_C(1000000);
    int64_t id = world_submit(w, &spec);
    n_refused += id < 0;
    world_clear(w);
    return id;
}

static void submit_all(struct world *w, int n_jobs) {
    size_t before = mallinfo2().uordblks;
    double start = seconds();

    for (int i = 0; i < n_jobs; i++)
        submit(w, i);
    printf("submissions applied: %.0f a second, %.0f bytes a job with a spec of 800\n",
           n_jobs / (seconds() - start), (double)(mallinfo2().uordblks - before) / n_jobs);
}

static void apply_all(struct world *w, struct decide_list *list) {
    struct apply_reply reply;

    for (size_t i = 0; i < list->n; i++) {
        struct entry entry = {
            w->state->r.index + 1, 1, w->state->r.time_us + 1,     "system:hai",
            list->items[i].kind,   1, list->items[i].payload.data, list->items[i].payload.n_bytes};
        apply_entry(w->state, &entry, w->fx, &reply);
    }
    decide_list_clear(list);
    effects_clear(w->fx);
}

/* Decide until there is nothing left to do. Returns the time of all decisions; *ret_first: of the
 * first. */
static double settle(struct world *w, struct decide_list *list, double *ret_first) {
    double sum = 0;

    *ret_first = -1;
    for (size_t n = 1; n;) {
        double start = seconds();
        n = decide_run(w->decide, w->state, list);
        double took = seconds() - start;
        if (*ret_first < 0)
            *ret_first = took;
        sum += took;
        apply_all(w, list);
    }
    return sum;
}

static void end_one(struct world *w, struct rng *rng) {
    const struct job *job = w->state->live_first;

    for (int64_t skip = rng_below(rng, 200); job && job->live_next && skip; skip--)
        job = job->live_next;
    if (!job)
        return; // all have ended
    int64_t id = job->r.id, epoch = job->r.epoch;
    for (size_t rank = 0; rank < job->r.ranks.n; rank++) {
        struct entry_rank_exited in = {id, epoch, (int64_t)rank, 0, 0, EXIT_CAUSE_SELF, NULL};
        world_append(w, "system:hai", ENTRY_RANK_EXITED, &in);
    }
    world_clear(w);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void report(const char *what, double *times) {
    qsort(times, ROUNDS, sizeof *times, ascending);
    printf("%s: median %.2f ms, p99 %.2f ms, longest %.2f ms\n", what, times[ROUNDS / 2] * 1e3,
           times[ROUNDS * 99 / 100] * 1e3, times[ROUNDS - 1] * 1e3);
}

static void changes(struct world *w, int n_jobs) {
    static double first[ROUNDS], all[ROUNDS];
    struct decide_list list = {0};
    struct rng rng = {1};

    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CHANGES / 2; i++) {
            submit(w, n_jobs + round * CHANGES + (int)rng_below(&rng, 1000));
            end_one(w, &rng);
        }
        w->now_us += 1000000;
        all[round] = settle(w, &list, &first[round]);
    }
    report("a decision after 10 changes", first);
    report("all that follows from them", all);
    decide_list_free(&list);
}

static void snapshot(const struct world *w) {
    struct buf bytes = {0};
    struct state *copy;
    double start = seconds();

    state_encode(w->state, &bytes);
    double encode_s = seconds() - start;
    start = seconds();
    if (state_decode(bytes.data, bytes.n_bytes, &copy, NULL) == 0)
        state_free(copy);
    printf("snapshot: %zu bytes, encode %.1f ms, decode %.1f ms\n", bytes.n_bytes, encode_s * 1e3,
           (seconds() - start) * 1e3);
    buf_free(&bytes);
}

/* When the last one and when all of them start. */
static void forecasts(const struct world *w) {
    _cleanup_free_ struct forecast_job *all = NULL;
    size_t n_foreseen = 0;

    double start = seconds();
    size_t n = forecast_run(w->state, w->now_us, 0, NULL, &all);
    double took = seconds() - start;
    for (size_t i = 0; i < n; i++)
        n_foreseen += all[i].start_us != INT64_MAX;
    printf("a forecast of %zu jobs: %.1f ms, %zu start within the horizon\n", n, took * 1e3,
           n_foreseen);
}

static void give_quotas(struct world *w) {
    struct entry_quota_set set = {.group = (char *)"default", .gpus = USER_GPUS};
    char team[16];

    set.holder = QUOTA_HOLDER_EVERY;
    for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
        set.priority = levels[i];
        world_append(w, "system:hai", ENTRY_QUOTA_SET, &set);
    }
    set.holder = QUOTA_HOLDER_TEAM;
    set.name = team;
    set.gpus = TEAM_GPUS;
    for (int t = 0; t < TEAMS; t++)
        for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
            (void)snprintf(team, sizeof team, "t%d", t);
            set.priority = levels[i];
            world_append(w, "system:hai", ENTRY_QUOTA_SET, &set);
        }
}

/* A limit changes while all of them wait. */
static void change_quota(struct world *w) {
    struct entry_quota_set set = {QUOTA_HOLDER_EVERY, NULL, (char *)"default", 30, USER_GPUS + 8};
    double start = seconds();

    world_append(w, "system:hai", ENTRY_QUOTA_SET, &set);
    printf("a quota of every user is changed: %.1f ms\n", (seconds() - start) * 1e3);
    world_clear(w);
}

int main(int argc, char **argv) {
    int n_jobs = argc > 1 ? atoi(argv[1]) : 10000;
    int n_nodes = argc > 2 ? atoi(argv[2]) : 1250;
    bool fifo = false;
    struct decide_list list = {0};
    struct world_cluster cluster = {.n_zones = 2,
                                    .leaves_per_zone = MAX(n_nodes / 40, 1),
                                    .nodes_per_leaf = 20,
                                    .gpus = 8,
                                    .cpus = 64};
    struct world w;
    double first;

    for (int i = 3; i < argc; i++) {
        backfills |= !strcmp(argv[i], "backfill");
        fifo |= backfills || !strcmp(argv[i], "fifo");
        quotas |= !strcmp(argv[i], "quotas");
    }
    cluster.backfill = backfills ? BACKFILL_DEFAULT : 0;
    cluster.min_run_us = fifo ? 0 : INT64_C(1800) * 1000000;
    world_init(&w);
    w.forget = true;
    world_cluster(&w, &cluster);
    if (quotas)
        give_quotas(&w);
    submit_all(&w, n_jobs);
    double sum = settle(&w, &list, &first);
    printf("%lld jobs wait on %d nodes; first decision %.1f ms, all until nothing fits %.1f ms\n",
           (long long)w.state->queue.n, w.state->n_nodes, first * 1e3, sum * 1e3);
    changes(&w, n_jobs);
    double start = seconds();
    for (int i = 0; i < 100000; i++)
        decide_run(w.decide, w.state, &list);
    printf("a decision with nothing new: %.2f us\n", (seconds() - start) * 10);
    forecasts(&w);
    snapshot(&w);
    if (quotas)
        change_quota(&w);
    if (n_refused)
        printf("%lld submissions were refused\n", (long long)n_refused);
    decide_list_free(&list);
    world_free(&w);
    return 0;
}
