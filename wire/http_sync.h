/* http_sync.h - a small blocking HTTP/1.1 client for programs that ask and end: the `hai` command.
 *
 * One connection, kept open; requests may be sent ahead of their answers (pipelining). Plain TCP
 * and Unix sockets only: libcurl's start-up alone takes 9 ms, more than a whole `hai submit` may.
 * TLS and daemons are http_client.h's business.
 */
#pragma once
#include "lib/pure/buf.h"

struct http_sync;

/* One answer. head: status line and header lines as received. */
struct http_sync_reply {
    int status;
    struct buf head;
    struct buf body;
};

/* url: http://HOST[:PORT] or unix:/PATH. token: for the Authorization header; may be NULL. Connects
 * with the first request. -EINVAL: bad url or https. */
int http_sync_open(const char *url, const char *token, struct http_sync **ret, struct hai_err *err);
void http_sync_close(struct http_sync *http);
DEFINE_CLEANUP(struct http_sync *, http_sync_close)

/* Send a request; its answer comes with http_sync_receive, in order.
 *
 * target   path and query, encoded
 * headers  more header lines, each ended by \r\n; NULL for none
 *
 * While the socket takes no more, what arrives is read and kept, so both sides cannot wait for
 * each other. Returns 0, or -ECONNREFUSED, -ECONNRESET, -ENOENT (Unix socket), ...
 */
int http_sync_send(struct http_sync *http, const char *method, const char *target,
                   const char *headers, const void *body, size_t n_bytes, struct hai_err *err);

/* The next answer; timeout_ms -1: wait for ever. -ETIMEDOUT leaves the answer to a later call, any
 * other error closes the connection. The caller clears ret with http_sync_reply_free. */
int http_sync_receive(struct http_sync *http, int timeout_ms, struct http_sync_reply *ret,
                      struct hai_err *err);
void http_sync_reply_free(struct http_sync_reply *reply);

/* Send and receive. A connection that the server had closed meanwhile is opened again once. */
int http_sync_ask(struct http_sync *http, const char *method, const char *target,
                  const char *headers, const void *body, size_t n_bytes, int timeout_ms,
                  struct http_sync_reply *ret, struct hai_err *err);

/* The value of a header into ret; false, and ret empty, if there is none. */
bool http_sync_header(const struct http_sync_reply *reply, const char *name, size_t n_bytes,
                      char *ret);

/* Leave HTTP: after an answer with status 101 the descriptor and what arrived early become the
 * caller's. */
int http_sync_detach(struct http_sync *http, struct buf *ret_early);

/* The descriptor to poll for an answer, -1 while not connected. http_sync_has_bytes: do not poll,
 * something is there already. */
int http_sync_fd(const struct http_sync *http);
bool http_sync_has_bytes(const struct http_sync *http);

/* Append text with everything but letters, digits and -._~ as %XX. */
void http_sync_encode(const char *text, struct buf *ret);
