/* dependents.h - what follows for those that wait for a job when it has ended.
 *
 * Pure. Only apply*.c include it. One job after the other, not one within the other: a chain may be
 * long. What was news is told before the next timer or entry, so between entries there is none.
 */
#pragma once
#include "scheduler/core/mutate.h"

/* A new job whose condition cannot come true any more ends at once. */
void dependents_check(struct mutate *c, struct job *job);

/* Tell those that wait for jobs that have ended: they may start, or end in turn. */
void dependents_settle(struct mutate *c);
