/* utf8.h - UTF-8 as tokenizers need it: characters, the valid start of a text, repair. */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

/* How many bytes from the start are whole, valid characters (no surrogates, no long forms). */
size_t utf8_valid(const char *text, size_t n_bytes);

/* One character of text that is valid. Returns its bytes. */
size_t utf8_read(const char *text, size_t n_bytes, uint32_t *ret);

/* The same for loops over long texts. */
static inline size_t utf8_next(const char *text, uint32_t *ret) {
    const uint8_t *p = (const uint8_t *)text;

    if (p[0] < 0x80) {
        *ret = p[0];
        return 1;
    }
    if (p[0] < 0xE0) {
        *ret = (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
        return 2;
    }
    if (p[0] < 0xF0) {
        *ret = (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
        return 3;
    }
    *ret = (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
    return 4;
}

/* Write a character; ret has room for 4 bytes. Returns its bytes. */
size_t utf8_write(uint32_t c, char *ret);

/* Append bytes with every longest wrong part replaced by U+FFFD, as Unicode recommends (and Rust's
 * from_utf8_lossy does). */
void utf8_add_lossy(struct buf *ret, const void *bytes, size_t n_bytes);

/* Move from pending to ret what is decided, repaired likewise; the start of a character that may
 * yet be completed stays. For text that comes in pieces. */
void utf8_add_stream(struct buf *ret, struct buf *pending);
