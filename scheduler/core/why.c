#include "scheduler/core/why.h"
#include "scheduler/core/array.h"
#include "scheduler/core/eligible.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/order.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/quota.h"
#include "scheduler/core/reserve.h"

#include <stdarg.h>
#include <stdio.h>

enum {
    NODES_NAMED = 4,
    LIMITS_TRIED = 16, // each is a search over all nodes
};
#define MINUTE_US (INT64_C(60) * 1000000)

/* A sentence that grows; what does not fit is left out. */
struct text {
    char *at;
    size_t left;
};

static void say(struct text *t, const char *format, ...) _printf_(2, 3);
static void say(struct text *t, const char *format, ...) {
    va_list ap;

    va_start(ap, format);
    int n = vsnprintf(t->at, t->left, format, ap);
    va_end(ap);
    size_t used = MIN((size_t)MAX(n, 0), t->left - 1);
    t->at += used;
    t->left -= used;
}

static void code(struct why *ret, const char *word) {
    (void)snprintf(ret->code, sizeof ret->code, "%s", word);
}

static void say_need(struct text *t, const struct state *state, const struct job *job) {
    const struct entry_job_spec *spec = &job->r.spec;
    const char *each = spec->nodes == 1 ? "" : " each";

    say(t, "needs %lld node%s with ", (long long)spec->nodes, spec->nodes == 1 ? "" : "s");
    if (spec->gpus_per_node)
        say(t, "%lld free GPU%s%s", (long long)spec->gpus_per_node,
            spec->gpus_per_node == 1 ? "" : "s", each);
    else
        say(t, "%lld free CPU%s%s", (long long)job->cpus_per_node,
            job->cpus_per_node == 1 ? "" : "s", each);
    if (job->r.reserve != S_ABSENT)
        say(t, " of reservation %s", spec->reservation);
    say(t, " in group %s", spec->group);
    for (size_t i = 0; i < spec->zones.n; i++)
        say(t, "%s%s", i ? " or " : ", zone ", spec->zones.items[i]);
    if (spec->nodes > 1 && !spec->cross_zones && state->n_zones > 1)
        say(t, ", all in one zone");
}

/* Is it kept for others? In service, reserve_say tells of it. */
static bool is_others(const struct state *state, const struct place_need *need,
                      const struct node *node) {
    if (node->reserved != need->reserve)
        return need->reserve || state_node_usable(node);
    return state_node_usable(node) && place_too_soon(need, node->coming_us, state->r.time_us);
}

/* "; b1 has 1 free, b2 is drained, 3 more are full": nodes that say more than "is full" first. */
static void say_nodes(struct text *t, const struct state *state, const struct place_need *need,
                      bool out_only) {
    const struct state_group *group = &state->groups[need->group].r;
    _cleanup_free_ uint64_t *spares = need->recovers ? NULL : spare_map(state, false);
    int n_named = 0, n_fit = 0, n_full = 0, n_other = 0, n_spare = 0;
    char phrase[64], reserved[256];

    for (size_t i = 0; i < group->nodes.n; i++) {
        int number = (int)group->nodes.items[i];
        const struct node *node = state->nodes[number];
        if (!(need->zones & UINT64_C(1) << node->zone) || (out_only && state_node_usable(node)) ||
            is_others(state, need, node))
            continue;
        if (spare_marked(spares, number))
            n_spare++;
        else if (place_node_free(state, need, number, phrase, sizeof phrase))
            n_fit++;
        else if (!strcmp(phrase, "is full"))
            n_full++;
        else if (n_named == NODES_NAMED)
            n_other++;
        else
            say(t, "%s%s %s", n_named++ ? ", " : "; ", node->r.name, phrase);
    }
    if (n_fit)
        say(t, "%s%d %s free", n_named++ ? ", " : "; ", n_fit,
            n_fit == 1 ? "node is" : "nodes are");
    if (n_full)
        say(t, "%s%d %s full", n_named++ ? ", " : "; ", n_full,
            n_full == 1 ? "node is" : "nodes are");
    if (n_other)
        say(t, ", %d more cannot take it", n_other);
    if (n_spare)
        say(t, "%s%d %s kept as %s for recovery", n_named ? ", " : "; ", n_spare,
            n_spare == 1 ? "node is" : "nodes are", n_spare == 1 ? "a spare" : "spares");
    if (reserve_say(state, need, reserved, sizeof reserved))
        say(t, "%s%s", n_named || n_full || n_spare ? ", " : "; ", reserved);
}

static const char *first_node(const struct state *state, const struct place_scratch *scratch) {
    return state->nodes[scratch->nodes[0].node]->r.name;
}

/* With a time limit that ends before reservations take nodes, if that would start it now. */
static bool say_limit(struct text *t, const struct state *state, const struct job *job,
                      const struct place_need *need, struct place_scratch *scratch) {
    struct place_need less = *need;
    int64_t best_us = 0;

    for (size_t i = 0, n = 0; need->lasts_us && i < state->n_reserves && n < LIMITS_TRIED; i++) {
        less.lasts_us = state->reserves[i].from_us - state->r.time_us;
        if (less.lasts_us <= MAX(best_us, MINUTE_US) || less.lasts_us >= need->lasts_us)
            continue;
        n++;
        if (place_find(state, &less, scratch) == 0)
            best_us = less.lasts_us;
    }
    if (!best_us)
        return false;
    long long minutes = (best_us + job->r.ran_us) / MINUTE_US;
    say(t, "with --time-limit ");
    if (minutes >= 60)
        say(t, "%lldh", minutes / 60);
    if (minutes % 60)
        say(t, "%lldm", minutes % 60);
    say(t, " it starts now");
    return true;
}

/* The smallest change of the wish that would start it now. */
static void say_sooner(struct why *ret, const struct state *state, const struct job *job,
                       const struct place_need *need) {
    _cleanup_(place_scratch_free) struct place_scratch scratch = {0};
    struct text t = {ret->sooner, sizeof ret->sooner};

    if (say_limit(&t, state, job, need, &scratch))
        return;
    for (int64_t gpus = need->gpus_per_node - 1; gpus > 0; gpus--) {
        struct place_need less = *need;
        less.gpus_per_node = gpus;
        if (place_find(state, &less, &scratch) == 0) {
            say(&t, "with --gpus-per-node %lld it starts now on %s%s", (long long)gpus,
                first_node(state, &scratch), need->nodes > 1 ? " and others" : "");
            return;
        }
    }
    int64_t low = 0, high = need->nodes; // low fits, high does not
    while (high - low > 1) {
        struct place_need less = *need;
        less.nodes = low + (high - low) / 2;
        if (place_find(state, &less, &scratch) == 0)
            low = less.nodes;
        else
            high = less.nodes;
    }
    if (low)
        say(&t, "with --nodes %lld it starts now", (long long)low);
}

/* The first job of the group's queue that blocks those behind it, if that is not the job itself. */
static const struct job *blocker(const struct state *state, const struct job *job) {
    const struct job *ahead, *found = NULL;
    struct queue_walk walk = {0};

    queue_walk_begin(&walk, state);
    while (!found && (ahead = queue_walk_next(&walk)) && queue_before(ahead, job)) {
        if (ahead->group == job->group && ahead->r.reserve == job->r.reserve &&
            place_could(state, &ahead->shape->need, true))
            found = ahead;
        queue_walk_pass(&walk);
    }
    queue_walk_end(&walk);
    return found;
}

static bool holds_claimed(const struct job *running, const struct job *job) {
    for (size_t i = 0; i < running->r.allocs.n; i++) {
        const struct state_alloc *alloc = &running->r.allocs.items[i];
        for (size_t k = 0; k < job->r.claim.n && !alloc->released; k++)
            if (job->r.claim.items[k].node == alloc->node)
                return true;
    }
    return false;
}

/* Others are leaving nodes to the job: who, and until when they may take. */
static void why_making_room(const struct state *state, const struct job *job, struct why *ret) {
    struct text t = {ret->message, sizeof ret->message};
    int n_named = 0, n_more = 0;

    code(ret, "making_room");
    for (const struct job *one = state->live_first; one; one = one->live_next) {
        if (one->r.state != JOB_STATE_SUSPENDING || !holds_claimed(one, job))
            continue;
        if (n_named < NODES_NAMED)
            say(&t, "%s %s (%s)", n_named++ ? "," : "waits until others have saved and left: job",
                array_label(&one->r).text, one->r.spec.user);
        else
            n_more++;
        ret->at_us = MAX(ret->at_us, one->r.kill_at_us);
    }
    if (n_more)
        say(&t, " and %d more", n_more);
    say(&t, "%s %s%s", n_named ? "; then it starts on" : "starts now on",
        state->nodes[job->r.claim.items[0].node]->r.name, job->r.claim.n > 1 ? " and others" : "");
}

/* What must happen before the job may want nodes at all. False: nothing. */
static bool why_not_yet(const struct state *state, const struct job *job, struct why *ret) {
    struct eligible_wait wait;

    if (!eligible_wait(state, job, &wait))
        return false;
    code(ret, wait.code);
    (void)snprintf(ret->message, sizeof ret->message, "%s", wait.text);
    ret->ahead = wait.ahead;
    ret->at_us = wait.at_us;
    return true;
}

/* There is room, but the job waits for nodes under fewer leaves. */
static bool waits_for_leaves(const struct state *state, const struct job *job,
                             const struct place_need *need, struct place_scratch *scratch,
                             struct why *ret) {
    struct text t = {ret->message, sizeof ret->message};

    int64_t leaves = spread_of(state, scratch->nodes, need->nodes).leaves;
    if (leaves == 1)
        return false;
    int64_t fewest = spread_fewest(state, need, scratch).leaves;
    if (!fewest || leaves <= fewest || !order_waits_for_leaves(state, job, fewest))
        return false;
    code(ret, "leaves");
    say(&t, "%lld nodes are free, but under %lld leaf switches; it waits for nodes under %lld",
        (long long)need->nodes, (long long)leaves, (long long)fewest);
    ret->at_us = order_waits_until_us(state, job, fewest);
    return true;
}

static const char *holder_of(const struct job *job, const struct state_quota *record) {
    return record->holder == QUOTA_HOLDER_TEAM ? job->r.spec.team : job->r.spec.user;
}

static bool is_too_large(const struct job *job, const struct quota_limit *limits, int n) {
    for (int i = 0; i < n; i++)
        if (order_gpus(job) > limits[i].record->gpus)
            return true;
    return false;
}

/* "user bob holds 6 of 8 GPUs in group default at priority 30 within quota, and job 12 comes first"
 */
static void say_quota(struct text *t, const struct state *state, const struct job *job,
                      const struct quota_limit *limit) {
    const struct state_quota *record = limit->record;

    say(t, "%s %s ", record->holder == QUOTA_HOLDER_TEAM ? "team" : "user", holder_of(job, record));
    if (order_gpus(job) > record->gpus)
        say(t, "may have %lld GPUs", (long long)record->gpus);
    else
        say(t, "has taken %lld of %lld GPUs", (long long)limit->used, (long long)record->gpus);
    say(t, " in group %s at priority %lld", job->r.spec.group, (long long)record->priority);
    if (limit->ahead && order_gpus(job) <= record->gpus)
        say(t, ", and job %s comes first", array_label_of(state, limit->ahead).text);
}

/* A level at which the job would be within quota at once; -1: none. */
static int64_t level_with_room(const struct state *state, const struct job *job) {
    struct quota_limit limits[QUOTA_ACCOUNTS];

    if (quota_is_auto(job) || quota_external(state, job->r.spec.user))
        return -1;
    for (int level = state_priority_level(job->r.priority) + 1; level < PRIORITY_COUNT; level++) {
        int n = quota_limits(state, job, state_priority_at(level), limits);
        bool room = true;
        for (int i = 0; i < n; i++)
            room &= !limits[i].ahead && limits[i].used + order_gpus(job) <= limits[i].record->gpus;
        if (room)
            return state_priority_at(level);
    }
    return -1;
}

static void why_over(const struct state *state, const struct job *job, struct why *ret) {
    struct text t = {ret->message, sizeof ret->message};
    struct text sooner = {ret->sooner, sizeof ret->sooner};
    struct quota_limit limits[QUOTA_ACCOUNTS];
    int n = quota_limits(state, job, job->r.priority, limits), n_said = 0;
    bool never = is_too_large(job, limits, n);

    code(ret, "quota");
    say(&t, "over quota: it has %lld GPU%s, and ", (long long)order_gpus(job),
        order_gpus(job) == 1 ? "" : "s");
    for (int i = 0; i < n; i++) {
        bool binds =
            never ? order_gpus(job) > limits[i].record->gpus
                  : limits[i].ahead || limits[i].used + order_gpus(job) > limits[i].record->gpus;
        if (!binds)
            continue;
        say(&t, "%s", n_said++ ? "; " : "");
        say_quota(&t, state, job, &limits[i]);
        ret->ahead = never ? 0 : limits[i].ahead;
    }
    if (order_shares(state))
        say(&t, "; it starts once others leave GPUs idle");
    int64_t level = level_with_room(state, job);
    if (level >= 0)
        say(&sooner, "with --priority %lld it is within quota", (long long)level);
    else if (never)
        say(&sooner, "fewer GPUs, or more quota: hai quota list");
    else
        say(&sooner, "when jobs of the same quota end, or with more quota: hai quota list");
}

static void why_array(const struct state *state, const struct job *array, struct why *ret);

static void why_queued(const struct state *state, const struct job *job, struct why *ret) {
    if (why_not_yet(state, job, ret))
        return;
    if (array_is(job)) {
        why_array(state, job, ret);
        return;
    }
    _cleanup_(place_scratch_free) struct place_scratch scratch = {0};
    struct text t = {ret->message, sizeof ret->message};
    struct text sooner = {ret->sooner, sizeof ret->sooner};
    struct place_need need = place_need_of(state, job);
    bool could = place_could(state, &need, true);
    /* What fits nowhere waits for nodes, not for a job; and its queue may be long. Where jobs share
     * time nobody blocks those behind him. */
    const struct job *ahead = could && !order_shares(state) ? blocker(state, job) : NULL;

    ret->ahead = ahead ? ahead->r.id : 0;
    if (reserve_say_waits(state, job, ret->message, sizeof ret->message)) {
        code(ret, "reservation");
    } else if (could && quota_is_over(job) &&
               (quota_bars(state, job) || place_find(state, &need, &scratch) < 0)) {
        why_over(state, job, ret);
    } else if (job->r.claim.n) {
        why_making_room(state, job, ret);
    } else if (!could) {
        bool reserved = reserve_say(state, &need, ret->message, sizeof ret->message) > 0;
        code(ret, reserved ? "reserved" : "nodes_out");
        say_need(&t, state, job);
        say(&t, reserved ? "; too few are left" : "; not enough are in service");
        say_nodes(&t, state, &need, true);
        if (!say_limit(&sooner, state, job, &need, &scratch))
            say(&sooner, reserved ? "when the reservation is over or removed: hai reserve"
                                  : "returning nodes: hai undrain, hai nodes");
    } else if (place_find(state, &need, &scratch) < 0) {
        code(ret, "resources");
        say_need(&t, state, job);
        say_nodes(&t, state, &need, false);
        if (!ahead)
            say_sooner(ret, state, job, &need);
    } else if (waits_for_leaves(state, job, &need, &scratch, ret)) {
        return;
    } else if (ahead) {
        code(ret, "behind");
        say(&t, "job %s (%s, priority %lld) is ahead of it in group %s and needs %lld node%s",
            array_label(&ahead->r).text, ahead->r.spec.user, (long long)ahead->r.priority,
            job->r.spec.group, (long long)ahead->r.spec.nodes, ahead->r.spec.nodes == 1 ? "" : "s");
        if (job->tier == ahead->tier && job->level > ahead->level)
            say(&t, ", and %s had less GPU time of late than %s", ahead->r.spec.user,
                job->r.spec.user);
        if (job->r.priority == ahead->r.priority)
            say(&sooner, "with a higher priority it goes first");
    } else {
        code(ret, "starts_now");
        say(&t, "starts now on %s", first_node(state, &scratch));
        for (int64_t i = 1; i < MIN(need.nodes, (int64_t)NODES_NAMED); i++)
            say(&t, ", %s", state->nodes[scratch.nodes[i].node]->r.name);
        if (need.nodes > NODES_NAMED)
            say(&t, " and %lld more", (long long)need.nodes - NODES_NAMED);
    }
}

/* An array waits for what its first waiting element waits for, or for those that run. */
static void why_array(const struct state *state, const struct job *array, struct why *ret) {
    struct text t = {ret->message, sizeof ret->message};
    const struct job *job = array->array ? array_next_open(array, array) : NULL;
    int64_t cap = array->r.spec.array_cap;

    while (job && job->r.attempt > 0)
        job = array_next_open(array, job);
    if (job) {
        why_job(state, job, ret);
        return;
    }
    bool full = array->array && cap != S_ABSENT && array->array->n_open >= cap &&
                array->r.wanted == WANTED_RUN;
    code(ret, full ? "array_cap" : "elements");
    if (full)
        say(&t, "%lld of its array's elements run, as many as it allows",
            (long long)array->array->n_open);
    else if (array->array)
        say(&t, "%lld of its elements run", (long long)array->array->n_open);
    else
        say(&t, "its elements start one after the other");
}

/* Old ranks that may still run: where, and what is waited for. */
static void why_old_ranks(const struct state *state, const struct job *job, struct why *ret) {
    struct text t = {ret->message, sizeof ret->message};
    struct text sooner = {ret->sooner, sizeof ret->sooner};
    int n_named = 0, n_more = 0;
    bool lost = false;

    say(&t, "waits until its ranks are surely gone:");
    for (size_t i = 0; i < job->r.allocs.n; i++) {
        const struct node *node = state->nodes[job->r.allocs.items[i].node];
        bool silent = node->r.state == NODE_STATE_LOST;
        if (job->r.allocs.items[i].gone)
            continue;
        if (n_named == NODES_NAMED)
            n_more++;
        else
            say(&t, "%s %s %s", n_named++ ? "," : "", node->r.name,
                silent ? "is lost" : "ends them");
        if (!silent)
            continue;
        lost = true;
        ret->at_us = MAX(ret->at_us, node->r.hold_until_us);
    }
    if (n_more)
        say(&t, ", and %d more", n_more);
    code(ret, lost ? "node_lease" : "ending");
    if (lost && state->r.fence)
        say(&sooner, "when the node is fenced");
    else if (lost)
        say(&sooner, "fencing the node (no fence: is set in the cluster file)");
    else
        ret->at_us = job->r.kill_at_us;
}

static void why_starting(const struct state *state, const struct job *job, struct why *ret) {
    struct text t = {ret->message, sizeof ret->message};

    code(ret, "starting");
    say(&t, "attempt %lld: %zu of %zu ranks run", (long long)job->r.attempt,
        job->r.ranks.n - job->n_assigned, job->r.ranks.n);
    for (size_t i = 0; i < job->r.allocs.n; i++) {
        const struct state_rank *first = &job->r.ranks.items[i * job->r.spec.ranks_per_node];
        if (first->state != RANK_STATE_ASSIGNED)
            continue;
        say(&t, "; waits for %s", state->nodes[job->r.allocs.items[i].node]->r.name);
        return;
    }
}

static void why_running(const struct state *state, const struct job *job, struct why *ret) {
    struct text t = {ret->message, sizeof ret->message};
    size_t n = job->r.allocs.n;

    code(ret, "running");
    say(&t, "runs on %s", state->nodes[job->r.allocs.items[0].node]->r.name);
    for (size_t i = 1; i < MIN(n, (size_t)NODES_NAMED); i++)
        say(&t, ", %s", state->nodes[job->r.allocs.items[i].node]->r.name);
    if (n > NODES_NAMED)
        say(&t, " and %zu more", n - NODES_NAMED);
    if (job->r.attempt > 1)
        say(&t, ", attempt %lld%s%s", (long long)job->r.attempt, job->r.last_fault ? ": " : "",
            job->r.last_fault ? job->r.last_fault : "");
}

static void why_recovering(const struct state *state, const struct job *job, struct why *ret) {
    struct text t = {ret->message, sizeof ret->message};

    if (state_job_live(job) && job->r.phase != DESIRED_PHASE_RUN) {
        why_old_ranks(state, job, ret);
    } else if (state_job_live(job)) {
        why_starting(state, job, ret);
    } else if (job->r.not_before_us > state->r.time_us) {
        code(ret, "backoff");
        say(&t, "%s; restart %lld of at most %lld waits a moment",
            job->r.last_fault ? job->r.last_fault : "a fault", (long long)job->r.restarts,
            (long long)job->r.spec.restart_max);
        ret->at_us = job->r.not_before_us;
    } else {
        why_queued(state, job, ret);
    }
}

void why_job(const struct state *state, const struct job *job, struct why *ret) {
    struct text t = {ret->message, sizeof ret->message};
    struct text sooner = {ret->sooner, sizeof ret->sooner};

    *ret = (struct why){.at_us = S_ABSENT};
    bool waits = job->r.state == JOB_STATE_QUEUED ||
                 (job->r.state == JOB_STATE_RECOVERING && !state_job_live(job));
    if (waits && job->group < 0) {
        code(ret, "unknown_group");
        say(&t, "group %s is no longer in the cluster file", job->r.spec.group);
        say(&sooner, "another group: hai set %lld group=G", (long long)job->r.id);
        return;
    }
    if (job->r.state == JOB_STATE_SUSPENDED &&
        (job->queued || quota_bars(state, job))) { // it gave way
        why_queued(state, job, ret);
        return;
    }
    switch (job->r.state) {
    case JOB_STATE_HELD:
    case JOB_STATE_SUSPENDED:
        code(ret, job->r.state == JOB_STATE_HELD ? "held" : "suspended");
        say(&t, "%s; it waits for hai resume %s",
            job->r.message ? job->r.message : "it was submitted held", array_label(&job->r).text);
        return;
    case JOB_STATE_QUEUED:
        why_queued(state, job, ret);
        return;
    case JOB_STATE_STARTING:
        why_starting(state, job, ret);
        return;
    case JOB_STATE_RUNNING:
        why_running(state, job, ret);
        return;
    case JOB_STATE_RECOVERING:
        why_recovering(state, job, ret);
        return;
    case JOB_STATE_SUSPENDING:
    case JOB_STATE_STOPPING:
        why_old_ranks(state, job, ret);
        return;
    default:
        code(ret, job->r.reason == REASON_NONE ? job_state_text(job->r.state)
                                               : reason_text(job->r.reason));
        say(&t, "%s", job->r.message ? job->r.message : "all ranks ended with exit status 0");
    }
}

void why_draft(const struct state *state, const struct entry_job_spec *spec, struct job *ret) {
    *ret = (struct job){0};
    schema_init(state_job_schema(), &ret->r);
    ret->r.id = state->r.next_job;
    ret->r.spec = *spec;
    ret->r.priority = spec->priority;
    ret->r.time_limit_us = spec->time_limit_us;
    ret->r.submitted_us = ret->r.since_us = state->r.time_us;
    ret->r.state = spec->held ? JOB_STATE_HELD : JOB_STATE_QUEUED;
    state_job_resolve(state, ret);
    quota_draft(state, ret);
    ret->tier = order_tier(state, ret);
    ret->level = fair_level(state, ret);
    const struct state_reserve *reserve =
        spec->reservation ? state_reserve_named(state, spec->reservation) : NULL;
    if (reserve)
        ret->r.reserve = reserve->number;
    ret->hold_s = hold_seconds(state, ret);
}

int why_spec(const struct state *state, const struct entry_job_spec *spec, enum scope scope,
             struct why *ret, struct hai_err *err) {
    struct job job;

    why_draft(state, spec, &job);
    int r = spec->auto_priority == 1 ? 0 : quota_may_choose(state, spec->user, scope, err);
    if (r == 0)
        r = array_check(spec, err);
    if (r == 0)
        r = reserve_join(state, &job, err);
    if (r == 0)
        r = place_job_possible(state, &job, err);
    if (r == 0)
        r = quota_possible(state, &job, err);
    if (r == 0 && !why_not_yet(state, &job, ret)) {
        job.r.spec.array.n = 0; // as its first element
        why_job(state, &job, ret);
    }
    return r;
}
