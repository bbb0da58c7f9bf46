#include "scheduler/core/jobstate.h"

bool jobstate_allowed(enum job_state from, enum job_state to) {
#define TRANSITION_(f, t, when)                                                                    \
    if (from == JOB_STATE_##f && to == JOB_STATE_##t)                                              \
        return true;
    JOB_TRANSITIONS(TRANSITION_)
#undef TRANSITION_
    return false;
}
