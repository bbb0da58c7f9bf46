/* effects.h - what applying a batch of entries touched, for the shell.
 *
 * Pure. The shell gives one struct effects to all apply_entry calls of a turn, then projects the
 * touched jobs to rows, wakes watchers, sends changed desired sets, and calls effects_clear. It is
 * no part of the state: a replay that needs no rows passes NULL. A state has at most one struct
 * effects in its life, because jobs and nodes are marked with its batch number.
 */
#pragma once
#include "scheduler/core/state.h"

#define EVENT_KINDS(P, X)                                                                          \
    X(P, SUBMITTED, "submitted")                                                                   \
    X(P, PLACED, "placed")                                                                         \
    X(P, RUNNING, "running")                                                                       \
    X(P, RANK_EXITED, "rank_exited")                                                               \
    X(P, FAULT, "fault")                                                                           \
    X(P, RESTART, "restart")                                                                       \
    X(P, STOP, "stop")                                                                             \
    X(P, KILL, "kill")                                                                             \
    X(P, SUSPEND, "suspend")                                                                       \
    X(P, SUSPENDED, "suspended")                                                                   \
    X(P, RESUME, "resume")                                                                         \
    X(P, CHANGED, "changed")                                                                       \
    X(P, CHECKPOINT, "checkpoint")                                                                 \
    X(P, ENDED, "ended")                                                                           \
    X(P, NODE_UP, "node_up")                                                                       \
    X(P, NODE_LOST, "node_lost")                                                                   \
    X(P, NODE_FENCED, "node_fenced")                                                               \
    X(P, NODE_DRAINED, "node_drained")                                                             \
    X(P, NODE_UNDRAINED, "node_undrained")                                                         \
    X(P, CLUSTER, "cluster")                                                                       \
    X(P, ACCOUNT, "account")                                                                       \
    X(P, RESERVED, "reserved")                                                                     \
    X(P, UNRESERVED, "unreserved")
DECLARE_ENUM(event_kind, EVENT, EVENT_KINDS);

/* One line of a job's or node's story; text is a sentence without a full stop. */
struct event {
    int64_t index; // of the entry
    int64_t time_us;
    enum event_kind kind;
    int64_t job;     // 0: none
    int64_t attempt; // 0: none
    int64_t rank;    // -1: none
    int node;        // -1: none
    char *principal; // who caused it
    char *text;
};

/* GPU time of one attempt of a job on one UTC day; texts may be NULL. */
struct usage_row {
    int64_t day; // since 1970
    int64_t job, attempt;
    char *user, *team, *group, *stage;
    int64_t gpu_us[LEDGER_JOB_CLASSES];
};

/* GPU time of the cluster on a UTC day. */
struct ledger_day {
    int64_t day;
    int64_t gpu_us[LEDGER_COUNT];
    int64_t capacity_us;
};

struct effects {
    int64_t *jobs; // ids, each once, in the order of the first touch
    size_t n_jobs, n_jobs_max;
    int *nodes; // numbers, each once: record, allocations or desired set changed
    size_t n_nodes, n_nodes_max;
    struct event *events;
    size_t n_events, n_events_max;
    struct usage_row *usage; // of attempts that ended, and of all when a day did
    size_t n_usage, n_usage_max;
    struct ledger_day *days; // that ended
    size_t n_days, n_days_max;
    struct job **dropped; // jobs that left the state in this batch, owned
    size_t n_dropped, n_dropped_max;
    bool accounts; // users or tokens changed
    bool cluster;  // zones, leaves, groups or nodes were described anew
    uint64_t batch;
    bool quiet; // nobody reads events: none are made (the simulator's replays)
};

struct effects *effects_new(void);
void effects_free(struct effects *fx);
DEFINE_CLEANUP(struct effects *, effects_free)

/* Forget everything, before the next batch. */
void effects_clear(struct effects *fx);

/* The record of a touched job, whether it is still in the state or was dropped in this batch. */
const struct job *effects_job(const struct effects *fx, const struct state *state, int64_t id);

/* For apply only. fx may be NULL. */
void effects_touch_job(struct effects *fx, struct job *job);
void effects_touch_node(struct effects *fx, struct node *node, int number);
void effects_usage(struct effects *fx, const struct job *job, int64_t day,
                   const int64_t gpu_us[static LEDGER_JOB_CLASSES]);
void effects_day(struct effects *fx, const struct ledger_day *day);
void effects_drop(struct effects *fx, struct job *job); // takes ownership, frees if fx is NULL
void effects_event(struct effects *fx, const struct entry *entry, enum event_kind kind,
                   const struct job *job, int64_t rank, int node, const char *format, ...)
    _printf_(7, 8);
