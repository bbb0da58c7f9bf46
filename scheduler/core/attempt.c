#include "scheduler/core/attempt.h"
#include "lib/pure/plant.h"
#include "scheduler/core/array.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/order.h"
#include "scheduler/core/restart.h"
#include "scheduler/core/spare.h"

#include <stdio.h>

static int64_t per_node(const struct job *job) {
    return job->r.spec.ranks_per_node;
}

static struct node *node_of(const struct state *state, const struct job *job, size_t alloc) {
    return state->nodes[job->r.allocs.items[alloc].node];
}

int attempt_alloc_on(const struct job *job, int node) {
    for (size_t i = 0; i < job->r.allocs.n; i++)
        if (job->r.allocs.items[i].node == node)
            return job->r.allocs.items[i].gone ? -ENOENT : (int)i;
    return -ENOENT;
}

bool attempt_spans(const struct state *state, const struct job *job) {
    for (size_t i = 1; i < job->r.allocs.n; i++)
        if (node_of(state, job, i)->zone != node_of(state, job, 0)->zone)
            return true;
    return false;
}

void attempt_hold(struct state *state, const struct job *job, size_t alloc) {
    struct node *node = node_of(state, job, alloc);
    uint32_t gpus = (uint32_t)job->r.allocs.items[alloc].gpus;

    assert(!(node->gpus_held & gpus));
    node->gpus_held |= gpus;
    node->cpus_free -= job->cpus_per_node;
    node->memory_free -= job->r.spec.memory_per_node_bytes;
}

static void release(struct mutate *c, struct job *job, size_t alloc) {
    struct state_alloc *held = &job->r.allocs.items[alloc];
    struct node *node = node_of(c->state, job, alloc);

    if (held->released)
        return;
    held->released = true;
    assert((node->gpus_held & held->gpus) == held->gpus);
    node->gpus_held &= ~(uint32_t)held->gpus;
    node->cpus_free += job->cpus_per_node;
    node->memory_free += job->r.spec.memory_per_node_bytes;
    ledger_release(c->state, job, alloc);
    if (!HAI_PLANT(PLANT_WAKE_UP_LOST))
        mutate_freed(c->state, node->groups);
    mutate_node(c, (int)held->node, false);
}

/* Ports go around by job and attempt, so that one is not used again soon. Where all are taken two
 * gangs share one: they are unlikely to have their rank 0 on the same node. */
static int64_t choose_port(const struct state *state, const struct job *job) {
    size_t n = ARRAY_SIZE(state->ports_used);
    size_t start = (size_t)(job->r.id * 7 + job->r.epoch) % n;

    for (size_t i = 0; i < n; i++)
        if (!state->ports_used[(start + i) % n])
            return MASTER_PORT_FIRST + (int64_t)((start + i) % n);
    return MASTER_PORT_FIRST + (int64_t)start;
}

static void set_ranks(struct job *job) {
    size_t n = job->r.allocs.n * (size_t)per_node(job);

    free(job->r.ranks.items);
    job->r.ranks.items = hai_new_array(struct state_rank, n);
    job->r.ranks.n = n;
    for (size_t i = 0; i < n; i++)
        schema_init(state_rank_schema(), &job->r.ranks.items[i]);
}

void attempt_live(struct state *state, struct job *job, bool live) {
    if (live) {
        job->live_next = state->live_first;
        if (job->live_next)
            job->live_next->live_prev = job;
        state->live_first = job;
        return;
    }
    if (job->live_prev)
        job->live_prev->live_next = job->live_next;
    else
        state->live_first = job->live_next;
    if (job->live_next)
        job->live_next->live_prev = job->live_prev;
    job->live_next = job->live_prev = NULL;
}

void attempt_until(struct mutate *c, struct job *job, bool longer) {
    int64_t placed_us = job->r.placed_us;

    job->r.until_us = S_ABSENT;
    if (!order_backfills(c->state))
        return;
    int64_t until_s = longer ? hold_longer_s(c->state, job, c->entry->time_us)
                             : hold_until_s(c->state, job, placed_us);
    job->r.until_us = until_s * HOLD_SECOND_US;
    for (size_t i = 0; i < job->r.allocs.n; i++)
        mutate_node(c, (int)job->r.allocs.items[i].node, false);
}

void attempt_begin(struct mutate *c, struct job *job, const struct entry_place *place) {
    bool again = job->r.state == JOB_STATE_RECOVERING;

    free(job->r.allocs.items);
    job->r.allocs.items = hai_new_array(struct state_alloc, place->nodes.n);
    job->r.allocs.n = place->nodes.n;
    set_ranks(job);
    job->n_left = place->nodes.n;
    attempt_live(c->state, job, true);
    job->n_assigned = job->r.ranks.n;
    job->r.attempt++;
    job->r.epoch++;
    job->r.phase = DESIRED_PHASE_RUN;
    job->r.placed_us = c->entry->time_us;
    job->r.running_us = S_ABSENT;
    job->r.kill_at_us = S_ABSENT;
    job->r.fault = FAULT_NONE;
    job->r.fault_rank = job->r.fault_node = S_ABSENT;
    job->r.exit_code = job->r.exit_signal = S_ABSENT;
    job->r.not_before_us = S_ABSENT;
    job->r.master_port = choose_port(c->state, job);
    c->state->ports_used[job->r.master_port - MASTER_PORT_FIRST]++;
    ledger_open(c->state, job);
    for (size_t i = 0; i < place->nodes.n; i++) {
        int node = state_node_find(c->state, place->nodes.items[i].node);
        job->r.allocs.items[i] =
            (struct state_alloc){.node = node, .gpus = place->nodes.items[i].gpus};
        attempt_hold(c->state, job, i);
        ledger_hold(c->state, job, i);
        mutate_node_jobs(c->state->nodes[node], job->r.id, true);
        mutate_node(c, node, true);
    }
    attempt_until(c, job, false);
    job->spans = attempt_spans(c->state, job);
    c->state->n_cross_zone += job->spans;
    if (again && spare_any(c->state)) // a spare of which a part is taken is none any more
        mutate_freed(c->state, UINT64_MAX);
    if (again)
        mutate_follow(c, job);
    else
        mutate_state(c, job, JOB_STATE_STARTING, REASON_NONE, NULL);
    effects_event(c->fx, c->entry, EVENT_PLACED, job, -1, (int)job->r.allocs.items[0].node,
                  "attempt %lld: %zu rank%s on %zu node%s from %s", (long long)job->r.attempt,
                  job->r.ranks.n, job->r.ranks.n == 1 ? "" : "s", place->nodes.n,
                  place->nodes.n == 1 ? "" : "s", place->nodes.items[0].node);
}

void attempt_end(struct mutate *c, struct job *job, enum desired_phase phase, int64_t kill_at_us) {
    if (phase < job->r.phase || job->r.phase == DESIRED_PHASE_KILL)
        return;
    if (phase == DESIRED_PHASE_TERM && job->r.phase == DESIRED_PHASE_TERM)
        kill_at_us = MIN(kill_at_us, job->r.kill_at_us);
    job->r.phase = phase;
    job->r.kill_at_us = phase == DESIRED_PHASE_TERM ? kill_at_us : S_ABSENT;
    for (size_t i = 0; i < job->r.allocs.n; i++)
        if (!job->r.allocs.items[i].gone)
            mutate_node(c, (int)job->r.allocs.items[i].node, true);
    mutate_follow(c, job);
}

/* Time to save: at least what the last time took, twice over. */
static int64_t grace_us(const struct job *job) {
    int64_t measured_us = job->r.save_us == S_ABSENT ? 0 : 2 * job->r.save_us;

    return MAX(job->r.spec.grace_us, MIN(measured_us, SAVE_GRACE_MAX_US));
}

void attempt_clear_out(struct mutate *c, struct job *job, enum reason reason, const char *text) {
    job->r.ending_us = c->entry->time_us;
    effects_event(c->fx, c->entry, EVENT_SUSPEND, job, -1, -1, "%s", text);
    attempt_end(c, job, DESIRED_PHASE_TERM,
                c->entry->time_us + grace_us(job) +
                    HAI_PLANT(PLANT_GRACE_LONG) * SAVE_GRACE_MAX_US);
    mutate_state(c, job, JOB_STATE_SUSPENDING, reason, "%s", text);
}

void attempt_give_way(struct mutate *c, struct job *job, const struct job *to) {
    _cleanup_free_ char *text =
        hai_asprintf("gives way to job %s (%s, priority %lld)", array_label(&to->r).text,
                     to->r.spec.user, (long long)to->r.priority);

    job->r.gave_way = MAX(job->r.gave_way, 0) + 1;
    attempt_clear_out(c, job, REASON_GAVE_WAY, text);
}

/* Everything is gone: the GPUs are free, and the job goes where its record says. */
static void settle(struct mutate *c, struct job *job) {
    if (job->r.state == JOB_STATE_SUSPENDING && job->r.ending_us != S_ABSENT)
        job->r.save_us = c->entry->time_us - job->r.ending_us;
    job->r.ending_us = S_ABSENT;
    for (size_t i = 0; i < job->r.allocs.n - HAI_PLANT(PLANT_GANG_PARTLY_RELEASED); i++)
        release(c, job, i);
    fair_left(c->state, job);
    job->r.ran_us += c->entry->time_us - job->r.placed_us;
    c->state->ports_used[job->r.master_port - MASTER_PORT_FIRST]--;
    if (job->spans) {
        c->state->n_cross_zone--;
        mutate_freed(c->state, UINT64_MAX);
    }
    job->spans = false;
    attempt_live(c->state, job, false);
    ledger_close(c->state, job, restart_follows(job, c->entry->time_us), c->fx);
    restart_settle(c, job);
}

/* The ranks that an attempt leaves on a node are gone. A recovering job keeps its healthy nodes
 * until the last old rank is gone: others would take them only to make it wait longer. */
static void leave_node(struct mutate *c, struct job *job, size_t alloc) {
    struct state_alloc *held = &job->r.allocs.items[alloc];

    held->gone = true;
    job->n_left--;
    mutate_node_jobs(node_of(c->state, job, alloc), job->r.id, false);
    mutate_node(c, (int)held->node, true);
    if (job->r.state != JOB_STATE_RECOVERING)
        release(c, job, alloc);
}

static void mark_started(struct mutate *c, struct job *job, int64_t rank) {
    struct state_rank *r = &job->r.ranks.items[rank];

    if (r->state != RANK_STATE_ASSIGNED)
        return;
    r->state = RANK_STATE_STARTED;
    r->started_us = c->entry->time_us;
    job->n_assigned--;
}

static void mark_ended(struct mutate *c, struct job *job, int64_t rank, enum exit_cause cause) {
    struct state_rank *r = &job->r.ranks.items[rank];

    if (r->state == RANK_STATE_ASSIGNED)
        job->n_assigned--;
    r->state = RANK_STATE_EXITED;
    r->ended_us = c->entry->time_us;
    r->cause = cause;
}

/* Once all ranks run the job does; not while it is being taken down. */
static void reach_running(struct mutate *c, struct job *job) {
    if (job->n_assigned || job->r.phase != DESIRED_PHASE_RUN || job->r.fault != FAULT_NONE ||
        job->r.state == JOB_STATE_RUNNING)
        return;
    job->r.running_us = c->entry->time_us;
    job->r.reloads = S_ABSENT;
    if (job->r.started_us == S_ABSENT)
        job->r.started_us = c->entry->time_us;
    mutate_state(c, job, JOB_STATE_RUNNING, REASON_NONE, NULL);
    if (job->r.ranks.n == 1)
        effects_event(c->fx, c->entry, EVENT_RUNNING, job, -1, -1, "its rank runs");
    else
        effects_event(c->fx, c->entry, EVENT_RUNNING, job, -1, -1, "all %zu ranks run",
                      job->r.ranks.n);
}

void attempt_started(struct mutate *c, struct job *job, size_t alloc) {
    int64_t first = (int64_t)alloc * per_node(job);

    for (int64_t rank = first; rank < first + per_node(job); rank++)
        mark_started(c, job, rank);
    effects_touch_job(c->fx, job);
    reach_running(c, job);
}

/* Remember what went wrong, unless somebody decided before how the attempt ends, or something
 * worse is known already. Returns whether it is news. */
static bool note_fault(struct mutate *c, struct job *job, enum fault fault, int64_t rank,
                       const char *what) {
    int node = (int)job->r.allocs.items[rank / per_node(job)].node;

    if ((int)job->r.outcome >= 0 || job->r.state == JOB_STATE_SUSPENDING || fault <= job->r.fault)
        return false;
    job->r.fault = fault;
    job->r.fault_rank = rank;
    job->r.fault_node = node;
    job->r.exit_code = S_ABSENT;
    job->r.exit_signal = S_ABSENT;
    _cleanup_free_ char *text =
        hai_asprintf("rank %lld on %s %s", (long long)rank, c->state->nodes[node]->r.name, what);
    if (strlen(text) > REASON_BYTES_MAX)
        text[REASON_BYTES_MAX] = 0;
    hai_strset(&job->r.last_fault, text);
    effects_event(c->fx, c->entry, EVENT_FAULT, job, rank, node, "%s", text);
    return true;
}

/* After a fault and with ranks left: SIGKILL them. The state says what is expected to follow; it is
 * decided when they are gone, because a worse cause may still be reported. */
static void take_down(struct mutate *c, struct job *job) {
    bool recovers = job->r.wanted == WANTED_RUN && restart_allowed(job, c->entry->time_us);
    enum job_state to = recovers ? JOB_STATE_RECOVERING : JOB_STATE_STOPPING;

    attempt_end(c, job, DESIRED_PHASE_KILL, S_ABSENT);
    if (job->r.state != to)
        mutate_state(c, job, to, restart_reason(job), "%s", job->r.last_fault);
}

/* What a rank's end means for the gang. Unknown ends and orders that nobody gave count as the
 * node's fault: the work is not done, and it was not the job's doing. */
static enum fault fault_of(const struct job *job, const struct entry_rank_exited *exit) {
    switch (exit->cause) {
    case EXIT_CAUSE_SELF:
        if (exit->signal)
            return FAULT_SIGNAL;
        return exit->code ? FAULT_EXIT : FAULT_NONE;
    case EXIT_CAUSE_MEMORY:
        return FAULT_MEMORY;
    case EXIT_CAUSE_START:
        return FAULT_START;
    case EXIT_CAUSE_ORDER:
        return job->r.phase == DESIRED_PHASE_RUN ? FAULT_NODE : FAULT_NONE;
    default:
        return FAULT_NODE;
    }
}

static void describe_exit(const struct entry_rank_exited *exit, char *ret, size_t size) {
    const char *evidence = exit->evidence ? exit->evidence : "";
    const char *sep = exit->evidence ? ": " : "";

    switch (exit->cause) {
    case EXIT_CAUSE_MEMORY:
        (void)snprintf(ret, size, "was killed for memory%s%s", sep, evidence);
        break;
    case EXIT_CAUSE_START:
        (void)snprintf(ret, size, "could not be started%s%s", sep, evidence);
        break;
    case EXIT_CAUSE_LEASE:
        (void)snprintf(ret, size, "ended with its node's lease%s%s", sep, evidence);
        break;
    default:
        if (exit->signal)
            (void)snprintf(ret, size, "was killed (signal %lld)%s%s", (long long)exit->signal, sep,
                           evidence);
        else
            (void)snprintf(ret, size, "ended with exit status %lld%s%s", (long long)exit->code, sep,
                           evidence);
    }
}

static bool all_exited(const struct job *job, size_t alloc) {
    int64_t first = (int64_t)alloc * per_node(job);

    for (int64_t rank = first; rank < first + per_node(job); rank++)
        if (job->r.ranks.items[rank].state != RANK_STATE_EXITED)
            return false;
    return true;
}

void attempt_rank_exited(struct mutate *c, struct job *job, int64_t rank,
                         const struct entry_rank_exited *exit) {
    size_t alloc = (size_t)(rank / per_node(job));
    struct state_rank *r = &job->r.ranks.items[rank];
    char what[REASON_BYTES_MAX + 64];
    bool news = false;

    mark_started(c, job, rank);
    mark_ended(c, job, rank, exit->cause);
    r->code = exit->code;
    r->signal = exit->signal;
    enum fault fault = fault_of(job, exit);
    if (fault != FAULT_NONE) {
        describe_exit(exit, what, sizeof what);
        news = note_fault(c, job, fault, rank, what);
    }
    if (news) {
        job->r.exit_code = exit->signal ? S_ABSENT : exit->code;
        job->r.exit_signal = exit->signal ? exit->signal : S_ABSENT;
    }
    effects_touch_job(c->fx, job);
    reach_running(c, job);
    if (all_exited(job, alloc))
        leave_node(c, job, alloc);
    if (!state_job_live(job))
        settle(c, job);
    else if (news)
        take_down(c, job);
}

void attempt_rank_hung(struct mutate *c, struct job *job, int64_t rank, const char *evidence) {
    char what[REASON_BYTES_MAX + 64];

    (void)snprintf(what, sizeof what, "makes no progress%s%s", evidence ? ": " : "",
                   evidence ? evidence : "");
    if (note_fault(c, job, FAULT_HANG, rank, what))
        take_down(c, job);
}

static bool note_node_fault(struct mutate *c, struct job *job, size_t alloc, const char *what) {
    int64_t first = (int64_t)alloc * per_node(job);

    for (int64_t rank = first; rank < first + per_node(job); rank++)
        if (job->r.ranks.items[rank].state != RANK_STATE_EXITED)
            return note_fault(c, job, FAULT_NODE, rank, what);
    return false;
}

void attempt_node_lost(struct mutate *c, struct job *job, size_t alloc, const char *evidence) {
    char what[REASON_BYTES_MAX + 64];

    (void)snprintf(what, sizeof what, "was lost with its node%s%s", evidence ? ": " : "",
                   evidence ? evidence : "");
    if (note_node_fault(c, job, alloc, what))
        take_down(c, job);
}

static bool any_started(const struct job *job, size_t alloc) {
    int64_t first = (int64_t)alloc * per_node(job);

    for (int64_t rank = first; rank < first + per_node(job); rank++)
        if (job->r.ranks.items[rank].state == RANK_STATE_STARTED)
            return true;
    return false;
}

void attempt_gone(struct mutate *c, struct job *job, size_t alloc, const char *evidence) {
    int64_t first = (int64_t)alloc * per_node(job);
    char what[REASON_BYTES_MAX + 64];
    bool news = false;

    (void)snprintf(what, sizeof what, "ended unseen%s%s", evidence ? ": " : "",
                   evidence ? evidence : "");
    /* Ranks that were told to go before they were seen to run need no reason. */
    if (job->r.phase == DESIRED_PHASE_RUN || any_started(job, alloc))
        news = note_node_fault(c, job, alloc, what);
    for (int64_t rank = first; rank < first + per_node(job); rank++)
        if (job->r.ranks.items[rank].state != RANK_STATE_EXITED)
            mark_ended(c, job, rank, EXIT_CAUSE_UNKNOWN);
    effects_touch_job(c->fx, job);
    leave_node(c, job, alloc);
    if (!state_job_live(job))
        settle(c, job);
    else if (news)
        take_down(c, job);
}
