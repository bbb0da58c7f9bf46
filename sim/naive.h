/* naive.h - what decide.h should propose, reckoned anew from the whole state each time.
 *
 * Pure and reading only. No memory of shapes that do not fit, no picture of free room, no search by
 * halves: jobs are sorted, nodes looked at one by one (place_find), victims added one after
 * another. It is slow and the truth: world_decide compares with it where a world has one. What it
 * does keep is what the policy itself remembers: which shape has asked others to give way since the
 * last look.
 */
#pragma once
#include "scheduler/core/decide.h"

struct naive;

/* every: only one run in so many is compared, and then whom it asks is taken from the proposal. */
struct naive *naive_new(int64_t every);
void naive_free(struct naive *naive);
DEFINE_CLEANUP(struct naive *, naive_free)

/* The scheduler starts anew: what it had asked is forgotten. */
void naive_forget(struct naive *naive);

/* Proposal number at of a run (NULL, at 0: the run proposes nothing) is about to be applied to the
 * state. The first difference stays in naive_error. */
void naive_check(struct naive *naive, const struct state *state, size_t at,
                 const struct decide_proposal *proposal);

/* What was different, r 0: nothing; and how many proposals and empty runs were compared. */
const struct hai_err *naive_error(const struct naive *naive);
int64_t naive_compared(const struct naive *naive);
