/* buf.h - an owned, growing run of bytes; lib/pure/cursor.h reads one.
 *
 * Pure. Numbers are little-endian. Ownership: buf_free, or _cleanup_(buf_free).
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/cursor.h"

struct buf {
    uint8_t *data;
    size_t n_bytes;
    size_t n_bytes_max; // allocated
};

void buf_free(struct buf *b);
void buf_clear(struct buf *b);                   // keeps the memory
void *buf_extend(struct buf *b, size_t n_bytes); // n_bytes more, not initialised
void buf_add(struct buf *b, const void *data, size_t n_bytes);
void buf_add_str(struct buf *b, const char *s); // without the terminating zero
void buf_add_u8(struct buf *b, uint8_t v);
void buf_add_u32(struct buf *b, uint32_t v);
void buf_add_u64(struct buf *b, uint64_t v);
void buf_add_varint(struct buf *b, uint64_t v); // LEB128, 1 to 10 bytes
void buf_printf(struct buf *b, const char *format, ...) _printf_(2, 3);
const char *buf_cstr(struct buf *b);          // zero-terminated view, valid until changed
void buf_drop(struct buf *b, size_t n_bytes); // remove from the front
