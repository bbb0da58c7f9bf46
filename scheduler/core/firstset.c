#include "scheduler/core/firstset.h"

/* Leaves of some zones by how many nodes they have; the most nodes of one. */
static int64_t count_leaves(const struct state *state, int64_t *histogram, uint64_t zones,
                            const int64_t *in_leaf) {
    int64_t most = 0;

    for (int leaf = 0; leaf < state->n_leaves; leaf++)
        if (in_leaf[leaf] && zones & UINT64_C(1) << state->leaves[leaf].zone) {
            histogram[in_leaf[leaf]]++;
            most = MAX(most, in_leaf[leaf]);
        }
    return most;
}

/* How many nodes the k largest of them have; n: stop there. Returns how many leaves that took. */
static int64_t largest(const int64_t *histogram, int64_t most, int64_t k, int64_t n,
                       int64_t *ret_nodes) {
    int64_t n_leaves = 0, nodes = 0;

    for (int64_t size = most; size > 0 && n_leaves < k && nodes < n; size--) {
        int64_t wanted = MIN(histogram[size], k - n_leaves);
        wanted = MIN(wanted, (n - nodes + size - 1) / size);
        n_leaves += wanted;
        nodes += wanted * size;
    }
    *ret_nodes = nodes;
    return n_leaves;
}

static void clear_histogram(int64_t *histogram, int64_t most) {
    memset(histogram, 0, (size_t)(most + 1) * sizeof *histogram);
}

/* The fewest leaves of some zones that have n nodes. */
static int64_t fewest_leaves(const struct state *state, int64_t *histogram, uint64_t zones,
                             const int64_t *in_leaf, int64_t n) {
    int64_t nodes, most = count_leaves(state, histogram, zones, in_leaf);
    int64_t leaves = largest(histogram, most, INT64_MAX, n, &nodes);

    clear_histogram(histogram, most);
    return leaves;
}

/* The nodes of the k largest zones from one on. */
static int64_t largest_zones(const struct state *state, const int64_t *in_zone, int from,
                             int64_t k) {
    uint64_t taken = 0;
    int64_t nodes = 0;

    for (; k > 0; k--) {
        int most = -1;
        for (int zone = from; zone < state->n_zones; zone++)
            if (!(taken & UINT64_C(1) << zone) && (most < 0 || in_zone[zone] > in_zone[most]))
                most = zone;
        if (most < 0)
            break;
        taken |= UINT64_C(1) << most;
        nodes += in_zone[most];
    }
    return nodes;
}

/* The fewest zones, of those sets the first. */
static uint64_t join_zones(const struct state *state, const int64_t *in_zone, int64_t n) {
    int64_t k = 2;
    uint64_t zones = 0;

    while (largest_zones(state, in_zone, 0, k) < n)
        k++;
    for (int zone = 0; zone < state->n_zones && n > 0; zone++) {
        if (in_zone[zone] + largest_zones(state, in_zone, zone + 1, k - 1) < n)
            continue;
        n -= in_zone[zone];
        zones |= UINT64_C(1) << zone;
        k--;
    }
    return zones;
}

/* Zones for a gang: one, where it lies under the fewest leaves, the first of equals; else several.
 */
static uint64_t choose_zones(const struct state *state, int64_t *histogram, const int64_t *in_zone,
                             const int64_t *in_leaf, int64_t n) {
    int64_t best = INT64_MAX;
    uint64_t zones = 0;

    for (int zone = 0; zone < state->n_zones; zone++) {
        if (in_zone[zone] < n)
            continue;
        int64_t leaves = fewest_leaves(state, histogram, UINT64_C(1) << zone, in_leaf, n);
        if (leaves < best) {
            best = leaves;
            zones = UINT64_C(1) << zone;
        }
    }
    return best == INT64_MAX ? join_zones(state, in_zone, n) : zones;
}

/* The fewest leaves, of those sets the first from the end; single nodes come from the front. */
static void choose_leaves(const struct state *state, int64_t *histogram, uint64_t zones,
                          const int64_t *in_leaf, int64_t n, int64_t *take) {
    int64_t nodes, most = count_leaves(state, histogram, zones, in_leaf);
    int64_t k = largest(histogram, most, INT64_MAX, n, &nodes);

    for (int leaf = state->n_leaves - 1; leaf >= 0 && n > 0; leaf--) {
        if (!in_leaf[leaf] || !(zones & UINT64_C(1) << state->leaves[leaf].zone))
            continue;
        histogram[in_leaf[leaf]]--;
        int64_t rest = n - in_leaf[leaf];
        nodes = 0;
        if (rest > 0 && k > 1)
            largest(histogram, most, k - 1, rest, &nodes);
        if (rest > nodes)
            continue;
        take[leaf] = MIN(in_leaf[leaf], n);
        n -= take[leaf];
        k--;
    }
    assert(n == 0);
    clear_histogram(histogram, most);
}

/* One node: the first; for a job without GPUs the first without any. */
static void choose_one(const struct state *state, const struct place_need *need, const int *fit,
                       size_t n_fit, struct place_scratch *scratch) {
    int number = fit[0];

    for (size_t i = 0; !need->gpus_per_node && i < n_fit; i++)
        if (!state->nodes[fit[i]]->r.gpus) {
            number = fit[i];
            break;
        }
    scratch->nodes[0] = (struct place_node){number, 0};
}

void firstset_choose(const struct state *state, const struct place_need *need, const int *fit,
                     size_t n_fit, int64_t *histogram, struct place_scratch *scratch) {
    int64_t in_zone[ZONES_MAX] = {0}, n = 0;
    size_t leaf_bytes = (size_t)state->n_leaves * sizeof *scratch->in_leaf;

    if (need->nodes == 1) {
        choose_one(state, need, fit, n_fit, scratch);
        return;
    }
    for (size_t i = 0; i < n_fit; i++) {
        const struct node *node = state->nodes[fit[i]];
        scratch->in_leaf[node->r.leaf]++;
        in_zone[node->zone]++;
    }
    uint64_t zones = choose_zones(state, histogram, in_zone, scratch->in_leaf, need->nodes);
    choose_leaves(state, histogram, zones, scratch->in_leaf, need->nodes, scratch->take);
    for (size_t i = 0; i < n_fit; i++) {
        int64_t leaf = state->nodes[fit[i]]->r.leaf;
        if (!scratch->take[leaf])
            continue;
        scratch->take[leaf]--;
        scratch->nodes[n++] = (struct place_node){fit[i], 0};
    }
    assert(n == need->nodes);
    memset(scratch->in_leaf, 0, leaf_bytes);
    memset(scratch->take, 0, leaf_bytes);
    place_sort(state, scratch->nodes, (size_t)n);
}
