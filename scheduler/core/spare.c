#include "scheduler/core/spare.h"

bool spare_any(const struct state *state) {
    for (int g = 0; g < state->n_groups; g++)
        if (state->groups[g].r.spares > 0)
            return true;
    return false;
}

bool spare_idle(const struct node *node) {
    return node->cpus_free == node->r.cpus && !node->gpus_held && !node->gpus_claimed;
}

void spare_mark(const struct state *state, bool as_idle, uint64_t *ret) {
    for (int g = 0; g < state->n_groups; g++) {
        const struct state_group *group = &state->groups[g].r;
        int64_t left = group->spares;
        for (size_t i = group->nodes.n; i-- > 0 && left > 0;) {
            int number = (int)group->nodes.items[i];
            const struct node *node = state->nodes[number];
            if (!state_node_usable(node) || node->reserved || (!as_idle && !spare_idle(node)))
                continue;
            ret[number >> 6] |= UINT64_C(1) << (number & 63);
            left--;
        }
    }
}

uint64_t *spare_map(const struct state *state, bool as_idle) {
    if (!spare_any(state))
        return NULL;
    uint64_t *map = hai_new_array(uint64_t, ((size_t)state->n_nodes + 63) / 64);
    spare_mark(state, as_idle, map);
    return map;
}
