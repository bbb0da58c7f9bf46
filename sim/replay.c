#include "sim/replay.h"
#include "scheduler/core/ledger.h"
#include "sim/eventheap.h"
#include "sim/rng.h"
#include "sim/world.h"

#include <stdio.h>

/* With nothing running and all submitted, failures could go on for ever beside a job that waits
 * for more nodes than are ever in service. */
#define IDLE_MAX_US (INT64_C(366) * 24 * 3600 * 1000000)
#define SPARE_US INT64_C(1000000)
#define DAY_US (INT64_C(24) * 3600 * 1000000)
/* The account of demand from outside. */
#define EXTERNAL "external"
#define EXTERNAL_PRINCIPAL "submit:" EXTERNAL

enum { PROGRESS_JOBS = 4096 };

enum stage {
    STAGE_NONE, // not submitted
    STAGE_WAITING,
    STAGE_STARTING, // placed
    STAGE_RUNNING,
    STAGE_BROKEN, // a node of it is silent: no work is done
    STAGE_STOPPING,
    STAGE_ENDED,
};

/* A job of the trace as it is simulated. */
struct run {
    int64_t left_us;   // run time still to come, costs of interruptions included
    int64_t placed_us; // newest attempt
    int64_t since_us;  // its ranks run since
    int64_t worked_us; // and ran for so long
    int64_t epoch;     // of the newest attempt seen
    int64_t id;        // in the core
    uint8_t stage;
};

struct sim_node {
    char *principal; // of its reports
    int64_t back_us; // silent: in service again at, INT64_MAX: never
    int64_t boot;
    bool silent;
};

struct replay {
    const struct simconf *conf;
    const struct trace *trace;
    struct tally *tally;
    replay_progress *progress;
    void *userdata;
    struct world world;
    struct eventheap heap;
    struct rng rng;
    int64_t base_us; // the world's clock at the trace's start
    int64_t now_us;  // of the trace
    int64_t busy_us; // last time at which a job had nodes
    size_t n_submitted, n_ended, n_holding;
    struct run *runs;       // by job of the trace
    uint32_t *job_of_id;    // job of the trace by id - 1
    char **principals;      // of users
    struct sim_node *nodes; // by number in the core
    int *on;                // scratch: nodes of a job
    int *leaf_seen;         // scratch: job that a leaf was last counted for
    int leaf_stamp;
    struct eta *eta;
    fixed_wide ledger[LEDGER_COUNT + 1]; // the core's, of days that are over, and the capacity
    bool leapt;                          // over more days than the core's ledger closes at once
    struct hai_err *err;
};

/* ---- entries ---- */

static void must(int r) {
    /* The simulated nodes report what the core ordered; a refusal is a fault of one of them. */
    assert(r == 0);
}

static void report_started(struct replay *r, int64_t id, int64_t epoch, int node) {
    struct entry_ranks_started in = {id, epoch, r->world.state->nodes[node]->r.name};

    must(world_append(&r->world, r->nodes[node].principal, ENTRY_RANKS_STARTED, &in));
}

static void report_exited(struct replay *r, int64_t id, int64_t epoch, size_t rank, int node,
                          enum exit_cause cause) {
    struct entry_rank_exited in = {
        .job = id, .epoch = epoch, .rank = (int64_t)rank, .cause = cause};

    must(world_append(&r->world, r->nodes[node].principal, ENTRY_RANK_EXITED, &in));
}

/* Nodes that the live attempt has, -1 where it is gone or the node cannot report; reports change
 * the lists of the job. */
static size_t reporting(struct replay *r, const struct job *job) {
    for (size_t i = 0; i < job->r.allocs.n; i++) {
        const struct state_alloc *held = &job->r.allocs.items[i];
        r->on[i] = held->gone || r->nodes[held->node].silent ? -1 : (int)held->node;
    }
    return job->r.allocs.n;
}

/* ---- jobs ---- */

static bool holds_nodes(const struct run *run) {
    return run->stage >= STAGE_STARTING && run->stage <= STAGE_STOPPING;
}

static int submit(struct replay *r, uint32_t i) {
    const struct trace_job *job = &r->trace->jobs[i];
    int64_t per_node = r->conf->r.cluster.gpus;
    struct entry_job_submit in;

    schema_init(entry_job_submit_schema(), &in);
    in.job.uid = in.job.gid = 1000;
    in.job.user = r->trace->users[job->user];
    in.job.name = (char *)"job";
    in.job.group = (char *)"default";
    in.job.priority = job->level ? job->level - 1 : r->conf->priorities[job->priority];
    const char *principal = r->principals[job->user];
    if (job->external) {
        principal = EXTERNAL_PRINCIPAL;
        in.job.user = (char *)EXTERNAL;
        in.job.auto_priority = 1;
    }
    in.job.nodes = (job->gpus + per_node - 1) / per_node;
    in.job.gpus_per_node = MIN((int64_t)job->gpus, per_node);
    in.job.cross_zones = r->conf->r.jobs.cross_zones;
    in.job.restart_max = RESTARTS_MAX;
    if (r->conf->r.jobs.time_limit == SIMCONF_LIMIT_ESTIMATE && job->estimate_us)
        in.job.time_limit_us = job->estimate_us;
    if (r->conf->r.jobs.time_limit == SIMCONF_LIMIT_EXACT)
        in.job.time_limit_us = job->run_us + r->conf->r.agents.start_us + SPARE_US;
    int error = world_append(&r->world, principal, ENTRY_JOB_SUBMIT, &in);
    if (error == -E2BIG) {
        *r->err = r->world.reply.err;
        return error;
    }
    if (error < 0) {
        r->tally->jobs[i].outcome = OUTCOME_REFUSED;
        r->runs[i].stage = STAGE_ENDED;
        r->n_ended++;
        return 0;
    }
    r->runs[i] =
        (struct run){.left_us = job->run_us, .id = r->world.reply.id, .stage = STAGE_WAITING};
    r->job_of_id[r->world.reply.id - 1] = i;
    tally_wait(r->tally, job, 1);
    return 0;
}

/* No work is done from now on. */
static void halt(struct replay *r, uint32_t i, int64_t lost_us, int64_t cost_us) {
    struct run *run = &r->runs[i];
    struct tally_job *counted = &r->tally->jobs[i];
    int64_t worked_us = r->now_us - run->since_us;

    run->worked_us = worked_us;
    run->left_us += cost_us - (worked_us - lost_us);
    counted->kept_us += worked_us - lost_us;
    counted->lost_us += lost_us;
    counted->cost_us += cost_us;
}

static void count_gang(struct replay *r, const struct job *job) {
    int64_t nodes_in[ZONES_MAX] = {0};
    int64_t n_leaves = 0;
    const struct state *state = r->world.state;

    r->leaf_stamp++;
    for (size_t k = 0; k < job->r.allocs.n; k++) {
        const struct node *node = state->nodes[job->r.allocs.items[k].node];
        nodes_in[node->zone]++;
        n_leaves += r->leaf_seen[node->r.leaf] != r->leaf_stamp;
        r->leaf_seen[node->r.leaf] = r->leaf_stamp;
    }
    tally_gang(r->tally, (int64_t)job->r.allocs.n, n_leaves, nodes_in, (size_t)state->n_zones,
               state->n_cross_zone);
}

static void on_placed(struct replay *r, uint32_t i, const struct job *job) {
    struct run *run = &r->runs[i];

    tally_wait(r->tally, &r->trace->jobs[i], -1);
    r->n_holding++;
    run->stage = STAGE_STARTING;
    run->epoch = job->r.epoch;
    run->placed_us = r->now_us;
    run->worked_us = 0;
    if (job->r.allocs.n > 1)
        count_gang(r, job);
    eventheap_push(&r->heap, r->now_us + r->conf->r.agents.start_us, HAPPENS_START, i, run->epoch);
}

static void on_released(struct replay *r, uint32_t i) {
    struct run *run = &r->runs[i];

    r->tally->jobs[i].idle_us += r->now_us - run->placed_us - run->worked_us;
    run->stage = STAGE_WAITING;
    r->n_holding--;
    r->busy_us = r->now_us;
    tally_wait(r->tally, &r->trace->jobs[i], 1);
}

/* The core wants the ranks to go: after a fault, to suspend, at the time limit. */
static void on_ordered(struct replay *r, uint32_t i, const struct job *job) {
    struct run *run = &r->runs[i];
    bool suspends = job->r.state == JOB_STATE_SUSPENDING;

    if (run->stage == STAGE_RUNNING)
        halt(r, i, 0, suspends ? r->conf->r.costs.suspension_us : 0);
    r->tally->suspensions += suspends;
    run->stage = STAGE_STOPPING;
    eventheap_push(&r->heap, r->now_us + r->conf->r.agents.stop_us, HAPPENS_STOPPED, i, run->epoch);
}

static void on_ended(struct replay *r, uint32_t i, const struct job *job) {
    tally_wait(r->tally, &r->trace->jobs[i], -1);
    r->tally->jobs[i].end_us = r->now_us;
    r->tally->jobs[i].outcome =
        job->r.state == JOB_STATE_SUCCEEDED ? OUTCOME_COMPLETED : OUTCOME_STOPPED;
    r->runs[i].stage = STAGE_ENDED;
    if (++r->n_ended % PROGRESS_JOBS == 0 && r->progress)
        r->progress(r->userdata, r->n_ended);
}

static void follow_job(struct replay *r, int64_t id) {
    const struct job *job = effects_job(r->world.fx, r->world.state, id);
    uint32_t i = r->job_of_id[id - 1];
    struct run *run = &r->runs[i];
    bool live = state_job_live(job);

    if (holds_nodes(run) && (!live || job->r.epoch != run->epoch))
        on_released(r, i);
    if (live && job->r.epoch != run->epoch)
        on_placed(r, i, job);
    if (live && job->r.phase != DESIRED_PHASE_RUN && run->stage != STAGE_STOPPING)
        on_ordered(r, i, job);
    if (state_job_ended(job) && run->stage != STAGE_ENDED)
        on_ended(r, i, job);
}

static void add_day(void *data, const struct ledger_day *day) {
    struct replay *r = data;

    for (int k = 0; k < LEDGER_COUNT; k++)
        r->ledger[k] += day->gpu_us[k];
    r->ledger[LEDGER_COUNT] += day->capacity_us;
}

/* Take over what the last entries changed. */
static void follow(struct replay *r) {
    const struct effects *fx = r->world.fx;

    for (size_t k = 0; k < fx->n_days; k++)
        add_day(r, &fx->days[k]);

    for (size_t k = 0; k < fx->n_nodes; k++) {
        const struct node *node = r->world.state->nodes[fx->nodes[k]];
        tally_node(r->tally, fx->nodes[k], __builtin_popcount(node->gpus_held),
                   !state_node_usable(node));
    }
    for (size_t k = 0; k < fx->n_jobs; k++)
        follow_job(r, fx->jobs[k]);
    world_clear(&r->world);
}

/* The job of an event, NULL if the event is void. */
static const struct job *current(const struct replay *r, const struct eventheap_item *event) {
    const struct run *run = &r->runs[event->what];

    if (run->epoch != event->epoch || !holds_nodes(run))
        return NULL;
    return state_job_find(r->world.state, run->id);
}

static void on_start(struct replay *r, const struct eventheap_item *event) {
    struct run *run = &r->runs[event->what];
    struct tally_job *counted = &r->tally->jobs[event->what];
    const struct job *job = current(r, event);

    if (!job || run->stage == STAGE_STOPPING)
        return;
    size_t n = reporting(r, job);
    for (size_t k = 0; k < n; k++)
        if (r->on[k] >= 0)
            report_started(r, run->id, event->epoch, r->on[k]);
    if (job->r.state != JOB_STATE_RUNNING)
        return;
    run->stage = STAGE_RUNNING;
    run->since_us = r->now_us;
    if (counted->start_us < 0)
        counted->start_us = r->now_us;
    eventheap_push(&r->heap, r->now_us + run->left_us, HAPPENS_END, event->what, event->epoch);
}

static void report_all(struct replay *r, const struct job *job, const struct run *run,
                       enum exit_cause cause) {
    size_t n = reporting(r, job);

    for (size_t k = 0; k < n; k++)
        if (r->on[k] >= 0)
            report_exited(r, run->id, run->epoch, k, r->on[k], cause);
}

static void on_end(struct replay *r, const struct eventheap_item *event) {
    struct run *run = &r->runs[event->what];
    const struct job *job = current(r, event);

    if (!job || run->stage != STAGE_RUNNING)
        return;
    halt(r, event->what, 0, 0);
    report_all(r, job, run, EXIT_CAUSE_SELF);
}

static void on_stopped(struct replay *r, const struct eventheap_item *event) {
    const struct job *job = current(r, event);

    if (job)
        report_all(r, job, &r->runs[event->what], EXIT_CAUSE_ORDER);
}

/* ---- nodes ---- */

/* A node falls silent under a job. */
static void break_job(struct replay *r, int64_t id) {
    uint32_t i = r->job_of_id[id - 1];
    struct run *run = &r->runs[i];

    if (run->stage == STAGE_RUNNING)
        halt(r, i, (r->now_us - run->since_us) % r->conf->r.costs.checkpoint_us,
             r->conf->r.costs.restart_us);
    if (run->stage == STAGE_RUNNING || run->stage == STAGE_STARTING) {
        run->stage = STAGE_BROKEN;
        r->tally->kills++;
    }
}

static void fail_node(struct replay *r, int number, int64_t back_us) {
    struct sim_node *node = &r->nodes[number];
    const struct node *known = r->world.state->nodes[number];

    if (back_us != INT64_MAX)
        eventheap_push(&r->heap, back_us, HAPPENS_REPAIR, (uint32_t)number, 0);
    if (node->silent) {
        node->back_us = MAX(node->back_us, back_us);
        return;
    }
    node->silent = true;
    node->back_us = back_us;
    r->tally->failures++;
    for (size_t k = 0; k < known->n_jobs; k++)
        break_job(r, known->jobs[k]);
    eventheap_push(&r->heap, r->now_us + r->conf->r.failures.detect_us, HAPPENS_LOST,
                   (uint32_t)number, node->boot);
}

static void on_lost(struct replay *r, const struct eventheap_item *event) {
    char *name = r->world.state->nodes[event->what]->r.name;
    struct entry_node_lost lost = {name, S_ABSENT, NULL};
    struct entry_node_fenced fenced = {name, NULL, NULL};

    if (!r->nodes[event->what].silent || r->nodes[event->what].boot != event->epoch)
        return;
    must(world_append(&r->world, "system:hai", ENTRY_NODE_LOST, &lost));
    must(world_append(&r->world, "system:hai", ENTRY_NODE_FENCED, &fenced));
}

static void node_up(struct replay *r, int number) {
    char boot_id[BOOT_ID_MAX + 1];
    struct entry_node_up up = {.node = r->world.state->nodes[number]->r.name, .boot_id = boot_id};

    (void)snprintf(boot_id, sizeof boot_id, "boot-%d-%lld", number,
                   (long long)++r->nodes[number].boot);
    r->nodes[number].silent = false;
    must(world_append(&r->world, "system:hai", ENTRY_NODE_UP, &up));
}

static void on_repair(struct replay *r, const struct eventheap_item *event) {
    const struct sim_node *node = &r->nodes[event->what];

    if (node->silent && node->back_us == event->at_us)
        node_up(r, (int)event->what);
}

/* An exponentially distributed time: -ln(u) times the mean, u uniform in (0, 1]. */
static int64_t draw_interval(struct rng *rng, int64_t mean_us) {
    const uint64_t ln2 = UINT64_C(2977044472); // times 2^32
    uint64_t u = (rng_u64(rng) >> 1) + 1;
    uint64_t halvings = (UINT64_C(63) << FIXED_LOG2_BITS) - fixed_log2(u);

    return (int64_t)(((fixed_wide)mean_us * (int64_t)halvings >> FIXED_LOG2_BITS) * (int64_t)ln2 >>
                     FIXED_LOG2_BITS);
}

static void draw_failure(struct replay *r) {
    fixed_wide rate = (fixed_wide)r->conf->failure_rate * r->world.state->n_nodes;

    if (!rate)
        return;
    int64_t mean_us = (int64_t)(MAX((fixed_wide)1000 * DAY_US * FIXED_ONE / rate, 1));
    int64_t at_us = r->now_us + 1 + draw_interval(&r->rng, mean_us);
    eventheap_push(&r->heap, at_us, HAPPENS_FAILURE, 0, 0);
}

static void on_failure(struct replay *r) {
    int number = (int)rng_below(&r->rng, r->world.state->n_nodes);

    if (!r->nodes[number].silent)
        fail_node(r, number, r->now_us + r->conf->r.failures.repair_us);
    draw_failure(r);
}

static bool is_part(const struct state *state, const char *what, int number) {
    const struct node *node = state->nodes[number];

    return !strcmp(what, node->r.name) || !strcmp(what, state->leaves[node->r.leaf].name) ||
           !strcmp(what, state->zones[node->zone].name);
}

static void on_loss(struct replay *r, const struct eventheap_item *event) {
    const struct simconf_loss *loss = &r->conf->r.lose.items[event->what];
    int64_t back_us = loss->for_us == S_ABSENT ? INT64_MAX : r->now_us + loss->for_us;

    for (int n = 0; n < r->world.state->n_nodes; n++)
        if (is_part(r->world.state, loss->what, n))
            fail_node(r, n, back_us);
}

static int plan_losses(struct replay *r) {
    for (size_t i = 0; i < r->conf->r.lose.n; i++) {
        const struct simconf_loss *loss = &r->conf->r.lose.items[i];
        bool found = false;
        for (int n = 0; n < r->world.state->n_nodes && !found; n++)
            found = is_part(r->world.state, loss->what, n);
        if (!found)
            return hai_fail(r->err, -EINVAL, "there is no node, leaf or zone %s to lose",
                            loss->what);
        eventheap_push(&r->heap, loss->at_us, HAPPENS_LOSS, (uint32_t)i, 0);
    }
    return 0;
}

/* Windows in which nobody may use a part of the cluster. */
static int plan_reserves(struct replay *r) {
    const struct state *state = r->world.state;

    for (size_t i = 0; i < r->conf->r.reserve.n; i++) {
        const struct simconf_loss *out = &r->conf->r.reserve.items[i];
        _cleanup_free_ char *name = hai_asprintf("maintenance-%zu", i + 1);
        struct entry_reserve_set set;
        schema_init(entry_reserve_set_schema(), &set);
        set.name = name;
        set.from_us = r->base_us + out->at_us;
        if (out->for_us != S_ABSENT)
            set.until_us = set.from_us + out->for_us;
        for (int n = 0; n < state->n_nodes; n++)
            if (is_part(state, out->what, n))
                *LIST_ADD(&set.nodes) = state->nodes[n]->r.name;
        if (!set.nodes.n)
            return hai_fail(r->err, -EINVAL, "there is no node, leaf or zone %s to reserve",
                            out->what);
        int error = world_append(&r->world, "system:hai", ENTRY_RESERVE_SET, &set);
        free(set.nodes.items);
        if (error < 0)
            return hai_fail(r->err, error, "reserve: %s", r->world.reply.err.text);
    }
    return 0;
}

/* ---- the run ---- */

static void happen(struct replay *r, const struct eventheap_item *event) {
    switch ((enum happens)event->kind) {
    case HAPPENS_START:
        on_start(r, event);
        break;
    case HAPPENS_END:
        on_end(r, event);
        break;
    case HAPPENS_STOPPED:
        on_stopped(r, event);
        break;
    case HAPPENS_FAILURE:
        on_failure(r);
        break;
    case HAPPENS_LOSS:
        on_loss(r, event);
        break;
    case HAPPENS_LOST:
        on_lost(r, event);
        break;
    case HAPPENS_REPAIR:
        on_repair(r, event);
        break;
    }
}

static bool event_is_due(const struct replay *r) {
    const struct eventheap_item *first = eventheap_first(&r->heap);

    return first && first->at_us <= r->now_us;
}

/* All that belongs to one instant: ends and failures, then submissions, then one decision; and
 * again, for what follows at once. */
static int instant(struct replay *r) {
    const struct trace *trace = r->trace;
    int64_t due_us = state_next_wakeup(r->world.state);
    size_t n_asked = r->n_submitted;
    int error = 0;

    r->world.now_us = r->base_us + r->now_us;
    if (due_us <= r->world.now_us) {
        struct entry_tick tick = {due_us};
        must(world_append(&r->world, "system:hai", ENTRY_TICK, &tick));
    }
    do {
        while (event_is_due(r)) {
            struct eventheap_item event = eventheap_pop(&r->heap);
            happen(r, &event);
        }
        while (error == 0 && r->n_submitted < trace->n &&
               trace->jobs[r->n_submitted].submit_us <= r->now_us)
            error = submit(r, (uint32_t)r->n_submitted++);
        follow(r);
        r->tally->decisions += (int64_t)world_decide(&r->world);
        follow(r);
        for (; n_asked < r->n_submitted; n_asked++)
            if (r->runs[n_asked].stage == STAGE_WAITING)
                eta_ask(r->eta, r->world.state, (uint32_t)n_asked, r->runs[n_asked].id, r->base_us);
    } while (error == 0 && event_is_due(r));
    return error;
}

/* When something happens next; INT64_MAX: never. */
static int64_t next_us(const struct replay *r) {
    const struct eventheap_item *first = eventheap_first(&r->heap);
    int64_t wakeup_us = state_next_wakeup(r->world.state);
    int64_t next = first ? first->at_us : INT64_MAX;

    if (r->n_submitted < r->trace->n)
        next = MIN(next, r->trace->jobs[r->n_submitted].submit_us);
    if (wakeup_us != INT64_MAX)
        next = MIN(next, MAX(wakeup_us - r->base_us, r->now_us));
    return next;
}

static bool given_up(const struct replay *r, int64_t next) {
    return r->n_submitted == r->trace->n && !r->n_holding && next - r->busy_us > IDLE_MAX_US;
}

static int run(struct replay *r) {
    int error = 0;

    while (error == 0 && r->n_ended < r->trace->n) {
        int64_t next = next_us(r);
        if (next == INT64_MAX || given_up(r, next))
            break;
        if (r->n_submitted < r->trace->n || r->n_holding)
            r->busy_us = next;
        r->leapt = r->leapt || next - r->now_us >= LEDGER_GAP_DAYS_MAX * DAY_US;
        tally_to(r->tally, next);
        r->now_us = next;
        error = instant(r);
    }
    r->tally->entries = r->world.state->r.index;
    return error;
}

static bool is_near(fixed_wide a, fixed_wide b, fixed_wide off_max) {
    return a - b <= off_max && b - a <= off_max;
}

/* The core's own ledger: its classes are the capacity exactly, and it says of jobs, free and lost
 * GPUs what was counted here, but for the microseconds by which entries of one instant differ. */
static int check_ledger(struct replay *r) {
    const struct tally_span *span = &r->tally->whole;
    fixed_wide off_max = (fixed_wide)r->tally->entries * r->tally->n_gpus;
    fixed_wide of_jobs = 0, sum = 0;

    ledger_peek(r->world.state, r->base_us + r->now_us, &(struct ledger_peek){NULL, add_day, r});
    for (int k = 0; k < LEDGER_COUNT; k++) {
        sum += r->ledger[k];
        of_jobs += k < LEDGER_JOB_CLASSES ? r->ledger[k] : 0;
    }
    if (sum != r->ledger[LEDGER_COUNT])
        return hai_fail(r->err, -EINVAL, "the classes of the ledger are not the capacity");
    if (r->leapt)
        return 0;
    if (!is_near(of_jobs, span->busy, off_max) ||
        !is_near(r->ledger[LEDGER_UNHEALTHY], span->down, off_max) ||
        !is_near(r->ledger[LEDGER_IDLE] + r->ledger[LEDGER_IDLE_DEMAND] +
                     r->ledger[LEDGER_RESERVED],
                 span->idle, off_max))
        return hai_fail(r->err, -EINVAL, "the ledger says otherwise than the tally");
    return 0;
}

/* Whose jobs external demand is; the trace's own users need no account. */
static void add_external(struct replay *r) {
    struct entry_user_set user = {(char *)EXTERNAL, 1000, 1000, SCOPE_SUBMIT, false, 1};

    if (r->conf->r.jobs.external_percent)
        must(world_append(&r->world, "admin:root", ENTRY_USER_SET, &user));
}

static void prepare(struct replay *r) {
    const struct trace *trace = r->trace;
    struct entry_cluster_set set;

    world_init(&r->world);
    r->world.forget = true;
    r->world.fx->quiet = true;
    r->rng.state = (uint64_t)r->conf->r.failures.seed;
    simconf_entry(r->conf, &set);
    must(world_append(&r->world, "system:hai", ENTRY_CLUSTER_SET, &set));
    schema_free(entry_cluster_set_schema(), &set);
    for (size_t i = 0; i < r->conf->r.quotas.n; i++) {
        struct entry_quota_set quota;
        simconf_quota_entry(&r->conf->r.quotas.items[i], &quota);
        must(world_append(&r->world, "system:hai", ENTRY_QUOTA_SET, &quota));
    }
    add_external(r);
    /* From here on run times are remembered: only forecasts and plans read them. */
    struct entry_sched_start start = {NULL};
    if (r->eta->every || r->world.state->r.backfill != S_ABSENT)
        must(world_append(&r->world, "system:hai", ENTRY_SCHED_START, &start));
    const struct state *state = r->world.state;
    r->runs = hai_new_array(struct run, trace->n);
    r->job_of_id = hai_new_array(uint32_t, trace->n);
    r->principals = hai_new_array(char *, trace->n_users);
    for (size_t i = 0; i < trace->n_users; i++)
        r->principals[i] = hai_asprintf("submit:%s", trace->users[i]);
    r->nodes = hai_new_array(struct sim_node, (size_t)state->n_nodes);
    r->on = hai_new_array(int, (size_t)state->n_nodes);
    r->leaf_seen = hai_new_array(int, (size_t)state->n_leaves);
    _cleanup_free_ int64_t *in_leaf = hai_new_array(int64_t, (size_t)state->n_leaves);
    for (int i = 0; i < state->n_nodes; i++) {
        r->nodes[i].principal = hai_asprintf("node:%s", state->nodes[i]->r.name);
        in_leaf[state->nodes[i]->r.leaf]++;
        node_up(r, i);
    }
    must(world_append(&r->world, "system:hai", ENTRY_SCHED_START,
                      &(struct entry_sched_start){(char *)HAI_VERSION}));
    world_clear(&r->world);
    tally_init(r->tally, trace, r->conf->r.cluster.gpus, state->n_nodes, in_leaf,
               (size_t)state->n_leaves);
    /* Entries that plan_reserves appends come before it. */
    r->base_us = state->r.time_us + 1 + (int64_t)r->conf->r.reserve.n;
}

static void clean_up(struct replay *r) {
    for (size_t i = 0; i < r->trace->n_users; i++)
        free(r->principals[i]);
    for (int i = 0; i < r->world.state->n_nodes; i++)
        free(r->nodes[i].principal);
    free(r->principals);
    free(r->nodes);
    free(r->runs);
    free(r->job_of_id);
    free(r->on);
    free(r->leaf_seen);
    eventheap_free(&r->heap);
    world_free(&r->world);
}

int replay_run(const struct simconf *conf, const struct trace *trace, replay_progress *progress,
               void *userdata, struct eta *eta, struct tally *ret, struct hai_err *err) {
    struct eta none = {0};
    struct hai_err own = {0};
    struct replay r = {
        .conf = conf,
        .trace = trace,
        .tally = ret,
        .progress = progress,
        .userdata = userdata,
        .eta = eta ? eta : &none,
        .err = &own,
    };

    *ret = (struct tally){0};
    prepare(&r);
    draw_failure(&r);
    int error = plan_losses(&r);
    if (error == 0)
        error = plan_reserves(&r);
    if (error == 0)
        error = run(&r);
    if (error == 0)
        error = check_ledger(&r);
    clean_up(&r);
    if (error < 0 && err)
        *err = own;
    return error;
}
