#include "scheduler/core/order.h"
#include "lib/pure/plant.h"
#include "scheduler/core/fair.h"

#define SECOND INT64_C(1000000)
#define HOUR (3600 * SECOND)
#define WEEK (7 * 24 * HOUR)

/* The policy's numbers; docs/policy.md says how they were found. */
enum { LEVELS = 3 };
/* A job on one node sinks a level at these GPU times, one on several nodes at these run times. */
static const int64_t single_levels_us[LEVELS - 1] = {4 * HOUR, 40 * HOUR};
static const int64_t gang_levels_us[LEVELS - 1] = {HOUR / 2, 8 * HOUR};
/* Parts of min_run: how long a job waits before it makes others give way; a gang asks sooner, since
 * it can rarely start without. For its equals (if it never ran), or for anybody if more GPUs are
 * busy then, it waits a whole one. */
enum { ASK_SINGLE = 6, ASK_GANG = 30, LOOK = 30 };
#define LOOK_MIN_US SECOND
#define LOOK_MAX_US (60 * SECOND)
/* Jobs on one node run for this many times min_run: there are many, and each suspension costs. */
enum { SINGLE_MIN_RUNS = 4 };
/* For nodes under fewer leaves a gang waits for so many halves of min_run; a better place for one
 * that no single leaf holds takes longer to come about. It lets others lose this many times min_run
 * for each of its GPUs, in the part of its leaves that is saved: an upper bound, which reckons as
 * if those who leave would save nothing. */
enum { LEAF_HALVES = 2, LARGE_HALVES = 3, LEAVES_WORTH = 8 };
/* After so many a job has waited for too long: of its own priority and below anybody gives way. */
enum { TOO_LONG = 16 };

/* Jobs over quota come last, by priority. */
enum { OVER_TIER = PRIORITY_COUNT + PRIORITY_COUNT * LEVELS };

bool order_shares(const struct state *state) {
    return state->r.min_run_us != S_ABSENT;
}

int64_t order_backfills(const struct state *state) {
    return order_shares(state) || state->r.backfill == S_ABSENT ? 0 : state->r.backfill;
}

int64_t order_gpus(const struct job *job) {
    return job->r.spec.nodes * job->r.spec.gpus_per_node;
}

static bool is_gang(const struct job *job) {
    return job->r.spec.nodes > 1;
}

static bool takes_whole_nodes(const struct state *state, const struct job *job) {
    return is_gang(job) || (job->r.spec.gpus_per_node &&
                            job->r.spec.gpus_per_node >= state->groups[job->group].gpus_max);
}

struct order_view order_view_of(const struct state *state, const struct job *job) {
    int64_t until_us = state_job_live(job) ? job->r.placed_us : state->r.time_us;

    return (struct order_view){
        .job = job,
        .id = job->r.id,
        .began_us = until_us - job->r.ran_us,
        .running_us = job->r.running_us,
        .saved_us = MAX(job->r.ckpt_us, job->r.running_us),
        .gpus = order_gpus(job),
        .position = state_priority_level(job->r.priority),
        .gang = is_gang(job),
        .over = job->r.over == 1,
    };
}

static int level(const struct state *state, const struct order_view *job) {
    const int64_t *levels_us = job->gang ? gang_levels_us : single_levels_us;
    int64_t had_us = state->r.time_us - job->began_us;
    int n = 0;

    if (!job->gang)
        had_us *= MAX(job->gpus, 1);
    while (n < LEVELS - 1 && had_us >= levels_us[n])
        n++;
    return n;
}

/* At a position in PRIORITIES. Its own is without aging: that moves a job ahead in line, and sends
 * nobody away. */
static int tier_at(const struct state *state, const struct order_view *job, int position) {
    _Static_assert(ORDER_TIERS >= OVER_TIER + PRIORITY_COUNT, "tiers");
    if (job->over)
        return OVER_TIER + position;
    if (!order_shares(state))
        return position;
    int sunk = level(state, job);
    if (!job->gang && sunk == 0)
        return position;
    return PRIORITY_COUNT + LEVELS * position + sunk;
}

int order_tier(const struct state *state, const struct job *job) {
    struct order_view view = order_view_of(state, job);

    return tier_at(state, &view, fair_position(state, job));
}

int64_t order_waits_since_us(const struct job *job) {
    return job->r.line_us == S_ABSENT ? job->r.since_us : MAX(job->r.since_us, job->r.line_us);
}

bool order_may_ask(const struct state *state, const struct job *job) {
    int64_t waited_us = state->r.time_us - order_waits_since_us(job);

    return job->r.over != 1 &&
           waited_us >= state->r.min_run_us / (is_gang(job) ? ASK_GANG : ASK_SINGLE);
}

int64_t order_next_look_us(const struct state *state) {
    int64_t every_us = LOOK_MAX_US;

    if (order_shares(state))
        every_us = MAX(MIN(state->r.min_run_us / LOOK, LOOK_MAX_US), LOOK_MIN_US);

    return (state->r.time_us / every_us + 1) * every_us;
}

int64_t order_waits_until_us(const struct state *state, const struct job *job, int64_t fewest) {
    int64_t halves = fewest > 1 ? LARGE_HALVES : LEAF_HALVES;

    return order_waits_since_us(job) + state->r.min_run_us / 2 * halves;
}

bool order_waits_for_leaves(const struct state *state, const struct job *job, int64_t fewest) {
    return is_gang(job) && order_shares(state) && job->r.state != JOB_STATE_RECOVERING &&
           state->r.time_us < order_waits_until_us(state, job, fewest);
}

int64_t order_leaves_worth(const struct state *state, const struct job *job, struct spread plain,
                           struct spread better) {
    int64_t each_us = LEAVES_WORTH * MIN(state->r.min_run_us, WEEK); // no overflow
    int64_t all_us = each_us * order_gpus(job);

    return MAX(all_us / plain.leaves * (plain.leaves - better.leaves), 0);
}

bool order_runs(const struct job *job) {
    return job->r.state == JOB_STATE_RUNNING && job->r.wanted == WANTED_RUN &&
           job->r.phase == DESIRED_PHASE_RUN;
}

int64_t order_too_long_us(const struct state *state, const struct job *job) {
    return order_waits_since_us(job) + TOO_LONG * state->r.min_run_us;
}

struct order_asker order_asker_of(const struct state *state, const struct job *job) {
    int64_t now_us = state->r.time_us, min_run_us = state->r.min_run_us;
    struct order_view view = order_view_of(state, job);
    bool waited = now_us - order_waits_since_us(job) >= min_run_us;

    return (struct order_asker){
        .state = state,
        .view = view,
        .tier = tier_at(state, &view, view.position),
        .aged = HAI_PLANT(PLANT_AGED_IN_VAIN) ? view.position : fair_position(state, job),
        .waited = waited,
        .too_long = now_us >= order_too_long_us(state, job) && !HAI_PLANT(PLANT_NEVER_URGENT),
        .never_ran = waited && job->r.started_us == S_ABSENT,
        .gains = waited && takes_whole_nodes(state, job),
    };
}

/* How long it runs before it may be disturbed. For a job that has waited for too long hardly at
 * all, else a stream of short jobs could keep it waiting for ever. */
static int64_t least_run_us(const struct state *state, bool is_gang, bool too_long) {
    if (too_long)
        return state->r.min_run_us / ASK_GANG;
    return state->r.min_run_us * (is_gang ? 1 : SINGLE_MIN_RUNS);
}

enum order_way order_answer(const struct order_view *running, const struct order_asker *to) {
    const struct state *state = to->state;
    bool over = running->over; // what it has is others' due, whatever its priority
    bool too_long = to->too_long && (over || fair_position(state, running->job) >= to->aged);

    if (state->r.time_us - running->running_us < least_run_us(state, running->gang, too_long))
        return ORDER_STAYS;
    if (too_long)
        return ORDER_GIVES_WAY;
    /* Many nodes for one: only for a higher priority, and not at once. */
    if (running->gang && !to->view.gang)
        return to->waited && (over || running->position > to->view.position) ? ORDER_GIVES_WAY
                                                                             : ORDER_STAYS;
    int tier = tier_at(state, running, running->position);
    if (tier > to->tier || (tier == to->tier && running->id > to->view.id && to->never_ran))
        return ORDER_GIVES_WAY;
    bool above = running->position < to->view.position && !over;
    return to->gains && !above && running->gpus < to->view.gpus ? ORDER_FOR_GAIN : ORDER_STAYS;
}

enum order_way order_gives_way(const struct state *state, const struct job *running,
                               const struct job *to) {
    struct order_view view = order_view_of(state, running);
    struct order_asker asker = order_asker_of(state, to);

    return order_runs(running) ? order_answer(&view, &asker) : ORDER_STAYS;
}

int64_t order_loss(const struct state *state, const struct order_view *running) {
    return state->r.time_us - running->saved_us + ORDER_RESTART_US;
}

bool *order_blocked(struct order_blocked *blocked, const struct state *state,
                    const struct place_need *need) {
    if (need->reserve)
        return &blocked->reserves[state_reserve_find(state, need->reserve) - state->reserves];
    return &blocked->groups[need->group];
}
