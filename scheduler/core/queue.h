/* queue.h - jobs that wait for nodes, in the order in which they are tried.
 *
 * Pure. The order is (tier, level, place), over all groups: order.h gives the tier, fair.h the
 * level; the place is the job's id unless its user moved it. Jobs that ask for the same are of one
 * shape and stand in one line for each tier and level, so that whoever finds that a shape does not
 * fit can pass over all of them at once. Derived state: made again by state_decode.
 */
#pragma once
#include "scheduler/core/place.h"

struct shape {
    struct place_need need; // without nodes to avoid
    int length;             // with backfill: hold_length of how long they run
    struct job_line lines[ORDER_LINES];
    struct job *entered; // the last one: where the place of the next is looked for; or NULL
    int64_t n;           // jobs
    uint64_t n_late;     // of all that came, those that had waited before
    int slot;            // of state->queue.slots
    uint64_t serial;     // tells apart shapes that had a slot one after another
    struct shape *again; // another one with the same hash
};

/* Put a job that wants nodes into its line, or take it out if it is in one. */
void queue_add(struct state *state, struct job *job);
void queue_remove(struct state *state, struct job *job);

/* A walk over all jobs in order; start from {0}, end with queue_walk_end, which keeps nothing. */
struct queue_walk {
    const struct state *state;
    int line;
    struct job **heap; // the first job left of each shape of this line
    size_t n, n_max;
    bool given; // the head was returned and is not passed yet
};

void queue_walk_begin(struct queue_walk *walk, const struct state *state);
void queue_walk_end(struct queue_walk *walk);

/* The next job, or NULL at the end. */
struct job *queue_walk_next(struct queue_walk *walk);

/* Pass over the rest of the line of the job that came last: its shape in this tier and level. The
 * state must not change during a walk. */
void queue_walk_pass(struct queue_walk *walk);

/* The same, but for one of that line behind it: that comes in its turn. */
void queue_walk_pass_to(struct queue_walk *walk, const struct job *job);

/* Are both of one shape, tier and level, and does `behind` stand behind the other? */
bool queue_in_line_behind(const struct job *job, const struct job *behind);

/* Tiers and levels are not what they were: sort. */
void queue_sort(struct state *state);

/* In the order of its line. */
int64_t queue_place(const struct job *job);

/* Do two ask for the same? And the shape of those that do and wait, or NULL. */
bool queue_same_need(const struct place_need *a, const struct place_need *b);
const struct shape *queue_shape(const struct state *state, const struct place_need *need,
                                int length);

/* Is job a tried before job b? */
bool queue_before(const struct job *a, const struct job *b);

/* Time-sharing: of those of a shape who may ask for room and have waited for too long (order.h) the
 * one of the best priority, as it has aged, and of these the one that has waited longest; or NULL.
 * ret_until_us: before that time nobody more has waited for too long. */
const struct job *queue_longest(const struct state *state, const struct shape *shape,
                                int64_t *ret_until_us);

/* Ids of all jobs in order. The caller frees *ret. Returns how many. */
size_t queue_list(const struct state *state, int64_t **ret);
