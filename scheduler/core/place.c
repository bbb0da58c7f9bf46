#include "scheduler/core/place.h"
#include "scheduler/core/apart.h"

#include <stdio.h>

struct place_candidate {
    int node;
    int zone;
    int leaf;
    int left; // GPUs that stay free
    uint32_t free;
};

/* In strict order a job that has saved before may be disturbed after this time. */
#define SAVED_LASTS_US (INT64_C(1800) * 1000000)

/* A job that is not over when a reservation takes its nodes is suspended. Where jobs share time
 * they are used to that after min_run; else only one that has a checkpoint may be, others must be
 * over before: by their time limit, since nothing else is sure. */
static int64_t lasts_us(const struct state *state, const struct job *job) {
    int64_t limit_us =
        job->r.time_limit_us == S_ABSENT ? INT64_MAX : MAX(job->r.time_limit_us - job->r.ran_us, 0);

    if (!state->reserve_planned)
        return 0;
    if (state->r.min_run_us != S_ABSENT)
        return MIN(limit_us, state->r.min_run_us);
    return job->r.ckpt_us == S_ABSENT ? limit_us : MIN(limit_us, SAVED_LASTS_US);
}

struct place_need place_need_of(const struct state *state, const struct job *job) {
    const struct entry_job_spec *spec = &job->r.spec;

    return (struct place_need){
        .group = job->group,
        .zones = job->zones,
        .nodes = spec->nodes,
        .gpus_per_node = spec->gpus_per_node,
        .cpus_per_node = job->cpus_per_node,
        .memory_per_node_bytes = spec->memory_per_node_bytes,
        .cross_zones = spec->cross_zones,
        .recovers = job->r.state == JOB_STATE_RECOVERING,
        .reserve = MAX(job->r.reserve, 0),
        .lasts_us = lasts_us(state, job),
        .avoid = job->r.avoid.items,
        .n_avoid = job->r.avoid.n,
        .keeps_apart = spec->anti_affinity == 1,
        .self = job,
    };
}

void place_scratch_free(struct place_scratch *scratch) {
    free(scratch->nodes);
    free(scratch->candidates);
    free(scratch->in_leaf);
    free(scratch->take);
    free(scratch->spares);
    *scratch = (struct place_scratch){0};
}

void place_scratch_fit(struct place_scratch *scratch, const struct state *state) {
    if (scratch->n_max < state->n_nodes) {
        scratch->n_max = state->n_nodes;
        scratch->nodes =
            hai_realloc_array(scratch->nodes, (size_t)state->n_nodes, sizeof *scratch->nodes);
        scratch->candidates = hai_realloc_array(scratch->candidates, (size_t)state->n_nodes,
                                                sizeof *scratch->candidates);
    }
    if (scratch->n_leaves_max < state->n_leaves) {
        free(scratch->in_leaf);
        free(scratch->take);
        scratch->n_leaves_max = state->n_leaves;
        scratch->in_leaf = hai_new_array(int64_t, (size_t)state->n_leaves);
        scratch->take = hai_new_array(int64_t, (size_t)state->n_leaves);
    }
}

static bool in_zones(const struct place_need *need, const struct node *node) {
    return need->zones & UINT64_C(1) << node->zone;
}

/* Room for one node of the gang? *ret_free: its free GPUs. */
static bool has_room(const struct state *state, const struct place_need *need, int number,
                     uint32_t *ret_free) {
    const struct node *node = state->nodes[number];
    uint32_t free_gpus = state_gpus_free(node);

    *ret_free = free_gpus;
    return state_node_usable(node) && node->reserved == need->reserve &&
           !place_too_soon(need, node->coming_us, state->r.time_us) && in_zones(need, node) &&
           __builtin_popcount(free_gpus) >= need->gpus_per_node &&
           node->cpus_free >= need->cpus_per_node &&
           (!node->r.memory_bytes || node->memory_free >= need->memory_per_node_bytes);
}

static bool avoided(const struct place_need *need, int node) {
    for (size_t i = 0; i < need->n_avoid; i++)
        if (need->avoid[i] == node)
            return true;
    return false;
}

bool place_fits(const struct state *state, const struct place_need *need, int number,
                uint32_t gpus) {
    struct place_need now = *need;
    uint32_t free_gpus;

    now.lasts_us = 0;
    return has_room(state, &now, number, &free_gpus) && !(gpus & ~free_gpus) &&
           __builtin_popcount(gpus) == need->gpus_per_node &&
           (state->nodes[number]->groups & UINT64_C(1) << need->group);
}

/* Fewest islands too many, fullest node, fewest islands broken. */
static int64_t order_key(uint32_t free_gpus, uint32_t gpus, int64_t nvlink) {
    int cost = gpus_cost(free_gpus, gpus, nvlink);

    return (cost / GPUS_APART * GPUS_APART + __builtin_popcount(free_gpus)) * GPUS_APART +
           cost % GPUS_APART;
}

static int find_one(const struct state *state, const struct place_need *need, bool avoid,
                    struct place_scratch *scratch) {
    const struct state_group *group = &state->groups[need->group].r;
    int64_t best_key = INT64_MAX;

    for (size_t i = 0; i < group->nodes.n; i++) {
        int number = (int)group->nodes.items[i];
        const struct node *node = state->nodes[number];
        uint32_t free_gpus;
        if (!has_room(state, need, number, &free_gpus) || spare_marked(scratch->spares, number) ||
            spare_marked(need->without, number) || (avoid && avoided(need, number)))
            continue;
        uint32_t gpus = gpus_choose(free_gpus, need->gpus_per_node, node->r.nvlink);
        int64_t key = need->gpus_per_node
                          ? order_key(free_gpus, gpus, node->r.nvlink)
                          : (node->r.gpus ? 2 * NODE_CPUS_MAX : NODE_CPUS_MAX) - node->cpus_free;
        if (key < best_key) {
            best_key = key;
            scratch->nodes[0] = (struct place_node){number, gpus};
        }
    }
    return best_key == INT64_MAX ? -ENOSPC : 0;
}

/* Zone, leaf, fullest first, number. */
static int compare_candidates(const void *pa, const void *pb) {
    const struct place_candidate *a = pa, *b = pb;

    if (a->zone != b->zone)
        return a->zone < b->zone ? -1 : 1;
    if (a->leaf != b->leaf)
        return a->leaf < b->leaf ? -1 : 1;
    if (a->left != b->left)
        return a->left < b->left ? -1 : 1;
    return a->node < b->node ? -1 : a->node > b->node;
}

static size_t collect(const struct state *state, const struct place_need *need, bool avoid,
                      struct place_scratch *scratch) {
    const struct state_group *group = &state->groups[need->group].r;
    size_t n = 0;

    for (size_t i = 0; i < group->nodes.n; i++) {
        int number = (int)group->nodes.items[i];
        const struct node *node = state->nodes[number];
        uint32_t free_gpus;
        if (!has_room(state, need, number, &free_gpus) || spare_marked(scratch->spares, number) ||
            spare_marked(need->without, number) || (avoid && avoided(need, number)))
            continue;
        scratch->candidates[n++] = (struct place_candidate){
            .node = number,
            .zone = node->zone,
            .leaf = (int)node->r.leaf,
            .left = __builtin_popcount(free_gpus) - (int)need->gpus_per_node,
            .free = free_gpus,
        };
    }
    return n;
}

/* How a gang would lie in some zones. */
struct zone_fit {
    int leaves;   // leaves it spans
    int64_t room; // candidates left over in the last of them
};

/* The smallest leaf of the zones with at least that many candidates and, of equals, the first; or
 * the largest and, of equals, the last: single nodes are taken from the first, so that large gangs
 * and small jobs start from both ends. -1: none. */
static int best_leaf(const struct state *state, uint64_t zones, const int64_t *in_leaf,
                     const int64_t *take, int64_t least, bool smallest) {
    int best = -1;

    for (int leaf = 0; leaf < state->n_leaves; leaf++) {
        if (!(zones & UINT64_C(1) << state->leaves[leaf].zone) || take[leaf] ||
            in_leaf[leaf] < least)
            continue;
        if (best < 0 || (smallest ? in_leaf[leaf] < in_leaf[best] : in_leaf[leaf] >= in_leaf[best]))
            best = leaf;
    }
    return best;
}

/* Largest leaves first until the rest fits in one: then the smallest that takes it. take[leaf] says
 * how many of each leaf. */
static struct zone_fit fit_zones(const struct state *state, uint64_t zones, const int64_t *in_leaf,
                                 int64_t n, int64_t *take) {
    struct zone_fit fit = {0};

    while (n > 0) {
        int leaf = best_leaf(state, zones, in_leaf, take, n, true);
        if (leaf < 0)
            leaf = best_leaf(state, zones, in_leaf, take, 1, false);
        assert(leaf >= 0);
        take[leaf] = MIN(n, in_leaf[leaf]);
        fit.room = in_leaf[leaf] - take[leaf];
        fit.leaves++;
        n -= take[leaf];
    }
    return fit;
}

static void clear_zone(const struct state *state, int zone, int64_t *take) {
    for (int leaf = 0; leaf < state->n_leaves; leaf++)
        if (state->leaves[leaf].zone == zone)
            take[leaf] = 0;
}

/* The zone that takes the whole gang best; take is filled for it. -1: none does. */
static int choose_zone(const struct state *state, const int64_t *in_zone, const int64_t *in_leaf,
                       int64_t n, int64_t *take) {
    struct zone_fit best = {0};
    int chosen = -1;

    for (int zone = 0; zone < state->n_zones; zone++) {
        if (in_zone[zone] < n)
            continue;
        struct zone_fit fit = fit_zones(state, UINT64_C(1) << zone, in_leaf, n, take);
        bool better =
            chosen < 0 || fit.leaves < best.leaves ||
            (fit.leaves == best.leaves && fit.room < best.room) ||
            (fit.leaves == best.leaves && fit.room == best.room && in_zone[zone] < in_zone[chosen]);
        int loser = better ? chosen : zone;
        if (loser >= 0)
            clear_zone(state, loser, take);
        if (better) {
            best = fit;
            chosen = zone;
        }
    }
    return chosen;
}

/* Largest zones first until the rest fits in one: then the smallest that takes it. Within these the
 * fewest leaves, whichever zone they are of: to use up one zone first would cost a leaf more. */
static bool cross_zones(const struct state *state, int64_t *in_zone, const int64_t *in_leaf,
                        int64_t n, int64_t *take) {
    uint64_t zones = 0;
    int64_t rest = n;

    while (rest > 0) {
        int last = -1, largest = -1;
        for (int zone = 0; zone < state->n_zones; zone++) {
            if (in_zone[zone] >= rest && (last < 0 || in_zone[zone] < in_zone[last]))
                last = zone;
            if (in_zone[zone] && (largest < 0 || in_zone[zone] > in_zone[largest]))
                largest = zone;
        }
        int zone = last >= 0 ? last : largest;
        if (zone < 0)
            return false;
        rest -= MIN(rest, in_zone[zone]);
        in_zone[zone] = 0;
        zones |= UINT64_C(1) << zone;
    }
    fit_zones(state, zones, in_leaf, n, take);
    return true;
}

bool place_choose(const struct state *state, int64_t *in_zone, const int64_t *in_leaf, int64_t n,
                  bool may_cross, int64_t *take) {
    return choose_zone(state, in_zone, in_leaf, n, take) >= 0 ||
           (may_cross && cross_zones(state, in_zone, in_leaf, n, take));
}

static int compare_nodes(const void *pa, const void *pb, void *data) {
    const struct state *state = data;
    int a = ((const struct place_node *)pa)->node, b = ((const struct place_node *)pb)->node;
    const struct node *node_a = state->nodes[a], *node_b = state->nodes[b];

    if (node_a->zone != node_b->zone)
        return node_a->zone < node_b->zone ? -1 : 1;
    if (node_a->r.leaf != node_b->r.leaf)
        return node_a->r.leaf < node_b->r.leaf ? -1 : 1;
    return a < b ? -1 : a > b;
}

void place_sort(const struct state *state, struct place_node *nodes, size_t n) {
    qsort_r(nodes, n, sizeof *nodes, compare_nodes, (void *)state);
}

/* The fullest candidates of each chosen leaf, in rank order. */
static void answer(const struct state *state, const struct place_need *need, size_t n,
                   struct place_scratch *scratch) {
    size_t n_chosen = 0;

    qsort(scratch->candidates, n, sizeof *scratch->candidates, compare_candidates);
    for (size_t i = 0; i < n; i++) {
        const struct place_candidate *candidate = &scratch->candidates[i];
        if (!scratch->take[candidate->leaf])
            continue;
        scratch->take[candidate->leaf]--;
        scratch->nodes[n_chosen++] = (struct place_node){
            candidate->node, gpus_choose(candidate->free, need->gpus_per_node,
                                         state->nodes[candidate->node]->r.nvlink)};
    }
    assert((int64_t)n_chosen == need->nodes);
    place_sort(state, scratch->nodes, n_chosen);
}

static int find_many(const struct state *state, const struct place_need *need, bool avoid,
                     struct place_scratch *scratch) {
    int64_t in_zone[ZONES_MAX] = {0};
    bool may_cross = need->cross_zones && state_may_cross(state, 0);
    size_t leaf_bytes = (size_t)state->n_leaves * sizeof *scratch->in_leaf;

    size_t n = collect(state, need, avoid, scratch);
    if ((int64_t)n < need->nodes)
        return -ENOSPC;
    for (size_t i = 0; i < n; i++) {
        scratch->in_leaf[scratch->candidates[i].leaf]++;
        in_zone[scratch->candidates[i].zone]++;
    }
    bool found =
        place_choose(state, in_zone, scratch->in_leaf, need->nodes, may_cross, scratch->take);
    if (found)
        answer(state, need, n, scratch);
    memset(scratch->in_leaf, 0, leaf_bytes);
    memset(scratch->take, 0, leaf_bytes);
    return found ? 0 : -ENOSPC;
}

static int find(const struct state *state, const struct place_need *need, bool avoid,
                struct place_scratch *scratch) {
    return need->nodes == 1 ? find_one(state, need, avoid, scratch)
                            : find_many(state, need, avoid, scratch);
}

static int find_any(const struct state *state, const struct place_need *need,
                    struct place_scratch *scratch) {
    int r = -ENOSPC;

    for (int avoid = need->n_avoid > 0; avoid >= 0 && r < 0; avoid--) {
        scratch->spares = spare_map(state, false);
        r = find(state, need, avoid, scratch);
        bool takes_spares = r < 0 && scratch->spares && need->recovers;
        free(TAKE_PTR(scratch->spares));
        if (takes_spares)
            r = find(state, need, avoid, scratch);
    }
    return r;
}

int place_find(const struct state *state, const struct place_need *need,
               struct place_scratch *scratch) {
    struct place_need step = *need;
    struct apart apart;
    int r = -ENOSPC;

    place_scratch_fit(scratch, state);
    if (!need->keeps_apart || !need->self)
        return find_any(state, need, scratch);
    apart_begin(&apart, state, need->self, need->zones);
    while (r < 0 && apart_next(&apart)) {
        step.zones = apart.zones;
        step.without = apart.without;
        r = find_any(state, &step, scratch);
    }
    apart_end(&apart);
    return r;
}

/* Without a number to print: often most nodes say the same. */
static void copy_text(const char *text, char *ret, size_t size) {
    size_t n = MIN(strlen(text), size - 1);

    memcpy(ret, text, n);
    ret[n] = 0;
}

bool place_node_free(const struct state *state, const struct place_need *need, int number,
                     char *ret, size_t size) {
    const struct node *node = state->nodes[number];
    int free_gpus = __builtin_popcount(state_gpus_free(node));

    ret[0] = 0;
    if (node->r.state != NODE_STATE_UP)
        (void)snprintf(ret, size, "is %s", node_state_text(node->r.state));
    else if (node->r.drained)
        copy_text("is drained", ret, size);
    else if (node->reserved != need->reserve)
        copy_text("is reserved", ret, size);
    else if (place_too_soon(need, node->coming_us, state->r.time_us))
        copy_text("is reserved soon", ret, size);
    else if (free_gpus < need->gpus_per_node && free_gpus)
        (void)snprintf(ret, size, "has %d free", free_gpus);
    else if (free_gpus < need->gpus_per_node)
        copy_text("is full", ret, size);
    else if (node->cpus_free < need->cpus_per_node)
        (void)snprintf(ret, size, "has %lld CPUs free", (long long)MAX(node->cpus_free, 0));
    else if (node->r.memory_bytes && node->memory_free < need->memory_per_node_bytes)
        (void)snprintf(ret, size, "has %lld MiB of memory free",
                       (long long)(MAX(node->memory_free, 0) >> 20));
    return !ret[0];
}

/* Is a node of that kind large enough when it is idle? */
static bool large_enough(const struct place_need *need, const struct node_kind *kind) {
    return need->zones & UINT64_C(1) << kind->zone && kind->gpus >= need->gpus_per_node &&
           kind->cpus >= need->cpus_per_node &&
           (!kind->memory_bytes || kind->memory_bytes >= need->memory_per_node_bytes);
}

bool place_large_enough(const struct place_need *need, const struct node *node) {
    struct node_kind kind = {node->zone, node->r.gpus, node->r.cpus, node->r.memory_bytes, 1};

    return !node->r.removed && large_enough(need, &kind);
}

/* Those of a reservation, whether it has begun or not. */
static int64_t count_reserved(const struct state *state, const struct place_need *need,
                              int64_t *in_zone) {
    const struct state_reserve *reserve = state_reserve_find(state, need->reserve);
    int64_t n = 0;

    for (size_t i = 0; reserve && i < reserve->nodes.n; i++) {
        const struct node *node = state->nodes[reserve->nodes.items[i]];
        if (!(node->groups & UINT64_C(1) << need->group) || !place_large_enough(need, node))
            continue;
        in_zone[node->zone]++;
        n++;
    }
    return n;
}

/* All nodes of the group that are large enough, whatever their state: every submission asks. The
 * last ones are reckoned as its spares, whichever are in service. */
static int64_t count_described(const struct state *state, const struct place_need *need,
                               int64_t *in_zone) {
    const struct group *group = &state->groups[need->group];
    int64_t n = 0, spares = need->recovers ? 0 : group->r.spares;

    if (need->reserve)
        return count_reserved(state, need, in_zone);
    for (int i = 0; i < group->n_kinds; i++) {
        if (!large_enough(need, &group->kinds[i]))
            continue;
        in_zone[group->kinds[i].zone] += group->kinds[i].n;
        n += group->kinds[i].n;
    }
    for (size_t i = group->r.nodes.n; spares > 0 && i-- > 0; spares--) {
        const struct node *node = state->nodes[group->r.nodes.items[i]];
        if (!place_large_enough(need, node))
            continue;
        in_zone[node->zone]--;
        n--;
    }
    return n;
}

/* Those of them that are in service; no more once a zone alone has enough. */
static int64_t count_usable(const struct state *state, const struct place_need *need,
                            int64_t *in_zone) {
    const struct state_group *group = &state->groups[need->group].r;
    _cleanup_free_ uint64_t *spares = need->recovers ? NULL : spare_map(state, true);
    int64_t n = 0;

    for (size_t i = 0; i < group->nodes.n; i++) {
        int number = (int)group->nodes.items[i];
        const struct node *node = state->nodes[number];
        if (!state_node_usable(node) || node->reserved != need->reserve ||
            place_too_soon(need, node->coming_us, state->r.time_us) ||
            !place_large_enough(need, node) || spare_marked(spares, number))
            continue;
        n++;
        if (++in_zone[node->zone] >= need->nodes)
            break;
    }
    return n;
}

static bool enough(const struct state *state, const struct place_need *need, int64_t n,
                   const int64_t *in_zone) {
    if (need->cross_zones && state->r.cross_zone_jobs > 0)
        return n >= need->nodes;
    for (int zone = 0; zone < state->n_zones; zone++)
        if (in_zone[zone] >= need->nodes)
            return true;
    return false;
}

bool place_could(const struct state *state, const struct place_need *need, bool usable) {
    int64_t in_zone[ZONES_MAX] = {0};
    int64_t n = usable ? count_usable(state, need, in_zone) : count_described(state, need, in_zone);

    return enough(state, need, n, in_zone);
}

int64_t place_same_until_us(const struct state *state, const struct place_need *need) {
    int64_t until_us = INT64_MAX;

    for (size_t i = 0; need->lasts_us && i < state->n_reserves; i++) {
        int64_t at_us = state->reserves[i].from_us - need->lasts_us + 1;
        if (at_us > state->r.time_us && state->reserves[i].from_us > state->r.time_us)
            until_us = MIN(until_us, at_us);
    }
    return until_us;
}

int place_possible(const struct state *state, const struct place_need *need, struct hai_err *err) {
    int64_t in_zone[ZONES_MAX] = {0};
    struct place_need plain = *need;
    const struct state_group *group = &state->groups[need->group].r;
    char what[128] = "";

    int64_t n = count_described(state, need, in_zone);
    plain.reserve = 0; // where it must fit if it still waits when its reservation is over
    if (enough(state, need, n, in_zone))
        return need->reserve ? place_possible(state, &plain, err) : 0;
    if (need->gpus_per_node)
        (void)snprintf(what, sizeof what, " with %lld GPU%s", (long long)need->gpus_per_node,
                       need->gpus_per_node == 1 ? "" : "s");
    size_t used = strlen(what);
    (void)snprintf(what + used, sizeof what - used, " and %lld CPU%s",
                   (long long)need->cpus_per_node, need->cpus_per_node == 1 ? "" : "s");
    used = strlen(what);
    char spares[64] = "";
    if (group->spares > 0 && !need->reserve)
        (void)snprintf(spares, sizeof spares, " beside %lld spare%s", (long long)group->spares,
                       group->spares == 1 ? "" : "s");
    if (need->memory_per_node_bytes)
        (void)snprintf(what + used, sizeof what - used, " and %lld MiB of memory",
                       (long long)(need->memory_per_node_bytes >> 20));
    if (n >= need->nodes)
        return hai_fail_at(err, -EINVAL, "impossible", "resources.nodes",
                           state->r.cross_zone_jobs > 0
                               ? "resources: {cross_zones: true} lets one run span zones"
                               : "no job may span zones here: cross_zone_jobs of the cluster is 0",
                           "needs %lld nodes%s in one zone; group %s has %lld over all zones%s",
                           (long long)need->nodes, what, group->name, (long long)n, spares);
    return hai_fail_at(err, -EINVAL, "impossible", "resources", NULL,
                       "needs %lld node%s%s%s; group %s has %lld such node%s%s%s%s",
                       (long long)need->nodes, need->nodes == 1 ? "" : "s", what,
                       need->nodes == 1 ? "" : " each", group->name, (long long)n,
                       n == 1 ? "" : "s", need->zones == UINT64_MAX ? "" : " in these zones",
                       need->reserve ? " in its reservation" : "", spares);
}

int place_job_possible(const struct state *state, const struct job *job, struct hai_err *err) {
    const struct entry_job_spec *spec = &job->r.spec;

    if (job->group < 0)
        return state_no_group(state, "resources.group", spec->group, err);
    for (size_t i = 0; i < spec->zones.n; i++)
        if (state_zone_find(state, spec->zones.items[i]) < 0)
            return state_no_zone(state, "resources.zones", spec->zones.items[i], err);
    if (spec->nodes * spec->ranks_per_node > JOB_RANKS_MAX)
        return hai_fail_at(err, -ERANGE, "too_many", "resources.ranks", NULL,
                           "%lld nodes with %lld ranks each; expected at most %d ranks",
                           (long long)spec->nodes, (long long)spec->ranks_per_node, JOB_RANKS_MAX);
    struct place_need need = place_need_of(state, job);
    return place_possible(state, &need, err);
}
