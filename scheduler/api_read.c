#include "scheduler/api_read.h"

#include "lib/timefmt.h"
#include "scheduler/api_find.h"
#include "scheduler/array_views.h"
#include "scheduler/core/array.h"
#include "scheduler/core/queue.h"
#include "scheduler/live.h"
#include "scheduler/outlook.h"
#include "scheduler/store/query.h"
#include "scheduler/views.h"

enum { LIST_DEFAULT = 200, EVENTS_DEFAULT = 1000, OUTPUT_BYTES = 2048 };

/* What GET /jobs was asked for. */
struct filter {
    struct schedd *s;
    const char *user; // NULL: everyone's
    const char *name;
    uint32_t states; // a bit each; 0: any
    int64_t since_us;
    int64_t limit;
    struct api_list list;
    int64_t n;
    int n_reasons;
    const struct job *next; // of the state, to be given next
    int64_t below;          // id of the store's last row looked at
};

static bool wanted(const struct filter *f, const struct state_job *job) {
    return (!f->user || hai_streq(f->user, job->spec.user)) &&
           (!f->name || hai_streq(f->name, job->spec.name)) &&
           (!f->states || f->states >> job->state & 1) &&
           (job->ended_us == S_ABSENT || job->ended_us >= f->since_us);
}

static void add_view(struct filter *f, struct job_view *view) {
    api_call_list_add(&f->list, job_view_schema(), view);
    f->n++;
    schema_free(job_view_schema(), view);
}

/* The forecast is there already; a reason is dear. */
static void fill_waiting(struct filter *f, const struct job *job, struct job_view *ret) {
    if (state_job_ended(job))
        return;
    if (f->n_reasons < VIEWS_REASONS_MAX)
        views_reason(f->s, job, ret);
    else
        views_start(f->s, job, ret);
    f->n_reasons += job->r.state == JOB_STATE_QUEUED || job->r.state == JOB_STATE_HELD;
}

/* Jobs of the state with ids above one. */
static void add_known(struct filter *f, int64_t above) {
    for (; f->next && f->next->r.id > above && f->n < f->limit; f->next = f->next->prev) {
        struct job_view view;
        if (!wanted(f, &f->next->r) || array_views_hidden(f->next))
            continue;
        views_job(f->s, &f->next->r, live_index(f->s->live, f->next->r.id), false, &view);
        fill_waiting(f, f->next, &view);
        add_view(f, &view);
    }
}

/* The newest ended jobs are both in the state and in the store: they are given from the state. */
static void add_row(void *data, const struct rows_job *row) {
    struct filter *f = data;
    struct job_view view;

    f->below = row->id;
    add_known(f, row->id);
    if (f->n >= f->limit || state_job_find(schedd_state(f->s), row->id))
        return;
    if (views_job_row(f->s, row, false, &view, NULL) == 0)
        add_view(f, &view);
}

static int unknown_state(struct api_call *call, const char *word) {
    _cleanup_(buf_free) struct buf words = {0};

    for (int i = 0; i < JOB_STATE_COUNT; i++)
        buf_printf(&words, "%s%s", i ? ", " : "", job_state_text((enum job_state)i));
    api_call_fail(call, 400, "invalid", "state is '%.40s'; expected one of %s", word,
                  buf_cstr(&words));
    return -EINVAL;
}

/* `running,queued` into the filter. */
static int read_states(struct api_call *call, const char *text, struct filter *f) {
    while (*text) {
        size_t n = strcspn(text, ",");
        _cleanup_free_ char *word = hai_strndup(text, n);
        int state = schema_enum_parse(&job_state_enum, word);
        if (state < 0)
            return unknown_state(call, word);
        f->states |= UINT32_C(1) << state;
        text += n + (text[n] == ',');
    }
    return 0;
}

static bool ends(uint32_t states) {
    for (int i = 0; i < JOB_STATE_COUNT; i++)
        if (states >> i & 1 && job_state_ended((enum job_state)i))
            return true;
    return false;
}

/* Page by page, because nobody knows how many rows are given from the state. */
static int add_stored(struct filter *f, struct hai_err *err) {
    struct query_jobs query = {.user = f->user,
                               .name = f->name,
                               .states = f->states,
                               .since_us = f->since_us,
                               .limit = MIN(f->limit, (int64_t)QUERY_ROWS_MAX)};
    int n = (int)query.limit;

    if (f->states && !ends(f->states))
        return 0; // the store has ended ones only
    while (n == query.limit && f->n < f->limit) {
        query.below = f->below;
        n = query_jobs(f->s->store, &query, add_row, f, err);
    }
    return n;
}

static int read_filter(struct api_call *call, struct filter *f) {
    const char *state = http_request_query(call->request, "state");
    const char *since = http_request_query(call->request, "since");
    const char *user = http_request_query(call->request, "user");

    *f = (struct filter){.s = call->s,
                         .name = http_request_query(call->request, "name"),
                         .list = api_call_list(call)};
    if (user)
        f->user = user;
    else if (!api_call_query_flag(call, "all"))
        f->user = call->caller.user;
    if (state && read_states(call, state, f) < 0)
        return -EINVAL;
    if (since && timefmt_iso_parse(since, &f->since_us) < 0) {
        api_call_fail(call, 400, "invalid", "since is '%.40s'; expected 2026-11-23T13:11:40Z",
                      since);
        return -EINVAL;
    }
    if (api_call_query_int(call, "before", 1, INT64_MAX - 1, 0, &f->below) < 0)
        return -EINVAL;
    return api_call_query_int(call, "limit", 1, QUERY_ROWS_MAX * 10, LIST_DEFAULT, &f->limit);
}

void api_read_jobs(struct api_call *call) {
    struct hai_err err = {0};
    struct filter f;

    if (read_filter(call, &f) < 0)
        return;
    f.next = schedd_state(call->s)->jobs_last;
    while (f.below && f.next && f.next->r.id >= f.below)
        f.next = f.next->prev;
    int r = add_stored(&f, &err);
    if (r < 0) {
        buf_free(&f.list.text);
        api_call_error(call, r, &err);
        return;
    }
    add_known(&f, 0);
    api_call_reply_list(call, &f.list);
}

/* Where a job that has not ended stands in the queue. */
enum place { PLACE_RUNS, PLACE_TRIED, PLACE_NOT_YET };

static enum place place_of(const struct job *job) {
    if (job->queued || (job->array && job->array->n_fresh))
        return PLACE_TRIED;
    if (job->r.state == JOB_STATE_QUEUED && !(job->array && job->array->n_open))
        return PLACE_NOT_YET;
    return PLACE_RUNS;
}

static void add_queued(struct filter *f, const struct job *job, const char *group, bool explained) {
    struct job_view view;

    if (group && !hai_streq(group, job->r.spec.group))
        return;
    views_job(f->s, &job->r, live_index(f->s->live, job->r.id), false, &view);
    if (explained)
        fill_waiting(f, job, &view);
    else
        views_start(f->s, job, &view); // of an array whose elements all wait for their turn
    add_view(f, &view);
}

static void add_placed(struct filter *f, enum place place, const char *group) {
    for (const struct job *job = schedd_state(f->s)->jobs_first; job; job = job->next)
        if (!state_job_ended(job) && place_of(job) == place)
            add_queued(f, job, group, place != PLACE_RUNS);
}

/* The running ones first, oldest first, then the waiting ones in the order they are tried, elements
 * as one with their array; then those that may not start yet. */
void api_read_queue(struct api_call *call) {
    const struct state *state = schedd_state(call->s);
    const char *group = http_request_query(call->request, "group");
    _cleanup_free_ int64_t *ids = NULL;
    struct filter f = {.s = call->s, .list = api_call_list(call)};
    struct hai_err err = {0};

    if (group && state_group_find(state, group) < 0) {
        api_call_error(call, state_no_group(state, "group", group, &err), &err);
        return;
    }
    size_t n = queue_list(state, &ids);
    add_placed(&f, PLACE_RUNS, group);
    for (size_t i = 0; i < n; i++) {
        const struct job *job = state_job_find(state, ids[i]);
        if (!array_views_hidden(job))
            add_queued(&f, job, group, true);
        else if (array_views_leads(state, job))
            add_queued(&f, state_job_find(state, job->r.array), group, true);
    }
    add_placed(&f, PLACE_NOT_YET, group);
    api_call_reply_list(call, &f.list);
}

void api_read_job(struct api_call *call) {
    int64_t id, since;
    struct job_view view;

    if (api_find_job(call, call->params[0], &id) < 0 ||
        api_call_query_int(call, "since", 0, INT64_MAX - 1, -1, &since) < 0)
        return;
    if (since >= 0 && live_index(call->s->live, id) <= since &&
        state_job_find(schedd_state(call->s), id) && api_call_wait(call, WATCH_JOB, id))
        return;
    if (api_find_view(call, id, api_call_query_flag(call, "ranks"), &view) < 0)
        return;
    api_call_reply(call, 200, job_view_schema(), &view);
    schema_free(job_view_schema(), &view);
}

/* The last output of the rank that failed, as whole lines. */
static char *failed_output(struct api_call *call, const struct state_job *job) {
    struct query_tail found = {0};

    if (job->fault == FAULT_NONE || job->fault_rank == S_ABSENT ||
        query_tail(call->s->store, job->id, 0, job->fault_rank, &found, NULL) < 0)
        return NULL;
    _cleanup_(buf_free) struct buf tail = found.data;
    if (tail.n_bytes > OUTPUT_BYTES) {
        buf_drop(&tail, tail.n_bytes - OUTPUT_BYTES);
        uint8_t *end = memchr(tail.data, '\n', tail.n_bytes);
        if (end)
            buf_drop(&tail, (size_t)(end + 1 - tail.data));
    }
    return hai_strdup(buf_cstr(&tail));
}

/* The forecast; returns the job that it starts after, 0: none. */
static int64_t fill_start(struct api_call *call, const struct job *job, struct why_view *ret) {
    int64_t index;
    const struct outlook_job *start = views_forecast(call->s, job, ret->id, &index);

    if (!start)
        return 0;
    ret->start_at = start->p50_us;
    ret->start_late_at = start->p90_us;
    ret->start_index = index;
    return start->after;
}

/* "about T when job 42 (alice, priority 30) ends; in 9 of 10 cases by T". */
static char *starts_about(struct api_call *call, const struct why_view *view, int64_t after) {
    const struct job *ahead = after ? state_job_find(schedd_state(call->s), after) : NULL;
    struct buf text = {0};
    char at[TIMEFMT_ISO_BYTES];

    timefmt_iso(view->start_at, at);
    buf_printf(&text, "about %s", at);
    if (ahead)
        buf_printf(&text, " when job %s (%s, priority %lld) %s", array_label(&ahead->r).text,
                   ahead->r.spec.user, (long long)ahead->r.priority,
                   state_job_live(ahead) ? "ends" : "has run");
    if (view->start_late_at != S_ABSENT && view->start_late_at > view->start_at) {
        timefmt_iso(view->start_late_at, at);
        buf_printf(&text, "; in 9 of 10 cases by %s", at);
    }
    char *copy = hai_strdup(buf_cstr(&text));
    buf_free(&text);
    return copy;
}

static void fill_why(struct api_call *call, const struct job *job, struct why_view *ret) {
    struct why why;
    char at[TIMEFMT_ISO_BYTES];
    int64_t after = fill_start(call, job, ret);

    views_why_plan(call->s, job, &why);
    ret->reason = hai_strdup(why.code);
    ret->message = hai_strdup(why.message);
    ret->sooner = why.sooner[0] ? hai_strdup(why.sooner) : NULL;
    if (why.at_us != S_ABSENT) {
        timefmt_iso(why.at_us, at);
        ret->starts = hai_asprintf("at %s at the latest", at);
    } else if (ret->start_at != S_ABSENT) {
        ret->starts = starts_about(call, ret, after);
    } else if (why.ahead) {
        ret->starts =
            hai_asprintf("after job %s", array_label_of(schedd_state(call->s), why.ahead).text);
    }
}

/* An array waits for what the element waits for that starts next. Returns whose reason counts. */
static const struct job *fill_next(struct api_call *call, const struct job *array,
                                   struct why_view *ret) {
    if (!array || !array->array)
        return array;
    const struct state *state = schedd_state(call->s);
    int64_t next = array_views_next_id(state, array);
    const struct job *first = array_views_first(state, array);
    if (next)
        ret->first_waiting = hai_strdup(array_label_of(state, next).text);
    return first ? first : array;
}

void api_read_why(struct api_call *call) {
    struct why_view view;
    struct state_job record;
    int64_t id;

    if (api_find_job(call, call->params[0], &id) < 0 || api_find_record(call, id, &record) < 0)
        return;
    schema_init(why_view_schema(), &view);
    view.id = id;
    view.state = record.state;
    view.index = schedd_state(call->s)->r.index;
    const struct job *job = state_job_find(schedd_state(call->s), id);
    const struct job *array = job ? NULL : array_of(schedd_state(call->s), id);
    if (array && !array_made(array, id - array->r.id - 1))
        job = array; // an element that waits for its turn waits with its array
    if (record.spec.array.n && record.array == S_ABSENT) {
        view.state = array_views_state(schedd_state(call->s), &record);
        if (!job_state_ended(record.state)) // how they ended is in its message
            view.elements = array_views_sentence(schedd_state(call->s), &record);
        job = fill_next(call, job, &view);
    }
    if (job) {
        fill_why(call, job, &view);
    } else {
        view.reason = hai_strdup(reason_text(record.reason));
        view.message = views_cut(record.message, 1023);
    }
    if (call->caller.scope >= SCOPE_OPERATE || hai_streq(record.spec.user, call->caller.user))
        view.output = failed_output(call, &record);
    api_call_reply(call, 200, why_view_schema(), &view);
    schema_free(why_view_schema(), &view);
    schema_free(state_job_schema(), &record);
}

void api_read_spec(struct api_call *call) {
    struct buf text = {0};
    struct state_job record;
    int64_t id;

    if (api_find_job(call, call->params[0], &id) < 0 || api_find_record(call, id, &record) < 0)
        return;
    if (api_call_owns(call, record.spec.user)) {
        buf_add(&text, record.spec.spec.data, record.spec.spec.n_bytes);
        api_call_reply_text(call, 200, "application/json", &text);
    }
    schema_free(state_job_schema(), &record);
}

struct events {
    struct api_list list;
    int64_t limit;
    int64_t last; // index of the last one given
};

static void add_event(void *data, const struct rows_event *row) {
    struct events *events = data;
    struct event_view view;

    events->last = row->index;
    views_event_row(row, &view);
    api_call_list_add(&events->list, event_view_schema(), &view);
    schema_free(event_view_schema(), &view);
}

/* As query_events does: all of the last entry that comes within the limit, since readers go on
 * behind it. */
static void add_outstanding(void *data, const struct rows_event *row) {
    struct events *events = data;

    if ((int64_t)events->list.n < events->limit || row->index == events->last)
        add_event(events, row);
}

static void take_index(void *data, const struct rows_event *row) {
    *(int64_t *)data = row->index;
}

/* ?newest=1: leave out what is older than the newest ones that come within the limit. */
static int skip_old(struct api_call *call, struct events *events, int64_t *since,
                    struct hai_err *err) {
    int64_t first = 1;

    int r = query_events_newest(call->s->store, 0, events->limit, take_index, &first, err);
    *since = MAX(*since, first - 1);
    events->limit = INT64_MAX; // the entry of the oldest one may have more of them
    return r;
}

/* Those in the tables, then those that the next transaction will write. */
static void reply_events(struct api_call *call, int64_t job) {
    struct events events = {.list = api_call_list(call)};
    struct hai_err err = {0};
    int64_t since;
    int r = 0;

    if (api_call_query_int(call, "since", 0, INT64_MAX - 1, 0, &since) < 0 ||
        api_call_query_int(call, "limit", 1, QUERY_ROWS_MAX * 10, EVENTS_DEFAULT, &events.limit) <
            0)
        return;
    if (!job && api_call_query_flag(call, "newest"))
        r = skip_old(call, &events, &since, &err);
    if (r >= 0)
        r = query_events(call->s->store, job, since, events.limit, add_event, &events, &err);
    if (r < 0) {
        buf_free(&events.list.text);
        api_call_error(call, r, &err);
        return;
    }
    if (r < events.limit)
        rows_outstanding_events(turn_rows(call->s->turn), job, since, add_outstanding, &events);
    if (!events.list.n && api_call_wait(call, job ? WATCH_JOB : WATCH_EVENTS, job))
        return;
    api_call_reply_list(call, &events.list);
}

void api_read_job_events(struct api_call *call) {
    int64_t id;

    if (api_find_job(call, call->params[0], &id) == 0)
        reply_events(call, id);
}

void api_read_events(struct api_call *call) {
    reply_events(call, 0);
}
