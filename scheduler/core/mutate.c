#include "scheduler/core/mutate.h"
#include "lib/pure/plant.h"
#include "scheduler/core/array.h"
#include "scheduler/core/eligible.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/order.h"
#include "scheduler/core/predict.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/quota.h"
#include "scheduler/core/runners.h"
#include "scheduler/core/spare.h"

#include <stdarg.h>
#include <stdio.h>

struct mutate mutate_by_system(const struct mutate *c, struct entry *entry) {
    struct mutate by = *c;

    *entry = *c->entry;
    entry->principal = "system:hai";
    by.entry = entry;
    by.scope = SCOPE_SYSTEM;
    by.name = strchr(entry->principal, ':') + 1;
    return by;
}

/* A job waits for nodes if it is queued, gave way, or recovers with nothing left of its last
 * attempt and its delay over. */
static bool wants_nodes(const struct state *state, const struct job *job) {
    if (job->group < 0 || array_is(job))
        return false;
    if (job->r.state == JOB_STATE_QUEUED ||
        (job->r.state == JOB_STATE_SUSPENDED && job->r.wanted == WANTED_RUN))
        return eligible(state, job);
    return job->r.state == JOB_STATE_RECOVERING && !state_job_live(job) &&
           (job->r.not_before_us == S_ABSENT || job->r.not_before_us <= state->r.time_us);
}

bool mutate_counts(const struct state *state, const struct job *job) {
    return job->group >= 0 && job->r.spec.gpus_per_node && !array_is(job) &&
           !state_job_ended(job) &&
           (state_job_live(job) || job->r.state == JOB_STATE_RECOVERING || wants_nodes(state, job));
}

int64_t mutate_limit_us(const struct job *job) {
    if (job->r.time_limit_us == S_ABSENT || !state_job_live(job))
        return INT64_MAX;
    return job->r.placed_us + job->r.time_limit_us - job->r.ran_us - job->r.spec.warn_us;
}

/* Strict order with backfill: when a job that still runs turns out to be longer than was thought.
 * Plans are in whole seconds, so there is one to spare. */
static int64_t outlives_us(const struct state *state, const struct job *job) {
    if (!order_backfills(state) || job->r.until_us == S_ABSENT)
        return INT64_MAX;
    return job->r.until_us + HOLD_SECOND_US;
}

static int64_t due_us(const struct state *state, const struct job *job) {
    if (state_job_live(job) && job->r.phase == DESIRED_PHASE_RUN)
        return MIN(mutate_limit_us(job), outlives_us(state, job));
    if (state_job_live(job) && job->r.phase == DESIRED_PHASE_TERM)
        return job->r.kill_at_us;
    if (job->r.state == JOB_STATE_RECOVERING && !state_job_live(job) && !job->queued &&
        job->r.not_before_us != S_ABSENT)
        return job->r.not_before_us > state->r.time_us ? job->r.not_before_us : INT64_MAX;
    return eligible_due_us(state, job);
}

void mutate_follow_state(struct state *state, struct job *job) {
    bool wants = wants_nodes(state, job) && !quota_bars(state, job);

    if (!wants)
        job->r.line_us = S_ABSENT;
    else if (state->r.aging_us != S_ABSENT && job->r.line_us == S_ABSENT)
        job->r.line_us = state->r.time_us;
    if (wants && !job->queued)
        queue_add(state, job);
    else if (!wants)
        queue_remove(state, job);
    runners_follow(state, job);
    timers_set(&state->timers, &job->timer, due_us(state, job));
    ledger_job(state, job);
    array_notice(state, job);
}

void mutate_follow(struct mutate *c, struct job *job) {
    quota_follow(c->state, job, mutate_counts(c->state, job));
    mutate_follow_state(c->state, job);
    if ((!job->queued || quota_is_over(job)) && !HAI_PLANT(PLANT_CLAIM_KEPT))
        mutate_claim_drop(c, job);
    effects_touch_job(c->fx, job);
}

void mutate_look(struct state *state) {
    int64_t at_us = INT64_MAX;

    if (state->queue.n && (order_shares(state) || state->reserve_planned))
        at_us = order_next_look_us(state);
    if (at_us != (state->look.position ? state->look.at_us : INT64_MAX))
        timers_set(&state->timers, &state->look, at_us);
    timers_set(&state->timers, &state->turn, fair_next_us(state));
}

/* Ended jobs are kept in the order (time, id), which a snapshot's reader can find again. */
static void add_ended(struct state *state, struct job *job) {
    struct job **at = &state->ended_first;

    if (state->ended_last &&
        (state->ended_last->r.ended_us < job->r.ended_us ||
         (state->ended_last->r.ended_us == job->r.ended_us && state->ended_last->r.id < job->r.id)))
        at = &state->ended_last->ended_next;
    while (*at && ((*at)->r.ended_us < job->r.ended_us ||
                   ((*at)->r.ended_us == job->r.ended_us && (*at)->r.id < job->r.id)))
        at = &(*at)->ended_next;
    job->ended_next = *at;
    *at = job;
    if (!job->ended_next)
        state->ended_last = job;
    state->n_ended++;
}

void mutate_enter(struct state *state, struct job *job) {
    state->n_jobs_in[job->r.state]++;
    if (state_job_ended(job))
        add_ended(state, job);
}

static void drop_oldest(struct mutate *c) {
    struct state *state = c->state;
    struct job *job = state->ended_first;

    array_dropped(state, job);
    state->ended_first = job->ended_next;
    if (!state->ended_first)
        state->ended_last = NULL;
    state->n_ended--;
    state->n_jobs--;
    state->n_jobs_in[job->r.state]--;
    if (job->prev)
        job->prev->next = job->next;
    else
        state->jobs_first = job->next;
    if (job->next)
        job->next->prev = job->prev;
    else
        state->jobs_last = job->prev;
    map_remove(&state->job_by_id, job->r.id);
    effects_drop(c->fx, job);
}

static void enqueue_again(struct state *state, struct job *job) {
    if (!job->queued || job->hold_s == hold_seconds(state, job))
        return;
    queue_remove(state, job);
    queue_add(state, job);
}

static void enqueue_series(struct state *state, const struct entry_job_spec *spec) {
    const struct series *series = eligible_series(state, spec);

    for (struct job *job = series ? series->first : NULL; job; job = job->series_next) {
        enqueue_again(state, job);
        for (struct job *one = job->array ? array_next_open(job, job) : NULL; one;
             one = array_next_open(job, one))
            enqueue_again(state, one);
    }
}

/* Jobs of its user and name that wait are expected to run as long as it did, and nobody knows any
 * more how long those run whose history made room: with backfill they may stand in other lines
 * then. */
static void learn(struct state *state, const struct job *ended) {
    bool matters = order_backfills(state) > 0;
    int64_t before_us = matters ? predict_usual_us(state, ended) : 0;
    struct predict_lost lost;

    predict_learn(state, ended, &lost);
    if (matters && predict_usual_us(state, ended) != before_us)
        enqueue_series(state, &ended->r.spec);
    for (size_t i = 0; matters && i < lost.n; i++)
        enqueue_series(state, &(struct entry_job_spec){.user = lost.items[i].user,
                                                       .name = lost.items[i].name});
    predict_lost_free(&lost);
}

void mutate_state(struct mutate *c, struct job *job, enum job_state to, enum reason reason,
                  const char *format, ...) {
    char text[2 * REASON_BYTES_MAX + 1];
    va_list ap;

    assert(jobstate_allowed(job->r.state, to));
    enum job_state from = job->r.state;
    c->state->n_jobs_in[from]--;
    job->r.state = to;
    job->r.since_us = c->entry->time_us;
    job->r.reason = reason;
    if (format) {
        va_start(ap, format);
        (void)vsnprintf(text, sizeof text, format, ap);
        va_end(ap);
    }
    hai_strset(&job->r.message, format ? text : NULL);
    if (state_job_ended(job))
        job->r.ended_us = c->entry->time_us;
    mutate_enter(c->state, job);
    mutate_follow(c, job);
    array_changed(c->state, job, from);
    if (state_job_ended(job)) {
        learn(c->state, job);
        effects_event(c->fx, c->entry, EVENT_ENDED, job, -1, -1, "%s%s%s", job_state_text(to),
                      format ? ": " : "", format ? text : "");
        struct job *turn = eligible_ended(c->state, job);
        if (turn)
            mutate_follow(c, turn);
        while (c->state->n_ended > JOBS_ENDED_KEPT)
            drop_oldest(c);
    }
}

void mutate_node(struct mutate *c, int node, bool revise) {
    if (revise)
        c->state->nodes[node]->r.revision++;
    c->state->touched[c->state->n_touched++ % NODES_TOUCHED_KEPT] = node;
    ledger_node(c->state, node);
    effects_touch_node(c->fx, c->state->nodes[node], node);
}

void mutate_freed(struct state *state, uint64_t groups) {
    if (spare_any(state)) // which nodes are spares, of whatever group, may be different now
        groups = UINT64_MAX;
    for (int g = 0; g < state->n_groups; g++)
        if (groups & UINT64_C(1) << g)
            state->groups[g].freed++;
}

void mutate_node_jobs(struct node *node, int64_t id, bool add) {
    size_t at = 0;

    while (at < node->n_jobs && node->jobs[at] < id)
        at++;
    if (add) {
        assert(at == node->n_jobs || node->jobs[at] != id);
        if (node->n_jobs == node->n_jobs_max) {
            node->n_jobs_max = MAX(2 * node->n_jobs_max, (size_t)4);
            node->jobs = hai_realloc_array(node->jobs, node->n_jobs_max, sizeof *node->jobs);
        }
        memmove(node->jobs + at + 1, node->jobs + at, (node->n_jobs - at) * sizeof *node->jobs);
        node->jobs[at] = id;
        node->n_jobs++;
        return;
    }
    assert(at < node->n_jobs);
    assert(node->jobs[at] == id);
    node->n_jobs--;
    memmove(node->jobs + at, node->jobs + at + 1, (node->n_jobs - at) * sizeof *node->jobs);
}

int mutate_need(struct mutate *c, enum scope scope, const char *what) {
    if (c->scope >= scope)
        return 0;
    return hai_fail_at(&c->reply->err, -EACCES, "denied", NULL, NULL,
                       "%s needs a token of scope %s; yours is %s", what, scope_text(scope),
                       scope_text(c->scope));
}

struct job *mutate_own_job(struct mutate *c, int64_t id, int *r) {
    struct job *job = state_job_find(c->state, id);

    c->reply->id = id;
    *r = 0;
    if (!job) {
        *r = hai_fail_at(&c->reply->err, -ENOENT, "not_found", NULL, NULL, "there is no job %lld",
                         (long long)id);
        return NULL;
    }
    if (c->scope >= SCOPE_OPERATE ||
        (c->scope >= SCOPE_SUBMIT && hai_streq(c->name, job->r.spec.user)))
        return job;
    *r = hai_fail_at(&c->reply->err, -EACCES, "denied", NULL, NULL, "job %lld belongs to %s",
                     (long long)id, job->r.spec.user);
    return NULL;
}

int mutate_find_node(struct mutate *c, const char *name, int *ret) {
    int node = state_node_find(c->state, name);

    if (node < 0)
        return hai_fail_at(&c->reply->err, -ENOENT, "not_found", NULL, NULL,
                           "there is no node %s in the cluster file", name);
    *ret = node;
    return 0;
}

bool mutate_claim_spans(const struct state *state, const struct job *job) {
    for (size_t i = 1; i < job->r.claim.n; i++)
        if (state->nodes[job->r.claim.items[i].node]->zone !=
            state->nodes[job->r.claim.items[0].node]->zone)
            return true;
    return false;
}

void mutate_claim(struct state *state, const struct job *job, int sign) {
    if (mutate_claim_spans(state, job))
        state->n_cross_claims += sign;
    for (size_t i = 0; i < job->r.claim.n; i++) {
        const struct state_claim *claim = &job->r.claim.items[i];
        struct node *node = state->nodes[claim->node];
        if (sign > 0)
            node->gpus_claimed |= (uint32_t)claim->gpus;
        else
            node->gpus_claimed &= ~(uint32_t)claim->gpus;
        node->cpus_free -= sign * job->cpus_per_node;
        node->memory_free -= sign * job->r.spec.memory_per_node_bytes;
    }
}

static void enlist(struct state *state, struct job *job) {
    job->claimant_next = state->claimants;
    state->claimants = job;
}

static void delist(struct state *state, struct job *job) {
    struct job **at = &state->claimants;

    while (*at != job)
        at = &(*at)->claimant_next;
    *at = job->claimant_next;
    job->claimant_next = NULL;
}

void mutate_claim_hold(struct state *state, struct job *job) {
    if (!job->r.claim.n)
        return;
    mutate_claim(state, job, 1);
    enlist(state, job);
}

void mutate_claim_drop(struct mutate *c, struct job *job) {
    if (!job->r.claim.n)
        return;
    mutate_claim(c->state, job, -1);
    delist(c->state, job);
    for (size_t i = 0; i < job->r.claim.n; i++) {
        int node = (int)job->r.claim.items[i].node;
        mutate_freed(c->state, c->state->nodes[node]->groups);
        mutate_node(c, node, false);
    }
    free(job->r.claim.items);
    job->r.claim.items = NULL;
    job->r.claim.n = 0;
}
