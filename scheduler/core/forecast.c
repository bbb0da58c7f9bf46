#include "scheduler/core/forecast.h"
#include "scheduler/core/order.h"
#include "scheduler/core/predict.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/quota.h"
#include "scheduler/core/room.h"

#define SECOND INT64_C(1000000)
#define HORIZON_US (INT64_C(60) * 24 * 3600 * SECOND)

enum {
    STEP_PART = 30, // a step is at most this part of the time since now,
    RUN_PART = 8,   // and of the mean run time: nodes do not stand idle for long within one
    ASKS_MAX = 16,  // searches for whom to ask in one step: each looks at all that runs
};

/* Something that holds nodes: an attempt of the state, or a job that starts in the forecast. */
struct holder {
    const struct job *job;
    int64_t end_us;  // by itself: its place in the heap
    int64_t left_us; // when it left, if it is gone
    bool foreseen;   // starts in the forecast: the policy knows nothing of it
    bool gone;
    struct place_need need;
    struct place_node *nodes;
};

struct waiter {
    const struct job *job;
    struct forecast_job *ret;
    bool started;
};

/* What reservations want of a node. */
struct reserve_part {
    int64_t reserve;   // number of the one that has it; 0: none
    int64_t coming_us; // when the next one takes it; 0: none does
};

struct forecast {
    struct state at; // the state, with another time: everything else is shared
    enum forecast_quantile quantile;
    int64_t now_us;
    struct room *room;
    struct place_scratch scratch;
    struct holder *holders;
    size_t n_holders, n_holders_max;
    size_t *heap; // holders by their end
    size_t n_heap;
    struct waiter *waiters;
    size_t n_waiters;
    size_t n_left;
    size_t first_left; // none before it is left
    uint64_t *too_big; // by slot of the shape: step in which it did not fit
    uint64_t step;
    int64_t n_runs, runs_us; // of those that started
    int n_asks;              // in this step
    bool blocked[GROUPS_MAX];
    bool blocked_in[RESERVES_MAX]; // within a reservation, by position
};

/* What a job asks for at the time that the forecast has come to: its reservation may be over. */
static struct place_need need_of(const struct forecast *f, const struct job *job) {
    struct place_need need = place_need_of(&f->at, job);
    const struct state_reserve *reserve =
        need.reserve ? state_reserve_find(&f->at, need.reserve) : NULL;

    if (reserve && reserve->until_us != S_ABSENT && reserve->until_us <= f->at.r.time_us)
        need.reserve = 0;
    return need;
}

/* ---- holders ---- */

static bool earlier(const struct forecast *f, size_t a, size_t b) {
    const struct holder *x = &f->holders[a], *y = &f->holders[b];

    return x->end_us < y->end_us || (x->end_us == y->end_us && x->job->r.id < y->job->r.id);
}

static void heap_push(struct forecast *f, size_t item) {
    size_t at = f->n_heap++;

    for (; at && earlier(f, item, f->heap[(at - 1) / 2]); at = (at - 1) / 2)
        f->heap[at] = f->heap[(at - 1) / 2];
    f->heap[at] = item;
}

static size_t heap_pop(struct forecast *f) {
    size_t first = f->heap[0], last = f->heap[--f->n_heap], at = 0;

    for (size_t child; (child = 2 * at + 1) < f->n_heap; at = child) {
        if (child + 1 < f->n_heap && earlier(f, f->heap[child + 1], f->heap[child]))
            child++;
        if (!earlier(f, f->heap[child], last))
            break;
        f->heap[at] = f->heap[child];
    }
    f->heap[at] = last;
    return first;
}

static struct holder *holder_add(struct forecast *f, const struct job *job, int64_t end_us) {
    if (f->n_holders == f->n_holders_max) {
        f->n_holders_max = MAX(2 * f->n_holders_max, (size_t)64);
        f->holders = hai_realloc_array(f->holders, f->n_holders_max, sizeof *f->holders);
        f->heap = hai_realloc_array(f->heap, f->n_holders_max, sizeof *f->heap);
    }
    struct holder *holder = &f->holders[f->n_holders++];
    *holder = (struct holder){.job = job, .end_us = end_us, .need = need_of(f, job)};
    holder->nodes = hai_new_array(struct place_node, (size_t)holder->need.nodes);
    return holder;
}

static int64_t rest_us(const struct forecast *f, const struct job *job, int64_t had_us) {
    struct predict_rest rest = predict_rest(&f->at, job, had_us);

    return f->quantile == FORECAST_P50 ? rest.p50_us : rest.p90_us;
}

/* When an attempt of the state leaves its nodes. */
static int64_t end_of(const struct forecast *f, const struct job *job) {
    int64_t had_us = job->r.ran_us + f->now_us - job->r.placed_us;

    if (job->r.phase == DESIRED_PHASE_TERM)
        return MAX(job->r.kill_at_us, f->now_us);
    if (job->r.phase == DESIRED_PHASE_KILL)
        return f->now_us + SECOND;
    return f->now_us + MAX(rest_us(f, job, had_us), SECOND);
}

static void add_running(struct forecast *f, const struct job *job) {
    struct holder *holder = holder_add(f, job, end_of(f, job));
    int64_t n = 0;

    for (size_t i = 0; i < job->r.allocs.n; i++) {
        const struct state_alloc *alloc = &job->r.allocs.items[i];
        if (!alloc->released)
            holder->nodes[n++] = (struct place_node){(int)alloc->node, (uint32_t)alloc->gpus};
    }
    holder->need.nodes = n;
    heap_push(f, f->n_holders - 1);
}

/* A claim is taken in the picture already: from when those who leave have left it is a job. */
static int64_t claim_start_us(const struct state *state, const struct job *job, int64_t *ret_last) {
    int64_t at_us = state->r.time_us;

    for (const struct job *one = state->live_first; one; one = one->live_next)
        for (size_t i = 0; one->r.phase == DESIRED_PHASE_TERM && i < one->r.allocs.n; i++)
            for (size_t k = 0; k < job->r.claim.n; k++)
                if (job->r.claim.items[k].node == one->r.allocs.items[i].node &&
                    one->r.kill_at_us >= at_us) {
                    at_us = one->r.kill_at_us;
                    *ret_last = one->r.id;
                }
    return at_us;
}

static void add_claimant(struct forecast *f, struct waiter *waiter) {
    const struct job *job = waiter->job;
    int64_t start_us = claim_start_us(&f->at, job, &waiter->ret->after);

    struct holder *holder = holder_add(f, job, start_us + rest_us(f, job, job->r.ran_us));
    for (size_t i = 0; i < job->r.claim.n; i++)
        holder->nodes[i] = (struct place_node){(int)job->r.claim.items[i].node,
                                               (uint32_t)job->r.claim.items[i].gpus};
    holder->foreseen = true;
    heap_push(f, f->n_holders - 1);
    waiter->ret->start_us = start_us;
    waiter->started = true;
    f->n_left--;
}

static void leave(struct forecast *f, struct holder *holder) {
    holder->gone = true;
    holder->left_us = MIN(holder->end_us, f->at.r.time_us);
    room_give(f->room, &f->at, &holder->need, holder->nodes);
}

/* ---- reservations ---- */

/* When the next one begins or ends. */
static int64_t next_reserve_us(const struct state *state) {
    int64_t at_us = INT64_MAX, now_us = state->r.time_us;

    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        if (reserve->from_us > now_us)
            at_us = MIN(at_us, reserve->from_us);
        else if (reserve->until_us != S_ABSENT && reserve->until_us > now_us)
            at_us = MIN(at_us, reserve->until_us);
    }
    return at_us;
}

/* Which reservation has each node at this time, and when the next one takes it. */
static struct reserve_part *parts_of(const struct state *state) {
    struct reserve_part *parts = hai_new_array(struct reserve_part, (size_t)MAX(state->n_nodes, 1));

    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        bool over = reserve->until_us != S_ABSENT && reserve->until_us <= state->r.time_us;
        for (size_t k = 0; k < reserve->nodes.n && !over; k++) {
            struct reserve_part *part = &parts[reserve->nodes.items[k]];
            if (reserve->from_us <= state->r.time_us)
                part->reserve = reserve->number;
            else if (!part->coming_us || reserve->from_us < part->coming_us)
                part->coming_us = reserve->from_us;
        }
    }
    return parts;
}

static bool belongs(const struct holder *holder, const struct reserve_part *parts) {
    for (int64_t i = 0; i < holder->need.nodes; i++) {
        int64_t reserve = parts[holder->nodes[i].node].reserve;
        if (reserve && reserve != holder->job->r.reserve)
            return false;
    }
    return true;
}

/* The time goes on: what begins takes its nodes, and who does not belong there leaves. */
static void go_to(struct forecast *f, int64_t at_us) {
    bool changes = at_us >= next_reserve_us(&f->at);

    f->at.r.time_us = at_us;
    room_time(f->room, at_us);
    if (!changes)
        return;
    _cleanup_free_ struct reserve_part *parts = parts_of(&f->at);
    for (int i = 0; i < f->at.n_nodes; i++)
        room_keep(f->room, i, parts[i].reserve, parts[i].coming_us);
    for (size_t i = 0; i < f->n_holders; i++) {
        struct holder *holder = &f->holders[i];
        if (!holder->gone && !belongs(holder, parts))
            leave(f, holder);
    }
}

/* ---- one step ---- */

/* Start the job on the nodes of the scratch. */
static void start(struct forecast *f, struct waiter *waiter) {
    const struct job *job = waiter->job;
    int64_t run_us = rest_us(f, job, job->r.ran_us);

    struct holder *holder = holder_add(f, job, f->at.r.time_us + run_us);
    f->n_runs++;
    f->runs_us += MIN(run_us, HORIZON_US);
    memcpy(holder->nodes, f->scratch.nodes, (size_t)holder->need.nodes * sizeof *holder->nodes);
    holder->foreseen = true;
    room_take(f->room, &f->at, &holder->need, holder->nodes);
    heap_push(f, f->n_holders - 1);
    waiter->ret->start_us = f->at.r.time_us;
    waiter->started = true;
    f->n_left--;
}

/* Who held a GPU of these nodes last. */
static int64_t last_on(const struct forecast *f, int64_t n_nodes) {
    const struct holder *last = NULL;

    for (size_t i = 0; i < f->n_holders; i++) {
        const struct holder *holder = &f->holders[i];
        bool shares = false;
        for (int64_t k = 0; holder->gone && !shares && k < holder->need.nodes; k++)
            for (int64_t n = 0; !shares && n < n_nodes; n++)
                shares = f->scratch.nodes[n].node == holder->nodes[k].node;
        if (shares && (!last || holder->left_us > last->left_us))
            last = holder;
    }
    return last ? last->job->r.id : 0;
}

static bool may_leave(const struct forecast *f, const struct holder *holder, const struct job *to,
                      enum order_way worst) {
    if (holder->gone || holder->foreseen)
        return false;
    enum order_way way = order_gives_way(&f->at, holder->job, to);
    return way != ORDER_STAYS && way <= worst;
}

static bool on_nodes(const struct holder *holder, const struct place_node *nodes, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < holder->need.nodes; k++)
            if (holder->nodes[k].node == nodes[i].node && holder->nodes[k].gpus & nodes[i].gpus)
                return true;
    return false;
}

/* Would the job rather wait for nodes under fewer leaves than those in the scratch? */
static bool waits_for_leaves(struct forecast *f, const struct job *job,
                             const struct place_need *need) {
    if (!order_waits_for_leaves(&f->at, job, INT64_MAX))
        return false;
    int64_t leaves = spread_of(&f->at, f->scratch.nodes, need->nodes).leaves;
    int64_t fewest = leaves > 1 ? room_fewest(f->room, &f->at, need, &f->scratch).leaves : leaves;
    return fewest && leaves > fewest && order_waits_for_leaves(&f->at, job, fewest);
}

/* Would it fit if all left that may be asked? Then those on the nodes found do leave. */
static bool make_room(struct forecast *f, struct waiter *waiter, enum order_way worst) {
    const struct job *job = waiter->job;
    struct place_need need = need_of(f, job);

    room_trial_begin(f->room);
    for (size_t i = 0; i < f->n_holders; i++)
        if (may_leave(f, &f->holders[i], job, worst))
            room_give(f->room, &f->at, &f->holders[i].need, f->holders[i].nodes);
    int r = room_find(f->room, &f->at, &need, &f->scratch);
    room_trial_end(f->room);
    if (r < 0 || waits_for_leaves(f, job, &need))
        return false;
    int64_t held = 0;
    for (size_t i = 0; i < f->n_holders; i++)
        if (may_leave(f, &f->holders[i], job, worst) &&
            on_nodes(&f->holders[i], f->scratch.nodes, need.nodes))
            held += order_gpus(f->holders[i].job);
    if (worst == ORDER_FOR_GAIN && held * 10 > order_gpus(job) * ORDER_GAIN_TENTHS)
        return false;
    for (size_t i = 0; i < f->n_holders; i++) {
        struct holder *holder = &f->holders[i];
        if (!may_leave(f, holder, job, worst) || !on_nodes(holder, f->scratch.nodes, need.nodes))
            continue;
        waiter->ret->after = holder->job->r.id;
        leave(f, holder);
    }
    return true;
}

static bool try_start(struct forecast *f, struct waiter *waiter, bool shares) {
    const struct job *job = waiter->job;
    struct place_need need = need_of(f, job);

    if (room_find(f->room, &f->at, &need, &f->scratch) == 0 && !waits_for_leaves(f, job, &need)) {
        if (f->at.r.time_us > f->now_us)
            waiter->ret->after = last_on(f, need.nodes);
        start(f, waiter);
        return true;
    }
    if (!shares || f->n_asks >= ASKS_MAX || !order_may_ask(&f->at, job))
        return false;
    f->n_asks++;
    if ((!make_room(f, waiter, ORDER_GIVES_WAY) && !make_room(f, waiter, ORDER_FOR_GAIN)))
        return false;
    start(f, waiter);
    return true;
}

static bool *blocked_by(struct forecast *f, const struct place_need *need) {
    if (!need->reserve)
        return &f->blocked[need->group];
    return &f->blocked_in[state_reserve_find(&f->at, need->reserve) - f->at.reserves];
}

/* All that waits, in order; what is like one that found no room finds none either. */
static void walk(struct forecast *f, bool shares) {
    memset(f->blocked, 0, sizeof f->blocked);
    memset(f->blocked_in, 0, sizeof f->blocked_in);
    f->step++;
    f->n_asks = 0;
    while (f->first_left < f->n_waiters && f->waiters[f->first_left].started)
        f->first_left++;
    for (size_t i = f->first_left; i < f->n_waiters; i++) {
        struct waiter *waiter = &f->waiters[i];
        const struct shape *shape = waiter->job->shape;
        if (waiter->started || (shape && f->too_big[shape->slot] == f->step))
            continue;
        struct place_need need = need_of(f, waiter->job);
        bool *blocked = blocked_by(f, &need);
        if (*blocked || try_start(f, waiter, shares))
            continue;
        if (shape)
            f->too_big[shape->slot] = f->step;
        *blocked = !shares && room_could(f->room, &f->at, &need, &f->scratch);
    }
}

/* The time of the next step. */
static int64_t next_us(const struct forecast *f, bool shares) {
    int64_t at_us = f->at.r.time_us;
    int64_t step_us = (at_us - f->now_us) / STEP_PART;
    if (f->n_runs)
        step_us = MIN(step_us, f->runs_us / f->n_runs / RUN_PART);
    int64_t least_us = at_us + MAX(step_us, SECOND);
    int64_t next_us = f->n_heap ? f->holders[f->heap[0]].end_us : INT64_MAX;

    if (shares) // whoever waits may ask then
        next_us = MIN(next_us, MAX(order_next_look_us(&f->at), least_us));
    next_us = MIN(next_us, next_reserve_us(&f->at));
    return next_us == INT64_MAX ? next_us : MAX(next_us, least_us);
}

static bool is_done(const struct forecast *f, int64_t only) {
    for (size_t i = f->first_left; only && i < f->n_waiters; i++)
        if (f->waiters[i].job->r.id == only)
            return f->waiters[i].started;
    return !f->n_left || only;
}

static void lead_on(struct forecast *f, int64_t only) {
    bool shares = order_shares(&f->at);

    for (walk(f, shares); !is_done(f, only); walk(f, shares)) {
        int64_t at_us = next_us(f, shares);
        if (at_us > f->now_us + HORIZON_US)
            return;
        go_to(f, at_us);
        while (f->n_heap && f->holders[f->heap[0]].end_us <= at_us) {
            struct holder *holder = &f->holders[heap_pop(f)];
            if (!holder->gone)
                leave(f, holder);
        }
    }
}

/* ---- begin and end ---- */

static void add_waiters(struct forecast *f, const struct state *state, const struct job *extra,
                        struct forecast_job *all) {
    struct queue_walk line = {0};
    size_t n = 0;

    queue_walk_begin(&line, state);
    for (const struct job *job = queue_walk_next(&line); job || extra;) {
        const struct job *next = extra && (!job || queue_before(extra, job)) ? extra : job;
        all[n] = (struct forecast_job){next->r.id, INT64_MAX, 0};
        f->waiters[n] = (struct waiter){next, &all[n], false};
        n++;
        if (next == extra)
            extra = NULL;
        else
            job = queue_walk_next(&line);
    }
    queue_walk_end(&line);
    f->n_waiters = f->n_left = n;
}

size_t forecast_run(const struct state *state, int64_t now_us, enum forecast_quantile quantile,
                    int64_t only, const struct job *extra, struct forecast_job **ret) {
    size_t n_max = (size_t)state->queue.n + 1;
    struct forecast f = {.at = *state,
                         .quantile = quantile,
                         .now_us = MAX(now_us, state->r.time_us),
                         .room = room_new(),
                         .waiters = hai_new_array(struct waiter, n_max),
                         .too_big = hai_new_array(uint64_t, state->queue.n_slots + 1)};

    if (extra && quota_bars(state, extra)) // nobody knows when it would be within quota
        extra = NULL;
    *ret = hai_new_array(struct forecast_job, n_max);
    f.at.r.time_us = f.now_us;
    room_follow(f.room, &f.at);
    for (const struct job *job = state->live_first; job; job = job->live_next)
        add_running(&f, job);
    add_waiters(&f, state, extra, *ret);
    for (size_t i = 0; i < f.n_waiters; i++)
        if (f.waiters[i].job->r.claim.n)
            add_claimant(&f, &f.waiters[i]);
    if (f.now_us > state->r.time_us) { // what began meanwhile
        f.at.r.time_us = state->r.time_us;
        go_to(&f, f.now_us);
    }
    lead_on(&f, only);
    for (size_t i = 0; i < f.n_holders; i++)
        free(f.holders[i].nodes);
    free(f.holders);
    free(f.heap);
    free(f.waiters);
    free(f.too_big);
    place_scratch_free(&f.scratch);
    room_free(f.room);
    return f.n_waiters;
}
