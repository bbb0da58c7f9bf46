/* bench_core - the scheduler's core alone: submissions, decisions, snapshots.
 *
 *     bench-core [JOBS] [NODES] [fifo|backfill] [quotas] [reserve] [noforecast]
 *                                                             default: 10000 1250
 *
 * One core of the machine, no log and no store; processor time. The waiting jobs have about a
 * thousand shapes and 500 users; time is shared unless strict order is asked for: `fifo`, or
 * `backfill`, where half of the jobs name one of eight time limits, and the others are known by
 * their names. A change is a submission or the end of a job. quotas: every user may hold 96 GPUs at
 * each level, each of 20 teams 1,600, and every fifth job is automatic. reserve: twenty
 * reservations of a hundredth of the nodes each, one an hour from now on. tests/bench/core.py makes
 * a table of it.
 */
#include "lib/pure/tlv.h"
#include "scheduler/core/forecast.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/whyplan.h"
#include "sim/rng.h"
#include "sim/world.h"

#include <malloc.h>
#include <stdio.h>
#include <time.h>

enum {
    ROUNDS = 400,
    CHANGES = 10,
    USERS = 500,
    TEAMS = 20,
    USER_GPUS = 96,
    TEAM_GPUS = 1600,
    WHY_ALL_MAX = 10000
};

static const int64_t levels[] = {10, 20, 30, 40};
static bool quotas;
static int64_t n_refused; // in strict order: larger than the whole quota

static double seconds(void) {
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
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

/* Jobs that have nodes run from now on. Returns how many began. */
static int begin_running(struct world *w) {
    char principal[PRINCIPAL_MAX + 1];
    int n = 0;

    for (struct job *job = w->state->live_first, *next; job; job = next) {
        next = job->live_next;
        if (job->r.state != JOB_STATE_STARTING)
            continue;
        for (size_t i = 0; i < job->r.allocs.n; i++) {
            char *node = w->state->nodes[job->r.allocs.items[i].node]->r.name;
            struct entry_ranks_started in = {job->r.id, job->r.epoch, node};
            (void)snprintf(principal, sizeof principal, "node:%s", node);
            world_append(w, principal, ENTRY_RANKS_STARTED, &in);
        }
        n++;
    }
    world_clear(w);
    return n;
}

/* All that run save, in no order. */
static void save_all(struct world *w) {
    _cleanup_free_ struct job **jobs = hai_new_array(struct job *, w->state->runners.n + 1);
    static uint8_t digest[DIGEST_BYTES];
    struct rng rng = {2};
    size_t n = 0;

    for (struct job *job = w->state->live_first; job; job = job->live_next)
        if (job->r.state == JOB_STATE_RUNNING)
            jobs[n++] = job;
    for (size_t i = n; i > 1; i--) {
        size_t k = (size_t)rng_below(&rng, (int64_t)i);
        struct job *swap = jobs[k];
        jobs[k] = jobs[i - 1];
        jobs[i - 1] = swap;
    }
    for (size_t i = 0; i < n; i++) {
        struct entry_ckpt_committed in = {
            jobs[i]->r.id, jobs[i]->r.epoch, 1, (char *)"ckpt", {digest, sizeof digest},
                 S_ABSENT
        };
        world_append(w, "system:hai", ENTRY_CKPT_COMMITTED, &in);
    }
    world_clear(w);
    printf("%zu jobs run, and have saved\n", n);
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
        (void)begin_running(w);
        w->now_us += 1000000;
        all[round] = settle(w, &list, &first[round]);
    }
    report("a decision after 10 changes", first);
    report("all that follows from them", all);
    decide_list_free(&list);
}

/* As after a restart: read the state, decide. */
static void snapshot(const struct world *w) {
    struct decide_list list = {0};
    struct decide *decide = decide_new();
    struct buf bytes = {0};
    struct state *copy;
    double start = seconds();

    state_encode(w->state, &bytes);
    double encode_s = seconds() - start;
    start = seconds();
    if (state_decode(bytes.data, bytes.n_bytes, &copy, NULL) < 0)
        return;
    double decode_s = seconds() - start;
    start = seconds();
    decide_run(decide, copy, &list);
    printf("snapshot: %zu bytes, encode %.1f ms, decode %.1f ms; first pass %.1f ms\n",
           bytes.n_bytes, encode_s * 1e3, decode_s * 1e3, (seconds() - start) * 1e3);
    decide_list_free(&list);
    decide_free(decide);
    state_free(copy);
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

/* What a person who asks for one job waits for, for ROUNDS jobs of the whole line, and all of them.
 */
static void explanations(const struct world *w) {
    static double times[ROUNDS];
    int64_t skip = MAX(w->state->queue.n / ROUNDS, 1), at = 0, n = 0;
    struct queue_walk line = {0};
    struct why why;

    queue_walk_begin(&line, w->state);
    for (const struct job *job; n < ROUNDS && (job = queue_walk_next(&line)); at++) {
        if (at % skip)
            continue;
        double start = seconds();
        why_job(w->state, job, &why);
        whyplan_explain(w->state, job, &why);
        times[n++] = seconds() - start;
    }
    queue_walk_end(&line);
    if (n < ROUNDS)
        return;
    report("why a job waits", times);
    if (w->state->queue.n > WHY_ALL_MAX)
        return;
    double start = seconds();
    queue_walk_begin(&line, w->state);
    for (const struct job *job; (job = queue_walk_next(&line));)
        why_job(w->state, job, &why);
    queue_walk_end(&line);
    printf("why all %lld wait: %.1f ms\n", (long long)w->state->queue.n, (seconds() - start) * 1e3);
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

static void reserve(struct world *w, int n_nodes) {
    char name[16];

    for (int i = 0; i < 20; i++) {
        struct entry_reserve_set set;
        char *user = (char *)"u1";
        schema_init(entry_reserve_set_schema(), &set);
        (void)snprintf(name, sizeof name, "r%d", i);
        set.name = name;
        set.from_us = w->now_us + i * 3600 * INT64_C(1000000);
        set.until_us = set.from_us + 7200 * INT64_C(1000000);
        for (int k = 0; k < MAX(n_nodes / 100, 1); k++)
            *LIST_ADD(&set.nodes) =
                w->state->nodes[(i * MAX(n_nodes / 100, 1) + k) % w->state->n_nodes]->r.name;
        *LIST_ADD(&set.users) = user;
        world_append(w, "operate:root", ENTRY_RESERVE_SET, &set);
        world_clear(w);
        free(set.nodes.items);
        free(set.users.items);
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
    bool fifo = false, reserves = false, foresees = true;
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
        reserves |= !strcmp(argv[i], "reserve");
        foresees &= strcmp(argv[i], "noforecast") != 0;
    }
    cluster.backfill = backfills ? BACKFILL_DEFAULT : 0;
    cluster.min_run_us = fifo ? 0 : INT64_C(1800) * 1000000;
    world_init(&w);
    w.forget = true;
    world_cluster(&w, &cluster);
    if (quotas)
        give_quotas(&w);
    if (reserves)
        reserve(&w, n_nodes);
    submit_all(&w, n_jobs);
    double sum = settle(&w, &list, &first);
    printf("%lld jobs wait on %d nodes; first decision %.1f ms, all until nothing fits %.1f ms\n",
           (long long)w.state->queue.n, w.state->n_nodes, first * 1e3, sum * 1e3);
    (void)begin_running(&w);
    w.now_us += 4 * 3600 * INT64_C(1000000);
    save_all(&w);
    sum = settle(&w, &list, &first);
    printf("four hours later: first decision %.1f ms, all of them %.1f ms\n", first * 1e3,
           sum * 1e3);
    changes(&w, n_jobs);
    double start = seconds();
    for (int i = 0; i < 100000; i++)
        decide_run(w.decide, w.state, &list);
    printf("a decision with nothing new: %.2f us\n", (seconds() - start) * 10);
    explanations(&w);
    if (foresees)
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
