/* naiveplan.h - what backfill.h should answer, reckoned anew from the whole state each time.
 *
 * Pure and reading only. Every time at which something ends is tried, every node looked at, every
 * sum of what is free made from the jobs that run.
 */
#pragma once
#include "scheduler/core/place.h"

struct naiveplan;

struct naiveplan *naiveplan_new(const struct state *state);
void naiveplan_free(struct naiveplan *plans);
DEFINE_CLEANUP(struct naiveplan *, naiveplan_free)

/* As backfill_plan: 1, 0, -ENOSPC; the time of a plan in *ret_at_s. */
int naiveplan_add(struct naiveplan *plans, const struct job *job, struct place_scratch *scratch,
                  int64_t *ret_at_s);

/* As backfill_find. */
int naiveplan_find(const struct naiveplan *plans, const struct job *job,
                   struct place_scratch *scratch);

size_t naiveplan_n(const struct naiveplan *plans);
