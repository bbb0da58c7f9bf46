#include "lib/pure/cursor.h"

int cursor_bytes(struct cursor *c, size_t n_bytes, const uint8_t **ret) {
    if (n_bytes > cursor_left(c))
        return -EBADMSG;
    *ret = c->data + c->at;
    c->at += n_bytes;
    return 0;
}

static int little_endian(struct cursor *c, int n_bytes, uint64_t *ret) {
    const uint8_t *at;
    uint64_t v = 0;

    int r = cursor_bytes(c, n_bytes, &at);
    if (r < 0)
        return r;
    for (int i = 0; i < n_bytes; i++)
        v |= (uint64_t)at[i] << (8 * i);
    *ret = v;
    return 0;
}

int cursor_u32(struct cursor *c, uint32_t *ret) {
    uint64_t v;
    int r = little_endian(c, 4, &v);

    if (r == 0)
        *ret = (uint32_t)v;
    return r;
}

int cursor_u64(struct cursor *c, uint64_t *ret) {
    return little_endian(c, 8, ret);
}

int cursor_varint(struct cursor *c, uint64_t *ret) {
    uint64_t v = 0;

    if (c->at < c->n_bytes && c->data[c->at] < 0x80) { // nearly all are of one byte
        *ret = c->data[c->at++];
        return 0;
    }
    for (int shift = 0; shift < 70; shift += 7) {
        uint8_t byte;
        int r = cursor_u8(c, &byte);
        if (r < 0)
            return r;
        if (shift == 63 && byte > 1)
            return -EBADMSG;
        if (shift > 0 && byte == 0)
            return -EBADMSG; // a longer form of a number has no place in a canonical encoding
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *ret = v;
            return 0;
        }
    }
    return -EBADMSG;
}
