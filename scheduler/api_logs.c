#include "scheduler/api_logs.h"

#include "lib/json.h"
#include "scheduler/api_find.h"
#include "scheduler/core/array.h"
#include "scheduler/relay.h"
#include "scheduler/store/query.h"
#include <stdio.h>

#define WAIT_US_MAX INT64_C(30000000) // for an agent's output

/* Which output is wanted, and where it lies. */
struct want {
    int64_t job;
    int64_t attempt; // 0: there is none yet
    int64_t attempts;
    int64_t rank;
    int64_t offset;
    int64_t limit;
    int node;  // -1: not known
    bool over; // the attempt has no rank left
};

/* The node of a rank: from the state for the newest attempt, else from the store. */
static int node_of(struct api_call *call, const struct state_job *job, int64_t attempt,
                   int64_t rank) {
    _cleanup_free_ char *name = NULL;
    int64_t node_rank = rank / job->spec.ranks_per_node;

    if (attempt == job->attempt && (size_t)node_rank < job->allocs.n)
        return (int)job->allocs.items[node_rank].node;
    rows_flush_some(turn_rows(call->s->turn), NULL);
    if (query_place(call->s->store, job->id, attempt, node_rank, &name, NULL) < 0)
        return -1;
    return state_node_find(schedd_state(call->s), name);
}

static bool is_over(const struct state_job *job, int64_t attempt, int64_t rank) {
    if (attempt < job->attempt || job_state_ended(job->state))
        return true;
    return (size_t)rank < job->ranks.n && job->ranks.items[rank].state == RANK_STATE_EXITED;
}

static int read_want(struct api_call *call, const struct state_job *job, struct want *ret) {
    int64_t n_ranks = job->spec.nodes * job->spec.ranks_per_node;

    *ret = (struct want){.job = job->id, .attempts = job->attempt, .node = -1};
    if (job->spec.array.n && job->array == S_ABSENT) {
        api_call_fail(
            call, 409, "array", "job %lld is an array; expected an element, such as %lld_%lld",
            (long long)job->id, (long long)job->id, (long long)job->spec.array.items[0].first);
        return -EINVAL;
    }
    if (api_call_query_int(call, "rank", 0, n_ranks - 1, 0, &ret->rank) < 0 ||
        api_call_query_int(call, "attempt", 0, MAX(job->attempt, 1), 0, &ret->attempt) < 0 ||
        api_call_query_int(call, "offset", 0, INT64_MAX - 1, 0, &ret->offset) < 0 ||
        api_call_query_int(call, "limit", 1, STREAM_BYTES_MAX, STREAM_BYTES_MAX, &ret->limit) < 0)
        return -EINVAL;
    if (!ret->attempt)
        ret->attempt = job->attempt;
    if (ret->attempt) {
        ret->node = node_of(call, job, ret->attempt, ret->rank);
        ret->over = is_over(job, ret->attempt, ret->rank);
    }
    return 0;
}

static void add_number(struct api_call *call, const char *name, int64_t value) {
    char text[24];

    snprintf(text, sizeof text, "%lld", (long long)value);
    if (call->request)
        http_request_add_header(call->request, name, text);
}

static void reply_bytes(struct api_call *call, const struct want *want, int64_t offset,
                        struct buf *bytes, bool end) {
    add_number(call, "Hai-Attempt", want->attempt);
    add_number(call, "Hai-Attempts", want->attempts);
    add_number(call, "Hai-Offset", offset);
    add_number(call, "Hai-Next-Offset", offset + (int64_t)bytes->n_bytes);
    if (end)
        add_number(call, "Hai-End", 1);
    api_call_reply_text(call, 200, "text/plain; charset=utf-8", bytes);
}

/* What the scheduler kept itself: the end of the output, at its place in the whole. */
static void reply_tail(struct api_call *call, const struct want *want) {
    struct query_tail tail = {0};
    struct buf bytes = {0};

    int r = query_tail(call->s->store, want->job, want->attempt, want->rank, &tail, NULL);
    int64_t base = r < 0 ? want->offset : tail.total - (int64_t)tail.data.n_bytes;
    int64_t from = MAX(want->offset, base);
    int64_t left = r < 0 ? 0 : MAX(tail.total - from, 0);
    int64_t n = MIN(left, want->limit);
    if (n > 0)
        buf_add(&bytes, tail.data.data + (from - base), (size_t)n);
    buf_free(&tail.data);
    reply_bytes(call, want, from, &bytes, n == left);
}

/* Read the question of a call again, for an answer that comes later than its handler. */
static int read_again(struct api_call *call, struct want *ret) {
    struct state_job job;
    int64_t id;

    if (!call->request) {
        api_call_finish(call);
        return -ENOTCONN;
    }
    if (api_find_job(call, call->params[0], &id) < 0 || api_find_record(call, id, &job) < 0)
        return -ENOENT;
    int r = read_want(call, &job, ret);
    schema_free(state_job_schema(), &job);
    return r;
}

/* The agent is away or has no such file: what was kept here is all there is. */
static void on_log_failed(struct api_call *call, int r, const struct hai_err *err) {
    struct want want;

    if (read_again(call, &want) == 0)
        reply_tail(call, &want);
}

static void ask_agent(struct api_call *call, const struct want *want) {
    struct stream_request request;

    schema_init(stream_request_schema(), &request);
    request.kind = STREAM_KIND_LOG;
    request.job = want->job;
    request.attempt = want->attempt;
    request.rank = want->rank;
    request.offset = want->offset;
    request.n_bytes_max = want->limit;
    request.wait_us = api_call_wait_us(call, WAIT_US_MAX);
    relay_open(call->s->relay, call, want->node, &request, on_log_failed);
}

void api_logs_read(struct api_call *call) {
    struct state_job job;
    struct want want;
    struct buf none = {0};
    int64_t id;

    if (api_find_job(call, call->params[0], &id) < 0 || api_find_record(call, id, &job) < 0)
        return;
    bool go_on = api_call_owns(call, job.spec.user) && read_want(call, &job, &want) == 0;
    bool ended = job_state_ended(job.state);
    schema_free(state_job_schema(), &job);
    if (!go_on)
        return;
    if (want.attempt && want.node >= 0)
        ask_agent(call, &want);
    else if (want.attempt)
        reply_tail(call, &want);
    else if (ended || !api_call_wait(call, WATCH_JOB, id))
        reply_bytes(call, &want, 0, &none, ended);
}

static void on_join_failed(struct api_call *call, int r, const struct hai_err *err) {
    api_call_error(call, r == -ETIMEDOUT || r == -ENOTCONN ? -EBUSY : r, err);
}

/* The words of a shell's command, a JSON array in a header. */
static int read_command(struct api_call *call, struct stream_request *request) {
    const char *text = http_request_header(call->request, "Hai-Command");
    _cleanup_(json_freep) struct json *words = NULL;

    if (!text)
        return 0;
    if (json_parse(text, strlen(text), NULL, &words, NULL) < 0 ||
        json_kind(words) != JSON_KIND_ARRAY)
        return -EINVAL;
    for (const struct json *word = json_first(words); word; word = json_next(word)) {
        if (json_kind(word) != JSON_KIND_STRING)
            return -EINVAL;
        *LIST_ADD(&request->command) = hai_strdup(json_as_string(word));
    }
    return 0;
}

static int read_join(struct api_call *call, const struct state_job *job, struct want *want,
                     struct stream_request *request) {
    const char *kind = http_request_query(call->request, "kind");
    const char *upgrade = http_request_header(call->request, "Upgrade");

    schema_init(stream_request_schema(), request);
    if (read_want(call, job, want) < 0 ||
        api_call_query_int(call, "rows", 0, 10000, 0, &request->rows) < 0 ||
        api_call_query_int(call, "cols", 0, 10000, 0, &request->cols) < 0)
        return -EINVAL;
    int number = kind ? schema_enum_parse(&stream_kind_enum, kind) : -1;
    if ((number != STREAM_KIND_ATTACH && number != STREAM_KIND_SHELL) || !upgrade ||
        strcmp(upgrade, "hai-stream") != 0 || read_command(call, request) < 0) {
        schema_free(stream_request_schema(), request);
        api_call_fail(call, 400, "invalid",
                      "expected kind=attach or kind=shell, Upgrade: hai-stream, and Hai-Command as "
                      "a JSON array of texts");
        return -EINVAL;
    }
    request->kind = (enum stream_kind)number;
    request->job = want->job;
    request->attempt = want->attempt;
    request->rank = want->rank;
    request->tty = api_call_query_flag(call, "tty");
    return 0;
}

void api_logs_join(struct api_call *call) {
    struct state_job job;
    struct stream_request request;
    struct want want;
    int64_t id;

    if (api_find_job(call, call->params[0], &id) < 0 || api_find_record(call, id, &job) < 0)
        return;
    bool go_on = api_call_owns(call, job.spec.user) && read_join(call, &job, &want, &request) == 0;
    schema_free(state_job_schema(), &job);
    if (!go_on)
        return;
    if (want.node < 0 || want.over)
        api_call_fail(call, 409, "not_running", "rank %lld of job %s does not run now",
                      (long long)want.rank, array_label_of(schedd_state(call->s), id).text);
    else
        relay_open(call->s->relay, call, want.node, &request, on_join_failed);
    schema_free(stream_request_schema(), &request);
}

void api_logs_agent(struct api_call *call) {
    relay_agent(call);
}
