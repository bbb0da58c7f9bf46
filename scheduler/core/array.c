#include "scheduler/core/array.h"

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

struct array_label array_label_of(const struct state *state, int64_t id) {
    const struct job *job = state_job_find(state, id);
    const struct job *array = job ? NULL : array_of(state, id);
    struct array_label label;

    if (job)
        return array_label(&job->r);
    if (array)
        (void)snprintf(label.text, sizeof label.text, "%lld_%lld", (long long)array->r.id,
                       (long long)array_index(&array->r.spec, id - array->r.id - 1));
    else
        (void)snprintf(label.text, sizeof label.text, "%lld", (long long)id);
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

/* A list of indices that is written from numbers, which ascend. */
struct list {
    const struct job *array;
    char *at;
    size_t left;
    int64_t first, last; // the run not yet written; -1: none
    bool any, full;
};

static void write_run(struct list *list) {
    const struct entry_job_spec *spec = &list->array->r.spec;
    char text[64];

    if (list->first < 0 || list->full)
        return;
    long long from = array_index(spec, list->first), to = array_index(spec, list->last);
    int n = from == to ? snprintf(text, sizeof text, "%s%lld", list->any ? "," : "", from)
                       : snprintf(text, sizeof text, "%s%lld-%lld", list->any ? "," : "", from, to);
    list->full = (size_t)n + sizeof ",..." > list->left;
    n = snprintf(list->at, list->left, "%s", list->full ? ",..." : text);
    list->at += n;
    list->left -= (size_t)n;
    list->any = true;
}

static void add_run(struct list *list, int64_t first, int64_t last) {
    if (list->first >= 0 && first == list->last + 1) {
        list->last = last;
        return;
    }
    write_run(list);
    list->first = first;
    list->last = last;
}

static int by_number(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* Those that are jobs, then what lies between those made early. */
void array_waiting_list(const struct job *array, char *ret, size_t n_bytes) {
    struct list list = {.array = array, .at = ret, .left = n_bytes, .first = -1};
    int64_t made = MAX(array->r.array_made, 0);
    size_t n_early = array->r.array_early.n;
    _cleanup_free_ int64_t *early = hai_new_array(int64_t, n_early + 1);

    assert(n_bytes >= 8);
    ret[0] = 0;
    for (size_t i = 0; i < n_early; i++)
        early[i] = array->r.array_early.items[i];
    qsort(early, n_early, sizeof *early, by_number);
    for (const struct job *job = array_next_open(array, array); job;
         job = array_next_open(array, job)) {
        int64_t number = job->r.id - array->r.id - 1;
        if (job->r.attempt == 0 && number < made)
            add_run(&list, number, number);
    }
    early[n_early] = array->array->n;
    for (size_t i = 0; i <= n_early; i++) {
        if (early[i] > made)
            add_run(&list, made, early[i] - 1);
        made = MAX(made, early[i] + 1);
    }
    write_run(&list);
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
    if (state->arrays)
        state->arrays->array->prev = job;
    state->arrays = job;
}

static void leave_list(struct state *state, struct array *array) {
    if (array->prev)
        array->prev->array->next = array->next;
    else
        state->arrays = array->next;
    if (array->next)
        array->next->array->prev = array->prev;
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
        leave_list(state, job->array);
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
