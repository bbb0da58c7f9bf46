#include "scheduler/relay.h"

#include "lib/pure/map.h"
#include "scheduler/fleet.h"
#include "scheduler/joins.h"
#include <stdio.h>

enum { OPEN_US = 5 * 1000 * 1000 }; // an agent opens its end within this time

struct stream {
    struct relay *relay;
    int64_t id;
    enum stream_kind kind;
    int node;
    struct api_call *client;
    struct loop_source *timer;
    relay_failed_fn failed;
};

struct relay {
    struct schedd *s;
    int64_t next_id;
    struct map open; // id -> struct stream, waiting for its agent
    struct joins *joins;
};

struct relay *relay_new(struct schedd *s) {
    struct relay *relay = hai_new(struct relay);

    relay->s = s;
    relay->joins = joins_new(s->loop);
    /* Numbers of an earlier life of the scheduler mean nothing now. */
    relay->next_id = turn_now_us(s->turn);
    return relay;
}

/* The client's call is freed or goes another way. */
static void drop_stream(void *own) {
    struct stream *stream = own;

    map_remove(&stream->relay->open, stream->id);
    loop_source_free(stream->timer);
    free(stream);
}

/* Take a stream apart; the client's call is the caller's again. */
static struct api_call *release(struct stream *stream) {
    struct api_call *client = stream->client;

    client->own = NULL;
    client->own_free = NULL;
    drop_stream(stream);
    return client;
}

static void fail(struct stream *stream, int r, const struct hai_err *err) {
    relay_failed_fn failed = stream->failed;

    failed(release(stream), r, err);
}

static void on_late(void *data) {
    struct stream *stream = data;
    struct hai_err err = {0};

    int r = hai_fail_at(&err, -ETIMEDOUT, "node_away", NULL, NULL, "node %s does not answer",
                        schedd_state(stream->relay->s)->nodes[stream->node]->r.name);
    fail(stream, r, &err);
}

void relay_open(struct relay *relay, struct api_call *call, int node,
                struct stream_request *request, relay_failed_fn failed) {
    struct stream *stream = hai_new(struct stream);
    struct hai_err err = {0};

    assert(!call->own_free);
    *stream = (struct stream){.relay = relay,
                              .id = ++relay->next_id,
                              .kind = request->kind,
                              .node = node,
                              .client = call,
                              .failed = failed};
    stream->timer = loop_timer_new(relay->s->loop, LOOP_MONOTONIC, on_late, stream);
    loop_timer_after(stream->timer, OPEN_US + request->wait_us);
    map_put(&relay->open, stream->id, stream);
    api_call_hold(call);
    call->own = stream;
    call->own_free = drop_stream;
    request->id = stream->id;
    int r = fleet_request_stream(relay->s->fleet, node, request, &err);
    if (r < 0)
        fail(stream, r, &err);
}

static const char *const passed_headers[] = {"Hai-Attempt", "Hai-Offset", "Hai-Next-Offset",
                                             "Hai-End", "Hai-Attempts"};

/* The agent's body is the client's answer. */
static void pass_log(struct stream *stream, struct api_call *agent) {
    struct api_call *client = release(stream);
    struct buf text = {0};

    for (size_t i = 0; i < ARRAY_SIZE(passed_headers); i++) {
        const char *value = http_request_header(agent->request, passed_headers[i]);
        if (value && client->request)
            http_request_add_header(client->request, passed_headers[i], value);
    }
    const struct buf *body = http_request_body(agent->request);
    buf_add(&text, body->data, body->n_bytes);
    api_call_reply_text(client, 200, "text/plain; charset=utf-8", &text);
}

static void on_client_raw(struct http_raw *raw, void *data) {
    joins_add(data, 0, raw);
}

static void on_agent_raw(struct http_raw *raw, void *data) {
    joins_add(data, 1, raw);
}

/* Both ends become raw streams; whichever comes first waits for the other in the join. */
static void join_ends(struct stream *stream, struct api_call *agent) {
    struct joins *joins = stream->relay->joins;
    struct api_call *client = release(stream);
    struct join *join = joins_open(joins);

    /* Both have asked for it, which is all that could be wrong. */
    int r = http_respond_upgrade(client->request, "hai-stream", on_client_raw, join);
    assert(r == 0);
    r = http_respond_upgrade(agent->request, "hai-stream", on_agent_raw, join);
    assert(r == 0);
    api_call_finish(client);
    api_call_finish(agent);
}

static bool asks_upgrade(struct api_call *call) {
    const char *upgrade = http_request_header(call->request, "Upgrade");

    return upgrade && !strcmp(upgrade, "hai-stream");
}

void relay_agent(struct api_call *call) {
    struct stream *stream = map_get(&call->s->relay->open, strtoll(call->params[0], NULL, 10));
    const char *refusal = http_request_header(call->request, "Hai-Error");
    if (!refusal && http_request_header(call->request, "Hai-Missing"))
        refusal = "the node has no such file any more";
    struct hai_err err = {0};
    struct buf empty = {0};

    if (!stream || !stream->client->request) {
        api_call_fail(call, 410, "gone", "stream %.20s is not wanted any more", call->params[0]);
        return;
    }
    if (!hai_streq(schedd_state(call->s)->nodes[stream->node]->r.name, call->caller.node)) {
        api_call_fail(call, 403, "denied", "stream %.20s is another node's", call->params[0]);
        return;
    }
    if (!refusal && stream->kind != STREAM_KIND_LOG && asks_upgrade(call)) {
        join_ends(stream, call);
        return;
    }
    if (refusal || stream->kind != STREAM_KIND_LOG)
        fail(stream,
             hai_fail_at(&err, -ENOENT, "not_found", NULL, NULL, "%s",
                         refusal ? refusal : "the agent opened no stream"),
             &err);
    else
        pass_log(stream, call);
    api_call_reply_text(call, 200, NULL, &empty);
}

void relay_close(struct relay *relay) {
    joins_close_all(relay->joins);
}

void relay_free(struct relay *relay) {
    if (!relay)
        return;
    assert(map_count(&relay->open) == 0);
    joins_free(relay->joins);
    map_free(&relay->open);
    free(relay);
}
