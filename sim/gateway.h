/* gateway.h - the scheduler's side of the agents: what scheduler/fleet.c and api_agent.c make of
 * polls and reports, with their entries appended to a world.
 *
 * A poll is held until its node's desired set changes or it has waited for long enough; a lease is
 * granted from the moment it came in. Answers leave with a commit and not before.
 */
#pragma once
#include "scheduler/core/witness.h"
#include "sim/network.h"
#include "sim/world.h"

struct gateway_agent {
    struct witness witness;       // whose poll was taken last
    int64_t heard_us;             // log time
    int64_t grant_us;             // of the newest lease; S_ABSENT: none since the start
    struct network_message *poll; // held
    int64_t poll_seq;             // of the held one, of all polls
    bool fresh;                   // it is this instance's first
};

struct gateway_gone {
    int node;
    struct entry_ranks_gone entry;
};

struct gateway {
    struct world *world;
    struct network *net;
    struct agenda *agenda;
    struct gateway_agent *agents; // by node
    int64_t silence_us;
    struct network_message **inbox; // came in since the last turn
    size_t n_inbox, n_inbox_max;
    struct network_message **announced; // polls that wait for the commit of their node's life
    size_t n_announced, n_announced_max;
    struct gateway_gone *gone; // entries of the next turn
    size_t n_gone;
    struct network_message **outbox; // replies that wait for the commit
    size_t n_outbox, n_outbox_max;
    int64_t n_polls;
    int (*append)(void *userdata, const char *principal, enum entry_kind kind, const void *payload);
    void *userdata;
};

void gateway_init(struct gateway *g, struct world *world, struct network *net,
                  struct agenda *agenda);
void gateway_free(struct gateway *g);

/* A request came in; a copy of it belongs to the gateway until it is answered. */
void gateway_receive(struct gateway *g, struct network_message *message);

/* A turn: requests that came in become entries. */
void gateway_turn(struct gateway *g);

/* What was appended is committed: answers go out, and new sets to the nodes of fx. Of the polls
 * that waited for it some have no caller any more; what the others say may need another turn
 * (n_gone). */
void gateway_commit(struct gateway *g);

/* AGENDA_HELD: a poll has waited for long enough. AGENDA_SILENCE: who was not heard of is lost. */
void gateway_held(struct gateway *g, int node, int64_t seq);
bool gateway_is_silent(const struct gateway *g);
void gateway_silence(struct gateway *g);

/* The scheduler is killed: who waits for an answer will not get one. Started anew: nobody has been
 * silent yet. */
void gateway_killed(struct gateway *g);
void gateway_started(struct gateway *g);
