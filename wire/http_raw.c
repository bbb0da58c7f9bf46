#include "wire/http_raw.h"

#include "lib/pure/buf.h"

struct http_raw {
    const struct http_raw_ops *ops;
    void *self;
    int fd;
    struct buf extra;
};

struct http_raw *http_raw_new(const struct http_raw_ops *ops, void *self, int fd, const void *extra,
                              size_t n_extra_bytes) {
    struct http_raw *raw = hai_new(struct http_raw);

    raw->ops = ops;
    raw->self = self;
    raw->fd = fd;
    buf_add(&raw->extra, extra, n_extra_bytes);
    return raw;
}

int http_raw_fd(const struct http_raw *raw) {
    return raw->fd;
}

bool http_raw_has_bytes(const struct http_raw *raw) {
    return raw->extra.n_bytes > 0;
}

ssize_t http_raw_read(struct http_raw *raw, void *data, size_t n_bytes) {
    size_t n = MIN(n_bytes, raw->extra.n_bytes);

    if (n == 0)
        return raw->ops->read(raw->self, data, n_bytes);
    memcpy(data, raw->extra.data, n);
    buf_drop(&raw->extra, n);
    return (ssize_t)n;
}

ssize_t http_raw_write(struct http_raw *raw, const void *data, size_t n_bytes) {
    return raw->ops->write(raw->self, data, n_bytes);
}

void http_raw_close(struct http_raw *raw) {
    if (!raw)
        return;
    raw->ops->close(raw->self);
    buf_free(&raw->extra);
    free(raw);
}
