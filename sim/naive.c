#include "sim/naive.h"
#include "lib/pure/tlv.h"
#include "scheduler/core/claim.h"
#include "scheduler/core/order.h"
#include "scheduler/core/queue.h"

enum { ASKS_MAX = 16, SPARED_MAX = 64 }; // those of decide.c and victims.c

/* A shape that has asked, and until when it does not ask again. */
struct asked {
    uint64_t serial;
    int64_t until_us;
};

/* A line of the queue that was passed over in this search. */
struct passed {
    const struct shape *shape;
    int tier;
};

struct loss {
    const struct job *job;
    enum order_way way;
    int64_t loss_us;
};

/* After a run that found nothing, asking waits for a change or for the next look. */
struct quiet {
    bool is;
    uint64_t changes, freed, cluster_seq;
    int64_t until_us;
};

struct naive {
    int64_t every, n_runs, n_compared;
    bool compares;    // this run
    int64_t settled;  // this run: what becomes due before changes the state between its proposals
    uint64_t freed;   // when this run began
    int64_t only_ask; // sampled: the job that the proposal makes room for, 0: none
    int n_asks;
    struct quiet quiet;
    struct asked *asked;
    size_t n_asked;
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
    free(naive->asked);
    free(naive);
}

void naive_forget(struct naive *naive) {
    naive->n_asked = 0;
    naive->quiet.is = false;
}

const struct hai_err *naive_error(const struct naive *naive) {
    return &naive->err;
}

int64_t naive_compared(const struct naive *naive) {
    return naive->n_compared;
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

/* Would it fit without these? The answer is in the scratch. */
static bool fits_without(struct naive *naive, const struct state *state, const struct job *job,
                         const struct loss *losses, size_t n) {
    struct place_need need = place_need_of(job);
    struct shadow shadow;

    shadow_begin(&shadow, state);
    for (size_t i = 0; i < n; i++)
        shadow_leave(&shadow, losses[i].job);
    int r = place_find(&shadow.state, &need, &naive->scratch);
    shadow_end(&shadow);
    return r == 0;
}

static bool overlaps(const struct state *state, const struct job *running, const struct job *job) {
    for (size_t i = 0; i < running->r.allocs.n; i++) {
        const struct node *node = state->nodes[running->r.allocs.items[i].node];
        if (node->groups >> job->group & 1 && job->zones >> node->zone & 1)
            return true;
    }
    return false;
}

static int compare_losses(const void *pa, const void *pb) {
    const struct loss *a = pa, *b = pb;

    if (a->way != b->way)
        return a->way < b->way ? -1 : 1;
    if (a->loss_us != b->loss_us)
        return a->loss_us < b->loss_us ? -1 : 1;
    return a->job->r.id > b->job->r.id ? -1 : 1;
}

static int compare_ids(const void *pa, const void *pb) {
    const struct loss *a = pa, *b = pb;

    return a->job->r.id < b->job->r.id ? -1 : 1;
}

/* Does the place, as it is in the scratch, touch what the victim holds? */
static bool is_needed(const struct naive *naive, const struct job *victim, const struct job *job) {
    if (victim->spans)
        return true;
    for (size_t i = 0; i < victim->r.allocs.n; i++)
        for (int64_t k = 0; k < job->r.spec.nodes; k++)
            if (naive->scratch.nodes[k].node == victim->r.allocs.items[i].node)
                return true;
    return false;
}

static size_t drop_at(struct loss *losses, size_t n, size_t at) {
    memmove(losses + at, losses + at + 1, (n - at - 1) * sizeof *losses);
    return n - 1;
}

static bool gains(const struct loss *losses, size_t n, const struct job *job) {
    bool for_gain = false;
    int64_t gpus = 0;

    for (size_t i = 0; i < n; i++) {
        for_gain |= losses[i].way == ORDER_FOR_GAIN;
        gpus += order_gpus(losses[i].job);
    }
    return !for_gain || 10 * gpus <= ORDER_GAIN_TENTHS * order_gpus(job);
}

/* The fewest of the cheapest, one after another; then without those that the place does not touch
 * and, the dearest first, those that it can do without. 0: too few, or too dear. */
static size_t choose(struct naive *naive, const struct state *state, const struct job *job,
                     struct loss *losses, size_t n_all) {
    size_t n = 1;

    while (n <= n_all && !fits_without(naive, state, job, losses, n))
        n++;
    if (n > n_all)
        return 0;
    for (size_t i = n; i-- > 0;)
        if (!is_needed(naive, losses[i].job, job))
            n = drop_at(losses, n, i);
    size_t stop = n > SPARED_MAX ? n - SPARED_MAX : 0;
    for (size_t i = n; i-- > stop && n > 1;) {
        _cleanup_free_ struct loss *fewer = hai_new_array(struct loss, n);
        memcpy(fewer, losses, n * sizeof *losses);
        drop_at(fewer, n, i);
        if (fits_without(naive, state, job, fewer, n - 1))
            n = drop_at(losses, n, i);
    }
    if (!gains(losses, n, job))
        return 0;
    return fits_without(naive, state, job, losses, n) ? n : 0;
}

/* Who gives way to the job, ascending ids, and where it goes then. The caller frees *ret. */
static size_t find_victims(struct naive *naive, const struct state *state, const struct job *job,
                           struct loss **ret) {
    struct loss *losses = hai_new_array(struct loss, (size_t)state->n_jobs + 1);
    size_t n = 0;

    for (const struct job *one = state->jobs_first; one; one = one->next) {
        if (!state_job_live(one) || !overlaps(state, one, job))
            continue;
        enum order_way way = order_gives_way(state, one, job);
        if (way != ORDER_STAYS)
            losses[n++] = (struct loss){one, way, order_loss(state, one)};
    }
    if (n > 1)
        qsort(losses, n, sizeof *losses, compare_losses);
    n = choose(naive, state, job, losses, n);
    if (n > 1)
        qsort(losses, n, sizeof *losses, compare_ids);
    *ret = losses;
    return n;
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

static void propose_room(const struct naive *naive, const struct state *state,
                         const struct job *job, const struct loss *losses, size_t n,
                         struct decide_proposal *ret) {
    _cleanup_free_ struct entry_place_node *nodes = name_nodes(naive, state, job);
    _cleanup_free_ struct entry_victim *victims = hai_new_array(struct entry_victim, n);
    struct entry_make_room make = {
        job->r.id, job->r.epoch, {nodes,   (size_t)job->r.spec.nodes},
          {victims, n                        }
    };

    for (size_t i = 0; i < n; i++)
        victims[i] = (struct entry_victim){losses[i].job->r.id, losses[i].job->r.epoch};
    ret->kind = ENTRY_MAKE_ROOM;
    tlv_encode(entry_make_room_schema(), &make, &ret->payload);
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

static int64_t *asked_until(struct naive *naive, uint64_t serial) {
    for (size_t i = 0; i < naive->n_asked; i++)
        if (naive->asked[i].serial == serial)
            return &naive->asked[i].until_us;
    naive->asked = hai_realloc_array(naive->asked, naive->n_asked + 1, sizeof *naive->asked);
    naive->asked[naive->n_asked] = (struct asked){serial, 0};
    return &naive->asked[naive->n_asked++].until_us;
}

static uint64_t freed_in_all(const struct state *state) {
    uint64_t sum = 0;

    for (int g = 0; g < state->n_groups; g++)
        sum += state->groups[g].freed;
    return sum;
}

static bool is_quiet(const struct naive *naive, const struct state *state) {
    const struct quiet *quiet = &naive->quiet;

    return quiet->is && quiet->changes == state->queue.changes &&
           quiet->freed == freed_in_all(state) && quiet->cluster_seq == state->cluster_seq &&
           state->r.time_us < quiet->until_us;
}

static bool may_ask(struct naive *naive, const struct state *state, const struct job *job) {
    if (naive->every > 1)
        return job->r.id == naive->only_ask;
    if (is_quiet(naive, state))
        return false;
    int64_t *until_us = asked_until(naive, job->shape->serial);
    if (state->r.time_us < *until_us || naive->n_asks > ASKS_MAX || !order_may_ask(state, job) ||
        ++naive->n_asks > ASKS_MAX)
        return false;
    *until_us = order_next_look_us(state);
    return true;
}

static bool make_room(struct naive *naive, const struct state *state, const struct job *job,
                      struct decide_proposal *ret) {
    _cleanup_free_ struct loss *losses = NULL;

    if (!may_ask(naive, state, job))
        return false;
    size_t n = find_victims(naive, state, job, &losses);
    if (n)
        propose_room(naive, state, job, losses, n, ret);
    return n > 0;
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
        if (passed[i].shape == job->shape && passed[i].tier == job->tier)
            return true;
    return false;
}

/* The first waiting job that can start or, before anything was proposed, make room. */
static bool next_waiting(struct naive *naive, const struct state *state, size_t at,
                         struct decide_proposal *ret) {
    _cleanup_free_ const struct job **jobs = NULL;
    size_t n = sort_queue(state, &jobs), n_passed = 0;
    _cleanup_free_ struct passed *passed = hai_new_array(struct passed, n + 1);
    bool blocked[GROUPS_MAX] = {false}, shares = order_shares(state);

    for (size_t i = 0; i < n; i++) {
        const struct job *job = jobs[i];
        struct place_need need = place_need_of(job);
        if (blocked[job->group] || is_passed(passed, n_passed, job))
            continue;
        if (place_find(state, &need, &naive->scratch) == 0) {
            propose_place(naive, state, job, ret);
            return true;
        }
        if (job->r.claim.n)
            continue;
        if (shares && at == 0 && make_room(naive, state, job, ret))
            return true;
        blocked[job->group] = !shares && place_could(state, &need, true);
        passed[n_passed++] = (struct passed){job->shape, job->tier};
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

static void begin_run(struct naive *naive, const struct state *state,
                      const struct decide_proposal *proposal) {
    struct entry_make_room make;

    naive->compares = naive->n_runs++ % naive->every == 0;
    naive->settled = state_next_wakeup(state);
    naive->freed = freed_in_all(state);
    naive->n_asks = 0;
    naive->only_ask = 0;
    if (naive->every > 1 && proposal && proposal->kind == ENTRY_MAKE_ROOM &&
        tlv_decode(entry_make_room_schema(), proposal->payload.data, proposal->payload.n_bytes,
                   &make, NULL) == 0) {
        naive->only_ask = make.job;
        schema_free(entry_make_room_schema(), &make);
    }
}

void naive_check(struct naive *naive, const struct state *state, size_t at,
                 const struct decide_proposal *proposal) {
    struct decide_proposal expected = {0};

    if (at == 0)
        begin_run(naive, state, proposal);
    /* A run decides on the state as it began. Entries move the time on, and what that makes due
     * comes between; and a job that starts elsewhere leaves what it claimed to the next run. */
    bool moved = state->r.time_us >= naive->settled || freed_in_all(state) != naive->freed;
    if (!naive->compares || (at > 0 && moved) || naive->err.r)
        return;
    bool found =
        next_claimant(naive, state, &expected) || next_waiting(naive, state, at, &expected);
    bool same = found == (proposal != NULL);
    if (found && proposal)
        same = proposal->kind == expected.kind &&
               proposal->payload.n_bytes == expected.payload.n_bytes &&
               !memcmp(proposal->payload.data, expected.payload.data, expected.payload.n_bytes);
    naive->n_compared++;
    if (!same)
        complain(naive, state, at, proposal, &expected);
    buf_free(&expected.payload);
    if (at == 0 && state->queue.n)
        naive->quiet = (struct quiet){!found && naive->n_asks <= ASKS_MAX, state->queue.changes,
                                      freed_in_all(state), state->cluster_seq,
                                      order_shares(state) ? order_next_look_us(state) : INT64_MAX};
}
