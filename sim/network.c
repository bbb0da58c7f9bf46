#include "sim/network.h"

enum {
    SOON_US = 5 * 1000,
    DELAY_US = 500 * 1000,
    LATE_US = 25 * 1000 * 1000,
    RESET_US = 1000 * 1000,
    TWICE_US = 5 * 1000 * 1000, // until the second copy comes
    FEW = 600,                  // of a mishap: one message in so many
    DELAYED = 100,
};

struct network_message *network_message_new(enum network_kind kind, int node) {
    struct network_message *message = hai_new(struct network_message);

    message->kind = kind;
    message->node = node;
    return message;
}

struct network_part *network_message_add(struct network_message *message,
                                         const struct reconcile_key *key) {
    if (message->n_parts == message->n_parts_max) {
        message->n_parts_max = MAX(2 * message->n_parts_max, (size_t)4);
        message->parts =
            hai_realloc_array(message->parts, message->n_parts_max, sizeof *message->parts);
    }
    message->parts[message->n_parts] = (struct network_part){.key = *key};
    return &message->parts[message->n_parts++];
}

void network_message_free(struct network_message *message) {
    if (!message || --message->n_copies > 0)
        return;
    for (size_t i = 0; i < message->n_parts; i++)
        free(message->parts[i].exits);
    free(message->parts);
    free(message);
}

static bool is_request(const struct network_message *message) {
    return message->kind == NETWORK_POLL || message->kind == NETWORK_REPORT;
}

/* In bad weather once in n times; in fair weather seldom, and then somebody else has a say. */
static bool goes_wrong(struct network *net, int node, int64_t n, enum network_mishap mishap) {
    if (net->links[node].bad)
        return rng_once_in(net->rng, n);
    return rng_once_in(net->rng, FEW) && net->mishap && net->mishap(net->userdata, node, mishap);
}

/* Mostly soon; now and then late, or so late that nobody waits any more. */
static int64_t delay_us(struct network *net, int node) {
    int64_t bad = net->links[node].bad;

    if (goes_wrong(net, node, 2 * bad, NETWORK_LATE))
        return rng_below(net->rng, LATE_US);
    if (bad || rng_once_in(net->rng, DELAYED))
        return rng_below(net->rng, DELAY_US);
    return 200 + rng_below(net->rng, SOON_US);
}

static void post(struct network *net, struct network_message *message) {
    message->n_copies++;
    agenda_add(net->agenda, net->agenda->now_us + delay_us(net, message->node), AGENDA_MESSAGE,
               message->node, 0, message);
}

void network_refuse(struct network *net, const struct network_message *message) {
    struct network_message *refused = network_message_new(NETWORK_REFUSED, message->node);

    refused->call = message->call;
    refused->instance = message->instance;
    refused->boot = message->boot;
    refused->n_copies = 1;
    agenda_add(net->agenda, net->agenda->now_us + 200 + rng_below(net->rng, RESET_US),
               AGENDA_MESSAGE, message->node, 0, refused);
}

void network_send(struct network *net, struct network_message *message) {
    int64_t bad = net->links[message->node].bad;

    net->n_sent++;
    if (is_request(message))
        message->server = net->server;
    if (goes_wrong(net, message->node, bad, NETWORK_LOST)) {
        if (rng_once_in(net->rng, 2)) // the connection breaks, and the caller sees it
            network_refuse(net, message);
        message->n_copies = 1;
        network_message_free(message);
        return;
    }
    post(net, message);
    if (goes_wrong(net, message->node, bad, NETWORK_TWICE)) {
        int64_t us = rng_below(net->rng, rng_once_in(net->rng, 2) ? SOON_US : TWICE_US);
        message->n_copies++;
        agenda_add(net->agenda, net->agenda->now_us + us, AGENDA_MESSAGE, message->node, 0,
                   message);
    }
}

bool network_arrives(const struct network *net, const struct network_message *message) {
    const struct network_link *link = &net->links[message->node];

    return is_request(message) ? !link->mute : !link->deaf;
}
