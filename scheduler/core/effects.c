#include "scheduler/core/effects.h"

#include <stdarg.h>
#include <stdio.h>

DEFINE_ENUM(event_kind, EVENT, EVENT_KINDS);

struct effects *effects_new(void) {
    struct effects *fx = hai_new(struct effects);

    fx->batch = 1;
    return fx;
}

void effects_clear(struct effects *fx) {
    for (size_t i = 0; i < fx->n_events; i++) {
        free(fx->events[i].principal);
        free(fx->events[i].text);
    }
    for (size_t i = 0; i < fx->n_usage; i++) {
        free(fx->usage[i].user);
        free(fx->usage[i].team);
        free(fx->usage[i].group);
        free(fx->usage[i].stage);
    }
    for (size_t i = 0; i < fx->n_dropped; i++)
        state_job_free(fx->dropped[i]);
    fx->n_jobs = fx->n_nodes = fx->n_events = fx->n_dropped = 0;
    fx->n_usage = fx->n_days = 0;
    fx->accounts = fx->cluster = false;
    fx->batch++;
}

void effects_free(struct effects *fx) {
    if (!fx)
        return;
    effects_clear(fx);
    free(fx->jobs);
    free(fx->nodes);
    free(fx->events);
    free(fx->usage);
    free(fx->days);
    free(fx->dropped);
    free(fx);
}

const struct job *effects_job(const struct effects *fx, const struct state *state, int64_t id) {
    const struct job *job = state_job_find(state, id);

    for (size_t i = 0; !job && i < fx->n_dropped; i++)
        if (fx->dropped[i]->r.id == id)
            job = fx->dropped[i];
    return job;
}

#define ADD(array, n, n_max)                                                                       \
    ({                                                                                             \
        if ((n) == (n_max)) {                                                                      \
            (n_max) = MAX(2 * (n_max), (size_t)64);                                                \
            (array) = hai_realloc_array((array), (n_max), sizeof *(array));                        \
        }                                                                                          \
        &(array)[(n)++];                                                                           \
    })

void effects_touch_job(struct effects *fx, struct job *job) {
    if (!fx || job->touched == fx->batch)
        return;
    job->touched = fx->batch;
    *ADD(fx->jobs, fx->n_jobs, fx->n_jobs_max) = job->r.id;
}

void effects_touch_node(struct effects *fx, struct node *node, int number) {
    if (!fx || node->touched == fx->batch)
        return;
    node->touched = fx->batch;
    *ADD(fx->nodes, fx->n_nodes, fx->n_nodes_max) = number;
}

void effects_drop(struct effects *fx, struct job *job) {
    if (!fx) {
        state_job_free(job);
        return;
    }
    *ADD(fx->dropped, fx->n_dropped, fx->n_dropped_max) = job;
}

void effects_usage(struct effects *fx, const struct job *job, int64_t day,
                   const int64_t gpu_us[static LEDGER_JOB_CLASSES]) {
    const struct entry_job_spec *spec = &job->r.spec;

    if (!fx || fx->quiet)
        return;
    struct usage_row *row = ADD(fx->usage, fx->n_usage, fx->n_usage_max);
    *row = (struct usage_row){
        .day = day,
        .job = job->r.id,
        .attempt = job->r.attempt,
        .user = hai_strdup(spec->user),
        .team = hai_strdup(spec->team),
        .group = hai_strdup(spec->group),
        .stage = hai_strdup(spec->stage),
    };
    memcpy(row->gpu_us, gpu_us, sizeof row->gpu_us);
}

void effects_day(struct effects *fx, const struct ledger_day *day) {
    if (fx)
        *ADD(fx->days, fx->n_days, fx->n_days_max) = *day;
}

void effects_event(struct effects *fx, const struct entry *entry, enum event_kind kind,
                   const struct job *job, int64_t rank, int node, const char *format, ...) {
    char text[2 * REASON_BYTES_MAX];
    va_list ap;

    if (!fx || fx->quiet)
        return;
    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    *ADD(fx->events, fx->n_events, fx->n_events_max) = (struct event){
        .index = entry->index,
        .time_us = entry->time_us,
        .kind = kind,
        .job = job ? job->r.id : 0,
        .attempt = job ? job->r.attempt : 0,
        .rank = rank,
        .node = node,
        .principal = hai_strdup(entry->principal),
        .text = hai_strdup(text),
    };
}
