/* live.h - what is known about jobs beside the state: newest change, progress, newest output.
 *
 * Never logged and never part of the state: after a restart it fills again from the agents'
 * reports.
 */
#pragma once
#include "wire/messages.h"

struct live;

/* base_index: the index that jobs have which have not changed since the start. */
struct live *live_new(int64_t base_index);
void live_free(struct live *live);
DEFINE_CLEANUP(struct live *, live_free)

/* A job changed with an entry; the index of its newest change. */
void live_touch(struct live *live, int64_t job, int64_t index);
int64_t live_index(const struct live *live, int64_t job);

/* Progress of one rank of an attempt; earlier attempts' is forgotten. at_us: when it came. */
void live_set_progress(struct live *live, const struct rank_progress *progress, int64_t at_us);

/* The newest of a rank, NULL if nothing is known. */
const struct rank_progress *live_progress(const struct live *live, int64_t job, int64_t attempt,
                                          int64_t rank);

/* When output of any rank was last seen to grow; S_ABSENT: not yet. */
int64_t live_output_us(const struct live *live, int64_t job);

/* Forget a job that has left the state; forget all progress of one that has ended. */
void live_drop(struct live *live, int64_t job);
void live_end(struct live *live, int64_t job);
