#include "agent/uplink.h"
#include "agent/attempts.h"
#include "agent/logfile.h"
#include "agent/meeting.h"
#include "agent/news.h"
#include "agent/rankhub.h"
#include "agent/rankstream.h"
#include "lib/fileio.h"
#include "lib/json_schema.h"
#include "lib/log.h"
#include "lib/random.h"
#include "lib/timefmt.h"
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

enum {
    POLL_WAIT_US = 2000000,
    POLL_TIMEOUT_MS = 10000,
    REPORT_TIMEOUT_MS = 30000,
    AGAIN_MIN_US = 100000,
    AGAIN_MAX_US = 2000000,
    PROGRESS_EVERY_US = 250000,
    MESSAGE_BYTES = 500, // of 512: bytes that are no text grow when they are encoded
};

struct uplink {
    struct agentd *a;
    struct http_call *poll;
    int64_t polled_us; // CLOCK_BOOTTIME, when the poll under way was sent
    int64_t revision;
    struct loop_source *poll_timer;
    int64_t poll_again_us;
    bool away; // said once that nobody answers
    struct http_call *report;
    struct agent_report sent; // progress is not repeated, commits are
    struct loop_source *report_timer;
    int64_t report_again_us;
    bool report_waits;
    struct loop_source *progress_timer;
    bool progress_waits;
};

static void poll_now(void *data);

/* ---- polls ---- */

static void add_holds(struct agentd *a, struct agent_poll *poll) {
    for (const struct reconcile_hold *hold = NULL; (hold = reconcile_walk(a->core, hold));) {
        if (hold->has_gone || (!hold->found && !hold->starting && !hold->gone))
            continue;
        struct agent_holds *holds = LIST_ADD(&poll->holds);
        schema_init(agent_holds_schema(), holds);
        holds->job = hold->key.job;
        holds->attempt = hold->key.attempt;
        holds->epoch = hold->key.epoch;
        holds->ranks_alive = hold->gone ? 0 : (int64_t)(hold->n_ranks - hold->n_exits);
    }
}

static void fill_hello(struct agentd *a, struct agent_hello *hello) {
    hello->proto = 1;
    hello->node = hai_strdup(a->config.node);
    hello->boot_id = hai_strdup(a->boot_id);
    hello->instance = hai_strdup(a->instance);
    hello->started = a->started_us;
    hello->version = hai_strdup(HAI_VERSION);
    hello->address = hai_strdup(a->config.address);
    hello->data_port = meeting_port(a->meeting);
    hello->gpus = a->config.gpus == S_ABSENT ? 0 : a->config.gpus;
    hello->cpus = a->config.cpus;
    hello->memory_bytes = a->config.memory_bytes;
    hello->health = hai_strdup(
        a->cgroups.box == SHIM_BOX_WALK ? "ok, but ranks are held by a process walk only" : "ok");
}

static void poll_later(struct uplink *u) {
    loop_timer_after(u->poll_timer, u->poll_again_us);
    u->poll_again_us = MIN(u->poll_again_us * 2, (int64_t)AGAIN_MAX_US);
}

/* Another cluster than before: whatever ran was the old one's, and its job numbers mean nothing
 * any more. Everything ends first; then we are a new agent. */
static int check_cluster(struct agentd *a, const char *cluster) {
    _cleanup_free_ char *path = hai_asprintf("%s/cluster", a->config.state_dir);
    _cleanup_(buf_free) struct buf known = {0};
    struct hai_err err = {0};

    fileio_read_file(path, 4096, &known, &err);
    if (!cluster || !strcmp(buf_cstr(&known), cluster))
        return 0;
    if (known.n_bytes && reconcile_walk(a->core, NULL)) {
        if (!a->foreign)
            log_warning("the scheduler is of cluster %s, not %s: ending what runs here", cluster,
                        buf_cstr(&known));
        a->foreign = true;
        return -EAGAIN;
    }
    a->foreign = false;
    int r = fileio_replace(path, cluster, strlen(cluster), 0600, &err);
    if (r < 0)
        log_error("%s", err.text);
    return 0;
}

static void take_answer(struct uplink *u, struct agent_desired *desired) {
    struct agentd *a = u->a;
    bool was_foreign = a->foreign;

    if (check_cluster(a, desired->cluster) < 0) {
        reconcile_desired(a->core, NULL, 0);
        return;
    }
    if (was_foreign) { // the old is gone: begin anew
        random_token(u->a->instance);
        u->a->started_us = timefmt_boottime_us();
        u->revision = 0;
        return;
    }
    a->lease_until_us = u->polled_us + desired->lease_us;
    a->clock_offset_us = desired->now == S_ABSENT ? S_ABSENT : desired->now - timefmt_boottime_us();
    attempts_lease(a, desired->lease_us);
    u->revision = desired->revision;
    if (desired->changed) {
        struct agent_desired old = a->desired;
        a->desired = *desired;
        attempts_desired(a);
        *desired = old;
    }
    const struct agent_desired *from = desired->changed ? &a->desired : desired;
    for (size_t i = 0; i < from->streams.n; i++)
        rankstream_open(a, &from->streams.items[i]);
}

static void on_poll(struct http_answer *answer, void *data) {
    struct uplink *u = data;
    struct agent_desired desired;
    struct hai_err err = answer->err;

    u->poll = NULL;
    int r = answer->r;
    if (r == 0 && answer->status != 200)
        r = hai_fail(&err, -EPROTO, "poll: status %d: %.300s", answer->status,
                     buf_cstr(&answer->body));
    if (r == 0)
        r = json_schema_parse(agent_desired_schema(), answer->body.data, answer->body.n_bytes,
                              JSON_SCHEMA_IGNORE_UNKNOWN, &desired, &err);
    if (r < 0) {
        if (!u->away)
            log_warning("no desired set from %s: %s", u->a->config.server, hai_err_text(&err));
        u->away = true;
        poll_later(u);
        return;
    }
    if (u->away)
        log_notice("%s answers", u->a->config.server);
    u->away = false;
    u->poll_again_us = AGAIN_MIN_US;
    take_answer(u, &desired);
    schema_free(agent_desired_schema(), &desired);
    attempts_act(u->a); // starts come before the next poll says what is held
    if (u->a->foreign)
        poll_later(u);
    else
        poll_now(u);
}

static void poll_now(void *data) {
    struct uplink *u = data;
    struct agent_poll poll;
    _cleanup_(buf_free) struct buf body = {0};

    schema_init(agent_poll_schema(), &poll);
    fill_hello(u->a, &poll.hello);
    poll.revision = u->revision;
    poll.wait_us = POLL_WAIT_US;
    poll.synced = reconcile_synced(u->a->core);
    add_holds(u->a, &poll);
    json_schema_dump(agent_poll_schema(), &poll, &body);
    schema_free(agent_poll_schema(), &poll);
    u->polled_us = timefmt_boottime_us();
    u->poll = http_client_send(u->a->client, "POST", "/api/v1/agent/poll", NULL, body.data,
                               body.n_bytes, POLL_TIMEOUT_MS, on_poll, u);
}

/* ---- reports ---- */

static void add_exit(struct agentd *a, const struct reconcile_hold *hold,
                     const struct reconcile_exit *exit, struct attempt_report *report) {
    struct rank_exit *e = LIST_ADD(&report->exits);
    _cleanup_(buf_free) struct buf tail = {0};

    schema_init(rank_exit_schema(), e);
    e->rank = exit->rank;
    if (exit->signal)
        e->signal = exit->signal;
    else
        e->exit_code = exit->exit_code & 0xff;
    e->cause = exit->cause;
    e->message = exit->message ? hai_strndup(exit->message, MESSAGE_BYTES) : NULL;
    e->at = exit->at_us ? exit->at_us : S_ABSENT;
    e->log_bytes = logfile_tail(a->config.log_dir, hold->key.job, hold->key.attempt, exit->rank,
                                LOG_TAIL_BYTES, &tail);
    e->tail = (struct schema_blob){TAKE_PTR(tail.data), tail.n_bytes};
}

static void add_attempt(struct agentd *a, const struct reconcile_hold *hold,
                        struct agent_report *report) {
    bool started = hold->sent_started && !hold->has_started;
    bool gone = hold->sent_gone && !hold->has_gone;

    if (!started && !gone && hold->n_exits_sent <= hold->n_exits_had)
        return;
    struct attempt_report *at = LIST_ADD(&report->attempts);
    schema_init(attempt_report_schema(), at);
    at->job = hold->key.job;
    at->attempt = hold->key.attempt;
    at->epoch = hold->key.epoch;
    at->started = started;
    at->started_at = hold->started_us ? hold->started_us : S_ABSENT;
    at->gone = gone;
    for (size_t i = hold->n_exits_had; i < hold->n_exits_sent; i++)
        add_exit(a, hold, &hold->exits[i], at);
}

static void report_again(void *data) {
    struct uplink *u = data;

    u->report_waits = false;
    uplink_turn_end(u->a);
}

/* The commits that were answered; the others stay for the next report. */
static void take_results(struct uplink *u, const struct http_answer *answer) {
    struct agent_report_reply reply;
    struct hai_err err = {0};

    if (json_schema_parse(agent_report_reply_schema(), answer->body.data, answer->body.n_bytes,
                          JSON_SCHEMA_IGNORE_UNKNOWN, &reply, &err) < 0) {
        log_warning("answer to a report: %s", hai_err_text(&err));
        return;
    }
    for (size_t i = 0; i < reply.commits.n; i++)
        rankhub_committed(u->a, &reply.commits.items[i]);
    schema_free(agent_report_reply_schema(), &reply);
}

/* Commits of a report that failed: they go with the next one. Where the scheduler cannot read the
 * report they are refused instead: what they say may be why, and exits must get through. */
static void keep_commits(struct uplink *u, bool refused) {
    for (size_t i = 0; i < u->sent.commits.n; i++) {
        struct ckpt_commit *commit = &u->sent.commits.items[i];
        struct ckpt_result result = {.job = commit->job,
                                     .epoch = commit->epoch,
                                     .step = commit->step,
                                     .message = (char *)"it cannot be sent to the scheduler"};
        if (refused || news_commit(u->a, commit) < 0)
            rankhub_committed(u->a, &result);
        else
            schema_init(ckpt_commit_schema(), commit);
    }
}

static void on_report(struct http_answer *answer, void *data) {
    struct uplink *u = data;
    bool ok = answer->r == 0 && answer->status == 200;
    bool unreadable = answer->r == 0 && (answer->status == 400 || answer->status == 413);

    u->report = NULL;
    reconcile_reported(u->a->core, ok);
    if (ok) {
        u->report_again_us = AGAIN_MIN_US;
        take_results(u, answer);
    } else {
        if (answer->r == 0)
            log_warning("report: status %d: %.300s", answer->status, buf_cstr(&answer->body));
        keep_commits(u, unreadable);
        u->report_waits = true;
        loop_timer_after(u->report_timer, u->report_again_us);
        u->report_again_us = MIN(u->report_again_us * 2, (int64_t)AGAIN_MAX_US);
    }
    schema_free(agent_report_schema(), &u->sent);
}

static bool progress_due(struct uplink *u) {
    if (!u->a->news.progress.n || u->progress_waits)
        return false;
    u->progress_waits = true;
    loop_timer_after(u->progress_timer, PROGRESS_EVERY_US);
    return true;
}

static void send_report(struct uplink *u) {
    struct agentd *a = u->a;
    struct agent_report report = a->news;
    _cleanup_(buf_free) struct buf body = {0};

    schema_init(agent_report_schema(), &a->news);
    report.node = hai_strdup(a->config.node);
    report.instance = hai_strdup(a->instance);
    reconcile_report(a->core);
    for (const struct reconcile_hold *hold = NULL; (hold = reconcile_walk(a->core, hold));)
        add_attempt(a, hold, &report);
    json_schema_dump(agent_report_schema(), &report, &body);
    u->sent = report;
    u->report = http_client_send(a->client, "POST", "/api/v1/agent/report", NULL, body.data,
                                 body.n_bytes, REPORT_TIMEOUT_MS, on_report, u);
}

void uplink_turn_end(struct agentd *a) {
    struct uplink *u = a->uplink;

    if (a->foreign) { // reports would be about numbers that the new cluster uses for others
        if (!u->report) {
            reconcile_report(a->core);
            reconcile_reported(a->core, true);
        }
        return;
    }
    if (u->report || u->report_waits)
        return;
    if (reconcile_unreported(a->core) || a->news.commits.n || progress_due(u))
        send_report(u);
}

static void progress_over(void *data) {
    struct uplink *u = data;

    u->progress_waits = false; // the end of this turn sends what has come
}

struct uplink *uplink_new(struct agentd *a) {
    struct uplink *u = hai_new(struct uplink);

    u->a = a;
    a->uplink = u;
    u->poll_again_us = u->report_again_us = AGAIN_MIN_US;
    schema_init(agent_report_schema(), &a->news);
    schema_init(agent_report_schema(), &u->sent);
    u->poll_timer = loop_timer_new(a->loop, LOOP_MONOTONIC, poll_now, u);
    u->report_timer = loop_timer_new(a->loop, LOOP_MONOTONIC, report_again, u);
    u->progress_timer = loop_timer_new(a->loop, LOOP_MONOTONIC, progress_over, u);
    poll_now(u);
    return u;
}

void uplink_free(struct uplink *u) {
    if (!u)
        return;
    http_call_cancel(u->poll);
    http_call_cancel(u->report);
    loop_source_free(u->poll_timer);
    loop_source_free(u->report_timer);
    loop_source_free(u->progress_timer);
    schema_free(agent_report_schema(), &u->sent);
    schema_free(agent_report_schema(), &u->a->news);
    free(u);
}
