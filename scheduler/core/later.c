#include "scheduler/core/later.h"
#include "lib/pure/map.h"
#include "scheduler/core/array.h"
#include "scheduler/core/eligible.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/order.h"
#include "scheduler/core/quota.h"

enum { ELEMENTS_IMAGINED_MAX = 20000 }; // in a draw; who stands behind more comes too early

/* What will become of a job, as map values. STOPPED: it ends, neither well nor failed. */
enum ends { ENDS_UNKNOWN, ENDS_WELL, ENDS_FAILED, ENDS_STOPPED };

struct item {
    const struct job *job;
    bool asked;               // none of it stands in line, so it is one of later_count
    bool listed;              // in the list of those that may join
    bool joined;              // of an array: elements may
    int64_t ahead;            // the job that it waited for last
    int64_t next;             // of an array: number of its next element that is no job,
    int64_t n, cap;           // of so many,
    int64_t n_open;           // those made and not ended,
    int64_t n_fresh;          // of these: not started,
    int64_t n_left;           // those not ended
    const struct job *before; // of its series: all behind it have ended
    struct timer timer;       // its time; the key is its position
    struct item *next_watching, *next_ready;
};

struct later {
    const struct state *state;
    struct item *items; // those that are asked for first, ascending ids; then arrays under way
    size_t n, n_asked;
    struct map ended;    // ids
    struct map watching; // the first item that waits for the end of this id
    struct map arrays;   // by id: their items
    struct timers timers;
    struct item *ready; // may join
    int64_t now_us;
    int64_t n_elements;
};

/* ---- who is foreseen ---- */

struct survey {
    const struct state *state;
    struct map ends;    // enum ends by id
    struct map unknown; // series with a job of which nobody knows when it ends
};

static enum ends ends_of(const struct survey *survey, int64_t id) {
    return (enum ends)(intptr_t)map_get(&survey->ends, id);
}

static bool is_open(const struct entry_after *after) {
    return (int)after->ended < 0;
}

static bool is_singleton(const struct job *job) {
    return job->r.spec.singleton == 1;
}

static const struct series *series_of(const struct state *state, const struct job *job) {
    return job->series ? job->series : eligible_series(state, &job->r.spec);
}

static bool is_met(enum ends ends, enum after_want want) {
    switch (want) {
    case AFTER_OK:
        return ends == ENDS_WELL;
    case AFTER_FAILED:
        return ends == ENDS_FAILED;
    default:
        return ends != ENDS_UNKNOWN;
    }
}

/* Will what it waits for come true? */
static bool comes_true(const struct survey *survey, const struct job *job) {
    const struct series *series = is_singleton(job) ? series_of(survey->state, job) : NULL;

    for (size_t i = 0; i < job->r.spec.after.n; i++) {
        const struct entry_after *after = &job->r.spec.after.items[i];
        if (is_open(after) && !is_met(ends_of(survey, after->job), after->want))
            return false;
    }
    return !eligible_broken(job) && !(series && map_get(&survey->unknown, (intptr_t)series));
}

/* Does the one that it waits for give back as much as it will be charged? */
static bool takes_over(const struct job *job, const struct job *ahead) {
    if (ahead && ahead->array) // its elements are charged
        ahead = array_next_open(ahead, ahead);
    return ahead && (ahead->queued || state_job_live(ahead)) && !quota_is_over(ahead) &&
           ahead->group == job->group && order_gpus(ahead) >= order_gpus(job) &&
           hai_streq(ahead->r.spec.user, job->r.spec.user) &&
           hai_streq(ahead->r.spec.team, job->r.spec.team) &&
           (quota_is_auto(job) || ahead->r.priority == job->r.priority);
}

static bool takes_over_any(const struct state *state, const struct job *job) {
    const struct series *series = is_singleton(job) ? series_of(state, job) : NULL;
    bool found = series && series->first != job && takes_over(job, series->first);

    for (size_t i = 0; i < job->r.spec.after.n && !found; i++)
        found = is_open(&job->r.spec.after.items[i]) &&
                takes_over(job, state_job_find(state, job->r.spec.after.items[i].job));
    return found;
}

/* Its quota is not charged yet, but for one that recovers. */
static void draft(const struct state *state, struct job *job) {
    if (job->r.state != JOB_STATE_RECOVERING) {
        job->r.over = S_ABSENT;
        quota_draft(state, job);
        if (takes_over_any(state, job))
            job->r.over = S_ABSENT;
    }
    later_line_up(state, job);
}

/* The job as it would join; of an array, its last element. */
static struct job joining(const struct state *state, const struct job *job) {
    struct job copy =
        array_is(job) ? array_unmade(state, job, job->r.id + array_count(&job->r.spec)) : *job;

    draft(state, &copy);
    return copy;
}

static bool waits_for_delay(const struct state *state, const struct job *job) {
    return job->r.state == JOB_STATE_RECOVERING && !state_job_live(job) &&
           job->r.not_before_us != S_ABSENT && job->r.not_before_us > state->r.time_us;
}

/* Does it want to run, without standing in line? */
static bool is_away(const struct state *state, const struct job *job) {
    if (job->group < 0 || job->r.wanted != WANTED_RUN || job->queued || state_job_live(job))
        return false;
    if (array_is(job))
        return job->r.state == JOB_STATE_QUEUED;
    return waits_for_delay(state, job) ||
           ((job->r.state == JOB_STATE_QUEUED || job->r.state == JOB_STATE_SUSPENDED) &&
            !eligible(state, job));
}

/* How an array will end if its open elements end well (elements.c). */
static enum ends array_ends(const struct job *array) {
    if (MAX(array->r.array_failed, 0) + MAX(array->r.array_timed_out, 0) > 0)
        return ENDS_FAILED;
    return array->r.array_stopped > 0 ? ENDS_STOPPED : ENDS_WELL;
}

static enum ends foresee(struct survey *survey, const struct job *job) {
    if (state_job_live(job) && job->r.wanted == WANTED_STOP)
        return ENDS_STOPPED;
    if (state_job_live(job))
        return job->r.phase == DESIRED_PHASE_RUN ? ENDS_WELL : ENDS_UNKNOWN;
    if (job->queued)
        return ENDS_WELL;
    if (!is_away(survey->state, job) || !comes_true(survey, job))
        return ENDS_UNKNOWN;
    if (array_is(job) && job->array && job->array->n_open) // its elements answer for themselves
        return array_ends(job);
    struct job copy = joining(survey->state, job);
    if (quota_bars(survey->state, &copy)) // nobody knows when it would be within quota
        return ENDS_UNKNOWN;
    return array_is(job) ? array_ends(job) : ENDS_WELL;
}

static void note(struct survey *survey, const struct job *job, enum ends ends) {
    const struct series *series = series_of(survey->state, job);

    if (ends != ENDS_UNKNOWN)
        map_put(&survey->ends, job->r.id, (void *)(intptr_t)ends);
    else if (map_get(&survey->ends, job->r.id))
        map_remove(&survey->ends, job->r.id);
    if (ends == ENDS_UNKNOWN && series)
        map_put(&survey->unknown, (intptr_t)series, (void *)(intptr_t)1);
}

/* What becomes of an element is known after its array, and before all that may wait for that. */
static void note_element(struct survey *survey, const struct job *job, enum ends ends) {
    enum ends all = ends_of(survey, job->r.array);
    const struct job *array = state_job_find(survey->state, job->r.array);

    if (array && all != ENDS_UNKNOWN && ends == ENDS_UNKNOWN)
        note(survey, array, ENDS_UNKNOWN);
    else if (array && all == ENDS_WELL && ends == ENDS_STOPPED)
        note(survey, array, ENDS_STOPPED);
}

static void add(struct later *l, const struct job *job) {
    struct item *item = &l->items[l->n++];

    *item = (struct item){.job = job, .asked = true};
    if (!array_is(job))
        return;
    item->n = array_count(&job->r.spec);
    item->cap = job->r.spec.array_cap == S_ABSENT ? INT64_MAX : job->r.spec.array_cap;
    item->n_left = item->n - MAX(job->r.array_succeeded, 0) - MAX(job->r.array_failed, 0) -
                   MAX(job->r.array_timed_out, 0) - MAX(job->r.array_stopped, 0);
    item->n_open = job->array ? job->array->n_open : 0;
    item->n_fresh = job->array ? job->array->n_fresh : 0;
    item->asked = item->n_fresh == 0 && item->n_left > item->n_open;
}

/* An element over quota in strict order: those to come are as well. */
static void bar(struct later *l, const struct job *element) {
    if (l->n && l->items[l->n - 1].job->r.id == element->r.array)
        l->items[l->n - 1].cap = 0;
}

static bool comes(struct survey *survey, const struct job *job) {
    if (state_job_ended(job))
        return false;
    enum ends ends = foresee(survey, job);
    if (array_is_element(job))
        note_element(survey, job, ends);
    note(survey, job, ends);
    return ends != ENDS_UNKNOWN && is_away(survey->state, job);
}

static int by_asked(const void *pa, const void *pb) {
    const struct item *a = pa, *b = pb;

    if (a->asked != b->asked)
        return a->asked ? -1 : 1;
    return a->job->r.id < b->job->r.id ? -1 : a->job->r.id > b->job->r.id;
}

static void survey_all(struct later *l, const struct job *extra) {
    struct survey survey = {.state = l->state};
    size_t n_max = 0;

    for (const struct job *job = l->state->jobs_first; job; job = job->next) {
        if (array_is_element(job) && !state_job_ended(job) && quota_bars(l->state, job))
            bar(l, job);
        if (!comes(&survey, job))
            continue;
        if (l->n == n_max) {
            n_max = MAX(2 * n_max, (size_t)16);
            l->items = hai_realloc_array(l->items, n_max, sizeof *l->items);
        }
        add(l, job);
    }
    l->items = hai_realloc_array(l->items, l->n + 1, sizeof *l->items);
    if (extra && (array_is(extra) || !eligible(l->state, extra)) && comes_true(&survey, extra))
        add(l, extra);
    if (l->n > 1)
        qsort(l->items, l->n, sizeof *l->items, by_asked);
    map_free(&survey.ends);
    map_free(&survey.unknown);
}

/* ---- who waits for whom ---- */

static void watch(struct later *l, struct item *item, int64_t id) {
    item->next_watching = map_get(&l->watching, id);
    map_put(&l->watching, id, item);
}

static void list(struct later *l, struct item *item) {
    if (item->listed)
        return;
    item->listed = true;
    item->next_ready = l->ready;
    l->ready = item;
}

/* The nearest job of its series before it that has not ended, or NULL. */
static const struct job *series_ahead(const struct later *l, struct item *item) {
    const struct job *before = item->before;

    while (before && map_get(&l->ended, before->r.id)) // those before a singleton ended before it
        before = is_singleton(before) ? NULL : before->series_prev;
    item->before = before;
    return before;
}

static int64_t its_time_us(const struct job *job) {
    return job->r.state == JOB_STATE_RECOVERING ? job->r.not_before_us : job->r.spec.not_before_us;
}

/* It waits for the next thing that has not come true, or joins. */
static void lead(struct later *l, struct item *item) {
    const struct job *job = item->job;

    for (size_t i = 0; i < job->r.spec.after.n; i++) {
        const struct entry_after *after = &job->r.spec.after.items[i];
        if (is_open(after) && !map_get(&l->ended, after->job)) {
            watch(l, item, after->job);
            return;
        }
    }
    const struct job *ahead = series_ahead(l, item);
    int64_t at_us = its_time_us(job);
    if (ahead) {
        watch(l, item, ahead->r.id);
    } else if (at_us != S_ABSENT && at_us > l->now_us) {
        item->ahead = 0;
        timers_set(&l->timers, &item->timer, at_us);
    } else {
        list(l, item);
    }
}

struct later *later_new(const struct state *state, const struct job *extra) {
    struct later *l = hai_new(struct later);

    l->state = state;
    l->now_us = state->r.time_us;
    survey_all(l, extra);
    for (size_t i = 0; i < l->n; i++) {
        struct item *item = &l->items[i];
        const struct series *series = is_singleton(item->job) ? series_of(state, item->job) : NULL;
        item->timer.key = (int64_t)i;
        if (series)
            item->before = item->job->series ? item->job->series_prev : series->last;
        l->n_asked += item->asked;
        if (array_is(item->job))
            map_put(&l->arrays, item->job->r.id, item);
        if (item->asked)
            lead(l, item);
        else
            list(l, item);
    }
    return l;
}

void later_free(struct later *l) {
    if (!l)
        return;
    map_free(&l->ended);
    map_free(&l->watching);
    map_free(&l->arrays);
    timers_free(&l->timers);
    free(l->items);
    free(l);
}

size_t later_count(const struct later *l) {
    return l->n_asked;
}

int64_t later_id(const struct later *l, size_t i) {
    return l->items[i].job->r.id;
}

static void tell(struct later *l, int64_t id) {
    struct item *item = map_remove(&l->watching, id);

    map_put(&l->ended, id, l);
    while (item) {
        struct item *next = item->next_watching;
        item->ahead = id;
        lead(l, item);
        item = next;
    }
}

static struct item *array_item(const struct later *l, const struct job *job) {
    return array_is_element(job) ? map_get(&l->arrays, job->r.array) : NULL;
}

void later_started(struct later *l, const struct job *job) {
    struct item *array = array_item(l, job);

    if (!array || job->r.attempt > 0)
        return;
    array->n_fresh--;
    list(l, array);
}

void later_ended(struct later *l, const struct job *job) {
    struct item *array = array_item(l, job);

    tell(l, job->r.id);
    if (!array)
        return;
    assert(array->n_left > 0);
    array->n_open--;
    array->ahead = job->r.id;
    if (--array->n_left == 0)
        tell(l, array->job->r.id);
    else
        list(l, array);
}

/* ---- who joins ---- */

int64_t later_next_us(const struct later *l) {
    const struct timer *timer = timers_first(&l->timers);

    return timer ? timer->at_us : INT64_MAX;
}

/* The next element that the array lets run; false: none now. */
static bool take_element(struct later *l, struct item *array, struct job *ret) {
    while (array->next < array->n && array_made(array->job, array->next))
        array->next++;
    if (array->next == array->n || array->n_open >= array->cap || array->n_fresh >= ARRAY_AHEAD ||
        l->n_elements == ELEMENTS_IMAGINED_MAX)
        return false;
    *ret = array_unmade(l->state, array->job, array->job->r.id + 1 + array->next++);
    const struct job *open = array->job->array ? array_next_open(array->job, array->job) : NULL;
    if (open) {
        ret->r.over = open->r.over;
        ret->r.priority = open->r.priority;
        later_line_up(l->state, ret);
    } else {
        draft(l->state, ret);
    }
    array->n_open++;
    array->n_fresh++;
    l->n_elements++;
    return true;
}

void later_line_up(const struct state *state, struct job *job) {
    job->r.line_us = S_ABSENT; // turns are not foreseen, so it does not age
    job->r.allocs.n = job->r.claim.n = 0;
    job->n_left = 0;
    job->shape = NULL;
    job->tier = order_tier(state, job);
    job->level = fair_level(state, job);
    job->hold_s = order_backfills(state) ? hold_seconds(state, job) : 0;
}

bool later_take(struct later *l, int64_t now_us, struct job *ret, size_t *ret_i,
                int64_t *ret_ahead) {
    l->now_us = MAX(l->now_us, now_us);
    while (later_next_us(l) <= l->now_us) {
        struct item *item = &l->items[timers_first(&l->timers)->key];
        timers_set(&l->timers, &item->timer, INT64_MAX);
        list(l, item);
    }
    while (l->ready) {
        struct item *item = l->ready;
        bool is_array = array_is(item->job);
        if (!is_array) {
            *ret = *item->job;
            draft(l->state, ret);
        }
        if (!is_array || !take_element(l, item, ret)) {
            l->ready = item->next_ready;
            item->listed = false;
            if (is_array)
                continue;
        }
        bool first = item->asked && !item->joined;
        item->joined = true;
        *ret_i = first ? (size_t)(item - l->items) : SIZE_MAX;
        *ret_ahead = item->ahead;
        ret->r.since_us = l->now_us;
        return true;
    }
    return false;
}
