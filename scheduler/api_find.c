#include "scheduler/api_find.h"

#include "lib/pure/tlv.h"
#include "scheduler/array_views.h"
#include "scheduler/core/array.h"
#include "scheduler/live.h"
#include "scheduler/store/query.h"
#include "scheduler/views.h"

/* A name means the array, not the newest of its elements. */
static void take_id(void *data, const struct rows_job *row) {
    struct state_job job;

    *(int64_t *)data = row->id;
    if (tlv_decode(state_job_schema(), row->record, row->record_bytes, &job, NULL) < 0)
        return;
    if (job.array != S_ABSENT)
        *(int64_t *)data = job.array;
    schema_free(state_job_schema(), &job);
}

/* The newest job of a user with a name (NULL: any); 0: none. What is in the state is newer than
 * what only the store has. */
static int64_t newest(struct api_call *call, const char *user, const char *name) {
    struct query_jobs query = {.user = user, .name = name, .limit = 1};
    int64_t id = 0;

    for (const struct job *job = schedd_state(call->s)->jobs_last; job; job = job->prev)
        if (!array_is_element(job) && hai_streq(job->r.spec.user, user) &&
            (!name || hai_streq(job->r.spec.name, name)))
            return job->r.id;
    query_jobs(call->s->store, &query, take_id, &id, NULL);
    return id;
}

static int not_found(struct api_call *call, const char *text) {
    api_call_fail(call, 404, "not_found", "there is no job %.80s", text);
    return -ENOENT;
}

/* The row of a job that the state has no more; it may still wait for its transaction. */
static void find_row(struct api_call *call, int64_t id, query_job_fn fn, void *data) {
    const struct rows_job *row = rows_outstanding_job(turn_rows(call->s->turn), id);

    if (row)
        fn(data, row);
    else
        query_job(call->s->store, id, fn, data, NULL);
}

struct record {
    struct state_job *job;
    int r;
};

static void take_record(void *data, const struct rows_job *row) {
    struct record *record = data;

    record->r = tlv_decode(state_job_schema(), row->record, row->record_bytes, record->job, NULL);
}

static int find_record(struct api_call *call, int64_t id, struct state_job *ret) {
    const struct state *state = schedd_state(call->s);
    const struct job *job = state_job_find(state, id);
    const struct job *array = job ? NULL : array_of(state, id);
    struct record record = {ret, -ENOENT};

    if (array && !array_made(array, id - array->r.id - 1)) {
        struct job element = array_unmade(state, array, id);
        schema_copy(state_job_schema(), ret, &element.r);
        return 0;
    }
    if (job) {
        schema_copy(state_job_schema(), ret, &job->r);
        return 0;
    }
    find_row(call, id, take_record, &record);
    return record.r;
}

/* 17_3: the element of array 17 with index 3. */
static int find_element(struct api_call *call, int64_t id, const char *index, int64_t *ret) {
    struct state_job array;

    if (id < 1 || find_record(call, id, &array) < 0)
        return -ENOENT;
    int r = array_views_element(&array, index, ret);
    schema_free(state_job_schema(), &array);
    return r;
}

int api_find_id(struct api_call *call, const char *text, int64_t *ret) {
    const struct state *state = schedd_state(call->s);
    char *end;

    errno = 0;
    long long id = strtoll(text, &end, 10);
    if (end != text && !*end && !errno) {
        if (id < 1 || id >= state->r.next_job)
            return -ENOENT;
        *ret = id;
        return 0;
    }
    if (end != text && *end == '_' && !errno)
        return find_element(call, id, end + 1, ret);
    *ret = newest(call, call->caller.user, strcmp(text, "last") ? text : NULL);
    return *ret ? 0 : -ENOENT;
}

int api_find_job(struct api_call *call, const char *text, int64_t *ret) {
    return api_find_id(call, text, ret) < 0 ? not_found(call, text) : 0;
}

static void take_state(void *data, const struct rows_job *row) {
    *(int *)data = (int)row->state;
}

int api_find_ended(struct api_call *call, int64_t id) {
    int state = -ENOENT;

    find_row(call, id, take_state, &state);
    return state;
}

int api_find_record(struct api_call *call, int64_t id, struct state_job *ret) {
    int r = find_record(call, id, ret);

    if (r < 0)
        api_call_fail(call, 404, "not_found",
                      "job %.80s is no longer kept, or ended before it started", call->params[0]);
    return r;
}

struct view {
    struct schedd *s;
    bool ranks;
    struct job_view *view;
    int r;
};

static void take_view(void *data, const struct rows_job *row) {
    struct view *view = data;

    view->r = views_job_row(view->s, row, view->ranks, view->view, NULL);
}

int api_find_view(struct api_call *call, int64_t id, bool ranks, struct job_view *ret) {
    const struct job *job = state_job_find(schedd_state(call->s), id);
    const struct job *array = job ? NULL : array_of(schedd_state(call->s), id);
    struct view view = {call->s, ranks, ret, -ENOENT};

    if (array && !array_made(array, id - array->r.id - 1)) {
        struct job element = array_unmade(schedd_state(call->s), array, id);
        views_job(call->s, &element.r, live_index(call->s->live, array->r.id), ranks, ret);
        views_reason(call->s, array, ret);
        return 0;
    }
    if (job) {
        views_job(call->s, &job->r, live_index(call->s->live, id), ranks, ret);
        views_reason(call->s, job, ret);
        return 0;
    }
    find_row(call, id, take_view, &view);
    if (view.r < 0)
        api_call_fail(call, 404, "not_found",
                      "job %.80s is no longer kept, or ended before it started", call->params[0]);
    return view.r;
}
