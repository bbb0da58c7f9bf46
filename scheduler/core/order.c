#include "scheduler/core/order.h"
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

static int64_t run_time_us(const struct state *state, const struct job *job) {
    return job->r.ran_us + (state_job_live(job) ? state->r.time_us - job->r.placed_us : 0);
}

static int level(const struct state *state, const struct job *job) {
    const int64_t *levels_us = is_gang(job) ? gang_levels_us : single_levels_us;
    int64_t had_us = run_time_us(state, job);
    int n = 0;

    if (!is_gang(job))
        had_us *= MAX(job->r.spec.gpus_per_node, 1);
    while (n < LEVELS - 1 && had_us >= levels_us[n])
        n++;
    return n;
}

/* At a position in PRIORITIES. */
static int tier_at(const struct state *state, const struct job *job, int position) {
    _Static_assert(ORDER_TIERS >= OVER_TIER + PRIORITY_COUNT, "tiers");
    if (job->r.over == 1)
        return OVER_TIER + position;
    if (!order_shares(state))
        return position;
    int sunk = level(state, job);
    if (!is_gang(job) && sunk == 0)
        return position;
    return PRIORITY_COUNT + LEVELS * position + sunk;
}

int order_tier(const struct state *state, const struct job *job) {
    return tier_at(state, job, fair_position(state, job));
}

/* Without aging: that moves a job ahead in line, and sends nobody away. */
static int own_tier(const struct state *state, const struct job *job) {
    return tier_at(state, job, state_priority_level(job->r.priority));
}

bool order_may_ask(const struct state *state, const struct job *job) {
    int64_t waited_us = state->r.time_us - job->r.since_us;

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

    return job->r.since_us + state->r.min_run_us / 2 * halves;
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

static bool runs(const struct job *job) {
    return job->r.state == JOB_STATE_RUNNING && job->r.wanted == WANTED_RUN &&
           job->r.phase == DESIRED_PHASE_RUN;
}

/* How long it runs before it may be disturbed. For a job that has waited for too long hardly at
 * all, else a stream of short jobs could keep it waiting for ever. */
static int64_t least_run_us(const struct state *state, const struct job *running, bool too_long) {
    if (too_long)
        return state->r.min_run_us / ASK_GANG;
    return state->r.min_run_us * (is_gang(running) ? 1 : SINGLE_MIN_RUNS);
}

bool order_may_give_way(const struct state *state, const struct job *running) {
    return runs(running) &&
           state->r.time_us - running->r.running_us >= least_run_us(state, running, true);
}

enum order_way order_gives_way(const struct state *state, const struct job *running,
                               const struct job *to) {
    int64_t min_run_us = state->r.min_run_us, waited_us = state->r.time_us - to->r.since_us;
    bool over = running->r.over == 1; // what it has is others' due, whatever its priority
    bool above = running->r.priority > to->r.priority && !over;
    bool too_long = waited_us >= TOO_LONG * min_run_us &&
                    (over || fair_position(state, running) >= fair_position(state, to));

    if (!runs(running) ||
        state->r.time_us - running->r.running_us < least_run_us(state, running, too_long))
        return ORDER_STAYS;
    if (too_long)
        return ORDER_GIVES_WAY;
    /* Many nodes for one: only for a higher priority, and not at once. */
    if (is_gang(running) && !is_gang(to))
        return waited_us >= min_run_us && (over || running->r.priority < to->r.priority)
                   ? ORDER_GIVES_WAY
                   : ORDER_STAYS;
    bool never_ran =
        to->r.started_us == S_ABSENT && state->r.time_us - to->r.submitted_us >= min_run_us;
    int tier = own_tier(state, running), to_tier = own_tier(state, to);
    if (tier > to_tier || (tier == to_tier && running->r.id > to->r.id && never_ran))
        return ORDER_GIVES_WAY;
    bool gains = takes_whole_nodes(state, to) && order_gpus(running) < order_gpus(to);
    return gains && !above && waited_us >= min_run_us ? ORDER_FOR_GAIN : ORDER_STAYS;
}

int64_t order_loss(const struct state *state, const struct job *running) {
    int64_t saved_us = MAX(running->r.ckpt_us, running->r.running_us);

    return state->r.time_us - saved_us + ORDER_RESTART_US;
}

bool *order_blocked(struct order_blocked *blocked, const struct state *state,
                    const struct place_need *need) {
    if (need->reserve)
        return &blocked->reserves[state_reserve_find(state, need->reserve) - state->reserves];
    return &blocked->groups[need->group];
}
