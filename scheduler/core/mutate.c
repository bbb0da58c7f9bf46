#include "scheduler/core/mutate.h"

#include <stdarg.h>
#include <stdio.h>

/* A job waits for nodes if it is queued, or recovers with nothing left of its last attempt and its
 * delay over. */
static bool wants_nodes(const struct state *state, const struct job *job) {
    if (job->group < 0)
        return false;
    if (job->r.state == JOB_STATE_QUEUED)
        return true;
    return job->r.state == JOB_STATE_RECOVERING && !state_job_live(job) &&
           (job->r.not_before_us == S_ABSENT || job->r.not_before_us <= state->r.time_us);
}

static struct job_queue *queue_of(const struct state *state, const struct job *job) {
    int level = state_priority_level(job->r.priority);

    assert(level >= 0);
    return &state->groups[job->group].queues[level];
}

/* New jobs go to the end; a job that waits again is older than most, so its place is looked for
 * from the front. */
static void enqueue(struct state *state, struct job *job) {
    struct job_queue *queue = queue_of(state, job);
    struct job *next = NULL;

    if (queue->last && queue->last->r.id > job->r.id) {
        next = queue->first;
        while (next->r.id < job->r.id)
            next = next->queue_next;
    }
    job->queue_next = next;
    job->queue_prev = next ? next->queue_prev : queue->last;
    if (job->queue_prev)
        job->queue_prev->queue_next = job;
    else
        queue->first = job;
    if (next)
        next->queue_prev = job;
    else
        queue->last = job;
    job->queued = true;
    if (state_queue_next(&state->groups[job->group], job))
        state->groups[job->group].ordered++;
}

void mutate_dequeue(struct state *state, struct job *job) {
    if (!job->queued)
        return;
    struct job_queue *queue = queue_of(state, job);
    if (job->queue_prev)
        job->queue_prev->queue_next = job->queue_next;
    else
        queue->first = job->queue_next;
    if (job->queue_next)
        job->queue_next->queue_prev = job->queue_prev;
    else
        queue->last = job->queue_prev;
    job->queue_next = job->queue_prev = NULL;
    job->queued = false;
    state->groups[job->group].ordered++;
}

int64_t mutate_limit_us(const struct job *job) {
    if (job->r.time_limit_us == S_ABSENT || !state_job_live(job))
        return INT64_MAX;
    return job->r.placed_us + job->r.time_limit_us - job->r.ran_us - job->r.spec.warn_us;
}

static int64_t due_us(const struct job *job) {
    if (state_job_live(job) && job->r.phase == DESIRED_PHASE_RUN)
        return mutate_limit_us(job);
    if (state_job_live(job) && job->r.phase == DESIRED_PHASE_TERM)
        return job->r.kill_at_us;
    if (job->r.state == JOB_STATE_RECOVERING && !state_job_live(job) && !job->queued &&
        job->r.not_before_us != S_ABSENT)
        return job->r.not_before_us;
    return INT64_MAX;
}

void mutate_follow_state(struct state *state, struct job *job) {
    bool wants = wants_nodes(state, job);

    if (wants && !job->queued)
        enqueue(state, job);
    else if (!wants && job->queued)
        mutate_dequeue(state, job);
    timers_set(&state->timers, &job->timer, due_us(job));
}

void mutate_follow(struct mutate *c, struct job *job) {
    mutate_follow_state(c->state, job);
    effects_touch_job(c->fx, job);
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

void mutate_state(struct mutate *c, struct job *job, enum job_state to, enum reason reason,
                  const char *format, ...) {
    char text[2 * REASON_BYTES_MAX + 1];
    va_list ap;

    assert(jobstate_allowed(job->r.state, to));
    c->state->n_jobs_in[job->r.state]--;
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
    if (state_job_ended(job)) {
        effects_event(c->fx, c->entry, EVENT_ENDED, job, -1, -1, "%s%s%s", job_state_text(to),
                      format ? ": " : "", format ? text : "");
        while (c->state->n_ended > JOBS_ENDED_KEPT)
            drop_oldest(c);
    }
}

void mutate_node(struct mutate *c, int node, bool revise) {
    if (revise)
        c->state->nodes[node]->r.revision++;
    effects_touch_node(c->fx, c->state->nodes[node], node);
}

void mutate_freed(struct state *state, uint64_t groups) {
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
