#include "agent/upd_fence.h"

#include <limits.h>

#include "lib/fileio.h"
#include "lib/json.h"
#include "lib/json_schema.h"
#include "lib/log.h"
#include "wire/http_client.h"
#include "wire/messages.h"

#define ASK_AGAIN_US INT64_C(1000000)

enum {
    ASK_TIMEOUT_MS = 5000,
    SMALL_FILE_BYTES_MAX = 4096,
};

struct upd_fence {
    struct loop *loop;
    char *schedd_dir;
    void (*on_lost)(const char *node, void *data);
    void *data;
    struct loop_source *timer;
    struct http_client *client; // NULL until the scheduler has said where it listens
    char *address;              // of client
    int64_t n_clients;          // so far
    int64_t n_accepted;         // reports; when the nodes were asked for:
    int64_t n_accepted_asked;
};

/* The first line of a file of the scheduler's state directory, or NULL. */
static char *read_line(const struct upd_fence *fence, const char *name) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", fence->schedd_dir, name);
    _cleanup_(buf_free) struct buf text = {0};

    if (fileio_read_file(path, SMALL_FILE_BYTES_MAX, &text, NULL) < 0)
        return NULL;
    const char *line = buf_cstr(&text);
    return hai_strndup(line, strcspn(line, "\r\n"));
}

/* A scheduler that was started again may listen on another port. */
static bool connect_client(struct upd_fence *fence) {
    struct hai_err err = {0};
    _cleanup_free_ char *port = read_line(fence, "port");
    _cleanup_free_ char *token = read_line(fence, "tokens/admin");

    if (!port || !token)
        return false;
    _cleanup_free_ char *address = hai_asprintf("http://127.0.0.1:%s", port);
    if (hai_streq(address, fence->address))
        return true;
    http_client_free(TAKE_PTR(fence->client));
    hai_strset(&fence->address, NULL);
    if (http_client_new(fence->loop, address, token, &fence->client, &err) < 0) {
        log_warning("cannot ask the scheduler: %s", hai_err_text(&err));
        return false;
    }
    fence->address = TAKE_PTR(address);
    fence->n_clients++;
    return true;
}

static void on_nodes(struct http_answer *answer, void *data) {
    struct upd_fence *fence = data;
    struct hai_err err = {0};
    struct json *list = NULL;

    loop_timer_after(fence->timer, ASK_AGAIN_US);
    if (answer->r < 0 || answer->status != 200)
        return; // starting, or going: the next answer will tell
    if (fence->n_accepted != fence->n_accepted_asked)
        return; // it may be of before, and call a node lost that has begun a new life
    int r = json_parse(answer->body.data, answer->body.n_bytes, "nodes", &list, &err);
    if (r < 0) {
        log_warning("the scheduler's list of nodes: %s", hai_err_text(&err));
        return;
    }
    for (const struct json *item = json_first(list); item; item = json_next(item)) {
        struct node_view view;
        r = json_schema_decode(node_view_schema(), item, JSON_SCHEMA_WIRE,
                               JSON_SCHEMA_IGNORE_UNKNOWN, "nodes", &view, NULL, &err);
        if (r < 0) {
            log_warning("the scheduler's list of nodes: %s", hai_err_text(&err));
            break;
        }
        if (hai_streq(view.state, "lost"))
            fence->on_lost(view.name, fence->data);
        schema_free(node_view_schema(), &view);
    }
    json_free(list);
}

static void ask(void *data) {
    struct upd_fence *fence = data;

    fence->n_accepted_asked = fence->n_accepted;
    if (connect_client(fence))
        http_client_send(fence->client, "GET", "/api/v1/nodes", NULL, NULL, 0, ASK_TIMEOUT_MS,
                         on_nodes, fence);
    else
        loop_timer_after(fence->timer, ASK_AGAIN_US);
}

static void on_reported(struct http_answer *answer, void *data) {
    struct upd_report *report = data;

    report->sent = false;
    if (answer->r < 0) {
        log_warning("a fence was not reported: %s", hai_err_text(&answer->err));
    } else if (answer->status != 200) {
        log_warning("a fence was not accepted: status %d, %.*s", answer->status,
                    (int)MIN(answer->body.n_bytes, (size_t)400), (const char *)answer->body.data);
    } else {
        report->waits = false;
        report->fence->n_accepted++;
    }
}

void upd_fence_report(struct upd_fence *fence, struct upd_report *report) {
    struct node_fenced message;
    _cleanup_(buf_free) struct buf body = {0};
    _cleanup_free_ char *target = hai_asprintf("/api/v1/nodes/%s/fenced", report->node);

    // What a client of before was asked is not answered any more.
    if (!fence->client || (report->sent && report->client == fence->n_clients))
        return;
    schema_init(node_fenced_schema(), &message);
    message.boot_id = hai_strdup(report->boot_id);
    message.evidence = hai_strdup(report->evidence);
    json_schema_dump(node_fenced_schema(), &message, &body);
    schema_free(node_fenced_schema(), &message);
    report->fence = fence;
    report->client = fence->n_clients;
    report->sent = true;
    http_client_send(fence->client, "POST", target, NULL, body.data, body.n_bytes, ASK_TIMEOUT_MS,
                     on_reported, report);
}

struct upd_fence *upd_fence_new(struct loop *loop, const char *schedd_dir,
                                void (*on_lost)(const char *node, void *data), void *data) {
    struct upd_fence *fence = hai_new(struct upd_fence);

    fence->loop = loop;
    fence->schedd_dir = hai_strdup(schedd_dir);
    fence->on_lost = on_lost;
    fence->data = data;
    fence->timer = loop_timer_new(loop, LOOP_MONOTONIC, ask, fence);
    loop_timer_after(fence->timer, ASK_AGAIN_US);
    return fence;
}

void upd_fence_free(struct upd_fence *fence) {
    if (!fence)
        return;
    http_client_free(fence->client);
    loop_source_free(fence->timer);
    free(fence->schedd_dir);
    free(fence->address);
    free(fence);
}
