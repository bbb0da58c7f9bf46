#include "scheduler/core/whyplan.h"
#include "scheduler/core/array.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/order.h"
#include "scheduler/core/queue.h"

#include <stdarg.h>
#include <stdio.h>

enum { LIMIT_MIN_S = 10, MINUTE_S = 60, HOUR_S = 3600 };

struct lead {
    int64_t n_planned[GROUPS_MAX];
    const struct job *ahead[GROUPS_MAX];      // blocks its group
    const struct job *ahead_in[RESERVES_MAX]; // its reservation
};

static const struct job **ahead_of(struct lead *lead, const struct state *state,
                                   const struct job *job) {
    if (job->r.reserve == S_ABSENT)
        return &lead->ahead[job->group];
    return &lead->ahead_in[state_reserve_find(state, job->r.reserve) - state->reserves];
}

static enum whyplan_verdict lead_one(struct backfill *b, const struct state *state,
                                     const struct job *job, struct lead *lead,
                                     struct place_scratch *scratch) {
    struct place_need need = place_need_of(state, job);
    bool plans = lead->n_planned[job->group] < order_backfills(state) && !backfill_full(b);
    int64_t at_s;

    if (*ahead_of(lead, state, job))
        return WHYPLAN_BEHIND;
    if (need.keeps_apart && backfill_find(b, state, job, scratch) == 0)
        return WHYPLAN_STARTS;
    if (!plans)
        return backfill_find(b, state, job, scratch) == 0 ? WHYPLAN_STARTS : WHYPLAN_WAITS;
    int r = backfill_plan(b, state, job, scratch, &at_s);
    if (r > 0)
        return WHYPLAN_STARTS;
    if (r == 0) {
        lead->n_planned[job->group]++;
        return WHYPLAN_PLANNED;
    }
    if (!place_could(state, &need, true))
        return WHYPLAN_NEVER;
    *ahead_of(lead, state, job) = job;
    return WHYPLAN_WAITS;
}

enum whyplan_verdict whyplan_lead(struct backfill *b, const struct state *state, struct room *room,
                                  const struct job *until, struct place_scratch *scratch,
                                  const struct job **ret_ahead) {
    enum whyplan_verdict verdict = WHYPLAN_WAITS;
    struct queue_walk walk = {0};
    struct lead lead = {0};
    const struct job *job;

    backfill_follow(b, state, room);
    queue_walk_begin(&walk, state);
    while ((job = queue_walk_next(&walk)) && (!until || queue_before(job, until))) {
        verdict = lead_one(b, state, job, &lead, scratch);
        if (verdict == WHYPLAN_STARTS)
            backfill_start(b, state, job, scratch->nodes);
        else if (verdict != WHYPLAN_PLANNED)
            queue_walk_pass(&walk);
    }
    queue_walk_end(&walk);
    if (until)
        verdict = lead_one(b, state, until, &lead, scratch);
    *ret_ahead = until ? *ahead_of(&lead, state, until) : NULL;
    return verdict;
}

static void append(char *text, size_t size, const char *format, ...) _printf_(3, 4);
static void append(char *text, size_t size, const char *format, ...) {
    size_t used = strlen(text);
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text + used, size - used, format, ap);
    va_end(ap);
}

static void planned(struct why *ret, const struct backfill_planned *plan) {
    (void)snprintf(ret->code, sizeof ret->code, "planned");
    append(ret->message, sizeof ret->message, "%splanned on %lld node%s",
           ret->message[0] ? "; " : "", (long long)plan->n_nodes, plan->n_nodes == 1 ? "" : "s");
    ret->at_us = plan->at_s * HOLD_SECOND_US;
}

/* In one unit, rounded down. */
static void say_limit(struct why *ret, int64_t limit_s) {
    bool hours = limit_s >= 2 * HOUR_S, minutes = limit_s >= 2 * MINUTE_S;
    int64_t unit_s = hours ? HOUR_S : minutes ? MINUTE_S : 1;

    if (limit_s >= LIMIT_MIN_S)
        (void)snprintf(ret->sooner, sizeof ret->sooner, "with --time-limit %lld%s it starts now",
                       (long long)(limit_s / unit_s),
                       hours     ? "h"
                       : minutes ? "m"
                                 : "s");
}

static int by_start(const void *pa, const void *pb) {
    const struct backfill_planned *a = pa, *b = pb;

    return a->at_s < b->at_s ? -1 : a->at_s > b->at_s;
}

/* The plan that it would hold up, of those that it could end before: it could pass the others. */
static void would_delay(struct backfill *b, const struct state *state, const struct job *job,
                        struct place_scratch *scratch, struct why *ret) {
    size_t n = backfill_n_plans(b);
    _cleanup_free_ struct backfill_planned *plans = hai_new_array(struct backfill_planned, n + 1);
    const struct backfill_planned *in_its_way = NULL;
    int64_t now_s = state->r.time_us / HOLD_SECOND_US;
    struct job shorter = *job;

    for (size_t i = 0; i < n; i++)
        plans[i] = backfill_planned(b, i);
    if (n > 1)
        qsort(plans, n, sizeof *plans, by_start);
    for (size_t i = 0; i < n; i++) {
        shorter.hold_s = MIN(plans[i].at_s - now_s, job->hold_s);
        if (plans[i].job->r.id == job->r.id)
            continue;
        if (shorter.hold_s <= 0 || backfill_find(b, state, &shorter, scratch) < 0)
            break;
        in_its_way = &plans[i];
    }
    if (!in_its_way)
        return;
    const struct job *other = in_its_way->job;
    ret->ahead = other->r.id;
    if (strcmp(ret->code, "planned") != 0) {
        (void)snprintf(ret->code, sizeof ret->code, "would_delay");
        (void)snprintf(ret->message, sizeof ret->message,
                       "it may not pass job %s (%s, priority %lld): %s when that needs %lld node%s",
                       array_label(&other->r).text, other->r.spec.user,
                       (long long)other->r.priority,
                       job->hold_s >= HOLD_ENDLESS ? "it has no time limit, and might still run"
                                                   : "it would still run",
                       (long long)in_its_way->n_nodes, in_its_way->n_nodes == 1 ? "" : "s");
        ret->at_us = in_its_way->at_s * HOLD_SECOND_US;
    }
    say_limit(ret, in_its_way->at_s - now_s);
}

void whyplan_explain(const struct state *state, const struct job *job, struct why *ret) {
    if (!order_backfills(state) || array_is(job) ||
        (strcmp(ret->code, "resources") != 0 && strcmp(ret->code, "behind") != 0))
        return;
    _cleanup_(backfill_freep) struct backfill *b = backfill_new();
    _cleanup_(room_freep) struct room *room = room_new();
    struct place_scratch scratch = {0};
    const struct job *ahead;

    room_follow(room, state);
    enum whyplan_verdict verdict = whyplan_lead(b, state, room, job, &scratch, &ahead);
    if (verdict == WHYPLAN_PLANNED) {
        struct backfill_planned plan = backfill_planned(b, backfill_n_plans(b) - 1);
        planned(ret, &plan);
    }
    if (verdict == WHYPLAN_PLANNED || verdict == WHYPLAN_WAITS)
        would_delay(b, state, job, &scratch, ret);
    place_scratch_free(&scratch);
}
