/* naive.h - what decide.h should propose, reckoned anew from the whole state each time.
 *
 * Pure and reading only. No memory of shapes that do not fit and no picture of free room: jobs are
 * sorted, nodes looked at one by one (place_find). It is slow and the truth: world_decide compares
 * with it where a world has one. Placements must be the same, one by one. Of a job that makes
 * room it checks that none before it could start, that the policy lets it ask each of its victims,
 * and that it takes what place_find finds once they have left: which of several sets of victims is
 * the best is victims.h's business.
 */
#pragma once
#include "scheduler/core/decide.h"

struct naive;

/* every: only one run in so many is compared. */
struct naive *naive_new(int64_t every);
void naive_free(struct naive *naive);
DEFINE_CLEANUP(struct naive *, naive_free)

/* Proposal number at of a run (NULL, at 0: the run proposes nothing) is about to be applied to the
 * state. The first difference stays in naive_error. */
void naive_check(struct naive *naive, const struct state *state, size_t at,
                 const struct decide_proposal *proposal);

/* What was different, r 0: nothing; and how many proposals and empty runs were compared. */
const struct hai_err *naive_error(const struct naive *naive);
int64_t naive_compared(const struct naive *naive);
