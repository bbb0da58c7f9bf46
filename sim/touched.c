#include "sim/touched.h"
#include "scheduler/core/ledger.h"

#define FAIL(...) return hai_fail(err, -EINVAL, __VA_ARGS__)

int touched_belief(const struct state *state, const struct shim *shim, struct hai_err *err) {
    const struct job *job = state_job_find(state, shim->key.job);
    long long id = shim->key.job, epoch = shim->key.epoch;
    const char *node = state->nodes[shim->node]->r.name;

    if (!job || !shim->left)
        return 0;
    if (job->r.epoch != epoch)
        FAIL("epoch %lld of job %lld runs on %s, which is in epoch %lld", epoch, id, node,
             (long long)job->r.epoch);
    size_t alloc = (size_t)(shim->first_rank / job->r.spec.ranks_per_node);
    if (alloc >= job->r.allocs.n || job->r.allocs.items[alloc].node != shim->node)
        FAIL("job %lld runs on %s, which was not given to it", id, node);
    for (size_t i = 0; i < shim->n_ranks; i++)
        if (shim->ranks[i].running &&
            job->r.ranks.items[shim->first_rank + (int64_t)i].state == RANK_STATE_EXITED)
            FAIL("rank %lld of job %lld runs on %s and is taken for ended",
                 (long long)shim->first_rank + (long long)i, id, node);
    if (job->r.allocs.items[alloc].gone)
        FAIL("something of job %lld is left on %s and is taken for gone", id, node);
    return 0;
}

/* Who was placed just now gets GPUs that nothing uses any more, by true time. */
static int check_given(const struct state *state, const struct job *job, const struct shims *shims,
                       struct hai_err *err) {
    if (!state_job_live(job) || job->r.placed_us != state->r.time_us)
        return 0;
    for (size_t i = 0; i < job->r.allocs.n; i++) {
        const struct state_alloc *alloc = &job->r.allocs.items[i];
        for (const struct shim *shim = shims->first[alloc->node]; shim; shim = shim->next)
            if (shim->left && (shim->gpus & alloc->gpus))
                FAIL("GPUs of %s are given to job %lld and job %lld uses them",
                     state->nodes[alloc->node]->r.name, (long long)job->r.id,
                     (long long)shim->key.job);
    }
    return 0;
}

/* Gangs hold all of their nodes or none, and a GPU is held once. */
static int check_live(const struct state *state, struct hai_err *err) {
    uint32_t gpus[SHIMS_NODES_MAX] = {0};

    assert(state->n_nodes <= SHIMS_NODES_MAX);
    for (const struct job *job = state->live_first; job; job = job->live_next) {
        if (job->r.allocs.n != (size_t)job->r.spec.nodes)
            FAIL("job %lld has %zu nodes, not all", (long long)job->r.id, job->r.allocs.n);
        if (job->queued)
            FAIL("job %lld holds nodes and waits in a line", (long long)job->r.id);
        for (size_t i = 0; i < job->r.allocs.n; i++) {
            const struct state_alloc *alloc = &job->r.allocs.items[i];
            if (alloc->released)
                continue;
            if (gpus[alloc->node] & alloc->gpus)
                FAIL("a GPU of %s is held twice, once by job %lld",
                     state->nodes[alloc->node]->r.name, (long long)job->r.id);
            gpus[alloc->node] |= (uint32_t)alloc->gpus;
        }
    }
    for (int i = 0; i < state->n_nodes; i++)
        if (gpus[i] != state->nodes[i]->gpus_held)
            FAIL("%s: held and free do not add up", state->nodes[i]->r.name);
    return 0;
}

static int check_sums(const struct state *state, struct hai_err *err) {
    int64_t sum = 0, sum_us = 0;

    for (int k = 0; k < LEDGER_COUNT; k++) {
        sum += state->ledger.gpus[k];
        sum_us += state->r.ledger.n ? state->r.ledger.items[k] : 0;
    }
    if (sum != state->ledger.capacity)
        FAIL("%lld GPUs have a class, there are %lld", (long long)sum,
             (long long)state->ledger.capacity);
    if (state->r.ledger.n && sum_us != state->r.ledger.items[LEDGER_COUNT])
        FAIL("the classes have %lld GPU-us of %lld", (long long)sum_us,
             (long long)state->r.ledger.items[LEDGER_COUNT]);
    return 0;
}

static int check_job(const struct world *w, const struct shims *shims, int64_t id,
                     struct hai_err *err) {
    const struct job *job = state_job_find(w->state, id);

    if (!job)
        return 0;
    if (job->r.restarts > job->r.spec.restart_max)
        FAIL("job %lld was restarted %lld times, more often than it may", (long long)id,
             (long long)job->r.restarts);
    for (size_t i = 0; i < job->r.allocs.n; i++)
        if (!job->r.allocs.items[i].released && !state_job_live(job))
            FAIL("job %lld is over and holds a node", (long long)id);
    for (const struct shim *shim = map_get(&shims->by_job, id); shim; shim = shim->next_of_job)
        if (touched_belief(w->state, shim, err) < 0)
            return -EINVAL;
    return check_given(w->state, job, shims, err);
}

int touched_check(const struct world *w, const struct shims *shims, struct hai_err *err) {
    int r = check_live(w->state, err);

    if (r == 0)
        r = check_sums(w->state, err);
    for (size_t i = 0; i < w->fx->n_jobs && r == 0; i++)
        r = check_job(w, shims, w->fx->jobs[i], err);
    return r;
}
