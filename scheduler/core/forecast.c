#include "scheduler/core/forecast.h"
#include "scheduler/core/array.h"
#include "scheduler/core/arrivals.h"
#include "scheduler/core/eligible.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/later.h"
#include "scheduler/core/order.h"
#include "scheduler/core/predict.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/quota.h"
#include "scheduler/core/reserve.h"
#include "scheduler/core/room.h"
#include "scheduler/core/waits.h"

#define SECOND INT64_C(1000000)
#define HORIZON_US (INT64_C(60) * 24 * 3600 * SECOND)

enum {
    ARRIVALS_MAX = 4096, // submissions to come; what would come later is left out
    RETURNS_MAX = 16384, // of those that gave way; so are later ones
    STEP_PART = 30,      // a step is at most this part of the time since now,
    RUN_PART = 8,        // and of the mean run time: nodes do not stand idle for long within one
    ASKS_MAX = 16,       // searches for whom to ask in one step: each looks at all that runs
};

/* Something that holds nodes: an attempt of the state, or a job that starts in the forecast. */
struct holder {
    const struct job *job;
    int64_t since_us; // when it started
    int64_t end_us;   // by itself: its place in the heap, so it stays as it is
    int64_t left_us;  // when it left, if it is gone
    bool foreseen;    // starts in the forecast: the policy knows nothing of it
    bool gone;
    bool gave_way; // in this step: it has not joined the line again
    struct place_need need;
    struct place_node *nodes;
};

struct waiter {
    const struct job *job;
    struct forecast_job *ret; // NULL: nobody asks for it
    int64_t rest_us;          // -1: predicted
    int64_t joined_us;        // when it came to the line
    size_t kind;
    bool started;
};

/* Jobs that ask for the same: those of a shape in the queue at its slot, others behind all slots.
 */
struct kind {
    struct place_need need; // of others
    uint64_t too_big;       // step in which it did not fit
    int64_t fewest;         // leaves under which it would lie if all were idle
    uint64_t service;       // of the room when that was found
    int64_t ask_us;         // not before: decide.c lets one of a shape ask in each look
};

/* A job as the forecast imagines it: one that will be submitted, or gave way and waits again. */
struct imagined {
    struct job job;
    struct imagined *next;
};

struct forecast {
    struct state at; // the state, with another time: everything else is shared
    int draw;
    int64_t now_us;
    struct room *room;
    struct place_scratch scratch;
    struct holder *holders;
    size_t n_holders, n_holders_max;
    size_t n_running; // the first ones: attempts of the state
    size_t *heap;     // holders by their end
    size_t *left;     // by node: who left it last, + 1
    size_t n_heap;
    struct waiter *waiters;
    size_t n_waiters, n_waiters_max;
    size_t n_left; // of those that are asked for
    size_t n_open; // of all: in line
    struct arrivals_walk arrivals;
    struct later *later;
    struct forecast_job *later_rets; // of those
    int n_arrived, n_returned;
    struct imagined *imagined;
    size_t first_left; // none before it is left
    size_t n_gave_way; // in this step
    struct kind *kinds;
    size_t n_kinds;
    int64_t look_us;   // from one look to the next
    int64_t before_us; // time of the step before
    uint64_t step;
    int64_t n_runs, runs_us;          // of those that started
    int n_asks;                       // in this step
    struct order_blocked blocked;     // in this step
    int64_t unblocked_us[GROUPS_MAX]; // when the job that blocks a group can start
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

static struct holder *holder_add(struct forecast *f, const struct job *job, int64_t since_us,
                                 int64_t end_us) {
    if (f->n_holders == f->n_holders_max) {
        f->n_holders_max = MAX(2 * f->n_holders_max, (size_t)64);
        f->holders = hai_realloc_array(f->holders, f->n_holders_max, sizeof *f->holders);
        f->heap = hai_realloc_array(f->heap, f->n_holders_max, sizeof *f->heap);
    }
    struct holder *holder = &f->holders[f->n_holders++];
    *holder = (struct holder){
        .job = job, .since_us = since_us, .end_us = end_us, .need = need_of(f, job)};
    holder->nodes = hai_new_array(struct place_node, (size_t)holder->need.nodes);
    return holder;
}

/* How long a job still runs in this draw. Over the draws a job goes evenly through its quantiles,
 * and so do the jobs of one draw: of many alike some end soon, as in life. */
static int64_t rest_us(const struct forecast *f, const struct job *job, int64_t had_us) {
    uint64_t spread = (uint64_t)job->r.id * UINT64_C(0x9e3779b97f4a7c15) >> 32; // golden ratio
    uint64_t part = (spread + ((uint64_t)f->draw << 32) / FORECAST_DRAWS) & UINT32_MAX;

    return predict_rest_us(&f->at, job, had_us, 1 + (int64_t)(part * 998 >> 32));
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
    struct holder *holder = holder_add(f, job, job->r.placed_us, end_of(f, job));
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

    struct holder *holder = holder_add(f, job, start_us, start_us + rest_us(f, job, job->r.ran_us));
    for (size_t i = 0; i < job->r.claim.n; i++)
        holder->nodes[i] = (struct place_node){(int)job->r.claim.items[i].node,
                                               (uint32_t)job->r.claim.items[i].gpus};
    holder->foreseen = true;
    heap_push(f, f->n_holders - 1);
    waiter->ret->start_us = start_us;
    waiter->started = true;
    f->n_open--;
    later_started(f->later, job);
    f->n_left--;
}

static void leave(struct forecast *f, struct holder *holder) {
    holder->gone = true;
    holder->left_us = MIN(holder->end_us, f->at.r.time_us);
    for (int64_t i = 0; i < holder->need.nodes; i++)
        f->left[holder->nodes[i].node] = (size_t)(holder - f->holders) + 1;
    room_give(f->room, &f->at, &holder->need, holder->nodes);
}

/* ---- one step ---- */

/* Start the job on the nodes of the scratch. */
static void start(struct forecast *f, struct waiter *waiter) {
    const struct job *job = waiter->job;
    int64_t run_us = waiter->rest_us >= 0 ? waiter->rest_us : rest_us(f, job, job->r.ran_us);

    struct holder *holder = holder_add(f, job, f->at.r.time_us, f->at.r.time_us + run_us);
    f->n_runs++;
    f->runs_us += MIN(run_us, HORIZON_US);
    memcpy(holder->nodes, f->scratch.nodes, (size_t)holder->need.nodes * sizeof *holder->nodes);
    holder->foreseen = true;
    room_take(f->room, &f->at, &holder->need, holder->nodes);
    heap_push(f, f->n_holders - 1);
    waiter->started = true;
    f->n_open--;
    later_started(f->later, job);
    if (!waiter->ret)
        return;
    waiter->ret->start_us = f->at.r.time_us;
    f->n_left--;
}

/* Who of those that left these nodes did so last, in this step; 0: nobody, or
 * one that is imagined. */
static int64_t last_on(const struct forecast *f, int64_t n_nodes) {
    const struct holder *last = NULL;

    for (int64_t n = 0; n < n_nodes; n++) {
        size_t left = f->left[f->scratch.nodes[n].node];
        const struct holder *holder = left ? &f->holders[left - 1] : NULL;
        if (holder && holder->left_us > f->before_us && (!last || holder->left_us > last->left_us))
            last = holder;
    }
    return last && last->job->r.id < f->at.r.next_job ? last->job->r.id : 0;
}

static bool may_leave(const struct forecast *f, const struct holder *holder,
                      const struct order_asker *to, enum order_way worst) {
    if (holder->gone || holder->foreseen || !order_runs(holder->job))
        return false;
    struct order_view view = order_view_of(&f->at, holder->job);
    enum order_way way = order_answer(&view, to);
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
static bool waits_for_leaves(struct forecast *f, const struct waiter *waiter,
                             const struct place_need *need) {
    struct kind *kind = &f->kinds[waiter->kind];

    if (need->nodes == 1 || !order_waits_for_leaves(&f->at, waiter->job, INT64_MAX))
        return false;
    int64_t leaves = spread_of(&f->at, f->scratch.nodes, need->nodes).leaves;
    if (leaves == 1)
        return false;
    if (kind->service != room_service(f->room)) {
        kind->service = room_service(f->room);
        kind->fewest = room_fewest(f->room, &f->at, need, &f->scratch).leaves;
    }
    return kind->fewest && leaves > kind->fewest &&
           order_waits_for_leaves(&f->at, waiter->job, kind->fewest);
}

/* Would it fit if all left that may be asked? Then those on the nodes found do leave. */
static bool make_room(struct forecast *f, struct waiter *waiter, const struct place_need *need,
                      enum order_way worst) {
    struct order_asker asker = order_asker_of(&f->at, waiter->job);

    room_trial_begin(f->room);
    for (size_t i = 0; i < f->n_running; i++)
        if (may_leave(f, &f->holders[i], &asker, worst))
            room_give(f->room, &f->at, &f->holders[i].need, f->holders[i].nodes);
    int r = room_find(f->room, &f->at, need, &f->scratch);
    room_trial_end(f->room);
    if (r < 0 || waits_for_leaves(f, waiter, need))
        return false;
    int64_t held = 0;
    for (size_t i = 0; i < f->n_running; i++)
        if (may_leave(f, &f->holders[i], &asker, worst) &&
            on_nodes(&f->holders[i], f->scratch.nodes, need->nodes))
            held += order_gpus(f->holders[i].job);
    if (worst == ORDER_FOR_GAIN && held * 10 > asker.view.gpus * ORDER_GAIN_TENTHS)
        return false;
    for (size_t i = 0; i < f->n_running; i++) {
        struct holder *holder = &f->holders[i];
        if (!may_leave(f, holder, &asker, worst) ||
            !on_nodes(holder, f->scratch.nodes, need->nodes))
            continue;
        holder->gave_way = true;
        f->n_gave_way++;
        if (waiter->ret)
            waiter->ret->after = holder->job->r.id;
        leave(f, holder);
    }
    return true;
}

/* ---- who comes ---- */

static struct job *imagine(struct forecast *f, struct job job) {
    struct imagined *one = hai_new(struct imagined);

    *one = (struct imagined){job, f->imagined};
    f->imagined = one;
    return &one->job;
}

/* The kind may move the others: hold no pointer to one meanwhile. */
static size_t kind_of(struct forecast *f, const struct job *job) {
    struct place_need need = need_of(f, job);
    int length = order_backfills(&f->at) ? hold_length(job->hold_s) : 0;
    const struct shape *shape = job->shape ? job->shape : queue_shape(&f->at, &need, length);

    if (shape)
        return (size_t)shape->slot;
    for (size_t i = f->at.queue.n_slots; i < f->n_kinds; i++)
        if (queue_same_need(&f->kinds[i].need, &need))
            return i;
    f->kinds = hai_realloc_array(f->kinds, f->n_kinds + 1, sizeof *f->kinds);
    f->kinds[f->n_kinds] = (struct kind){.need = need};
    return f->n_kinds++;
}

/* It takes its place in the line. Not within a walk. */
static void join(struct forecast *f, const struct job *job, struct forecast_job *ret,
                 int64_t rest_us) {
    size_t at = f->n_waiters, low = 0;

    while (low < at) {
        size_t middle = low + (at - low) / 2;
        if (queue_before(f->waiters[middle].job, job))
            low = middle + 1;
        else
            at = middle;
    }
    if (f->n_waiters == f->n_waiters_max) {
        f->n_waiters_max = 2 * f->n_waiters_max;
        f->waiters = hai_realloc_array(f->waiters, f->n_waiters_max, sizeof *f->waiters);
    }
    memmove(f->waiters + at + 1, f->waiters + at, (f->n_waiters - at) * sizeof *f->waiters);
    f->waiters[at] = (struct waiter){job, ret, rest_us, f->at.r.time_us, kind_of(f, job), false};
    f->n_waiters++;
    f->n_open++;
    f->first_left = MIN(f->first_left, at);
}

/* What is submitted up to now. */
static void arrive(struct forecast *f) {
    while (arrivals_next_us(&f->arrivals) <= f->at.r.time_us && f->n_arrived < ARRIVALS_MAX) {
        int64_t id = INT64_MAX - ARRIVALS_MAX + f->n_arrived++;
        join(f, imagine(f, arrivals_take(&f->arrivals, &f->at, id)), NULL, -1);
    }
}

/* Whose time has come, and for whom what they waited for has ended. Did any join? */
static bool join_later(struct forecast *f) {
    size_t before = f->n_waiters;
    struct job job;
    size_t i;
    int64_t ahead;

    while (later_take(f->later, f->at.r.time_us, &job, &i, &ahead)) {
        struct forecast_job *ret = i == SIZE_MAX ? NULL : &f->later_rets[i];
        if (ret)
            ret->after = ahead;
        join(f, imagine(f, job), ret, -1);
    }
    return f->n_waiters > before;
}

/* One that gave way waits again, unless it was about to end. */
static void wait_again(struct forecast *f, struct holder *holder) {
    struct job job = *holder->job;
    int64_t now_us = f->at.r.time_us;

    holder->gave_way = false;
    if (f->n_returned == RETURNS_MAX || holder->end_us <= now_us ||
        (!holder->foreseen && job.r.phase != DESIRED_PHASE_RUN))
        return;
    job.r.ran_us += MAX(now_us - holder->since_us, 0);
    job.r.since_us = now_us;
    job.r.attempt = MAX(job.r.attempt, 1);
    job.r.state = JOB_STATE_SUSPENDED;
    later_line_up(&f->at, &job);
    f->n_returned++;
    join(f, imagine(f, job), NULL, holder->end_us - now_us + ORDER_RESTART_US);
}

/* ---- reservations ---- */

static bool belongs(const struct holder *holder, const struct reserve_part *parts) {
    for (int64_t i = 0; i < holder->need.nodes; i++) {
        int64_t reserve = parts[holder->nodes[i].node].reserve;
        if (reserve && reserve != holder->job->r.reserve)
            return false;
    }
    return true;
}

/* Who ends by the time leaves, and others may wait for just that. One that was on its way out of
 * its nodes has not ended, but if it was to stop. */
static void end_due(struct forecast *f) {
    while (f->n_heap && f->holders[f->heap[0]].end_us <= f->at.r.time_us) {
        struct holder *holder = &f->holders[heap_pop(f)];
        const struct state_job *r = &holder->job->r;
        if (holder->gone)
            continue;
        leave(f, holder);
        if (holder->foreseen || r->phase == DESIRED_PHASE_RUN || r->wanted == WANTED_STOP)
            later_ended(f->later, holder->job);
    }
}

/* The time goes on: who is done leaves; what begins takes its nodes, and who does not belong there
 * leaves and waits again. */
static void go_to(struct forecast *f, int64_t at_us) {
    bool changes = at_us >= reserve_next_us(&f->at);

    f->at.r.time_us = at_us;
    room_time(f->room, at_us);
    end_due(f);
    if (!changes)
        return;
    _cleanup_free_ struct reserve_part *parts = reserve_parts(&f->at);
    for (int i = 0; i < f->at.n_nodes; i++)
        room_keep(f->room, i, parts[i].reserve, parts[i].coming_us);
    for (size_t i = 0; i < f->n_holders; i++) {
        struct holder *holder = &f->holders[i];
        bool ends = !holder->foreseen && holder->job->r.phase != DESIRED_PHASE_RUN; // already
        if (holder->gone || ends || belongs(holder, parts))
            continue;
        leave(f, holder);
        wait_again(f, holder);
    }
}

static int compare_ends(const void *pa, const void *pb) {
    const struct holder *a = *(const struct holder *const *)pa;
    const struct holder *b = *(const struct holder *const *)pb;

    return a->end_us < b->end_us ? -1 : a->end_us > b->end_us;
}

/* Is there room for the job when the first n of them have left? */
static bool fits_after(struct forecast *f, const struct place_need *need,
                       const struct holder **holders, size_t n) {
    room_trial_begin(f->room);
    for (size_t i = 0; i < n; i++)
        room_give(f->room, &f->at, &holders[i]->need, holders[i]->nodes);
    bool fits = room_find(f->room, &f->at, need, &f->scratch) == 0;
    room_trial_end(f->room);
    return fits;
}

/* When a blocked job can start by when those who hold nodes end; INT64_MAX: never. */
static int64_t unblocked_us(struct forecast *f, const struct job *job) {
    _cleanup_free_ const struct holder **holders =
        hai_new_array(const struct holder *, f->n_holders + 1);
    struct place_need need = need_of(f, job);
    size_t n = 0, low = 0;

    for (size_t i = 0; i < f->n_holders; i++)
        if (!f->holders[i].gone)
            holders[n++] = &f->holders[i];
    if (n > 1)
        qsort(holders, n, sizeof(*holders), compare_ends);
    if (!n || !fits_after(f, &need, holders, n))
        return INT64_MAX;
    for (size_t high = n; high - low > 1;) { // after low it does not fit
        size_t middle = low + (high - low) / 2;
        if (fits_after(f, &need, holders, middle))
            high = n = middle;
        else
            low = middle;
    }
    return holders[n - 1]->end_us;
}

/* Strict order: the job's group is blocked, but for those who have ended before this one can start
 * (backfill.h plans more than one, and nodes that none needs: this is the part that matters most).
 */
static void block(struct forecast *f, const struct job *job, const struct place_need *need) {
    bool *blocked = order_blocked(&f->blocked, &f->at, need);

    if (*blocked || !room_could(f->room, &f->at, need, &f->scratch))
        return;
    *blocked = true;
    if (!need->reserve)
        f->unblocked_us[need->group] = order_backfills(&f->at) ? unblocked_us(f, job) : INT64_MAX;
}

static bool may_pass(struct forecast *f, const struct waiter *waiter,
                     const struct place_need *need) {
    const struct job *job = waiter->job;
    int64_t hold_s = waiter->rest_us < 0 ? job->hold_s : waiter->rest_us / SECOND;

    return !*order_blocked(&f->blocked, &f->at, need) ||
           (!need->reserve && f->unblocked_us[job->group] != INT64_MAX &&
            (f->unblocked_us[job->group] - f->at.r.time_us) / SECOND >= hold_s);
}

/* ---- who starts ---- */

static bool try_start(struct forecast *f, struct waiter *waiter, const struct place_need *need,
                      bool shares) {
    if (room_find(f->room, &f->at, need, &f->scratch) == 0 && !waits_for_leaves(f, waiter, need)) {
        int64_t after = f->at.r.time_us > waiter->joined_us ? last_on(f, need->nodes) : 0;
        if (waiter->ret && after)
            waiter->ret->after = after;
        start(f, waiter);
        return true;
    }
    struct kind *kind = &f->kinds[waiter->kind];
    if (!shares || f->n_asks >= ASKS_MAX || f->at.r.time_us < kind->ask_us ||
        !order_may_ask(&f->at, waiter->job))
        return false;
    f->n_asks++;
    kind->ask_us = MAX(kind->ask_us, f->before_us) + f->look_us;
    if (!make_room(f, waiter, need, ORDER_GIVES_WAY) && !make_room(f, waiter, need, ORDER_FOR_GAIN))
        return false;
    start(f, waiter);
    return true;
}

/* All that waits, in order; what is like one that found no room finds none either. */
static void walk(struct forecast *f, bool shares) {
    f->blocked = (struct order_blocked){0};
    f->step++;
    f->n_asks = 0;
    while (f->first_left < f->n_waiters && f->waiters[f->first_left].started)
        f->first_left++;
    for (size_t i = f->first_left; i < f->n_waiters; i++) {
        struct waiter *waiter = &f->waiters[i];
        struct kind *kind = &f->kinds[waiter->kind];
        if (waiter->started || kind->too_big == f->step)
            continue;
        struct place_need need = need_of(f, waiter->job);
        if (!may_pass(f, waiter, &need) || try_start(f, waiter, &need, shares))
            continue;
        f->kinds[waiter->kind].too_big = f->step;
        if (!shares)
            block(f, waiter->job, &need);
    }
    for (size_t i = 0; f->n_gave_way && i < f->n_running; i++)
        if (f->holders[i].gave_way)
            wait_again(f, &f->holders[i]);
    f->n_gave_way = 0;
}

/* The time of the next step. */
static int64_t next_us(const struct forecast *f, bool shares) {
    int64_t at_us = f->at.r.time_us;
    int64_t step_us = (at_us - f->now_us) / STEP_PART;
    if (f->n_runs)
        step_us = MIN(step_us, f->runs_us / f->n_runs / RUN_PART);
    int64_t least_us = at_us + MAX(step_us, SECOND);
    int64_t next_us = f->n_heap ? f->holders[f->heap[0]].end_us : INT64_MAX;

    if (f->n_arrived < ARRIVALS_MAX)
        next_us = MIN(next_us, arrivals_next_us(&f->arrivals));
    next_us = MIN(next_us, later_next_us(f->later));
    if (shares && f->n_open) // whoever waits may ask then
        next_us = MIN(next_us, MAX(order_next_look_us(&f->at), least_us));
    next_us = MIN(next_us, reserve_next_us(&f->at));
    return next_us == INT64_MAX ? next_us : MAX(next_us, least_us);
}

static bool is_done(const struct forecast *f, const struct forecast_job *only) {
    return only ? only->start_us != INT64_MAX : !f->n_left;
}

/* Who starts now. An array lets more elements come when some have started. */
static void start_now(struct forecast *f, bool shares) {
    do
        walk(f, shares);
    while (join_later(f));
}

static void lead_on(struct forecast *f, const struct forecast_job *only) {
    bool shares = order_shares(&f->at);

    (void)join_later(f);
    for (start_now(f, shares); !is_done(f, only); start_now(f, shares)) {
        int64_t at_us = next_us(f, shares);
        if (at_us > f->now_us + HORIZON_US)
            return;
        f->before_us = f->at.r.time_us;
        go_to(f, at_us);
        arrive(f);
        (void)join_later(f);
    }
}

/* ---- begin and end ---- */

static bool stands_in_line(const struct state *state, const struct job *extra) {
    return extra && !array_is(extra) && eligible(state, extra);
}

static void add_waiters(struct forecast *f, const struct state *state, const struct job *extra,
                        struct forecast_job *all) {
    struct queue_walk line = {0};
    size_t n = 0;

    if (!stands_in_line(state, extra))
        extra = NULL;
    queue_walk_begin(&line, state);
    for (const struct job *job = queue_walk_next(&line); job || extra;) {
        const struct job *next = extra && (!job || queue_before(extra, job)) ? extra : job;
        all[n] = (struct forecast_job){.id = next->r.id, .start_us = INT64_MAX};
        f->waiters[n] = (struct waiter){next, &all[n], -1, f->now_us, kind_of(f, next), false};
        n++;
        if (next == extra)
            extra = NULL;
        else
            job = queue_walk_next(&line);
    }
    queue_walk_end(&line);
    f->n_waiters = f->n_open = n;
    f->later_rets = all + n;
    for (size_t i = 0; i < later_count(f->later); i++)
        all[n + i] = (struct forecast_job){.id = later_id(f->later, i), .start_us = INT64_MAX};
    f->n_left = n + later_count(f->later);
}

static void begin(struct forecast *f, const struct arrivals *arrivals) {
    f->room = room_new();
    f->left = hai_new_array(size_t, (size_t)f->at.n_nodes + 1);
    f->kinds = hai_new_array(struct kind, f->at.queue.n_slots + 1);
    f->n_kinds = f->at.queue.n_slots;
    f->n_waiters_max = (size_t)f->at.queue.n + 1;
    f->waiters = hai_new_array(struct waiter, f->n_waiters_max);
    if (order_shares(&f->at)) {
        f->at.r.time_us = order_next_look_us(&f->at);
        f->look_us = order_next_look_us(&f->at) - f->at.r.time_us;
    }
    f->at.r.time_us = f->now_us;
    arrivals_begin(&f->arrivals, arrivals, f->now_us, f->draw, FORECAST_DRAWS);
    room_follow(f->room, &f->at);
    for (const struct job *job = f->at.live_first; job; job = job->live_next)
        add_running(f, job);
    f->n_running = f->n_holders;
}

static void end(struct forecast *f) {
    for (size_t i = 0; i < f->n_holders; i++)
        free(f->holders[i].nodes);
    while (f->imagined) {
        struct imagined *one = f->imagined;
        f->imagined = one->next;
        free(one);
    }
    free(f->holders);
    free(f->heap);
    free(f->left);
    free(f->waiters);
    free(f->kinds);
    later_free(f->later);
    place_scratch_free(&f->scratch);
    room_free(f->room);
}

/* Where the job is in what is asked for; NULL: nowhere. */
static const struct forecast_job *find(const struct forecast_job *all, size_t n, int64_t id) {
    for (size_t i = 0; i < n; i++)
        if (all[i].id == id)
            return &all[i];
    return NULL;
}

/* What the draws have in common. */
struct question {
    const struct state *state;
    int64_t now_us, only;
    const struct job *extra;
    struct arrivals arrivals;
};

/* The caller frees *ret: one for each that is asked for, those that stand in line (ret_in_line)
 * first. */
static size_t run_draw(const struct question *q, int draw, struct forecast_job **ret,
                       size_t *ret_in_line) {
    struct forecast f = {.at = *q->state, .now_us = q->now_us, .draw = draw};
    const struct forecast_job *only = NULL;

    f.later = later_new(q->state, q->extra);
    size_t n_max = (size_t)q->state->queue.n + 1 + later_count(f.later);
    *ret = hai_new_array(struct forecast_job, n_max);
    begin(&f, &q->arrivals);
    add_waiters(&f, q->state, q->extra, *ret);
    size_t n = f.n_left;
    *ret_in_line = f.n_waiters;
    for (size_t i = 0; i < *ret_in_line; i++)
        if (f.waiters[i].job->r.claim.n)
            add_claimant(&f, &f.waiters[i]);
    if (f.now_us > q->state->r.time_us) { // what began meanwhile
        f.at.r.time_us = q->state->r.time_us;
        go_to(&f, f.now_us);
    }
    if (q->only)
        only = find(*ret, n, q->only);
    if (!q->only || only)
        lead_on(&f, only);
    end(&f);
    return n;
}

static int sooner(const void *pa, const void *pb) {
    const struct forecast_job *a = pa, *b = pb;

    return a->start_us < b->start_us ? -1 : a->start_us > b->start_us;
}

/* What the draws say of one job, and one more from how long those like it waited: a draw of five
 * knows nothing of what was off in all that came before. own: in any order, with room for it. */
static struct forecast_job sum_up(struct forecast_job own[static FORECAST_DRAWS + 1],
                                  int64_t waits_us) {
    size_t n = FORECAST_DRAWS;

    qsort(own, n, sizeof *own, sooner);
    if (waits_us != INT64_MAX) {
        own[n] = own[(n - 1) / 2];
        own[n++].start_us = waits_us;
        qsort(own, n, sizeof *own, sooner);
    }
    struct forecast_job sum = own[(n - 1) / 2];
    sum.late_us = own[(n * 9 + 9) / 10 - 1].start_us;
    return sum;
}

size_t forecast_run(const struct state *state, int64_t now_us, int64_t only,
                    const struct job *extra, struct forecast_job **ret) {
    struct question q = {
        .state = state, .now_us = MAX(now_us, state->r.time_us), .only = only, .extra = extra};
    struct forecast_job *draws[FORECAST_DRAWS], own[FORECAST_DRAWS + 1];
    size_t n = 0, n_in_line = 0;

    if (extra && quota_bars(state, extra)) // nobody knows when it would be within quota
        q.extra = NULL;
    arrivals_of(state, q.now_us, &q.arrivals);
    for (int draw = 0; draw < FORECAST_DRAWS; draw++)
        n = run_draw(&q, draw, &draws[draw], &n_in_line);
    *ret = hai_new_array(struct forecast_job, n + 1);
    struct waits *waits = waits_new(state);
    for (size_t i = 0; i < n; i++) {
        for (size_t draw = 0; draw < FORECAST_DRAWS; draw++)
            own[draw] = draws[draw][i];
        const struct job *job = state_job_find(state, own[0].id);
        int64_t waits_us =
            i < n_in_line ? waits_start_us(waits, state, job ? job : extra, q.now_us) : INT64_MAX;
        (*ret)[i] = sum_up(own, waits_us);
    }
    waits_free(waits);
    for (size_t draw = 0; draw < FORECAST_DRAWS; draw++)
        free(draws[draw]);
    return n;
}
