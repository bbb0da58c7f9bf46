#include "sim/naive.h"
#include "lib/pure/tlv.h"
#include "scheduler/core/backfill.h"
#include "scheduler/core/claim.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/order.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/spread.h"
#include "sim/naiveplan.h"

/* A line of the queue that was passed over in this search. */
struct passed {
    const struct shape *shape;
    int tier, level;
    const struct job *but; // NULL: all of it
};

struct naive {
    int64_t every, n_runs, n_compared;
    bool compares;    // this run
    int64_t settled;  // what becomes due before changes the state between the run's proposals
    uint64_t freed;   // of all groups, when the run began
    uint64_t changes; // of the queue then
    bool one_apart;   // the run placed a job that keeps apart
    struct job last;  // whom it placed last, as it stood in line; id 0: nobody
    int64_t begun_s;  // plans are made from a second on
    struct place_scratch scratch;
    struct hai_err err;
};

struct naive *naive_new(int64_t every) {
    struct naive *naive = hai_new(struct naive);

    naive->every = every;
    return naive;
}

void naive_free(struct naive *naive) {
    if (!naive)
        return;
    place_scratch_free(&naive->scratch);
    free(naive);
}

const struct hai_err *naive_error(const struct naive *naive) {
    return &naive->err;
}

int64_t naive_compared(const struct naive *naive) {
    return naive->n_compared;
}

/* Does the place in the scratch lie under so many leaves that the job rather waits? */
static bool waits_for_leaves(struct naive *naive, const struct state *state,
                             const struct job *job) {
    struct place_need need = place_need_of(state, job);
    int64_t leaves = spread_of(state, naive->scratch.nodes, need.nodes).leaves;
    int64_t fewest = spread_fewest(state, &need, &naive->scratch).leaves;

    return need.nodes > 1 && fewest && leaves > fewest &&
           order_waits_for_leaves(state, job, fewest);
}

/* ---- victims ---- */

/* A state whose nodes can be changed: what place_find reads, and no more, is a copy. */
struct shadow {
    struct state state;
    struct node *copies;
};

static void shadow_begin(struct shadow *shadow, const struct state *state) {
    size_t n = (size_t)state->n_nodes;

    shadow->state = *state;
    shadow->copies = hai_new_array(struct node, n);
    shadow->state.nodes = hai_new_array(struct node *, n);
    for (size_t i = 0; i < n; i++) {
        shadow->copies[i] = *state->nodes[i];
        shadow->state.nodes[i] = &shadow->copies[i];
    }
}

static void shadow_end(struct shadow *shadow) {
    free(shadow->state.nodes);
    free(shadow->copies);
}

static void shadow_leave(struct shadow *shadow, const struct job *job) {
    shadow->state.n_cross_zone -= job->spans;
    for (size_t i = 0; i < job->r.allocs.n; i++) {
        const struct state_alloc *alloc = &job->r.allocs.items[i];
        struct node *node = &shadow->copies[alloc->node];
        if (alloc->released)
            continue;
        node->gpus_held &= ~(uint32_t)alloc->gpus;
        node->cpus_free += job->cpus_per_node;
        node->memory_free += job->r.spec.memory_per_node_bytes;
    }
}

/* Whom it asks must give way by the policy, and leave exactly what it then takes. */
static bool may_all_leave(struct shadow *shadow, const struct state *state, const struct job *job,
                          const struct entry_make_room *make) {
    bool for_gain = false;
    int64_t gpus = 0;

    for (size_t i = 0; i < make->victims.n; i++) {
        const struct job *victim = state_job_find(state, make->victims.items[i].job);
        enum order_way way = victim ? order_gives_way(state, victim, job) : ORDER_STAYS;
        if (way == ORDER_STAYS)
            return false;
        for_gain |= way == ORDER_FOR_GAIN;
        gpus += order_gpus(victim);
        shadow_leave(shadow, victim);
    }
    return !for_gain || 10 * gpus <= ORDER_GAIN_TENTHS * order_gpus(job);
}

static bool is_room(struct naive *naive, const struct state *state,
                    const struct entry_make_room *make) {
    const struct job *job = state_job_find(state, make->job);
    struct shadow shadow;

    if (!job || !job->queued || job->r.claim.n || !make->victims.n || !order_shares(state) ||
        !order_may_ask(state, job))
        return false;
    struct place_need need = place_need_of(state, job);
    shadow_begin(&shadow, state);
    struct spread before = {INT64_MAX, INT64_MAX};
    if (place_find(&shadow.state, &need, &naive->scratch) == 0)
        before = spread_of(state, naive->scratch.nodes, need.nodes);
    bool good = may_all_leave(&shadow, state, job, make) &&
                place_find(&shadow.state, &need, &naive->scratch) == 0 &&
                (int64_t)make->nodes.n == need.nodes;
    /* Else nobody need leave. */
    good = good && spread_compare(spread_of(state, naive->scratch.nodes, need.nodes), before) < 0;
    for (int64_t i = 0; good && i < need.nodes; i++)
        good = state_node_find(state, make->nodes.items[i].node) == naive->scratch.nodes[i].node &&
               make->nodes.items[i].gpus == naive->scratch.nodes[i].gpus;
    shadow_end(&shadow);
    return good && !waits_for_leaves(naive, state, job);
}

/* ---- proposals ---- */

static struct entry_place_node *name_nodes(const struct naive *naive, const struct state *state,
                                           const struct job *job) {
    struct entry_place_node *named =
        hai_new_array(struct entry_place_node, (size_t)job->r.spec.nodes);

    for (int64_t i = 0; i < job->r.spec.nodes; i++)
        named[i] = (struct entry_place_node){state->nodes[naive->scratch.nodes[i].node]->r.name,
                                             naive->scratch.nodes[i].gpus};
    return named;
}

static void propose_place(const struct naive *naive, const struct state *state,
                          const struct job *job, struct decide_proposal *ret) {
    _cleanup_free_ struct entry_place_node *nodes = name_nodes(naive, state, job);
    struct entry_place place = {
        job->r.id, job->r.epoch, {nodes, (size_t)job->r.spec.nodes}
    };

    ret->kind = ENTRY_PLACE;
    tlv_encode(entry_place_schema(), &place, &ret->payload);
}

/* The n-th job in the list of claims whose claim is free; the list loses those that were placed. */
static bool next_claimant(struct naive *naive, const struct state *state,
                          struct decide_proposal *ret) {
    for (const struct job *job = state->claimants; job; job = job->claimant_next) {
        if (!claim_ready(state, job))
            continue;
        place_scratch_fit(&naive->scratch, state);
        for (size_t i = 0; i < job->r.claim.n; i++)
            naive->scratch.nodes[i] = (struct place_node){(int)job->r.claim.items[i].node,
                                                          (uint32_t)job->r.claim.items[i].gpus};
        propose_place(naive, state, job, ret);
        return true;
    }
    return false;
}

static int compare_order(const void *pa, const void *pb) {
    const struct job *a = *(const struct job *const *)pa, *b = *(const struct job *const *)pb;

    return queue_before(a, b) ? -1 : 1;
}

static size_t sort_queue(const struct state *state, const struct job ***ret) {
    const struct job **jobs = hai_new_array(const struct job *, (size_t)state->n_jobs + 1);
    size_t n = 0;

    for (const struct job *job = state->jobs_first; job; job = job->next)
        if (job->queued)
            jobs[n++] = job;
    if (n > 1)
        qsort(jobs, n, sizeof *jobs, compare_order);
    *ret = jobs;
    return n;
}

static bool is_passed(const struct passed *passed, size_t n, const struct job *job) {
    for (size_t i = 0; i < n; i++)
        if (passed[i].shape == job->shape && passed[i].tier == job->tier &&
            passed[i].level == job->level && passed[i].but != job)
            return true;
    return false;
}

/* The first waiting job that can start, of those before one (0: of all). */
static bool next_waiting(struct naive *naive, const struct state *state, int64_t before,
                         struct decide_proposal *ret) {
    _cleanup_free_ const struct job **jobs = NULL;
    size_t n = sort_queue(state, &jobs), n_passed = 0;
    _cleanup_free_ struct passed *passed = hai_new_array(struct passed, n + 1);
    struct order_blocked blocked = {0};
    bool shares = order_shares(state);
    int64_t none_us;

    for (size_t i = 0; i < n && jobs[i]->r.id != before; i++) {
        const struct job *job = jobs[i];
        struct place_need need = place_need_of(state, job);
        bool *blocks = order_blocked(&blocked, state, &need);
        if (*blocks || is_passed(passed, n_passed, job))
            continue;
        /* One a run: where its like go is known when the run is over. And a run goes through the
         * line once: one that was tried may lie better now that less is free. */
        bool tried = (!need.keeps_apart || !naive->one_apart) &&
                     !(shares && naive->last.r.id && queue_before(job, &naive->last));
        bool room = tried && place_find(state, &need, &naive->scratch) == 0;
        if (room && !waits_for_leaves(naive, state, job)) {
            propose_place(naive, state, job, ret);
            naive->one_apart |= need.keeps_apart;
            return true;
        }
        if (job->r.claim.n)
            continue;
        *blocks = !shares && place_could(state, &need, true);
        passed[n_passed] = (struct passed){job->shape, job->tier, job->level};
        if (room) // it waits for leaves, which one that has waited for too long does not
            passed[n_passed].but = queue_longest(state, job->shape, &none_us);
        n_passed++;
    }
    return false;
}

/* Strict order in which others may pass: the first of those that starts. */
static bool next_passing(struct naive *naive, const struct state *state,
                         struct decide_proposal *ret) {
    _cleanup_free_ const struct job **jobs = NULL;
    size_t n = sort_queue(state, &jobs), n_passed = 0;
    _cleanup_free_ struct passed *passed = hai_new_array(struct passed, n + 1);
    _cleanup_(naiveplan_freep) struct naiveplan *plans = naiveplan_new(state);
    int64_t n_planned[GROUPS_MAX] = {0}, at_s;
    struct order_blocked blocked = {0};

    for (size_t i = 0; i < n; i++) {
        const struct job *job = jobs[i];
        struct place_need need = place_need_of(state, job);
        bool *blocks = order_blocked(&blocked, state, &need);
        if (*blocks || is_passed(passed, n_passed, job))
            continue;
        bool may_plan = n_planned[job->group] < order_backfills(state) &&
                        naiveplan_n(plans) < BACKFILL_PLANS_MAX;
        bool tried = !need.keeps_apart || !naive->one_apart;
        int r = -ENOSPC;
        if (tried && (n == 1 || !may_plan || need.keeps_apart) &&
            naiveplan_find(plans, job, &naive->scratch) == 0)
            r = 1;
        else if (may_plan)
            r = naiveplan_add(plans, job, &naive->scratch, &at_s);
        if (r > 0 && tried) {
            propose_place(naive, state, job, ret);
            naive->one_apart |= need.keeps_apart;
            return true;
        }
        if (r == 0) {
            n_planned[job->group]++;
            continue;
        }
        *blocks = may_plan && (r > 0 || place_could(state, &need, true));
        passed[n_passed++] = (struct passed){job->shape, job->tier, job->level};
    }
    return false;
}

/* ---- comparing ---- */

static void complain(struct naive *naive, const struct state *state, size_t at,
                     const struct decide_proposal *got, const struct decide_proposal *expected) {
    const char *is = got ? entry_kind_text(got->kind) : "nothing";
    const char *should = expected->payload.n_bytes ? entry_kind_text(expected->kind) : "nothing";

    hai_fail(&naive->err, -EINVAL,
             "decide: proposal %zu at %lld us is %s, and a search from scratch says %s%s", at,
             (long long)state->r.time_us, is, should,
             got && got->kind == expected->kind ? " of something else" : "");
}

static uint64_t freed_in_all(const struct state *state) {
    uint64_t sum = 0;

    for (int g = 0; g < state->n_groups; g++)
        sum += state->groups[g].freed;
    return sum;
}

static void begin_run(struct naive *naive, const struct state *state) {
    naive->compares = naive->n_runs++ % naive->every == 0;
    naive->settled = state_next_wakeup(state);
    naive->freed = freed_in_all(state);
    naive->changes = state->queue.changes;
    naive->one_apart = false;
    naive->last.r.id = 0;
    naive->begun_s = state->r.time_us / HOLD_SECOND_US;
}

static bool as_expected(struct naive *naive, const struct state *state,
                        const struct decide_proposal *proposal, struct decide_proposal *expected) {
    struct entry_make_room make = {0};
    bool asks = proposal && proposal->kind == ENTRY_MAKE_ROOM &&
                tlv_decode(entry_make_room_schema(), proposal->payload.data,
                           proposal->payload.n_bytes, &make, NULL) == 0;
    bool found = next_claimant(naive, state, expected) ||
                 (order_backfills(state) ? next_passing(naive, state, expected)
                                         : next_waiting(naive, state, make.job, expected));
    bool same = found == (proposal != NULL);

    if (found && proposal)
        same = proposal->kind == expected->kind &&
               proposal->payload.n_bytes == expected->payload.n_bytes &&
               !memcmp(proposal->payload.data, expected->payload.data, expected->payload.n_bytes);
    if (asks) {
        same = !found && is_room(naive, state, &make);
        schema_free(entry_make_room_schema(), &make);
    }
    return same;
}

/* The proposal is about to be applied. */
static void note_last(struct naive *naive, const struct state *state,
                      const struct decide_proposal *proposal) {
    struct entry_place place;

    if (!proposal || proposal->kind != ENTRY_PLACE ||
        tlv_decode(entry_place_schema(), proposal->payload.data, proposal->payload.n_bytes, &place,
                   NULL) < 0)
        return;
    const struct job *job = state_job_find(state, place.job);
    if (job && job->queued) {
        naive->last = *job;
        naive->one_apart |= job->r.spec.anti_affinity == 1;
    }
    schema_free(entry_place_schema(), &place);
}

static void compare(struct naive *naive, const struct state *state, size_t at,
                    const struct decide_proposal *proposal) {
    struct decide_proposal expected = {0};

    /* A run decides on the state as it began. Between its proposals time may make something due, a
     * claim may end, and the next element of an array may join the queue, which each placed job
     * leaves: then only the next run knows. */
    bool moved = state->r.time_us >= naive->settled || freed_in_all(state) != naive->freed ||
                 state->queue.changes != naive->changes + at ||
                 state->r.time_us / HOLD_SECOND_US != naive->begun_s;
    if (!naive->compares || (at > 0 && moved) || naive->err.r)
        return;
    naive->n_compared++;
    if (!as_expected(naive, state, proposal, &expected))
        complain(naive, state, at, proposal, &expected);
    buf_free(&expected.payload);
}

void naive_check(struct naive *naive, const struct state *state, size_t at,
                 const struct decide_proposal *proposal) {
    if (at == 0)
        begin_run(naive, state);
    compare(naive, state, at, proposal);
    /* Who was placed may be due at once: nothing was left of its time limit. */
    naive->settled = MIN(naive->settled, state_next_wakeup(state));
    note_last(naive, state, proposal);
}
