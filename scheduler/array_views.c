#include "scheduler/array_views.h"

#include "scheduler/core/core.h"
#include "wire/messages.h"
#include <stdio.h>

static char *indices(const struct entry_job_spec *spec) {
    struct buf text = {0};

    for (size_t i = 0; i < spec->array.n; i++) {
        const struct entry_range *range = &spec->array.items[i];
        buf_printf(&text, "%s%lld", i ? "," : "", (long long)range->first);
        if (range->last > range->first)
            buf_printf(&text, "-%lld", (long long)range->last);
        if (range->step > 1)
            buf_printf(&text, ":%lld", (long long)range->step);
    }
    char *ret = hai_strdup(buf_cstr(&text));
    buf_free(&text);
    return ret;
}

static void fill_elements(const struct state *state, const struct state_job *job,
                          struct array_view *ret) {
    const struct job *array = state_job_find(state, job->id);
    char waiting[ARRAY_TEXT_MAX];

    ret->indices = indices(&job->spec);
    ret->n = array_count(&job->spec);
    ret->cap = job->spec.array_cap;
    ret->succeeded = MAX(job->array_succeeded, 0);
    ret->failed = MAX(job->array_failed, 0);
    ret->timed_out = MAX(job->array_timed_out, 0);
    ret->stopped = MAX(job->array_stopped, 0);
    ret->running = ret->waiting = 0;
    int64_t n_ended = ret->succeeded + ret->failed + ret->timed_out + ret->stopped;
    if (!array || !array->array) { // it has ended: those that never were jobs were stopped
        ret->stopped += ret->n - n_ended;
        return;
    }
    ret->running = array->array->n_open - array->array->n_fresh;
    ret->waiting = ret->n - n_ended - ret->running;
    array_waiting_list(array, waiting, sizeof waiting);
    ret->waiting_indices = waiting[0] ? hai_strdup(waiting) : NULL;
}

/* An array itself only waits, or has ended. */
enum job_state array_views_state(const struct state *state, const struct state_job *job) {
    const struct job *array = state_job_find(state, job->id);

    if (!array || !array->array || job->state != JOB_STATE_QUEUED)
        return job->state;
    if (job->wanted == WANTED_STOP)
        return JOB_STATE_STOPPING;
    return array->array->n_open > array->array->n_fresh ? JOB_STATE_RUNNING : JOB_STATE_QUEUED;
}

void array_views_fill(const struct schedd *s, const struct state_job *job, struct job_view *ret) {
    ret->label = hai_strdup(array_label(job).text);
    ret->array = job->array;
    ret->array_index = job->array_index;
    if (!job->spec.array.n || job->array != S_ABSENT)
        return;
    ret->state = array_views_state(schedd_state(s), job);
    fill_elements(schedd_state(s), job, &ret->elements);
}

char *array_views_note(const struct schedd *s, const struct job *array, const char *why) {
    char waiting[160];

    if (!array->array)
        return NULL;
    array_waiting_list(array, waiting, sizeof waiting);
    int64_t n_running = array->array->n_open - array->array->n_fresh;
    if (!waiting[0])
        return hai_asprintf("%lld of %lld elements left, all run", (long long)n_running,
                            (long long)array->array->n);
    return hai_asprintf("%s wait%s, %lld run: %s", waiting, strpbrk(waiting, ",-") ? "" : "s",
                        (long long)n_running, why);
}

bool array_views_hidden(const struct job *job) {
    return array_is_element(job) && job->r.attempt == 0 && !state_job_ended(job);
}

const struct job *array_views_first(const struct state *state, const struct job *array) {
    const struct job *first = array && array->array ? array_next_open(array, array) : NULL;

    while (first && first->r.attempt > 0)
        first = array_next_open(array, first);
    return first;
}

bool array_views_leads(const struct state *state, const struct job *job) {
    return array_views_first(state, state_job_find(state, job->r.array)) == job;
}

int64_t array_views_next_id(const struct state *state, const struct job *array) {
    const struct job *first = array_views_first(state, array);
    int64_t number = MAX(array->r.array_made, 0);

    if (first || !array->array)
        return first ? first->r.id : 0;
    while (number < array->array->n && array_made(array, number))
        number++;
    return number < array->array->n ? array->r.id + 1 + number : 0;
}

static void add_part(struct buf *text, int64_t n, const char *word) {
    if (n > 0)
        buf_printf(text, "%s%lld %s", text->n_bytes ? ", " : "", (long long)n, word);
}

char *array_views_sentence(const struct state *state, const struct state_job *job) {
    const struct job *array = state_job_find(state, job->id);
    int64_t open[JOB_STATE_COUNT] = {0};
    struct array_view view;
    struct buf text = {0};

    schema_init(array_view_schema(), &view);
    fill_elements(state, job, &view);
    add_part(&text, view.waiting, view.waiting == 1 ? "waits" : "wait");
    if (view.waiting > 0 && view.waiting_indices)
        buf_printf(&text, " (%s)", view.waiting_indices);
    for (const struct job *one = array && array->array ? array_next_open(array, array) : NULL; one;
         one = array_next_open(array, one))
        open[one->r.state] += one->r.attempt > 0;
    for (int at = 0; at < JOB_STATE_COUNT; at++)
        add_part(&text, open[at], job_state_text((enum job_state)at));
    add_part(&text, view.succeeded, "succeeded");
    add_part(&text, view.failed, "failed");
    add_part(&text, view.timed_out, "timed out");
    add_part(&text, view.stopped, "stopped");
    if (view.cap != S_ABSENT && array && array->array)
        buf_printf(&text, "; at most %lld at once", (long long)view.cap);
    schema_free(array_view_schema(), &view);
    char *sentence = hai_strdup(buf_cstr(&text));
    buf_free(&text);
    return sentence;
}

int array_views_element(const struct state_job *array, const char *index, int64_t *ret) {
    char *end;

    if (!array->spec.array.n || *index < '0' || *index > '9')
        return -ENOENT;
    errno = 0;
    long long value = strtoll(index, &end, 10);
    int64_t number = *end || errno ? -1 : array_number(&array->spec, value);
    if (number < 0)
        return -ENOENT;
    *ret = array->id + 1 + number;
    return 0;
}
