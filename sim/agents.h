/* agents.h - simulated nodes: what really runs on them, whatever the scheduler believes.
 *
 * An agent follows the desired sets that reach it, reports what happened in messages that may be
 * late, repeated and out of order, and loses its memory when it is killed. The holder of the ranks
 * (the shim) survives the agent and kills them when the lease runs out. Time is the caller's.
 */
#pragma once
#include "sim/rng.h"
#include "sim/world.h"

/* The ranks of one attempt on one node, as they really are. */
struct agents_held {
    int64_t job;
    int64_t epoch;
    int64_t first_rank;
    int64_t n_ranks;
    uint32_t gpus;
    enum desired_phase phase;
    int64_t kill_at_us;
    bool *running;                  // [n_ranks]
    struct entry_rank_exited *ends; // [n_ranks], valid where not running
};

struct agents_node {
    struct agents_held *held;
    size_t n_held;
    int64_t revision; // newest desired set that the agent took
    int64_t lease_until_us;
    int64_t instance; // of the agent; messages to an earlier one are lost
    int boot;         // life of the node; a new one starts empty
    bool down;        // no power
    bool cut;         // no network
    bool deaf;        // nothing reaches it; what it says arrives
    bool mute;        // nothing that it says arrives; it hears
};

/* A report on its way to the scheduler. */
struct agents_report {
    int64_t at_us;
    int node;
    enum entry_kind kind;          // ENTRY_RANKS_STARTED, ENTRY_RANK_EXITED or ENTRY_RANKS_GONE
    struct entry_rank_exited body; // job, epoch and, for an exit, the rest
};

/* A desired set on its way to an agent. */
struct agents_order {
    int64_t at_us;
    int64_t sent_us;
    int node;
    int64_t instance;
    int64_t revision;
    struct agents_held *parts;
    size_t n_parts;
};

struct agents {
    struct world *world;
    struct rng *rng;
    struct agents_node *nodes;
    int n_nodes;
    struct agents_report *reports;
    size_t n_reports, n_reports_max;
    struct agents_order *orders;
    size_t n_orders, n_orders_max;
    int64_t lease_us, drift_us;
};

void agents_init(struct agents *agents, struct world *world, struct rng *rng);
void agents_free(struct agents *agents);

/* Send a node its desired set; takes at least 1 ms. Whoever sends it grants a lease. */
void agents_send(struct agents *agents, int node);

/* Let messages arrive, graces and leases end, up to the world's time. Reports that arrive are
 * handed to take(). */
void agents_step(struct agents *agents, void (*take)(void *, const struct agents_report *),
                 void *userdata);

/* Ranks of a held attempt end by themselves. */
void agents_end_rank(struct agents *agents, int node, size_t held, int64_t rank, int64_t code,
                     int64_t signal, enum exit_cause cause);

/* kill -9 of the agent: it forgets, starts again and reports everything that it holds. */
void agents_restart_agent(struct agents *agents, int node);

/* The network is whole again. */
void agents_mend(struct agents *agents, int node);

/* The log's clock is set forward: what is on its way and the leases of the nodes, which have clocks
 * of their own, end no earlier for that. */
void agents_clock_step(struct agents *agents, int64_t us);

/* The node loses power: all it runs is gone. */
void agents_crash(struct agents *agents, int node);

/* It is given back, empty. */
void agents_boot(struct agents *agents, int node);

/* The text of its boot_id. */
void agents_boot_id(const struct agents *agents, int node, char ret[static 32]);
