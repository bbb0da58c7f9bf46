#include "scheduler/projection.h"

#include "lib/pure/tlv.h"

/* Where an attempt runs is written when it is placed: later attempts replace it in the state. */
static void add_places(struct rows *rows, const struct state *state, const struct job *job) {
    for (size_t i = 0; job && i < job->r.allocs.n; i++)
        rows_add_place(rows, &(struct rows_place){
                                 .job = job->r.id,
                                 .attempt = job->r.attempt,
                                 .node_rank = (int64_t)i,
                                 .node = state->nodes[job->r.allocs.items[i].node]->r.name,
                             });
}

static void add_events(struct rows *rows, const struct state *state, const struct effects *fx) {
    int64_t n = 0;

    for (size_t i = 0; i < fx->n_events; i++) {
        const struct event *event = &fx->events[i];
        if (event->kind == EVENT_PLACED)
            add_places(rows, state, effects_job(fx, state, event->job));
        n = i && fx->events[i - 1].index == event->index ? n + 1 : 0;
        rows_add_event(rows,
                       &(struct rows_event){
                           .index = event->index,
                           .n = n,
                           .time_us = event->time_us,
                           .kind = event_kind_text(event->kind),
                           .job = event->job ? event->job : S_ABSENT,
                           .attempt = event->attempt ? event->attempt : S_ABSENT,
                           .rank = event->rank >= 0 ? event->rank : S_ABSENT,
                           .node = event->node >= 0 ? state->nodes[event->node]->r.name : NULL,
                           .principal = event->principal,
                           .message = event->text,
                       });
    }
}

static void add_job(struct rows *rows, const struct state *state, const struct job *job) {
    _cleanup_(buf_free) struct buf record = {0};

    tlv_encode(state_job_schema(), &job->r, &record);
    rows_add_job(rows, &(struct rows_job){
                           .id = job->r.id,
                           .user = job->r.spec.user,
                           .name = job->r.spec.name,
                           .state = job->r.state,
                           .submitted_us = job->r.submitted_us,
                           .ended_us = job->r.ended_us,
                           .index = state->r.index,
                           .record = record.data,
                           .record_bytes = record.n_bytes,
                       });
}

void projection_add(struct rows *rows, const struct state *state, const struct effects *fx) {
    add_events(rows, state, fx);
    for (size_t i = 0; i < fx->n_jobs; i++) {
        const struct job *job = effects_job(fx, state, fx->jobs[i]);
        if (job && state_job_ended(job))
            add_job(rows, state, job);
    }
    for (size_t i = 0; i < fx->n_usage; i++)
        rows_add_usage(rows, &fx->usage[i]);
    for (size_t i = 0; i < fx->n_days; i++)
        rows_add_day(rows, &fx->days[i]);
    rows_set_applied(rows, state->r.index);
}
