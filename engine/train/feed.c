#include "engine/train/feed.h"

int feed_read(struct feed *f, int64_t index, const struct feed_sample *ret, struct hai_err *err) {
    assert(index >= 0);
    return f->type->read(f, index, ret, err);
}

void feed_expect(struct feed *f, int64_t index) {
    if (f->type->expect)
        f->type->expect(f, index);
}

uint64_t feed_digest(const struct feed *f, int64_t n_samples) {
    return f->type->digest(f, n_samples);
}

struct feed_size feed_size(const struct feed *f) {
    return f->type->size(f);
}

void feed_tell_shares(const struct feed *f, int64_t from, int64_t to, struct buf *ret) {
    if (f->type->tell_shares && to > from)
        f->type->tell_shares(f, from, to, ret);
}

void feed_close(struct feed *f) {
    if (f)
        f->type->close(f);
}
