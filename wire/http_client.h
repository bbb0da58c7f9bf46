/* http_client.h - HTTP requests of daemons, in the caller's event loop, over libcurl's multi
 * interface.
 *
 * One client speaks to one server with one token, keeps its connections open and may have many
 * requests under way. It knows no messages and never tries again: callers know what may be
 * repeated. Programs that ask once and end use http_sync.h, which starts faster.
 */
#pragma once
#include "lib/loop.h"
#include "lib/pure/buf.h"
#include "wire/http_raw.h"

struct http_client;
struct http_call;

/* url: `http://HOST:PORT` or `unix:/PATH`. token: for the Authorization header, may be NULL. Both
 * are copied. The loop must outlive the client. -EINVAL: no such form of url. */
int http_client_new(struct loop *loop, const char *url, const char *token, struct http_client **ret,
                    struct hai_err *err);

/* Ends all calls without calling back; upgraded streams must have been closed. */
void http_client_free(struct http_client *client);
DEFINE_CLEANUP(struct http_client *, http_client_free)

/* What came back. r is 0 if there was an answer of any status; else there was none: -ECONNREFUSED
 * (nobody listens), -ETIMEDOUT, -ECONNRESET or -EIO, with err saying more. body may be taken over
 * with TAKE; head is the header lines as received. Valid during the call back only. */
struct http_answer {
    int r;
    int status;
    struct buf body;
    struct buf head;
    struct hai_err err;
};

typedef void (*http_answer_fn)(struct http_answer *answer, void *data);

/* The value of a header of an answer into ret; false, and ret empty, if there is none. */
bool http_answer_header(const struct http_answer *answer, const char *name, size_t n_bytes,
                        char *ret);

/* Start a request. fn is called once, later, unless the call is cancelled.
 *
 * target      path and query, encoded: "/api/v1/nodes?since=3"
 * headers     further header lines "Name: value", NULL-terminated; NULL for none
 * body        copied; NULL for none. A body is sent as application/json unless a header says
 *             otherwise
 * timeout_ms  for the whole request
 */
struct http_call *http_client_send(struct http_client *client, const char *method,
                                   const char *target, const char *const headers[],
                                   const void *body, size_t n_bytes, int timeout_ms,
                                   http_answer_fn fn, void *data);

/* Forget a call whose fn has not been called yet. NULL is fine. */
void http_call_cancel(struct http_call *call);

/* Open a connection and ask with POST to leave HTTP for `protocol`. fn is called once: with a
 * stream that it owns, or with raw NULL and an error (err->r as above; -EPROTO with the status in
 * the text if the server answered otherwise). */
typedef void (*http_upgrade_fn)(struct http_raw *raw, const struct hai_err *err, void *data);
struct http_call *http_client_upgrade(struct http_client *client, const char *target,
                                      const char *protocol, int timeout_ms, http_upgrade_fn fn,
                                      void *data);
