/* utf8.h - UTF-8 as tokenizers need it: characters, the valid start of a text, repair. */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

/* How many bytes from the start are whole, valid characters (no surrogates, no long forms). */
size_t utf8_valid(const char *text, size_t n_bytes);

/* One character of text that is valid. Returns its bytes. */
size_t utf8_read(const char *text, size_t n_bytes, uint32_t *ret);

/* Write a character; ret has room for 4 bytes. Returns its bytes. */
size_t utf8_write(uint32_t c, char *ret);

/* Append bytes with every longest wrong part replaced by U+FFFD, as Unicode recommends (and Rust's
 * from_utf8_lossy does). */
void utf8_add_lossy(struct buf *ret, const void *bytes, size_t n_bytes);

/* Move from pending to ret what is decided, repaired likewise; the start of a character that may
 * yet be completed stays. For text that comes in pieces. */
void utf8_add_stream(struct buf *ret, struct buf *pending);
