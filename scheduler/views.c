#include "scheduler/views.h"

#include "lib/digest.h"
#include "lib/pure/tlv.h"
#include "lib/timefmt.h"
#include "scheduler/array_views.h"
#include "scheduler/assignment.h"
#include "scheduler/core/array.h"
#include "scheduler/core/core.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/spare.h"
#include "scheduler/core/whyplan.h"
#include "scheduler/fleet.h"
#include "scheduler/live.h"
#include "scheduler/outlook.h"
#include "scheduler/store/rows.h"
#include <stdio.h>

char *views_cut(const char *text, size_t n_bytes_max) {
    size_t n = text ? strlen(text) : 0;

    if (n > n_bytes_max) {
        n = n_bytes_max;
        while (n && ((uint8_t)text[n] & 0xc0) == 0x80)
            n--;
    }
    return text ? hai_strndup(text, n) : NULL;
}

/* Exit code (docs/scripts.md): the job's own, 128 + signal, 124 for the time limit, 143 when
 * stopped. */
static int64_t exit_code(const struct state_job *job) {
    switch (job->state) {
    case JOB_STATE_SUCCEEDED:
        return 0;
    case JOB_STATE_STOPPED:
        return 143;
    case JOB_STATE_TIMED_OUT:
        return 124;
    case JOB_STATE_FAILED:
        if (job->exit_signal != S_ABSENT && job->exit_signal > 0)
            return 128 + job->exit_signal;
        return job->exit_code != S_ABSENT && job->exit_code > 0 ? job->exit_code : 1;
    default:
        return S_ABSENT;
    }
}

static const char *node_name(const struct state *state, int64_t number) {
    return number >= 0 && number < state->n_nodes ? state->nodes[number]->r.name : "?";
}

/* Starts that followed a fault; those that followed a suspension are nobody's concern. The fault
 * that ended a job was followed by none; restarts after an exit count as `restarts` alone. */
static int64_t fault_restarts(const struct state_job *job) {
    bool last = job_state_ended(job->state) && job->fault > FAULT_START;

    return MAX(job->restarts, job->faults - last);
}

static void fill_ranks(const struct schedd *s, const struct state_job *job, struct job_view *ret) {
    const struct state *state = schedd_state(s);
    int64_t per_node = job->spec.ranks_per_node;

    for (size_t i = 0; i < job->ranks.n; i++) {
        const struct state_rank *rank = &job->ranks.items[i];
        const struct state_alloc *alloc = &job->allocs.items[(int64_t)i / per_node];
        const struct rank_progress *progress =
            live_progress(s->live, job->id, job->attempt, (int64_t)i);
        struct rank_view *view = LIST_ADD(&ret->rank_list);
        schema_init(rank_view_schema(), view);
        view->rank = (int64_t)i;
        view->node = hai_strdup(node_name(state, alloc->node));
        assignment_rank_gpus((uint32_t)alloc->gpus, per_node, (int64_t)i % per_node, &view->gpus);
        view->state = hai_strdup(rank_state_text(rank->state));
        view->restarts = fault_restarts(job);
        view->step = progress ? progress->progress.step : S_ABSENT;
        if (rank->state == RANK_STATE_EXITED) {
            view->exit_code = rank->signal ? S_ABSENT : rank->code;
            view->signal = rank->signal ? rank->signal : S_ABSENT;
        }
    }
}

static void fill_checkpoint(const struct state_job *job, struct checkpoint_view *ret) {
    char hex[2 * DIGEST_BYTES + 1];

    if (job->ckpt_step == S_ABSENT)
        return;
    ret->step = job->ckpt_step;
    ret->dir = hai_strdup(job->ckpt_dir);
    ret->at = job->ckpt_us;
    if (job->ckpt_digest.n_bytes == DIGEST_BYTES) {
        digest_hex(job->ckpt_digest.data, DIGEST_BYTES, hex);
        ret->digest = hai_strdup(hex);
    }
}

static char *last_fault(const struct schedd *s, const struct state_job *job) {
    const struct state *state = schedd_state(s);

    if (job->fault == FAULT_NONE || job->fault_rank == S_ABSENT)
        return NULL;
    const char *node = node_name(state, job->fault_node);
    if (job->exit_signal != S_ABSENT && job->exit_signal > 0)
        return hai_asprintf("rank %lld on %s killed (signal %lld)", (long long)job->fault_rank,
                            node, (long long)job->exit_signal);
    if (job->fault == FAULT_EXIT)
        return hai_asprintf("rank %lld on %s ended with exit status %lld",
                            (long long)job->fault_rank, node, (long long)job->exit_code);
    return hai_asprintf("rank %lld on %s: %s", (long long)job->fault_rank, node,
                        fault_text(job->fault));
}

static int64_t ran_us(const struct schedd *s, const struct state_job *job) {
    bool runs = job->state == JOB_STATE_RUNNING && job->running_us != S_ABSENT;

    return job->ran_us + (runs ? MAX(turn_now_us(s->turn) - job->running_us, 0) : 0);
}

/* A job that ended long ago is in the store only, with all that it used. */
static void fill_used(const struct schedd *s, const struct state_job *record,
                      struct job_view *ret) {
    const struct job *job = state_job_find(schedd_state(s), record->id);
    struct job stored = {.r = *record};

    if (record->used_gpu_us != S_ABSENT || (job && job->r.booked.n))
        ledger_used(job ? job : &stored, turn_now_us(s->turn), &ret->used_us, &ret->recomputed_us);
}

static void fill_spec(const struct state_job *job, struct job_view *ret) {
    const struct entry_job_spec *spec = &job->spec;

    ret->name = hai_strdup(spec->name);
    ret->user = hai_strdup(spec->user);
    ret->team = hai_strdup(spec->team);
    ret->group = hai_strdup(spec->group);
    ret->kind = MAX(schema_enum_parse(&job_kind_enum, spec->kind), 0);
    ret->nodes = spec->nodes;
    ret->gpus_per_node = spec->gpus_per_node;
    ret->ranks = spec->nodes * spec->ranks_per_node;
}

static void fill_conditions(const struct state_job *job, struct job_view *ret) {
    for (size_t i = 0; i < job->spec.after.n; i++) {
        const struct entry_after *after = &job->spec.after.items[i];
        struct after_view *view = LIST_ADD(&ret->after);
        schema_init(after_view_schema(), view);
        view->job = after->job;
        view->want = hai_strdup(after_want_text(after->want));
        view->ended = after->ended;
    }
    ret->singleton = job->spec.singleton == 1;
    ret->not_before = job->spec.not_before_us;
}

void views_job(const struct schedd *s, const struct state_job *job, int64_t index, bool ranks,
               struct job_view *ret) {
    const struct state *state = schedd_state(s);
    const struct rank_progress *progress = live_progress(s->live, job->id, job->attempt, 0);

    schema_init(job_view_schema(), ret);
    fill_spec(job, ret);
    ret->id = job->id;
    ret->state = job->state;
    ret->reason = job->reason == REASON_NONE ? NULL : hai_strdup(reason_text(job->reason));
    ret->message = hai_strdup(job->message);
    ret->priority = job->priority;
    ret->auto_priority = job->spec.auto_priority == 1;
    ret->over_quota = job->over == 1;
    ret->attempt = job->attempt;
    ret->restarts = fault_restarts(job);
    ret->submitted_at = job->submitted_us;
    ret->started_at = job->started_us;
    ret->ended_at = job->ended_us;
    ret->ran_us = ran_us(s, job);
    ret->exit_code = exit_code(job);
    if (job->state == JOB_STATE_FAILED && job->exit_signal > 0)
        ret->signal = job->exit_signal;
    for (size_t i = 0; i < job->allocs.n; i++)
        *LIST_ADD(&ret->node_names) = hai_strdup(node_name(state, job->allocs.items[i].node));
    if (progress) {
        schema_free(progress_view_schema(), &ret->progress);
        schema_copy(progress_view_schema(), &ret->progress, &progress->progress);
    }
    fill_checkpoint(job, &ret->checkpoint);
    fill_used(s, job, ret);
    ret->log_at = live_output_us(s->live, job->id);
    ret->index = index;
    ret->last_fault = last_fault(s, job);
    fill_conditions(job, ret);
    array_views_fill(s, job, ret);
    if (ranks)
        fill_ranks(s, job, ret);
}

void views_why_time(struct why *why) {
    char at[TIMEFMT_ISO_BYTES];

    bool is_planned = !strcmp(why->code, "planned"), delays = !strcmp(why->code, "would_delay");
    if (strcmp(why->code, "not_before") != 0 && !is_planned && !delays)
        return;
    timefmt_iso(why->at_us, at);
    why->at_us = S_ABSENT;
    size_t used = is_planned || delays ? strlen(why->message) : 0;
    (void)snprintf(why->message + used, sizeof why->message - used, "%s %s",
                   is_planned ? " for"
                   : delays   ? " at"
                              : "waits until",
                   at);
}

void views_why(const struct schedd *s, const struct job *job, struct why *ret) {
    why_job(schedd_state(s), job, ret);
    views_why_time(ret);
}

void views_why_plan(const struct schedd *s, const struct job *job, struct why *ret) {
    why_job(schedd_state(s), job, ret);
    if (job->queued)
        whyplan_explain(schedd_state(s), job, ret);
    views_why_time(ret);
}

const struct outlook_job *views_forecast(const struct schedd *s, const struct job *job, int64_t id,
                                         int64_t *ret_index) {
    const struct state *state = schedd_state(s);

    if (!job->array)
        return outlook_of(s->outlook, job, ret_index);
    int64_t next = array_views_next_id(state, job);
    if (!next || (id != job->r.id && id != next))
        return NULL;
    const struct job *first = array_views_first(state, job); // NULL: told as the array's own
    return outlook_of(s->outlook, first ? first : job, ret_index);
}

void views_start(const struct schedd *s, const struct job *job, struct job_view *ret) {
    int64_t index;
    const struct outlook_job *start = views_forecast(s, job, ret->id, &index);

    if (!start)
        return;
    ret->start_at = start->p50_us;
    ret->start_late_at = start->p90_us;
    ret->start_after = start->after ? start->after : S_ABSENT;
    if (start->after)
        hai_strset(&ret->start_after_label, array_label_of(schedd_state(s), start->after).text);
    ret->start_index = index;
}

/* It left its nodes to a reservation that is over. */
static bool gave_way_once(const struct state *state, const struct job *job) {
    if (!job->queued || !job->r.message ||
        (job->r.reason != REASON_RESERVED && job->r.reason != REASON_MAINTENANCE))
        return false;
    for (size_t i = 0; i < state->n_reserves; i++) {
        char name[NODE_NAME_MAX + 8];
        (void)snprintf(name, sizeof name, " %s, ", state->reserves[i].name);
        if (strstr(job->r.message, name))
            return false;
    }
    return true;
}

void views_reason(const struct schedd *s, const struct job *job, struct job_view *ret) {
    struct why why;

    views_start(s, job, ret);
    if (!gave_way_once(schedd_state(s), job) &&
        (ret->message || (job->r.state != JOB_STATE_QUEUED && job->r.state != JOB_STATE_HELD)))
        return;
    views_why(s, job, &why);
    hai_strset(&ret->reason, why.code);
    char *note = array_is(job) && ret->array == S_ABSENT && strcmp(why.code, "dependency") != 0 &&
                         strcmp(why.code, "not_before") != 0
                     ? array_views_note(s, job, why.message)
                     : NULL;
    hai_strset(&ret->message, note ? note : why.message);
    free(note);
}

int views_job_row(const struct schedd *s, const struct rows_job *row, bool ranks,
                  struct job_view *ret, struct hai_err *err) {
    struct state_job job;
    int r = tlv_decode(state_job_schema(), row->record, row->record_bytes, &job, err);

    if (r < 0)
        return r;
    views_job(s, &job, row->index, ranks, ret);
    schema_free(state_job_schema(), &job);
    return 0;
}

static const char *node_state(const struct node *node) {
    if (node->r.state == NODE_STATE_ABSENT)
        return "unknown";
    if (node->r.state == NODE_STATE_LOST)
        return node->r.hold_until_us == S_ABSENT ? "fenced" : "lost";
    if (node->r.drained)
        return node->n_jobs ? "draining" : "drained";
    return "ready";
}

void views_node(const struct schedd *s, int number, const uint64_t *spares, struct node_view *ret) {
    const struct state *state = schedd_state(s);
    const struct node *node = state->nodes[number];
    bool usable = state_node_usable(node);

    schema_init(node_view_schema(), ret);
    ret->name = hai_strdup(node->r.name);
    ret->zone = hai_strdup(state->zones[node->zone].name);
    ret->leaf = views_cut(state->leaves[node->r.leaf].name, NODE_NAME_MAX);
    ret->state = hai_strdup(node_state(node));
    ret->gpus = node->r.gpus;
    ret->cpus = node->r.cpus;
    ret->memory_bytes = node->r.memory_bytes ? node->r.memory_bytes : S_ABSENT;
    const struct state_reserve *reserve =
        node->reserved ? state_reserve_find(state, node->reserved) : NULL;
    if (reserve) {
        ret->reservation = hai_strdup(reserve->name);
        ret->reserved_until = reserve->until_us;
    }
    if (usable && (!reserve || reserve->users.n)) {
        ret->gpus_free = __builtin_popcount(state_gpus_free(node));
        ret->cpus_free = MAX(node->cpus_free, 0);
    }
    for (size_t i = 0; i < node->n_jobs; i++) {
        *LIST_ADD(&ret->jobs) = node->jobs[i];
        *LIST_ADD(&ret->job_labels) =
            hai_strdup(array_label(&state_job_find(state, node->jobs[i])->r).text);
    }
    for (int g = 0; g < state->n_groups; g++)
        if (node->groups >> g & 1)
            *LIST_ADD(&ret->groups) = hai_strdup(state->groups[g].r.name);
    ret->reason = views_cut(node->r.state == NODE_STATE_LOST ? node->r.evidence
                            : node->r.drained                ? node->r.drain_reason
                                                             : NULL,
                            REASON_BYTES_MAX);
    fleet_describe(s->fleet, number, ret);
    ret->address = hai_strdup(node->r.address);
    ret->version = views_cut(node->r.version, 31);
    ret->spare = spare_marked(spares, number);
}

static void count(const struct node *node, int64_t *gpus, int64_t *gpus_free, int64_t *ready) {
    *gpus += node->r.gpus;
    if (!state_node_usable(node))
        return;
    if (!node->reserved)
        *gpus_free += __builtin_popcount(state_gpus_free(node));
    if (ready)
        ++*ready;
}

void views_group(const struct schedd *s, int number, struct group_view *ret) {
    const struct state *state = schedd_state(s);

    schema_init(group_view_schema(), ret);
    ret->name = hai_strdup(state->groups[number].r.name);
    for (int i = 0; i < state->n_nodes; i++) {
        const struct node *node = state->nodes[i];
        if (node->r.removed || !(node->groups >> number & 1))
            continue;
        ret->nodes++;
        count(node, &ret->gpus, &ret->gpus_free, NULL);
    }
}

void views_zone(const struct schedd *s, int number, struct zone_view *ret) {
    const struct state *state = schedd_state(s);

    schema_init(zone_view_schema(), ret);
    ret->name = hai_strdup(state->zones[number].name);
    for (int i = 0; i < state->n_nodes; i++) {
        const struct node *node = state->nodes[i];
        if (node->r.removed || node->zone != number)
            continue;
        ret->nodes++;
        count(node, &ret->gpus, &ret->gpus_free, &ret->nodes_ready);
    }
}

void views_event_row(const struct rows_event *row, struct event_view *ret) {
    const char *colon = strchr(row->principal, ':');

    schema_init(event_view_schema(), ret);
    ret->index = row->index;
    ret->at = row->time_us;
    ret->kind = views_cut(row->kind, 31);
    ret->job = row->job;
    ret->attempt = row->attempt;
    ret->rank = row->rank;
    ret->node = hai_strdup(row->node);
    ret->user = views_cut(colon ? colon + 1 : row->principal, USER_NAME_MAX);
    ret->message = views_cut(row->message, 1023);
}
