/* cursor.h - reads a run of bytes front to back, with bounds; what lib/pure/buf.h writes.
 *
 * Pure. Numbers are little-endian.
 */
#pragma once
#include "lib/base.h"

/* A reader over bytes it does not own. Every read is 0, or -EBADMSG past the end. */
struct cursor {
    const uint8_t *data;
    size_t n_bytes;
    size_t at;
};

static inline int cursor_u8(struct cursor *c, uint8_t *ret) {
    if (c->at == c->n_bytes)
        return -EBADMSG;
    *ret = c->data[c->at++];
    return 0;
}
int cursor_u32(struct cursor *c, uint32_t *ret);
int cursor_u64(struct cursor *c, uint64_t *ret);
int cursor_varint(struct cursor *c, uint64_t *ret); // refuses more than 64 bits, long forms too
int cursor_bytes(struct cursor *c, size_t n_bytes, const uint8_t **ret);
static inline size_t cursor_left(const struct cursor *c) {
    return c->n_bytes - c->at;
}
