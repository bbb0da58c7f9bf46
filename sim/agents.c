#include "sim/agents.h"

#include <stdio.h>

enum { DELAY_MAX_US = 300 * 1000, LATE_MAX_US = 30 * 1000 * 1000 };

#define ADD(array, n, n_max)                                                                       \
    ({                                                                                             \
        if ((n) == (n_max)) {                                                                      \
            (n_max) = MAX(2 * (n_max), (size_t)16);                                                \
            (array) = hai_realloc_array((array), (n_max), sizeof *(array));                        \
        }                                                                                          \
        &(array)[(n)++];                                                                           \
    })

void agents_init(struct agents *agents, struct world *world, struct rng *rng) {
    *agents = (struct agents){
        .world = world,
        .rng = rng,
        .n_nodes = world->state->n_nodes,
        .nodes = hai_new_array(struct agents_node, (size_t)world->state->n_nodes),
        .lease_us = world->state->r.lease_us,
        .drift_us = world->state->r.drift_us,
    };
    for (int i = 0; i < agents->n_nodes; i++) {
        agents->nodes[i].boot = 1;
        agents->nodes[i].instance = 1;
    }
}

static void held_free(struct agents_held *held) {
    free(held->running);
    free(held->ends);
}

static void order_free(struct agents_order *order) {
    for (size_t i = 0; i < order->n_parts; i++)
        held_free(&order->parts[i]);
    free(order->parts);
}

static void node_clear(struct agents_node *node) {
    for (size_t i = 0; i < node->n_held; i++)
        held_free(&node->held[i]);
    free(node->held);
    node->held = NULL;
    node->n_held = 0;
}

void agents_free(struct agents *agents) {
    for (int i = 0; i < agents->n_nodes; i++)
        node_clear(&agents->nodes[i]);
    for (size_t i = 0; i < agents->n_orders; i++)
        order_free(&agents->orders[i]);
    free(agents->nodes);
    free(agents->orders);
    free(agents->reports);
    *agents = (struct agents){0};
}

void agents_boot_id(const struct agents *agents, int node, char ret[static 32]) {
    (void)snprintf(ret, 32, "boot-%d-%d", node, agents->nodes[node].boot);
}

/* Mostly soon; now and then very late. */
static int64_t arrival(struct agents *agents) {
    int64_t delay = rng_once_in(agents->rng, 10) ? LATE_MAX_US : DELAY_MAX_US;

    return agents->world->now_us + 1000 + rng_below(agents->rng, delay);
}

static void report(struct agents *agents, int node, enum entry_kind kind,
                   const struct entry_rank_exited *body) {
    int copies = rng_once_in(agents->rng, 4) ? 2 : 1;

    for (int i = 0; i < copies; i++)
        *ADD(agents->reports, agents->n_reports, agents->n_reports_max) = (struct agents_report){
            .at_us = arrival(agents), .node = node, .kind = kind, .body = *body};
}

static bool any_running(const struct agents_held *held) {
    for (int64_t i = 0; i < held->n_ranks; i++)
        if (held->running[i])
            return true;
    return false;
}

static void end_rank(struct agents *agents, int node, struct agents_held *held, int64_t rank,
                     int64_t code, int64_t signal, enum exit_cause cause) {
    if (!held->running[rank])
        return;
    held->running[rank] = false;
    held->ends[rank] = (struct entry_rank_exited){
        held->job, held->epoch, held->first_rank + rank, code, signal, cause, NULL};
    report(agents, node, ENTRY_RANK_EXITED, &held->ends[rank]);
}

void agents_end_rank(struct agents *agents, int node, size_t held, int64_t rank, int64_t code,
                     int64_t signal, enum exit_cause cause) {
    end_rank(agents, node, &agents->nodes[node].held[held], rank, code, signal, cause);
}

static void end_all(struct agents *agents, int node, struct agents_held *held, int64_t signal,
                    enum exit_cause cause) {
    for (int64_t rank = 0; rank < held->n_ranks; rank++)
        end_rank(agents, node, held, rank, 0, signal, cause);
}

/* ---- to the agents ---- */

static void send_copy(struct agents *agents, int node) {
    struct desired_part *parts;
    size_t n = desired_node(agents->world->state, node, &parts);
    struct agents_order *order = ADD(agents->orders, agents->n_orders, agents->n_orders_max);

    *order = (struct agents_order){
        .at_us = arrival(agents),
        .sent_us = agents->world->now_us,
        .node = node,
        .instance = agents->nodes[node].instance,
        .revision = agents->world->state->nodes[node]->r.revision,
        .parts = hai_new_array(struct agents_held, n),
        .n_parts = n,
    };
    for (size_t i = 0; i < n; i++) {
        struct agents_held *to = &order->parts[i];
        *to = (struct agents_held){
            .job = parts[i].job->r.id,
            .epoch = parts[i].job->r.epoch,
            .first_rank = parts[i].first_rank,
            .n_ranks = parts[i].n_ranks,
            .gpus = parts[i].gpus,
            .phase = parts[i].phase,
            .kill_at_us = parts[i].kill_at_us,
            .running = hai_new_array(bool, (size_t)parts[i].n_ranks),
            .ends = hai_new_array(struct entry_rank_exited, (size_t)parts[i].n_ranks),
        };
        for (int64_t rank = 0; rank < to->n_ranks; rank++)
            to->running[rank] = parts[i].ranks[rank].state != RANK_STATE_EXITED;
    }
    free(parts);
}

void agents_send(struct agents *agents, int node) {
    send_copy(agents, node);
    if (rng_once_in(agents->rng, 10)) // the network brings it twice, at another time
        send_copy(agents, node);
}

void agents_mend(struct agents *agents, int node) {
    agents->nodes[node].cut = agents->nodes[node].deaf = agents->nodes[node].mute = false;
}

static struct agents_held *held_find(struct agents_node *node, const struct agents_held *like) {
    for (size_t i = 0; i < node->n_held; i++)
        if (node->held[i].job == like->job && node->held[i].epoch == like->epoch)
            return &node->held[i];
    return NULL;
}

static bool wanted(const struct agents_order *order, const struct agents_held *held) {
    for (size_t i = 0; i < order->n_parts; i++)
        if (order->parts[i].job == held->job && order->parts[i].epoch == held->epoch)
            return true;
    return false;
}

/* What is not in the set must not run, and needs no report. */
static void forget_unwanted(struct agents_node *node, const struct agents_order *order) {
    size_t n = 0;

    for (size_t i = 0; i < node->n_held; i++) {
        if (wanted(order, &node->held[i]))
            node->held[n++] = node->held[i];
        else
            held_free(&node->held[i]);
    }
    node->n_held = n;
}

/* Start an attempt, or confirm that one that is told to end was never started. */
static void take_new(struct agents *agents, int number, struct agents_held *part) {
    struct agents_node *node = &agents->nodes[number];
    struct entry_rank_exited body = {.job = part->job, .epoch = part->epoch};

    if (part->phase != DESIRED_PHASE_RUN || !any_running(part)) {
        report(agents, number, ENTRY_RANKS_GONE, &body);
        return;
    }
    node->held = hai_realloc_array(node->held, node->n_held + 1, sizeof *node->held);
    node->held[node->n_held++] = *part;
    part->running = NULL;
    part->ends = NULL;
    report(agents, number, ENTRY_RANKS_STARTED, &body);
}

static void take_phase(struct agents *agents, int number, struct agents_held *held,
                       const struct agents_held *part) {
    held->phase = MAX(held->phase, part->phase);
    held->kill_at_us = part->kill_at_us;
    if (held->phase == DESIRED_PHASE_KILL)
        end_all(agents, number, held, 9, EXIT_CAUSE_ORDER);
    else if (held->phase == DESIRED_PHASE_TERM && rng_once_in(agents->rng, 2))
        end_all(agents, number, held, 15, EXIT_CAUSE_ORDER);
}

static void take_order(struct agents *agents, struct agents_order *order) {
    struct agents_node *node = &agents->nodes[order->node];

    if (node->down || node->cut || node->deaf || order->instance != node->instance ||
        order->revision < node->revision)
        return;
    node->revision = order->revision;
    node->lease_until_us = MAX(node->lease_until_us, order->sent_us + agents->lease_us +
                                                         rng_below(agents->rng, agents->drift_us));
    forget_unwanted(node, order);
    for (size_t i = 0; i < order->n_parts; i++) {
        struct agents_held *held = held_find(node, &order->parts[i]);
        if (held)
            take_phase(agents, order->node, held, &order->parts[i]);
        else
            take_new(agents, order->node, &order->parts[i]);
    }
}

/* ---- time ---- */

static void take_orders(struct agents *agents) {
    size_t n = 0;

    for (size_t i = 0; i < agents->n_orders; i++) {
        struct agents_order order = agents->orders[i];
        if (order.at_us > agents->world->now_us) {
            agents->orders[n++] = order;
            continue;
        }
        take_order(agents, &order);
        order_free(&order);
    }
    agents->n_orders = n;
}

static void run_clocks(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];
    int64_t now_us = agents->world->now_us;

    for (size_t i = 0; i < node->n_held; i++) {
        struct agents_held *held = &node->held[i];
        if (now_us >= node->lease_until_us)
            end_all(agents, number, held, 9, EXIT_CAUSE_LEASE);
        if (held->phase == DESIRED_PHASE_TERM && now_us >= held->kill_at_us)
            end_all(agents, number, held, 9, EXIT_CAUSE_ORDER);
    }
}

void agents_step(struct agents *agents, void (*take)(void *, const struct agents_report *),
                 void *userdata) {
    take_orders(agents);
    for (int i = 0; i < agents->n_nodes; i++)
        run_clocks(agents, i);
    size_t i = 0;
    while (i < agents->n_reports) {
        struct agents_report one = agents->reports[i];
        const struct agents_node *node = &agents->nodes[one.node];
        if (one.at_us > agents->world->now_us || node->cut || node->mute || node->down) {
            i++;
            continue;
        }
        agents->reports[i] = agents->reports[--agents->n_reports];
        take(userdata, &one);
    }
}

/* ---- faults ---- */

void agents_restart_agent(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];

    node->instance++;
    node->revision = 0;
    for (size_t i = 0; i < node->n_held; i++) {
        struct agents_held *held = &node->held[i];
        struct entry_rank_exited body = {.job = held->job, .epoch = held->epoch};
        report(agents, number, ENTRY_RANKS_STARTED, &body);
        for (int64_t rank = 0; rank < held->n_ranks; rank++)
            if (!held->running[rank] && held->ends[rank].job)
                report(agents, number, ENTRY_RANK_EXITED, &held->ends[rank]);
    }
}

void agents_clock_step(struct agents *agents, int64_t us) {
    for (int i = 0; i < agents->n_nodes; i++)
        agents->nodes[i].lease_until_us += us;
    for (size_t i = 0; i < agents->n_orders; i++) {
        agents->orders[i].at_us += us;
        agents->orders[i].sent_us += us;
    }
    for (size_t i = 0; i < agents->n_reports; i++)
        agents->reports[i].at_us += us;
}

void agents_crash(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];

    node_clear(node);
    node->down = true;
}

void agents_boot(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];
    size_t n = 0;

    node->down = false;
    node->boot++;
    node->instance++;
    node->revision = 0;
    for (size_t i = 0; i < agents->n_reports; i++) // what was not sent died with the node
        if (agents->reports[i].node != number)
            agents->reports[n++] = agents->reports[i];
    agents->n_reports = n;
}
