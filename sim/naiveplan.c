#include "sim/naiveplan.h"
#include "scheduler/core/apart.h"
#include "scheduler/core/backfill.h"
#include "scheduler/core/hold.h"

struct planned {
    const struct job *job;
    int64_t start_s, end_s;
    struct place_node *nodes;
    int64_t n_nodes;
    bool spans;
};

/* A job that holds a part of a node, until it ends. */
struct holding {
    const struct job *job;
    int64_t end_s;
};

struct naiveplan {
    const struct state *state;
    struct holding *holdings; // of node k from first[k] to first[k + 1] - 1
    size_t *first;
    int64_t now_s;
    struct planned plans[BACKFILL_PLANS_MAX]; // in the order of their starts
    size_t n;
};

struct left {
    int64_t gpus, cpus, memory_bytes;
};

void naiveplan_free(struct naiveplan *plans) {
    if (!plans)
        return;
    for (size_t i = 0; i < plans->n; i++)
        free(plans->plans[i].nodes);
    free(plans->holdings);
    free(plans->first);
    free(plans);
}

size_t naiveplan_n(const struct naiveplan *plans) {
    return plans->n;
}

static uint32_t gpus_of(const struct node *node, int64_t n) {
    return gpus_choose(state_gpus_free(node), n, node->r.nvlink);
}

static int64_t end_of(const struct naiveplan *plans, const struct job *job) {
    int64_t at_s = 0;

    if (job->r.phase == DESIRED_PHASE_RUN)
        at_s = job->r.until_us / HOLD_SECOND_US;
    else if (job->r.phase == DESIRED_PHASE_TERM)
        at_s = job->r.kill_at_us / HOLD_SECOND_US + 1;
    return MAX(at_s, plans->now_s);
}

/* Who holds what, counted job by job, and then in the order of the nodes. */
static void list_holdings(struct naiveplan *plans) {
    const struct state *state = plans->state;
    size_t n_nodes = (size_t)state->n_nodes;

    plans->first = hai_new_array(size_t, n_nodes + 2);
    for (const struct job *job = state->live_first; job; job = job->live_next)
        for (size_t i = 0; i < job->r.allocs.n; i++)
            plans->first[job->r.allocs.items[i].node + 2] +=
                !job->r.allocs.items[i].gone && !job->r.allocs.items[i].released;
    for (size_t k = 2; k < n_nodes + 2; k++)
        plans->first[k] += plans->first[k - 1];
    plans->holdings = hai_new_array(struct holding, plans->first[n_nodes + 1] + 1);
    for (const struct job *job = state->live_first; job; job = job->live_next)
        for (size_t i = 0; i < job->r.allocs.n; i++)
            if (!job->r.allocs.items[i].gone && !job->r.allocs.items[i].released)
                plans->holdings[plans->first[job->r.allocs.items[i].node + 1]++] =
                    (struct holding){job, end_of(plans, job)};
}

struct naiveplan *naiveplan_new(const struct state *state) {
    struct naiveplan *plans = hai_new(struct naiveplan);

    plans->state = state;
    plans->now_s = state->r.time_us / HOLD_SECOND_US;
    list_holdings(plans);
    return plans;
}

static void take(struct left *left, const struct job *job, int64_t sign) {
    left->gpus -= sign * job->r.spec.gpus_per_node;
    left->cpus -= sign * job->cpus_per_node;
    left->memory_bytes -= sign * job->r.spec.memory_per_node_bytes;
}

static bool on_node(const struct planned *plan, int node) {
    for (int64_t i = 0; i < plan->n_nodes; i++)
        if (plan->nodes[i].node == node)
            return true;
    return false;
}

/* What is free of a node at a time. */
static struct left left_at(const struct naiveplan *plans, int number, int64_t at_s) {
    const struct node *node = plans->state->nodes[number];
    struct left left = {__builtin_popcount(state_gpus_free(node)), node->cpus_free,
                        node->memory_free};

    for (size_t i = plans->first[number]; i < plans->first[number + 1]; i++)
        if (plans->holdings[i].end_s <= at_s)
            take(&left, plans->holdings[i].job, -1);
    for (size_t i = 0; i < plans->n; i++)
        if (plans->plans[i].start_s <= at_s && at_s < plans->plans[i].end_s &&
            on_node(&plans->plans[i], number))
            take(&left, plans->plans[i].job, 1);
    return left;
}

static bool enough(const struct naiveplan *plans, const struct job *job, int number,
                   struct left left) {
    return left.gpus >= job->r.spec.gpus_per_node && left.cpus >= job->cpus_per_node &&
           (!plans->state->nodes[number]->r.memory_bytes ||
            left.memory_bytes >= job->r.spec.memory_per_node_bytes);
}

static bool enough_for(const struct naiveplan *plans, const struct job *job, int number,
                       int64_t at_s) {
    if (!enough(plans, job, number, left_at(plans, number, at_s)))
        return false;
    for (size_t i = 0; i < plans->n; i++) {
        int64_t start_s = plans->plans[i].start_s;
        if (start_s > at_s && start_s < at_s + job->hold_s &&
            !enough(plans, job, number, left_at(plans, number, start_s)))
            return false;
    }
    return true;
}

static bool may_cross(const struct naiveplan *plans, const struct job *job, int64_t at_s) {
    int64_t n = 0;

    for (const struct job *one = plans->state->live_first; one; one = one->live_next)
        n += one->spans && end_of(plans, one) > at_s;
    for (size_t i = 0; i < plans->n; i++)
        n += plans->plans[i].spans && plans->plans[i].end_s > at_s &&
             plans->plans[i].start_s < at_s + job->hold_s;
    return job->r.spec.cross_zones && n < plans->state->r.cross_zone_jobs;
}

static int descending(const void *pa, const void *pb) {
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;

    return a > b ? -1 : a < b;
}

/* How many of the largest numbers add up to n; 0: all do not. */
static int64_t fewest(const int64_t *sizes, int n_sizes, int64_t n) {
    _cleanup_free_ int64_t *sorted = hai_new_array(int64_t, (size_t)n_sizes + 1);

    memcpy(sorted, sizes, (size_t)n_sizes * sizeof *sizes);
    qsort(sorted, (size_t)n_sizes, sizeof *sorted, descending);
    for (int i = 0; i < n_sizes; i++) {
        n -= sorted[i];
        if (n <= 0)
            return i + 1;
    }
    return 0;
}

/* Leaves of some zones alone. */
static void of_zones(const struct state *state, const int64_t *in_leaf, uint64_t zones,
                     int64_t *ret) {
    for (int leaf = 0; leaf < state->n_leaves; leaf++)
        ret[leaf] = zones & UINT64_C(1) << state->leaves[leaf].zone ? in_leaf[leaf] : 0;
}

/* The last leaf is taken if with it the fewest leaves are still possible; and so on. */
static void choose_leaves(const struct state *state, int64_t *sizes, int64_t n, int64_t *take) {
    int64_t k = fewest(sizes, state->n_leaves, n);

    for (int leaf = state->n_leaves - 1; leaf >= 0 && n > 0; leaf--) {
        int64_t size = sizes[leaf];
        sizes[leaf] = 0;
        int64_t others = n > size ? fewest(sizes, leaf, n - size) : 0;
        if (!size || (n > size && (!others || others > k - 1)))
            continue;
        take[leaf] = MIN(size, n);
        n -= take[leaf];
        k--;
    }
}

/* Of all sets of zones with enough nodes one of the fewest zones, and of those the first. */
static uint64_t join_zones(const struct state *state, const int64_t *in_zone, int64_t n) {
    uint64_t best = 0;

    for (uint64_t set = 1; set < UINT64_C(1) << state->n_zones; set++) {
        int64_t nodes = 0;
        for (int zone = 0; zone < state->n_zones; zone++)
            nodes += set >> zone & 1 ? in_zone[zone] : 0;
        int more = best ? __builtin_popcountll(set) - __builtin_popcountll(best) : -1;
        uint64_t differ = set ^ best;
        if (nodes >= n && (more < 0 || (more == 0 && set & differ & -differ)))
            best = set;
    }
    return best;
}

static uint64_t choose_zones(const struct state *state, const int64_t *in_leaf, int64_t n) {
    _cleanup_free_ int64_t *sizes = hai_new_array(int64_t, (size_t)state->n_leaves);
    int64_t in_zone[ZONES_MAX] = {0}, best = 0;
    uint64_t zones = 0;

    for (int leaf = 0; leaf < state->n_leaves; leaf++)
        in_zone[state->leaves[leaf].zone] += in_leaf[leaf];
    for (int zone = 0; zone < state->n_zones; zone++) {
        of_zones(state, in_leaf, UINT64_C(1) << zone, sizes);
        int64_t leaves = fewest(sizes, state->n_leaves, n);
        if (leaves && (!best || leaves < best)) {
            best = leaves;
            zones = UINT64_C(1) << zone;
        }
    }
    return best ? zones : join_zones(state, in_zone, n);
}

static void choose(const struct naiveplan *plans, const struct job *job, const int *fit,
                   size_t n_fit, struct place_scratch *scratch) {
    const struct state *state = plans->state;
    size_t n_leaves = (size_t)state->n_leaves, n = 0;
    _cleanup_free_ int64_t *in_leaf = hai_new_array(int64_t, n_leaves);
    _cleanup_free_ int64_t *sizes = hai_new_array(int64_t, n_leaves);
    _cleanup_free_ int64_t *take_of = hai_new_array(int64_t, n_leaves);

    if (job->r.spec.nodes == 1) {
        size_t at = 0;
        while (!job->r.spec.gpus_per_node && at < n_fit && state->nodes[fit[at]]->r.gpus)
            at++;
        scratch->nodes[0] = (struct place_node){fit[at < n_fit ? at : 0], 0};
        return;
    }
    for (size_t i = 0; i < n_fit; i++)
        in_leaf[state->nodes[fit[i]]->r.leaf]++;
    of_zones(state, in_leaf, choose_zones(state, in_leaf, job->r.spec.nodes), sizes);
    choose_leaves(state, sizes, job->r.spec.nodes, take_of);
    for (size_t i = 0; i < n_fit; i++)
        if (take_of[state->nodes[fit[i]]->r.leaf]-- > 0)
            scratch->nodes[n++] = (struct place_node){fit[i], 0};
    place_sort(state, scratch->nodes, n);
}

/* Nodes that could begin at a time. */
static size_t list_fit(const struct naiveplan *plans, const struct job *job, bool avoid,
                       int64_t at_s, int *fit) {
    const struct state *state = plans->state;
    const struct state_group *group = &state->groups[job->group].r;
    bool recovers = job->r.state == JOB_STATE_RECOVERING;
    _cleanup_free_ uint64_t *now = recovers ? NULL : spare_map(state, false);
    _cleanup_free_ uint64_t *idle = recovers ? NULL : spare_map(state, true);
    struct place_need need = place_need_of(state, job);
    size_t n = 0;

    for (size_t i = 0; i < group->nodes.n; i++) {
        int number = (int)group->nodes.items[i];
        bool left_out = false;
        for (size_t k = 0; avoid && k < job->r.avoid.n; k++)
            left_out |= job->r.avoid.items[k] == number;
        if (left_out || state->nodes[number]->reserved != need.reserve ||
            at_s > hold_latest_s(&need, state->nodes[number]) ||
            !state_node_usable(state->nodes[number]) || spare_marked(idle, number) ||
            (at_s == plans->now_s && spare_marked(now, number)) ||
            !(job->zones & UINT64_C(1) << state->nodes[number]->zone) ||
            !enough_for(plans, job, number, at_s))
            continue;
        fit[n++] = number;
    }
    return n;
}

static bool suffices(const struct naiveplan *plans, const struct job *job, const int *fit,
                     size_t n_fit, int64_t at_s) {
    int64_t in_zone[ZONES_MAX] = {0};

    for (size_t i = 0; i < n_fit; i++)
        if (++in_zone[plans->state->nodes[fit[i]]->zone] >= job->r.spec.nodes)
            return true;
    return (int64_t)n_fit >= job->r.spec.nodes && may_cross(plans, job, at_s);
}

static int ascending(const void *pa, const void *pb) {
    return -descending(pa, pb);
}

/* Whatever is free is free from now on, or because something ends. */
static size_t list_times(const struct naiveplan *plans, int64_t **ret) {
    size_t n = 0, n_max = plans->n + 2;

    for (const struct job *job = plans->state->live_first; job; job = job->live_next)
        n_max++;
    int64_t *times = hai_new_array(int64_t, n_max);
    times[n++] = plans->now_s;
    times[n++] = plans->now_s + 1; // spares
    for (const struct job *job = plans->state->live_first; job; job = job->live_next)
        times[n++] = end_of(plans, job);
    for (size_t i = 0; i < plans->n; i++)
        if (plans->plans[i].end_s < HOLD_ENDLESS)
            times[n++] = plans->plans[i].end_s;
    qsort(times, n, sizeof *times, ascending);
    *ret = times;
    return n;
}

static int64_t earliest(const struct naiveplan *plans, const struct job *job, bool avoid,
                        struct place_scratch *scratch) {
    _cleanup_free_ int64_t *times = NULL;
    _cleanup_free_ int *fit = hai_new_array(int, (size_t)plans->state->n_nodes);
    size_t n = list_times(plans, &times);

    for (size_t i = 0; i < n; i++) {
        if (i && times[i] == times[i - 1])
            continue;
        size_t n_fit = list_fit(plans, job, avoid, times[i], fit);
        if (!suffices(plans, job, fit, n_fit, times[i]))
            continue;
        choose(plans, job, fit, n_fit, scratch);
        return times[i];
    }
    return -1;
}

/* Those with room now are enough: on them. */
static bool start_now(const struct naiveplan *plans, const struct job *job, bool avoid,
                      struct place_scratch *scratch) {
    const struct state *state = plans->state;
    _cleanup_free_ int *fit = hai_new_array(int, (size_t)state->n_nodes);
    struct place_need need = place_need_of(state, job);
    int64_t in_zone[ZONES_MAX] = {0};
    bool in_one = false;
    size_t n = 0, n_fit = list_fit(plans, job, avoid, plans->now_s, fit);

    for (size_t i = 0; i < n_fit; i++) {
        const struct node *node = state->nodes[fit[i]];
        if (__builtin_popcount(state_gpus_free(node)) < need.gpus_per_node ||
            !place_fits(state, &need, fit[i], gpus_of(node, need.gpus_per_node)))
            continue;
        in_one |= ++in_zone[node->zone] >= need.nodes;
        fit[n++] = fit[i];
    }
    if (!in_one && !((int64_t)n >= need.nodes && state_may_cross(state, 0) &&
                     may_cross(plans, job, plans->now_s)))
        return false;
    choose(plans, job, fit, n, scratch);
    for (int64_t i = 0; i < need.nodes; i++)
        scratch->nodes[i].gpus = gpus_of(state->nodes[scratch->nodes[i].node], need.gpus_per_node);
    return true;
}

int naiveplan_add(struct naiveplan *plans, const struct job *job, struct place_scratch *scratch,
                  int64_t *ret_at_s) {
    int64_t n = job->r.spec.nodes;
    bool spans = false;

    place_scratch_fit(scratch, plans->state);
    bool avoid = job->r.avoid.n > 0;
    int64_t at_s = earliest(plans, job, avoid, scratch);
    if (avoid && at_s != plans->now_s) {
        avoid = false;
        at_s = earliest(plans, job, false, scratch);
    }
    if (at_s < 0)
        return -ENOSPC;
    *ret_at_s = at_s;
    if (at_s == plans->now_s && start_now(plans, job, avoid, scratch))
        return 1;
    earliest(plans, job, avoid, scratch);
    for (int64_t i = 1; i < n; i++)
        spans |= plans->state->nodes[scratch->nodes[i].node]->zone !=
                 plans->state->nodes[scratch->nodes[0].node]->zone;
    size_t at = plans->n++;
    for (; at && plans->plans[at - 1].start_s > at_s; at--)
        plans->plans[at] = plans->plans[at - 1];
    plans->plans[at] = (struct planned){job,
                                        at_s,
                                        MIN(at_s + job->hold_s, HOLD_ENDLESS),
                                        hai_new_array(struct place_node, (size_t)n),
                                        n,
                                        spans};
    memcpy(plans->plans[at].nodes, scratch->nodes, (size_t)n * sizeof *scratch->nodes);
    return 0;
}

/* ---- who may pass ---- */

/* As many of the first plans are respected as begin before the job has ended, up to the next of 0,
 * 1, 2, 4, ... */
static size_t respected(const struct naiveplan *plans, const struct job *job) {
    size_t n = 0, up = 0;

    while (n < plans->n && plans->plans[n].start_s < plans->now_s + job->hold_s)
        n++;
    while (up < n)
        up = up ? 2 * up : 1;
    return MIN(up, plans->n);
}

/* The least that is free of a node at the starts of those plans that lie on it. */
static void limit_node(const struct naiveplan *plans, const struct job *job, int number,
                       struct node *node) {
    uint32_t has = state_gpus_free(node);
    struct left least = {__builtin_popcount(has), node->cpus_free, node->memory_free};

    for (size_t i = 0; i < respected(plans, job); i++) {
        if (!on_node(&plans->plans[i], number))
            continue;
        struct left left = left_at(plans, number, plans->plans[i].start_s);
        least.gpus = MIN(least.gpus, MAX(left.gpus, 0));
        least.cpus = MIN(least.cpus, left.cpus);
        least.memory_bytes = MIN(least.memory_bytes, left.memory_bytes);
    }
    node->gpus_held |= has & ~gpus_of(node, least.gpus);
    node->cpus_free = least.cpus;
    node->memory_free = least.memory_bytes;
}

/* Which nodes are spares is a matter of what is idle, not of what is planned. */
static void leave_out(const struct naiveplan *plans, const struct job *job, bool avoid, bool spares,
                      struct node *copies) {
    _cleanup_free_ uint64_t *map = spare_map(plans->state, false);

    for (int i = 0; i < plans->state->n_nodes; i++)
        copies[i].r.drained |= !spares && spare_marked(map, i);
    for (size_t i = 0; avoid && i < job->r.avoid.n; i++)
        copies[job->r.avoid.items[i]].r.drained = true;
}

static int find(const struct naiveplan *plans, const struct job *job, bool avoid, bool spares,
                const struct apart *apart, struct place_scratch *scratch) {
    struct state shadow = *plans->state;
    size_t n = (size_t)shadow.n_nodes, n_groups = (size_t)shadow.n_groups;
    _cleanup_free_ struct node *copies = hai_new_array(struct node, n);
    _cleanup_free_ struct node **nodes = hai_new_array(struct node *, n);
    _cleanup_free_ struct group *groups = hai_new_array(struct group, n_groups);
    struct place_need need = place_need_of(plans->state, job);

    need.n_avoid = 0;
    need.keeps_apart = false;
    need.zones = apart->zones;
    need.without = apart->without;
    for (size_t i = 0; i < n; i++) {
        copies[i] = *shadow.nodes[i];
        nodes[i] = &copies[i];
    }
    for (size_t i = 0; i < n_groups; i++) {
        groups[i] = shadow.groups[i];
        groups[i].r.spares = S_ABSENT;
    }
    shadow.nodes = nodes;
    shadow.groups = groups;
    leave_out(plans, job, avoid, spares, copies);
    for (size_t i = 0; i < n; i++)
        limit_node(plans, job, (int)i, &copies[i]);
    for (size_t i = 0; i < respected(plans, job); i++)
        shadow.n_cross_zone += plans->plans[i].spans;
    return place_find(&shadow, &need, scratch);
}

int naiveplan_find(const struct naiveplan *plans, const struct job *job,
                   struct place_scratch *scratch) {
    bool recovers = job->r.state == JOB_STATE_RECOVERING;
    bool keeps_apart = job->r.spec.anti_affinity == 1;
    struct apart apart = {.zones = job->zones};
    int r = -ENOSPC;

    if (keeps_apart)
        apart_begin(&apart, plans->state, job, job->zones);
    while (r < 0 && (!keeps_apart || apart_next(&apart))) {
        for (int avoid = job->r.avoid.n > 0; avoid >= 0 && r < 0; avoid--)
            for (int spares = 0; spares <= recovers && r < 0; spares++)
                r = find(plans, job, avoid, spares, &apart, scratch);
        if (!keeps_apart)
            break;
    }
    if (keeps_apart)
        apart_end(&apart);
    return r;
}
