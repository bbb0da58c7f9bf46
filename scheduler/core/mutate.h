/* mutate.h - one entry on its way into the state: what the parts of apply share.
 *
 * Pure. Only apply*.c and attempt.c include it. The functions keep what is derived (queues, timers,
 * counts, revisions) in step with the records.
 */
#pragma once
#include "scheduler/core/effects.h"
#include "scheduler/core/reply.h"

struct mutate {
    struct state *state;
    const struct entry *entry;
    struct effects *fx;
    struct apply_reply *reply;
    enum scope scope; // of the principal
    const char *name; // of the principal
};

/* The same change, but not the doing of whoever's entry brought it: what follows from it is the
 * scheduler's. entry: room for the entry as it then reads. */
struct mutate mutate_by_system(const struct mutate *c, struct entry *entry);

/* Move a job to a state (the table of jobstate.h must allow it), say why, and put it into or out of
 * its queue. format NULL: no message. Ended jobs beyond JOBS_ENDED_KEPT are dropped. */
void mutate_state(struct mutate *c, struct job *job, enum job_state state, enum reason reason,
                  const char *format, ...) _printf_(5, 6);

/* Count a job that was just made, or decoded, in its state. */
void mutate_enter(struct state *state, struct job *job);

/* Put a job into its queue or take it out, and set its timer, as its record demands. */
void mutate_follow(struct mutate *c, struct job *job);
void mutate_follow_state(struct state *state, struct job *job);

/* Do its GPUs count against quotas: does it hold nodes, wait for some, or recover? */
bool mutate_counts(const struct state *state, const struct job *job);

/* While jobs wait and share time, it is looked at them when order_next_look_us says. */
void mutate_look(struct state *state);

/* When the job's running attempt is told to end because of its time limit; INT64_MAX: never. */
int64_t mutate_limit_us(const struct job *job);

/* The node's desired set or record changed; revise: its agent must hear of it. */
void mutate_node(struct mutate *c, int node, bool revise);

/* Claims (claim.h): add what a job claims to what its nodes keep (sign 1), or take it away (-1); a
 * claim that was made or read begins to count; the job claims nothing any more. */
void mutate_claim(struct state *state, const struct job *job, int sign);
void mutate_claim_hold(struct state *state, struct job *job);
void mutate_claim_drop(struct mutate *c, struct job *job);
bool mutate_claim_spans(const struct state *state, const struct job *job);

/* Nodes in these groups may take more than before. */
void mutate_freed(struct state *state, uint64_t groups);

/* Add a job's id to its node's list, or take it away; keeps the order. */
void mutate_node_jobs(struct node *node, int64_t id, bool add);

/* The job of an entry that its principal may change, or NULL and *r set. */
struct job *mutate_own_job(struct mutate *c, int64_t id, int *r);

/* 0, or a refusal with -EACCES unless the principal has the scope. */
int mutate_need(struct mutate *c, enum scope scope, const char *what);

/* 0 and the node's number, or a refusal with -ENOENT. */
int mutate_find_node(struct mutate *c, const char *name, int *ret);
