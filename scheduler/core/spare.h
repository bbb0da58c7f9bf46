/* spare.h - nodes that are kept free for jobs that recover from a fault.
 *
 * Pure and reading only. A group may keep some nodes: those of its idle nodes in service with the
 * highest numbers, so other nodes take the part of one that is taken, reserved or goes out of
 * service.
 * Nothing is placed on them, of whatever group, but jobs that go on after a fault.
 */
#pragma once
#include "scheduler/core/state.h"

/* Does any group keep spares? */
bool spare_any(const struct state *state);

/* Does nothing run on the node, and is none of it claimed? */
bool spare_idle(const struct node *node);

/* Set the bits of the spares in a map of nodes, all zero before. as_idle: as if nothing ran. */
void spare_mark(const struct state *state, bool as_idle, uint64_t *ret);

static inline bool spare_marked(const uint64_t *map, int node) {
    return map && map[node >> 6] >> (node & 63) & 1;
}

/* A new map with the spares, for free(); NULL: no group keeps any. */
uint64_t *spare_map(const struct state *state, bool as_idle);
