/* frame.h - the frames of an upgraded `hai-stream` connection: attach and shell, between a client
 * and the agent of a node; the scheduler passes them through unread.
 *
 * A frame is one byte channel, four bytes length (little-endian), and the bytes. Pure.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

enum frame_channel {
    FRAME_STDIN,  // to the node; no bytes: end of input
    FRAME_STDOUT, // from the node
    FRAME_STDERR,
    FRAME_SIZE,  // to the node: rows, columns of the terminal, two bytes each, little-endian
    FRAME_EXIT,  // from the node, the last: one byte exit code (docs/scripts.md)
    FRAME_ERROR, // from the node: text; why there is nothing to see
    FRAME_CHANNEL_COUNT,
};

enum { FRAME_HEAD_BYTES = 5, FRAME_BYTES_MAX = 64 * 1024 };

/* Append a frame. n_bytes is at most FRAME_BYTES_MAX. */
void frame_put(struct buf *b, enum frame_channel channel, const void *data, size_t n_bytes);
void frame_put_size(struct buf *b, uint16_t rows, uint16_t columns);
void frame_put_exit(struct buf *b, uint8_t code);

struct frame {
    uint8_t channel;     // may be one that we do not know: pass over it
    const uint8_t *data; // inside the buffer
    size_t n_bytes;
};

/* The frame that begins at *at, which moves behind it. 1, 0 if it is not all there yet, -EPROTO if
 * it is longer than FRAME_BYTES_MAX. */
int frame_next(const struct buf *b, size_t *at, struct frame *ret);

/* Rows and columns of a FRAME_SIZE; -EPROTO. */
int frame_size(const struct frame *frame, uint16_t *ret_rows, uint16_t *ret_columns);
