#include "scheduler/core/apply_node.h"
#include "lib/pure/plant.h"
#include "scheduler/core/attempt.h"
#include "scheduler/core/claim.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/queue.h"

static struct node *node_at(struct mutate *c, int number) {
    return c->state->nodes[number];
}

/* Reports come from the scheduler itself or from the node that they are about. */
static int may_report(struct mutate *c, const char *node) {
    if (c->scope == SCOPE_SYSTEM || (c->scope == SCOPE_NODE && hai_streq(c->name, node)))
        return 0;
    return hai_fail_at(&c->reply->err, -EACCES, "denied", NULL, NULL,
                       "%s may not report about node %s", c->entry->principal, node);
}

/* Run fn for every job that has ranks left on a node; fn may change the list. */
static void each_job(struct mutate *c, int number, const char *evidence,
                     void (*fn)(struct mutate *, struct job *, size_t, const char *)) {
    struct node *node = node_at(c, number);
    size_t n = node->n_jobs;
    _cleanup_free_ int64_t *ids = hai_new_array(int64_t, n);

    if (n)
        memcpy(ids, node->jobs, n * sizeof *ids);
    for (size_t i = 0; i < n; i++) {
        struct job *job = state_job_find(c->state, ids[i]);
        assert(job);
        int alloc = attempt_alloc_on(job, number);
        if (alloc >= 0)
            fn(c, job, (size_t)alloc, evidence);
    }
}

/* It is certain that nothing runs on the node. */
static void all_gone(struct mutate *c, int number, const char *evidence) {
    struct node *node = node_at(c, number);

    each_job(c, number, evidence, attempt_gone);
    node->r.hold_until_us = S_ABSENT;
    timers_set(&c->state->timers, &node->timer, INT64_MAX);
    mutate_node(c, number, false);
}

static void set_node_state(struct mutate *c, int number, enum node_state to, const char *evidence) {
    struct node *node = node_at(c, number);

    node->r.state = to;
    node->r.since_us = c->entry->time_us;
    hai_strset(&node->r.evidence, evidence);
    mutate_freed(c->state, node->groups); // what fits, and what blocks whom, may be different now
    mutate_node(c, number, true);
    if (to != NODE_STATE_UP)
        claim_node_out(c, number);
}

int apply_node_up(struct mutate *c, const struct entry_node_up *in) {
    int number;

    int r = may_report(c, in->node);
    if (r == 0)
        r = mutate_find_node(c, in->node, &number);
    if (r < 0)
        return r;
    struct node *node = node_at(c, number);
    bool reborn = node->r.boot_id && in->boot_id && !hai_streq(node->r.boot_id, in->boot_id);
    bool same = !reborn && node->r.state == NODE_STATE_UP &&
                hai_streq(node->r.boot_id, in->boot_id) &&
                hai_streq(node->r.address, in->address) && hai_streq(node->r.version, in->version);
    if (same)
        return 0;
    if (reborn) {
        each_job(c, number, "the node was started anew", attempt_node_lost);
        all_gone(c, number, "the node was started anew");
    }
    hai_strset(&node->r.address, in->address);
    hai_strset(&node->r.boot_id, in->boot_id);
    hai_strset(&node->r.version, in->version);
    node->r.hold_until_us = S_ABSENT;
    timers_set(&c->state->timers, &node->timer, INT64_MAX);
    set_node_state(c, number, NODE_STATE_UP, NULL);
    effects_event(c->fx, c->entry, EVENT_NODE_UP, NULL, -1, number, "%s is ready%s", in->node,
                  reborn ? ", started anew" : "");
    c->reply->changed = true;
    return 0;
}

int apply_node_lost(struct mutate *c, const struct entry_node_lost *in) {
    int number;

    int r = mutate_need(c, SCOPE_SYSTEM, "calling a node lost");
    if (r == 0)
        r = mutate_find_node(c, in->node, &number);
    if (r < 0)
        return r;
    struct node *node = node_at(c, number);
    if (node->r.state != NODE_STATE_UP)
        return 0;
    /* Grants of an earlier scheduler are not known; none can be later than this one's start. */
    int64_t basis_us = HAI_PLANT(PLANT_LEASE_FROM_WRONG_TIME) ? 0 : c->state->r.lease_basis_us;
    int64_t granted_us = MAX(in->last_grant_us, basis_us);
    set_node_state(c, number, NODE_STATE_LOST, in->evidence);
    effects_event(c->fx, c->entry, EVENT_NODE_LOST, NULL, -1, number, "%s is lost%s%s", in->node,
                  in->evidence ? ": " : "", in->evidence ? in->evidence : "");
    each_job(c, number, in->evidence, attempt_node_lost);
    node->r.hold_until_us = granted_us + c->state->r.lease_us + c->state->r.drift_us;
    if (node->n_jobs && node->r.hold_until_us > c->entry->time_us &&
        !HAI_PLANT(PLANT_FENCE_FORGOTTEN))
        timers_set(&c->state->timers, &node->timer, node->r.hold_until_us);
    else
        all_gone(c, number, "its lease has run out");
    c->reply->changed = true;
    return 0;
}

int apply_node_fenced(struct mutate *c, const struct entry_node_fenced *in) {
    int number;

    int r = mutate_need(c, SCOPE_OPERATE, "reporting a node fenced");
    if (r == 0)
        r = mutate_find_node(c, in->node, &number);
    if (r < 0)
        return r;
    struct node *node = node_at(c, number);
    if (in->boot_id && !hai_streq(in->boot_id, node->r.boot_id) &&
        !HAI_PLANT(PLANT_OLD_LIFE_FENCED))
        return 0; // an earlier life: what runs now was not touched
    if (node->r.state == NODE_STATE_UP)
        set_node_state(c, number, NODE_STATE_LOST, in->evidence);
    effects_event(c->fx, c->entry, EVENT_NODE_FENCED, NULL, -1, number, "%s is fenced%s%s",
                  in->node, in->evidence ? ": " : "", in->evidence ? in->evidence : "");
    each_job(c, number, in->evidence, attempt_node_lost);
    all_gone(c, number, in->evidence);
    c->reply->changed = true;
    return 0;
}

void apply_node_hold_anew(struct mutate *c) {
    for (int i = 0; i < c->state->n_nodes; i++) {
        struct node *node = node_at(c, i);
        if (!node->timer.position) // nothing is held there, or it is known to be gone
            continue;
        node->r.hold_until_us = MAX(
            node->r.hold_until_us, c->entry->time_us + c->state->r.lease_us + c->state->r.drift_us);
        timers_set(&c->state->timers, &node->timer, node->r.hold_until_us);
        mutate_node(c, i, false);
    }
}

void apply_node_due(struct mutate *c, int number) {
    all_gone(c, number, "its lease has run out");
}

int apply_node_drain(struct mutate *c, const struct entry_node_drain *in) {
    int number;

    int r = mutate_need(c, SCOPE_OPERATE, "draining a node");
    if (r == 0)
        r = mutate_find_node(c, in->node, &number);
    if (r < 0)
        return r;
    struct node *node = node_at(c, number);
    c->reply->changed = !node->r.drained || !hai_streq(node->r.drain_reason, in->reason);
    if (!c->reply->changed)
        return 0;
    node->r.drained = true;
    hai_strset(&node->r.drain_reason, in->reason);
    hai_strset(&node->r.drained_by, c->name);
    claim_node_out(c, number);
    mutate_freed(c->state, node->groups);
    mutate_node(c, number, false);
    effects_event(c->fx, c->entry, EVENT_NODE_DRAINED, NULL, -1, number, "drained by %s%s%s",
                  c->name, in->reason ? ": " : "", in->reason ? in->reason : "");
    return 0;
}

int apply_node_undrain(struct mutate *c, const struct entry_node_undrain *in) {
    int number;

    int r = mutate_need(c, SCOPE_OPERATE, "undraining a node");
    if (r == 0)
        r = mutate_find_node(c, in->node, &number);
    if (r < 0)
        return r;
    struct node *node = node_at(c, number);
    if (!node->r.drained)
        return 0;
    node->r.drained = false;
    hai_strset(&node->r.drain_reason, NULL);
    hai_strset(&node->r.drained_by, NULL);
    mutate_freed(c->state, node->groups);
    mutate_node(c, number, false);
    effects_event(c->fx, c->entry, EVENT_NODE_UNDRAINED, NULL, -1, number, "returned by %s",
                  c->name);
    c->reply->changed = true;
    return 0;
}

/* The job that a report is about, if it is about its current epoch. */
static struct job *reported(struct mutate *c, int64_t id, int64_t epoch, int *r) {
    struct job *job = state_job_find(c->state, id);

    c->reply->id = id;
    *r = 0;
    if (job && (job->r.epoch == epoch || HAI_PLANT(PLANT_EPOCH_UNCHECKED)))
        return job;
    *r = hai_fail_at(&c->reply->err, -ESTALE, "stale", NULL, NULL, "epoch %lld of job %lld is over",
                     (long long)epoch, (long long)id);
    return NULL;
}

/* The same, and what it still has on the reporting node; *r is 0 if that is nothing. */
static struct job *reported_on(struct mutate *c, int64_t id, int64_t epoch, const char *name,
                               size_t *ret_alloc, int *r) {
    int number;

    *r = may_report(c, name);
    if (*r == 0)
        *r = mutate_find_node(c, name, &number);
    if (*r < 0)
        return NULL;
    struct job *job = reported(c, id, epoch, r);
    int alloc = job ? attempt_alloc_on(job, number) : -ENOENT;
    *ret_alloc = (size_t)MAX(alloc, 0);
    return alloc >= 0 ? job : NULL;
}

int apply_node_started(struct mutate *c, const struct entry_ranks_started *in) {
    size_t alloc;
    int r;

    struct job *job = reported_on(c, in->job, in->epoch, in->node, &alloc, &r);
    if (!job)
        return r;
    attempt_started(c, job, alloc);
    c->reply->changed = true;
    return 0;
}

int apply_node_exited(struct mutate *c, const struct entry_rank_exited *in) {
    int r;

    struct job *job = reported(c, in->job, in->epoch, &r);
    if (!job)
        return r;
    if (in->rank >= (int64_t)job->r.ranks.n)
        return hai_fail(&c->reply->err, -ERANGE, "rank is %lld; job %lld has %zu",
                        (long long)in->rank, (long long)in->job, job->r.ranks.n);
    size_t alloc = (size_t)(in->rank / job->r.spec.ranks_per_node);
    r = may_report(c, node_at(c, (int)job->r.allocs.items[alloc].node)->r.name);
    if (r < 0)
        return r;
    if (job->r.ranks.items[in->rank].state == RANK_STATE_EXITED && !HAI_PLANT(PLANT_REPORT_TWICE))
        return 0;
    attempt_rank_exited(c, job, in->rank, in);
    c->reply->changed = true;
    return 0;
}

int apply_node_gone(struct mutate *c, const struct entry_ranks_gone *in) {
    size_t alloc;
    int r;

    struct job *job = reported_on(c, in->job, in->epoch, in->node, &alloc, &r);
    if (!job)
        return r;
    attempt_gone(c, job, alloc, in->evidence);
    c->reply->changed = true;
    return 0;
}

int apply_node_hung(struct mutate *c, const struct entry_rank_hung *in) {
    int r = mutate_need(c, SCOPE_SYSTEM, "calling a rank hung");

    if (r < 0)
        return r;
    struct job *job = reported(c, in->job, in->epoch, &r);
    if (!job)
        return r;
    if (in->rank >= (int64_t)job->r.ranks.n || !state_job_live(job) ||
        job->r.phase != DESIRED_PHASE_RUN)
        return 0;
    attempt_rank_hung(c, job, in->rank, in->evidence);
    c->reply->changed = true;
    return 0;
}

/* A commit may overtake or follow the exit of the rank that asked for it: it counts for as long as
 * no other epoch has begun. */
int apply_node_ckpt(struct mutate *c, const struct entry_ckpt_committed *in) {
    int r = 0;

    struct job *job = reported(c, in->job, in->epoch, &r);
    if (!job)
        return r;
    bool on_node = false;
    for (size_t i = 0; i < job->r.allocs.n && !on_node; i++)
        on_node = hai_streq(node_at(c, (int)job->r.allocs.items[i].node)->r.name, c->name);
    if (c->scope != SCOPE_SYSTEM && !(c->scope == SCOPE_NODE && on_node))
        return hai_fail_at(&c->reply->err, -EACCES, "denied", NULL, NULL,
                           "%s has no rank of job %lld", c->entry->principal, (long long)in->job);
    if (job->r.ckpt_epoch == in->epoch && job->r.ckpt_step == in->step &&
        hai_streq(job->r.ckpt_dir, in->dir))
        return 0;
    bool first = job->r.ckpt_us == S_ABSENT;
    job->r.ckpt_step = in->step;
    job->r.ckpt_epoch = in->epoch;
    job->r.ckpt_us = c->entry->time_us;
    ledger_saved(c->state, job, in->stall_us);
    hai_strset(&job->r.ckpt_dir, in->dir);
    free(job->r.ckpt_digest.data);
    job->r.ckpt_digest = (struct schema_blob){hai_alloc(in->digest.n_bytes), in->digest.n_bytes};
    if (in->digest.n_bytes)
        memcpy(job->r.ckpt_digest.data, in->digest.data, in->digest.n_bytes);
    if (first) // it may be disturbed from now on: place_need_of
        queue_remove(c->state, job);
    mutate_follow(c, job);
    effects_event(c->fx, c->entry, EVENT_CHECKPOINT, job, -1, -1, "step %lld in %s",
                  (long long)in->step, in->dir);
    c->reply->changed = true;
    return 0;
}
