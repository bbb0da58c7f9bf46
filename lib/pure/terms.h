/* terms.h - the words that the scheduler's core, the agent's core and the wire share.
 *
 * Pure. Each list is an enum and its text forms (docs/scripts.md). Values are written to
 * the log: lists only grow at the end.
 */
#pragma once
#include "lib/pure/schema.h"

/* States of a job in the order of its life; those from SUCCEEDED on are ends. */
#define JOB_STATES(P, X)                                                                           \
    X(P, HELD, "held")                                                                             \
    X(P, QUEUED, "queued")                                                                         \
    X(P, STARTING, "starting")                                                                     \
    X(P, RUNNING, "running")                                                                       \
    X(P, RECOVERING, "recovering")                                                                 \
    X(P, SUSPENDING, "suspending")                                                                 \
    X(P, SUSPENDED, "suspended")                                                                   \
    X(P, STOPPING, "stopping")                                                                     \
    X(P, SUCCEEDED, "succeeded")                                                                   \
    X(P, FAILED, "failed")                                                                         \
    X(P, STOPPED, "stopped")                                                                       \
    X(P, TIMED_OUT, "timed_out")
DECLARE_ENUM(job_state, JOB_STATE, JOB_STATES);

static inline bool job_state_ended(enum job_state state) {
    return state >= JOB_STATE_SUCCEEDED;
}

/* What an agent should do with an attempt: run it; SIGTERM now and SIGKILL at a given time; SIGKILL
 * now; or, everything about it being recorded, remove what is left. */
#define DESIRED_PHASES(P, X)                                                                       \
    X(P, RUN, "run")                                                                               \
    X(P, TERM, "term")                                                                             \
    X(P, KILL, "kill")                                                                             \
    X(P, FORGET, "forget")
DECLARE_ENUM(desired_phase, DESIRED_PHASE, DESIRED_PHASES);

/* Who ended a rank: itself (an exit, or a signal whose sender is not known), hai on order (stop,
 * suspend, time limit, fence), the memory limit, the end of the lease, a start that failed, or
 * nobody can tell. */
#define EXIT_CAUSES(P, X)                                                                          \
    X(P, SELF, "self")                                                                             \
    X(P, ORDER, "order")                                                                           \
    X(P, MEMORY, "memory")                                                                         \
    X(P, LEASE, "lease")                                                                           \
    X(P, START, "start")                                                                           \
    X(P, UNKNOWN, "unknown")
DECLARE_ENUM(exit_cause, EXIT_CAUSE, EXIT_CAUSES);
