#include "scheduler/core/array.h"
#include "scheduler/core/eligible.h"

#include <stdio.h>

struct array_label array_label(const struct state_job *job) {
    struct array_label label;

    if (job->array != S_ABSENT)
        (void)snprintf(label.text, sizeof label.text, "%lld_%lld", (long long)job->array,
                       (long long)job->array_index);
    else
        (void)snprintf(label.text, sizeof label.text, "%lld", (long long)job->id);
    return label;
}

/* ---- indices ---- */

static int64_t range_count(const struct entry_range *range) {
    return (range->last - range->first) / range->step + 1;
}

int64_t array_count(const struct entry_job_spec *spec) {
    int64_t n = 0;

    for (size_t i = 0; i < spec->array.n; i++)
        n += range_count(&spec->array.items[i]);
    return n;
}

int64_t array_index(const struct entry_job_spec *spec, int64_t number) {
    for (size_t i = 0; i < spec->array.n; i++) {
        const struct entry_range *range = &spec->array.items[i];
        if (number < range_count(range))
            return range->first + number * range->step;
        number -= range_count(range);
    }
    return -1;
}

int64_t array_number(const struct entry_job_spec *spec, int64_t index) {
    int64_t before = 0;

    for (size_t i = 0; i < spec->array.n; i++) {
        const struct entry_range *range = &spec->array.items[i];
        if (index >= range->first && index <= range->last &&
            (index - range->first) % range->step == 0)
            return before + (index - range->first) / range->step;
        before += range_count(range);
    }
    return -1;
}

int array_check(const struct entry_job_spec *spec, struct hai_err *err) {
    int64_t last = -1;

    for (size_t i = 0; i < spec->array.n; i++) {
        const struct entry_range *range = &spec->array.items[i];
        if (range->first <= last || range->last < range->first)
            return hai_fail_at(err, -EINVAL, "bad_value", "array", NULL,
                               "array: %lld-%lld comes after %lld; expected indices that ascend",
                               (long long)range->first, (long long)range->last, (long long)last);
        last = range->last;
    }
    if (array_count(spec) > ARRAY_MAX)
        return hai_fail_at(err, -ERANGE, "out_of_range", "array", NULL,
                           "array has %lld elements; expected at most %d",
                           (long long)array_count(spec), ARRAY_MAX);
    return 0;
}

/* ---- elements ---- */

struct job *array_of(const struct state *state, int64_t id) {
    for (struct job *array = state->arrays; array; array = array->array->next)
        if (id > array->r.id && id <= array->r.id + array->array->n)
            return array;
    return NULL;
}

bool array_made(const struct job *array, int64_t number) {
    if (array->r.array_made != S_ABSENT && number < array->r.array_made)
        return true;
    for (size_t i = 0; i < array->r.array_early.n; i++)
        if (array->r.array_early.items[i] == number)
            return true;
    return false;
}

struct job array_unmade(const struct state *state, const struct job *array, int64_t id) {
    struct job job = {.r = array->r}; // shares its texts and lists

    job.r.id = id;
    job.r.array = array->r.id;
    job.r.array_index = array_index(&array->r.spec, id - array->r.id - 1);
    job.r.spec.array.n = 0;
    state_job_resolve(state, &job);
    return job;
}

struct job *array_next_open(const struct job *array, const struct job *from) {
    struct job *job = from->next;

    while (job && job->r.id <= array->r.id + array->array->n && state_job_ended(job))
        job = job->next;
    return job && job->r.id <= array->r.id + array->array->n ? job : NULL;
}

static bool waits(const struct state *state, const struct job *array, int64_t number) {
    const struct job *job = state_job_find(state, array->r.id + 1 + number);

    if (!array_made(array, number))
        return true;
    return job && !state_job_ended(job) && job->r.attempt == 0;
}

void array_waiting_list(const struct state *state, const struct job *array, char *ret,
                        size_t n_bytes) {
    size_t used = 0;

    ret[0] = 0;
    for (int64_t i = 0; i < array->array->n && used < n_bytes; i++) {
        int64_t first = i;
        if (!waits(state, array, i))
            continue;
        while (i + 1 < array->array->n && waits(state, array, i + 1))
            i++;
        const char *comma = used ? "," : "";
        int64_t from = array_index(&array->r.spec, first), to = array_index(&array->r.spec, i);
        int n = first == i ? snprintf(ret + used, n_bytes - used, "%s%lld", comma, (long long)from)
                           : snprintf(ret + used, n_bytes - used, "%s%lld-%lld", comma,
                                      (long long)from, (long long)to);
        if (n < 0 || (size_t)n >= n_bytes - used) { // what does not fit is left out, and said
            ret[used] = 0;
            (void)snprintf(ret + MIN(used, n_bytes - 5), 5, ",...");
            return;
        }
        used += (size_t)n;
    }
}

bool array_runs(const struct state *state, const struct job *array) {
    return array->r.state == JOB_STATE_QUEUED && array->r.wanted == WANTED_RUN &&
           eligible(state, array);
}

/* ---- what apply does ---- */

void array_notice(struct state *state, struct job *array) {
    if (!array->array || array->array->noticed)
        return;
    array->array->noticed = true;
    array->array->noticed_next = state->arrays_noticed;
    state->arrays_noticed = array;
}

static void enter_element(struct state *state, struct job *job) {
    struct job *array = state_job_find(state, job->r.array);

    if (!array || !array->array)
        return;
    if (!array->array->last || array->array->last->r.id < job->r.id)
        array->array->last = job;
    if (state_job_ended(job))
        return;
    array->array->n_open++;
    array->array->n_fresh += job->r.attempt == 0;
}

void array_enter(struct state *state, struct job *job) {
    if (array_is_element(job)) {
        enter_element(state, job);
        return;
    }
    if (!array_is(job) || state_job_ended(job))
        return;
    job->array = hai_new(struct array);
    *job->array =
        (struct array){.n = array_count(&job->r.spec), .last = job, .next = state->arrays};
    state->arrays = job;
}

static void leave_list(struct job **at, const struct job *array) {
    while (*at && *at != array)
        at = &(*at)->array->next;
    if (*at)
        *at = array->array->next;
}

static void leave_noticed(struct job **at, const struct job *array) {
    while (*at && *at != array)
        at = &(*at)->array->noticed_next;
    if (*at)
        *at = array->array->noticed_next;
}

static void count(int64_t *n) {
    *n = MAX(*n, 0) + 1; // absent is negative
}

static void count_end(struct job *array, const struct job *job) {
    int64_t code = MAX(job->r.exit_code, 1);

    if (job->r.exit_signal > 0)
        code = 128 + job->r.exit_signal;
    switch (job->r.state) {
    case JOB_STATE_SUCCEEDED:
        count(&array->r.array_succeeded);
        break;
    case JOB_STATE_STOPPED:
        count(&array->r.array_stopped);
        break;
    case JOB_STATE_TIMED_OUT:
        count(&array->r.array_timed_out);
        break;
    default:
        count(&array->r.array_failed);
        array->r.array_code = MAX(array->r.array_code, code);
    }
}

void array_changed(struct state *state, struct job *job, enum job_state from) {
    if (job->array && state_job_ended(job)) {
        leave_list(&state->arrays, job);
        leave_noticed(&state->arrays_noticed, job);
        free(job->array);
        job->array = NULL;
        return;
    }
    struct job *array = array_is_element(job) ? state_job_find(state, job->r.array) : NULL;
    if (!array || !array->array)
        return;
    bool started =
        job->r.state == JOB_STATE_STARTING && job->r.attempt == 1 && from != JOB_STATE_STARTING;
    bool unstarted_end = state_job_ended(job) && job->r.attempt == 0;
    array->array->n_fresh -= started || unstarted_end;
    if (state_job_ended(job)) {
        array->array->n_open--;
        count_end(array, job);
    }
    array_notice(state, array);
}

void array_dropped(struct state *state, struct job *job) {
    struct job *array = array_is_element(job) ? state_job_find(state, job->r.array) : NULL;

    if (array && array->array && array->array->last == job)
        array->array->last = job->prev;
}
