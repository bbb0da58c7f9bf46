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

/* Why a job is in its state: `reason` in what people and scripts see. */
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
    X(P, TIME_LIMIT, "time_limit")       /* it ran for as long as it may */                        \
    X(P, GAVE_WAY, "gave_way")       /* suspended for a more important job; goes on by itself */   \
    X(P, DEPENDENCY, "dependency")   /* a job that it waited for did not end as it should */       \
    X(P, RESERVED, "reserved")       /* suspended for a reservation; goes on by itself */          \
    X(P, MAINTENANCE, "maintenance") /* the same, for one that nobody may use */
DECLARE_ENUM(reason, REASON, REASONS);

/* The levels that people may ask for, highest first. */
#define PRIORITIES(X) X(50) X(40) X(30) X(20) X(10) X(8) X(5) X(0)
enum { PRIORITY_COUNT = 8 };

enum { NODES_TOUCHED_KEPT = 8192 };

/* Tiers in which jobs wait (order.h), and levels of each (fair.h), best first. */
enum { ORDER_TIERS = 40, FAIR_LEVELS = 4, ORDER_LINES = ORDER_TIERS * FAIR_LEVELS };

/* What a GPU's time went into: each GPU of the cluster is in one class at any time (ledger.h). The
 * first ones are of GPUs that a job holds. Positions are in the state: no class is put between. */
#define LEDGER_CLASSES(P, X)                                                                       \
    X(P, PRODUCTIVE, "productive")    /* all ranks of a job run */                                 \
    X(P, RECOMPUTED, "recomputed")    /* lost by a fault and run again, or being taken down */     \
    X(P, STALLED, "checkpoint_stall") /* ranks wait for their checkpoint */                        \
    X(P, START_UP, "start_up")        /* placed, and not all ranks run yet */                      \
    X(P, SUSPENDED, "suspended")      /* saves because it gives way, or loads again */             \
    X(P, IDLE, "idle")                /* free, and nobody waits for it */                          \
    X(P, IDLE_DEMAND, "idle_demand")  /* free, and a job waits in a group of its node */           \
    X(P, UNHEALTHY, "unhealthy")      /* of a node that is lost or was never heard of */           \
    X(P, DRAINED, "drained")          /* free, of a drained node */                                \
    X(P, RESERVED, "reserved")        /* free, of an active reservation or maintenance */
DECLARE_ENUM(ledger_class, LEDGER, LEDGER_CLASSES);
enum {
    LEDGER_JOB_CLASSES = LEDGER_IDLE,
    LEDGER_UNSAVED = LEDGER_JOB_CLASSES, // in state_job.booked: productive, in no checkpoint
    LEDGER_BOOKS,
};

#include "scheduler/core/records.def"

#include "lib/pure/schema_structs.h"
RECORD_SCHEMAS
#include "lib/pure/schema_undef.h"

struct job {
    struct state_job r;

    /* derived */
    int group;             // number, -1: the group is no longer described
    uint64_t zones;        // set of zone numbers where it may run
    int64_t cpus_per_node; // with the default filled in
    size_t n_left;         // allocations that are not gone; 0: no live attempt
    size_t n_assigned;     // ranks not yet reported to run
    bool spans;            // its live attempt spans zones
    bool queued;           // stands in a line (queue.h): waits for nodes, may be placed now
    int tier, level;       // of its line
    struct shape *shape;   // of its line
    int64_t hold_s;        // queued, with backfill: for how long it takes its nodes (hold.h)
    struct job *line_next, *line_prev;
    struct job *live_next, *live_prev; // jobs with a live attempt, in no order that matters
    int64_t runs_since_us;             // runners.h: as what it is listed; 0: it is not
    struct job *claimant_next;
    struct series *series; // eligible.h; NULL once it has ended
    struct job *series_next, *series_prev;
    struct array *array;        // array.h: of an array that has not ended
    struct quota_stand *stands; // quota.h: where it could be within quota, highest level first
    int n_stands;
    struct quota_line
        *line;        // quota.h: where it is within quota; NULL: nowhere, or no quota applies
    bool counted;     // quota.h: waits or runs, so that its GPUs count
    int64_t *waiters; // ids of jobs that wait for its end, ascending
    size_t n_waiters;
    struct timer timer;      // what happens next by itself
    struct job *next, *prev; // all jobs, ascending ids
    struct job *ended_next;
    uint64_t touched; // effects.c: the batch that has it in its list
    enum ledger_class ledger_class;
    int64_t ledger_gpus; // that it holds on nodes in service
};

struct node {
    struct state_node r;

    /* derived */
    int zone;
    uint64_t groups;       // set of group numbers
    uint32_t gpus_held;    // set of GPUs that an attempt holds
    uint32_t gpus_claimed; // set of GPUs that are kept for a waiting job
    int64_t cpus_free;     // may be negative after the description changed
    int64_t memory_free;
    int64_t *jobs; // ids of jobs with an allocation here that is not gone, ascending
    size_t n_jobs;
    size_t n_jobs_max;  // allocated
    struct timer timer; // hold_until_us
    uint64_t touched;   // effects.c
    int64_t reserved;   // number of the reservation that is active here; 0: none
    int64_t coming_us;  // when the next one begins here; 0: none is planned
    /* ledger.h */
    struct job **holders; // jobs that hold GPUs of it, in no order that matters
    size_t n_holders, n_holders_max;
    int ledger_set;                    // of its groups
    bool ledger_up;                    // in service, as counted
    uint8_t ledger_gpus[LEDGER_COUNT]; // its free ones, as counted
    uint8_t ledger_capacity;
};

struct job_line {
    struct job *first, *last; // in the order of queue_place
};

/* All jobs that wait for nodes: see queue.h. */
struct queue {
    struct shape **slots; // NULL: free
    size_t n_slots;       // a multiple of 64
    size_t slot_hint;     // no slot below is free
    struct map by_hash;
    uint64_t *present[ORDER_LINES];          // slots with a job in that line
    int n_present[ORDER_LINES];              // how many
    uint64_t lines[(ORDER_LINES + 63) / 64]; // those with any
    uint64_t serial;
    uint64_t changes; // grows when jobs come or go
    int64_t n;        // jobs
};

/* The jobs of one user and name that have not ended, ascending ids (eligible.h). */
struct series {
    struct job *first, *last;
};

/* Quotas in use (quota.h). */
struct quota_book {
    uint32_t levels; // set of positions in PRIORITIES that records name
    struct map lines, accounts;
    struct quota_account *touched; // to be settled; empty between entries
    struct quota_line **sorted;
    size_t n_sorted_max;
};

/* A job that ended, until those that wait for it have been told (dependents.h). */
struct eligible_news {
    int64_t job;
    enum job_state ended;
    int64_t *waiters;
    size_t n_waiters;
    struct eligible_news *next;
};

/* Jobs that run undisturbed (runners.h). */
struct runners {
    struct order_view *items;
    size_t n, n_max;
    size_t n_gone; // of the n
    bool filling;  // not yet in order
};

/* Nodes of a group that are alike. */
struct node_kind {
    int zone;
    int64_t gpus, cpus, memory_bytes;
    int64_t n;
};

struct group {
    struct state_group r;

    /* derived */
    struct node_kind *kinds; // of all its nodes, in service or not
    int n_kinds;
    int64_t gpus_max; // of its largest node
    uint64_t freed;   // grows whenever nodes of the group may take more than before
};

/* Free GPUs of nodes that are in the same groups. */
struct ledger_set {
    uint64_t groups;
    int64_t idle;
};

/* How many GPUs are in each class now (ledger.h). */
struct ledger {
    int64_t gpus[LEDGER_COUNT];
    int64_t capacity;
    struct ledger_set *sets;
    int n_sets;
    int64_t waiting[GROUPS_MAX]; // jobs in line that need GPUs, by group
    uint64_t wanted;             // groups with one
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
    struct state_past *pasts;           // how long jobs ran (predict.h), in order of their slots
    size_t n_pasts;
    struct state_share *shares; // what users had of late (fair.h), in order of creation
    size_t n_shares;
    struct state_user *users;       // in order of creation
    struct state_token *tokens;     // ascending ids
    struct state_reserve *reserves; // ascending numbers
    size_t n_users, n_tokens, n_reserves;
    struct state_quota *quotas; // in the order of records.def
    size_t n_quotas;

    /* derived */
    struct map job_by_id;
    struct map node_by_name;              // number + 1
    struct map user_by_name;              // position + 1
    struct map token_by_hash;             // hexadecimal; id
    struct map past_by_key;               // user, line feed, name; slot + 1
    struct map share_by_user;             // position + 1
    struct job *ended_first, *ended_last; // ended jobs, oldest first
    struct queue queue;
    struct job *live_first;
    struct runners runners;
    struct job *claimants;                        // jobs with a claim, in no order that matters
    struct job *arrays;                           // array.h: those that have not ended
    struct job *arrays_noticed;                   // elements.h: empty between entries
    struct map series;                            // eligible.h: by user, line feed, name
    struct eligible_news *news_first, *news_last; // eligible.h: empty between entries
    struct quota_book book;
    int64_t n_jobs, n_ended;
    int64_t n_jobs_in[JOB_STATE_COUNT]; // by state
    int64_t n_cross_zone;               // live attempts that span zones
    int64_t n_cross_claims;             // claims that do
    struct ledger ledger;
    struct timers timers;
    struct timer look;        // look again at who waits: time-sharing, reservations that come near
    struct timer turn;        // fair.h: sort who waits
    struct timer reserve_due; // the next reservation begins or ends
    bool reserve_planned;     // some have not begun
    uint64_t cluster_seq;     // grows when nodes or groups are described anew
    /* The last nodes that changed, for whoever keeps a picture of them (room.h): entry n is at
     * n % NODES_TOUCHED_KEPT. */
    uint64_t n_touched;
    int touched[NODES_TOUCHED_KEPT];
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

/* Refuse a group or zone that is not there: -EINVAL, with the names that are as the hint. */
int state_no_group(const struct state *state, const char *where, const char *name,
                   struct hai_err *err);
int state_no_zone(const struct state *state, const char *where, const char *name,
                  struct hai_err *err);

const struct state_user *state_user_find(const struct state *state, const char *name);

/* The token with this SHA-256 (DIGEST_BYTES); NULL: none. Expiry is the caller's to check. */
const struct state_token *state_token_find(const struct state *state, const uint8_t *hash);

/* The reservation with this number or name; NULL: none, or it is over. */
const struct state_reserve *state_reserve_find(const struct state *state, int64_t number);
const struct state_reserve *state_reserve_named(const struct state *state, const char *name);

/* Is a node one of the reservation's, active or not? */
bool state_reserve_has(const struct state_reserve *reserve, int node);

/* When a tick must be appended at the latest, or INT64_MAX: nothing is due by itself. */
int64_t state_next_wakeup(const struct state *state);

/* May something be placed on the node now? */
static inline bool state_node_usable(const struct node *node) {
    return node->r.state == NODE_STATE_UP && !node->r.drained && !node->r.removed;
}

/* May one more gang span zones, beside n others that the state does not know of? */
static inline bool state_may_cross(const struct state *state, int64_t n) {
    return state->n_cross_zone + state->n_cross_claims + n < state->r.cross_zone_jobs;
}

/* May ranks of the job run somewhere? */
static inline bool state_job_live(const struct job *job) {
    return job->n_left > 0;
}

static inline bool state_job_ended(const struct job *job) {
    return job_state_ended(job->r.state);
}

/* Suspended for others, and goes on by itself? */
static inline bool state_reason_gives_way(enum reason reason) {
    return reason == REASON_GAVE_WAY || reason == REASON_RESERVED || reason == REASON_MAINTENANCE;
}

/* GPUs of a node that are there and neither held nor claimed. */
static inline uint32_t state_gpus_free(const struct node *node) {
    return (uint32_t)((UINT64_C(1) << node->r.gpus) - 1) & ~(node->gpus_held | node->gpus_claimed);
}

/* The position of a priority in PRIORITIES, or -EINVAL. */
int state_priority_level(int64_t priority);

/* The priority at a position. */
int64_t state_priority_at(int level);

/* Compute a job's group, zones and CPUs from its spec and the cluster (state_decode and apply). */
void state_job_resolve(const struct state *state, struct job *job);

/* For apply and state_decode. state_group_join: a node is in a group (what is derived of that);
 * state_token_at: where the token with this id is, or would be; state_token_name: the key of
 * token_by_hash, 2 * DIGEST_BYTES + 1 bytes. */
void state_group_join(struct state *state, int number, int node);
void state_job_free(struct job *job);
void state_cluster_free(struct state *state); // zones, leaves and groups
size_t state_token_at(const struct state *state, int64_t id);
void state_token_name(const uint8_t *hash, char *ret);
