#include "scheduler/core/apply_job.h"
#include "lib/pure/idset.h"
#include "lib/pure/plant.h"
#include "scheduler/core/array.h"
#include "scheduler/core/attempt.h"
#include "scheduler/core/dependents.h"
#include "scheduler/core/elements.h"
#include "scheduler/core/eligible.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/move.h"
#include "scheduler/core/place.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/quota.h"
#include "scheduler/core/reserve.h"

static int refuse_ended(struct mutate *c, const struct job *job) {
    return hai_fail_at(&c->reply->err, -EINVAL, "ended", NULL, NULL, "job %lld has ended (%s)",
                       (long long)job->r.id, job_state_text(job->r.state));
}

/* The same (user, key) before: the same answer for the same body, a conflict for another. */
static int check_key(struct mutate *c, const struct entry_job_submit *in, bool *ret_done) {
    *ret_done = false;
    if (!in->key_hash.n_bytes)
        return 0;
    if (in->key_hash.n_bytes != KEY_HASH_BYTES || in->body_digest.n_bytes != KEY_HASH_BYTES)
        return hai_fail(&c->reply->err, -EBADMSG, "key_hash and body_digest have %d bytes",
                        KEY_HASH_BYTES);
    const struct key *key = keys_find(&c->state->keys, in->key_hash.data);
    if (!key || HAI_PLANT(PLANT_KEY_FORGOTTEN))
        return 0;
    if (memcmp(key->digest, in->body_digest.data, KEY_HASH_BYTES) != 0)
        return hai_fail_at(&c->reply->err, -EEXIST, "conflict", "Idempotency-Key",
                           "use a new key for a new request",
                           "this Idempotency-Key came before with another body (job %lld)",
                           (long long)key->job);
    c->reply->id = key->job;
    c->reply->repeated = true;
    *ret_done = true;
    return 0;
}

static int check_priority(struct mutate *c, int64_t priority) {
    if (state_priority_level(priority) >= 0)
        return 0;
    return hai_fail_at(&c->reply->err, -ERANGE, "out_of_range", "priority", NULL,
                       "priority is %lld; expected 50, 40, 30, 20, 10, 8, 5, 0 or auto",
                       (long long)priority);
}

static int check_choice(struct mutate *c, const char *user, bool chooses) {
    return chooses ? quota_may_choose(c->state, user, c->scope, &c->reply->err) : 0;
}

static void add_job(struct mutate *c, struct job *job) {
    struct state *state = c->state;

    job->prev = state->jobs_last;
    if (job->prev)
        job->prev->next = job;
    else
        state->jobs_first = job;
    state->jobs_last = job;
    state->n_jobs++;
    map_put(&state->job_by_id, job->r.id, job);
    fair_enter(state, job);
    mutate_enter(state, job);
    array_enter(state, job);
    eligible_enter(state, job);
    mutate_follow(c, job);
}

static int check_submit(struct mutate *c, struct job *job) {
    const struct entry_job_spec *spec = &job->r.spec;

    int r = mutate_need(c, SCOPE_SUBMIT, "submitting a job");
    if (r < 0)
        return r;
    if (c->scope < SCOPE_OPERATE && !hai_streq(c->name, spec->user))
        return hai_fail_at(&c->reply->err, -EACCES, "denied", "user", NULL,
                           "%s may not submit a job of %s", c->name, spec->user);
    if (c->state->n_jobs - c->state->n_ended >= JOBS_LIVE_MAX)
        return hai_fail_at(&c->reply->err, -E2BIG, "too_many", NULL, NULL,
                           "%d jobs have not ended; no more are taken", JOBS_LIVE_MAX);
    r = check_priority(c, spec->priority);
    if (r == 0)
        r = check_choice(c, spec->user, spec->auto_priority != 1);
    if (r == 0)
        r = array_check(spec, &c->reply->err);
    if (r == 0)
        r = reserve_join(c->state, job, &c->reply->err);
    if (r == 0)
        r = place_job_possible(c->state, job, &c->reply->err);
    return r < 0 ? r : quota_possible(c->state, job, &c->reply->err);
}

int apply_job_submit(struct mutate *c, struct entry_job_submit *in) {
    bool done;
    struct key key;

    int r = check_key(c, in, &done);
    if (r < 0 || done)
        return r;
    struct job *job = hai_new(struct job);
    schema_init(state_job_schema(), &job->r);
    job->r.spec = in->job;
    memset(&in->job, 0, sizeof in->job);
    job->r.priority = job->r.spec.priority;
    state_job_resolve(c->state, job);
    r = check_submit(c, job);
    if (r == 0)
        r = eligible_resolve(c->state, &job->r.spec, &c->reply->err);
    if (r < 0) {
        state_job_free(job);
        return r;
    }
    const struct entry_job_spec *spec = &job->r.spec;
    job->r.id = c->state->r.next_job;
    c->state->r.next_job += 1 + array_count(spec); // those of its elements
    job->timer.key = job->r.id;
    if (quota_is_auto(job))
        job->r.priority = quota_auto_priority(c->state, spec->user);
    job->r.time_limit_us = spec->time_limit_us != S_ABSENT
                               ? spec->time_limit_us
                               : c->state->groups[job->group].r.time_limit_us;
    job->r.state = spec->held ? JOB_STATE_HELD : JOB_STATE_QUEUED;
    job->r.reason = spec->held ? REASON_HELD : REASON_NONE;
    job->r.submitted_us = job->r.since_us = c->entry->time_us;
    add_job(c, job);
    if (in->key_hash.n_bytes) {
        memcpy(key.hash, in->key_hash.data, KEY_HASH_BYTES);
        memcpy(key.digest, in->body_digest.data, KEY_HASH_BYTES);
        key.job = job->r.id;
        key.time_us = c->entry->time_us;
        keys_add(&c->state->keys, &key);
    }
    effects_event(c->fx, c->entry, EVENT_SUBMITTED, job, -1, -1, "%s: %lld node%s, %lld GPUs each",
                  spec->name, (long long)spec->nodes, spec->nodes == 1 ? "" : "s",
                  (long long)spec->gpus_per_node);
    c->reply->id = job->r.id;
    c->reply->changed = true;
    dependents_check(c, job);
    return 0;
}

/* The attempt ends because somebody, or the time limit, wants it. */
static void end_wanted(struct mutate *c, struct job *job, enum job_state to, enum reason reason,
                       bool force, int64_t kill_at_us, const char *text) {
    if (force)
        attempt_end(c, job, DESIRED_PHASE_KILL, S_ABSENT);
    else
        attempt_end(c, job, DESIRED_PHASE_TERM, kill_at_us);
    if (to == JOB_STATE_SUSPENDING) {
        mutate_state(c, job, to, reason, "%s", text);
        return;
    }
    job->r.outcome = to;
    if (job->r.state != JOB_STATE_STOPPING)
        mutate_state(c, job, JOB_STATE_STOPPING, reason, "%s", text);
}

/* Being taken down because of its own failure: how it ends is decided by that, not by the stop. */
static bool fails_already(const struct job *job) {
    return job->r.state == JOB_STATE_STOPPING && job->r.fault != FAULT_NONE;
}

static void to_element(struct mutate *c, int64_t id, const void *in) {
    struct entry_job_stop stop;
    struct entry_job_suspend suspend = {id};
    struct entry_job_resume resume = {id};
    struct entry_job_set set;

    switch (c->entry->kind) {
    case ENTRY_JOB_STOP:
        stop = *(const struct entry_job_stop *)in;
        stop.job = id;
        apply_job_stop(c, &stop);
        break;
    case ENTRY_JOB_SUSPEND:
        apply_job_suspend(c, &suspend);
        break;
    case ENTRY_JOB_RESUME:
        apply_job_resume(c, &resume);
        break;
    default:
        set = *(const struct entry_job_set *)in;
        set.job = id;
        apply_job_set(c, &set);
    }
}

/* What is asked of an array is asked of its elements, too. Where one cannot do it, it is left out.
 */
static void to_elements(struct mutate *c, struct job *array, const void *in) {
    struct job *job = array->array ? array_next_open(array, array) : NULL;

    while (job) {
        struct job *next = array_next_open(array, job); // this one may end, and be dropped
        to_element(c, job->r.id, in);
        job = next;
    }
    c->reply->err = (struct hai_err){0};
    c->reply->id = array->r.id;
}

/* An array ends when its last element has. */
static int stop_array(struct mutate *c, const struct entry_job_stop *in, struct job *array) {
    if (array->r.wanted == WANTED_STOP && !in->force)
        return 0;
    array->r.wanted = WANTED_STOP;
    effects_event(c->fx, c->entry, EVENT_STOP, array, -1, -1, "stopped by %s%s%s", c->name,
                  in->reason ? ": " : "", in->reason ? in->reason : "");
    to_elements(c, array, in);
    array_notice(c->state, array);
    c->reply->changed = true;
    return 0;
}

int apply_job_stop(struct mutate *c, const struct entry_job_stop *in) {
    int r = elements_need(c, in->job);

    if (r < 0)
        return r;
    struct job *job = mutate_own_job(c, in->job, &r);
    if (!job)
        return r;
    if (state_job_ended(job))
        return 0;
    if (array_is(job))
        return stop_array(c, in, job);
    bool repeated = job->r.wanted == WANTED_STOP || (int)job->r.outcome >= 0;
    bool kills = in->force && state_job_live(job) && job->r.phase != DESIRED_PHASE_KILL;
    if (repeated && !kills)
        return 0;
    job->r.wanted = WANTED_STOP;
    _cleanup_free_ char *text = hai_asprintf("stopped by %s%s%s", c->name, in->reason ? ": " : "",
                                             in->reason ? in->reason : "");
    effects_event(c->fx, c->entry, kills ? EVENT_KILL : EVENT_STOP, job, -1, -1, "%s", text);
    c->reply->changed = true;
    if (!state_job_live(job))
        mutate_state(c, job, JOB_STATE_STOPPED, REASON_USER, "%s", text);
    else if (repeated || fails_already(job))
        attempt_end(c, job, DESIRED_PHASE_KILL, S_ABSENT);
    else
        end_wanted(c, job, JOB_STATE_STOPPED, REASON_USER, in->force,
                   c->entry->time_us + job->r.spec.grace_us, text);
    return 0;
}

/* An array that was stopped keeps its state until its last element has ended. */
static bool array_ends(const struct job *job) {
    return array_is(job) && job->r.wanted == WANTED_STOP;
}

int apply_job_suspend(struct mutate *c, const struct entry_job_suspend *in) {
    int r;
    struct job *job = mutate_own_job(c, in->job, &r);

    if (!job)
        return r;
    if (state_job_ended(job))
        return refuse_ended(c, job);
    if (job->r.state == JOB_STATE_HELD || job->r.state == JOB_STATE_STOPPING || array_ends(job))
        return hai_fail_at(&c->reply->err, -EINVAL, "conflict", NULL, NULL, "job %lld is %s",
                           (long long)in->job, job_state_text(job->r.state));
    if (job->r.wanted == WANTED_SUSPEND)
        return 0;
    bool gave_way = state_reason_gives_way(job->r.reason);
    job->r.wanted = WANTED_SUSPEND;
    c->reply->changed = true;
    _cleanup_free_ char *text = hai_asprintf("suspended by %s", c->name);
    effects_event(c->fx, c->entry, EVENT_SUSPEND, job, -1, -1, "%s", text);
    if (job->r.state == JOB_STATE_SUSPENDING || (gave_way && !state_job_live(job))) {
        job->r.reason = REASON_USER; // whatever it was for: it does not go on by itself now
        hai_strset(&job->r.message, text);
        mutate_follow(c, job);
    } else if (!state_job_live(job)) {
        job->r.not_before_us = S_ABSENT;
        mutate_state(c, job, JOB_STATE_SUSPENDED, REASON_USER, "%s", text);
    } else {
        end_wanted(c, job, JOB_STATE_SUSPENDING, REASON_USER, false,
                   c->entry->time_us + job->r.spec.grace_us, text);
    }
    if (array_is(job))
        to_elements(c, job, in);
    return 0;
}

int apply_job_resume(struct mutate *c, const struct entry_job_resume *in) {
    int r;
    struct job *job = mutate_own_job(c, in->job, &r);

    if (!job)
        return r;
    if (state_job_ended(job))
        return refuse_ended(c, job);
    bool waits = job->r.state == JOB_STATE_HELD || job->r.state == JOB_STATE_SUSPENDED;
    if (job->queued || array_ends(job)) // it gave way, and goes on by itself; or was stopped
        return 0;
    if (!waits && !(job->r.state == JOB_STATE_SUSPENDING && job->r.wanted == WANTED_SUSPEND))
        return 0;
    job->r.wanted = WANTED_RUN;
    c->reply->changed = true;
    effects_event(c->fx, c->entry, EVENT_RESUME, job, -1, -1, "resumed by %s", c->name);
    if (waits)
        mutate_state(c, job, JOB_STATE_QUEUED, REASON_NONE, NULL);
    else
        effects_touch_job(c->fx, job);
    if (array_is(job))
        to_elements(c, job, in);
    return 0;
}

/* The job as it would be, in a group of its choice, must be possible there. */
static int set_group(struct mutate *c, struct job *job, const char *group) {
    if (state_job_live(job))
        return hai_fail_at(&c->reply->err, -EINVAL, "conflict", "group", NULL,
                           "job %lld holds nodes; only a waiting job can change its group",
                           (long long)job->r.id);
    struct place_need need = place_need_of(c->state, job);
    need.group = state_group_find(c->state, group);
    if (need.group < 0)
        return state_no_group(c->state, "group", group, &c->reply->err);
    return place_possible(c->state, &need, &c->reply->err);
}

/* Who changes level or group gives back what is charged; by its number it may be charged again. */
static void set_priority(struct mutate *c, struct job *job, const struct entry_job_set *in) {
    bool to_auto = in->auto_priority == 1;

    if (!to_auto && in->priority == S_ABSENT && !in->group)
        return;
    quota_leave(c->state, job);
    if (to_auto) {
        job->r.spec.auto_priority = 1;
        job->r.priority = quota_auto_priority(c->state, job->r.spec.user);
    } else if (in->priority != S_ABSENT) {
        job->r.spec.auto_priority = S_ABSENT;
        job->r.priority = in->priority;
    }
}

/* In strict order a job must not become one that never starts. One that already is may change in
 * other respects. */
static int check_quota(struct mutate *c, const struct job *job, const struct entry_job_set *in) {
    struct job changed = *job; // shares its texts and lists

    if (in->auto_priority != 1 && in->priority == S_ABSENT && !in->group)
        return 0;
    if (in->group)
        changed.r.spec.group = in->group;
    if (in->auto_priority == 1)
        changed.r.spec.auto_priority = 1;
    else if (in->priority != S_ABSENT)
        changed.r.spec.auto_priority = S_ABSENT;
    if (in->priority != S_ABSENT)
        changed.r.priority = in->priority;
    return quota_possible(c->state, &changed, &c->reply->err);
}

int apply_job_set(struct mutate *c, const struct entry_job_set *in) {
    int r;
    struct job *job = mutate_own_job(c, in->job, &r);

    if (!job)
        return r;
    if (state_job_ended(job))
        return refuse_ended(c, job);
    r = in->priority == S_ABSENT ? 0 : check_priority(c, in->priority);
    if (r == 0)
        r = check_choice(c, job->r.spec.user, in->priority != S_ABSENT);
    bool moves = in->move != JOB_MOVE_STAYS;
    if (r == 0 && moves)
        r = move_check(c, job, in);
    if (r == 0 && in->group)
        r = set_group(c, job, in->group);
    if (r == 0)
        r = check_quota(c, job, in);
    if (r < 0)
        return r;
    if (moves)
        move_job(c, job, in);
    queue_remove(c->state, job);
    mutate_claim_drop(c, job);
    set_priority(c, job, in);
    if (in->time_limit_us != S_ABSENT)
        job->r.time_limit_us = in->time_limit_us;
    if (in->time_limit_us != S_ABSENT && state_job_live(job))
        attempt_until(c, job, false);
    if (in->group) {
        hai_strset(&job->r.spec.group, in->group);
        state_job_resolve(c->state, job);
    }
    mutate_follow(c, job);
    effects_event(c->fx, c->entry, EVENT_CHANGED, job, -1, -1, "priority %lld%s, group %s",
                  (long long)job->r.priority, quota_is_auto(job) ? " (auto)" : "",
                  job->r.spec.group);
    c->reply->changed = true;
    if (array_is(job))
        to_elements(c, job, in);
    return 0;
}

static int stale(struct mutate *c, const struct job *job, const char *why) {
    return hai_fail_at(&c->reply->err, -ESTALE, "stale", NULL, NULL, "job %lld: %s",
                       (long long)job->r.id, why);
}

/* Are the nodes of a placement free for the job, which claims nothing at the moment? */
static int check_place(struct mutate *c, const struct entry_place *in, const struct job *job) {
    const struct state *state = c->state;

    if ((int64_t)in->nodes.n != job->r.spec.nodes)
        return stale(c, job, "another number of nodes");
    struct place_need need = place_need_of(c->state, job);
    _cleanup_(idset_free) struct idset nodes = {0};
    uint64_t zones = 0;
    for (size_t i = 0; i < in->nodes.n; i++) {
        int node = state_node_find(state, in->nodes.items[i].node);
        if (node < 0 || !place_fits(state, &need, node, (uint32_t)in->nodes.items[i].gpus))
            return stale(c, job, "a node has changed");
        if (!idset_add(&nodes, node))
            return stale(c, job, "a node twice");
        zones |= UINT64_C(1) << state->nodes[node]->zone;
    }
    bool spans = zones & (zones - 1);
    if (spans && (!job->r.spec.cross_zones || !state_may_cross(state, 0)))
        return stale(c, job, "it may not span zones now");
    return 0;
}

int apply_job_place(struct mutate *c, const struct entry_place *in) {
    int r = mutate_need(c, SCOPE_SYSTEM, "placing a job");
    if (r < 0)
        return r;
    c->reply->id = in->job;
    struct job *job = state_job_find(c->state, in->job);
    if (!job)
        return hai_fail(&c->reply->err, -ESTALE, "job %lld is gone", (long long)in->job);
    if (!job->queued || job->r.epoch != in->epoch)
        return stale(c, job, "it does not wait any more");
    mutate_claim(c->state, job, -1);
    r = check_place(c, in, job);
    mutate_claim(c->state, job, 1);
    if (r < 0)
        return r;
    mutate_claim_drop(c, job);
    attempt_begin(c, job, in);
    c->reply->changed = true;
    return 0;
}

void apply_job_due(struct mutate *c, struct job *job) {
    int64_t now_us = c->entry->time_us;

    if (!state_job_live(job)) { // its delay is over
        mutate_follow(c, job);
        return;
    }
    if (job->r.phase == DESIRED_PHASE_TERM) {
        effects_event(c->fx, c->entry, EVENT_KILL, job, -1, -1, "the grace is over");
        attempt_end(c, job, DESIRED_PHASE_KILL, S_ABSENT);
        return;
    }
    if (mutate_limit_us(job) > now_us) { // it outlives what it was expected to run for
        attempt_until(c, job, true);
        mutate_follow(c, job);
        return;
    }
    int64_t warn_us = job->r.spec.warn_us;
    int64_t kill_at_us = now_us + (warn_us ? warn_us : job->r.spec.grace_us) +
                         HAI_PLANT(PLANT_LIMIT_LONG) * INT64_C(600000000);
    _cleanup_free_ char *text = hai_asprintf("its time limit of %lld s is over",
                                             (long long)(job->r.time_limit_us / 1000000));
    effects_event(c->fx, c->entry, EVENT_STOP, job, -1, -1, "%s", text);
    end_wanted(c, job, JOB_STATE_TIMED_OUT, REASON_TIME_LIMIT, false, kill_at_us, text);
}
