#include "scheduler/conditions.h"

#include "lib/timefmt.h"
#include "scheduler/api_find.h"
#include "scheduler/core/array.h"

static bool is_number(const char *text) {
    return *text && !text[strspn(text, "0123456789")];
}

static int add_after(struct api_call *call, const char *text, enum after_want want,
                     struct entry_job_spec *job, struct hai_err *err) {
    const struct state *state = schedd_state(call->s);
    struct entry_after after;
    int64_t id;

    schema_init(entry_after_schema(), &after);
    after.want = want;
    int r = api_find_id(call, text, &id);
    if (r == 0)
        after.job = id;
    bool named = !is_number(text) && strcmp(text, "last") != 0;
    if (r < 0 && !named)
        return hai_fail_at(err, -ENOENT, "not_found", "after", NULL,
                           "after.%s is %.80s; there is no such job", after_want_text(want), text);
    if (named) {
        after.name = hai_strdup(text);
        after.since = state->r.next_job;
    }
    if (r == 0 && !state_job_find(state, id) && array_of(state, id))
        return hai_fail_at(err, -EINVAL, "not_started", "after", NULL,
                           "after.%s is %.80s, which waits for its turn; expected its array, or an "
                           "element that has started",
                           after_want_text(want), text);
    if (r == 0 && !state_job_find(state, id)) {
        int ended = api_find_ended(call, id);
        if (ended >= 0)
            after.ended = (enum job_state)ended;
    }
    *LIST_ADD(&job->after) = after;
    return 0;
}

static int add_list(struct api_call *call, char *const *texts, size_t n, enum after_want want,
                    struct entry_job_spec *job, struct hai_err *err) {
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++)
        r = add_after(call, texts[i], want, job, err);
    return r;
}

static int fill_time(struct api_call *call, const char *text, int64_t *ret, struct hai_err *err) {
    int64_t us;

    if (!text)
        return 0;
    if (timefmt_duration_parse(text, &us, NULL) == 0 && us <= DURATION_US_MAX)
        *ret = turn_now_us(call->s->turn) + us;
    else if (timefmt_iso_parse(text, &us) == 0)
        *ret = us;
    else
        return hai_fail_at(err, -EINVAL, "bad_value", "not_before", NULL,
                           "not_before is '%.40s'; expected a time such as 2026-11-23T17:00:00Z, or"
                           " a delay such as 2h",
                           text);
    return 0;
}

int conditions_fill(struct api_call *call, const struct job_spec *spec, struct entry_job_spec *job,
                    struct hai_err *err) {
    const struct job_after *after = &spec->after;
    int r = add_list(call, after->ok.items, after->ok.n, AFTER_OK, job, err);

    if (r == 0)
        r = add_list(call, after->any.items, after->any.n, AFTER_ANY, job, err);
    if (r == 0)
        r = add_list(call, after->failed.items, after->failed.n, AFTER_FAILED, job, err);
    if (after->singleton)
        job->singleton = 1;
    return r < 0 ? r : fill_time(call, spec->not_before, &job->not_before_us, err);
}
