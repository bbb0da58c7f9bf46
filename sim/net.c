#include "sim/net.h"

enum {
    SOON_US = 5 * 1000,
    DELAY_US = 500 * 1000,
    LATE_US = 25 * 1000 * 1000,
    RESET_US = 1000 * 1000,
    FEW = 600, // one message in so many has bad luck in fair weather
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

/* Mostly soon; now and then late, or so late that nobody waits any more. */
static int64_t delay_us(struct net *net, int64_t bad) {
    if (rng_once_in(net->rng, bad ? 2 * bad : 2 * FEW))
        return rng_below(net->rng, LATE_US);
    if (bad || rng_once_in(net->rng, FEW / 6))
        return rng_below(net->rng, DELAY_US);
    return 200 + rng_below(net->rng, SOON_US);
}

static void post(struct net *net, struct net_message *message, int64_t bad) {
    message->n_copies++;
    agenda_add(net->agenda, net->agenda->now_us + delay_us(net, bad), AGENDA_MESSAGE, message->node,
               0, message);
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
    int64_t bad = net->links[message->node].bad, luck = bad ? bad : FEW;

    net->n_sent++;
    if (is_request(message))
        message->server = net->server;
    if (rng_once_in(net->rng, luck)) {
        net->n_lost++;
        if (rng_once_in(net->rng, 2)) // the connection breaks, and the caller sees it
            net_refuse(net, message);
        message->n_copies = 1;
        net_message_free(message);
        return;
    }
    post(net, message, bad);
    if (rng_once_in(net->rng, MAX(luck / 6, (int64_t)2))) {
        net->n_repeated++;
        post(net, message, MAX(bad, 4));
    }
}

bool net_arrives(struct net *net, const struct net_message *message) {
    const struct net_link *link = &net->links[message->node];
    bool arrives = is_request(message) ? !link->mute : !link->deaf;

    net->n_lost += !arrives;
    return arrives;
}
