#include "scheduler/core/apart.h"
#include "scheduler/core/array.h"
#include "scheduler/core/eligible.h"

/* What a step keeps away from. */
enum { STEP_LEAVES, STEP_NODES, STEP_NOTHING, N_STEPS };

static void mark(uint64_t *map, int node) {
    map[node >> 6] |= UINT64_C(1) << (node & 63);
}

static void mark_job(struct apart *apart, const struct job *job, bool *in_leaf) {
    for (size_t i = 0; i < job->r.allocs.n; i++) {
        int number = (int)job->r.allocs.items[i].node;
        const struct node *node = apart->state->nodes[number];
        if (job->r.allocs.items[i].gone)
            continue;
        mark(apart->nodes, number);
        in_leaf[node->r.leaf] = true;
        apart->in_zone[node->zone]++;
    }
}

void apart_begin(struct apart *apart, const struct state *state, const struct job *self,
                 uint64_t zones) {
    const struct series *series = eligible_series(state, &self->r.spec);
    size_t n_words = ((size_t)state->n_nodes + 63) / 64;
    _cleanup_free_ bool *in_leaf = hai_new_array(bool, (size_t)state->n_leaves + 1);

    *apart = (struct apart){.state = state,
                            .step = N_STEPS,
                            .leaves = hai_new_array(uint64_t, n_words),
                            .nodes = hai_new_array(uint64_t, n_words)};
    for (int zone = 0; zone < state->n_zones; zone++)
        apart->all |= zones & UINT64_C(1) << zone;
    apart->left = apart->all;
    for (const struct job *job = series ? series->first : NULL; job; job = job->series_next) {
        const struct job *one = job;
        do {
            if (one != self && one->r.spec.anti_affinity == 1)
                mark_job(apart, one, in_leaf);
        } while (array_is(job) && (one = array_next_open(job, one)));
    }
    for (int i = 0; i < state->n_nodes; i++)
        if (in_leaf[state->nodes[i]->r.leaf])
            mark(apart->leaves, i);
}

void apart_end(struct apart *apart) {
    free(apart->leaves);
    free(apart->nodes);
}

/* Those of the zones left that have the fewest of its like. */
static uint64_t best_zones(const struct apart *apart) {
    int64_t fewest = INT64_MAX;
    uint64_t best = 0;

    for (int zone = 0; zone < ZONES_MAX; zone++) {
        uint64_t bit = UINT64_C(1) << zone;
        if (!(apart->left & bit) || apart->in_zone[zone] > fewest)
            continue;
        best = apart->in_zone[zone] < fewest ? bit : best | bit;
        fewest = apart->in_zone[zone];
    }
    return best;
}

bool apart_next(struct apart *apart) {
    if (apart->step == N_STEPS) {
        if (!apart->left)
            return false;
        apart->zones = best_zones(apart);
        apart->left &= ~apart->zones;
        apart->step = STEP_LEAVES;
    }
    apart->without = apart->step == STEP_LEAVES  ? apart->leaves
                     : apart->step == STEP_NODES ? apart->nodes
                                                 : NULL;
    /* The last step of all is for who may span zones, too. */
    if (apart->step++ == STEP_NOTHING && !apart->left)
        apart->zones = apart->all;
    return true;
}
