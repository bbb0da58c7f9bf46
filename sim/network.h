/* network.h - what agents and scheduler say to each other, and the network that brings it, or not.
 *
 * Pure. A message may be late, lost, repeated, and overtaken by later ones, each by itself; a link
 * may be cut in one direction or both. The four kinds are those of wire/messages.def as far as
 * decisions follow from them: polls and their answers, reports and their replies. A call that a
 * dead process or a broken connection cannot answer fails at once or, where nothing comes back, by
 * its caller's patience.
 *
 * Messages of a machine's earlier life do not outlive its reset, nor calls the scheduler that they
 * were made to: their connections end with it.
 */
#pragma once
#include "agent/core/reconcile.h"
#include "sim/agenda.h"
#include "sim/rng.h"

enum network_kind {
    NETWORK_POLL,
    NETWORK_ANSWER,
    NETWORK_REPORT,
    NETWORK_REPLY,
    NETWORK_REFUSED, // the call has failed
};

/* What a node has or shall have of an attempt. */
struct network_part {
    struct reconcile_key key;
    /* answer */
    enum desired_phase phase;
    int64_t kill_at_us;
    int64_t first_rank, n_ranks;
    uint32_t gpus;
    /* report */
    bool started, gone;
    struct reconcile_exit *exits;
    size_t n_exits;
    uint64_t news; // of exits, those that were news when the report came in
    int64_t saved; // a checkpoint of this step is durable; 0: none
};

struct network_message {
    enum network_kind kind;
    int node;
    int n_copies;   // on their way
    int boot;       // life of the machine
    int64_t server; // life of the scheduler
    int64_t call, instance;
    int64_t started_us; // poll: the instance, by its boot clock
    int64_t revision;
    bool synced;  // poll
    bool changed; // answer
    int64_t lease_us, now_us;
    struct network_part *parts;
    size_t n_parts, n_parts_max;
};

/* What goes wrong with one message in fair weather. */
enum network_mishap { NETWORK_LOST, NETWORK_TWICE, NETWORK_LATE };

struct network_link {
    bool deaf;   // nothing reaches the node
    bool mute;   // nothing that it says arrives
    int64_t bad; // one message in so many is lost, and about as many are late or come twice; 0: few
};

struct network {
    struct agenda *agenda;
    struct rng *rng;
    struct network_link *links; // by node
    int64_t server;             // life of the scheduler
    int64_t n_sent;
    /* Does it happen? Its time has come. */
    bool (*mishap)(void *userdata, int node, enum network_mishap mishap);
    void *userdata;
};

struct network_message *network_message_new(enum network_kind kind, int node);
struct network_part *network_message_add(struct network_message *message,
                                         const struct reconcile_key *key);
void network_message_free(struct network_message *message); // one copy

/* Send it; it belongs to the network then. */
void network_send(struct network *net, struct network_message *message);

/* The call that a message was, or the answer to it, is over. */
void network_refuse(struct network *net, const struct network_message *message);

/* A copy has come to its end: does it get through? */
bool network_arrives(const struct network *net, const struct network_message *message);
