/* victims.h - which running jobs to suspend so that a waiting one can start, at little loss.
 *
 * The least loss, unless for little more the waiting job comes to lie in fewer zones or under fewer
 * leaves (order_leaves_worth).
 *
 * Pure and reading only. Who may be asked to give way, and what that would lose, is order.h's
 * business; where the waiting job then goes is place.h's.
 */
#pragma once
#include "scheduler/core/room.h"

struct victims {
    const struct job **jobs; // the answer, ascending ids
    size_t n;
    struct victims_candidate *candidates; // room to work in
    struct victims_candidate *all;        // what they were at first
    size_t n_max;                         // of each
};

void victims_free(struct victims *v);

/* Find victims. Returns 0 with them in v and the nodes of the waiting job in scratch->nodes, or
 * -ENOSPC: it would not fit even if all that may be asked gave way, or too much would be lost, or
 * it fits as well as is worth it without anybody's leaving. */
int victims_find(struct victims *v, struct room *room, const struct state *state,
                 const struct job *job, struct place_scratch *scratch);
