/* apart.h - where to look first for a job that keeps away from its like.
 *
 * Pure and reading only. Replicas of a service should not go down together: jobs of one user and
 * name with `anti_affinity` lie in different zones, under different leaves, on different nodes, as
 * far as there is room. A search for one is tried in steps, each with fewer demands: the zones with
 * the fewest of them first, in these away from their leaves, then from their nodes, then anywhere.
 */
#pragma once
#include "scheduler/core/state.h"

struct apart {
    const struct state *state;
    uint64_t all;               // zones where the job may lie
    uint64_t left;              // not tried yet
    int64_t in_zone[ZONES_MAX]; // nodes with its like
    uint64_t *leaves, *nodes;   // sets of nodes: under a leaf with its like, with its like
    int step;
    uint64_t zones;          // of this step
    const uint64_t *without; // nodes that this step leaves out; NULL: none
};

/* zones: where the job may lie. End with apart_end. */
void apart_begin(struct apart *apart, const struct state *state, const struct job *job,
                 uint64_t zones);
void apart_end(struct apart *apart);

/* The next step, in apart->zones and without; false: all were tried. */
bool apart_next(struct apart *apart);
