#include "scheduler/core/room.h"
#include "scheduler/core/apart.h"
#include <limits.h>

/* What is free on a node that may be used now; nothing on any other. */
struct room_node {
    int64_t cpus;
    int64_t memory;
    uint32_t gpus; // set
    int level;     // free GPUs; -1: not usable
    bool idle;     // usable, and nothing is taken of it
};

/* What reservations want of a node. */
struct room_keep {
    int64_t reserve;   // number of the one that is active; 0: none
    int64_t coming_us; // when the next one begins; 0: none does
};

struct undo {
    int number;
    struct room_node was;
};

struct room {
    int n_nodes;
    size_t n_words; // of each bitmap
    struct room_node *nodes;
    uint64_t *at_least[NODE_GPUS_MAX + 2]; // usable nodes with that many free GPUs; the last: none
    uint64_t *in_group[GROUPS_MAX];
    uint64_t *in_zone[ZONES_MAX];
    uint64_t *idle;
    uint64_t *spares;   // of a search; NULL: no group keeps any
    uint64_t *reserved; // nodes that some reservation has
    struct room_keep *keeps;
    int64_t time_us;
    uint64_t cluster_seq; // of the state when the bitmaps were made
    uint64_t n_touched;   // of the state that were looked at
    uint64_t service;     // grows when nodes come into service or go out of it
    int64_t cross;        // gangs taken that span zones
    int *taken;           // nodes that differ from the state
    size_t n_taken, n_taken_max;
    bool trial;
    struct undo *undo; // what nodes were before the trial changed them
    size_t n_undo, n_undo_max;
    int64_t undo_cross;
};

static void free_maps(struct room *room) {
    for (int i = 0; i < NODE_GPUS_MAX + 2; i++)
        free(room->at_least[i]);
    for (int i = 0; i < GROUPS_MAX; i++)
        free(room->in_group[i]);
    for (int i = 0; i < ZONES_MAX; i++)
        free(room->in_zone[i]);
    free(room->idle);
    free(room->spares);
    free(room->nodes);
    free(room->reserved);
    free(room->keeps);
    room->idle = room->spares = NULL;
    memset(room->at_least, 0, sizeof room->at_least);
    memset(room->in_group, 0, sizeof room->in_group);
    memset(room->in_zone, 0, sizeof room->in_zone);
}

struct room *room_new(void) {
    struct room *room = hai_new(struct room);

    room->n_nodes = -1; // follows nothing yet
    return room;
}

void room_free(struct room *room) {
    if (!room)
        return;
    free_maps(room);
    free(room->taken);
    free(room->undo);
    free(room);
}

static void set_bit(uint64_t *map, int node, bool on) {
    uint64_t bit = UINT64_C(1) << (node & 63);

    if (on)
        map[node >> 6] |= bit;
    else
        map[node >> 6] &= ~bit;
}

/* A node has more or fewer free GPUs: it enters or leaves the bitmaps between the two. */
static void set_level(struct room *room, int number, int level) {
    struct room_node *node = &room->nodes[number];

    while (node->level < level)
        set_bit(room->at_least[++node->level], number, true);
    while (node->level > level)
        set_bit(room->at_least[node->level--], number, false);
}

/* What is free of a node has changed. */
static void settle(struct room *room, const struct state *state, int number, int level) {
    struct room_node *node = &room->nodes[number];
    const struct node *all = state->nodes[number];

    set_level(room, number, level);
    node->idle = level >= 0 && level == all->r.gpus && node->cpus == all->r.cpus;
    set_bit(room->idle, number, node->idle);
}

void room_keep(struct room *room, int number, int64_t reserve, int64_t coming_us) {
    room->service += room->keeps[number].reserve != reserve;
    room->keeps[number] = (struct room_keep){reserve, coming_us};
    set_bit(room->reserved, number, reserve);
}

static void look_at(struct room *room, const struct state *state, int number) {
    const struct node *from = state->nodes[number];
    struct room_node *node = &room->nodes[number];

    node->gpus = state_gpus_free(from);
    node->cpus = from->cpus_free;
    node->memory = from->r.memory_bytes ? from->memory_free : INT64_MAX;
    bool usable = state_node_usable(from);
    room->service += usable != (node->level >= 0);
    room_keep(room, number, from->reserved, from->coming_us);
    settle(room, state, number, usable ? __builtin_popcount(node->gpus) : -1);
}

static void make_maps(struct room *room, const struct state *state) {
    free_maps(room);
    room->n_nodes = state->n_nodes;
    room->n_words = ((size_t)state->n_nodes + 63) / 64;
    room->nodes = hai_new_array(struct room_node, (size_t)state->n_nodes);
    room->reserved = hai_new_array(uint64_t, room->n_words);
    room->keeps = hai_new_array(struct room_keep, (size_t)state->n_nodes);
    for (int i = 0; i < NODE_GPUS_MAX + 2; i++)
        room->at_least[i] = hai_new_array(uint64_t, room->n_words);
    room->idle = hai_new_array(uint64_t, room->n_words);
    if (spare_any(state))
        room->spares = hai_new_array(uint64_t, room->n_words);
    for (int g = 0; g < state->n_groups; g++) {
        room->in_group[g] = hai_new_array(uint64_t, room->n_words);
        for (size_t i = 0; i < state->groups[g].r.nodes.n; i++)
            set_bit(room->in_group[g], (int)state->groups[g].r.nodes.items[i], true);
    }
    for (int z = 0; z < state->n_zones; z++)
        room->in_zone[z] = hai_new_array(uint64_t, room->n_words);
    for (int i = 0; i < state->n_nodes; i++) {
        room->nodes[i].level = -1;
        set_bit(room->in_zone[state->nodes[i]->zone], i, true);
        look_at(room, state, i);
    }
    room->cluster_seq = state->cluster_seq;
    room->service++;
}

void room_follow(struct room *room, const struct state *state) {
    if (room->n_nodes != state->n_nodes || room->cluster_seq != state->cluster_seq ||
        state->n_touched - room->n_touched > NODES_TOUCHED_KEPT) {
        make_maps(room, state);
    } else {
        for (size_t i = 0; i < room->n_taken; i++)
            look_at(room, state, room->taken[i]);
        for (uint64_t i = room->n_touched; i < state->n_touched; i++)
            look_at(room, state, state->touched[i % NODES_TOUCHED_KEPT]);
    }
    room->n_touched = state->n_touched;
    room->n_taken = 0;
    room->cross = 0;
    room->time_us = state->r.time_us;
}

void room_time(struct room *room, int64_t now_us) {
    room->time_us = now_us;
}

/* A node is about to change. */
static void note(struct room *room, int number) {
    if (room->trial) {
        if (room->n_undo == room->n_undo_max) {
            room->n_undo_max = MAX(2 * room->n_undo_max, (size_t)64);
            room->undo = hai_realloc_array(room->undo, room->n_undo_max, sizeof *room->undo);
        }
        room->undo[room->n_undo++] = (struct undo){number, room->nodes[number]};
        return;
    }
    if (room->n_taken == room->n_taken_max) {
        room->n_taken_max = MAX(2 * room->n_taken_max, (size_t)64);
        room->taken = hai_realloc_array(room->taken, room->n_taken_max, sizeof *room->taken);
    }
    room->taken[room->n_taken++] = number;
}

void room_take(struct room *room, const struct state *state, const struct place_need *need,
               const struct place_node *nodes) {
    bool spans = false;

    for (int64_t i = 0; i < need->nodes; i++) {
        int number = nodes[i].node;
        struct room_node *node = &room->nodes[number];
        assert(!(nodes[i].gpus & ~node->gpus));
        note(room, number);
        node->gpus &= ~nodes[i].gpus;
        node->cpus -= need->cpus_per_node;
        if (node->memory != INT64_MAX)
            node->memory -= need->memory_per_node_bytes;
        settle(room, state, number, __builtin_popcount(node->gpus));
        spans |= state->nodes[number]->zone != state->nodes[nodes[0].node]->zone;
    }
    room->cross += spans;
}

void room_give(struct room *room, const struct state *state, const struct place_need *need,
               const struct place_node *nodes) {
    bool spans = false;

    for (int64_t i = 0; i < need->nodes; i++) {
        int number = nodes[i].node;
        struct room_node *node = &room->nodes[number];
        spans |= state->nodes[number]->zone != state->nodes[nodes[0].node]->zone;
        if (!state_node_usable(state->nodes[number]))
            continue;
        note(room, number);
        node->gpus |= nodes[i].gpus;
        node->cpus += need->cpus_per_node;
        if (node->memory != INT64_MAX)
            node->memory += need->memory_per_node_bytes;
        settle(room, state, number, __builtin_popcount(node->gpus));
    }
    room->cross -= spans;
}

bool room_free_of(const struct room *room, int number, struct room_amount *ret) {
    const struct room_node *node = &room->nodes[number];

    *ret = (struct room_amount){node->gpus, node->cpus, node->memory};
    return node->level >= 0;
}

void room_copy(struct room *to, const struct room *from, const struct state *state) {
    size_t bytes = from->n_words * sizeof *from->idle;

    if (to->n_nodes != from->n_nodes || to->cluster_seq != from->cluster_seq)
        make_maps(to, state);
    memcpy(to->nodes, from->nodes, (size_t)from->n_nodes * sizeof *from->nodes);
    for (int i = 0; i < NODE_GPUS_MAX + 1; i++)
        memcpy(to->at_least[i], from->at_least[i], bytes);
    memcpy(to->idle, from->idle, bytes);
    memcpy(to->reserved, from->reserved, bytes);
    memcpy(to->keeps, from->keeps, (size_t)from->n_nodes * sizeof *from->keeps);
    to->time_us = from->time_us;
    to->cross = from->cross;
}

void room_copy_node(struct room *to, const struct room *from, int number) {
    set_level(to, number, from->nodes[number].level);
    to->nodes[number] = from->nodes[number];
    set_bit(to->idle, number, to->nodes[number].idle);
}

void room_limit(struct room *room, const struct state *state, int number, int64_t gpus,
                int64_t cpus, int64_t memory_bytes) {
    struct room_node *node = &room->nodes[number];

    node->gpus = gpus_choose(node->gpus, MIN(gpus, node->level), state->nodes[number]->r.nvlink);
    node->cpus = MIN(node->cpus, cpus);
    node->memory = MIN(node->memory, memory_bytes);
    set_level(room, number, __builtin_popcount(node->gpus)); // if it is idle, it stays so
}

void room_cross(struct room *to, const struct room *from, int64_t n) {
    to->cross = from->cross + n;
}

void room_trial_begin(struct room *room) {
    assert(!room->trial);
    room->trial = true;
    room->n_undo = 0;
    room->undo_cross = room->cross;
}

void room_leave(struct room *room, const struct state *state, const struct job *job) {
    assert(room->trial);
    for (size_t i = 0; i < job->r.allocs.n; i++) {
        const struct state_alloc *alloc = &job->r.allocs.items[i];
        int number = (int)alloc->node;
        struct room_node *node = &room->nodes[number];
        if (alloc->released || !state_node_usable(state->nodes[number]))
            continue;
        note(room, number);
        node->gpus |= (uint32_t)alloc->gpus;
        node->cpus += job->cpus_per_node;
        if (node->memory != INT64_MAX)
            node->memory += job->r.spec.memory_per_node_bytes;
        settle(room, state, number, __builtin_popcount(node->gpus));
    }
    room->cross -= job->spans;
}

struct room_mark room_trial_mark(const struct room *room) {
    assert(room->trial);
    return (struct room_mark){room->n_undo, room->cross};
}

void room_trial_back(struct room *room, struct room_mark mark) {
    assert(room->trial);
    while (room->n_undo > mark.n_undo) {
        const struct undo *undo = &room->undo[--room->n_undo];
        set_level(room, undo->number, undo->was.level);
        set_bit(room->idle, undo->number, undo->was.idle);
        room->nodes[undo->number] = undo->was;
    }
    room->cross = mark.cross;
}

void room_trial_end(struct room *room) {
    room_trial_back(room, (struct room_mark){0, room->undo_cross});
    room->trial = false;
}

/* Find the spares, of the nodes in the map that are in service: as spare_mark. */
static void mark_spares(const struct room *room, const struct state *state, const uint64_t *map) {
    memset(room->spares, 0, room->n_words * sizeof *room->spares);
    for (int g = 0; g < state->n_groups; g++) {
        int64_t left = state->groups[g].r.spares;
        for (size_t word = room->n_words; word-- > 0 && left > 0;) {
            uint64_t set = map[word] & room->in_group[g][word] & ~room->reserved[word];
            for (; set && left > 0; left--) {
                uint64_t highest = UINT64_C(1) << (63 - __builtin_clzll(set));
                room->spares[word] |= highest;
                set &= ~highest;
            }
        }
    }
}

/* A word of the nodes that the need may have by group and zone; of those that some reservation has,
 * it is has_room that tells whether it is the right one. */
static uint64_t allowed(const struct room *room, const struct place_need *need, size_t word) {
    uint64_t zones = 0;

    for (int z = 0; z < ZONES_MAX && room->in_zone[z]; z++)
        if (need->zones & UINT64_C(1) << z)
            zones |= room->in_zone[z][word];
    if (need->without)
        zones &= ~need->without[word];
    return zones & room->in_group[need->group][word] &
           (need->reserve ? room->reserved[word] : ~room->reserved[word]) &
           ~(room->spares ? room->spares[word] : 0);
}

static bool has_room(const struct room *room, const struct place_need *need, int number,
                     bool avoid) {
    const struct room_node *node = &room->nodes[number];

    if (node->cpus < need->cpus_per_node || node->memory < need->memory_per_node_bytes ||
        (need->reserve && room->keeps[number].reserve != need->reserve) ||
        (need->lasts_us && place_too_soon(need, room->keeps[number].coming_us, room->time_us)))
        return false;
    for (size_t i = 0; avoid && i < need->n_avoid; i++)
        if (need->avoid[i] == number)
            return false;
    return true;
}

/* A walk over the nodes with room, by number. */
struct candidates {
    const struct room *room;
    const struct place_need *need;
    bool avoid;
    const uint64_t *here, *above; // above: not these; NULL: whoever has enough GPUs
    size_t next_word;
    uint64_t set; // what is left of the word before
};

/* Nodes with that many free GPUs, or (exactly false) at least as many. */
static struct candidates candidates(const struct room *room, const struct place_need *need,
                                    bool avoid, int64_t level, bool exactly) {
    return (struct candidates){.room = room,
                               .need = need,
                               .avoid = avoid,
                               .here = room->at_least[level],
                               .above = exactly ? room->at_least[level + 1] : NULL};
}

/* The next one, or -1. */
static int candidates_next(struct candidates *c) {
    for (;;) {
        while (!c->set) {
            size_t word = c->next_word++;
            if (word >= c->room->n_words)
                return -1;
            c->set = c->here[word] & ~(c->above ? c->above[word] : 0);
            if (c->set)
                c->set &= allowed(c->room, c->need, word);
        }
        int number = (int)((c->next_word - 1) * 64) + __builtin_ctzll(c->set);
        c->set &= c->set - 1;
        if (has_room(c->room, c->need, number, c->avoid))
            return number;
    }
}

static uint32_t choose_gpus(const struct room *room, const struct state *state,
                            const struct place_need *need, int number) {
    return gpus_choose(room->nodes[number].gpus, need->gpus_per_node,
                       state->nodes[number]->r.nvlink);
}

/* Of the nodes with so many free GPUs the first at least cost. Returns it, or -1. */
static int best_of_level(const struct room *room, const struct state *state,
                         const struct place_need *need, bool avoid, int64_t level, int *ret_cost) {
    struct candidates c = candidates(room, need, avoid, level, true);
    int best = -1;

    *ret_cost = INT_MAX;
    for (int number; *ret_cost > 0 && (number = candidates_next(&c)) >= 0;) {
        int cost = gpus_cost(room->nodes[number].gpus, choose_gpus(room, state, need, number),
                             state->nodes[number]->r.nvlink);
        if (cost >= *ret_cost)
            continue;
        best = number;
        *ret_cost = cost;
    }
    return best;
}

/* The fullest node where its GPUs are linked as far as they can be; of equals the lowest number. */
static int find_gpus(const struct room *room, const struct state *state,
                     const struct place_need *need, bool avoid) {
    int best = -1, least = INT_MAX; // islands too many

    for (int64_t level = need->gpus_per_node; level <= NODE_GPUS_MAX && least > 0; level++) {
        int cost, number = best_of_level(room, state, need, avoid, level, &cost);
        if (number < 0 || cost / GPUS_APART >= least)
            continue;
        best = number;
        least = cost / GPUS_APART;
    }
    return best;
}

/* For a job without GPUs: nodes without any first, then the most free CPUs, then the number. */
static int find_cpus(const struct room *room, const struct state *state,
                     const struct place_need *need, bool avoid) {
    struct candidates c = candidates(room, need, avoid, 0, false);
    int best = -1;
    bool best_spares = false;

    for (int number; (number = candidates_next(&c)) >= 0;) {
        bool spares = !state->nodes[number]->r.gpus;
        if (best < 0 || spares > best_spares ||
            (spares == best_spares && room->nodes[number].cpus > room->nodes[best].cpus)) {
            best = number;
            best_spares = spares;
        }
    }
    return best;
}

static int find_one(const struct room *room, const struct state *state,
                    const struct place_need *need, bool avoid, struct place_scratch *scratch) {
    int number = need->gpus_per_node ? find_gpus(room, state, need, avoid)
                                     : find_cpus(room, state, need, avoid);

    if (number < 0)
        return -ENOSPC;
    scratch->nodes[0] = (struct place_node){number, choose_gpus(room, state, need, number)};
    return 0;
}

/* Candidates by leaf and zone. Returns how many there are. */
static int64_t count(const struct room *room, const struct state *state,
                     const struct place_need *need, bool avoid, int64_t *in_leaf,
                     int64_t *in_zone) {
    struct candidates c = candidates(room, need, avoid, need->gpus_per_node, false);
    int64_t n = 0;

    for (int number; (number = candidates_next(&c)) >= 0; n++) {
        in_leaf[state->nodes[number]->r.leaf]++;
        in_zone[state->nodes[number]->zone]++;
    }
    return n;
}

/* Are there enough by GPUs alone? Most gangs that do not fit end here. */
static bool may_fit(const struct room *room, const struct place_need *need) {
    const uint64_t *enough = room->at_least[need->gpus_per_node];
    int64_t n = 0;

    for (size_t word = 0; word < room->n_words && n < need->nodes; word++)
        if (enough[word])
            n += __builtin_popcountll(enough[word] & allowed(room, need, word));
    return n >= need->nodes;
}

/* Of each leaf as many as take says, the fullest first. */
static void choose(const struct room *room, const struct state *state,
                   const struct place_need *need, bool avoid, int64_t *take,
                   struct place_scratch *scratch) {
    int64_t n = 0;

    for (int64_t level = need->gpus_per_node; level <= NODE_GPUS_MAX && n < need->nodes; level++) {
        struct candidates c = candidates(room, need, avoid, level, true);
        for (int number; (number = candidates_next(&c)) >= 0;) {
            int64_t leaf = state->nodes[number]->r.leaf;
            if (!take[leaf])
                continue;
            take[leaf]--;
            scratch->nodes[n++] =
                (struct place_node){number, choose_gpus(room, state, need, number)};
        }
    }
    assert(n == need->nodes);
    place_sort(state, scratch->nodes, (size_t)n);
}

static int find_many(const struct room *room, const struct state *state,
                     const struct place_need *need, bool avoid, struct place_scratch *scratch) {
    int64_t in_zone[ZONES_MAX] = {0};
    bool may_cross = need->cross_zones && state_may_cross(state, room->cross);
    size_t leaf_bytes = (size_t)state->n_leaves * sizeof *scratch->in_leaf;

    if (!may_fit(room, need))
        return -ENOSPC;
    int64_t n = count(room, state, need, avoid, scratch->in_leaf, in_zone);
    bool found = n >= need->nodes && place_choose(state, in_zone, scratch->in_leaf, need->nodes,
                                                  may_cross, scratch->take);
    if (found)
        choose(room, state, need, avoid, scratch->take, scratch);
    memset(scratch->in_leaf, 0, leaf_bytes);
    memset(scratch->take, 0, leaf_bytes);
    return found ? 0 : -ENOSPC;
}

static int find(const struct room *room, const struct state *state, const struct place_need *need,
                bool avoid, struct place_scratch *scratch) {
    return need->nodes == 1 ? find_one(room, state, need, avoid, scratch)
                            : find_many(room, state, need, avoid, scratch);
}

static int find_any(const struct room *room, const struct state *state,
                    const struct place_need *need, struct place_scratch *scratch) {
    int r = -ENOSPC;

    for (int avoid = need->n_avoid > 0; avoid >= 0 && r < 0; avoid--) {
        if (room->spares)
            mark_spares(room, state, room->idle);
        r = find(room, state, need, avoid, scratch);
        if (r == 0 || !room->spares || !need->recovers)
            continue;
        memset(room->spares, 0, room->n_words * sizeof *room->spares);
        r = find(room, state, need, avoid, scratch);
    }
    return r;
}

int room_find(const struct room *room, const struct state *state, const struct place_need *need,
              struct place_scratch *scratch) {
    struct place_need step = *need;
    struct apart apart;
    int r = -ENOSPC;

    place_scratch_fit(scratch, state);
    if (!need->keeps_apart || !need->self)
        return find_any(room, state, need, scratch);
    apart_begin(&apart, state, need->self, need->zones);
    while (r < 0 && apart_next(&apart)) {
        step.zones = apart.zones;
        step.without = apart.without;
        r = find_any(room, state, &step, scratch);
    }
    apart_end(&apart);
    return r;
}

const uint64_t *room_spares(const struct room *room, const struct state *state, bool as_idle) {
    assert(room->spares);
    mark_spares(room, state, as_idle ? room->at_least[0] : room->idle);
    return room->spares;
}

/* How it would lie if all were idle; soon: with what reservations take soon. */
static struct spread idle_spread(const struct room *room, const struct state *state,
                                 const struct place_need *need, bool soon,
                                 struct place_scratch *scratch) {
    int64_t in_zone[ZONES_MAX] = {0}, n = 0;

    place_scratch_fit(scratch, state);
    if (room->spares && need->recovers)
        memset(room->spares, 0, room->n_words * sizeof *room->spares);
    else if (room->spares)
        mark_spares(room, state, room->at_least[0]);
    for (size_t word = 0; word < room->n_words; word++) {
        uint64_t set = room->at_least[0][word] & allowed(room, need, word);
        for (; set; set &= set - 1) {
            size_t number = word * 64 + (size_t)__builtin_ctzll(set);
            const struct node *node = state->nodes[number];
            const struct room_keep *keep = &room->keeps[number];
            if (!place_large_enough(need, node) ||
                (need->reserve && keep->reserve != need->reserve) ||
                (!soon && place_too_soon(need, keep->coming_us, room->time_us)))
                continue;
            scratch->in_leaf[node->r.leaf]++;
            in_zone[node->zone]++;
            n++;
        }
    }
    return spread_choose(state, need, n, in_zone, scratch);
}

struct spread room_fewest(const struct room *room, const struct state *state,
                          const struct place_need *need, struct place_scratch *scratch) {
    return idle_spread(room, state, need, true, scratch);
}

bool room_could(const struct room *room, const struct state *state, const struct place_need *need,
                struct place_scratch *scratch) {
    return idle_spread(room, state, need, false, scratch).leaves > 0;
}

uint64_t room_service(const struct room *room) {
    return room->service;
}
