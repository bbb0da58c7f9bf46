#include "scheduler/core/restart.h"
#include "lib/pure/plant.h"
#include <stdio.h>

static const struct {
    int bit; // of restart_when
    enum reason reason;
} faults[] = {
    [FAULT_NONE] = {0,              REASON_NONE     },
    [FAULT_EXIT] = {RESTART_EXIT,   REASON_EXIT     },
    [FAULT_START] = {0,              REASON_SETUP    },
    [FAULT_HANG] = {RESTART_HANG,   REASON_HANG     },
    [FAULT_SIGNAL] = {RESTART_SIGNAL, REASON_SIGNAL   },
    [FAULT_MEMORY] = {RESTART_MEMORY, REASON_MEMORY   },
    [FAULT_NODE] = {RESTART_NODE,   REASON_NODE_LOST},
};
_Static_assert(ARRAY_SIZE(faults) == FAULT_COUNT, "faults");

/* Restarts so far that count: an hour of running is progress enough to begin anew. */
static int64_t count(const struct job *job, int64_t now_us) {
    if (job->r.running_us != S_ABSENT && now_us - job->r.running_us >= RESTART_CLEAR_US)
        return 0;
    return job->r.restarts;
}

bool restart_allowed(const struct job *job, int64_t now_us) {
    return (job->r.spec.restart_when & faults[job->r.fault].bit) &&
           count(job, now_us) < job->r.spec.restart_max + HAI_PLANT(PLANT_ONE_RESTART_MORE);
}

int64_t restart_delay_us(int64_t n) {
    int64_t delay = RESTART_DELAY_FIRST_US;

    if (n <= 1)
        return 0;
    for (; n > 2 && delay < RESTART_DELAY_MAX_US; n--)
        delay *= 2;
    return MIN(delay, RESTART_DELAY_MAX_US);
}

enum reason restart_reason(const struct job *job) {
    return faults[job->r.fault].reason;
}

/* The newest JOB_AVOID_MAX different nodes, newest last. */
static void avoid(struct job *job, int64_t node) {
    size_t n = 0;

    for (size_t i = 0; i < job->r.avoid.n; i++)
        if (job->r.avoid.items[i] != node)
            job->r.avoid.items[n++] = job->r.avoid.items[i];
    if (n == JOB_AVOID_MAX)
        memmove(job->r.avoid.items, job->r.avoid.items + 1, --n * sizeof *job->r.avoid.items);
    job->r.avoid.n = n;
    *LIST_ADD(&job->r.avoid) = node;
}

static void again(struct mutate *c, struct job *job) {
    int64_t now_us = c->entry->time_us;

    job->r.restarts = count(job, now_us) + 1;
    int64_t delay_us = restart_delay_us(job->r.restarts);
    job->r.not_before_us = delay_us ? now_us + delay_us : S_ABSENT;
    if (job->r.fault_node != S_ABSENT)
        avoid(job, job->r.fault_node);
    char pause[48] = "";
    if (delay_us)
        (void)snprintf(pause, sizeof pause, ", after a pause of %lld s",
                       (long long)delay_us / 1000000);
    effects_event(c->fx, c->entry, EVENT_RESTART, job, -1, -1, "restart %lld of at most %lld%s",
                  (long long)job->r.restarts, (long long)job->r.spec.restart_max, pause);
    if (job->r.state == JOB_STATE_RECOVERING)
        mutate_follow(c, job);
    else
        mutate_state(c, job, JOB_STATE_RECOVERING, restart_reason(job), "%s", job->r.last_fault);
}

static void fail(struct mutate *c, struct job *job) {
    bool listed = job->r.spec.restart_when & faults[job->r.fault].bit;

    if (listed)
        mutate_state(c, job, JOB_STATE_FAILED, REASON_RESTARTS, "%s, after %lld restarts",
                     job->r.last_fault, (long long)job->r.restarts);
    else
        mutate_state(c, job, JOB_STATE_FAILED, restart_reason(job), "%s", job->r.last_fault);
}

bool restart_follows(const struct job *job, int64_t now_us) {
    return (int)job->r.outcome < 0 && job->r.state != JOB_STATE_SUSPENDING &&
           job->r.fault != FAULT_NONE && job->r.wanted == WANTED_RUN &&
           restart_allowed(job, now_us);
}

void restart_settle(struct mutate *c, struct job *job) {
    if (job->r.fault > FAULT_START)
        job->r.faults++;
    if ((int)job->r.outcome >= 0) {
        mutate_state(c, job, job->r.outcome, job->r.reason, "%s", job->r.message);
    } else if (job->r.state == JOB_STATE_SUSPENDING) {
        if (job->r.wanted == WANTED_RUN && !state_reason_gives_way(job->r.reason)) {
            mutate_state(c, job, JOB_STATE_QUEUED, REASON_NONE, NULL);
        } else {
            mutate_state(c, job, JOB_STATE_SUSPENDED, job->r.reason, "%s", job->r.message);
            effects_event(c->fx, c->entry, EVENT_SUSPENDED, job, -1, -1, "holds nothing any more");
        }
    } else if (job->r.fault == FAULT_NONE) {
        job->r.exit_code = 0;
        mutate_state(c, job, JOB_STATE_SUCCEEDED, REASON_NONE, NULL);
    } else if (job->r.wanted == WANTED_STOP && job->r.fault > FAULT_START) {
        mutate_state(c, job, JOB_STATE_STOPPED, REASON_USER, "stopped while it was ending: %s",
                     job->r.last_fault);
    } else if (restart_follows(job, c->entry->time_us)) {
        again(c, job);
    } else {
        fail(c, job);
    }
}
