#include "sim/storm.h"
#include "scheduler/core/array.h"
#include "scheduler/core/eligible.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/order.h"
#include "sim/audit.h"
#include "sim/clients.h"
#include "sim/invariants.h"
#include "sim/quota_rules.h"

#include <stdio.h>

#define SECOND INT64_C(1000000)
#define POLL_US (2 * SECOND)
#define CLOCK_STEP_US (3600 * SECOND)
#define PASSING_US (60 * SECOND)

struct storm {
    struct world world;
    struct rng rng;
    struct agents agents;
    struct clients clients;
    struct quota_rules_seen quotas;
    int64_t *seen_us;    // by node: its agent was last heard of
    int64_t *granted_us; // by node: this scheduler last granted a lease, S_ABSENT: not yet
    int64_t *polled_us;  // by node
    int64_t silence_us;  // a node silent for longer is lost
    uint64_t seed;
    int64_t begun_us;
    const struct storm_options *options;
    int64_t n_met; // faults whose time came, skipped ones included
    bool calm;     // no more faults and requests
    struct storm_result result;
    struct hai_err *err;
    int r;
};

static bool chance(struct storm *s, int64_t n) {
    return rng_once_in(&s->rng, n);
}

/* ---- faults ---- */

/* The time of a fault has come: each has a number and random numbers of its own, so that the others
 * stay what they are when one is left out. Returns whether it happens; then fault_end follows. */
static bool fault_begin(struct storm *s, struct rng *ret_saved) {
    int64_t number = s->n_met++;

    if (s->options->skip && ((size_t)number >= s->options->n_skip || s->options->skip[number]))
        return false;
    *ret_saved = s->rng;
    s->rng.state = (s->seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)number;
    s->result.faults++;
    return true;
}

static void fault_end(struct storm *s, const struct rng *saved, int64_t at_us, const char *what,
                      int node) {
    s->rng = *saved;
    if (s->options->on_fault)
        s->options->on_fault(s->options->userdata, s->n_met - 1, at_us - s->begun_us, what,
                             node < 0 ? NULL : s->world.state->nodes[node]->r.name);
}

/* ---- entries ---- */

static void check(struct storm *s) {
    if (s->r == 0)
        s->r = invariants_state(s->world.state, s->err);
    if (s->r == 0)
        s->r = quota_rules_watch(&s->quotas, s->world.state, s->err);
}

static int append(struct storm *s, const char *principal, enum entry_kind kind,
                  const void *payload) {
    int r = world_append(&s->world, principal, kind, payload);

    check(s);
    return r;
}

static void take_report(void *userdata, const struct agents_report *report) {
    struct storm *s = userdata;
    char principal[PRINCIPAL_MAX + 1];
    char *name = s->world.state->nodes[report->node]->r.name;

    (void)snprintf(principal, sizeof principal, "node:%s", name);
    struct entry_ranks_started started = {report->body.job, report->body.epoch, name};
    struct entry_ranks_gone gone = {report->body.job, report->body.epoch, name, NULL};
    if (report->kind == ENTRY_RANKS_STARTED)
        append(s, principal, report->kind, &started);
    else if (report->kind == ENTRY_RANKS_GONE)
        append(s, principal, report->kind, &gone);
    else
        append(s, principal, report->kind, &report->body);
}

/* ---- what the shell does ---- */

/* An agent that can be reached polls: it says hello first, and gets its set once that is applied.
 */
static void poll_node(struct storm *s, int number) {
    struct node *node = s->world.state->nodes[number];
    char boot_id[32];

    s->polled_us[number] = s->world.now_us;
    s->seen_us[number] = s->world.now_us;
    agents_boot_id(&s->agents, number, boot_id);
    if (node->r.state != NODE_STATE_UP || !hai_streq(node->r.boot_id, boot_id)) {
        struct entry_node_up up = {.node = node->r.name, .boot_id = boot_id};
        append(s, "system:hai", ENTRY_NODE_UP, &up);
    }
    s->granted_us[number] = s->world.now_us;
    agents_send(&s->agents, number);
}

static void watch_nodes(struct storm *s) {
    for (int i = 0; i < s->agents.n_nodes; i++) {
        const struct agents_node *node = &s->agents.nodes[i];
        struct node *known = s->world.state->nodes[i];
        if (!node->down && !node->cut && !node->mute &&
            s->world.now_us >= s->polled_us[i] + POLL_US) {
            poll_node(s, i);
        } else if (known->r.state == NODE_STATE_UP &&
                   s->world.now_us > s->seen_us[i] + s->silence_us) {
            struct entry_node_lost lost = {known->r.name, s->granted_us[i], NULL};
            append(s, "system:hai", ENTRY_NODE_LOST, &lost);
        }
    }
}

/* Changed desired sets go out at once to those who wait for them. */
static void push_sets(struct storm *s) {
    for (size_t i = 0; i < s->world.fx->n_nodes; i++) {
        int number = s->world.fx->nodes[i];
        const struct agents_node *node = &s->agents.nodes[number];
        const struct node *known = s->world.state->nodes[number];
        char boot_id[32];
        agents_boot_id(&s->agents, number, boot_id);
        if (node->down || node->cut || known->r.state != NODE_STATE_UP ||
            !hai_streq(known->r.boot_id, boot_id))
            continue;
        s->granted_us[number] = s->world.now_us;
        agents_send(&s->agents, number);
    }
    world_clear(&s->world);
}

/* Killed between two commits, or before one: of what came since the last, any part is lost. */
static void restart_scheduler(struct storm *s, size_t n_committed) {
    int64_t at_us = s->world.now_us;
    struct rng saved;

    if (!fault_begin(s, &saved))
        return;
    if (chance(s, 4)) { // its host's clock was set: the log's time follows with the next start
        s->world.now_us += CLOCK_STEP_US;
        agents_clock_step(&s->agents, CLOCK_STEP_US);
    }
    if (s->world.n_log > n_committed && chance(s, 2))
        world_crash(&s->world, n_committed + (size_t)rng_below(
                                                 &s->rng, (int64_t)(s->world.n_log - n_committed)));
    else
        world_restart(&s->world, chance(s, 2));
    clients_crash(&s->clients);
    quota_rules_forget(&s->quotas);
    for (int i = 0; i < s->agents.n_nodes; i++) {
        s->seen_us[i] = s->world.now_us; // a fresh full lease
        s->granted_us[i] = S_ABSENT;
    }
    if (s->r == 0)
        s->r = invariants_replay(&s->world, s->err);
    if (s->r == 0)
        s->r = clients_check(&s->clients, s->err);
    fault_end(s, &saved, at_us, "the scheduler is killed", -1);
}

/* ---- people ---- */

static const int64_t levels[] = {50, 30, 30, 30, 10};
static int64_t any_job(struct storm *s) {
    return 1 + rng_below(&s->rng, MAX(s->world.state->r.next_job, 1));
}

/* What a job waits for: recent jobs or old ones, some that there are not, a turn, a time. */
static void add_conditions(struct storm *s, struct entry_job_spec *spec) {
    static char *const names[] = {(char *)"sync", (char *)"eval", (char *)"pack"};

    for (int64_t n = chance(s, 4) ? 1 + rng_below(&s->rng, 3) : 0; n > 0; n--) {
        struct entry_after *after = LIST_ADD(&spec->after);
        schema_init(entry_after_schema(), after);
        after->want = (enum after_want)rng_below(&s->rng, AFTER_COUNT);
        after->job = any_job(s);
        if (chance(s, 2))
            after->job = MAX(s->world.state->r.next_job - 1 - rng_below(&s->rng, 5), 1);
    }
    if (chance(s, 5))
        spec->name = names[rng_below(&s->rng, ARRAY_SIZE(names))];
    if (spec->name && chance(s, 2))
        spec->singleton = 1;
    if (chance(s, 8))
        spec->not_before_us = s->world.now_us + rng_below(&s->rng, 60 * SECOND);
}

/* A few elements, now and then more than wait at a time; with gaps, and often with a cap. */
static void make_array(struct storm *s, struct entry_job_spec *spec) {
    int64_t from = rng_below(&s->rng, 5);

    for (int64_t n = 1 + rng_below(&s->rng, 3); n > 0; n--) {
        struct entry_range *range = LIST_ADD(&spec->array);
        range->step = 1 + rng_below(&s->rng, 3);
        range->first = from;
        range->last = from + rng_below(&s->rng, chance(s, 60) ? 200 : 8);
        from = range->last + 1 + rng_below(&s->rng, 3);
    }
    if (chance(s, 2))
        spec->array_cap = 1 + rng_below(&s->rng, 4);
    spec->nodes = 1;
}

/* Whose the job is: bob is an external user. Callers of clients.h are alice. */
static void choose_holder(struct storm *s, struct entry_job_spec *spec) {
    static char *const users[] = {(char *)"alice", (char *)"bob", (char *)"carol"};
    static char *const teams[] = {(char *)"nlp", (char *)"vision"};

    if (chance(s, 3))
        spec->user = users[rng_below(&s->rng, ARRAY_SIZE(users))];
    if (chance(s, 2))
        spec->team = teams[rng_below(&s->rng, ARRAY_SIZE(teams))];
    if (hai_streq(spec->user, "bob") || chance(s, 4))
        spec->auto_priority = 1;
}

static void submit_some(struct storm *s) {
    struct entry_job_spec spec = world_spec();

    choose_holder(s, &spec);
    spec.nodes = chance(s, 2) ? 1 : 1 + rng_below(&s->rng, 5);
    spec.gpus_per_node = rng_below(&s->rng, 5);
    spec.ranks_per_node = 1 + rng_below(&s->rng, 2);
    spec.priority = levels[rng_below(&s->rng, ARRAY_SIZE(levels))];
    spec.cross_zones = chance(s, 3);
    spec.held = chance(s, 20);
    spec.grace_us = 1 + rng_below(&s->rng, 20 * SECOND);
    spec.restart_when = chance(s, 4) ? RESTART_ALL : RESTART_FAULTS;
    spec.restart_max = rng_below(&s->rng, 20);
    if (chance(s, 5))
        spec.time_limit_us = (5 + rng_below(&s->rng, 60)) * SECOND;
    if (chance(s, 10))
        spec.warn_us = rng_below(&s->rng, 5 * SECOND);
    if (chance(s, 6))
        spec.anti_affinity = 1;
    add_conditions(s, &spec);
    if (chance(s, 15))
        make_array(s, &spec);
    const struct state *state = s->world.state;
    if (state->n_reserves && chance(s, 4))
        spec.reservation = state->reserves[rng_below(&s->rng, (int64_t)state->n_reserves)].name;
    /* Callers know their jobs by names of their own, one job a name. */
    if (spec.name || spec.array.n || spec.reservation || spec.user)
        s->result.jobs += world_submit(&s->world, &spec) > 0;
    else
        s->result.jobs += clients_submit(&s->clients, &spec) == 0;
    free(spec.after.items);
    free(spec.array.items);
    check(s);
}

static void move_some(struct storm *s, int64_t id) {
    struct entry_job_set set = {
        id, S_ABSENT, S_ABSENT, NULL, (enum job_move)rng_below(&s->rng, 4), any_job(s)};

    append(s, "submit:alice", ENTRY_JOB_SET, &set);
}

/* Each makes those go that have expired. */
static void add_passing_token(struct storm *s) {
    uint8_t hash[DIGEST_BYTES] = {3};
    struct entry_token_create token = {
        {hash, sizeof hash},
        (char *)"bob", SCOPE_SUBMIT, s->world.now_us + PASSING_US, NULL
    };

    memcpy(hash + 1, &s->world.state->r.index, sizeof s->world.state->r.index);
    append(s, "admin:root", ENTRY_TOKEN_CREATE, &token);
}

static struct entry_quota some_quota(struct storm *s) {
    static char *const names[] = {(char *)"alice", (char *)"bob", (char *)"carol", (char *)"nlp",
                                  (char *)"vision"};
    static const int64_t given[] = {50, 30, 10, 5, 0};
    int64_t n = rng_below(&s->rng, ARRAY_SIZE(names) + 1);
    struct entry_quota quota = {.group = (char *)"default"};

    quota.holder = n < 3                        ? QUOTA_HOLDER_USER
                   : n < (int)ARRAY_SIZE(names) ? QUOTA_HOLDER_TEAM
                                                : QUOTA_HOLDER_EVERY;
    quota.name = quota.holder == QUOTA_HOLDER_EVERY ? NULL : names[n];
    quota.priority = given[rng_below(&s->rng, ARRAY_SIZE(given))];
    quota.gpus = chance(s, 4) ? S_ABSENT : rng_below(&s->rng, 24);
    return quota;
}

/* Quotas are given, changed or taken away, now and then several at once; or a user becomes external
 * or internal. */
static void change_quota(struct storm *s) {
    struct entry_user_set user = {(char *)"bob", 1001, 1001, SCOPE_SUBMIT, false, chance(s, 2)};
    struct entry_quota quota = some_quota(s), more[4];
    struct entry_quota_set set = {quota.holder, quota.name, quota.group, quota.priority,
                                  quota.gpus};

    if (chance(s, 4)) {
        set.more.n = (size_t)rng_below(&s->rng, ARRAY_SIZE(more)) + 1;
        set.more.items = more;
        for (size_t i = 0; i < set.more.n; i++)
            more[i] = some_quota(s);
    }
    append(s, "operate:root", ENTRY_QUOTA_SET, &set);
    if (!chance(s, 10))
        return;
    user.only = chance(s, 2) ? 0 : USER_SET_KNOWN | rng_below(&s->rng, USER_SET_FIELDS + 1);
    append(s, "admin:root", ENTRY_USER_SET, &user);
    add_passing_token(s);
}

/* In strict order a job larger than its quota waits for more of it. */
static void lift_quotas(struct storm *s) {
    struct entry_quota_set set = {.gpus = S_ABSENT};

    while (s->world.state->n_quotas && s->r == 0) {
        const struct state_quota *quota = &s->world.state->quotas[0];
        set.holder = quota->holder;
        set.name = quota->name;
        set.group = quota->group;
        set.priority = quota->priority;
        append(s, "operate:root", ENTRY_QUOTA_SET, &set);
    }
}

static void ask_auto(struct storm *s, int64_t id) {
    struct entry_job_set set = {
        .job = id, .priority = S_ABSENT, .time_limit_us = S_ABSENT, .auto_priority = 1};

    append(s, "operate:root", ENTRY_JOB_SET, &set);
}

static void ask(struct storm *s) {
    int64_t id = any_job(s);
    struct entry_job_suspend suspend = {id};
    struct entry_job_resume resume = {id};

    switch (rng_below(&s->rng, 8)) {
    case 7:
        move_some(s, id);
        break;
    case 5:
        change_quota(s);
        break;
    case 6:
        ask_auto(s, id);
        break;
    case 0:
        clients_stop(&s->clients, id, chance(s, 3));
        break;
    case 1:
        append(s, "operate:root", ENTRY_JOB_SUSPEND, &suspend);
        break;
    case 2:
    case 3:
        append(s, "submit:alice", ENTRY_JOB_RESUME, &resume);
        break;
    default:
        clients_set(&s->clients, id, levels[rng_below(&s->rng, ARRAY_SIZE(levels))]);
    }
    check(s);
}

/* Overlapping ones are refused, others changed. */
static void reserve_some(struct storm *s) {
    static const char *const names[] = {"demo", "upgrade", "fan"};
    const struct state *state = s->world.state;
    struct entry_reserve_set set;
    char *name = (char *)names[rng_below(&s->rng, ARRAY_SIZE(names))], *user = (char *)"alice";
    struct entry_reserve_remove away = {name};
    int64_t now_us = s->world.now_us;

    if (chance(s, 3)) {
        append(s, "operate:root", ENTRY_RESERVE_REMOVE, &away);
        return;
    }
    schema_init(entry_reserve_set_schema(), &set);
    set.name = name;
    if (!chance(s, 3))
        set.from_us = now_us + rng_below(&s->rng, 30 * SECOND);
    if (!chance(s, 4))
        set.until_us = MAX(set.from_us, now_us) + rng_below(&s->rng, 60 * SECOND);
    for (int64_t n = 1 + rng_below(&s->rng, 3); n > 0; n--)
        *LIST_ADD(&set.nodes) = state->nodes[rng_below(&s->rng, s->agents.n_nodes)]->r.name;
    if (chance(s, 2))
        *LIST_ADD(&set.users) = user;
    append(s, "operate:root", ENTRY_RESERVE_SET, &set);
    free(set.nodes.items);
    free(set.users.items);
}

/* ---- the nodes ---- */

static void end_badly(struct storm *s, int number, size_t at) {
    const struct agents_held *held = &s->agents.nodes[number].held[at];
    struct rng saved;

    if (!fault_begin(s, &saved))
        return;
    int64_t rank = rng_below(&s->rng, held->n_ranks);
    if (chance(s, 3))
        agents_end_rank(&s->agents, number, at, rank, 3, 0, EXIT_CAUSE_SELF);
    else
        agents_end_rank(&s->agents, number, at, rank, 0, 9, EXIT_CAUSE_SELF);
    fault_end(s, &saved, s->world.now_us, "a rank ends badly", number);
}

/* A whole gang ends well, or one rank of it badly. */
static void end_some(struct storm *s) {
    int number = (int)rng_below(&s->rng, s->agents.n_nodes);
    struct agents_node *node = &s->agents.nodes[number];
    bool well = s->calm || chance(s, 2);

    if (!node->n_held)
        return;
    size_t at = (size_t)rng_below(&s->rng, (int64_t)node->n_held);
    int64_t job = node->held[at].job;
    if (!well) {
        end_badly(s, number, at);
        return;
    }
    for (int n = 0; n < s->agents.n_nodes; n++)
        for (size_t h = 0; h < s->agents.nodes[n].n_held; h++)
            for (int64_t rank = 0;
                 s->agents.nodes[n].held[h].job == job && rank < s->agents.nodes[n].held[h].n_ranks;
                 rank++)
                agents_end_rank(&s->agents, n, h, rank, 0, 0, EXIT_CAUSE_SELF);
}

/* A checkpoint is committed by a node of a running job, or a rank is called hung. */
static void report_some(struct storm *s) {
    char principal[PRINCIPAL_MAX + 1];
    const struct job *job = state_job_find(s->world.state, any_job(s));

    if (!job || !state_job_live(job))
        return;
    const struct node *node = s->world.state->nodes[job->r.allocs.items[0].node];
    (void)snprintf(principal, sizeof principal, "node:%s", node->r.name);
    uint8_t digest[DIGEST_BYTES] = {(uint8_t)job->r.epoch};
    struct entry_ckpt_committed commit = {
        job->r.id,
        job->r.epoch - chance(s, 5),
        1 + rng_below(&s->rng, 1000),
        (char *)"/ckpt/step",
        {digest, sizeof digest},
        chance(s, 3) ? rng_below(&s->rng, 3 * SECOND) : S_ABSENT,
    };
    struct entry_rank_hung hung = {job->r.id, job->r.epoch, 0, (char *)"no step"};
    if (commit.epoch > 0 && !chance(s, 8))
        append(s, principal, ENTRY_CKPT_COMMITTED, &commit);
    else
        append(s, "system:hai", ENTRY_RANK_HUNG, &hung);
}

static void fence(struct storm *s, int number) {
    struct node *known = s->world.state->nodes[number];
    char boot_id[32];

    agents_boot_id(&s->agents, number, boot_id);
    struct entry_node_fenced fenced = {known->r.name, NULL, boot_id};
    agents_crash(&s->agents, number);
    if (chance(s, 3)) { // the report comes when the node lives again
        agents_mend(&s->agents, number);
        agents_boot(&s->agents, number);
        poll_node(s, number);
        s->result.placements += (int64_t)world_decide(&s->world);
        push_sets(s);
    }
    append(s, "operate:upd", ENTRY_NODE_FENCED, &fenced);
}

static int fence_lost(struct storm *s) {
    for (int i = 0; i < s->agents.n_nodes; i++)
        if (s->world.state->nodes[i]->r.state == NODE_STATE_LOST) {
            fence(s, i);
            return i;
        }
    return -1;
}

/* What happens to a node; returns what, and the node if it is another one. */
static const char *break_node(struct storm *s, int *number) {
    struct agents_node *node = &s->agents.nodes[*number];
    struct entry_node_drain drain = {s->world.state->nodes[*number]->r.name, NULL};

    switch (rng_below(&s->rng, 8)) {
    case 0:
        agents_crash(&s->agents, *number);
        return "a node loses power";
    case 1:
    case 2:
        node->cut = true;
        return "a node is cut off";
    case 3:
        node->deaf = true;
        return "nothing reaches a node";
    case 4:
        node->mute = true;
        return "nothing that a node says arrives";
    case 5:
        agents_restart_agent(&s->agents, *number);
        return "an agent is killed";
    case 6:
        *number = fence_lost(s);
        return "a lost node is fenced";
    default:
        append(s, "operate:root", ENTRY_NODE_DRAIN, &drain);
        return "a node is drained";
    }
}

static void break_some(struct storm *s) {
    int number = (int)rng_below(&s->rng, s->agents.n_nodes);
    int64_t at_us = s->world.now_us;
    struct rng saved;

    if (!fault_begin(s, &saved))
        return;
    const char *what = break_node(s, &number);
    fault_end(s, &saved, at_us, what, number);
}

static void mend_some(struct storm *s, int number) {
    struct agents_node *node = &s->agents.nodes[number];
    struct entry_node_undrain undrain = {s->world.state->nodes[number]->r.name};

    agents_mend(&s->agents, number);
    if (node->down)
        agents_boot(&s->agents, number);
    if (s->world.state->nodes[number]->r.drained)
        append(s, "operate:root", ENTRY_NODE_UNDRAIN, &undrain);
}

/* ---- the run ---- */

/* What decide remembers must not hide what one without a memory sees. */
static void check_decided(struct storm *s) {
    struct decide *fresh = decide_new();
    struct decide_list list = {0};

    /* Making room is tried only now and then. */
    if (decide_run(fresh, s->world.state, &list) && list.items[0].kind == ENTRY_PLACE && s->r == 0)
        s->r = hai_fail(s->err, -EINVAL, "a job that could start was overlooked");
    decide_list_free(&list);
    decide_free(fresh);
    if (s->r == 0 && naive_error(s->world.naive)->r) {
        *s->err = *naive_error(s->world.naive);
        s->r = s->err->r;
    }
}

static void step(struct storm *s) {
    size_t n_committed = s->world.n_log;

    s->world.now_us += 1000 + rng_below(&s->rng, chance(s, 10) ? 5 * SECOND : SECOND / 2);
    if (!s->calm) {
        if (chance(s, 4))
            submit_some(s);
        if (chance(s, 6))
            ask(s);
    }
    clients_retry(&s->clients);
    if (!s->calm && chance(s, 100))
        restart_scheduler(s, n_committed);
    clients_commit(&s->clients);
    if (!s->calm) {
        if (chance(s, 25))
            break_some(s);
        if (chance(s, 8))
            report_some(s);
        if (chance(s, 30))
            reserve_some(s);
    }
    int64_t due_us = state_next_wakeup(s->world.state);
    if (chance(s, 2))
        end_some(s);
    if (chance(s, 30))
        mend_some(s, (int)rng_below(&s->rng, s->agents.n_nodes));
    agents_step(&s->agents, take_report, s);
    watch_nodes(s);
    if (due_us <= s->world.now_us) {
        struct entry_tick tick = {due_us};
        append(s, "system:hai", ENTRY_TICK, &tick);
    }
    s->result.placements += (int64_t)world_decide(&s->world);
    check(s);
    check_decided(s);
    push_sets(s);
    if (s->r == 0)
        s->r = invariants_nodes(&s->agents, s->err);
    if (s->r == 0 && chance(s, 20))
        s->r = invariants_explained(s->world.state, s->err);
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
static const struct job *not_done(const struct storm *s) {
    for (const struct job *job = s->world.state->jobs_first; job; job = job->next)
        if (!state_job_ended(job) && !waits_for_person(s->world.state, job))
            return job;
    return NULL;
}

static void calm_down(struct storm *s, int n_steps) {
    s->calm = true;
    if (!order_shares(s->world.state))
        lift_quotas(s);
    for (int i = 0; i < s->agents.n_nodes; i++)
        mend_some(s, i);
    while (s->r == 0 && s->world.state->n_reserves) { // some have no end
        struct entry_reserve_remove away = {s->world.state->reserves[0].name};
        append(s, "operate:root", ENTRY_RESERVE_REMOVE, &away);
    }
    for (int i = 0; i < n_steps && s->r == 0 && not_done(s); i++)
        step(s);
    if (s->r)
        return;
    const struct job *job = not_done(s);
    struct why why;
    if (!job)
        return;
    why_job(s->world.state, job, &why);
    s->r = hai_fail(s->err, -EINVAL, "job %lld is still %s at the end: %s", (long long)job->r.id,
                    job_state_text(job->r.state), why.message);
}

static uint64_t digest(const struct state *state) {
    _cleanup_(buf_free) struct buf bytes = {0};
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    state_encode(state, &bytes);
    for (size_t i = 0; i < bytes.n_bytes; i++)
        h = (h ^ bytes.data[i]) * UINT64_C(0x100000001b3);
    return h;
}

static void add_accounts(struct storm *s) {
    uint8_t hash[DIGEST_BYTES] = {1};
    struct entry_user_set user = {(char *)"alice", 1000, 1000, SCOPE_SUBMIT, false, S_ABSENT};
    struct entry_user_set external = {(char *)"bob", 1001, 1001, SCOPE_SUBMIT, false, 1};
    struct entry_token_create token = {
        {hash, sizeof hash},
        (char *)"alice", SCOPE_SUBMIT, S_ABSENT, (char *)"storm"
    };
    struct entry_token_revoke revoke = {1};

    append(s, "admin:root", ENTRY_USER_SET, &user);
    append(s, "admin:root", ENTRY_USER_SET, &external);
    append(s, "admin:root", ENTRY_TOKEN_CREATE, &token);
    hash[0] = 2;
    append(s, "admin:root", ENTRY_TOKEN_CREATE, &token);
    append(s, "submit:alice", ENTRY_TOKEN_REVOKE, &revoke);
}

static void prepare(struct storm *s, uint64_t seed) {
    struct world_cluster cluster = {.fence = true};

    s->rng.state = seed;
    cluster.n_zones = 1 + (int)rng_below(&s->rng, 3);
    cluster.leaves_per_zone = 1 + (int)rng_below(&s->rng, 2);
    cluster.nodes_per_leaf = 1 + (int)rng_below(&s->rng, 4);
    cluster.spares = chance(s, 3);
    cluster.gpus = 4;
    cluster.cpus = 8;
    cluster.nvlink = chance(s, 2) ? 2 : 0;
    cluster.lone = chance(s, 4);
    cluster.min_run_us = chance(s, 2) ? (1 + rng_below(&s->rng, 20)) * SECOND : 0;
    cluster.fair_share_us = chance(s, 2) ? (16 + rng_below(&s->rng, 300)) * SECOND : 0;
    cluster.aging_us = chance(s, 2) ? (16 + rng_below(&s->rng, 60)) * SECOND : 0;
    cluster.backfill = chance(s, 4) ? 0 : 1 + rng_below(&s->rng, 6);
    s->silence_us = (2 + rng_below(&s->rng, 9)) * SECOND;
    world_init(&s->world);
    s->world.now_us += LEDGER_DAY_US - s->world.now_us % LEDGER_DAY_US -
                       (int64_t)(seed % 300) * SECOND; // a day ends while it storms
    s->world.naive = naive_new(1);
    world_cluster(&s->world, &cluster);
    agents_init(&s->agents, &s->world, &s->rng);
    clients_init(&s->clients, &s->world, &s->rng);
    add_accounts(s);
    size_t n = (size_t)s->agents.n_nodes;
    s->seen_us = hai_new_array(int64_t, n);
    s->granted_us = hai_new_array(int64_t, n);
    s->polled_us = hai_new_array(int64_t, n);
    for (size_t i = 0; i < n; i++) {
        s->seen_us[i] = s->world.now_us;
        s->granted_us[i] = S_ABSENT;
    }
}

int storm_run(uint64_t seed, int n_steps, struct storm_result *ret, struct buf *ret_log,
              struct hai_err *err) {
    return storm_run_as(seed, n_steps, &(struct storm_options){0}, ret, ret_log, err);
}

int storm_run_as(uint64_t seed, int n_steps, const struct storm_options *options,
                 struct storm_result *ret, struct buf *ret_log, struct hai_err *err) {
    struct storm s = {.err = err, .seed = seed, .options = options};

    prepare(&s, seed);
    s.begun_us = s.world.now_us;
    for (int i = 0; i < n_steps && s.r == 0; i++)
        step(&s);
    if (s.r == 0)
        calm_down(&s, 20 * n_steps + 2000);
    if (s.r == 0)
        s.r = invariants_replay(&s.world, err);
    if (s.r == 0)
        s.r = audit_log(s.world.log, s.world.n_log, NULL, err);
    if (s.r == 0)
        s.r = clients_check(&s.clients, err);
    s.result.n_met = s.n_met;
    s.result.retries = s.clients.n_retries;
    s.result.entries = (int64_t)s.world.n_log;
    for (size_t i = 0; i < s.world.n_log; i++)
        s.result.rooms += s.world.log[i].kind == ENTRY_MAKE_ROOM;
    s.result.digest = digest(s.world.state);
    *ret = s.result;
    if (ret_log)
        world_save(&s.world, ret_log);
    if (s.r < 0)
        hai_err_prefix(err, "seed %llu, entry %zu: ", (unsigned long long)seed, s.world.n_log);
    free(s.seen_us);
    free(s.granted_us);
    free(s.polled_us);
    quota_rules_forget(&s.quotas);
    clients_free(&s.clients);
    agents_free(&s.agents);
    world_free(&s.world);
    return s.r;
}
