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

/* ---- records that were set ---- */

/* Of whom: texts of holder, group and name, with a level, and with none: whose any level changed.
 */
enum { ANY_LEVEL = -1, KEY_BYTES = GROUP_NAME_MAX + USER_NAME_MAX + 16 };

static void key_of(enum quota_holder holder, const char *name, const char *group, int level,
                   char ret[static KEY_BYTES]) {
    *ret++ = (char)('a' + (int)holder);
    *ret++ = (char)('b' + level);
    ret = stpcpy(ret, group);
    *ret++ = '\n';
    strcpy(ret, name ? name : "");
}

static bool has(const struct map *changed, enum quota_holder holder, const char *name,
                const char *group, int level) {
    char key[KEY_BYTES];

    key_of(holder, name, group, level, key);
    return map_get_text(changed, key);
}

/* Does one of the records that changed limit the job? */
static bool is_limited(const struct state *state, const struct job *job, const void *data) {
    const struct map *changed = data;
    const struct entry_job_spec *spec = &job->r.spec;
    int level = quota_is_auto(job) ? ANY_LEVEL : state_priority_level(job->r.priority);

    if (has(changed, QUOTA_HOLDER_USER, spec->user, spec->group, level) ||
        (spec->team && has(changed, QUOTA_HOLDER_TEAM, spec->team, spec->group, level)))
        return true;
    for (int at = 0; at < PRIORITY_COUNT; at++)
        if ((level == ANY_LEVEL || level == at) &&
            has(changed, QUOTA_HOLDER_EVERY, NULL, spec->group, at) &&
            !quota_find(state, QUOTA_HOLDER_USER, spec->user, spec->group, state_priority_at(at)))
            return true;
    return false;
}

static int check(struct mutate *c, const struct entry_quota *in) {
    struct hai_err *err = &c->reply->err;

    if (state_priority_level(in->priority) < 0)
        return hai_fail_at(err, -ERANGE, "out_of_range", "priority", NULL,
                           "priority is %lld; expected 50, 40, 30, 20, 10, 8, 5 or 0",
                           (long long)in->priority);
    if (!in->name != (in->holder == QUOTA_HOLDER_EVERY) || (in->name && !in->name[0]))
        return hai_fail_at(err, -EINVAL, "bad_value", "name", NULL,
                           "a quota is that of one user, of one team, or of every user");
    if (in->gpus != S_ABSENT && state_group_find(c->state, in->group) < 0)
        return state_no_group(c->state, "group", in->group, err);
    return 0;
}

static bool is_known(const struct state *state, const struct entry_quota *in) {
    return quota_find(state, in->holder, in->name, in->group, in->priority) != NULL;
}

static int check_all(struct mutate *c, const struct entry_quota *items, size_t n) {
    size_t n_more = 0;

    for (size_t i = 0; i < n; i++) {
        int r = check(c, &items[i]);
        if (r < 0)
            return r;
        /* One alone counts even if it is known: that is how version 1 was refused. */
        n_more += items[i].gpus != S_ABSENT && (n == 1 || !is_known(c->state, &items[i]));
    }
    if (n_more && c->state->n_quotas + n_more > QUOTAS_MAX)
        return hai_fail_at(&c->reply->err, -E2BIG, "too_many", NULL, NULL, "more than %d quotas",
                           QUOTAS_MAX);
    return 0;
}

static void note_change(struct mutate *c, const struct entry_quota *in, struct map *changed) {
    const char *kind = in->holder == QUOTA_HOLDER_TEAM ? "team " : "";
    const char *name = in->name ? in->name : "every user";
    char key[KEY_BYTES];

    key_of(in->holder, in->name, in->group, state_priority_level(in->priority), key);
    map_put_text(changed, key, changed);
    key_of(in->holder, in->name, in->group, ANY_LEVEL, key);
    map_put_text(changed, key, changed);
    if (in->gpus == S_ABSENT)
        effects_event(c->fx, c->entry, EVENT_ACCOUNT, NULL, -1, -1,
                      "quota of %s%s in group %s at priority %lld: taken away", kind, name,
                      in->group, (long long)in->priority);
    else
        effects_event(c->fx, c->entry, EVENT_ACCOUNT, NULL, -1, -1,
                      "quota of %s%s in group %s at priority %lld: %lld GPUs", kind, name,
                      in->group, (long long)in->priority, (long long)in->gpus);
}

static void set_all(struct mutate *c, const struct entry_quota *items, size_t n) {
    struct map changed = {0};

    for (size_t i = 0; i < n; i++) {
        const struct entry_quota *in = &items[i];
        struct state_quota quota = {in->holder, in->name, in->group, in->priority, in->gpus};
        if (quota_put(c->state, &quota))
            note_change(c, in, &changed);
    }
    if (map_count(&changed)) {
        settle_all(c, is_limited, &changed);
        if (c->fx)
            c->fx->accounts = true;
        c->reply->changed = true;
    }
    map_free(&changed);
}

int apply_quota_set(struct mutate *c, const struct entry_quota_set *in) {
    _cleanup_free_ struct entry_quota *items = hai_new_array(struct entry_quota, in->more.n + 1);
    const char *name = in->name ? in->name : "every user";

    items[0] = (struct entry_quota){in->holder, in->name, in->group, in->priority, in->gpus};
    for (size_t i = 0; i < in->more.n; i++)
        items[i + 1] = in->more.items[i]; // the texts stay the entry's
    int r = mutate_need(c, SCOPE_OPERATE, "changing quotas");
    if (r == 0)
        r = check_all(c, items, in->more.n + 1);
    if (r < 0)
        return r;
    if (in->gpus == S_ABSENT && !in->more.n &&
        !quota_find(c->state, in->holder, in->name, in->group, in->priority))
        return hai_fail_at(&c->reply->err, -ENOENT, "not_found", NULL, NULL,
                           "there is no quota of %s in group %s at priority %lld", name, in->group,
                           (long long)in->priority);
    set_all(c, items, in->more.n + 1);
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
