/* backfill.h - strict order: who may pass a blocked job, and when that job starts.
 *
 * Pure and reading only. The first blocked jobs of each group (state.r.backfill of them) get a
 * planned start, in order: the earliest time at which their nodes are free, by when those who run
 * are taken to end (state_job.until_us) and by the plans before. A job behind them may start now if
 * it ends before a plan needs its nodes, or takes what no plan needs. The others that are blocked
 * hold up nobody.
 *
 * Nothing is remembered but a picture of who holds what: plans are made anew from the state each
 * time and come out the same. That holds because they are chosen in a fixed order of sets of nodes
 * (fewest zones, fewest leaves, then by number): as long as nothing is free that was not, and the
 * set stays free, it stays the first. A rule that looks at how much a leaf has left would move
 * plans about, and one that moves takes the place of another. For the same reason time is in whole
 * seconds here: entries are microseconds apart.
 */
#pragma once
#include "scheduler/core/room.h"

struct backfill;
struct backfill *backfill_new(void);
void backfill_free(struct backfill *b);
DEFINE_CLEANUP(struct backfill *, backfill_free)

/* Be as the state is, without plans. room is a picture that follows the same state, and stays the
 * caller's: it takes from it what is proposed, and tells backfill_start before. */
void backfill_follow(struct backfill *b, const struct state *state, struct room *room);

enum { BACKFILL_PLANS_MAX = 256 };
bool backfill_full(const struct backfill *b);

/* Plan the next job in order.
 *
 * ret_at_s  when it starts, seconds of the clock
 *
 * Returns 1 if that is now, with its nodes in scratch; 0 if it is later, and nobody who is asked
 * about afterwards may have the nodes in scratch then; -ENOSPC: nobody knows when. */
int backfill_plan(struct backfill *b, const struct state *state, const struct job *job,
                  struct place_scratch *scratch, int64_t *ret_at_s);

/* Nodes for a job that starts now and delays no plan: as room_find. */
int backfill_find(struct backfill *b, const struct state *state, const struct job *job,
                  struct place_scratch *scratch);

/* The job takes these nodes now. */
void backfill_start(struct backfill *b, const struct state *state, const struct job *job,
                    const struct place_node *nodes);

/* The plans, in the order in which they were made. */
struct backfill_planned {
    const struct job *job;
    int64_t at_s;
    int64_t n_nodes;
    const int *nodes;
};
size_t backfill_n_plans(const struct backfill *b);
struct backfill_planned backfill_planned(const struct backfill *b, size_t at);
