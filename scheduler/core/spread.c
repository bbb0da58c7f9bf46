#include "scheduler/core/spread.h"

struct spread spread_of(const struct state *state, const struct place_node *nodes, int64_t n) {
    struct spread spread = {1, 1};

    for (int64_t i = 1; i < n; i++) {
        const struct node *node = state->nodes[nodes[i].node];
        const struct node *before = state->nodes[nodes[i - 1].node];
        spread.zones += node->zone != before->zone;
        spread.leaves += node->r.leaf != before->r.leaf;
    }
    return spread;
}

int spread_compare(struct spread a, struct spread b) {
    if (a.zones != b.zones)
        return a.zones < b.zones ? -1 : 1;
    return a.leaves < b.leaves ? -1 : a.leaves > b.leaves;
}

struct spread spread_choose(const struct state *state, const struct place_need *need, int64_t n,
                            int64_t *in_zone, struct place_scratch *scratch) {
    bool may_cross = need->cross_zones && state->r.cross_zone_jobs > 0;
    size_t leaf_bytes = (size_t)state->n_leaves * sizeof *scratch->in_leaf;
    struct spread spread = {0};
    uint64_t zones = 0;

    if (n >= need->nodes &&
        place_choose(state, in_zone, scratch->in_leaf, need->nodes, may_cross, scratch->take)) {
        for (int leaf = 0; leaf < state->n_leaves; leaf++) {
            if (!scratch->take[leaf])
                continue;
            spread.leaves++;
            zones |= UINT64_C(1) << state->leaves[leaf].zone;
        }
        spread.zones = __builtin_popcountll(zones);
    }
    memset(scratch->in_leaf, 0, leaf_bytes);
    memset(scratch->take, 0, leaf_bytes);
    return spread;
}

struct spread spread_fewest(const struct state *state, const struct place_need *need,
                            struct place_scratch *scratch) {
    const struct state_group *group = &state->groups[need->group].r;
    int64_t in_zone[ZONES_MAX] = {0}, n = 0;

    _cleanup_free_ uint64_t *spares = need->recovers ? NULL : spare_map(state, true);

    place_scratch_fit(scratch, state);
    for (size_t i = 0; i < group->nodes.n; i++) {
        const struct node *node = state->nodes[group->nodes.items[i]];
        if (!state_node_usable(node) || node->reserved != need->reserve ||
            !place_large_enough(need, node) || spare_marked(spares, (int)group->nodes.items[i]))
            continue;
        scratch->in_leaf[node->r.leaf]++;
        in_zone[node->zone]++;
        n++;
    }
    return spread_choose(state, need, n, in_zone, scratch);
}
