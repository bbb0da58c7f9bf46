#include "sim/storm.h"
#include "scheduler/core/array.h"
#include "scheduler/core/eligible.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/order.h"
#include "sim/faults.h"
#include "sim/invariants.h"

#define SECOND TEMPEST_SECOND
#define STORM_US (86400 * SECOND) // at most

enum {
    SILENCE_CHECK_US = 250 * 1000,
    TURN_US = 8 * 1000,      // until a turn takes up what came in
    STEP_ENTRIES = 5,        // of the caller's steps
    PEOPLE_US = 1300 * 1000, // at most, between two requests
    FAULT_US = 18 * 1000 * 1000,
    NODES_FEWEST = 10,
    NODES_MOST = 40,
    SNAPSHOT_ENTRIES = 1000,
    /* So many turns with entries apart, or seeds: docs/testing.md. */
    WHOLE_TURNS = 24,
    EXPLAIN_TURNS = 128,
    DECIDE_TURNS = 24,
    DONE_TURNS = 16,
    KILL_TURNS = 1400,       // at each of three moments of a turn with entries, once in so many
    KILL_IDLE_TURNS = 50000, // and without
    AUDIT_SEEDS = 4,
    NAIVE_SEEDS = 16,
    NAIVE_RUNS = 32,
};

/* ---- checks now and then ---- */

/* What decide remembers must not hide what one without a memory sees. */
static void check_decided(struct tempest *t) {
    struct decide *fresh = decide_new();
    struct decide_list list = {0};

    /* Making room is tried only now and then. */
    if (decide_run(fresh, t->world.state, &list) && list.items[0].kind == ENTRY_PLACE && t->r == 0)
        t->r = hai_fail(t->err, -EINVAL, "a job that could start was overlooked");
    decide_list_free(&list);
    decide_free(fresh);
}

/* Of everything. */
static void check_whole(struct tempest *t) {
    if (t->r == 0)
        tempest_note(t, invariants_state(t->world.state, t->err));
    if (t->r == 0)
        tempest_note(t, invariants_nodes(t->world.state, &t->agents.shims, t->err));
}

/* Whose agents are out of reach now. */
static void note_trouble(struct tempest *t) {
    for (int i = 0; i < t->agents.n_nodes; i++) {
        const struct agents_node *node = &t->agents.nodes[i];
        const struct network_link *link = &t->net.links[i];
        if (link->deaf || link->mute || link->bad || node->down || !node->runs || node->blow ||
            node->stalled_until_us || node->n_adopting)
            starve_trouble(&t->starve, i, t->world.now_us);
    }
}

static void check_turn(struct tempest *t) {
    note_trouble(t);
    if (t->r == 0)
        tempest_note(t, starve_watch(&t->starve, t->world.state, t->err));
    if (t->r == 0 && t->agents.shims.err.r < 0) {
        *t->err = t->agents.shims.err;
        tempest_note(t, t->err->r);
    }
    if (t->r == 0 && naive_error(t->world.naive)->r < 0) {
        *t->err = *naive_error(t->world.naive);
        tempest_note(t, t->err->r);
    }
    if (t->n_full_turns % DECIDE_TURNS == 0)
        check_decided(t);
    if (t->n_full_turns % WHOLE_TURNS == 0)
        check_whole(t);
    if (t->r == 0 && t->n_full_turns % EXPLAIN_TURNS == 0)
        tempest_note(t, invariants_explained(t->world.state, t->err));
}

/* ---- turns of the scheduler ---- */

static void want_turn(struct tempest *t) {
    if (!t->down)
        t->turn_us = MIN(t->turn_us, t->agenda.now_us + 1 + rng_below(&t->rng, TURN_US));
}

static void wake_up(struct tempest *t) {
    int64_t due_us = state_next_wakeup(t->world.state);

    if (due_us < INT64_MAX)
        t->turn_us = MIN(t->turn_us, MAX(drift_when(&t->clock, due_us), t->agenda.now_us + 1));
}

static void ask_something(struct tempest *t) {
    int64_t kind = rng_below(&t->rng, 20);

    agenda_add(&t->agenda, t->agenda.now_us + rng_below(&t->rng, PEOPLE_US), AGENDA_PEOPLE, 0, 0,
               NULL);
    if (kind == 0)
        people_reserve(&t->people);
    else if (kind < 7)
        people_ask(&t->people);
    else
        people_submit(&t->people);
}

/* A checkpoint of some running rank is durable. */
static void save_some(struct tempest *t) {
    int node = (int)rng_below(&t->rng, t->agents.n_nodes);
    const struct shim *shim = t->agents.shims.first[node];

    if (shim && shim->n_running && shim->lives)
        agents_saved(&t->agents, shim, 1 + rng_below(&t->rng, 1000));
}

/* What is an event's own, within a turn. */
static void happen(struct tempest *t, const struct agenda_event *event) {
    switch (event->kind) {
    case AGENDA_PEOPLE:
        if (t->calm)
            return;
        ask_something(t);
        save_some(t);
        return;
    case AGENDA_FAULT:
        if (t->calm)
            return;
        faults_break(t);
        agenda_add(&t->agenda, t->agenda.now_us + rng_below(&t->rng, FAULT_US), AGENDA_FAULT, 0, 0,
                   NULL);
        return;
    case AGENDA_MEND:
        faults_mend(t, event->node);
        return;
    default:
        faults_fenced(t, event->node, event->what);
    }
}

/* All that came in becomes entries, they are committed, answers go out. The scheduler may be killed
 * before the commit, and before the answers. */
static void turn(struct tempest *t, const struct agenda_event *event) {
    size_t n_committed = t->world.n_log;

    t->turn_us = INT64_MAX;
    t->world.now_us = MAX(t->world.now_us, drift_read(&t->clock, t->agenda.now_us));
    struct entry_tick tick = {state_next_wakeup(t->world.state)};
    if (tick.due_us <= t->world.now_us)
        tempest_append(t, "system:hai", ENTRY_TICK, &tick);
    gateway_silence(&t->gateway);
    gateway_turn(&t->gateway);
    if (event)
        happen(t, event);
    clients_retry(&t->clients);
    int64_t kill = t->world.n_log > n_committed ? KILL_TURNS : KILL_IDLE_TURNS;
    if (faults_kill(t, kill, n_committed))
        return;
    t->n_turns++;
    if (t->world.n_log > n_committed) {
        t->n_full_turns++;
        t->result.placements += (int64_t)world_decide(&t->world);
        check_turn(t);
    }
    if (faults_kill(t, kill, n_committed) || faults_kill(t, kill, t->world.n_log))
        return;
    clients_commit(&t->clients);
    gateway_commit(&t->gateway);
    if (t->gateway.n_gone)
        want_turn(t);
    world_clear(&t->world);
    if (t->world.n_log >= t->world.n_snapshot + SNAPSHOT_ENTRIES)
        world_snapshot(&t->world);
    wake_up(t);
}

/* ---- the run ---- */

static void arrive(struct tempest *t, struct network_message *message) {
    bool request = message->kind == NETWORK_POLL || message->kind == NETWORK_REPORT;
    bool stale = message->boot != t->agents.nodes[message->node].boot ||
                 (request && message->server != t->net.server);

    if (stale || !network_arrives(&t->net, message)) {
        network_message_free(message);
    } else if (!request) {
        agents_message(&t->agents, message);
        network_message_free(message);
    } else if (t->down) {
        network_refuse(&t->net, message);
        network_message_free(message);
    } else {
        gateway_receive(&t->gateway, message);
        want_turn(t);
    }
}

static void look_for_silence(struct tempest *t) {
    agenda_add(&t->agenda, t->agenda.now_us + SILENCE_CHECK_US, AGENDA_SILENCE, 0, 0, NULL);
    t->world.now_us = MAX(t->world.now_us, drift_read(&t->clock, t->agenda.now_us));
    if (!t->down && gateway_is_silent(&t->gateway))
        want_turn(t);
}

static void on_event(struct tempest *t, const struct agenda_event *event) {
    switch (event->kind) {
    case AGENDA_MESSAGE:
        arrive(t, event->data);
        break;
    case AGENDA_HELD:
        if (!t->down) {
            t->world.now_us = MAX(t->world.now_us, drift_read(&t->clock, t->agenda.now_us));
            gateway_held(&t->gateway, event->node, event->what);
        }
        break;
    case AGENDA_SILENCE:
        look_for_silence(t);
        break;
    case AGENDA_SCHEDULER:
        faults_start(t);
        want_turn(t);
        break;
    case AGENDA_PEOPLE:
    case AGENDA_FAULT:
    case AGENDA_MEND:
    case AGENDA_FENCED:
        if (t->down)
            agenda_add(&t->agenda, t->agenda.now_us + SECOND, event->kind, event->node, event->what,
                       NULL);
        else
            turn(t, event);
        break;
    default:
        agents_event(&t->agents, event);
    }
}

static void step(struct tempest *t) {
    const struct agenda_event *first = agenda_first(&t->agenda);

    if (t->turn_us <= first->at_us) {
        t->agenda.now_us = t->turn_us;
        turn(t, NULL);
        return;
    }
    struct agenda_event event = agenda_take(&t->agenda);
    t->agenda.now_us = event.at_us;
    on_event(t, &event);
}

static bool is_paused(const struct job *job) {
    return job->r.state == JOB_STATE_HELD || job->r.state == JOB_STATE_SUSPENDED;
}

/* Does it wait for a person, by itself, for a job that does, or for its last elements? */
static bool waits_for_person(const struct state *state, const struct job *job) {
    struct eligible_wait wait;
    bool any = false;

    while (job && job->r.state == JOB_STATE_QUEUED && eligible_wait(state, job, &wait))
        job = state_job_find(state, wait.ahead);
    if (!job || is_paused(job))
        return job != NULL;
    if (!array_is(job) || state_job_ended(job))
        return false;
    for (const struct job *one = array_next_open(job, job); one; one = array_next_open(job, one)) {
        any = true;
        if (!is_paused(one))
            return false;
    }
    return any;
}

/* Faults cease: whatever does not wait for a person must end. */
static const struct job *not_done(const struct tempest *t) {
    for (const struct job *job = t->world.state->jobs_first; job; job = job->next)
        if (!state_job_ended(job) && !waits_for_person(t->world.state, job))
            return job;
    return NULL;
}

static void calm_down(struct tempest *t) {
    t->calm = true;
    while (t->down && t->r == 0)
        step(t);
    if (!order_shares(t->world.state))
        people_lift_quotas(&t->people);
    for (int i = 0; i < t->agents.n_nodes; i++)
        faults_mend(t, i);
    while (t->r == 0 && t->world.state->n_reserves) { // some have no end
        struct entry_reserve_remove away = {t->world.state->reserves[0].name};
        tempest_append(t, "operate:root", ENTRY_RESERVE_REMOVE, &away);
    }
    shims_calm(&t->agents.shims);
    want_turn(t);
}

/* What does not wait for a person has ended by then. */
static void come_to_rest(struct tempest *t, int64_t until_us) {
    struct why why;

    for (int64_t n_turns = t->n_turns - DONE_TURNS; t->r == 0 && t->agenda.now_us < until_us;) {
        if (t->n_turns >= n_turns + DONE_TURNS) {
            if (!not_done(t))
                return;
            n_turns = t->n_turns;
        }
        step(t);
    }
    const struct job *job = t->r == 0 ? not_done(t) : NULL;
    if (!job)
        return;
    why_job(t->world.state, job, &why);
    tempest_note(t, hai_fail(t->err, -EINVAL, "job %lld is still %s at the end: %s",
                             (long long)job->r.id, job_state_text(job->r.state), why.message));
}

static uint64_t digest(const struct state *state) {
    _cleanup_(buf_free) struct buf bytes = {0};
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    state_encode(state, &bytes);
    for (size_t i = 0; i < bytes.n_bytes; i++)
        h = (h ^ bytes.data[i]) * UINT64_C(0x100000001b3);
    return h;
}

static void add_accounts(struct tempest *t) {
    uint8_t hash[DIGEST_BYTES] = {1};
    struct entry_user_set user = {(char *)"alice", 1000, 1000, SCOPE_SUBMIT, false, S_ABSENT};
    struct entry_user_set external = {(char *)"bob", 1001, 1001, SCOPE_SUBMIT, false, 1};
    struct entry_token_create token = {
        {hash, sizeof hash},
        (char *)"alice", SCOPE_SUBMIT, S_ABSENT, (char *)"storm"
    };
    struct entry_token_revoke revoke = {1};

    tempest_append(t, "admin:root", ENTRY_USER_SET, &user);
    tempest_append(t, "admin:root", ENTRY_USER_SET, &external);
    tempest_append(t, "admin:root", ENTRY_TOKEN_CREATE, &token);
    hash[0] = 2;
    tempest_append(t, "admin:root", ENTRY_TOKEN_CREATE, &token);
    tempest_append(t, "submit:alice", ENTRY_TOKEN_REVOKE, &revoke);
}

/* 10 to 40 nodes of 4 GPUs. */
static void describe(struct tempest *t, struct world_cluster *cluster) {
    *cluster = (struct world_cluster){.fence = true, .gpus = 4, .cpus = 8};
    cluster->n_zones = 1 + (int)rng_below(&t->rng, 3);
    cluster->leaves_per_zone = 1 + (int)rng_below(&t->rng, 2);
    int leaves = cluster->n_zones * cluster->leaves_per_zone;
    int least = (NODES_FEWEST + leaves - 1) / leaves;
    cluster->nodes_per_leaf = least + (int)rng_below(&t->rng, NODES_MOST / leaves - least + 1);
    cluster->spares = tempest_chance(t, 3);
    cluster->nvlink = tempest_chance(t, 2) ? 2 : 0;
    cluster->lone = tempest_chance(t, 4);
    cluster->min_run_us = tempest_chance(t, 2) ? (1 + rng_below(&t->rng, 20)) * SECOND : 0;
    cluster->fair_share_us = tempest_chance(t, 2) ? (16 + rng_below(&t->rng, 300)) * SECOND : 0;
    cluster->aging_us = tempest_chance(t, 2) ? (16 + rng_below(&t->rng, 60)) * SECOND : 0;
    cluster->backfill = tempest_chance(t, 4) ? 0 : 1 + rng_below(&t->rng, 6);
}

/* Every clock as wrong as it may be, so that a lease of one ends within the bound of another: with
 * d the bound over the lease, none by more than d / (2 + d). Ranks take a part of the bound to
 * die. */
static void set_clocks(struct tempest *t) {
    int64_t lease_us = t->world.state->r.lease_us;
    int64_t drift_us = t->world.state->r.drift_us - 4 * SHIMS_KILL_US;
    int64_t ppm = drift_us * 1000000 / (2 * lease_us + drift_us);

    t->wall = (struct drift){t->world.now_us, rng_below(&t->rng, 2 * ppm + 1) - ppm};
    t->clock = t->wall;
    for (int i = 0; i < t->agents.n_nodes; i++)
        t->agents.shims.clocks[i] = (struct drift){rng_below(&t->rng, 86400 * SECOND),
                                                   rng_below(&t->rng, 2 * ppm + 1) - ppm};
}

static void connect(struct tempest *t) {
    t->world.appended = tempest_look;
    t->world.userdata = t;
    t->net = (struct network){
        .agenda = &t->agenda, .rng = &t->rng, .server = 1, .mishap = faults_mishap, .userdata = t};
    t->net.links = hai_new_array(struct network_link, (size_t)t->world.state->n_nodes);
    agents_init(&t->agents, t->world.state->n_nodes, &t->agenda, &t->net, &t->rng);
    t->agents.strike = faults_strike;
    t->agents.stall = faults_stall;
    t->agents.fails = faults_start_fails;
    t->agents.userdata = t;
    t->agents.shims.seed = t->seed;
    t->agents.shims.run_us = t->world.state->n_nodes * 3 * SECOND / 2;
    gateway_init(&t->gateway, &t->world, &t->net, &t->agenda);
    t->gateway.append = tempest_append;
    t->gateway.userdata = t;
    t->gateway.silence_us = (4 + rng_below(&t->rng, 9)) * SECOND;
    clients_init(&t->clients, &t->world, &t->rng);
    t->people = (struct people){.world = &t->world,
                                .rng = &t->rng,
                                .clients = &t->clients,
                                .append = tempest_append,
                                .userdata = t};
}

static void prepare(struct tempest *t) {
    struct world_cluster cluster;

    t->rng.state = t->seed;
    t->turn_us = INT64_MAX;
    describe(t, &cluster);
    world_init(&t->world);
    t->world.now_us += LEDGER_DAY_US - t->world.now_us % LEDGER_DAY_US -
                       (int64_t)(t->seed % 300) * SECOND; // a day ends while it storms
    t->world.naive = naive_new(t->seed % NAIVE_SEEDS ? NAIVE_RUNS : 1);
    world_cluster(&t->world, &cluster);
    connect(t);
    starve_init(&t->starve, t->world.state);
    set_clocks(t);
    add_accounts(t);
    agenda_add(&t->agenda, 0, AGENDA_SILENCE, 0, 0, NULL);
    agenda_add(&t->agenda, SECOND, AGENDA_PEOPLE, 0, 0, NULL);
    agenda_add(&t->agenda, 5 * SECOND, AGENDA_FAULT, 0, 0, NULL);
}

static void finish(struct tempest *t) {
    struct agenda_event event;

    t->result.jobs = t->people.n_jobs;
    t->result.n_met = t->n_met;
    t->result.retries = t->clients.n_retries;
    t->result.entries = (int64_t)t->world.n_log;
    t->result.messages = t->net.n_sent;
    t->result.waited = t->starve.n_waited;
    t->result.near = t->starve.n_near;
    t->result.claims = t->starve.n_claims;
    for (size_t i = 0; i < t->world.n_log; i++)
        t->result.rooms += t->world.log[i].kind == ENTRY_MAKE_ROOM;
    t->result.digest = digest(t->world.state);
    while (t->agenda.n) {
        event = agenda_take(&t->agenda);
        if (event.kind == AGENDA_MESSAGE)
            network_message_free(event.data);
    }
    quota_rules_forget(&t->quotas);
    starve_free(&t->starve);
    clients_free(&t->clients);
    gateway_free(&t->gateway);
    agents_free(&t->agents);
    agenda_free(&t->agenda);
    free(t->net.links);
    world_free(&t->world);
}

int storm_run(uint64_t seed, int n_steps, struct storm_result *ret, struct buf *ret_log,
              struct hai_err *err) {
    return storm_run_as(seed, n_steps, &(struct storm_options){0}, ret, ret_log, err);
}

int storm_run_as(uint64_t seed, int n_steps, const struct storm_options *options,
                 struct storm_result *ret, struct buf *ret_log, struct hai_err *err) {
    struct tempest t = {.err = err, .seed = seed, .options = options};

    prepare(&t);
    while (t.r == 0 && t.world.n_log < (size_t)n_steps * STEP_ENTRIES && t.agenda.now_us < STORM_US)
        step(&t);
    if (t.r == 0)
        calm_down(&t);
    if (t.r == 0)
        come_to_rest(&t, t.agenda.now_us + 3 * 3600 * SECOND);
    check_whole(&t);
    if (t.r == 0)
        tempest_note(&t, invariants_replay(&t.world, seed % AUDIT_SEEDS == 0, err));
    if (t.r == 0)
        tempest_note(&t, clients_check(&t.clients, err));
    if (ret_log)
        world_save(&t.world, ret_log);
    if (t.r < 0)
        hai_err_prefix(err, "seed %llu, entry %zu: ", (unsigned long long)seed, t.world.n_log);
    finish(&t);
    *ret = t.result;
    return t.r;
}
