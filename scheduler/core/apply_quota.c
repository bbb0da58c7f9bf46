#include "scheduler/core/apply_quota.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/quota.h"

void apply_quota_settle(struct mutate *c) {
    for (struct job *job; (job = quota_next(c->state));) {
        queue_remove(c->state, job); // it enters another line
        mutate_follow(c, job);
        effects_event(c->fx, c->entry, EVENT_CHANGED, job, -1, -1, "within quota at priority %lld",
                      (long long)job->r.priority);
    }
}

/* Where a job is: within quota or over, and at which level. */
static int64_t place_of(const struct job *job) {
    return quota_is_over(job) ? -1 - job->r.priority : job->r.priority;
}

/* Only those whose place is another one afterwards are followed up. */
static void settle_all(struct mutate *c, quota_changed_fn changed, const void *data) {
    _cleanup_free_ int64_t *before = hai_new_array(int64_t, (size_t)MAX(c->state->n_jobs, 1));
    size_t n = 0;

    for (const struct job *job = c->state->jobs_first; job; job = job->next)
        before[n++] = place_of(job);
    quota_rebuild(c->state, changed, data);
    while (quota_next(c->state))
        continue;
    n = 0;
    for (struct job *job = c->state->jobs_first; job; job = job->next)
        if (before[n++] != place_of(job)) {
            queue_remove(c->state, job);
            mutate_follow(c, job);
        }
}

/* Does the record that was set limit the job? */
static bool is_limited(const struct state *state, const struct job *job, const void *data) {
    const struct entry_quota_set *set = data;
    const struct entry_job_spec *spec = &job->r.spec;

    if (!hai_streq(spec->group, set->group) ||
        (!quota_is_auto(job) && job->r.priority != set->priority))
        return false;
    switch (set->holder) {
    case QUOTA_HOLDER_USER:
        return hai_streq(spec->user, set->name);
    case QUOTA_HOLDER_TEAM:
        return hai_streq(spec->team, set->name);
    default:
        return !quota_find(state, QUOTA_HOLDER_USER, spec->user, spec->group, set->priority);
    }
}

static int check(struct mutate *c, const struct entry_quota_set *in) {
    struct hai_err *err = &c->reply->err;

    if (state_priority_level(in->priority) < 0)
        return hai_fail_at(err, -ERANGE, "out_of_range", "priority", NULL,
                           "priority is %lld; expected 50, 40, 30, 20, 10, 8, 5 or 0",
                           (long long)in->priority);
    if (!in->name != (in->holder == QUOTA_HOLDER_EVERY) || (in->name && !in->name[0]))
        return hai_fail_at(err, -EINVAL, "bad_value", "name", NULL,
                           "a quota is that of one user, of one team, or of every user");
    if (in->gpus != S_ABSENT && state_group_find(c->state, in->group) < 0)
        return hai_fail_at(err, -EINVAL, "unknown_group", "group", NULL, "there is no group %s",
                           in->group);
    if (in->gpus != S_ABSENT && c->state->n_quotas >= QUOTAS_MAX)
        return hai_fail_at(err, -E2BIG, "too_many", NULL, NULL, "more than %d quotas", QUOTAS_MAX);
    return 0;
}

int apply_quota_set(struct mutate *c, const struct entry_quota_set *in) {
    struct state_quota quota = {in->holder, in->name, in->group, in->priority, in->gpus};
    const char *name = in->name ? in->name : "every user";

    int r = mutate_need(c, SCOPE_OPERATE, "changing quotas");
    if (r == 0)
        r = check(c, in);
    if (r < 0)
        return r;
    if (!quota_put(c->state, &quota)) {
        if (in->gpus != S_ABSENT)
            return 0;
        return hai_fail_at(&c->reply->err, -ENOENT, "not_found", NULL, NULL,
                           "there is no quota of %s in group %s at priority %lld", name, in->group,
                           (long long)in->priority);
    }
    settle_all(c, is_limited, in);
    if (c->fx)
        c->fx->accounts = true;
    const char *kind = in->holder == QUOTA_HOLDER_TEAM ? "team " : "";
    if (in->gpus == S_ABSENT)
        effects_event(c->fx, c->entry, EVENT_ACCOUNT, NULL, -1, -1,
                      "quota of %s%s in group %s at priority %lld: taken away", kind, name,
                      in->group, (long long)in->priority);
    else
        effects_event(c->fx, c->entry, EVENT_ACCOUNT, NULL, -1, -1,
                      "quota of %s%s in group %s at priority %lld: %lld GPUs", kind, name,
                      in->group, (long long)in->priority, (long long)in->gpus);
    c->reply->changed = true;
    return 0;
}

static bool is_of_user(const struct state *state, const struct job *job, const void *data) {
    (void)state;
    return quota_is_auto(job) && hai_streq(job->r.spec.user, data);
}

void apply_quota_user(struct mutate *c, const char *user) {
    bool external = quota_external(c->state, user);

    for (struct job *job = c->state->jobs_first; job; job = job->next) {
        if (state_job_ended(job) || !hai_streq(job->r.spec.user, user))
            continue;
        if (external)
            job->r.spec.auto_priority = 1; // an array's elements copy it
        if (!job->counted && quota_is_auto(job)) {
            job->r.priority = quota_auto_priority(c->state, user);
            queue_remove(c->state, job);
            mutate_follow(c, job);
        }
    }
    settle_all(c, is_of_user, user);
    queue_sort(c->state); // also who keeps his level moves: what is external does not age
}
