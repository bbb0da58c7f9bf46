#include "scheduler/api_agent.h"

#include "lib/digest.h"
#include "lib/log.h"
#include "scheduler/fleet.h"
#include "scheduler/live.h"
#include "scheduler/store/query.h"

/* A report under way: its entries are in the log's next batch. */
struct report {
    struct agent_report_reply reply;
    size_t n_commits_done;
    int failed; // a result that the agent must try again for
    struct hai_err err;
};

static void free_report(void *own) {
    struct report *report = own;

    schema_free(agent_report_reply_schema(), &report->reply);
    free(report);
}

static void finish_if_done(struct api_call *call) {
    struct report *report = call->own;

    if (call->n_appended)
        return;
    if (!call->request)
        api_call_finish(call);
    else if (report->failed)
        api_call_error(call, report->failed, &report->err);
    else
        api_call_reply(call, 200, agent_report_reply_schema(), &report->reply);
}

/* What the core refuses (an old epoch, a job that is gone) is settled as well: the agent need not
 * say it again. Only what could not be saved must be repeated. */
static void note_result(struct api_call *call, int r, const struct apply_reply *reply) {
    struct report *report = call->own;

    if (r == -EIO) {
        report->failed = r;
        report->err = reply->err;
    } else if (r < 0 && r != -ESTALE && r != -ENOENT) {
        log_write(LOG_LEVEL_WARNING, LOG_FIELDS(.node = call->caller.node),
                  "report of %s refused: %s", call->caller.node, hai_err_text(&reply->err));
    }
}

static void on_recorded(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct api_call *call = data;

    api_call_appended(call);
    note_result(call, r, reply);
    finish_if_done(call);
}

/* Results come in the order of the entries, so each belongs to the next commit of the report. */
static void on_commit(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct api_call *call = data;
    struct report *report = call->own;
    struct ckpt_result *result = &report->reply.commits.items[report->n_commits_done++];

    api_call_appended(call);
    note_result(call, r, reply);
    result->ok = r == 0;
    if (r < 0)
        result->message = hai_strndup(hai_err_text(&reply->err), 511);
    finish_if_done(call);
}

static void add_commits(struct api_call *call) {
    const struct agent_report *body = call->body;
    struct report *report = call->own;

    for (size_t i = 0; i < body->commits.n; i++) {
        const struct ckpt_commit *commit = &body->commits.items[i];
        struct ckpt_result *result = LIST_ADD(&report->reply.commits);
        schema_init(ckpt_result_schema(), result);
        result->job = commit->job;
        result->epoch = commit->epoch;
        result->step = commit->step;
    }
    for (size_t i = 0; i < body->commits.n; i++) {
        const struct ckpt_commit *commit = &body->commits.items[i];
        struct entry_ckpt_committed entry;
        uint8_t digest[DIGEST_BYTES];
        schema_init(entry_ckpt_committed_schema(), &entry);
        entry.job = commit->job;
        entry.epoch = commit->epoch;
        entry.step = commit->step;
        entry.dir = commit->dir;
        entry.stall_us = commit->stall_us;
        if (digest_unhex(commit->digest, DIGEST_BYTES, digest) == 0) {
            entry.digest.data = digest;
            entry.digest.n_bytes = DIGEST_BYTES;
        }
        api_call_append(call, ENTRY_CKPT_COMMITTED, &entry, on_commit);
    }
}

/* Whether an exit is news: a report is repeated when its answer was lost. */
static bool exit_is_new(const struct state *state, const struct attempt_report *attempt,
                        const struct rank_exit *exit) {
    const struct job *job = state_job_find(state, attempt->job);

    if (!job || job->r.epoch != attempt->epoch || (size_t)exit->rank >= job->r.ranks.n)
        return false;
    return job->r.ranks.items[exit->rank].state != RANK_STATE_EXITED;
}

/* A node speaks of its own ranks only: was this one there, in this attempt or an earlier one? */
static bool was_here(struct api_call *call, int64_t id, int64_t attempt, int64_t rank) {
    const struct state *state = schedd_state(call->s);
    const struct job *job = state_job_find(state, id);
    _cleanup_free_ char *name = NULL;

    if (!job || rank >= job->r.spec.nodes * job->r.spec.ranks_per_node)
        return false;
    size_t at = (size_t)(rank / job->r.spec.ranks_per_node);
    if (attempt == job->r.attempt)
        return at < job->r.allocs.n &&
               hai_streq(state->nodes[job->r.allocs.items[at].node]->r.name, call->caller.node);
    rows_flush_some(turn_rows(call->s->turn), NULL);
    return query_place(call->s->store, id, attempt, (int64_t)at, &name, NULL) == 0 &&
           hai_streq(name, call->caller.node);
}

static void add_exit(struct api_call *call, const struct attempt_report *attempt,
                     const struct rank_exit *exit) {
    struct entry_rank_exited entry;
    struct turn *turn = call->s->turn;

    if (exit->tail.n_bytes && was_here(call, attempt->job, attempt->attempt, exit->rank))
        rows_add_tail(turn_rows(turn), &(struct rows_tail){.job = attempt->job,
                                                           .attempt = attempt->attempt,
                                                           .rank = exit->rank,
                                                           .time_us = turn_now_us(turn),
                                                           .total = exit->log_bytes,
                                                           .data = exit->tail.data,
                                                           .n_bytes = exit->tail.n_bytes});
    if (!exit_is_new(schedd_state(call->s), attempt, exit))
        return;
    schema_init(entry_rank_exited_schema(), &entry);
    entry.job = attempt->job;
    entry.epoch = attempt->epoch;
    entry.rank = exit->rank;
    entry.code = exit->exit_code == S_ABSENT ? 0 : exit->exit_code;
    entry.signal = exit->signal == S_ABSENT ? 0 : exit->signal;
    entry.cause = exit->cause;
    entry.evidence = exit->message;
    api_call_append(call, ENTRY_RANK_EXITED, &entry, on_recorded);
}

static void add_attempt(struct api_call *call, const struct attempt_report *attempt) {
    if (attempt->started) {
        struct entry_ranks_started entry;
        schema_init(entry_ranks_started_schema(), &entry);
        entry.job = attempt->job;
        entry.epoch = attempt->epoch;
        entry.node = call->caller.node;
        api_call_append(call, ENTRY_RANKS_STARTED, &entry, on_recorded);
    }
    for (size_t i = 0; i < attempt->exits.n; i++)
        add_exit(call, attempt, &attempt->exits.items[i]);
    if (attempt->gone) {
        struct entry_ranks_gone entry;
        schema_init(entry_ranks_gone_schema(), &entry);
        entry.job = attempt->job;
        entry.epoch = attempt->epoch;
        entry.node = call->caller.node;
        api_call_append(call, ENTRY_RANKS_GONE, &entry, on_recorded);
    }
}

/* Progress of jobs on this node; news of what has ended meanwhile is dropped. */
static void take_progress(struct api_call *call, const struct agent_report *body) {
    int64_t now_us = turn_now_us(call->s->turn);

    for (size_t i = 0; i < body->progress.n; i++) {
        const struct rank_progress *progress = &body->progress.items[i];
        const struct job *job = state_job_find(schedd_state(call->s), progress->job);
        if (job && progress->attempt == job->r.attempt &&
            was_here(call, progress->job, progress->attempt, progress->rank))
            live_set_progress(call->s->live, progress, now_us);
    }
}

void api_agent_report(struct api_call *call) {
    const struct agent_report *body = call->body;
    int node = state_node_find(schedd_state(call->s), call->caller.node);

    if (!hai_streq(body->node, call->caller.node)) {
        api_call_fail(call, 403, "denied", "the token is for node %s, not for %s",
                      call->caller.node, body->node);
        return;
    }
    if (node < 0) {
        api_call_fail(call, 404, "not_found", "node %s is not in the cluster file",
                      call->caller.node);
        return;
    }
    fleet_heard(call->s->fleet, node);
    struct report *report = hai_new(struct report);
    schema_init(agent_report_reply_schema(), &report->reply);
    call->own = report;
    call->own_free = free_report;
    take_progress(call, body);
    for (size_t i = 0; i < body->attempts.n; i++)
        add_attempt(call, &body->attempts.items[i]);
    add_commits(call);
    finish_if_done(call);
}
