/* hold.h - strict order with backfill: for how long a job is taken to hold its nodes.
 *
 * Pure and reading only. In whole seconds: entries are microseconds apart, and plans must not
 * differ for that.
 */
#pragma once
#include "scheduler/core/place.h"

#define HOLD_SECOND_US INT64_C(1000000)
#define HOLD_ENDLESS (INT64_MAX / 4)

/* A waiting job, in seconds; HOLD_ENDLESS: nobody knows. */
int64_t hold_seconds(const struct state *state, const struct job *job);

/* Its length in quarters of octaves: jobs that ask for the same and are about as long stand in one
 * line (queue.h). */
int hold_length(int64_t hold_s);

/* When an attempt that begins at at_us is taken to end (seconds of the clock); and a live one that
 * has outlived that by now_us. */
int64_t hold_until_s(const struct state *state, const struct job *job, int64_t at_us);
int64_t hold_longer_s(const struct state *state, const struct job *job, int64_t now_us);

/* A node that a reservation takes: when the need must have begun there at the latest. */
int64_t hold_latest_s(const struct place_need *need, const struct node *node);
