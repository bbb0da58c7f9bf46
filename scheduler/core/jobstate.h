/* jobstate.h - which changes between the states of a job there are.
 *
 * Pure. docs/job-states.md shows the same table (tests/unit/test_jobstate.c compares); a change
 * that is not in it ends the process, because it would be a mistake of ours.
 */
#pragma once
#include "lib/pure/terms.h"

/* X(FROM, TO, "when") */
#define JOB_TRANSITIONS(X)                                                                         \
    X(HELD, QUEUED, "resumed")                                                                     \
    X(HELD, STOPPED, "stopped by a person, or a job it waits for did not end as it should")        \
    X(QUEUED, STARTING, "placed")                                                                  \
    X(QUEUED, SUSPENDED, "suspended by a person")                                                  \
    X(QUEUED, SUCCEEDED, "an array whose last element ended: all succeeded")                       \
    X(QUEUED, FAILED, "an array whose last element ended: one failed")                             \
    X(QUEUED, TIMED_OUT, "an array whose last element ended: one timed out")                       \
    X(QUEUED, STOPPED, "stopped by a person, or a job it waits for did not end as it should")      \
    X(STARTING, RUNNING, "all ranks run")                                                          \
    X(STARTING, RECOVERING, "a fault that restarts")                                               \
    X(STARTING, SUSPENDING, "suspended by a person, for a more important job or a reservation")    \
    X(STARTING, STOPPING, "stopped by a person, failed, or time limit")                            \
    X(STARTING, FAILED, "its only ranks failed")                                                   \
    X(RUNNING, SUCCEEDED, "all ranks ended with exit status 0")                                    \
    X(RUNNING, RECOVERING, "a fault that restarts")                                                \
    X(RUNNING, SUSPENDING, "suspended by a person, for a more important job or a reservation")     \
    X(RUNNING, STOPPING, "stopped by a person, failed, or time limit")                             \
    X(RUNNING, FAILED, "its only ranks failed")                                                    \
    X(RECOVERING, RUNNING, "all ranks run again")                                                  \
    X(RECOVERING, SUSPENDING, "suspended by a person or for a reservation while ranks were left")  \
    X(RECOVERING, SUSPENDED, "suspended by a person while no rank was left")                       \
    X(RECOVERING, STOPPING, "stopped by a person, failed, or time limit, ranks left")              \
    X(RECOVERING, STOPPED, "stopped by a person while no rank was left")                           \
    X(RECOVERING, FAILED, "failed while starting again, no rank left")                             \
    X(SUSPENDING, SUSPENDED, "all ranks are gone")                                                 \
    X(SUSPENDING, QUEUED, "all ranks are gone, resumed meanwhile")                                 \
    X(SUSPENDING, STOPPING, "stopped by a person")                                                 \
    X(SUSPENDED, STARTING, "there is room again after it gave way")                                \
    X(SUSPENDED, QUEUED, "resumed")                                                                \
    X(SUSPENDED, STOPPED, "stopped by a person, or a job it waits for did not end as it should")   \
    X(STOPPING, RECOVERING, "what looked like a failure of its own turned out a fault")            \
    X(STOPPING, FAILED, "all ranks are gone after a failure")                                      \
    X(STOPPING, STOPPED, "all ranks are gone after a stop")                                        \
    X(STOPPING, TIMED_OUT, "all ranks are gone after the time limit")

/* Is a change from one state to another in the table? */
bool jobstate_allowed(enum job_state from, enum job_state to);
