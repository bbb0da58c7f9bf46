#include "wire/http_server.h"

#include "lib/fileio.h"
#include "lib/log.h"
#include "lib/timefmt.h"
#include "wire/http_address.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum {
    BODY_BYTES_DEFAULT = 1 << 20,
    IDLE_S_DEFAULT = 75,
    CONNECTIONS_DEFAULT = 16384,
    LISTENERS_MAX = 4,
    POOL_BYTES = 16 << 10, // of one connection: request head, and the window of its body
    POOL_STEP_BYTES = 4 << 10,
    STREAM_BLOCK_BYTES = 32 << 10,
    OVERRUN_BYTES_MAX = 8 << 20, // read and dropped of a chunked body that proves too large
    RUNS_MAX = 16,               // of one listener before others of the loop have their turn
    WATCH_AFTER_US = 50000,
};

/* One socket with its MHD daemon: a daemon has one listening socket. */
struct listener {
    struct http_server *server;
    struct MHD_Daemon *daemon;
    struct loop_source *source;
    struct loop_source *timer;
    struct loop_source *kick; // MHD changed without its epoll descriptor showing it
    char *unix_path;
};

struct http_server {
    struct loop *loop;
    struct http_server_config config;
    struct listener listeners[LISTENERS_MAX];
    int n_listeners;
    struct http_request *requests; // those in progress
    struct loop_source *watch_timer;
    bool watch_armed;
    bool stopping;
    struct http_server_stats stats;
};

enum state {
    STATE_BODY,     // being received
    STATE_HANDLE,   // in or before `handle`
    STATE_HELD,     // the caller answers later
    STATE_ANSWERED, // a response waits to be queued, or is queued
    STATE_STREAM,   // the caller writes the response's body
    STATE_DEAD,     // close the connection
};

struct http_request {
    struct http_server *server;
    struct listener *listener;
    struct MHD_Connection *connection;
    struct http_request *next;
    struct http_request *previous;
    char *method;
    char *path;
    enum state state;
    bool suspended;
    bool in_callback; // MHD is calling us for this request
    bool too_large;
    bool owned; // the caller may still touch it
    struct buf body;
    size_t n_dropped;
    http_body_fn on_body;
    http_request_fn on_close;
    http_request_fn on_drain;
    void *data; // of the three
    void *context;
    struct buf headers; // name and value, each with its zero, one after another
    struct MHD_Response *response;
    int status;
    bool queued;
    struct buf out; // of a stream
    size_t out_at;
    bool out_ended;
    int64_t suspended_us;
    struct loop_source *watch; // sees the client go while MHD does not look
    void (*on_upgrade)(struct http_raw *raw, void *data);
};

static void request_suspend(struct http_request *request);
static void request_resume(struct http_request *request);

static void listener_run(struct listener *l) {
    MHD_UNSIGNED_LONG_LONG timeout_ms;

    for (int i = 0; i < RUNS_MAX; i++) {
        MHD_run(l->daemon);
        if (MHD_get_timeout(l->daemon, &timeout_ms) != MHD_YES) {
            loop_timer_stop(l->timer);
            return;
        }
        if (timeout_ms > 0) {
            loop_timer_after(l->timer, (int64_t)timeout_ms * 1000);
            return;
        }
    }
    loop_defer_arm(l->kick);
}

static void on_epoll(int fd, uint32_t events, void *data) {
    listener_run(data);
}

static void on_timer(void *data) {
    listener_run(data);
}

/* The client of a suspended request has gone: MHD looks again and finds it so. */
static void on_gone(int fd, uint32_t events, void *data) {
    struct http_request *request = data;

    request->state = STATE_DEAD;
    request_resume(request);
}

/* Requests are mostly answered within the turn or the next commit, so only those that wait longer
 * pay for a watch on their socket. */
static void on_watch(void *data) {
    struct http_server *server = data;
    int64_t now_us = timefmt_monotonic_us();
    bool more = false;

    for (struct http_request *r = server->requests; r; r = r->next) {
        if (!r->suspended || r->watch)
            continue;
        if (now_us - r->suspended_us < WATCH_AFTER_US) {
            more = true;
            continue;
        }
        int fd =
            MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        r->watch = loop_io_new(server->loop, fd, EPOLLRDHUP | EPOLLHUP | EPOLLERR, on_gone, r);
    }
    server->watch_armed = more;
    if (more)
        loop_timer_after(server->watch_timer, WATCH_AFTER_US);
}

static void request_suspend(struct http_request *request) {
    struct http_server *server = request->server;

    if (request->suspended)
        return;
    MHD_suspend_connection(request->connection);
    request->suspended = true;
    request->suspended_us = timefmt_monotonic_us();
    if (!server->watch_armed)
        loop_timer_after(server->watch_timer, WATCH_AFTER_US);
    server->watch_armed = true;
}

static void request_resume(struct http_request *request) {
    loop_source_free(TAKE_PTR(request->watch));
    if (!request->suspended)
        return;
    request->suspended = false;
    MHD_resume_connection(request->connection);
    loop_defer_arm(request->listener->kick);
}

static struct http_request *request_new(struct listener *l, struct MHD_Connection *connection,
                                        const char *method, const char *path) {
    struct http_request *request = hai_new(struct http_request);
    struct http_server *server = l->server;

    request->server = server;
    request->listener = l;
    request->connection = connection;
    request->method = hai_strdup(method);
    request->path = hai_strdup(path);
    request->owned = true;
    request->next = server->requests;
    if (request->next)
        request->next->previous = request;
    server->requests = request;
    server->stats.n_requests++;
    return request;
}

static void request_free(struct http_request *request) {
    struct http_server *server = request->server;

    if (request->next)
        request->next->previous = request->previous;
    if (request->previous)
        request->previous->next = request->next;
    else
        server->requests = request->next;
    loop_source_free(request->watch);
    if (request->response)
        MHD_destroy_response(request->response);
    buf_free(&request->body);
    buf_free(&request->headers);
    buf_free(&request->out);
    free(request->method);
    free(request->path);
    free(request);
}

static void on_completed(void *data, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode code) {
    struct http_request *request = *slot;

    if (!request)
        return;
    *slot = NULL;
    if (request->owned && request->on_close)
        request->on_close(request, request->data);
    request_free(request);
}

static enum MHD_Result queue(struct http_request *request) {
    request->queued = true;
    return MHD_queue_response(request->connection, (unsigned)request->status, request->response);
}

/* Make the response known to MHD, at once within its callback and else at the next one. */
static void answer(struct http_request *request, int status, struct MHD_Response *response) {
    const char *at = (const char *)request->headers.data;
    const char *end = at + request->headers.n_bytes;

    assert(response);
    if (request->state == STATE_DEAD) { // the client has gone, and MHD has not yet looked
        MHD_destroy_response(response);
        return;
    }
    assert(request->state <= STATE_HELD);
    while (at < end) {
        const char *value = at + strlen(at) + 1;
        (void)MHD_add_response_header(response, at, value);
        at = value + strlen(value) + 1;
    }
    request->status = status;
    request->response = response;
    request->state = STATE_ANSWERED;
    if (!request->in_callback)
        request_resume(request);
}

static enum MHD_Result refuse(struct http_request *request, int status, const char *code,
                              const char *format, ...) _printf_(4, 5);

/* An answer of the server itself, in the form of every error of the API. */
static enum MHD_Result refuse(struct http_request *request, int status, const char *code,
                              const char *format, ...) {
    struct buf body = {0};
    va_list ap;

    va_start(ap, format);
    _cleanup_free_ char *text = NULL;
    if (vasprintf(&text, format, ap) < 0)
        abort();
    va_end(ap);
    buf_printf(&body,
               "{\"error\":{\"code\":\"%s\",\"message\":\"%s\",\"where\":null,\"hint\":null}}\n",
               code, text);
    http_respond(request, status, "application/json", &body);
    request->owned = false;
    return queue(request);
}

static enum MHD_Result refuse_large(struct http_request *request) {
    request->server->stats.n_refused++;
    return refuse(request, 413, "too_large", "the body is larger than %zu bytes",
                  request->server->config.body_bytes_max);
}

/* The head is there. Queueing a response here makes MHD close after it, as the body is not read. */
static enum MHD_Result begin(struct http_request *request) {
    struct http_server *server = request->server;
    const char *length = http_request_header(request, "Content-Length");

    if (server->stopping)
        return MHD_NO;
    request->in_callback = true;
    if (server->config.begin)
        server->config.begin(request, server->config.data);
    request->in_callback = false;
    if (request->state == STATE_ANSWERED) {
        request->owned = false;
        return queue(request);
    }
    if (length && !request->on_body && strtoull(length, NULL, 10) > server->config.body_bytes_max)
        return refuse_large(request);
    return MHD_YES;
}

/* MHD takes no response before the body's end; what still comes of it is dropped, within limits. */
static enum MHD_Result drop(struct http_request *request, size_t *n_bytes) {
    request->n_dropped += *n_bytes;
    *n_bytes = 0;
    return request->n_dropped > OVERRUN_BYTES_MAX ? MHD_NO : MHD_YES;
}

static enum MHD_Result receive(struct http_request *request, const char *piece, size_t *n_bytes) {
    size_t n_max = request->server->config.body_bytes_max;

    if (request->state == STATE_DEAD)
        return MHD_NO;
    if (request->state != STATE_BODY || request->too_large)
        return drop(request, n_bytes);
    if (request->on_body) {
        request->in_callback = true;
        size_t taken = request->on_body(request, piece, *n_bytes, request->data);
        request->in_callback = false;
        assert(taken <= *n_bytes);
        if (request->state != STATE_BODY)
            return drop(request, n_bytes);
        if (taken < *n_bytes)
            request_suspend(request);
        *n_bytes -= taken;
        return MHD_YES;
    }
    if (request->body.n_bytes + *n_bytes > n_max) {
        request->too_large = true;
        buf_free(&request->body);
        return drop(request, n_bytes);
    }
    buf_add(&request->body, piece, *n_bytes);
    *n_bytes = 0;
    return MHD_YES;
}

/* The body is complete, or a held request is looked at again. */
static enum MHD_Result complete(struct http_request *request) {
    struct http_server *server = request->server;

    if (request->state == STATE_DEAD || server->stopping)
        return MHD_NO;
    if (request->state == STATE_BODY) {
        if (request->too_large)
            return refuse_large(request);
        request->state = STATE_HANDLE;
        request->in_callback = true;
        server->config.handle(request, server->config.data);
        request->in_callback = false;
    }
    if (request->state == STATE_HELD) {
        request_suspend(request);
        return MHD_YES;
    }
    assert(request->state == STATE_ANSWERED || request->state == STATE_STREAM);
    return request->queued ? MHD_YES : queue(request);
}

static enum MHD_Result on_access(void *data, struct MHD_Connection *connection, const char *path,
                                 const char *method, const char *version, const char *piece,
                                 size_t *n_bytes, void **slot) {
    struct http_request *request = *slot;

    if (!request) {
        *slot = request = request_new(data, connection, method, path);
        return begin(request);
    }
    if (*n_bytes > 0)
        return receive(request, piece, n_bytes);
    return complete(request);
}

static void on_mhd_log(void *data, const char *format, va_list ap) {
    char text[256];

    (void)vsnprintf(text, sizeof text, format, ap);
    text[strcspn(text, "\n")] = 0;
    log_debug("http: %s", text);
}

static void on_connection(void *data, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode code) {
    struct listener *l = data;

    l->server->stats.n_connections += code == MHD_CONNECTION_NOTIFY_STARTED ? 1 : -1;
}

struct http_server *http_server_new(struct loop *loop, const struct http_server_config *config) {
    struct http_server *server = hai_new(struct http_server);
    struct http_server_config *c = &server->config;

    assert(config->handle);
    server->loop = loop;
    *c = *config;
    c->body_bytes_max = c->body_bytes_max ? c->body_bytes_max : BODY_BYTES_DEFAULT;
    c->idle_s = c->idle_s ? c->idle_s : IDLE_S_DEFAULT;
    c->n_connections_max = c->n_connections_max ? c->n_connections_max : CONNECTIONS_DEFAULT;
    c->unix_mode = c->unix_mode ? c->unix_mode : 0600;
    server->watch_timer = loop_timer_new(loop, LOOP_MONOTONIC, on_watch, server);
    return server;
}

void http_server_free(struct http_server *server) {
    if (!server)
        return;
    server->stopping = true;
    for (struct http_request *r = server->requests; r; r = r->next) {
        r->state = STATE_DEAD;
        loop_source_free(TAKE_PTR(r->watch));
        if (r->suspended)
            MHD_resume_connection(r->connection);
        r->suspended = false;
    }
    for (int i = 0; i < server->n_listeners; i++) {
        struct listener *l = &server->listeners[i];
        MHD_run(l->daemon); // takes the resumed ones back, or stopping them would be refused
        loop_source_free(l->source);
        loop_source_free(l->timer);
        loop_source_free(l->kick);
        MHD_stop_daemon(TAKE_PTR(l->daemon));
        if (l->unix_path)
            (void)unlink(l->unix_path);
        free(l->unix_path);
    }
    loop_source_free(server->watch_timer);
    free(server);
}

int http_server_listen(struct http_server *server, const char *address, struct hai_err *err) {
    struct listener *l = &server->listeners[server->n_listeners];
    const struct http_server_config *c = &server->config;
    int port = 0;

    if (server->n_listeners == LISTENERS_MAX)
        return hai_fail(err, -E2BIG, "%s: at most %d addresses", address, LISTENERS_MAX);
    _cleanup_(closep) int fd = http_address_listen(address, c->unix_mode, &port, err);
    if (fd < 0)
        return fd;
    *l = (struct listener){.server = server};
    l->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE | MHD_USE_ERROR_LOG, 0, NULL,
        NULL, on_access, l, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL, MHD_OPTION_LISTEN_SOCKET,
        fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, l, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)c->idle_s,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)c->n_connections_max,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES,
        MHD_OPTION_CONNECTION_MEMORY_INCREMENT, (size_t)POOL_STEP_BYTES, MHD_OPTION_END);
    if (!l->daemon)
        return hai_fail(err, -EIO, "%s: the HTTP server did not start", address);
    TAKE_FD(fd); // MHD closes it
    int epoll_fd = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    l->source = loop_io_new(server->loop, epoll_fd, EPOLLIN, on_epoll, l);
    l->timer = loop_timer_new(server->loop, LOOP_MONOTONIC, on_timer, l);
    l->kick = loop_defer_new(server->loop, on_timer, l);
    l->unix_path = hai_strdup(http_address_path(address));
    server->n_listeners++;
    return port;
}

struct http_server_stats http_server_stats(const struct http_server *server) {
    struct http_server_stats stats = server->stats;

    for (const struct http_request *r = server->requests; r; r = r->next)
        stats.n_held += r->state == STATE_HELD;
    return stats;
}

const char *http_request_method(const struct http_request *request) {
    return request->method;
}

const char *http_request_path(const struct http_request *request) {
    return request->path;
}

const char *http_request_header(const struct http_request *request, const char *name) {
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

/* Not MHD_lookup_connection_value: it cannot tell `?watch` from an absent name. */
struct query {
    const char *name;
    const char *value;
    void (*fn)(const char *name, const char *value, void *data);
    void *data;
};

static enum MHD_Result on_query(void *data, enum MHD_ValueKind kind, const char *name,
                                const char *value) {
    struct query *query = data;

    value = value ? value : "";
    if (query->fn) {
        query->fn(name, value, query->data);
        return MHD_YES;
    }
    if (strcmp(name, query->name) != 0)
        return MHD_YES;
    query->value = value;
    return MHD_NO;
}

const char *http_request_query(const struct http_request *request, const char *name) {
    struct query query = {.name = name};

    MHD_get_connection_values(request->connection, MHD_GET_ARGUMENT_KIND, on_query, &query);
    return query.value;
}

void http_request_queries(const struct http_request *request,
                          void (*fn)(const char *name, const char *value, void *data), void *data) {
    struct query query = {.fn = fn, .data = data};

    MHD_get_connection_values(request->connection, MHD_GET_ARGUMENT_KIND, on_query, &query);
}

const struct buf *http_request_body(const struct http_request *request) {
    return &request->body;
}

void http_request_set_context(struct http_request *request, void *context) {
    request->context = context;
}

void *http_request_context(const struct http_request *request) {
    return request->context;
}

void http_request_take_body(struct http_request *request, http_body_fn fn, http_request_fn on_close,
                            void *data) {
    assert(request->state == STATE_BODY);
    request->on_body = fn;
    request->on_close = on_close;
    request->data = data;
}

void http_request_resume_body(struct http_request *request) {
    request_resume(request);
}

void http_request_hold(struct http_request *request, http_request_fn on_close, void *data) {
    assert(request->state == STATE_HANDLE);
    request->state = STATE_HELD;
    request->on_close = on_close;
    request->data = data;
}

void http_request_add_header(struct http_request *request, const char *name, const char *value) {
    assert(!request->response);
    buf_add(&request->headers, name, strlen(name) + 1);
    buf_add(&request->headers, value, strlen(value) + 1);
}

void http_respond(struct http_request *request, int status, const char *type, struct buf *body) {
    struct MHD_Response *response =
        body && body->n_bytes
            ? MHD_create_response_from_buffer(body->n_bytes, body->data, MHD_RESPMEM_MUST_FREE)
            : MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);

    if (body && body->n_bytes)
        *body = (struct buf){0};
    else if (body)
        buf_free(body);
    if (type)
        (void)MHD_add_response_header(response, "Content-Type", type);
    request->owned = false;
    answer(request, status, response);
}

static ssize_t on_stream_read(void *data, uint64_t position, char *to, size_t n_bytes_max) {
    struct http_request *request = data;
    size_t n = MIN(request->out.n_bytes - request->out_at, n_bytes_max);

    if (request->state == STATE_DEAD)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (n == 0 && request->out_ended)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == 0) {
        request_suspend(request);
        return 0;
    }
    memcpy(to, request->out.data + request->out_at, n);
    request->out_at += n;
    if (request->out_at == request->out.n_bytes) {
        buf_clear(&request->out);
        request->out_at = 0;
        if (request->on_drain && !request->out_ended)
            request->on_drain(request, request->data);
    }
    return (ssize_t)n;
}

void http_respond_stream(struct http_request *request, int status, const char *type,
                         http_request_fn on_drain, http_request_fn on_close, void *data) {
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, on_stream_read, request, NULL);

    if (type)
        (void)MHD_add_response_header(response, "Content-Type", type);
    request->on_drain = on_drain;
    request->on_close = on_close;
    request->data = data;
    answer(request, status, response);
    if (request->state != STATE_DEAD)
        request->state = STATE_STREAM;
}

size_t http_stream_write(struct http_request *request, const void *data, size_t n_bytes) {
    assert(request->state == STATE_STREAM || request->state == STATE_DEAD);
    assert(!request->out_ended);
    if (request->out_at > STREAM_BLOCK_BYTES) {
        buf_drop(&request->out, request->out_at);
        request->out_at = 0;
    }
    buf_add(&request->out, data, n_bytes);
    request_resume(request);
    return request->out.n_bytes - request->out_at;
}

void http_stream_end(struct http_request *request) {
    assert(request->state == STATE_STREAM || request->state == STATE_DEAD);
    request->out_ended = true;
    request->owned = false;
    request_resume(request);
}

/* An upgraded connection: a plain socket that MHD closes when told. */
struct upgraded {
    int fd;
    struct MHD_UpgradeResponseHandle *handle;
    struct listener *listener;
};

static ssize_t upgraded_read(void *self, void *data, size_t n_bytes) {
    ssize_t n = recv(((struct upgraded *)self)->fd, data, n_bytes, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

static ssize_t upgraded_write(void *self, const void *data, size_t n_bytes) {
    ssize_t n = send(((struct upgraded *)self)->fd, data, n_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

static void upgraded_close(void *self) {
    struct upgraded *up = self;

    (void)MHD_upgrade_action(up->handle, MHD_UPGRADE_ACTION_CLOSE);
    loop_defer_arm(up->listener->kick); // the socket is closed when MHD runs
    free(up);
}

static const struct http_raw_ops upgraded_ops = {upgraded_read, upgraded_write, upgraded_close};

static void on_upgrade(void *data, struct MHD_Connection *connection, void *slot, const char *extra,
                       size_t n_extra_bytes, MHD_socket fd,
                       struct MHD_UpgradeResponseHandle *handle) {
    struct http_request *request = data;
    struct upgraded *up = hai_new(struct upgraded);

    up->fd = fd;
    up->handle = handle;
    up->listener = request->listener;
    request->on_upgrade(http_raw_new(&upgraded_ops, up, fd, extra, n_extra_bytes), request->data);
}

int http_respond_upgrade(struct http_request *request, const char *protocol,
                         void (*fn)(struct http_raw *raw, void *data), void *data) {
    const char *wanted = http_request_header(request, "Upgrade");

    if (!wanted || strcasecmp(wanted, protocol) != 0)
        return -EINVAL;
    struct MHD_Response *response = MHD_create_response_for_upgrade(on_upgrade, request);
    (void)MHD_add_response_header(response, "Upgrade", protocol);
    request->on_upgrade = fn;
    request->data = data;
    request->on_close = NULL;
    request->owned = false;
    answer(request, 101, response);
    return 0;
}
