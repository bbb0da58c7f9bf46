#include "sim/shims.h"
#include "lib/pure/plant.h"

enum {
    LEFT_US = 20 * 1000,
    LEFT_LONG_US = 5 * 1000 * 1000,
    HANG_US = 8 * 1000 * 1000,
    RUN_LONG = 10,
    TERM_US = 800 * 1000,
    SPREAD_US = 3 * 1000 * 1000, // between the ends of a gang's ranks
};

/* What was started of a job: its newest epoch, and on which nodes. */
struct started {
    int64_t epoch;
    uint64_t nodes;
};

#define NEVER INT64_MAX

static int64_t now(const struct shims *shims) {
    return shims->agenda->now_us;
}

int64_t shims_boot_us(const struct shims *shims, int node) {
    return drift_read(&shims->clocks[node], now(shims));
}

struct shim *shims_find(const struct shims *shims, int node, int64_t id) {
    struct shim *shim = shims->first[node];

    while (shim && shim->id != id)
        shim = shim->next;
    return shim;
}

struct shim *shims_of(const struct shims *shims, int node, const struct reconcile_key *key) {
    struct shim *shim = shims->first[node];

    while (shim && memcmp(&shim->key, key, sizeof *key) != 0)
        shim = shim->next;
    return shim;
}

/* ---- when it is looked at again ---- */

static int64_t due_us(const struct shims *shims, const struct shim *shim) {
    const struct drift *clock = &shims->clocks[shim->node];
    int64_t due = NEVER;

    for (size_t i = 0; i < shim->n_ranks; i++)
        if (shim->ranks[i].running)
            due = MIN(due, shim->ranks[i].ends_us);
    if (!shim->n_running && shim->left)
        due = MIN(due, shim->left_until_us);
    if (shim->lives && shim->left && !shim->expired)
        due = MIN(due, drift_when(clock, shim->lease_until_us));
    if (shim->lives && shim->left && shim->kill_at_us && !shim->killing)
        due = MIN(due, drift_when(clock, shim->kill_at_us));
    return due;
}

static void plan(struct shims *shims, struct shim *shim) {
    int64_t due = due_us(shims, shim);

    if (due == NEVER || (shim->event_us > now(shims) && shim->event_us <= due))
        return;
    shim->event_us = MAX(due, now(shims) + 1);
    agenda_add(shims->agenda, shim->event_us, AGENDA_SHIM, shim->node, shim->id, NULL);
}

/* ---- starting ---- */

/* Is something left that this attempt must not meet? */
static void check_other(struct shims *shims, const struct shim *shim, const struct shim *other) {
    int64_t a = shim->first_rank, b = other->first_rank;
    long long job = shim->key.job;

    if (other == shim || !other->left || shims->err.r < 0)
        return;
    if (other->node == shim->node && (other->gpus & shim->gpus))
        hai_fail(&shims->err, -EINVAL, "a GPU of node %d runs jobs %lld and %lld", shim->node,
                 (long long)other->key.job, job);
    else if (other->key.job == shim->key.job && other->key.epoch != shim->key.epoch)
        hai_fail(&shims->err, -EINVAL, "epochs %lld and %lld of job %lld run, on nodes %d and %d",
                 (long long)other->key.epoch, (long long)shim->key.epoch, job, other->node,
                 shim->node);
    else if (other->key.job == shim->key.job && a < b + (int64_t)other->n_ranks &&
             b < a + (int64_t)shim->n_ranks)
        hai_fail(&shims->err, -EINVAL, "a rank of job %lld runs twice, once on node %d", job,
                 shim->node);
}

static void check_start(struct shims *shims, const struct shim *shim) {
    struct started *started = map_get(&shims->started, shim->key.job);
    uint64_t node = UINT64_C(1) << shim->node;

    for (const struct shim *other = shims->first[shim->node]; other; other = other->next)
        check_other(shims, shim, other);
    for (const struct shim *other = map_get(&shims->by_job, shim->key.job); other;
         other = other->next_of_job)
        check_other(shims, shim, other);
    if (!started) {
        started = hai_new(struct started);
        map_put(&shims->started, shim->key.job, started);
    }
    if (shim->key.epoch > started->epoch)
        *started = (struct started){.epoch = shim->key.epoch};
    else if ((shim->key.epoch < started->epoch || (started->nodes & node)) && shims->err.r == 0)
        hai_fail(&shims->err, -EINVAL, "epoch %lld of job %lld is started again, on node %d",
                 (long long)shim->key.epoch, (long long)shim->key.job, shim->node);
    started->nodes |= node;
}

/* All ranks of a gang work for about as long. */
static void choose_ends(struct shims *shims, struct shim *shim) {
    struct rng gang = {shims->seed * 1000003 + (uint64_t)(shim->key.job * 257 + shim->key.epoch)};
    int64_t run_us = rng_below(&gang, shims->run_us * (rng_once_in(&gang, 12) ? RUN_LONG : 1));

    if (shims->calm)
        run_us = MIN(run_us, shims->run_us);
    for (size_t i = 0; i < shim->n_ranks; i++) {
        struct shims_rank *rank = &shim->ranks[i];
        *rank = (struct shims_rank){.running = true};
        rank->ends_us = now(shims) + run_us + rng_below(shims->rng, SPREAD_US);
        rank->exit.rank = shim->first_rank + (int64_t)i;
    }
}

/* Its agent was held up since the lease was granted: nothing may run any more. */
static void start_none(struct shims *shims, struct shim *shim) {
    for (size_t i = 0; i < shim->n_ranks; i++) {
        struct shims_rank *rank = &shim->ranks[i];
        rank->running = false;
        rank->exit.exit_code = 127;
        rank->exit.cause = EXIT_CAUSE_LEASE;
        rank->exit.at_us = now(shims);
    }
    shim->n_running = 0;
    shim->left = false;
    shim->gone = true;
}

struct shim *shims_start(struct shims *shims, int node, const struct reconcile_key *key,
                         int64_t first_rank, int64_t n_ranks, uint32_t gpus,
                         int64_t lease_until_us) {
    struct shim *shim = hai_new(struct shim);

    *shim = (struct shim){
        .id = ++shims->n,
        .key = *key,
        .node = node,
        .gpus = gpus,
        .first_rank = first_rank,
        .n_ranks = (size_t)n_ranks,
        .n_running = (size_t)n_ranks,
        .ranks = hai_new_array(struct shims_rank, (size_t)n_ranks),
        .lives = true,
        .left = true,
        .started_us = now(shims),
        .lease_until_us = lease_until_us,
        .next = shims->first[node],
    };
    choose_ends(shims, shim);
    if (shims_boot_us(shims, node) >= lease_until_us && !HAI_PLANT(PLANT_LATE_START))
        start_none(shims, shim);
    else
        check_start(shims, shim);
    shims->first[node] = shim;
    shim->next_of_job = map_put(&shims->by_job, key->job, shim);
    plan(shims, shim);
    return shim;
}

/* ---- ends ---- */

static void end_rank(struct shims *shims, struct shim *shim, struct shims_rank *rank) {
    rank->running = false;
    rank->exit.at_us = now(shims);
    if (rank->exit.cause == EXIT_CAUSE_SELF)
        rank->exit.cause = shim->order;
    if (--shim->n_running)
        return;
    bool lingers = rng_once_in(shims->rng, 10) && shim->lives && !shim->expired;
    shim->left_until_us = now(shims) + rng_below(shims->rng, lingers ? LEFT_LONG_US : LEFT_US);
}

/* However long something hangs otherwise, it is gone shortly after the end of the lease, or of its
 * shim: for the rest nobody could answer. */
static void cap_ends(struct shims *shims, struct shim *shim) {
    int64_t end_us = now(shims) + SHIMS_KILL_US;

    for (size_t i = 0; i < shim->n_ranks; i++)
        if (shim->ranks[i].running)
            shim->ranks[i].ends_us = MIN(shim->ranks[i].ends_us, end_us);
    shim->left_until_us = MIN(shim->left_until_us, end_us);
}

static void end_all(struct shims *shims, struct shim *shim, int signal, int64_t within_us) {
    for (size_t i = 0; i < shim->n_ranks; i++) {
        struct shims_rank *rank = &shim->ranks[i];
        int64_t at_us = now(shims) + rng_below(shims->rng, within_us);
        if (!rank->running || rank->ends_us <= at_us)
            continue;
        rank->ends_us = at_us;
        rank->exit.exit_code = -1;
        rank->exit.signal = signal;
        rank->exit.cause = EXIT_CAUSE_SELF;
    }
}

void shims_kill(struct shims *shims, struct shim *shim, enum exit_cause cause) {
    bool hangs = rng_once_in(shims->rng, 40);

    if (!shim->lives || shim->gone)
        return;
    if (!shim->killing && shim->n_running && !shim->order)
        shim->order = cause;
    if (!shim->killing || cause == EXIT_CAUSE_LEASE)
        end_all(shims, shim, 9, hangs && cause != EXIT_CAUSE_LEASE ? HANG_US : SHIMS_KILL_US);
    shim->killing = true;
    plan(shims, shim);
}

void shims_term(struct shims *shims, struct shim *shim, int64_t kill_at_us) {
    bool first = !shim->kill_at_us;

    if (!shim->lives || shim->gone)
        return;
    shim->kill_at_us = first ? kill_at_us : MIN(shim->kill_at_us, kill_at_us);
    if (first && !shim->killing && shim->n_running) {
        shim->order = EXIT_CAUSE_ORDER;
        if (rng_once_in(shims->rng, 2))
            end_all(shims, shim, 15, TERM_US);
    }
    plan(shims, shim);
}

void shims_lease(struct shims *shims, struct shim *shim, int64_t until_us) {
    shim->lease_until_us = MAX(shim->lease_until_us, until_us);
}

void shims_end_rank(struct shims *shims, struct shim *shim, size_t rank, int code, int signal) {
    struct shims_rank *one = &shim->ranks[rank];

    if (!one->running)
        return;
    one->ends_us = now(shims);
    one->exit.exit_code = signal ? -1 : code;
    one->exit.signal = signal;
    plan(shims, shim);
}

bool shims_step(struct shims *shims, struct shim *shim) {
    int64_t boot_us = shims_boot_us(shims, shim->node);
    size_t n_running = shim->n_running;
    bool gone = shim->gone;

    if (shim->lives && shim->left && !shim->expired && boot_us >= shim->lease_until_us) {
        shim->expired = true;
        shims_kill(shims, shim, EXIT_CAUSE_LEASE);
        cap_ends(shims, shim);
    } else if (shim->lives && shim->kill_at_us && boot_us >= shim->kill_at_us && !shim->killing) {
        shims_kill(shims, shim, EXIT_CAUSE_ORDER);
    }
    for (size_t i = 0; i < shim->n_ranks; i++)
        if (shim->ranks[i].running && shim->ranks[i].ends_us <= now(shims))
            end_rank(shims, shim, &shim->ranks[i]);
    if (!shim->n_running && shim->left_until_us <= now(shims))
        shim->left = false;
    shim->gone |= shim->lives && !shim->left;
    plan(shims, shim);
    return shim->lives && (n_running != shim->n_running || gone != shim->gone);
}

void shims_lose(struct shims *shims, struct shim *shim) {
    if (!shim->lives)
        return;
    shim->lives = false;
    end_all(shims, shim, 9, SHIMS_KILL_US);
    cap_ends(shims, shim);
    plan(shims, shim);
}

void shims_clear(struct shims *shims, struct shim *shim) {
    end_all(shims, shim, 9, SHIMS_KILL_US);
    shim->left_until_us = MIN(shim->left_until_us, now(shims) + LEFT_US);
    plan(shims, shim);
}

/* ---- after it ---- */

void shims_remove(struct shims *shims, struct shim *shim) {
    struct shim **at = &shims->first[shim->node];
    struct shim *of_job = map_get(&shims->by_job, shim->key.job);

    while (*at != shim)
        at = &(*at)->next;
    *at = shim->next;
    if (of_job == shim && !shim->next_of_job) {
        map_remove(&shims->by_job, shim->key.job);
    } else if (of_job == shim) {
        map_put(&shims->by_job, shim->key.job, shim->next_of_job);
    } else {
        while (of_job->next_of_job != shim)
            of_job = of_job->next_of_job;
        of_job->next_of_job = shim->next_of_job;
    }
    free(shim->ranks);
    free(shim);
}

void shims_remove_all(struct shims *shims, int node) {
    while (shims->first[node])
        shims_remove(shims, shims->first[node]);
}

void shims_calm(struct shims *shims) {
    shims->calm = true;
    shims->run_us = MIN(shims->run_us, (int64_t)TERM_US);
    for (int node = 0; node < shims->n_nodes; node++)
        for (struct shim *shim = shims->first[node]; shim; shim = shim->next) {
            for (size_t i = 0; i < shim->n_ranks; i++)
                shim->ranks[i].ends_us = MIN(shim->ranks[i].ends_us, now(shims) + shims->run_us);
            plan(shims, shim);
        }
}

void shims_free(struct shims *shims) {
    struct map_item *item;

    for (int node = 0; node < shims->n_nodes; node++)
        shims_remove_all(shims, node);
    for (size_t at = 0; (item = map_next(&shims->started, &at));)
        free(item->value);
    map_free(&shims->started);
    map_free(&shims->by_job);
}
