/* http_server.h - HTTP/1.1 requests into callbacks, in the caller's event loop, without threads.
 *
 * Knows connections, bodies, limits and held requests; routes, tokens and JSON are for others.
 * Over libmicrohttpd with its epoll descriptor in the loop.
 *
 * Life of a request: `begin` (optional; head is there, body not), then `handle` (body complete).
 * One of them answers with a http_respond function, or `handle` calls http_request_hold and answers
 * later. The request is the caller's until it is answered, its stream is ended, or on_close was
 * called; then it must not be touched again.
 */
#pragma once
#include "lib/base.h"
#include "lib/loop.h"
#include "lib/pure/buf.h"
#include "wire/http_raw.h"

struct http_server;
struct http_request;

typedef void (*http_request_fn)(struct http_request *request, void *data);

struct http_server_config {
    http_request_fn begin; // may answer at once (bad token), or take the body in pieces
    http_request_fn handle;
    void *data;
    size_t body_bytes_max; // 0: 1 MiB; above it 413 at once
    int idle_s;            // 0: 75; silent connections are closed, held requests are not
    int n_connections_max; // 0: 16384
    mode_t unix_mode;      // of Unix sockets; 0: 0600
};

/* Counters since the start. */
struct http_server_stats {
    int64_t n_requests;
    int64_t n_connections; // open now
    int64_t n_held;        // requests held now
    int64_t n_refused;     // bodies too large
};

/* Without a listener yet. The loop must outlive the server. */
struct http_server *http_server_new(struct loop *loop, const struct http_server_config *config);

/* Ends all connections: on_close is called for held requests and streams, upgraded streams must
 * have been closed. Not from within a callback of the server. */
void http_server_free(struct http_server *server);
DEFINE_CLEANUP(struct http_server *, http_server_free)

/* Listen on `127.0.0.1:7480`, `[::1]:0` (numeric; port 0: any free one) or `unix:/run/hai/x.sock`
 * (an old socket there is replaced). May be called for several addresses. Returns the port, or 0
 * for a Unix socket. */
int http_server_listen(struct http_server *server, const char *address, struct hai_err *err);

struct http_server_stats http_server_stats(const struct http_server *server);

/* What was asked. Texts belong to the request. Headers and queries: NULL when absent, "" for a
 * query without a value. The path has its %xx decoded. */
const char *http_request_method(const struct http_request *request);
const char *http_request_path(const struct http_request *request);
const char *http_request_header(const struct http_request *request, const char *name);
const char *http_request_query(const struct http_request *request, const char *name);
const struct buf *http_request_body(const struct http_request *request); // from `handle` on

/* Call fn for every name=value of the query, in order. */
void http_request_queries(const struct http_request *request,
                          void (*fn)(const char *name, const char *value, void *data), void *data);

/* A place for what the caller knows about a request (its user, say), between begin and handle. */
void http_request_set_context(struct http_request *request, void *context);
void *http_request_context(const struct http_request *request);

/* In `begin`: do not collect the body; fn gets its pieces, and `handle` follows at its end with an
 * empty body. fn returns how many bytes it took: fewer than it got stops the client until
 * http_request_resume_body. It may answer early; the rest of the body is then dropped. on_close as
 * in http_request_hold. No limit applies but the caller's. */
typedef size_t (*http_body_fn)(struct http_request *request, const void *piece, size_t n_bytes,
                               void *data);
void http_request_take_body(struct http_request *request, http_body_fn fn, http_request_fn on_close,
                            void *data);
void http_request_resume_body(struct http_request *request);

/* In `handle`: the answer comes later. on_close (may be NULL) is called instead if the client goes
 * away first, within about 0.1 s. */
void http_request_hold(struct http_request *request, http_request_fn on_close, void *data);

/* Add a header to the answer; before responding. */
void http_request_add_header(struct http_request *request, const char *name, const char *value);

/* Answer. The content of body is taken over (body is empty afterwards); NULL for no body. type is
 * the Content-Type, may be NULL. */
void http_respond(struct http_request *request, int status, const char *type, struct buf *body);

/* Answer with a body that is not there yet, sent chunked as it is written. on_drain (may be NULL)
 * is called when all that was written has gone out, on_close when the client has gone. */
void http_respond_stream(struct http_request *request, int status, const char *type,
                         http_request_fn on_drain, http_request_fn on_close, void *data);
size_t http_stream_write(struct http_request *request, const void *data,
                         size_t n_bytes); // returns the bytes still waiting, these included
void http_stream_end(struct http_request *request);

/* Answer 101 and hand the connection over; fn owns raw. protocol is the `Upgrade:` value, which the
 * client must have asked for; -EINVAL if it has not (then answer otherwise). */
int http_respond_upgrade(struct http_request *request, const char *protocol,
                         void (*fn)(struct http_raw *raw, void *data), void *data);
