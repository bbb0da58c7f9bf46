#include "sim/quota_rules.h"
#include "scheduler/core/array.h"
#include "scheduler/core/eligible.h"
#include "scheduler/core/order.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/quota.h"

#define FAIL(...) return hai_fail(err, -EINVAL, __VA_ARGS__)

enum { HOLDERS = 2, NONE = -1 };

/* What one holder has at one level. */
struct total {
    const struct state_quota *record;
    const char *name;
    int64_t used;
};

/* The first job over quota (or below the level) of one user, team, group and level. */
struct head {
    const struct job *job;
    int64_t priority;
    int totals[HOLDERS]; // NONE: no limit
};

struct reckoning {
    const struct state *state;
    struct total *totals;
    size_t n_totals;
    struct head *heads;
    size_t n_heads;
};

static bool counts(const struct state *state, const struct job *job) {
    bool waits = job->r.state == JOB_STATE_QUEUED ||
                 (job->r.state == JOB_STATE_SUSPENDED && job->r.wanted == WANTED_RUN);

    if (job->group < 0 || !job->r.spec.gpus_per_node || array_is(job) || state_job_ended(job))
        return false;
    return state_job_live(job) || job->r.state == JOB_STATE_RECOVERING ||
           (waits && eligible(state, job));
}

static const struct state_quota *record_of(const struct state *state, const struct job *job,
                                           int64_t priority, bool team) {
    const struct state_quota *every = NULL;
    const char *name = team ? job->r.spec.team : job->r.spec.user;

    for (size_t i = 0; i < state->n_quotas; i++) {
        const struct state_quota *quota = &state->quotas[i];
        if (quota->priority != priority || !hai_streq(quota->group, job->r.spec.group))
            continue;
        if (quota->holder == (team ? QUOTA_HOLDER_TEAM : QUOTA_HOLDER_USER) && name &&
            hai_streq(quota->name, name))
            return quota;
        if (quota->holder == QUOTA_HOLDER_EVERY && !team)
            every = quota;
    }
    return every;
}

/* The position of the total of a job's user or team at a level; NONE: nothing limits it. */
static int total_of(struct reckoning *r, const struct job *job, int64_t priority, bool team) {
    const struct state_quota *record = record_of(r->state, job, priority, team);
    const char *name = team ? job->r.spec.team : job->r.spec.user;

    if (!record)
        return NONE;
    for (size_t i = 0; i < r->n_totals; i++)
        if (r->totals[i].record == record && !strcmp(r->totals[i].name, name))
            return (int)i;
    r->totals = hai_realloc_array(r->totals, r->n_totals + 1, sizeof *r->totals);
    r->totals[r->n_totals] = (struct total){record, name, 0};
    return (int)r->n_totals++;
}

static bool same_line(const struct job *a, const struct job *b) {
    return hai_streq(a->r.spec.user, b->r.spec.user) && hai_streq(a->r.spec.team, b->r.spec.team) &&
           hai_streq(a->r.spec.group, b->r.spec.group);
}

/* The job would be within quota at this level if it had room: it stands there, unless it is larger
 * than all of it. Returns false where nothing limits it. */
static bool stand(struct reckoning *r, const struct job *job, int64_t priority) {
    struct head head = {
        job, priority, {NONE, NONE}
    };
    bool limited = false;

    for (int i = 0; i < HOLDERS; i++) {
        head.totals[i] = total_of(r, job, priority, i == 1);
        limited |= head.totals[i] != NONE;
    }
    for (int i = 0; i < HOLDERS; i++)
        if (head.totals[i] != NONE && order_gpus(job) > r->totals[head.totals[i]].record->gpus)
            return true;
    for (size_t i = 0; limited && i < r->n_heads; i++)
        if (r->heads[i].priority == priority && same_line(r->heads[i].job, job)) {
            if (queue_place(job) < queue_place(r->heads[i].job))
                r->heads[i].job = job;
            return true;
        }
    if (!limited)
        return false;
    r->heads = hai_realloc_array(r->heads, r->n_heads + 1, sizeof *r->heads);
    r->heads[r->n_heads++] = head;
    return true;
}

/* All levels above its own, and its own if it is over, hold it back. */
static int add_stands(struct reckoning *r, const struct job *job, struct hai_err *err) {
    int64_t top = quota_external(r->state, job->r.spec.user) ? QUOTA_EXTERNAL_PRIORITY : 50;

    if (!quota_is_auto(job) && quota_is_over(job) && !stand(r, job, job->r.priority))
        FAIL("job %lld is over a quota that there is not", (long long)job->r.id);
    for (int level = 0; quota_is_auto(job) && level < PRIORITY_COUNT; level++) {
        int64_t priority = state_priority_at(level);
        bool above = priority > job->r.priority || quota_is_over(job);
        if (priority > top || !above)
            continue;
        if (!stand(r, job, priority) && priority <= QUOTA_AUTO_PRIORITY)
            FAIL("job %lld could be at priority %lld and is at %lld", (long long)job->r.id,
                 (long long)priority, (long long)job->r.priority);
    }
    return 0;
}

static int add_job(struct reckoning *r, const struct job *job, struct hai_err *err) {
    if (counts(r->state, job) != job->counted)
        FAIL("job %lld is %s and %s", (long long)job->r.id, job_state_text(job->r.state),
             job->counted ? "counts against quotas" : "does not count against quotas");
    if (!job->counted && quota_is_over(job))
        FAIL("job %lld does not count and is over quota", (long long)job->r.id);
    if (quota_is_over(job) && job->r.claim.n)
        FAIL("job %lld is over quota and others leave for it", (long long)job->r.id);
    if (job->queued && quota_is_over(job) != (job->tier >= ORDER_TIERS - PRIORITY_COUNT))
        FAIL("job %lld waits in tier %d", (long long)job->r.id, job->tier);
    if (!job->counted)
        return 0;
    for (int i = 0; !quota_is_over(job) && i < HOLDERS; i++) {
        int total = total_of(r, job, job->r.priority, i == 1);
        if (total != NONE)
            r->totals[total].used += order_gpus(job);
    }
    return add_stands(r, job, err);
}

static bool lacks(const struct reckoning *r, int total, const struct job *job) {
    return total != NONE && r->totals[total].used + order_gpus(job) > r->totals[total].record->gpus;
}

/* Does the account lack room for this job, or for another one that comes before it? */
static bool is_held_back(const struct reckoning *r, const struct head *head, int total) {
    if (lacks(r, total, head->job))
        return true;
    for (size_t i = 0; total != NONE && i < r->n_heads; i++) {
        const struct head *other = &r->heads[i];
        if (other->priority == head->priority && queue_place(other->job) < queue_place(head->job) &&
            (other->totals[0] == total || other->totals[1] == total) && lacks(r, total, other->job))
            return true;
    }
    return false;
}

static int check(const struct reckoning *r, struct hai_err *err) {
    for (size_t i = 0; i < r->n_totals; i++) {
        const struct total *total = &r->totals[i];
        int64_t used = quota_used(r->state, total->record->holder, total->name,
                                  total->record->group, total->record->priority);
        if (used != total->used)
            FAIL("%s is charged %lld GPUs at priority %lld, and its jobs have %lld", total->name,
                 (long long)used, (long long)total->record->priority, (long long)total->used);
    }
    for (size_t i = 0; i < r->n_heads; i++) {
        const struct head *head = &r->heads[i];
        if (!is_held_back(r, head, head->totals[0]) && !is_held_back(r, head, head->totals[1]))
            FAIL("job %lld could be within quota at priority %lld", (long long)head->job->r.id,
                 (long long)head->priority);
    }
    return 0;
}

int quota_rules(const struct state *state, struct hai_err *err) {
    struct reckoning r = {.state = state};
    int result = 0;

    for (const struct job *job = state->jobs_first; job && result == 0; job = job->next)
        if (!state_job_ended(job))
            result = add_job(&r, job, err);
    if (result == 0)
        result = check(&r, err);
    free(r.totals);
    free(r.heads);
    return result;
}

bool quota_rules_settled(struct state *state) {
    return quota_next(state) != NULL;
}

/* ---- limits ---- */

struct seen {
    int64_t limit, used;
};

void quota_rules_forget(struct quota_rules_seen *watch) {
    size_t at = 0;

    for (struct map_item *item; (item = map_next(&watch->seen, &at));)
        free(item->value);
    map_free(&watch->seen);
    *watch = (struct quota_rules_seen){0};
}

int quota_rules_watch(struct quota_rules_seen *watch, const struct state *state,
                      struct hai_err *err) {
    const struct map *accounts = &state->book.accounts;
    size_t at = 0;

    for (struct map_item *item; (item = map_next(accounts, &at));) {
        const struct quota_account *account = item->value;
        struct seen now = {account->record->gpus, account->used};
        struct seen *before = map_get_text(&watch->seen, item->text);
        if (before && before->limit == now.limit && now.used > now.limit && now.used > before->used)
            FAIL("a quota of %lld GPUs at priority %lld is charged %lld, before %lld",
                 (long long)now.limit, (long long)account->record->priority, (long long)now.used,
                 (long long)before->used);
        if (!before) {
            before = hai_new(struct seen);
            map_put_text(&watch->seen, item->text, before);
        }
        *before = now;
    }
    return 0;
}
