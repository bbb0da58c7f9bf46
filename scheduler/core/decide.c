#include "scheduler/core/decide.h"
#include "lib/pure/tlv.h"
#include "scheduler/core/place.h"

/* What is known of a group since the last look: its first job that fits on the nodes in service
 * does not fit now, and nothing can have changed that as long as these numbers stay. */
struct blocked {
    bool is;
    uint64_t freed;
    uint64_t ordered;
    uint64_t cluster_seq;
    int64_t looked_at; // or 0: all jobs up to this one fit nowhere, and block nobody
};

/* Shapes that were found not to fit even on idle nodes, within one run. */
enum { SHAPES = 16 };

struct decide {
    struct blocked groups[GROUPS_MAX];
    struct place_scratch scratch;
    struct place_taken taken;
    int n_nodes; // of the arrays of taken
    struct place_need hopeless[SHAPES];
    int n_hopeless;
};

struct decide *decide_new(void) {
    return hai_new(struct decide);
}

void decide_free(struct decide *d) {
    if (!d)
        return;
    place_scratch_free(&d->scratch);
    free(d->taken.gpus);
    free(d->taken.cpus);
    free(d->taken.memory);
    free(d);
}

void decide_list_clear(struct decide_list *list) {
    for (size_t i = 0; i < list->n; i++)
        buf_free(&list->items[i].payload);
    list->n = 0;
}

void decide_list_free(struct decide_list *list) {
    decide_list_clear(list);
    free(list->items);
    *list = (struct decide_list){0};
}

static struct decide_proposal *list_add(struct decide_list *list) {
    if (list->n == list->n_max) {
        list->n_max = MAX(2 * list->n_max, (size_t)16);
        list->items = hai_realloc_array(list->items, list->n_max, sizeof *list->items);
    }
    list->items[list->n] = (struct decide_proposal){0};
    return &list->items[list->n++];
}

static void reserve(struct decide *d, const struct state *state) {
    size_t n = (size_t)state->n_nodes;

    if (d->n_nodes == state->n_nodes)
        return;
    free(d->taken.gpus);
    free(d->taken.cpus);
    free(d->taken.memory);
    d->taken.gpus = hai_new_array(uint32_t, n);
    d->taken.cpus = hai_new_array(int64_t, n);
    d->taken.memory = hai_new_array(int64_t, n);
    d->n_nodes = state->n_nodes;
}

/* Propose a placement, and count its nodes as taken for the rest of this run. */
static void propose(struct decide *d, const struct state *state, const struct job *job,
                    const struct place_need *need, struct decide_list *ret) {
    struct entry_place place = {.job = job->r.id, .epoch = job->r.epoch};
    struct decide_proposal *proposal = list_add(ret);
    bool spans = false;

    place.nodes.n = (size_t)need->nodes;
    place.nodes.items = hai_new_array(struct entry_place_node, place.nodes.n);
    for (size_t i = 0; i < place.nodes.n; i++) {
        const struct place_node *at = &d->scratch.nodes[i];
        place.nodes.items[i] = (struct entry_place_node){state->nodes[at->node]->r.name, at->gpus};
        d->taken.gpus[at->node] |= at->gpus;
        d->taken.cpus[at->node] += need->cpus_per_node;
        d->taken.memory[at->node] += need->memory_per_node_bytes;
        spans |= state->nodes[at->node]->zone != state->nodes[d->scratch.nodes[0].node]->zone;
    }
    d->taken.cross += spans;
    proposal->kind = ENTRY_PLACE;
    tlv_encode(entry_place_schema(), &place, &proposal->payload);
    free(place.nodes.items);
}

static bool same_shape(const struct place_need *a, const struct place_need *b) {
    return a->group == b->group && a->zones == b->zones && a->nodes == b->nodes &&
           a->gpus_per_node == b->gpus_per_node && a->cpus_per_node == b->cpus_per_node &&
           a->memory_per_node_bytes == b->memory_per_node_bytes && a->cross_zones == b->cross_zones;
}

/* Found hopeless before in this run: what could not start on idle nodes fits nowhere now. */
static bool known_hopeless(const struct decide *d, const struct place_need *need) {
    for (int i = 0; i < MIN(d->n_hopeless, (int)SHAPES); i++)
        if (same_shape(&d->hopeless[i], need))
            return true;
    return false;
}

/* Could it not even start on the nodes in service if they were idle? Then it blocks nobody. */
static bool is_hopeless(struct decide *d, const struct state *state,
                        const struct place_need *need) {
    if (known_hopeless(d, need))
        return true;
    if (place_could(state, need, true))
        return false;
    d->hopeless[d->n_hopeless++ % SHAPES] = *need;
    return true;
}

static bool unchanged(const struct blocked *b, const struct state *state, int g) {
    return b->freed == state->groups[g].freed && b->ordered == state->groups[g].ordered &&
           b->cluster_seq == state->cluster_seq;
}

static void remember(struct decide *d, const struct state *state, int g, bool is_blocked,
                     int64_t looked_at) {
    d->groups[g] = (struct blocked){is_blocked, state->groups[g].freed, state->groups[g].ordered,
                                    state->cluster_seq, looked_at};
}

/* Where to begin: NULL if the group is still blocked, behind the jobs that are known to fit
 * nowhere, or at its first. A job that left the queue meanwhile has changed its order. */
static struct job *first_to_look_at(const struct decide *d, const struct state *state, int g) {
    const struct blocked *b = &d->groups[g];
    const struct job *job = b->looked_at ? state_job_find(state, b->looked_at) : NULL;

    if (!unchanged(b, state, g))
        return state_queue_first(&state->groups[g]);
    if (b->is)
        return NULL;
    return job && job->queued ? state_queue_next(&state->groups[g], job)
                              : state_queue_first(&state->groups[g]);
}

/* The group whose next job comes first; -1: all are at their end or blocked. */
static int next_group(struct job *const *heads, int n) {
    int best = -1;

    for (int g = 0; g < n; g++)
        if (heads[g] && (best < 0 || state_queue_before(heads[g], heads[best])))
            best = g;
    return best;
}

size_t decide_run(struct decide *d, const struct state *state, struct decide_list *ret) {
    struct job *heads[GROUPS_MAX];
    size_t n = 0;
    int g;

    for (g = 0; g < state->n_groups; g++)
        heads[g] = first_to_look_at(d, state, g);
    if (next_group(heads, state->n_groups) < 0)
        return 0;
    reserve(d, state);
    d->n_hopeless = 0;
    while (n < DECIDE_PROPOSALS_MAX && (g = next_group(heads, state->n_groups)) >= 0) {
        const struct job *job = heads[g];
        struct place_need need = place_need_of(job);
        heads[g] = state_queue_next(&state->groups[g], job);
        if (!known_hopeless(d, &need) && place_find(state, &need, &d->taken, &d->scratch) == 0) {
            propose(d, state, job, &need, ret);
            n++;
        } else if (!is_hopeless(d, state, &need)) {
            heads[g] = NULL;
            if (n == 0) // else what stands in its way may be proposals that come to nothing
                remember(d, state, g, true, 0);
        } else if (n == 0) {
            remember(d, state, g, false, job->r.id);
        }
    }
    if (n) { // nodes are taken only until the proposals are applied
        memset(d->taken.gpus, 0, (size_t)state->n_nodes * sizeof *d->taken.gpus);
        memset(d->taken.cpus, 0, (size_t)state->n_nodes * sizeof *d->taken.cpus);
        memset(d->taken.memory, 0, (size_t)state->n_nodes * sizeof *d->taken.memory);
        d->taken.cross = 0;
    }
    return n;
}
