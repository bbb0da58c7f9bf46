/* http_raw.h - the byte stream that an HTTP connection becomes after `101 Switching Protocols`:
 * attach, shell, forwarded ports. Made by http_server.h and http_client.h.
 *
 * Never blocks: wait for http_raw_fd in the loop. A stream from the server side is closed before
 * its server is freed.
 */
#pragma once
#include "lib/base.h"
#include <sys/types.h>

struct http_raw;

/* What the two sides implement; callers use the functions below. */
struct http_raw_ops {
    ssize_t (*read)(void *self, void *data, size_t n_bytes);
    ssize_t (*write)(void *self, const void *data, size_t n_bytes);
    void (*close)(void *self);
};

/* extra: bytes that arrived together with the head of the message, copied; read first. */
struct http_raw *http_raw_new(const struct http_raw_ops *ops, void *self, int fd, const void *extra,
                              size_t n_extra_bytes);

int http_raw_fd(const struct http_raw *raw);

/* Bytes are waiting inside, though the descriptor may not be readable: read before the first wait.
 */
bool http_raw_has_bytes(const struct http_raw *raw);

/* Bytes moved; 0 (read only): the other side has closed; -EAGAIN: wait; -EPIPE, -ECONNRESET, ...:
 * over. */
ssize_t http_raw_read(struct http_raw *raw, void *data, size_t n_bytes);
ssize_t http_raw_write(struct http_raw *raw, const void *data, size_t n_bytes);

void http_raw_close(struct http_raw *raw); // frees it too; NULL is fine
DEFINE_CLEANUP(struct http_raw *, http_raw_close)
