/* restart.h - what follows the end of an attempt: success, failure, another attempt.
 *
 * Pure. Only apply*.c and attempt.c include it. The policy: causes listed in
 * restart_when restart; at most restart_max times; the first at once, then after 1 s, doubling to
 * 5 min; an attempt that ran for an hour clears the count.
 */
#pragma once
#include "scheduler/core/mutate.h"

#define RESTART_DELAY_FIRST_US INT64_C(1000000)
#define RESTART_DELAY_MAX_US (INT64_C(300) * 1000000)
/* A job that saves slowly gets more time to, up to this. */
#define SAVE_GRACE_MAX_US (INT64_C(600) * 1000000)
#define RESTART_CLEAR_US (INT64_C(3600) * 1000000)

/* Would the job's fault restart it now? */
bool restart_allowed(const struct job *job, int64_t now_us);

/* The wait before restart number n (1, 2, ...). */
int64_t restart_delay_us(int64_t n);

/* The reason that goes with the job's fault. */
enum reason restart_reason(const struct job *job);

/* Will the attempt that is over be followed by another one because it failed? */
bool restart_follows(const struct job *job, int64_t now_us);

/* The attempt is over and holds nothing: move the job on. */
void restart_settle(struct mutate *c, struct job *job);
