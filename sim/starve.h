/* starve.h - nobody waits beyond the bounds of docs/policy.md ("Bounds").
 *
 * Reckoned from the records alone, after every turn of the scheduler with entries. A bound is the
 * sum of its parts, each with clocks that run only while what it takes for granted holds, and start
 * anew at every break:
 *
 * - Where jobs share time one that has waited for 16 min_run is given room within the longest look,
 *   once it would fit on the nodes in service
 * if all who must leave did: those of its priority (as it has aged) and below, and those over
 * quota, who have run for min_run / 30. No bound has a job of priority 0 or over quota, nor one as
 * long as another that asks for the same, and has waited for 16 min_run, too, is of a higher
 * priority or has waited for longer.
 * - Who leaves it room does so within the longest grace, and who has a time limit is told to end
 *   when that is over.
 * - Who is told to end is gone at the end of its grace. Time during which the scheduler is down, or
 *   the agent of such a node is unreachable, does not count.
 *
 * That a job starts in the turn in which there is room is naive.h's business. Groups that keep
 * spares are left out of the first: which nodes are spares depends on who leaves.
 */
#pragma once
#include "scheduler/core/place.h"

enum starve_kind { STARVE_WAITS, STARVE_CLAIMS, STARVE_LEAVES };

/* A job with a clock. */
struct starve_clock {
    int64_t job, epoch;
    enum starve_kind kind;
    int64_t since_us;  // log time: it runs since then; 0: it does not
    int n_looks;       // that it may take: those before it may lose their room, and ask again
    int n_passed;      // looks in which one before it was given room that it could use
    int64_t passed_us; // the last of them
    bool seen;         // in this look
    bool near;         // it has run for more than half of what it may
};

struct starve {
    struct starve_clock *clocks;
    size_t n, n_max;
    uint64_t changes;     // of the queue, when waits_us was found
    int64_t waits_us;     // nobody has waited for too long before
    int64_t n_waited;     // times that a job waited for too long
    int64_t n_ran;        // clocks of these that ran, and
    int64_t n_near;       // jobs whose clock came past half a look
    int64_t n_claims;     // jobs that were given room
    int64_t *troubled_us; // by node, log time: when its agent was last out of reach
    struct node *copies;  // of the nodes, as if others had left; and where place_find sees them
    struct node **nodes;
    struct place_scratch scratch;
};

void starve_init(struct starve *starve, const struct state *state);
void starve_free(struct starve *starve);

/* A turn is decided. 0, or -EINVAL and who waits for too long. */
int starve_watch(struct starve *starve, const struct state *state, struct hai_err *err);

/* The agent of a node is, or was until now, out of reach. */
void starve_trouble(struct starve *starve, int node, int64_t now_us);

/* The scheduler was down: all clocks start anew. */
void starve_forget(struct starve *starve, const struct state *state);
