#include "engine/train/feed.h"

int feed_read(struct feed *f, int64_t index, const struct feed_sample *ret, struct hai_err *err) {
    assert(index >= 0);
    return f->type->read(f, index, ret, err);
}

uint64_t feed_digest(const struct feed *f) {
    return f->type->digest(f);
}

struct feed_size feed_size(const struct feed *f) {
    return f->type->size(f);
}

void feed_close(struct feed *f) {
    if (f)
        f->type->close(f);
}
