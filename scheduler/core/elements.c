#include "scheduler/core/elements.h"
#include "scheduler/core/array.h"
#include "scheduler/core/eligible.h"

/* Behind the elements with lower numbers: the list of all jobs has ascending ids. */
static void insert(struct state *state, struct job *array, struct job *job) {
    struct job *before = array->array->last;

    while (before->r.id > job->r.id)
        before = before->prev;
    job->prev = before;
    job->next = before->next;
    if (job->next)
        job->next->prev = job;
    else
        state->jobs_last = job;
    before->next = job;
    state->n_jobs++;
    map_put(&state->job_by_id, job->r.id, job);
}

/* The array's wishes without what only the array has. */
static void copy_spec(const struct state_job *array, struct entry_job_spec *ret) {
    struct entry_job_spec spec = array->spec;

    spec.after.n = 0;
    spec.array.n = 0;
    spec.array_cap = spec.singleton = spec.not_before_us = S_ABSENT;
    schema_copy(entry_job_spec_schema(), ret, &spec);
}

static struct job *make(struct mutate *c, struct job *array, int64_t number) {
    struct job *job = hai_new(struct job);

    schema_init(state_job_schema(), &job->r);
    copy_spec(&array->r, &job->r.spec);
    job->r.id = array->r.id + 1 + number;
    job->r.array = array->r.id;
    job->r.array_index = array_index(&array->r.spec, number);
    job->timer.key = job->r.id;
    job->r.priority = array->r.priority;
    job->r.time_limit_us = array->r.time_limit_us;
    job->r.reserve = array->r.reserve;
    job->r.submitted_us = array->r.submitted_us;
    job->r.since_us = c->entry->time_us;
    state_job_resolve(c->state, job);
    insert(c->state, array, job);
    mutate_enter(c->state, job);
    array_enter(c->state, job);
    mutate_follow(c, job);
    return job;
}

/* The number of the next element to be made in order. Those made early are passed over. */
static int64_t next_number(struct job *array) {
    int64_t number = MAX(array->r.array_made, 0);

    while (number < array->array->n) {
        size_t i = 0;
        while (i < array->r.array_early.n && array->r.array_early.items[i] != number)
            i++;
        if (i == array->r.array_early.n)
            break;
        array->r.array_early.items[i] = array->r.array_early.items[--array->r.array_early.n];
        number++;
    }
    if (number > 0)
        array->r.array_made = number;
    return number;
}

static void fill(struct mutate *c, struct job *array) {
    const struct array *a = array->array;
    int64_t cap = array->r.spec.array_cap == S_ABSENT ? INT64_MAX : array->r.spec.array_cap;

    while (a->n_open < cap && a->n_fresh < ARRAY_AHEAD) {
        if (a->n_open && c->state->n_jobs - c->state->n_ended >= JOBS_LIVE_MAX)
            return; // with one of its own it is looked at again
        int64_t number = next_number(array);
        if (number == a->n)
            return;
        array->r.array_made = number + 1;
        make(c, array, number);
    }
}

/* How an array ends: failed if an element did, else timed out, else stopped, else it succeeded. */
static void end(struct mutate *c, struct job *array) {
    int64_t n_failed = MAX(array->r.array_failed, 0),
            n_timed_out = MAX(array->r.array_timed_out, 0);
    int64_t n_ok = MAX(array->r.array_succeeded, 0), n = array->array->n;
    int64_t n_stopped = n - n_ok - n_failed - n_timed_out;
    enum job_state to = n_failed      ? JOB_STATE_FAILED
                        : n_timed_out ? JOB_STATE_TIMED_OUT
                        : n_stopped   ? JOB_STATE_STOPPED
                                      : JOB_STATE_SUCCEEDED;
    enum reason reason = n_failed      ? REASON_EXIT
                         : n_timed_out ? REASON_TIME_LIMIT
                         : n_stopped   ? REASON_USER
                                       : REASON_NONE;

    array->r.exit_code = n_failed ? array->r.array_code : n_ok == n ? 0 : S_ABSENT;
    if (array->r.state == JOB_STATE_SUSPENDED) // its last elements ended all the same
        mutate_state(c, array, JOB_STATE_QUEUED, REASON_NONE, NULL);
    if (n_ok == n)
        mutate_state(c, array, to, reason, NULL);
    else
        mutate_state(c, array, to, reason,
                     "%lld of %lld elements succeeded, %lld failed, %lld timed out, %lld stopped",
                     (long long)n_ok, (long long)n, (long long)n_failed, (long long)n_timed_out,
                     (long long)n_stopped);
}

/* May elements be made? */
static bool runs(const struct state *state, const struct job *array) {
    return array->r.state == JOB_STATE_QUEUED && array->r.wanted == WANTED_RUN &&
           eligible(state, array);
}

static void look(struct mutate *c, struct job *array) {
    effects_touch_job(c->fx, array);
    if (runs(c->state, array))
        fill(c, array);
    bool all = array->r.wanted == WANTED_STOP || next_number(array) == array->array->n;
    if (all && array->array->n_open == 0)
        end(c, array);
}

bool elements_settle(struct mutate *c) {
    struct state *state = c->state;
    bool any = state->arrays_noticed != NULL;
    struct entry entry;
    struct mutate by = mutate_by_system(c, &entry);

    while (state->arrays_noticed) {
        struct job *array = state->arrays_noticed;
        state->arrays_noticed = array->array->noticed_next;
        array->array->noticed = false;
        look(&by, array);
    }
    return any;
}

int elements_need(struct mutate *c, int64_t id) {
    int r = 0;

    if (state_job_find(c->state, id))
        return 0;
    struct job *array = array_of(c->state, id);
    if (!array || array_made(array, id - array->r.id - 1) || !mutate_own_job(c, array->r.id, &r))
        return r;
    *LIST_ADD(&array->r.array_early) = id - array->r.id - 1;
    make(c, array, id - array->r.id - 1);
    return 0;
}
