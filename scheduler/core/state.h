/* state.h - all that the scheduler knows: cluster, nodes, jobs, accounts.
 *
 * Pure. The canonical part is the records of records.def (member `r` of job and node; the arrays of
 * struct state); everything else here is derived from them: state_decode builds it again. Only
 * apply.h changes a state. Everybody else reads it, through `const struct state *`.
 *
 * Jobs are named by id, nodes, zones, leaves and groups by number (their position). A job owns its
 * newest attempt: `allocs` (one a node, in rank order) and `ranks`. The attempt is live until every
 * allocation is gone (surely none of its ranks runs); only then may the next one be placed.
 */
#pragma once
#include "lib/pure/map.h"
#include "scheduler/core/entry.h"
#include "scheduler/core/jobstate.h"
#include "scheduler/core/keys.h"
#include "scheduler/core/timers.h"

#define NODE_STATES(P, X)                                                                          \
    X(P, ABSENT, "absent") /* described, never heard of */                                         \
    X(P, UP, "ready")      /* its agent answers */                                                 \
    X(P, LOST, "lost")     /* its agent is silent */
DECLARE_ENUM(node_state, NODE_STATE, NODE_STATES);

#define RANK_STATES(P, X)                                                                          \
    X(P, ASSIGNED, "starting")                                                                     \
    X(P, STARTED, "running")                                                                       \
    X(P, EXITED, "exited")
DECLARE_ENUM(rank_state, RANK_STATE, RANK_STATES);

#define WANTED_LIST(P, X)                                                                          \
    X(P, RUN, "run")                                                                               \
    X(P, SUSPEND, "suspend")                                                                       \
    X(P, STOP, "stop")
DECLARE_ENUM(job_wanted, WANTED, WANTED_LIST);

/* What went wrong with an attempt, from bad to worse: a later one replaces an earlier one, because
 * the ranks left behind by a dead one tend to end by themselves and to be reported first. */
#define FAULTS(P, X)                                                                               \
    X(P, NONE, "none")                                                                             \
    X(P, EXIT, "exit")     /* a non-zero exit status: the job's own doing */                       \
    X(P, START, "start")   /* could not be started as described: the job's own doing */            \
    X(P, HANG, "hang")     /* made no progress */                                                  \
    X(P, SIGNAL, "signal") /* killed by a signal that hai did not send */                          \
    X(P, MEMORY, "memory") /* killed for memory */                                                 \
    X(P, NODE, "node")     /* its node was lost, or lost sight of it */
DECLARE_ENUM(fault, FAULT, FAULTS);

/* Why a job is in its state: UX.md's `reason`. */
#define REASONS(P, X)                                                                              \
    X(P, NONE, "none")                                                                             \
    X(P, HELD, "held")                   /* submitted to wait */                                   \
    X(P, USER, "user")                   /* a person stopped or suspended it */                    \
    X(P, EXIT, "exit")                   /* a rank ended with a non-zero exit status */            \
    X(P, SETUP, "setup")                 /* its ranks could not be started as described */         \
    X(P, SIGNAL, "signal")               /* a rank was killed by a signal */                       \
    X(P, MEMORY, "memory")               /* a rank was killed for memory */                        \
    X(P, HANG, "hang")                   /* a rank made no progress */                             \
    X(P, NODE_LOST, "node_lost")         /* a node with ranks of it was lost */                    \
    X(P, RESTARTS, "restarts_exhausted") /* one fault more than restart_max */                     \
    X(P, TIME_LIMIT, "time_limit")       /* it ran for as long as it may */
DECLARE_ENUM(reason, REASON, REASONS);

/* Levels of UX.md, highest first; the position is the number of a job's queue within its group. */
#define PRIORITIES(X) X(50) X(40) X(30) X(20) X(10) X(8) X(5) X(0)
enum { PRIORITY_COUNT = 8 };

#include "scheduler/core/records.def"

#include "lib/pure/schema_structs.h"
RECORD_SCHEMAS
#include "lib/pure/schema_undef.h"

struct job {
    struct state_job r;

    /* derived */
    int group;               // number, -1: the group is no longer described
    uint64_t zones;          // set of zone numbers where it may run
    int64_t cpus_per_node;   // with the default filled in
    size_t n_left;           // allocations that are not gone; 0: no live attempt
    size_t n_assigned;       // ranks not yet reported to run
    bool spans;              // its live attempt spans zones
    bool queued;             // in a queue of its group: waits for nodes, may be placed now
    struct timer timer;      // what happens next by itself
    struct job *next, *prev; // all jobs, ascending ids
    struct job *queue_next, *queue_prev;
    struct job *ended_next;
    uint64_t touched; // effects.c: the batch that has it in its list
};

struct node {
    struct state_node r;

    /* derived */
    int zone;
    uint64_t groups;    // set of group numbers
    uint32_t gpus_held; // set of GPUs that an attempt holds
    int64_t cpus_free;  // may be negative after the description changed
    int64_t memory_free;
    int64_t *jobs; // ids of jobs with an allocation here that is not gone, ascending
    size_t n_jobs;
    size_t n_jobs_max;  // allocated
    struct timer timer; // hold_until_us
    uint64_t touched;   // effects.c
};

struct job_queue {
    struct job *first, *last; // ascending ids
};

struct group {
    struct state_group r;

    /* derived */
    struct job_queue queues[PRIORITY_COUNT]; // highest priority first
    /* For decide.c, which remembers that a group is blocked until one of these grows: */
    uint64_t freed;   // nodes of the group may take more than before
    uint64_t ordered; // its queue changed elsewhere than at the end
};

struct state {
    struct state_head r;
    struct state_zone *zones;
    struct state_leaf *leaves;
    struct group *groups;
    struct node **nodes; // allocated one by one: timers point into them
    int n_zones, n_leaves, n_groups, n_nodes;
    struct job *jobs_first, *jobs_last; // ascending ids
    struct keys keys;                   // idempotency keys
    struct state_user *users;           // in order of creation
    struct state_token *tokens;         // ascending ids
    size_t n_users, n_tokens;

    /* derived */
    struct map job_by_id;
    struct map node_by_name;              // number + 1
    struct map user_by_name;              // position + 1
    struct map token_by_hash;             // hexadecimal; id
    struct job *ended_first, *ended_last; // ended jobs, oldest first
    int64_t n_jobs, n_ended;
    int64_t n_jobs_in[JOB_STATE_COUNT]; // by state
    int64_t n_cross_zone;               // live attempts that span zones
    struct timers timers;
    uint64_t cluster_seq; // grows when nodes or groups are described anew
    uint16_t ports_used[MASTER_PORT_LAST - MASTER_PORT_FIRST + 1]; // attempts using a master port
};

struct state *state_new(void);
void state_free(struct state *state);
DEFINE_CLEANUP(struct state *, state_free)

/* Append the canonical encoding. */
void state_encode(const struct state *state, struct buf *ret);

/* Make a state from its encoding. Returns 0 and a state the caller owns, or -EBADMSG, -ERANGE. */
int state_decode(const void *data, size_t n_bytes, struct state **ret, struct hai_err *err);

/* Lookups; NULL or -1: there is none. */
struct job *state_job_find(const struct state *state, int64_t id);
int state_node_find(const struct state *state, const char *name);
int state_group_find(const struct state *state, const char *name);
int state_zone_find(const struct state *state, const char *name);
const struct state_user *state_user_find(const struct state *state, const char *name);

/* The token with this SHA-256 (DIGEST_BYTES); NULL: none. Expiry is the caller's to check. */
const struct state_token *state_token_find(const struct state *state, const uint8_t *hash);

/* When a tick must be appended at the latest, or INT64_MAX: nothing is due by itself. */
int64_t state_next_wakeup(const struct state *state);

/* May something be placed on the node now? */
static inline bool state_node_usable(const struct node *node) {
    return node->r.state == NODE_STATE_UP && !node->r.drained && !node->r.removed;
}

/* May ranks of the job run somewhere? */
static inline bool state_job_live(const struct job *job) {
    return job->n_left > 0;
}

static inline bool state_job_ended(const struct job *job) {
    return job_state_ended(job->r.state);
}

/* Waiting for nodes in decision order: the first job of the group's queues, and the one after job;
 * NULL at the end. Order: priority, highest first, then id. */
struct job *state_queue_first(const struct group *group);
struct job *state_queue_next(const struct group *group, const struct job *job);

/* GPUs of a node that are there and not held. */
static inline uint32_t state_gpus_free(const struct node *node) {
    return (uint32_t)((UINT64_C(1) << node->r.gpus) - 1) & ~node->gpus_held;
}

/* The queue number of a priority, or -EINVAL if it is none of PRIORITIES. */
int state_priority_level(int64_t priority);

/* Ids of all jobs that wait for nodes, in the order in which they are tried (priority, then id,
 * over all groups). The caller frees *ret. Returns how many. */
size_t state_queue(const struct state *state, int64_t **ret);

/* Compute a job's group, zones and CPUs from its spec and the cluster (state_decode and apply). */
void state_job_resolve(const struct state *state, struct job *job);

/* Is job a tried before job b? */
bool state_queue_before(const struct job *a, const struct job *b);

/* For apply and state_decode. state_token_at: where the token with this id is, or would be;
 * state_token_name: the key of token_by_hash, 2 * DIGEST_BYTES + 1 bytes. */
void state_job_free(struct job *job);
void state_cluster_free(struct state *state); // zones, leaves and groups
size_t state_token_at(const struct state *state, int64_t id);
void state_token_name(const uint8_t *hash, char *ret);
