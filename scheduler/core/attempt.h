/* attempt.h - the life of one start of a gang: placed, told to end, ended, settled.
 *
 * Pure. Only apply*.c include it. The promise kept here: an attempt's GPUs are held, and no other
 * attempt of the job begins, until all its ranks are surely gone: reported to have ended, or their
 * node fenced, or the node's lease surely run out.
 */
#pragma once
#include "scheduler/core/mutate.h"

/* Begin an attempt on nodes that were found free; takes them. */
void attempt_begin(struct mutate *c, struct job *job, const struct entry_place *place);

/* With backfill: reckon until when a live attempt takes its nodes; longer: it still does, later
 * than was thought. */
void attempt_until(struct mutate *c, struct job *job, bool longer);

/* Tell all ranks that are left to end: SIGTERM and SIGKILL at kill_at_us, or SIGKILL now. */
void attempt_end(struct mutate *c, struct job *job, enum desired_phase phase, int64_t kill_at_us);

/* Suspend a running job for another; it goes on by itself when there is room again. */
void attempt_give_way(struct mutate *c, struct job *job, const struct job *to);

/* Suspend a job that is being started or runs, for a reservation of its nodes; it goes on by itself
 * elsewhere, or there when it is over. */
void attempt_clear_out(struct mutate *c, struct job *job, enum reason reason, const char *text);

/* All ranks on one of the job's nodes were reported to run. */
void attempt_started(struct mutate *c, struct job *job, size_t alloc);

/* A rank ended, and how. */
void attempt_rank_exited(struct mutate *c, struct job *job, int64_t rank,
                         const struct entry_rank_exited *exit);

/* A rank hangs: take the gang down as after any fault. */
void attempt_rank_hung(struct mutate *c, struct job *job, int64_t rank, const char *evidence);

/* The node of an allocation is lost: a fault now, though its ranks may still run. */
void attempt_node_lost(struct mutate *c, struct job *job, size_t alloc, const char *evidence);

/* Surely no rank of the allocation runs any more. */
void attempt_gone(struct mutate *c, struct job *job, size_t alloc, const char *evidence);

/* The allocation on a node that is not gone, or -ENOENT. */
int attempt_alloc_on(const struct job *job, int node);

/* Take or give back what an allocation holds (state_decode uses attempt_hold too). */
void attempt_hold(struct state *state, const struct job *job, size_t alloc);

/* Put a job into the list of those with a live attempt, or take it out (state_decode too). */
void attempt_live(struct state *state, struct job *job, bool live);

/* Does the gang span zones? */
bool attempt_spans(const struct state *state, const struct job *job);
