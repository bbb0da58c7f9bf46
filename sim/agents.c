#include "sim/agents.h"
#include "lib/pure/plant.h"

#include <stdio.h>

enum {
    POLL_TIMEOUT_US = 10 * 1000 * 1000,
    REPORT_TIMEOUT_US = 30 * 1000 * 1000,
    AGAIN_MIN_US = 100 * 1000,
    AGAIN_MAX_US = 2 * 1000 * 1000,
    GRACE_UNTOLD_US = 30 * 1000 * 1000,
    END_AGAIN_US = 200 * 1000,
    LEASE_STEPS = 200,
    LOCAL_US = 3 * 1000,          // between a shim and its agent
    RESTART_US = 4 * 1000 * 1000, // until a supervisor has the agent back
};

static int64_t boot_us(const struct agents *agents, int number) {
    return shims_boot_us(&agents->shims, number);
}

static void after(struct agents *agents, int64_t us, enum agenda_kind kind, int number,
                  int64_t what) {
    agenda_add(agents->agenda, agents->agenda->now_us + us, kind, number, what, NULL);
}

/* Said with every poll: snprintf would take long. */
char *agents_number(int64_t n, char *ret) {
    char digits[20];
    int n_digits = 0;

    assert(n >= 0);
    do
        digits[n_digits++] = (char)('0' + n % 10);
    while (n /= 10);
    while (n_digits)
        *ret++ = digits[--n_digits];
    *ret = 0;
    return ret;
}

void agents_boot_id(int node, int boot, char ret[static 32]) {
    memcpy(ret, "boot-", 5);
    char *at = agents_number(node, ret + 5);
    *at = '-';
    agents_number(boot, at + 1);
}

/* Struck, now or just before: then whatever it was about to do is not done. */
static bool is_struck(struct agents *agents, int number, enum agents_point point) {
    struct agents_node *node = &agents->nodes[number];

    if (!node->blow && agents->strike)
        node->blow = agents->strike(agents->userdata, number, point);
    return node->blow != AGENTS_LIVES;
}

/* ---- what shims say ---- */

static void tell_later(struct agents *agents, struct shim *shim) {
    if (shim->news)
        return;
    shim->news = true;
    after(agents, 1 + rng_below(agents->rng, LOCAL_US), AGENDA_NEWS, shim->node, shim->id);
}

static void adopted(struct agents *agents, struct shim *shim) {
    struct agents_node *node = &agents->nodes[shim->node];

    if (!shim->adopting)
        return;
    shim->adopting = false;
    if (--node->n_adopting == 0)
        reconcile_scanned(node->core);
}

static void tell_exits(struct agents_node *node, struct shim *shim) {
    for (size_t i = 0; i < shim->n_ranks; i++) {
        struct shims_rank *rank = &shim->ranks[i];
        if (rank->running || rank->told)
            continue;
        rank->told = true;
        reconcile_exited(node->core, &shim->key, &rank->exit);
    }
}

static void tell_state(struct agents *agents, struct shim *shim) {
    int64_t *numbers = hai_new_array(int64_t, shim->n_ranks);

    for (size_t i = 0; i < shim->n_ranks; i++)
        numbers[i] = shim->first_rank + (int64_t)i;
    shim->stated = true;
    reconcile_found(agents->nodes[shim->node].core, &shim->key, numbers, shim->n_ranks,
                    MAX(shim->started_us, 1));
    free(numbers);
}

/* End what a dead shim held, and look again until nothing is left. */
static void end_lost(struct agents *agents, struct shim *shim) {
    struct agents_node *node = &agents->nodes[shim->node];

    if (shim->left) {
        shims_clear(&agents->shims, shim);
        after(agents, END_AGAIN_US, AGENDA_LEFT, shim->node, shim->id);
        return;
    }
    bool found_dead = shim->adopting;
    shim->told_gone = true;
    reconcile_lost(node->core, &shim->key, agents->agenda->now_us);
    adopted(agents, shim);
    if (found_dead) // only its mark tells of it
        shims_remove(&agents->shims, shim);
}

static void take_news(struct agents *agents, struct shim *shim) {
    struct agents_node *node = &agents->nodes[shim->node];

    shim->news = false;
    if (!shim->lives) {
        if (shim->told_gone)
            adopted(agents, shim);
        else
            end_lost(agents, shim);
        return;
    }
    if (!shim->stated)
        tell_state(agents, shim);
    tell_exits(node, shim);
    if (shim->gone && !shim->told_gone) {
        shim->told_gone = true;
        reconcile_gone(node->core, &shim->key);
    }
    adopted(agents, shim);
}

/* ---- what the core wants ---- */

static const struct network_part *desired_of(const struct agents_node *node,
                                             const struct reconcile_key *key) {
    for (size_t i = 0; node->desired && i < node->desired->n_parts; i++)
        if (!memcmp(&node->desired->parts[i].key, key, sizeof *key))
            return &node->desired->parts[i];
    return NULL;
}

static void start(struct agents *agents, int number, const struct reconcile_key *key) {
    struct agents_node *node = &agents->nodes[number];
    const struct network_part *part = desired_of(node, key);
    enum exit_cause cause;

    if (!part) // another set has come meanwhile, and the core has dealt with it
        return;
    if (agents->fails && agents->fails(agents->userdata, number, &cause)) {
        reconcile_failed(node->core, key, cause, agents->agenda->now_us, "it cannot be started");
        return;
    }
    struct shim *shim = shims_start(&agents->shims, number, key, part->first_rank, part->n_ranks,
                                    part->gpus, node->lease_until_us);
    shim->lease_sent_us = node->lease_until_us;
    tell_later(agents, shim);
}

/* A time by the scheduler's clock on that of the shims' deadlines. */
static int64_t boottime_of(const struct agents *agents, int number, int64_t at_us) {
    if (at_us == S_ABSENT)
        return boot_us(agents, number) + GRACE_UNTOLD_US;
    return at_us - agents->nodes[number].log_offset_us;
}

static void act(struct agents *agents, int number, const struct reconcile_action *action) {
    struct agents_node *node = &agents->nodes[number];
    struct shim *shim = shims_of(&agents->shims, number, &action->key);

    switch (action->kind) {
    case RECONCILE_TERM:
        if (shim)
            shims_term(&agents->shims, shim, boottime_of(agents, number, action->kill_at_us));
        break;
    case RECONCILE_KILL:
        if (shim)
            shims_kill(&agents->shims, shim, EXIT_CAUSE_ORDER);
        break;
    case RECONCILE_RELEASE:
        journal_remove(&node->marks, &action->key);
        if (shim && !shim->left)
            shims_remove(&agents->shims, shim);
        is_struck(agents, number, AGENTS_RELEASED);
        break;
    default:
        break;
    }
}

/* The marks reach the disk; only then is anything started. The agent waits for that, however long
 * it takes: then n starts are put off. */
static bool sync_marks(struct agents *agents, int number, struct reconcile_key *starts, size_t n) {
    struct agents_node *node = &agents->nodes[number];

    if (is_struck(agents, number, AGENTS_UNWRITTEN))
        return false;
    journal_write(&node->marks);
    if (is_struck(agents, number, AGENTS_WRITTEN))
        return false;
    int64_t us = agents->stall ? agents->stall(agents->userdata, number) : 0;
    if (us) {
        node->stalled_until_us = agents->agenda->now_us + us;
        node->stalled = hai_new_array(struct reconcile_key, n);
        memcpy(node->stalled, starts, n * sizeof *starts);
        node->n_stalled = n;
        after(agents, us, AGENDA_RESUME, number, node->instance);
        return false;
    }
    journal_sync(&node->marks);
    return !is_struck(agents, number, AGENTS_MARKED);
}

static void start_all(struct agents *agents, int number, const struct reconcile_key *starts,
                      size_t n) {
    for (size_t i = 0; i < n && !agents->nodes[number].blow; i++) {
        start(agents, number, &starts[i]);
        is_struck(agents, number, AGENTS_STARTED);
    }
}

static void act_all(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];
    struct reconcile_action action;
    struct reconcile_key *starts = NULL;
    size_t n;

    do {
        n = 0;
        while (!node->blow && reconcile_next(node->core, &action)) {
            if (action.kind != RECONCILE_START) {
                act(agents, number, &action);
                continue;
            }
            starts = hai_realloc_array(starts, n + 1, sizeof *starts);
            starts[n++] = action.key;
            if (!HAI_PLANT(PLANT_MARK_FORGOTTEN))
                journal_add(&node->marks, &action.key);
        }
        if (n && !sync_marks(agents, number, starts, n))
            break;
        start_all(agents, number, starts, n);
    } while (n && !node->blow);
    free(starts);
}

/* ---- polls ---- */

static int64_t call(struct agents *agents, int number, struct network_message *message,
                    int64_t timeout_us) {
    const struct agents_node *node = &agents->nodes[number];

    message->call = ++agents->n_calls;
    message->instance = node->instance;
    message->boot = node->boot;
    network_send(agents->net, message);
    after(agents, timeout_us, AGENDA_CALL, number, agents->n_calls);
    return agents->n_calls;
}

static void poll_now(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];
    struct network_message *poll = network_message_new(NETWORK_POLL, number);

    poll->started_us = node->started_us;
    poll->revision = node->revision;
    poll->synced = reconcile_synced(node->core);
    for (const struct reconcile_hold *hold = NULL; (hold = reconcile_walk(node->core, hold));)
        if (!hold->has_gone && (hold->found || hold->starting || hold->gone))
            network_message_add(poll, &hold->key);
    node->polled_us = boot_us(agents, number);
    node->poll = call(agents, number, poll, POLL_TIMEOUT_US);
}

static void poll_later(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];

    node->poll = 0;
    after(agents, node->poll_again_us, AGENDA_POLL, number, node->instance);
    node->poll_again_us = MIN(node->poll_again_us * 2, (int64_t)AGAIN_MAX_US);
}

static void send_leases(struct agents *agents, int number, int64_t lease_us) {
    const struct agents_node *node = &agents->nodes[number];

    for (struct shim *shim = agents->shims.first[number]; shim; shim = shim->next) {
        if (!shim->lives || shim->told_gone ||
            node->lease_until_us - shim->lease_sent_us < lease_us / LEASE_STEPS)
            continue;
        shim->lease_sent_us = node->lease_until_us;
        shims_lease(&agents->shims, shim, node->lease_until_us);
    }
}

static void take_set(struct agents *agents, int number, const struct network_message *answer) {
    struct agents_node *node = &agents->nodes[number];
    struct network_message *set = network_message_new(NETWORK_ANSWER, number);
    struct reconcile_want *old_wants = node->wants;
    int64_t *old_ranks = node->ranks, n_ranks = 0;

    for (size_t i = 0; i < answer->n_parts; i++) {
        *network_message_add(set, &answer->parts[i].key) = answer->parts[i];
        n_ranks += answer->parts[i].n_ranks;
    }
    network_message_free(node->desired);
    node->desired = set;
    node->wants = hai_new_array(struct reconcile_want, set->n_parts + 1);
    node->ranks = hai_new_array(int64_t, (size_t)n_ranks + 1);
    n_ranks = 0;
    for (size_t i = 0; i < set->n_parts; i++) {
        const struct network_part *part = &set->parts[i];
        node->wants[i] = (struct reconcile_want){part->key, part->phase, part->kill_at_us,
                                                 node->ranks + n_ranks, (size_t)part->n_ranks};
        for (int64_t k = 0; k < part->n_ranks; k++)
            node->ranks[n_ranks++] = part->first_rank + k;
    }
    reconcile_desired(node->core, node->wants, set->n_parts);
    free(old_wants);
    free(old_ranks);
}

static void take_answer(struct agents *agents, int number, const struct network_message *answer) {
    struct agents_node *node = &agents->nodes[number];

    node->poll_again_us = AGAIN_MIN_US;
    int64_t from_us =
        HAI_PLANT(PLANT_LEASE_FROM_ANSWER) ? boot_us(agents, number) : node->polled_us;
    node->lease_until_us = from_us + answer->lease_us;
    node->log_offset_us = answer->now_us - boot_us(agents, number);
    send_leases(agents, number, answer->lease_us);
    node->revision = answer->revision;
    if (answer->changed)
        take_set(agents, number, answer);
    act_all(agents, number); // starts come before the next poll says what is held
    node->poll_waits = node->stalled_until_us > 0;
    if (!node->blow && !node->poll_waits)
        poll_now(agents, number);
}

/* ---- reports ---- */

static void add_attempt(const struct reconcile_hold *hold, struct network_message *report) {
    bool started = hold->sent_started && !hold->has_started;
    bool gone = hold->sent_gone && !hold->has_gone;

    if (!started && !gone && hold->n_exits_sent <= hold->n_exits_had)
        return;
    struct network_part *part = network_message_add(report, &hold->key);
    part->started = started;
    part->gone = gone;
    if (hold->n_exits_sent <= hold->n_exits_had)
        return;
    part->n_exits = hold->n_exits_sent - hold->n_exits_had;
    part->exits = hai_new_array(struct reconcile_exit, part->n_exits);
    memcpy(part->exits, hold->exits + hold->n_exits_had, part->n_exits * sizeof *part->exits);
    for (size_t i = 0; i < part->n_exits; i++)
        part->exits[i].message = NULL; // the text is the hold's
}

static void report_if_due(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];

    if (node->report || node->report_waits ||
        (!reconcile_unreported(node->core) && !node->n_saved) ||
        is_struck(agents, number, AGENTS_REPORTING))
        return;
    struct network_message *report = network_message_new(NETWORK_REPORT, number);
    reconcile_report(node->core);
    for (const struct reconcile_hold *hold = NULL; (hold = reconcile_walk(node->core, hold));)
        add_attempt(hold, report);
    for (int i = 0; i < node->n_saved; i++)
        network_message_add(report, &node->saved[i].key)->saved = node->saved[i].saved;
    node->n_saved_sent = node->n_saved;
    node->report = call(agents, number, report, REPORT_TIMEOUT_US);
}

static void on_report(struct agents *agents, int number, bool ok) {
    struct agents_node *node = &agents->nodes[number];

    node->report = 0;
    reconcile_reported(node->core, ok);
    if (ok) {
        node->report_again_us = AGAIN_MIN_US;
        node->n_saved -= node->n_saved_sent;
        memmove(node->saved, node->saved + node->n_saved_sent,
                (size_t)node->n_saved * sizeof *node->saved);
    } else {
        node->report_waits = true;
        after(agents, node->report_again_us, AGENDA_REPORT, number, node->instance);
        node->report_again_us = MIN(node->report_again_us * 2, (int64_t)AGAIN_MAX_US);
    }
    node->n_saved_sent = 0;
    if (ok)
        is_struck(agents, number, AGENTS_REPORTED);
}

void agents_saved(struct agents *agents, const struct shim *shim, int64_t step) {
    struct agents_node *node = &agents->nodes[shim->node];

    if (node->runs && node->n_saved < AGENTS_SAVED_MAX)
        node->saved[node->n_saved++] = (struct network_part){.key = shim->key, .saved = step};
}

/* ---- the process ---- */

static void mark(const struct reconcile_key *key, void *data) {
    reconcile_marked(data, key);
}

/* The agent comes up: it reads its marks and looks for shims. */
static void come_up(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];
    struct journal marks = node->marks;

    *node = (struct agents_node){
        .boot = node->boot,
        .runs = true,
        .instance = ++agents->n_instances,
        .started_us = boot_us(agents, number),
        .core = reconcile_new(),
        .lease_until_us = boot_us(agents, number),
        .poll_again_us = AGAIN_MIN_US,
        .report_again_us = AGAIN_MIN_US,
        .n_adopting = 1, // ourselves, until all are found
    };
    node->marks = marks;
    journal_open(&node->marks, mark, node->core);
    for (struct shim *shim = agents->shims.first[number]; shim; shim = shim->next) {
        shim->stated = shim->told_gone = shim->news = false;
        shim->lease_sent_us = 0;
        shim->adopting = true;
        node->n_adopting++;
        for (size_t i = 0; i < shim->n_ranks; i++)
            shim->ranks[i].told = false;
    }
    for (struct shim *shim = agents->shims.first[number], *next; shim; shim = next) {
        next = shim->next;
        if (shim->lives)
            tell_later(agents, shim);
        else
            end_lost(agents, shim);
    }
    if (--node->n_adopting == 0)
        reconcile_scanned(node->core);
    poll_now(agents, number);
}

static void forget(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];

    reconcile_free(node->core);
    network_message_free(node->desired);
    free(node->wants);
    free(node->ranks);
    free(node->stalled);
    node->stalled = NULL;
    node->stalled_until_us = 0;
    node->core = NULL;
    node->desired = NULL;
    node->wants = NULL;
    node->ranks = NULL;
    node->runs = false;
    node->blow = AGENTS_LIVES;
    node->poll = node->report = 0;
    for (struct shim *shim = agents->shims.first[number]; shim; shim = shim->next)
        shim->adopting = shim->news = false;
    journal_killed(&node->marks);
}

void agents_strike(struct agents *agents, int number, enum agents_blow blow) {
    struct agents_node *node = &agents->nodes[number];

    if (node->down || blow == AGENTS_LIVES)
        return;
    bool ran = node->runs;
    forget(agents, number);
    if (blow == AGENTS_POWER_OFF) {
        node->down = true;
        journal_power_off(&node->marks, agents->rng);
        shims_remove_all(&agents->shims, number);
        return;
    }
    for (struct shim *shim = agents->shims.first[number]; shim && blow == AGENTS_WIPED;
         shim = shim->next)
        shims_lose(&agents->shims, shim);
    if (ran)
        after(agents, 1 + rng_below(agents->rng, RESTART_US), AGENDA_AGENT, number, node->boot);
}

void agents_lose_shim(struct agents *agents, struct shim *shim) {
    shims_lose(&agents->shims, shim);
    if (agents->nodes[shim->node].runs)
        tell_later(agents, shim);
}

void agents_boot(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];

    node->down = false;
    node->boot++;
    agents->shims.clocks[number].offset_us -= boot_us(agents, number); // from 0 on
    after(agents, 1 + rng_below(agents->rng, RESTART_US), AGENDA_AGENT, number, node->boot);
}

/* The end of a turn of its loop, as far as it has lived to see it. */
static void turn_end(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];

    if (!node->blow && !node->stalled_until_us)
        act_all(agents, number);
    if (!node->blow && !node->stalled_until_us)
        report_if_due(agents, number);
    if (node->blow)
        agents_strike(agents, number, node->blow);
}

/* The disk works again: on from where it stood still. */
static void resume(struct agents *agents, int number) {
    struct agents_node *node = &agents->nodes[number];
    struct reconcile_key *starts = TAKE_PTR(node->stalled);

    node->stalled_until_us = 0;
    journal_sync(&node->marks);
    if (!is_struck(agents, number, AGENTS_MARKED))
        start_all(agents, number, starts, node->n_stalled);
    free(starts);
    if (!node->blow)
        act_all(agents, number);
    if (!node->blow && !node->stalled_until_us && node->poll_waits) {
        node->poll_waits = false;
        poll_now(agents, number);
    }
    turn_end(agents, number);
}

static void on_failed(struct agents *agents, int number, int64_t call_number) {
    if (call_number == agents->nodes[number].poll)
        poll_later(agents, number);
    else
        on_report(agents, number, false);
}

void agents_message(struct agents *agents, struct network_message *message) {
    int number = message->node;
    struct agents_node *node = &agents->nodes[number];

    if (node->stalled_until_us) {
        message->n_copies++;
        agenda_add(agents->agenda, node->stalled_until_us, AGENDA_MESSAGE, number, 0, message);
        return;
    }
    bool old = message->kind == NETWORK_ANSWER && message->changed && HAI_PLANT(PLANT_OLD_REVISION);

    if (!node->runs || message->boot != node->boot || message->instance != node->instance ||
        (message->call != node->poll && message->call != node->report && !old))
        return;
    if (!is_struck(agents, number, AGENTS_MESSAGE)) {
        if (message->kind == NETWORK_REFUSED) {
            on_failed(agents, number, message->call);
        } else if (message->kind == NETWORK_REPLY) {
            on_report(agents, number, true);
        } else if (message->call != node->poll) { // planted
            take_set(agents, number, message);
        } else {
            node->poll = 0;
            take_answer(agents, number, message);
        }
    }
    turn_end(agents, number);
}

static void on_shim(struct agents *agents, const struct agenda_event *event) {
    const struct agents_node *node = &agents->nodes[event->node];
    struct shim *shim = shims_find(&agents->shims, event->node, event->what);

    if (!shim)
        return;
    if (event->kind == AGENDA_SHIM) { // its own process
        if (shims_step(&agents->shims, shim) && node->runs)
            tell_later(agents, shim);
        return;
    }
    if (!node->runs)
        return;
    if (event->kind == AGENDA_NEWS && shim->news)
        take_news(agents, shim);
    else if (event->kind == AGENDA_LEFT && !shim->told_gone && !shim->lives)
        end_lost(agents, shim);
    turn_end(agents, event->node);
}

void agents_event(struct agents *agents, const struct agenda_event *event) {
    struct agents_node *node = &agents->nodes[event->node];

    if (node->stalled_until_us && event->kind != AGENDA_SHIM && event->kind != AGENDA_RESUME) {
        agenda_add(agents->agenda, node->stalled_until_us, event->kind, event->node, event->what,
                   NULL);
        return;
    }
    switch (event->kind) {
    case AGENDA_RESUME:
        if (node->runs && event->what == node->instance && node->stalled_until_us)
            resume(agents, event->node);
        break;
    case AGENDA_AGENT:
        if (!node->down && !node->runs && event->what == node->boot)
            come_up(agents, event->node);
        break;
    case AGENDA_POLL:
        if (node->runs && event->what == node->instance && !node->poll)
            poll_now(agents, event->node);
        break;
    case AGENDA_REPORT:
        if (node->runs && event->what == node->instance) {
            node->report_waits = false;
            turn_end(agents, event->node);
        }
        break;
    case AGENDA_CALL:
        if (node->runs && (event->what == node->poll || event->what == node->report)) {
            on_failed(agents, event->node, event->what);
            turn_end(agents, event->node);
        }
        break;
    default:
        on_shim(agents, event);
    }
}

void agents_init(struct agents *agents, int n_nodes, struct agenda *agenda, struct network *net,
                 struct rng *rng) {
    assert(n_nodes <= SHIMS_NODES_MAX);
    *agents = (struct agents){
        .agenda = agenda,
        .rng = rng,
        .net = net,
        .n_nodes = n_nodes,
        .nodes = hai_new_array(struct agents_node, (size_t)n_nodes),
    };
    agents->shims.agenda = agenda;
    agents->shims.rng = rng;
    agents->shims.n_nodes = n_nodes;
    for (int i = 0; i < n_nodes; i++)
        agents_boot(agents, i);
}

void agents_free(struct agents *agents) {
    for (int i = 0; i < agents->n_nodes; i++) {
        forget(agents, i);
        journal_free(&agents->nodes[i].marks);
    }
    shims_free(&agents->shims);
    free(agents->nodes);
    *agents = (struct agents){0};
}
