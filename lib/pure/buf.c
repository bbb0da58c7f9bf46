#include "lib/pure/buf.h"

#include <stdarg.h>
#include <stdio.h>

enum { BUF_START_BYTES = 256, VARINT_BYTES_MAX = 10 };

void buf_free(struct buf *b) {
    free(b->data);
    *b = (struct buf){0};
}

void buf_clear(struct buf *b) {
    b->n_bytes = 0;
}

void *buf_extend(struct buf *b, size_t n_bytes) {
    assert(n_bytes <= SIZE_MAX / 4 - b->n_bytes);
    size_t need = b->n_bytes + n_bytes;
    if (need > b->n_bytes_max) {
        size_t size = b->n_bytes_max ? b->n_bytes_max : BUF_START_BYTES;
        while (size < need)
            size *= 2;
        b->data = hai_realloc_array(b->data, size, 1);
        b->n_bytes_max = size;
    }
    void *at = b->data + b->n_bytes;
    b->n_bytes = need;
    return at;
}

void buf_add(struct buf *b, const void *data, size_t n_bytes) {
    if (n_bytes)
        memcpy(buf_extend(b, n_bytes), data, n_bytes);
}

void buf_add_str(struct buf *b, const char *s) {
    buf_add(b, s, strlen(s));
}

void buf_add_u8(struct buf *b, uint8_t v) {
    *(uint8_t *)buf_extend(b, 1) = v;
}

static void add_little_endian(struct buf *b, uint64_t v, int n_bytes) {
    uint8_t *at = buf_extend(b, n_bytes);

    for (int i = 0; i < n_bytes; i++)
        at[i] = (uint8_t)(v >> (8 * i));
}

void buf_add_u32(struct buf *b, uint32_t v) {
    add_little_endian(b, v, 4);
}

void buf_add_u64(struct buf *b, uint64_t v) {
    add_little_endian(b, v, 8);
}

/* Nearly all are of one byte. */
void buf_add_varint(struct buf *b, uint64_t v) {
    if (v < 0x80 && b->n_bytes < b->n_bytes_max) {
        b->data[b->n_bytes++] = (uint8_t)v;
        return;
    }
    uint8_t *first = buf_extend(b, VARINT_BYTES_MAX), *at = first;

    while (v >= 0x80) {
        *at++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *at++ = (uint8_t)v;
    b->n_bytes -= VARINT_BYTES_MAX - (size_t)(at - first);
}

void buf_printf(struct buf *b, const char *format, ...) {
    va_list ap;

    va_start(ap, format);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    assert(n >= 0);
    char *at = buf_extend(b, (size_t)n + 1);
    va_start(ap, format);
    (void)vsnprintf(at, (size_t)n + 1, format, ap);
    va_end(ap);
    b->n_bytes--;
}

const char *buf_cstr(struct buf *b) {
    buf_add_u8(b, 0);
    b->n_bytes--;
    return (const char *)b->data;
}

void buf_drop(struct buf *b, size_t n_bytes) {
    assert(n_bytes <= b->n_bytes);
    b->n_bytes -= n_bytes;
    if (b->n_bytes)
        memmove(b->data, b->data + n_bytes, b->n_bytes);
}
