#include "scheduler/core/claim.h"
#include "lib/pure/idset.h"
#include "scheduler/core/attempt.h"
#include "scheduler/core/place.h"

bool claim_ready(const struct state *state, const struct job *job) {
    for (size_t i = 0; i < job->r.claim.n; i++) {
        const struct state_claim *claim = &job->r.claim.items[i];
        const struct node *node = state->nodes[claim->node];
        /* The claim itself is counted as taken: below zero somebody else still has a part. */
        if (!state_node_usable(node) || (node->gpus_held & claim->gpus) || node->cpus_free < 0 ||
            (node->r.memory_bytes && node->memory_free < 0))
            return false;
    }
    return job->r.claim.n > 0 &&
           (!mutate_claim_spans(state, job) || state_may_cross(state, -1)); // its own counts
}

void claim_node_out(struct mutate *c, int node) {
    for (struct job *job = c->state->claimants, *next; job; job = next) {
        bool void_now = false;
        next = job->claimant_next;
        for (size_t i = 0; i < job->r.claim.n; i++)
            void_now |= job->r.claim.items[i].node == node;
        if (void_now)
            mutate_claim_drop(c, job);
    }
}

static int stale(struct mutate *c, int64_t id, const char *why) {
    return hai_fail_at(&c->reply->err, -ESTALE, "stale", NULL, NULL, "job %lld: %s", (long long)id,
                       why);
}

/* What a victim gives back on a node. */
struct given {
    uint32_t gpus;
    int64_t cpus;
    int64_t memory;
};

/* Victims come in ascending order, so none comes twice. */
static int add_victim(struct mutate *c, const struct entry_make_room *all, size_t i,
                      const struct job *job, struct given *given) {
    const struct entry_victim *in = &all->victims.items[i];
    const struct job *victim = state_job_find(c->state, in->job);

    if (i && in->job <= all->victims.items[i - 1].job)
        return stale(c, in->job, "victims are not in order");
    if (!victim || victim == job || victim->r.epoch != in->epoch ||
        (victim->r.state != JOB_STATE_RUNNING && victim->r.state != JOB_STATE_STARTING))
        return stale(c, in->job, "it does not run any more");
    for (size_t k = 0; k < victim->r.allocs.n; k++) {
        const struct state_alloc *alloc = &victim->r.allocs.items[k];
        if (alloc->released)
            continue;
        given[alloc->node].gpus |= (uint32_t)alloc->gpus;
        given[alloc->node].cpus += victim->cpus_per_node;
        given[alloc->node].memory += victim->r.spec.memory_per_node_bytes;
    }
    return 0;
}

/* Will the need of one node be free there? */
static bool will_fit(const struct state *state, const struct place_need *need,
                     const struct given *given, int number, uint32_t gpus) {
    const struct node *node = state->nodes[number];
    uint32_t kept = (node->gpus_held & ~given->gpus) | node->gpus_claimed;

    return state_node_usable(node) && node->reserved == need->reserve &&
           (need->zones & UINT64_C(1) << node->zone) &&
           (node->groups & UINT64_C(1) << need->group) &&
           __builtin_popcount(gpus) == need->gpus_per_node && !(gpus & kept) &&
           !(gpus >> node->r.gpus) && node->cpus_free + given->cpus >= need->cpus_per_node &&
           (!node->r.memory_bytes ||
            node->memory_free + given->memory >= need->memory_per_node_bytes);
}

/* May it span zones once the victims do not any more? */
static bool may_span(const struct state *state, const struct entry_make_room *in,
                     const struct job *job) {
    int64_t n = 0;

    for (size_t i = 0; i < in->victims.n; i++)
        n -= state_job_find(state, in->victims.items[i].job)->spans;
    return job->r.spec.cross_zones && state_may_cross(state, n);
}

static int check_nodes(struct mutate *c, const struct entry_make_room *in, const struct job *job,
                       const struct given *given) {
    struct place_need need = place_need_of(c->state, job);
    _cleanup_(idset_free) struct idset nodes = {0};
    uint64_t zones = 0;

    if ((int64_t)in->nodes.n != need.nodes)
        return stale(c, in->job, "another number of nodes");
    for (size_t i = 0; i < in->nodes.n; i++) {
        int node = state_node_find(c->state, in->nodes.items[i].node);
        if (node < 0 ||
            !will_fit(c->state, &need, &given[node], node, (uint32_t)in->nodes.items[i].gpus))
            return stale(c, in->job, "a node has changed");
        if (!idset_add(&nodes, node))
            return stale(c, in->job, "a node twice");
        zones |= UINT64_C(1) << c->state->nodes[node]->zone;
    }
    if (zones & (zones - 1) && !may_span(c->state, in, job))
        return stale(c, in->job, "it may not span zones then");
    return 0;
}

static void claim(struct mutate *c, const struct entry_make_room *in, struct job *job) {
    job->r.claim.items = hai_new_array(struct state_claim, in->nodes.n);
    job->r.claim.n = in->nodes.n;
    for (size_t i = 0; i < in->nodes.n; i++)
        job->r.claim.items[i] = (struct state_claim){
            state_node_find(c->state, in->nodes.items[i].node), in->nodes.items[i].gpus};
    mutate_claim_hold(c->state, job);
    if (spare_any(c->state)) // one that is claimed in part is none any more
        mutate_freed(c->state, UINT64_MAX);
    for (size_t i = 0; i < in->nodes.n; i++)
        mutate_node(c, (int)job->r.claim.items[i].node, false);
    effects_touch_job(c->fx, job);
}

int claim_make_room(struct mutate *c, const struct entry_make_room *in) {
    int r = mutate_need(c, SCOPE_SYSTEM, "making room for a job");
    if (r < 0)
        return r;
    struct job *job = state_job_find(c->state, in->job);
    c->reply->id = in->job;
    if (!job || !job->queued || job->r.epoch != in->epoch || job->r.claim.n || job->r.over == 1)
        return stale(c, in->job, "it does not wait any more");
    _cleanup_free_ struct given *given =
        hai_new_array(struct given, (size_t)MAX(c->state->n_nodes, 1));
    for (size_t i = 0; i < in->victims.n && r == 0; i++)
        r = add_victim(c, in, i, job, given);
    if (r == 0)
        r = check_nodes(c, in, job, given);
    if (r < 0)
        return r;
    claim(c, in, job);
    for (size_t i = 0; i < in->victims.n; i++)
        attempt_give_way(c, state_job_find(c->state, in->victims.items[i].job), job);
    c->reply->changed = true;
    return 0;
}
