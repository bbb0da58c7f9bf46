/* claim.h - nodes kept for a waiting job while others leave them.
 *
 * Pure. Only apply*.c change claims, with mutate.h. When a job needs the nodes of less
 * important ones, one entry (make_room) tells those to suspend and gives the waiting job a claim to
 * exactly the nodes and GPUs that they leave: nobody else is placed there, so nothing is suspended
 * in vain. A claim ends when its job is placed, stops waiting, or loses one of the nodes.
 */
#pragma once
#include "scheduler/core/mutate.h"

/* Suspend the victims and let the job claim what they leave. Refused (-ESTALE) unless the job
 * waits, every victim runs in the epoch named, and all is free once the victims are gone. */
int claim_make_room(struct mutate *c, const struct entry_make_room *in);

/* Are the claimed GPUs, CPUs and memory free for the claimant now? */
bool claim_ready(const struct state *state, const struct job *job);

/* A node is out of service: claims to it are void. */
void claim_node_out(struct mutate *c, int node);
