/* agents.h - the agents of the simulated nodes: the real core (agent/core/reconcile.h) inside a
 * daemon that does with it what agent/attempts.c, uplink.c and holder.c do.
 *
 * A poll and a report are under way at a time, each a call with a number: an answer to another call
 * than that is dropped, and so no desired set is followed that is older than the last. A start is
 * marked durably first. An agent that is killed forgets all but its marks and the shims; the next
 * one reads and adopts them. What is about the network is in network.h, about ranks in shims.h.
 */
#pragma once
#include "sim/journal.h"
#include "sim/network.h"
#include "sim/shims.h"

/* Where an agent may be struck: at each message that reaches it, and around all that it makes
 * durable or irreversible. */
#define AGENTS_POINTS(X)                                                                           \
    X(MESSAGE, "as a message reaches it")                                                          \
    X(UNWRITTEN, "before its marks are written")                                                   \
    X(WRITTEN, "before its marks are durable")                                                     \
    X(MARKED, "before it starts what it has marked")                                               \
    X(STARTED, "as it has started a shim")                                                         \
    X(RELEASED, "as it has released an attempt")                                                   \
    X(REPORTING, "before it reports")                                                              \
    X(REPORTED, "as its report is answered")
enum agents_point {
#define AGENTS_POINT_(name, text) AGENTS_##name,
    AGENTS_POINTS(AGENTS_POINT_)
#undef AGENTS_POINT_
};

enum agents_blow {
    AGENTS_LIVES,
    AGENTS_KILLED,    // kill -9 of the agent
    AGENTS_WIPED,     // of it and of all shims; the system stays up
    AGENTS_POWER_OFF, // of the machine
};

enum { AGENTS_SAVED_MAX = 8 };

struct agents_node {
    int boot; // life of the machine; a new one starts empty
    bool down;
    struct journal marks;
    /* the agent; all of it is lost with the process */
    bool runs;
    enum agents_blow blow; // it was struck, and does nothing more
    int64_t instance, started_us;
    struct reconcile *core;
    struct network_message *desired; // the newest answer with a set
    struct reconcile_want *wants;
    int64_t *ranks; // of wants
    int64_t revision, lease_until_us, log_offset_us;
    int64_t poll, polled_us, poll_again_us; // call under way, 0: none
    int64_t report, report_again_us;
    bool report_waits;
    int n_adopting;
    int64_t stalled_until_us;      // its disk stands still, and it with it; 0: no
    struct reconcile_key *stalled; // marked, not yet started
    size_t n_stalled;
    bool poll_waits;                             // it polls after that
    struct network_part saved[AGENTS_SAVED_MAX]; // for the next report
    int n_saved, n_saved_sent;
};

struct agents {
    struct agenda *agenda;
    struct rng *rng;
    struct network *net;
    struct shims shims;
    struct agents_node *nodes;
    int n_nodes;
    int64_t n_calls, n_instances;
    /* Is a node struck here? */
    enum agents_blow (*strike)(void *userdata, int node, enum agents_point point);
    /* For how long does its disk stand still now? 0: not at all. */
    int64_t (*stall)(void *userdata, int node);
    /* Does the start of an attempt fail? cause: whose doing. */
    bool (*fails)(void *userdata, int node, enum exit_cause *cause);
    void *userdata;
};

void agents_init(struct agents *agents, int n_nodes, struct agenda *agenda, struct network *net,
                 struct rng *rng);
void agents_free(struct agents *agents);

/* An event of the agenda for a node: AGENDA_AGENT to AGENDA_RESUME. */
void agents_event(struct agents *agents, const struct agenda_event *event);

/* A message reaches the node. */
void agents_message(struct agents *agents, struct network_message *message);

/* A rank of a running attempt says that a checkpoint is durable. */
void agents_saved(struct agents *agents, const struct shim *shim, int64_t step);

/* What happens to a node. A killed agent is started again after a while, by itself. */
void agents_strike(struct agents *agents, int node, enum agents_blow blow);
void agents_boot(struct agents *agents, int node);
void agents_lose_shim(struct agents *agents, struct shim *shim);

/* Write a number that is not negative, and the 0 after it; returns where that is. */
char *agents_number(int64_t n, char *ret);

/* The text of its boot_id. */
void agents_boot_id(int node, int boot, char ret[static 32]);
