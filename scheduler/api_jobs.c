#include "scheduler/api_jobs.h"

#include "lib/json_schema.h"
#include "lib/timefmt.h"
#include "scheduler/api_find.h"
#include "scheduler/cluster.h"
#include "scheduler/conditions.h"
#include "scheduler/core/array.h"
#include "scheduler/core/eligible.h"
#include "scheduler/core/whyplan.h"
#include "scheduler/live.h"
#include "scheduler/outlook.h"
#include "scheduler/spec.h"
#include "scheduler/views.h"
#include <stdio.h>

enum { EXPLAIN_BATCH_MAX = 16 }; // larger batches get no sentence for each job

/* "starts after job 41 ends well". */
static char *starts_later(const struct state *state, const struct eligible_wait *wait) {
    static const char *const ends[] = {"ends well", "has ended", "has failed"};
    char at[TIMEFMT_ISO_BYTES];

    if (wait->ahead)
        return hai_asprintf("starts after job %s %s",
                            array_label(&state_job_find(state, wait->ahead)->r).text,
                            ends[wait->want]); // what is waited for has not ended
    timefmt_iso(wait->at_us, at);
    return hai_asprintf("starts no earlier than %s", at);
}

/* The sentence after a submission: where it starts, or why it waits. */
static char *explain(struct api_call *call, const struct job *job) {
    struct buf names = {0};
    struct eligible_wait wait;
    struct why why;

    const struct job *first = job->array ? array_next_open(job, job) : NULL;
    if (turn_placed_next(call->s->turn, first ? first->r.id : job->r.id, &names)) {
        char *text = hai_asprintf("starts now on %s", buf_cstr(&names));
        buf_free(&names);
        return text;
    }
    buf_free(&names);
    if (job->r.reason == REASON_DEPENDENCY)
        return hai_asprintf("stopped: %s", job->r.message);
    if (job->r.state != JOB_STATE_QUEUED && job->r.state != JOB_STATE_HELD)
        return NULL;
    if (job->r.state == JOB_STATE_QUEUED && eligible_wait(schedd_state(call->s), job, &wait))
        return starts_later(schedd_state(call->s), &wait);
    views_why(call->s, job, &why);
    return hai_strdup(why.message);
}

static void fill_submitted(struct api_call *call, int64_t id, bool repeated, bool explained,
                           struct job_submitted *ret) {
    const struct job *job = state_job_find(schedd_state(call->s), id);

    ret->id = id;
    ret->repeated = repeated;
    if (!job)
        return; // a repeated key whose job ended long ago
    ret->name = hai_strdup(job->r.spec.name);
    ret->state = job->r.state;
    ret->nodes = job->r.spec.nodes;
    ret->gpus_per_node = job->r.spec.gpus_per_node;
    ret->ranks = job->r.spec.nodes * job->r.spec.ranks_per_node;
    ret->priority = job->r.priority;
    ret->group = hai_strdup(job->r.spec.group);
    if (array_is(job))
        ret->elements = array_count(&job->r.spec);
    if (explained)
        ret->message = explain(call, job);
}

static void on_submitted(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct api_call *call = data;
    struct job_submitted answer;

    api_call_appended(call);
    if (r < 0) {
        api_call_error(call, r, &reply->err);
        return;
    }
    schema_init(job_submitted_schema(), &answer);
    fill_submitted(call, reply->id, reply->repeated,
                   call->request && turn_batch_size(call->s->turn) <= EXPLAIN_BATCH_MAX, &answer);
    api_call_reply(call, reply->repeated ? 200 : 201, job_submitted_schema(), &answer);
    schema_free(job_submitted_schema(), &answer);
}

static int check_team(const struct api_call *call, const char *team, struct hai_err *err) {
    const struct cluster_file *cluster = &call->s->cluster;
    const char *user = call->caller.user;

    if (!team || cluster_may_name_team(cluster, schedd_state(call->s), user, team))
        return 0;
    return hai_fail_at(
        err, -EACCES, "denied", "team", "users: of the cluster file says whose teams",
        "%s is not of team %s; expected %s", user, team, cluster_team(cluster, user));
}

static int to_entry(struct api_call *call, const struct job_spec *spec, const char *key,
                    struct entry_job_submit *ret, struct hai_err *err) {
    const struct state_user *user = state_user_find(schedd_state(call->s), call->caller.user);

    int r = spec_to_entry(spec, user, cluster_team(&call->s->cluster, user->name), key, ret, err);
    if (r < 0)
        return r;
    r = call->caller.scope >= SCOPE_OPERATE ? 0 : check_team(call, spec->team, err);
    if (r == 0)
        r = conditions_fill(call, spec, &ret->job, err);
    if (r < 0)
        schema_free(entry_job_submit_schema(), ret);
    return r;
}

/* The level that it would have. */
static int64_t draft_priority(const struct state *state, const struct entry_job_spec *spec) {
    struct job job;

    why_draft(state, spec, &job);
    return job.r.priority;
}

/* ?dry_run=1: everything is checked but what only the commit can tell. */
static void reply_dry_run(struct api_call *call, struct entry_job_submit *entry) {
    struct job_submitted answer;
    struct hai_err err = {0};
    struct why why;

    int r = eligible_resolve(schedd_state(call->s), &entry->job, &err);
    if (r == 0)
        r = why_spec(schedd_state(call->s), &entry->job, call->caller.scope, &why, &err);
    if (r < 0) {
        api_call_error(call, r, &err);
        return;
    }
    struct job draft;
    why_draft(schedd_state(call->s), &entry->job, &draft);
    whyplan_explain(schedd_state(call->s), &draft, &why);
    views_why_time(&why);
    schema_init(job_submitted_schema(), &answer);
    answer.name = hai_strdup(entry->job.name);
    answer.nodes = entry->job.nodes;
    answer.gpus_per_node = entry->job.gpus_per_node;
    answer.ranks = entry->job.nodes * entry->job.ranks_per_node;
    answer.priority = draft_priority(schedd_state(call->s), &entry->job);
    answer.group = hai_strdup(entry->job.group);
    answer.elements = entry->job.array.n ? array_count(&entry->job) : S_ABSENT;
    answer.message = entry->job.held
                         ? hai_strdup("nothing was submitted")
                         : hai_asprintf("nothing was submitted; as things are: %s", why.message);
    struct outlook_job start;
    bool waits = strcmp(why.code, "starts_now") != 0 && !entry->job.held;
    if (waits && outlook_draft(call->s->outlook, &entry->job, &start)) {
        answer.start_at = start.p50_us;
        answer.start_late_at = start.p90_us;
    }
    api_call_reply(call, 200, job_submitted_schema(), &answer);
    schema_free(job_submitted_schema(), &answer);
}

void api_jobs_submit(struct api_call *call) {
    const char *key = http_request_header(call->request, "Idempotency-Key");
    struct entry_job_submit entry;
    struct hai_err err = {0};

    int r = to_entry(call, call->body, key, &entry, &err);
    if (r < 0) {
        api_call_error(call, r, &err);
        return;
    }
    if (api_call_query_flag(call, "dry_run"))
        reply_dry_run(call, &entry);
    else
        api_call_append(call, ENTRY_JOB_SUBMIT, &entry, on_submitted);
    schema_free(entry_job_submit_schema(), &entry);
}

/* A batch under way: the numbers of the elements whose entries were appended, in order. */
struct batch {
    struct job_submitted_batch answer;
    size_t *pending;
    size_t n_pending, n_done;
};

static void free_batch(void *own) {
    struct batch *batch = own;

    schema_free(job_submitted_batch_schema(), &batch->answer);
    free(batch->pending);
    free(batch);
}

static void fill_refused(struct job_submitted *item, int r, const struct hai_err *err) {
    item->status = api_call_status(r, err);
    item->error_code = hai_strndup(err->code, 31);
    item->error = hai_strdup(hai_err_text(err));
}

static void finish_batch(struct api_call *call) {
    struct batch *batch = call->own;

    if (call->n_appended)
        return;
    if (call->request)
        api_call_reply(call, 200, job_submitted_batch_schema(), &batch->answer);
    else
        api_call_finish(call);
}

static void on_batch_item(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct api_call *call = data;
    struct batch *batch = call->own;
    struct job_submitted *item = &batch->answer.results.items[batch->pending[batch->n_done++]];

    api_call_appended(call);
    if (r < 0) {
        fill_refused(item, r, &reply->err);
    } else {
        fill_submitted(call, reply->id, reply->repeated, false, item);
        item->status = reply->repeated ? 200 : 201;
    }
    finish_batch(call);
}

void api_jobs_submit_batch(struct api_call *call) {
    const struct job_submit_batch *body = call->body;
    struct batch *batch = hai_new(struct batch);

    call->own = batch;
    call->own_free = free_batch;
    batch->pending = hai_new_array(size_t, body->jobs.n + 1);
    for (size_t i = 0; i < body->jobs.n; i++)
        schema_init(job_submitted_schema(), LIST_ADD(&batch->answer.results));
    for (size_t i = 0; i < body->jobs.n; i++) {
        const struct job_submit *job = &body->jobs.items[i];
        struct entry_job_submit entry;
        struct hai_err err = {0};
        int r = to_entry(call, &job->spec, job->key, &entry, &err);
        if (r < 0) {
            fill_refused(&batch->answer.results.items[i], r, &err);
            continue;
        }
        batch->pending[batch->n_pending++] = i;
        api_call_append(call, ENTRY_JOB_SUBMIT, &entry, on_batch_item);
        schema_free(entry_job_submit_schema(), &entry);
    }
    finish_batch(call);
}

/* The live job that a change is about, owned by the caller; NULL: answered. For an element that is
 * no job yet, its array, if that is asked for. */
static const struct job *job_to_change(struct api_call *call, int64_t *ret_unmade) {
    int64_t id;

    if (api_find_job(call, call->params[0], &id) < 0)
        return NULL;
    const struct job *job = state_job_find(schedd_state(call->s), id);
    const struct job *array = job ? NULL : array_of(schedd_state(call->s), id);
    bool unmade = array && !array_made(array, id - array->r.id - 1);
    if (unmade && !ret_unmade) {
        api_call_fail(
            call, 409, "conflict",
            "it waits for its turn in array %lld; expected the whole array, or an element "
            "that has started",
            (long long)array->r.id);
        return NULL;
    }
    if (!job && !unmade) {
        api_call_fail(call, 409, "ended", "job %s has ended",
                      array_label_of(schedd_state(call->s), id).text);
        return NULL;
    }
    if (ret_unmade)
        *ret_unmade = unmade ? id : 0;
    if (unmade)
        job = array;
    return api_call_owns(call, job->r.spec.user) ? job : NULL;
}

static void on_changed(void *data, int64_t index, int r, const struct apply_reply *reply) {
    api_call_changed(data, index, r, reply, reply->id ? reply->id : S_ABSENT);
}

void api_jobs_stop(struct api_call *call) {
    const struct job_change *change = call->body;
    int64_t unmade;
    const struct job *job = job_to_change(call, &unmade);
    struct entry_job_stop entry;

    if (!job)
        return;
    schema_init(entry_job_stop_schema(), &entry);
    entry.job = unmade ? unmade : job->r.id;
    entry.force = change->force;
    entry.reason = change->reason;
    api_call_append(call, ENTRY_JOB_STOP, &entry, on_changed);
}

void api_jobs_suspend(struct api_call *call) {
    const struct job *job = job_to_change(call, NULL);
    struct entry_job_suspend entry;

    if (!job)
        return;
    schema_init(entry_job_suspend_schema(), &entry);
    entry.job = job->r.id;
    api_call_append(call, ENTRY_JOB_SUSPEND, &entry, on_changed);
}

void api_jobs_resume(struct api_call *call) {
    const struct job *job = job_to_change(call, NULL);
    struct entry_job_resume entry;

    if (!job)
        return;
    schema_init(entry_job_resume_schema(), &entry);
    entry.job = job->r.id;
    api_call_append(call, ENTRY_JOB_RESUME, &entry, on_changed);
}

/* "first", "last" or "before:JOB". False: the call was answered. */
static bool read_order(struct api_call *call, const char *text, struct entry_job_set *ret) {
    bool before = !strncmp(text, "before:", 7);

    if (before)
        ret->move = JOB_MOVE_BEFORE;
    else if (!strcmp(text, "first") || !strcmp(text, "last"))
        ret->move = text[0] == 'f' ? JOB_MOVE_FIRST : JOB_MOVE_LAST;
    else
        api_call_fail(call, 400, "bad_value",
                      "order is '%.40s'; expected first, last or before:JOB", text);
    return ret->move != JOB_MOVE_STAYS &&
           (!before || api_find_job(call, text + 7, &ret->before) == 0);
}

void api_jobs_set(struct api_call *call) {
    const struct job_change *change = call->body;
    const struct job *job = job_to_change(call, NULL);
    struct entry_job_set entry;
    struct hai_err err = {0};

    if (!job)
        return;
    schema_init(entry_job_set_schema(), &entry);
    entry.job = job->r.id;
    entry.time_limit_us = change->time_limit_us;
    entry.group = change->group;
    if (change->order && !read_order(call, change->order, &entry))
        return;
    int r = change->priority
                ? spec_priority(change->priority, &entry.priority, &entry.auto_priority, &err)
                : 0;
    if (entry.auto_priority == 1)
        entry.priority = S_ABSENT;
    if (r < 0)
        api_call_error(call, r, &err);
    else
        api_call_append(call, ENTRY_JOB_SET, &entry, on_changed);
}

/* Whoever starts a job again wants it now, whatever it waited for then. */
static void forget_conditions(const struct state *state, struct job_spec *spec) {
    bool singleton = spec->after.singleton;
    char **reservation = &spec->resources.reservation;

    schema_free(job_after_schema(), &spec->after);
    spec->after.singleton = singleton;
    hai_strset(&spec->not_before, NULL);
    if (*reservation && !state_reserve_named(state, *reservation)) // it is over
        hai_strset(reservation, NULL);
}

/* A new job from the text of an old one, submitted by whoever asks. */
static void resubmit(struct api_call *call, const struct state_job *job) {
    const struct schema_blob *text = &job->spec.spec;
    struct entry_job_submit entry;
    struct job_spec spec;
    struct hai_err err = {0};

    int r = json_schema_parse(job_spec_schema(), text->data, text->n_bytes, 0, &spec, &err);
    if (r == 0) {
        spec.hold = false;
        forget_conditions(schedd_state(call->s), &spec);
        if (job->array != S_ABSENT) { // this element alone
            free(spec.array);
            spec.array = hai_asprintf("%lld", (long long)job->array_index);
        }
        r = to_entry(call, &spec, http_request_header(call->request, "Idempotency-Key"), &entry,
                     &err);
        schema_free(job_spec_schema(), &spec);
    }
    if (r < 0) {
        api_call_error(call, r, &err);
        return;
    }
    api_call_append(call, ENTRY_JOB_SUBMIT, &entry, on_changed);
    schema_free(entry_job_submit_schema(), &entry);
}

void api_jobs_rerun(struct api_call *call) {
    struct state_job job;
    int64_t id;

    if (api_find_job(call, call->params[0], &id) < 0 || api_find_record(call, id, &job) < 0)
        return;
    if (api_call_owns(call, job.spec.user))
        resubmit(call, &job);
    schema_free(state_job_schema(), &job);
}
