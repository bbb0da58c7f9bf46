#include "sim/faults.h"
#include "sim/invariants.h"

#include <stdio.h>

#define SECOND TEMPEST_SECOND
#define CLOCK_STEP_US (3600 * SECOND)

enum { BAD_WEATHER = 4 };

static bool chance(struct tempest *t, int64_t n) {
    return tempest_chance(t, n);
}

static int64_t below(struct tempest *t, int64_t n) {
    return rng_below(&t->rng, n);
}

/* The time of a fault has come. Returns whether it happens; then end follows. */
static bool begin(struct tempest *t, struct rng *ret_saved) {
    int64_t number = t->n_met++;

    if (t->options->skip && ((size_t)number >= t->options->n_skip || t->options->skip[number]))
        return false;
    *ret_saved = t->rng;
    t->rng.state = (t->seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)number;
    t->result.faults++;
    return true;
}

static void end(struct tempest *t, const struct rng *saved, const char *what, int node) {
    t->rng = *saved;
    if (node >= 0)
        starve_trouble(&t->starve, node, t->world.now_us);
    if (t->options->on_fault)
        t->options->on_fault(t->options->userdata, t->n_met - 1, t->agenda.now_us, what,
                             node < 0 ? NULL : t->world.state->nodes[node]->r.name);
}

static void mend_later(struct tempest *t, int node) {
    agenda_add(&t->agenda, t->agenda.now_us + SECOND / 2 + below(t, 40 * SECOND), AGENDA_MEND, node,
               0, NULL);
}

/* ---- nodes ---- */

/* Cut from the power by others, who say so now or when it lives again. */
static void fence(struct tempest *t, int node) {
    int boot = t->agents.nodes[node].boot;
    int64_t us = SECOND / 10 + below(t, 5 * SECOND);

    agents_strike(&t->agents, node, AGENTS_POWER_OFF);
    if (chance(t, 3)) {
        t->net.links[node].deaf = t->net.links[node].mute = false;
        agents_boot(&t->agents, node);
    }
    agenda_add(&t->agenda, t->agenda.now_us + us, AGENDA_FENCED, node, boot, NULL);
    mend_later(t, node);
}

void faults_fenced(struct tempest *t, int node, int64_t boot) {
    char boot_id[32];

    agents_boot_id(node, (int)boot, boot_id);
    struct entry_node_fenced fenced = {t->world.state->nodes[node]->r.name, NULL, boot_id};
    tempest_append(t, "operate:upd", ENTRY_NODE_FENCED, &fenced);
}

static int any_lost(const struct tempest *t) {
    for (int i = 0; i < t->agents.n_nodes; i++)
        if (t->world.state->nodes[i]->r.state == NODE_STATE_LOST)
            return i;
    return -1;
}

void faults_mend(struct tempest *t, int node) {
    struct entry_node_undrain undrain = {t->world.state->nodes[node]->r.name};

    t->net.links[node] = (struct network_link){0};
    if (t->agents.nodes[node].down)
        agents_boot(&t->agents, node);
    if (t->world.state->nodes[node]->r.drained)
        tempest_append(t, "operate:root", ENTRY_NODE_UNDRAIN, &undrain);
}

static const char *break_link(struct tempest *t, int node) {
    struct network_link *link = &t->net.links[node];

    mend_later(t, node);
    switch (below(t, 5)) {
    case 0:
    case 1:
        link->deaf = link->mute = true;
        return "a node is cut off";
    case 2:
        link->deaf = true;
        return "nothing reaches a node";
    case 3:
        link->mute = true;
        return "nothing that a node says arrives";
    default:
        link->bad = BAD_WEATHER;
        return "the network of a node is bad";
    }
}

static struct shim *any_shim(struct tempest *t, int node) {
    int n = 0;

    for (struct shim *shim = t->agents.shims.first[node]; shim; shim = shim->next)
        n++;
    n = n ? (int)below(t, n) : 0;
    struct shim *shim = t->agents.shims.first[node];
    for (; n > 0; n--)
        shim = shim->next;
    return shim;
}

static const char *break_rank(struct tempest *t, int node) {
    struct shim *shim = any_shim(t, node);

    if (!shim)
        return "no rank is there to break";
    if (chance(t, 6)) {
        agents_lose_shim(&t->agents, shim);
        return "a shim is killed";
    }
    size_t rank = (size_t)below(t, (int64_t)shim->n_ranks);
    shims_end_rank(&t->agents.shims, shim, rank, 3, chance(t, 3) ? 0 : 9);
    return "a rank ends badly";
}

/* A whole node; returns what, and which if it is another one. */
static const char *break_node(struct tempest *t, int *node) {
    struct entry_node_drain drain = {t->world.state->nodes[*node]->r.name, NULL};
    int lost = any_lost(t);

    switch (below(t, 7)) {
    case 0:
        agents_strike(&t->agents, *node, AGENTS_POWER_OFF);
        mend_later(t, *node);
        return "a node loses power";
    case 1:
    case 2:
        agents_strike(&t->agents, *node, AGENTS_KILLED);
        return "an agent is killed";
    case 3:
        agents_strike(&t->agents, *node, AGENTS_WIPED);
        return "an agent and its shims are killed";
    case 4:
    case 5:
        *node = lost >= 0 ? lost : *node;
        fence(t, *node);
        return "a node is fenced";
    default:
        tempest_append(t, "operate:root", ENTRY_NODE_DRAIN, &drain);
        mend_later(t, *node);
        return "a node is drained";
    }
}

static const char *hang(struct tempest *t, int node) {
    const struct shim *shim = any_shim(t, node);

    if (!shim)
        return "no rank is there to hang";
    struct entry_rank_hung hung = {shim->key.job, shim->key.epoch, shim->first_rank,
                                   (char *)"no step"};
    tempest_append(t, "system:hai", ENTRY_RANK_HUNG, &hung);
    return "a rank hangs";
}

void faults_break(struct tempest *t) {
    int node = (int)below(t, t->agents.n_nodes);
    struct rng saved;

    if (!begin(t, &saved))
        return;
    int64_t kind = below(t, 16);
    const char *what = kind < 6    ? break_rank(t, node)
                       : kind < 10 ? break_link(t, node)
                       : kind < 15 ? break_node(t, &node)
                                   : hang(t, node);
    end(t, &saved, what, node);
}

bool faults_mishap(void *tempest, int node, enum network_mishap mishap) {
    static const char *const texts[] = {
        [NETWORK_LOST] = "a message is lost",
        [NETWORK_TWICE] = "a message comes twice",
        [NETWORK_LATE] = "a message is late",
    };
    struct tempest *t = tempest;
    struct rng saved;

    if (t->calm || !begin(t, &saved))
        return false;
    end(t, &saved, texts[mishap], node);
    return true;
}

/* ---- agents, where they are touchy ---- */

enum agents_blow faults_strike(void *tempest, int node, enum agents_point point) {
    static const char *const texts[] = {
#define TEXT_(name, text) "an agent is struck " text,
        AGENTS_POINTS(TEXT_)
#undef TEXT_
    };
    struct tempest *t = tempest;
    enum agents_blow blow = AGENTS_KILLED;
    struct rng saved;

    int64_t once_in = point == AGENTS_MESSAGE ? 3000 : point == AGENTS_REPORTED ? 150 : 500;
    if (t->calm || !chance(t, once_in) || !begin(t, &saved))
        return AGENTS_LIVES;
    if (chance(t, 3))
        blow = AGENTS_WIPED;
    else if (chance(t, 4))
        blow = AGENTS_POWER_OFF;
    if (blow == AGENTS_POWER_OFF)
        mend_later(t, node);
    end(t, &saved, texts[point], node);
    return blow;
}

int64_t faults_stall(void *tempest, int node) {
    struct tempest *t = tempest;
    struct rng saved;

    if (t->calm || !chance(t, 200) || !begin(t, &saved))
        return 0;
    int64_t us = below(t, chance(t, 2) ? SECOND : 20 * SECOND);
    end(t, &saved, "a disk stands still", node);
    return us;
}

bool faults_start_fails(void *tempest, int node, enum exit_cause *ret_cause) {
    struct tempest *t = tempest;
    struct rng saved;

    if (t->calm || !chance(t, 200) || !begin(t, &saved))
        return false;
    *ret_cause = chance(t, 3) ? EXIT_CAUSE_START : EXIT_CAUSE_UNKNOWN;
    end(t, &saved, "the ranks of an attempt cannot be started", node);
    return true;
}

/* ---- the scheduler ---- */

/* What it knows again, of all that it had applied, is what it knew. */
static void check_recovered(struct tempest *t, const struct buf *before) {
    _cleanup_(buf_free) struct buf after = {0};

    state_encode(t->world.state, &after);
    if (t->r == 0 &&
        (before->n_bytes != after.n_bytes || memcmp(before->data, after.data, after.n_bytes) != 0))
        t->r = hai_fail(t->err, -EINVAL, "a snapshot and the log after it lead to other bytes");
}

bool faults_kill(struct tempest *t, int64_t once_in, size_t n_committed) {
    _cleanup_(buf_free) struct buf before = {0};
    struct rng saved;
    size_t n_log = t->world.n_log, n_kept = n_log;

    if (t->calm || !chance(t, once_in) || !begin(t, &saved))
        return false;
    if (n_log > n_committed && chance(t, 2))
        n_kept = n_committed + (size_t)below(t, (int64_t)(n_log - n_committed));
    bool compares = n_kept == n_log && chance(t, 3);
    if (compares)
        state_encode(t->world.state, &before);
    world_crash(&t->world, n_kept);
    if (compares)
        check_recovered(t, &before);
    clients_crash(&t->clients);
    quota_rules_forget(&t->quotas);
    gateway_killed(&t->gateway);
    t->net.server++;
    t->down = true;
    t->turn_us = INT64_MAX;
    if (chance(t, 2)) // its host's clock is set meanwhile
        t->wall.offset_us += chance(t, 2) ? CLOCK_STEP_US : -CLOCK_STEP_US;
    agenda_add(&t->agenda, t->agenda.now_us + below(t, chance(t, 4) ? 20 * SECOND : 2 * SECOND),
               AGENDA_SCHEDULER, 0, 0, NULL);
    end(t, &saved,
        n_kept < n_log ? "the scheduler is killed before a commit"
                       : "the scheduler is killed between commits",
        -1);
    return true;
}

/* Log time goes on from the clock of its host, which may have been set, but never back. */
void faults_start(struct tempest *t) {
    int64_t now_us = MAX(drift_read(&t->wall, t->agenda.now_us), t->world.state->r.time_us + 1);

    t->clock.offset_us += now_us - drift_read(&t->clock, t->agenda.now_us);
    t->world.now_us = now_us;
    t->down = false;
    world_start(&t->world);
    gateway_started(&t->gateway);
    starve_forget(&t->starve, t->world.state);
    t->n_committed = t->world.n_log;
    if (t->r == 0)
        t->r = invariants_state(t->world.state, t->err);
    if (t->r == 0)
        t->r = clients_check(&t->clients, t->err);
}
