#include "sim/gateway.h"
#include "sim/agents.h"

#include <stdio.h>

enum {
    POLL_WAIT_US = 2 * 1000 * 1000,
    CALLER_GONE = 8, // of those who wait for a commit, one in so many
};

void gateway_init(struct gateway *g, struct world *world, struct network *net,
                  struct agenda *agenda) {
    *g = (struct gateway){
        .world = world,
        .net = net,
        .agenda = agenda,
        .agents = hai_new_array(struct gateway_agent, (size_t)world->state->n_nodes),
    };
    gateway_started(g);
}

void gateway_started(struct gateway *g) {
    for (int i = 0; i < g->world->state->n_nodes; i++)
        g->agents[i] = (struct gateway_agent){
            .witness = witness_new(), .heard_us = g->world->now_us, .grant_us = S_ABSENT};
}

static struct node *node_of(const struct gateway *g, int number) {
    return g->world->state->nodes[number];
}

static void put(struct network_message ***list, size_t *n, size_t *n_max,
                struct network_message *message) {
    if (*n == *n_max) {
        *n_max = MAX(2 * *n_max, (size_t)16);
        *list = hai_realloc_array(*list, *n_max, sizeof **list);
    }
    (*list)[(*n)++] = message;
}

/* Of who waited for an answer most see the connection break. */
static void drop(struct gateway *g, struct network_message *message) {
    if (!rng_once_in(g->net->rng, 8))
        network_refuse(g->net, message);
    network_message_free(message);
}

/* ---- answers ---- */

static void send_answer(struct gateway *g, int number) {
    struct gateway_agent *agent = &g->agents[number];
    struct network_message *poll = TAKE_PTR(agent->poll);
    struct network_message *answer = network_message_new(NETWORK_ANSWER, number);
    struct desired_part *parts = NULL;

    answer->call = poll->call;
    answer->instance = poll->instance;
    answer->boot = poll->boot;
    answer->revision = node_of(g, number)->r.revision;
    answer->lease_us = g->world->state->r.lease_us;
    answer->now_us = g->world->now_us;
    answer->changed = agent->fresh || poll->revision != answer->revision;
    size_t n = answer->changed ? desired_node(g->world->state, number, &parts) : 0;
    for (size_t i = 0; i < n; i++) {
        const struct state_job *job = &parts[i].job->r;
        struct reconcile_key key = {job->id, job->attempt, job->epoch};
        struct network_part *part = network_message_add(answer, &key);
        part->phase = parts[i].phase;
        part->kill_at_us = parts[i].kill_at_us;
        part->first_rank = parts[i].first_rank;
        part->n_ranks = parts[i].n_ranks;
        part->gpus = parts[i].gpus;
    }
    free(parts);
    agent->grant_us = agent->heard_us;
    agent->fresh = false;
    network_message_free(poll);
    network_send(g->net, answer);
}

static bool worth_answering(const struct gateway *g, int number) {
    const struct gateway_agent *agent = &g->agents[number];

    return agent->poll && (agent->fresh || agent->poll->revision != node_of(g, number)->r.revision);
}

void gateway_held(struct gateway *g, int node, int64_t seq) {
    if (g->agents[node].poll && g->agents[node].poll_seq == seq)
        send_answer(g, node);
}

/* ---- polls ---- */

static void principal_of(const struct gateway *g, int number, char ret[static PRINCIPAL_MAX + 1]) {
    const char *name = node_of(g, number)->r.name;

    memcpy(ret, "node:", 5);
    memcpy(ret + 5, name, MIN(strlen(name), (size_t)PRINCIPAL_MAX - 5) + 1);
    ret[PRINCIPAL_MAX] = 0;
}

static bool holds_part(const void *holdings, int64_t job, int64_t epoch) {
    const struct network_message *poll = holdings;

    for (size_t i = 0; i < poll->n_parts; i++)
        if (poll->parts[i].key.job == job && poll->parts[i].key.epoch == epoch)
            return true;
    return false;
}

/* With the texts that it points to. */
struct spoken {
    char instance[32], boot_id[32];
    struct witness_account account;
};

static const struct witness_account *account_of(const struct network_message *poll,
                                                struct spoken *spoken) {
    agents_number(poll->instance, spoken->instance);
    agents_boot_id(poll->node, poll->boot, spoken->boot_id);
    spoken->account = (struct witness_account){
        .instance = spoken->instance,
        .boot_id = spoken->boot_id,
        .started_us = poll->started_us,
        .revision = poll->revision,
        .synced = poll->synced,
        .holds = holds_part,
        .holdings = poll,
    };
    return &spoken->account;
}

static void append_gone(struct gateway *g) {
    char principal[PRINCIPAL_MAX + 1];

    for (size_t i = 0; i < g->n_gone; i++) {
        struct entry_ranks_gone *entry = &g->gone[i].entry;
        entry->node = node_of(g, g->gone[i].node)->r.name;
        principal_of(g, g->gone[i].node, principal);
        g->append(g->userdata, principal, ENTRY_RANKS_GONE, entry);
    }
    g->n_gone = 0;
}

static void conclude_gone(struct gateway *g, int number, const struct witness_account *account,
                          bool first) {
    _cleanup_free_ struct entry_ranks_gone *gone = NULL;
    size_t n = witness_gone(g->world->state, number, account, first, &gone);

    if (n)
        g->gone = hai_realloc_array(g->gone, g->n_gone + n, sizeof *g->gone);
    for (size_t i = 0; i < n; i++)
        g->gone[g->n_gone++] = (struct gateway_gone){number, gone[i]};
}

static bool waits_for_commit(const struct gateway *g, int number) {
    for (size_t i = 0; i < g->n_announced; i++)
        if (g->announced[i]->node == number)
            return true;
    return false;
}

/* By the state as it is committed: one announces although another is about to be. */
static bool announce(struct gateway *g, const struct network_message *poll) {
    struct state_node *node = &node_of(g, poll->node)->r;
    char principal[PRINCIPAL_MAX + 1], boot_id[32];

    agents_boot_id(poll->node, poll->boot, boot_id);
    if (node->state == NODE_STATE_UP && hai_streq(node->boot_id, boot_id) &&
        !waits_for_commit(g, poll->node))
        return false;
    struct entry_node_up up = {.node = node->name, .boot_id = boot_id};
    principal_of(g, poll->node, principal);
    g->append(g->userdata, principal, ENTRY_NODE_UP, &up);
    return true;
}

static void refuse(struct gateway *g, struct network_message *poll) {
    network_refuse(g->net, poll);
    network_message_free(poll);
}

static void take_poll(struct gateway *g, struct network_message *poll) {
    struct gateway_agent *agent = &g->agents[poll->node];
    struct spoken spoken;
    const struct witness_account *account = account_of(poll, &spoken);

    if (witness_is_replaced(&agent->witness, account)) {
        refuse(g, poll);
        return;
    }
    bool first = witness_take(&agent->witness, account);
    if (agent->poll) // a newer one: the older is nobody's any more
        send_answer(g, poll->node);
    agent->poll = poll;
    agent->poll_seq = ++g->n_polls;
    agent->fresh |= first;
    conclude_gone(g, poll->node, account, first);
    agenda_add(g->agenda, g->agenda->now_us + POLL_WAIT_US, AGENDA_HELD, poll->node,
               agent->poll_seq, NULL);
}

static void hear_poll(struct gateway *g, struct network_message *poll) {
    struct gateway_agent *agent = &g->agents[poll->node];
    struct spoken spoken;

    if (witness_is_replaced(&agent->witness, account_of(poll, &spoken))) {
        refuse(g, poll);
        return;
    }
    agent->heard_us = g->world->now_us;
    if (announce(g, poll)) {
        put(&g->announced, &g->n_announced, &g->n_announced_max, poll);
        return;
    }
    take_poll(g, poll);
    append_gone(g);
}

/* ---- reports ---- */

static bool exit_is_new(const struct state *state, const struct network_part *part, int64_t rank) {
    const struct job *job = state_job_find(state, part->key.job);

    return job && job->r.epoch == part->key.epoch && (size_t)rank < job->r.ranks.n &&
           job->r.ranks.items[rank].state != RANK_STATE_EXITED;
}

static void add_exit(struct gateway *g, const char *principal, const struct network_part *part,
                     const struct reconcile_exit *exit) {
    struct entry_rank_exited entry = {
        .job = part->key.job,
        .epoch = part->key.epoch,
        .rank = exit->rank,
        .code = exit->signal ? 0 : exit->exit_code & 0xff,
        .signal = exit->signal,
        .cause = exit->cause,
    };

    g->append(g->userdata, principal, ENTRY_RANK_EXITED, &entry);
}

static void add_saved(struct gateway *g, const char *principal, const struct network_part *part) {
    uint8_t digest[DIGEST_BYTES] = {(uint8_t)part->key.epoch};
    struct entry_ckpt_committed commit = {
        .job = part->key.job,
        .epoch = part->key.epoch,
        .step = part->saved,
        .dir = (char *)"/ckpt/step",
        .digest = {digest, sizeof digest},
        .stall_us = part->saved % 3 ? S_ABSENT : part->saved * 1000,
    };

    g->append(g->userdata, principal, ENTRY_CKPT_COMMITTED, &commit);
}

static void take_report(struct gateway *g, const struct network_message *report) {
    char principal[PRINCIPAL_MAX + 1];
    char *name = node_of(g, report->node)->r.name;

    g->agents[report->node].heard_us = g->world->now_us;
    principal_of(g, report->node, principal);
    for (size_t i = 0; i < report->n_parts; i++) {
        const struct network_part *part = &report->parts[i];
        struct entry_ranks_started started = {part->key.job, part->key.epoch, name};
        struct entry_ranks_gone gone = {part->key.job, part->key.epoch, name, NULL};
        if (part->started)
            g->append(g->userdata, principal, ENTRY_RANKS_STARTED, &started);
        for (size_t k = 0; k < part->n_exits; k++)
            if (part->news >> k & 1)
                add_exit(g, principal, part, &part->exits[k]);
        if (part->gone)
            g->append(g->userdata, principal, ENTRY_RANKS_GONE, &gone);
        if (part->saved)
            add_saved(g, principal, part);
    }
}

/* ---- turns ---- */

void gateway_receive(struct gateway *g, struct network_message *message) {
    /* By the state as it is committed: what else is in the batch is not applied yet. */
    for (size_t i = 0; i < message->n_parts; i++) {
        struct network_part *part = &message->parts[i];
        part->news = 0;
        for (size_t k = 0; k < part->n_exits; k++)
            if (exit_is_new(g->world->state, part, part->exits[k].rank))
                part->news |= UINT64_C(1) << k;
    }
    put(&g->inbox, &g->n_inbox, &g->n_inbox_max, message);
}

void gateway_turn(struct gateway *g) {
    append_gone(g);
    for (size_t i = 0; i < g->n_inbox; i++) {
        struct network_message *message = g->inbox[i];
        if (message->kind == NETWORK_POLL) {
            hear_poll(g, message);
            continue;
        }
        take_report(g, message);
        put(&g->outbox, &g->n_outbox, &g->n_outbox_max, message);
    }
    g->n_inbox = 0;
}

void gateway_commit(struct gateway *g) {
    for (size_t i = 0; i < g->n_outbox; i++) {
        struct network_message *report = g->outbox[i];
        struct network_message *reply = network_message_new(NETWORK_REPLY, report->node);
        reply->call = report->call;
        reply->instance = report->instance;
        reply->boot = report->boot;
        network_message_free(report);
        network_send(g->net, reply);
    }
    g->n_outbox = 0;
    for (size_t i = 0; i < g->n_announced; i++)
        if (rng_once_in(g->net->rng, CALLER_GONE))
            drop(g, g->announced[i]);
        else
            take_poll(g, g->announced[i]);
    g->n_announced = 0;
    for (int i = 0; i < g->world->state->n_nodes; i++)
        if (worth_answering(g, i))
            send_answer(g, i);
}

static bool is_silent(const struct gateway *g, int number) {
    return node_of(g, number)->r.state == NODE_STATE_UP &&
           g->world->now_us - g->agents[number].heard_us > g->silence_us;
}

bool gateway_is_silent(const struct gateway *g) {
    for (int i = 0; i < g->world->state->n_nodes; i++)
        if (is_silent(g, i))
            return true;
    return false;
}

void gateway_silence(struct gateway *g) {
    for (int i = 0; i < g->world->state->n_nodes; i++) {
        struct gateway_agent *agent = &g->agents[i];
        if (!is_silent(g, i))
            continue;
        if (agent->poll) // before the newest grant is written down
            send_answer(g, i);
        struct entry_node_lost lost = {node_of(g, i)->r.name, agent->grant_us, NULL};
        g->append(g->userdata, "system:hai", ENTRY_NODE_LOST, &lost);
    }
}

void gateway_killed(struct gateway *g) {
    for (size_t i = 0; i < g->n_inbox; i++)
        drop(g, g->inbox[i]);
    for (size_t i = 0; i < g->n_outbox; i++)
        drop(g, g->outbox[i]);
    for (size_t i = 0; i < g->n_announced; i++)
        drop(g, g->announced[i]);
    g->n_inbox = g->n_outbox = g->n_announced = g->n_gone = 0;
    for (int i = 0; i < g->world->state->n_nodes; i++)
        if (g->agents[i].poll)
            drop(g, TAKE_PTR(g->agents[i].poll));
}

void gateway_free(struct gateway *g) {
    for (size_t i = 0; i < g->n_inbox; i++)
        network_message_free(g->inbox[i]);
    for (size_t i = 0; i < g->n_outbox; i++)
        network_message_free(g->outbox[i]);
    for (size_t i = 0; i < g->n_announced; i++)
        network_message_free(g->announced[i]);
    for (int i = 0; g->agents && i < g->world->state->n_nodes; i++)
        network_message_free(g->agents[i].poll);
    free(g->inbox);
    free(g->outbox);
    free(g->announced);
    free(g->gone);
    free(g->agents);
    *g = (struct gateway){0};
}
