#include "sim/net.h"

enum {
    SOON_US = 5 * 1000,
    DELAY_US = 500 * 1000,
    LATE_US = 25 * 1000 * 1000,
    RESET_US = 1000 * 1000,
    TWICE_US = 5 * 1000 * 1000, // until the second copy comes
    FEW = 600,                  // of a mishap: one message in so many
    DELAYED = 100,
};

struct net_message *net_message_new(enum net_kind kind, int node) {
    struct net_message *message = hai_new(struct net_message);

    message->kind = kind;
    message->node = node;
    return message;
}

struct net_part *net_message_add(struct net_message *message, const struct reconcile_key *key) {
    if (message->n_parts == message->n_parts_max) {
        message->n_parts_max = MAX(2 * message->n_parts_max, (size_t)4);
        message->parts =
            hai_realloc_array(message->parts, message->n_parts_max, sizeof *message->parts);
    }
    message->parts[message->n_parts] = (struct net_part){.key = *key};
    return &message->parts[message->n_parts++];
}

void net_message_free(struct net_message *message) {
    if (!message || --message->n_copies > 0)
        return;
    for (size_t i = 0; i < message->n_parts; i++)
        free(message->parts[i].exits);
    free(message->parts);
    free(message);
}

static bool is_request(const struct net_message *message) {
    return message->kind == NET_POLL || message->kind == NET_REPORT;
}

/* In bad weather once in n times; in fair weather seldom, and then somebody else has a say. */
static bool goes_wrong(struct net *net, int node, int64_t n, enum net_mishap mishap) {
    if (net->links[node].bad)
        return rng_once_in(net->rng, n);
    return rng_once_in(net->rng, FEW) && net->mishap && net->mishap(net->userdata, node, mishap);
}

/* Mostly soon; now and then late, or so late that nobody waits any more. */
static int64_t delay_us(struct net *net, int node) {
    int64_t bad = net->links[node].bad;

    if (goes_wrong(net, node, 2 * bad, NET_LATE))
        return rng_below(net->rng, LATE_US);
    if (bad || rng_once_in(net->rng, DELAYED))
        return rng_below(net->rng, DELAY_US);
    return 200 + rng_below(net->rng, SOON_US);
}

static void post(struct net *net, struct net_message *message) {
    message->n_copies++;
    agenda_add(net->agenda, net->agenda->now_us + delay_us(net, message->node), AGENDA_MESSAGE,
               message->node, 0, message);
}

void net_refuse(struct net *net, const struct net_message *message) {
    struct net_message *refused = net_message_new(NET_REFUSED, message->node);

    refused->call = message->call;
    refused->instance = message->instance;
    refused->boot = message->boot;
    refused->n_copies = 1;
    agenda_add(net->agenda, net->agenda->now_us + 200 + rng_below(net->rng, RESET_US),
               AGENDA_MESSAGE, message->node, 0, refused);
}

void net_send(struct net *net, struct net_message *message) {
    int64_t bad = net->links[message->node].bad;

    net->n_sent++;
    if (is_request(message))
        message->server = net->server;
    if (goes_wrong(net, message->node, bad, NET_LOST)) {
        if (rng_once_in(net->rng, 2)) // the connection breaks, and the caller sees it
            net_refuse(net, message);
        message->n_copies = 1;
        net_message_free(message);
        return;
    }
    post(net, message);
    if (goes_wrong(net, message->node, bad, NET_TWICE)) {
        int64_t us = rng_below(net->rng, rng_once_in(net->rng, 2) ? SOON_US : TWICE_US);
        message->n_copies++;
        agenda_add(net->agenda, net->agenda->now_us + us, AGENDA_MESSAGE, message->node, 0,
                   message);
    }
}

bool net_arrives(const struct net *net, const struct net_message *message) {
    const struct net_link *link = &net->links[message->node];

    return is_request(message) ? !link->mute : !link->deaf;
}
