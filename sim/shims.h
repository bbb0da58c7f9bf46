/* shims.h - what really runs on the simulated nodes: shims, their ranks, and what ranks leave.
 *
 * A shim is what agent/shim_life.c makes of it: it outlives its agent, ends its ranks when it is
 * told to, when a grace is over, or when the lease runs out by its own boot clock, and says that an
 * attempt is gone when no process of it is left. Ranks take a moment to die, and now and then what
 * one left behind takes long; the GPUs are in use until then. Time is true time.
 *
 * Whatever starts here is compared with all that still runs anywhere: see `err`.
 */
#pragma once
#include "agent/core/reconcile.h"
#include "lib/pure/map.h"
#include "sim/agenda.h"
#include "sim/drift.h"
#include "sim/rng.h"

enum { SHIMS_NODES_MAX = 64, SHIMS_KILL_US = 50 * 1000 };

struct shims_rank {
    bool running;
    bool told; // the agent that is connected knows that it ended
    int64_t ends_us;
    struct reconcile_exit exit; // how it will end, or has
};

struct shim {
    int64_t id;
    struct reconcile_key key;
    int node;
    uint32_t gpus;
    int64_t first_rank;
    size_t n_ranks, n_running;
    struct shims_rank *ranks;
    bool lives;            // its own process
    bool left;             // some process of the attempt, ranks included
    bool gone;             // it has seen that none is
    bool killing;          // SIGKILL was sent
    bool expired;          // because the lease had run out
    enum exit_cause order; // who ends what ends from now on; SELF: nobody gave one
    int64_t started_us;
    int64_t lease_until_us, kill_at_us; // by the node's boot clock; kill_at_us 0: none
    int64_t left_until_us;              // so long what the ranks left stays
    int64_t event_us;                   // an event for it comes by then
    /* the agent's side */
    bool stated;    // it has said what it holds
    bool news;      // an event tells the agent soon
    bool told_gone; // or that it is no more
    int64_t lease_sent_us;
    bool adopting;            // the agent waits for its first word
    struct shim *next;        // of the node
    struct shim *next_of_job; // of all nodes
};

struct shims {
    struct agenda *agenda;
    struct rng *rng;
    uint64_t seed;
    int64_t run_us; // for so long at most most ranks run
    bool calm;      // ranks end well, and soon
    int n_nodes;
    struct shim *first[SHIMS_NODES_MAX];
    struct drift clocks[SHIMS_NODES_MAX]; // CLOCK_BOOTTIME
    struct map by_job;                    // the first shim of a job
    struct map started;                   // by job: what was started of its newest epoch
    int64_t n;                            // ids
    struct hai_err err;                   // the first thing that must not be
};

void shims_free(struct shims *shims);
int64_t shims_boot_us(const struct shims *shims, int node);

struct shim *shims_find(const struct shims *shims, int node, int64_t id);
struct shim *shims_of(const struct shims *shims, int node, const struct reconcile_key *key);

/* Start a shim with its ranks. */
struct shim *shims_start(struct shims *shims, int node, const struct reconcile_key *key,
                         int64_t first_rank, int64_t n_ranks, uint32_t gpus,
                         int64_t lease_until_us);

/* Let happen what is due for it. Returns whether its agent has something to hear. */
bool shims_step(struct shims *shims, struct shim *shim);

/* Orders of the agent. */
void shims_lease(struct shims *shims, struct shim *shim, int64_t until_us);
void shims_term(struct shims *shims, struct shim *shim, int64_t kill_at_us);
void shims_kill(struct shims *shims, struct shim *shim, enum exit_cause cause);

/* A rank ends by itself, in its own way. */
void shims_end_rank(struct shims *shims, struct shim *shim, size_t rank, int code, int signal);

/* SIGKILL for the shim: its ranks die with it, what they left does not. */
void shims_lose(struct shims *shims, struct shim *shim);

/* SIGKILL for whatever a dead shim left. */
void shims_clear(struct shims *shims, struct shim *shim);

/* Nothing of it is left, not even its directory. */
void shims_remove(struct shims *shims, struct shim *shim);

/* All on a node, at once: it lost power. */
void shims_remove_all(struct shims *shims, int node);

/* The storm is over: what would run on for long ends soon. */
void shims_calm(struct shims *shims);
