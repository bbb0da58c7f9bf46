/* plant.h - faults planted on purpose, to see that the simulator finds them.
 *
 * Only the test program tests/fault/planted.c is compiled with HAI_PLANTS and chooses one;
 * everywhere else HAI_PLANT is the constant false and the compiler drops what hangs on it.
 * docs/testing.md says after how many seeds each is found.
 */
#pragma once
#include "lib/base.h"

#define PLANTS(X)                                                                                  \
    X(FENCE_FORGOTTEN, "a lost node's lease is not waited for")                                    \
    X(EPOCH_UNCHECKED, "reports of an earlier epoch count")                                        \
    X(GANG_PARTLY_RELEASED, "the last node of a gang is not given back")                           \
    X(CLAIM_KEPT, "a job that waits no more keeps its claim")                                      \
    X(ONE_RESTART_MORE, "restart_max is off by one")                                               \
    X(WAKE_UP_LOST, "freed GPUs wake nobody")                                                      \
    X(EARLY_REPLY, "answers go out before the commit")                                             \
    X(LEASE_FROM_WRONG_TIME, "a lease is reckoned without the scheduler's own start")              \
    X(REPORT_TWICE, "a repeated report of an exit counts again")                                   \
    X(KEY_FORGOTTEN, "an idempotency key is not looked up")                                        \
    X(OLD_LIFE_FENCED, "a fence of a node's earlier life counts for this one")                     \
    X(PLAN_OVERLAPPED, "who passes a blocked job may hold its nodes when it is planned to start")  \
    X(CLOCK_STEP, "a start with a clock set forward ends the leases of lost nodes")                \
    X(GPU_IN_TWO_CLASSES, "free GPUs of a drained node count as idle, too")                        \
    X(BOOKED_LATE, "GPU time is booked as what the job does next")                                 \
    X(QUOTA_OFF, "a quota is off by one")                                                          \
    X(MARK_FORGOTTEN, "an agent starts an attempt without a mark")                                 \
    X(GONE_EARLY, "the last exit of an attempt is told while something of it is left")             \
    X(OLD_REVISION, "an agent follows a desired set that is no answer to its poll")                \
    X(REPLACED_AGENT, "a late poll of a killed agent is believed")                                 \
    X(BOOTS_MIXED, "an agent is taken for older than one of another boot")                         \
    X(ADOPTED_TOLD, "an agent tells all exits but one that an agent before it may have told")      \
    X(SYNCED_EARLY, "an agent says that its account is complete before it has looked for shims")   \
    X(MARK_BLOCKS, "a mark that nobody asks for makes a newer attempt of its job wait")            \
    X(LATE_START, "ranks start although the lease has run out meanwhile")                          \
    X(LEASE_FROM_ANSWER, "an agent counts a lease from the answer to its poll, not from the poll") \
    X(NEVER_URGENT, "a job that has waited for too long may ask nobody more than before")          \
    X(AGED_IN_VAIN, "nor one that has aged those of the priority that it has come to")             \
    X(ASKED_ONCE, "who asked in vain for room does not ask again")                                 \
    X(GRACE_LONG, "who gives way has ten minutes more than its grace")                             \
    X(LIMIT_LONG, "who has had its time limit has ten minutes more than its grace")                \
    X(HIDDEN, "who has waited for too long asks only as the first of its line")

enum plant {
    PLANT_NONE,
#define PLANT_(name, text) PLANT_##name,
    PLANTS(PLANT_)
#undef PLANT_
        PLANT_END
};

#ifdef HAI_PLANTS
extern int hai_plant;
#define HAI_PLANT(n) (hai_plant == (n))
#else
#define HAI_PLANT(n) false
#endif
