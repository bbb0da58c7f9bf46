#include "scheduler/core/decide.h"
#include "lib/pure/plant.h"
#include "lib/pure/tlv.h"
#include "scheduler/core/backfill.h"
#include "scheduler/core/claim.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/order.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/victims.h"

/* What is known of a shape, as long as nothing more is free in its group than then. */
struct memo {
    uint64_t serial; // of the shape
    uint64_t freed;  // of its group
    uint64_t cluster_seq;
    bool too_big;      // there is no room for it now
    int hopeless;      // nor would there be if the nodes in service were idle; -1: not looked at
    int64_t hoped_us;  // not hopeless: until a reservation comes nearer
    int64_t first_us;  // when the first in line may try to make room again
    int64_t urgent_us; // the same of the one that has waited for too long
    int64_t none_us;   // nobody has before then,
    uint64_t n_late;   // as long as the shape has this number
    uint64_t looked;   // the run in which it was looked for who has waited longest:
    const struct job *longest;
    bool scattered;     // there is room, but under more leaves than it need lie
    uint64_t n_touched; // of the state, when that was found
    uint64_t service;   // of the room, when the next was looked at
    int64_t fewest;     // leaves it would lie under if all were idle
};

/* When a run found nothing to do; another finds nothing either as long as these stay. */
struct idle {
    bool is;
    uint64_t changes; // of the queue
    uint64_t freed;   // of all groups
    uint64_t cluster_seq;
    int64_t until_us; // time-sharing: look again
    /* Some wait for leaves, and a node that goes out of service may end that; or for a planned
     * start, which moves as those who run turn out longer. */
    bool held;
    uint64_t n_touched; // of the state
};

/* A search looks at all that runs: what is left over is searched for in the next run. */
enum { ASKS_MAX = 16 };

struct decide {
    struct place_scratch scratch;
    struct room *room;
    struct victims victims;
    struct memo *memos; // by slot of the shape
    size_t n_memos;
    struct queue_walk walk;
    struct backfill *backfill;
    struct order_blocked blocked; // in this run
    int n_asks;                   // searches for victims in this run
    bool unfinished;              // the last run left searches over
    uint64_t n_runs;
    bool holds;                // the last one that was tried has room, but waits for leaves
    bool one_apart;            // this run proposed a job that keeps apart
    int64_t held_until_us;     // when the first of those that wait for leaves has waited enough
    int n_planned[GROUPS_MAX]; // in this run: blocked jobs with a planned start
    struct idle idle;
};

struct decide *decide_new(void) {
    struct decide *d = hai_new(struct decide);

    d->room = room_new();
    d->backfill = backfill_new();
    return d;
}

void decide_free(struct decide *d) {
    if (!d)
        return;
    place_scratch_free(&d->scratch);
    room_free(d->room);
    backfill_free(d->backfill);
    victims_free(&d->victims);
    queue_walk_end(&d->walk);
    free(d->memos);
    free(d);
}

void decide_list_clear(struct decide_list *list) {
    for (size_t i = 0; i < list->n; i++)
        buf_free(&list->items[i].payload);
    list->n = 0;
}

void decide_list_free(struct decide_list *list) {
    decide_list_clear(list);
    free(list->items);
    *list = (struct decide_list){0};
}

static struct decide_proposal *list_add(struct decide_list *list) {
    if (list->n == list->n_max) {
        list->n_max = MAX(2 * list->n_max, (size_t)16);
        list->items = hai_realloc_array(list->items, list->n_max, sizeof *list->items);
    }
    list->items[list->n] = (struct decide_proposal){0};
    return &list->items[list->n++];
}

static void add_proposal(struct decide_list *list, enum entry_kind kind, const void *payload) {
    struct decide_proposal *proposal = list_add(list);

    proposal->kind = kind;
    tlv_encode(entry_schema(kind), payload, &proposal->payload);
}

/* The nodes of the scratch, named. The caller frees. */
static struct entry_place_node *name_nodes(const struct decide *d, const struct state *state,
                                           const struct job *job) {
    struct entry_place_node *named =
        hai_new_array(struct entry_place_node, (size_t)job->r.spec.nodes);

    for (int64_t i = 0; i < job->r.spec.nodes; i++) {
        const struct place_node *node = &d->scratch.nodes[i];
        named[i] = (struct entry_place_node){state->nodes[node->node]->r.name, node->gpus};
    }
    return named;
}

/* Propose a placement on the nodes of the scratch. */
static void propose(struct decide *d, const struct state *state, const struct job *job,
                    struct decide_list *ret) {
    _cleanup_free_ struct entry_place_node *nodes = name_nodes(d, state, job);
    struct entry_place place = {
        job->r.id, job->r.epoch, {nodes, (size_t)job->r.spec.nodes}
    };

    add_proposal(ret, ENTRY_PLACE, &place);
}

/* Propose that the victims leave the nodes of the scratch to the job. */
static void propose_room(struct decide *d, const struct state *state, const struct job *job,
                         struct decide_list *ret) {
    _cleanup_free_ struct entry_place_node *nodes = name_nodes(d, state, job);
    _cleanup_free_ struct entry_victim *victims = hai_new_array(struct entry_victim, d->victims.n);
    struct entry_make_room make = {
        job->r.id, job->r.epoch, {nodes,   (size_t)job->r.spec.nodes},
          {victims, d->victims.n             }
    };

    for (size_t i = 0; i < d->victims.n; i++)
        victims[i] = (struct entry_victim){d->victims.jobs[i]->r.id, d->victims.jobs[i]->r.epoch};
    add_proposal(ret, ENTRY_MAKE_ROOM, &make);
}

/* What is known of the shape; forgotten if more has become free. */
static struct memo *memo_of(struct decide *d, const struct state *state,
                            const struct shape *shape) {
    uint64_t freed = state->groups[shape->need.group].freed;

    if (d->n_memos <= (size_t)shape->slot) {
        size_t n = MAX(2 * d->n_memos, (size_t)shape->slot + 64);
        d->memos = hai_realloc_array(d->memos, n, sizeof *d->memos);
        memset(d->memos + d->n_memos, 0, (n - d->n_memos) * sizeof *d->memos);
        d->n_memos = n;
    }
    struct memo *memo = &d->memos[shape->slot];
    if (memo->serial != shape->serial) {
        memo->first_us = memo->urgent_us = memo->none_us = 0;
        memo->service = 0;
    }
    if (memo->serial != shape->serial || memo->freed != freed ||
        memo->cluster_seq != state->cluster_seq)
        *memo = (struct memo){.serial = shape->serial,
                              .freed = freed,
                              .cluster_seq = state->cluster_seq,
                              .hopeless = -1,
                              .first_us = memo->first_us,
                              .urgent_us = memo->urgent_us,
                              .none_us = memo->none_us,
                              .n_late = memo->n_late,
                              .service = memo->service,
                              .fewest = memo->fewest};
    return memo;
}

/* Would there be no room even if the nodes in service were idle? */
static bool is_hopeless(struct memo *memo, const struct state *state, const struct shape *shape) {
    if (memo->hopeless < 0 || (!memo->hopeless && state->r.time_us >= memo->hoped_us)) {
        memo->hopeless = !place_could(state, &shape->need, true);
        memo->hoped_us = place_same_until_us(state, &shape->need);
    }
    return memo->hopeless;
}

/* Jobs for which others leave nodes, once those are free. */
static size_t place_claimants(struct decide *d, const struct state *state,
                              struct decide_list *ret) {
    size_t n = 0;

    place_scratch_fit(&d->scratch, state);
    for (const struct job *job = state->claimants; job && n < DECIDE_PROPOSALS_MAX;
         job = job->claimant_next) {
        if (!claim_ready(state, job))
            continue;
        for (size_t i = 0; i < job->r.claim.n; i++)
            d->scratch.nodes[i] = (struct place_node){(int)job->r.claim.items[i].node,
                                                      (uint32_t)job->r.claim.items[i].gpus};
        propose(d, state, job, ret);
        n++;
    }
    return n;
}

/* Does the place in the scratch lie under so many leaves that the job rather waits? */
static bool waits_for_leaves(struct decide *d, const struct state *state, const struct job *job,
                             const struct place_need *need, struct memo *memo) {
    if (need->nodes == 1 || !order_waits_for_leaves(state, job, INT64_MAX))
        return false;
    int64_t leaves = spread_of(state, d->scratch.nodes, need->nodes).leaves;
    if (leaves == 1)
        return false;
    if (memo->service != room_service(d->room)) {
        memo->service = room_service(d->room);
        memo->fewest = room_fewest(d->room, state, need, &d->scratch).leaves;
    }
    /* 0: all idle would not do either, but for nodes that are no spares as long as they are used.
     */
    return memo->fewest && leaves > memo->fewest &&
           order_waits_for_leaves(state, job, memo->fewest);
}

/* It waits for leaves: look again when it has waited enough, or has fewer nodes to choose from and
 * may cross zones. */
static bool hold(struct decide *d, const struct state *state, const struct job *job,
                 const struct memo *memo) {
    int64_t until_us = MIN(order_waits_until_us(state, job, memo->fewest),
                           place_same_until_us(state, &job->shape->need));

    d->held_until_us = MIN(d->held_until_us, until_us);
    d->holds = true;
    return false;
}

/* It stands in the way of those behind it: look again when a reservation comes so near that it
 * does not any more. */
static bool blocks(struct decide *d, const struct state *state, struct memo *memo,
                   const struct shape *shape) {
    if (is_hopeless(memo, state, shape))
        return false;
    d->held_until_us = MIN(d->held_until_us, memo->hoped_us);
    return true;
}

/* Place the job if there is room for it beside what was proposed before. */
static bool try_place(struct decide *d, const struct state *state, const struct job *job,
                      struct memo *memo, bool first, struct decide_list *ret) {
    d->holds = false;
    if (memo->too_big)
        return false;
    struct place_need need = place_need_of(state, job);
    /* Where its like go in this run is not known to the state yet. */
    if (need.keeps_apart && d->one_apart)
        return false;
    /* Only as long as nothing has changed: with less free it may cross zones and lie better. */
    if (memo->scattered && !need.lasts_us && memo->service == room_service(d->room) &&
        memo->n_touched == state->n_touched && order_waits_for_leaves(state, job, memo->fewest))
        return hold(d, state, job, memo);
    if (room_find(d->room, state, &need, &d->scratch) == 0) {
        if (waits_for_leaves(d, state, job, &need, memo)) {
            memo->scattered = first && !need.n_avoid;
            memo->n_touched = state->n_touched;
            return hold(d, state, job, memo);
        }
        propose(d, state, job, ret);
        room_take(d->room, state, &need, d->scratch.nodes);
        d->one_apart |= need.keeps_apart;
        return true;
    }
    memo->too_big = first; // else what stands in its way may be proposals that come to nothing
    return false;
}

/* Make others leave nodes to the job. */
static bool make_room(struct decide *d, const struct state *state, const struct job *job,
                      struct memo *memo, struct decide_list *ret) {
    struct place_need need = place_need_of(state, job);

    if (victims_find(&d->victims, d->room, state, job, &d->scratch) < 0 ||
        waits_for_leaves(d, state, job, &need, memo))
        return false;
    propose_room(d, state, job, ret);
    return true;
}

/* May it ask in this run? What is left of the run is one search less. */
static bool may_search(struct decide *d, const struct state *state, int64_t ask_us) {
    return state->r.time_us >= ask_us && d->n_asks <= ASKS_MAX && ++d->n_asks <= ASKS_MAX;
}

static int64_t next_ask_us(const struct state *state) {
    return HAI_PLANT(PLANT_ASKED_ONCE) ? INT64_MAX : order_next_look_us(state);
}

/* The first in line makes room, if the policy lets it ask. */
static bool try_make_room(struct decide *d, const struct state *state, const struct job *job,
                          struct memo *memo, struct decide_list *ret) {
    if (!order_may_ask(state, job) || !may_search(d, state, memo->first_us))
        return false;
    memo->first_us = next_ask_us(state);
    return make_room(d, state, job, memo, ret);
}

/* Of the shape, who has waited longest of those who have for too long; NULL: nobody. */
static const struct job *longest_of(const struct decide *d, const struct state *state,
                                    const struct shape *shape, struct memo *memo) {
    if (memo->looked == d->n_runs)
        return memo->longest;
    memo->looked = d->n_runs;
    memo->longest = NULL;
    if (state->r.time_us < memo->none_us && memo->n_late == shape->n_late)
        return NULL;
    memo->longest = queue_longest(state, shape, &memo->none_us);
    memo->n_late = shape->n_late;
    return memo->longest;
}

/* That one, if it may ask now. Such a one asks in every look at its own place in the order: others
 * of its shape may always stand before it, of a better tier or with a smaller id, and ask in vain.
 */
static const struct job *urgent_of(const struct decide *d, const struct state *state,
                                   const struct shape *shape, struct memo *memo) {
    if (HAI_PLANT(PLANT_HIDDEN) || state->r.time_us < memo->urgent_us || d->n_asks > ASKS_MAX)
        return NULL;
    if (!longest_of(d, state, shape, memo))
        memo->urgent_us = next_ask_us(state);
    return memo->longest;
}

/* A job that found no room asks others for it. */
static bool try_to_ask(struct decide *d, const struct state *state, const struct job *job,
                       struct memo *memo, struct decide_list *ret) {
    if (urgent_of(d, state, job->shape, memo) != job)
        return try_make_room(d, state, job, memo, ret);
    if (!may_search(d, state, memo->urgent_us))
        return false;
    memo->urgent_us = next_ask_us(state);
    return make_room(d, state, job, memo, ret);
}

/* Nor do those find room who stand behind it in its line; but one of them may ask, or lie under
 * more leaves than a job that waits for fewer. That does not hang on who asked when: another
 * scheduler that goes on from this state starts the same job. */
static void pass_line(struct decide *d, const struct state *state, const struct job *job,
                      struct memo *memo, bool asks) {
    const struct job *next = NULL;

    if (d->holds)
        next = longest_of(d, state, job->shape, memo);
    else if (asks)
        next = urgent_of(d, state, job->shape, memo);
    if (next && queue_in_line_behind(job, next))
        queue_walk_pass_to(&d->walk, next);
    else
        queue_walk_pass(&d->walk);
}

/* Those who wait behind a job, and want what it wants. */
static bool *blocked_by(struct decide *d, const struct state *state, const struct job *job) {
    return order_blocked(&d->blocked, state, &job->shape->need);
}

/* Strict order with backfill: start the job, plan it, or let it be. */
enum passing { PASSING_STARTS, PASSING_WAITS, PASSING_ALL_WAIT };
static enum passing try_to_pass(struct decide *d, const struct state *state, const struct job *job,
                                struct memo *memo, size_t n) {
    struct place_need need = place_need_of(state, job);
    bool alone = state->queue.n == (int64_t)n + 1; // nobody has a plan that it could upset
    bool plans = d->n_planned[job->group] < order_backfills(state) && !backfill_full(d->backfill);
    bool tried = !need.keeps_apart || !d->one_apart; // as in try_place
    int64_t at_s;

    if (tried && (alone || !plans || need.keeps_apart) &&
        backfill_find(d->backfill, state, job, &d->scratch) == 0)
        return PASSING_STARTS;
    if (!plans)
        return PASSING_ALL_WAIT;
    int r = backfill_plan(d->backfill, state, job, &d->scratch, &at_s);
    if (r > 0 && tried)
        return PASSING_STARTS;
    if (r == 0) { // look again when it is due, or a reservation comes near
        int64_t until_us = place_same_until_us(state, &need) - 2 * HOLD_SECOND_US;
        int64_t next_us = (state->r.time_us / HOLD_SECOND_US + 1) * HOLD_SECOND_US;
        until_us = MIN(until_us, MAX(at_s * HOLD_SECOND_US, next_us));
        d->held_until_us = MIN(d->held_until_us, until_us);
        d->n_planned[job->group]++;
        return PASSING_WAITS;
    }
    *blocked_by(d, state, job) = r > 0 || blocks(d, state, memo, job->shape);
    return PASSING_ALL_WAIT;
}

static size_t walk_with_plans(struct decide *d, const struct state *state,
                              struct decide_list *ret) {
    const struct job *job;
    size_t n = 0;

    backfill_follow(d->backfill, state, d->room);
    memset(d->n_planned, 0, sizeof d->n_planned);
    queue_walk_begin(&d->walk, state);
    while (n < DECIDE_PROPOSALS_MAX && (job = queue_walk_next(&d->walk))) {
        enum passing passing = PASSING_ALL_WAIT;
        if (!*blocked_by(d, state, job))
            passing = try_to_pass(d, state, job, memo_of(d, state, job->shape), n);
        if (passing == PASSING_ALL_WAIT)
            queue_walk_pass(&d->walk);
        if (passing != PASSING_STARTS)
            continue;
        propose(d, state, job, ret);
        backfill_start(d->backfill, state, job, d->scratch.nodes);
        d->one_apart |= job->r.spec.anti_affinity == 1;
        n++;
    }
    return n;
}

/* The jobs that wait, in order. At most one makes room in a run: the next one is chosen when it is
 * known who leaves. */
static size_t walk_queue(struct decide *d, const struct state *state, struct decide_list *ret) {
    bool shares = order_shares(state);
    const struct job *job;
    size_t n = 0;

    queue_walk_begin(&d->walk, state);
    while (n < DECIDE_PROPOSALS_MAX && (job = queue_walk_next(&d->walk))) {
        struct memo *memo = memo_of(d, state, job->shape);
        bool *blocked = blocked_by(d, state, job);
        if (*blocked) {
            queue_walk_pass(&d->walk);
        } else if (try_place(d, state, job, memo, n == 0, ret)) {
            n++;
        } else if (job->r.claim.n) {
            continue; // it has asked already; those behind it may be luckier
        } else if (shares && n == 0 && try_to_ask(d, state, job, memo, ret)) {
            return 1;
        } else {
            *blocked = !shares && blocks(d, state, memo, job->shape);
            pass_line(d, state, job, memo, shares && n == 0);
        }
    }
    return n;
}

static uint64_t freed_in_all(const struct state *state) {
    uint64_t sum = 0;

    for (int g = 0; g < state->n_groups; g++)
        sum += state->groups[g].freed;
    return sum;
}

size_t decide_run(struct decide *d, const struct state *state, struct decide_list *ret) {
    struct idle now = {.changes = state->queue.changes,
                       .freed = freed_in_all(state),
                       .cluster_seq = state->cluster_seq,
                       .n_touched = state->n_touched,
                       .until_us = order_shares(state) ? order_next_look_us(state) : INT64_MAX};

    d->unfinished = false;
    if (!state->queue.n ||
        (d->idle.is && d->idle.changes == now.changes && d->idle.freed == now.freed &&
         d->idle.cluster_seq == now.cluster_seq && state->r.time_us < d->idle.until_us &&
         (!d->idle.held || d->idle.n_touched == now.n_touched)))
        return 0;
    room_follow(d->room, state);
    d->blocked = (struct order_blocked){0};
    d->n_asks = 0;
    d->n_runs++;
    d->one_apart = false;
    d->held_until_us = INT64_MAX;
    size_t n = place_claimants(d, state, ret);
    if (!n)
        n = order_backfills(state) ? walk_with_plans(d, state, ret) : walk_queue(d, state, ret);
    d->unfinished = n == 0 && d->n_asks > ASKS_MAX;
    now.is = n == 0 && !d->unfinished;
    now.held = d->held_until_us != INT64_MAX || order_backfills(state);
    now.until_us = MIN(now.until_us, d->held_until_us);
    d->idle = now;
    return n;
}

bool decide_unfinished(const struct decide *d) {
    return d->unfinished;
}
