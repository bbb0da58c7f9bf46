/* move.h - a user changes the order of his own waiting jobs.
 *
 * Pure, part of apply. His jobs swap the places that they have among themselves, so nobody else
 * waits longer or shorter for it. Priorities still come first: a place counts within a tier, and
 * among those that wait to be within quota.
 */
#pragma once
#include "scheduler/core/mutate.h"

/* Is the move possible? 0, or -EINVAL with the reason in the reply. */
int move_check(struct mutate *c, const struct job *job, const struct entry_job_set *in);

/* Make it. */
void move_job(struct mutate *c, struct job *job, const struct entry_job_set *in);
