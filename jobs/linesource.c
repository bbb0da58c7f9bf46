#include "jobs/linesource.h"
#include "engine/data/textfiles.h"
#include "lib/fileio.h"
#include "lib/gzip.h"

#include <fcntl.h>
#include <inttypes.h>

enum { PIECE_BYTES = 1 << 20 };

struct linesource {
    char *path;
    int fd; // -1: all is in memory
    int64_t number, n_bytes;
    struct buf held; // bytes read; those before `at` were returned
    size_t at;
};

void linesource_close(struct linesource *s) {
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    buf_free(&s->held);
    free(s->path);
    free(s);
}

/* Returns the bytes added, 0 at the end. */
static ssize_t read_piece(struct linesource *s, struct hai_err *err) {
    size_t have = s->held.n_bytes;
    ssize_t n;

    if (s->fd < 0)
        return 0;
    void *at = buf_extend(&s->held, PIECE_BYTES);
    do
        n = read(s->fd, at, PIECE_BYTES);
    while (n < 0 && errno == EINTR);
    int e = errno;
    s->held.n_bytes = have + (n > 0 ? (size_t)n : 0);
    if (n < 0)
        return hai_fail(err, -e, "%s: %s", s->path, strerrordesc_np(e));
    s->n_bytes += n;
    return n;
}

int linesource_open(const char *path, struct linesource **ret, struct hai_err *err) {
    _cleanup_(linesource_closep) struct linesource *s = hai_new(struct linesource);

    s->path = hai_strdup(path);
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    ssize_t n = read_piece(s, err);
    if (n < 0)
        return (int)n;
    if (gzip_is(s->held.data, s->held.n_bytes)) {
        _cleanup_(buf_free) struct buf packed = {0};
        close(TAKE_FD(s->fd));
        buf_clear(&s->held);
        int r = fileio_read_file(path, TEXTFILES_BYTES_MAX, &packed, err);
        if (r < 0)
            return r;
        s->n_bytes = (int64_t)packed.n_bytes;
        r = gzip_unpack(packed.data, packed.n_bytes, TEXTFILES_BYTES_MAX, &s->held, err);
        if (r < 0)
            return hai_err_prefix(err, "%s: ", path);
    }
    *ret = TAKE_PTR(s);
    return 0;
}

static int found(struct linesource *s, const char **ret, size_t n_line, size_t n_step,
                 size_t *ret_bytes) {
    *ret = (const char *)s->held.data + s->at;
    *ret_bytes = n_line;
    s->at += n_step;
    s->number++;
    return 1;
}

int linesource_next(struct linesource *s, size_t n_bytes_max, const char **ret, size_t *ret_bytes,
                    struct hai_err *err) {
    size_t looked = 0; // bytes behind `at` without a line feed

    for (;;) {
        size_t left = s->held.n_bytes - s->at;
        const uint8_t *from = s->held.data + s->at;
        const uint8_t *feed = left > looked ? memchr(from + looked, '\n', left - looked) : NULL;
        size_t n_line = feed ? (size_t)(feed - from) : left;
        if (n_line > n_bytes_max)
            return hai_fail(err, -EFBIG, "%s:%" PRId64 ": longer than %zu bytes", s->path,
                            s->number + 1, n_bytes_max);
        if (feed)
            return found(s, ret, n_line, n_line + 1, ret_bytes);
        looked = left;
        buf_drop(&s->held, s->at);
        s->at = 0;
        ssize_t n = read_piece(s, err);
        if (n < 0)
            return (int)n;
        if (n == 0)
            return left ? found(s, ret, left, left, ret_bytes) : 0;
    }
}

int64_t linesource_number(const struct linesource *s) {
    return s->number;
}

int64_t linesource_bytes(const struct linesource *s) {
    return s->n_bytes;
}
