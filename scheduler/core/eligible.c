#include "scheduler/core/eligible.h"
#include "scheduler/core/array.h"

#include <stdio.h>

/* ---- series ---- */

enum { KEY_BYTES = USER_NAME_MAX + JOB_NAME_MAX + 2 };

static void key_of(const struct entry_job_spec *spec, char ret[static KEY_BYTES]) {
    strcpy(stpcpy(stpcpy(ret, spec->user), "\n"), spec->name);
}

struct series *eligible_series(const struct state *state, const struct entry_job_spec *spec) {
    char key[KEY_BYTES];

    key_of(spec, key);
    return map_get_text(&state->series, key);
}

static void series_join(struct state *state, struct job *job) {
    struct series *series = eligible_series(state, &job->r.spec);
    char key[KEY_BYTES];

    if (!series) {
        series = hai_new(struct series);
        key_of(&job->r.spec, key);
        map_put_text(&state->series, key, series);
    }
    assert(!series->last || series->last->r.id < job->r.id);
    job->series = series;
    job->series_prev = series->last;
    if (series->last)
        series->last->series_next = job;
    else
        series->first = job;
    series->last = job;
}

static void series_drop(struct state *state, struct series *series,
                        const struct entry_job_spec *spec) {
    char key[KEY_BYTES];

    key_of(spec, key);
    map_remove_text(&state->series, key);
    free(series);
}

/* Returns the job that is the first of the series now and was not before, or NULL. */
static struct job *series_leave(struct state *state, struct job *job) {
    struct series *series = job->series;
    struct job *next = job->series_prev ? NULL : job->series_next;

    if (job->series_prev)
        job->series_prev->series_next = job->series_next;
    else
        series->first = job->series_next;
    if (job->series_next)
        job->series_next->series_prev = job->series_prev;
    else
        series->last = job->series_prev;
    job->series = NULL;
    job->series_next = job->series_prev = NULL;
    if (!series->first)
        series_drop(state, series, &job->r.spec);
    return next;
}

/* The job of its series that a singleton waits for: the first. Also of one that is not there yet.
 */
static const struct job *series_ahead(const struct state *state, const struct job *job) {
    const struct series *series = job->series;

    if (!series)
        series = eligible_series(state, &job->r.spec);
    return series && series->first != job ? series->first : NULL;
}

/* ---- conditions ---- */

/* An absent enum is negative. */
static bool is_open(const struct entry_after *after) {
    return (int)after->ended < 0;
}

static bool comes_true(const struct entry_after *after) {
    switch (after->want) {
    case AFTER_OK:
        return after->ended == JOB_STATE_SUCCEEDED;
    case AFTER_FAILED:
        return after->ended == JOB_STATE_FAILED || after->ended == JOB_STATE_TIMED_OUT;
    default:
        return !is_open(after);
    }
}

const struct entry_after *eligible_broken(const struct job *job) {
    for (size_t i = 0; i < job->r.spec.after.n; i++) {
        const struct entry_after *after = &job->r.spec.after.items[i];
        if (!is_open(after) && !comes_true(after))
            return after;
    }
    return NULL;
}

static bool its_time(const struct state *state, const struct job *job) {
    return job->r.spec.not_before_us == S_ABSENT || job->r.spec.not_before_us <= state->r.time_us;
}

static bool is_singleton(const struct job *job) {
    return job->r.spec.singleton == 1;
}

bool eligible(const struct state *state, const struct job *job) {
    for (size_t i = 0; i < job->r.spec.after.n; i++)
        if (!comes_true(&job->r.spec.after.items[i]))
            return false;
    return its_time(state, job) && !(is_singleton(job) && series_ahead(state, job));
}

int64_t eligible_due_us(const struct state *state, const struct job *job) {
    return job->r.state == JOB_STATE_QUEUED && !its_time(state, job) ? job->r.spec.not_before_us
                                                                     : INT64_MAX;
}

/* "job 41 (alice)", as far as it is known. */
static void name_job(const struct state *state, int64_t id, char *ret, size_t n_bytes) {
    const struct job *job = state_job_find(state, id);

    if (job)
        (void)snprintf(ret, n_bytes, "job %s (%s)", array_label(&job->r).text, job->r.spec.user);
    else
        (void)snprintf(ret, n_bytes, "job %lld", (long long)id);
}

void eligible_say_broken(const struct state *state, const struct entry_after *after, char *ret,
                         size_t n_bytes) {
    char name[128];

    name_job(state, after->job, name, sizeof name);
    (void)snprintf(ret, n_bytes, "%s %s%s; this job starts only if it %s", name,
                   after->ended == JOB_STATE_STOPPED ? "was " : "",
                   after->ended == JOB_STATE_TIMED_OUT ? "ran for as long as it may"
                                                       : job_state_text(after->ended),
                   after->want == AFTER_OK ? "succeeds" : "fails");
}

static void say_after(const struct state *state, const struct job *job,
                      const struct entry_after *after, struct eligible_wait *ret) {
    static const char *const ends[] = {"to succeed", "to end", "to fail"};
    char name[128];
    size_t n_more = 0;

    for (size_t i = 0; i < job->r.spec.after.n; i++)
        n_more += is_open(&job->r.spec.after.items[i]);
    name_job(state, after->job, name, sizeof name);
    ret->code = "dependency";
    ret->ahead = after->job;
    ret->want = after->want;
    int n = snprintf(ret->text, sizeof ret->text, "waits for %s %s", name, ends[after->want]);
    if (n_more > 1)
        (void)snprintf(ret->text + n, sizeof ret->text - (size_t)n, ", and for %zu more",
                       n_more - 1);
}

bool eligible_wait(const struct state *state, const struct job *job, struct eligible_wait *ret) {
    const struct entry_after *never = eligible_broken(job);

    *ret = (struct eligible_wait){.code = "", .at_us = S_ABSENT, .want = AFTER_ANY};
    if (never) {
        ret->code = "dependency";
        eligible_say_broken(state, never, ret->text, sizeof ret->text);
        return true;
    }
    for (size_t i = 0; i < job->r.spec.after.n; i++)
        if (is_open(&job->r.spec.after.items[i])) {
            say_after(state, job, &job->r.spec.after.items[i], ret);
            return true;
        }
    const struct job *ahead = is_singleton(job) ? series_ahead(state, job) : NULL;
    if (ahead) {
        ret->code = "singleton";
        ret->ahead = ahead->r.id;
        (void)snprintf(ret->text, sizeof ret->text,
                       "waits for job %lld to end: one job of %s named %s at a time",
                       (long long)ahead->r.id, job->r.spec.user, job->r.spec.name);
        return true;
    }
    if (its_time(state, job))
        return false;
    ret->code = "not_before";
    ret->at_us = job->r.spec.not_before_us;
    (void)snprintf(ret->text, sizeof ret->text, "waits for the time that it was given");
    return true;
}

/* ---- submission ---- */

/* The shell looked for the name before what was submitted since; those jobs are the last ones. */
static int64_t newest_since(const struct state *state, const struct entry_job_spec *spec,
                            const struct entry_after *after) {
    for (const struct job *job = state->jobs_last; job && job->r.id >= after->since;
         job = job->prev)
        if (job->r.array == S_ABSENT && hai_streq(job->r.spec.user, spec->user) &&
            hai_streq(job->r.spec.name, after->name))
            return job->r.id;
    return S_ABSENT;
}

static int resolve(const struct state *state, const struct entry_job_spec *spec,
                   struct entry_after *after, struct hai_err *err) {
    int64_t newer =
        after->name && after->since != S_ABSENT ? newest_since(state, spec, after) : S_ABSENT;
    if (newer != S_ABSENT)
        after->job = newer;
    if (after->job == S_ABSENT)
        return hai_fail_at(
            err, -ENOENT, "not_found", "after", NULL, "after.%s is %s; %s has no job of that name",
            after_want_text(after->want), after->name ? after->name : "empty", spec->user);
    hai_strset(&after->name, NULL);
    after->since = S_ABSENT;
    const struct job *job = state_job_find(state, after->job);
    if (job)
        after->ended = state_job_ended(job) ? job->r.state : (enum job_state) - 1;
    else if (after->job >= state->r.next_job || is_open(after) || !job_state_ended(after->ended))
        return hai_fail_at(err, -ENOENT, "not_found", "after", NULL,
                           "after.%s is %lld; there is no such job, or it is no longer kept",
                           after_want_text(after->want), (long long)after->job);
    return 0;
}

int eligible_resolve(const struct state *state, struct entry_job_spec *spec, struct hai_err *err) {
    int r = 0;

    for (size_t i = 0; i < spec->after.n && r == 0; i++)
        r = resolve(state, spec, &spec->after.items[i], err);
    return r;
}

/* ---- what apply does ---- */

static void add_waiter(struct job *job, int64_t id) {
    size_t n = job->n_waiters;

    if (n && job->waiters[n - 1] == id)
        return;
    if ((n & (n - 1)) == 0) // full: it grows in powers of two
        job->waiters = hai_realloc_array(job->waiters, MAX(2 * n, (size_t)1), sizeof(int64_t));
    job->waiters[job->n_waiters++] = id;
}

void eligible_enter(struct state *state, struct job *job) {
    if (state_job_ended(job) || job->r.array != S_ABSENT) // the array stands for its elements
        return;
    series_join(state, job);
    for (size_t i = 0; i < job->r.spec.after.n; i++) {
        const struct entry_after *after = &job->r.spec.after.items[i];
        struct job *ahead = is_open(after) ? state_job_find(state, after->job) : NULL;
        if (ahead)
            add_waiter(ahead, job->r.id);
    }
}

struct job *eligible_ended(struct state *state, struct job *job) {
    struct job *next = job->series ? series_leave(state, job) : NULL;

    if (next && !is_singleton(next))
        next = NULL;
    if (!job->n_waiters)
        return next;
    struct eligible_news *news = hai_new(struct eligible_news);
    *news = (struct eligible_news){job->r.id, job->r.state, job->waiters, job->n_waiters, NULL};
    job->waiters = NULL;
    job->n_waiters = 0;
    if (state->news_last)
        state->news_last->next = news;
    else
        state->news_first = news;
    state->news_last = news;
    return next;
}
