#include "wire/frame.h"

void frame_put(struct buf *b, enum frame_channel channel, const void *data, size_t n_bytes) {
    assert(n_bytes <= FRAME_BYTES_MAX);
    buf_add_u8(b, (uint8_t)channel);
    buf_add_u32(b, (uint32_t)n_bytes);
    buf_add(b, data, n_bytes);
}

void frame_put_size(struct buf *b, uint16_t rows, uint16_t columns) {
    uint8_t bytes[4] = {(uint8_t)rows, (uint8_t)(rows >> 8), (uint8_t)columns,
                        (uint8_t)(columns >> 8)};

    frame_put(b, FRAME_SIZE, bytes, sizeof bytes);
}

void frame_put_exit(struct buf *b, uint8_t code) {
    frame_put(b, FRAME_EXIT, &code, 1);
}

int frame_next(const struct buf *b, size_t *at, struct frame *ret) {
    struct cursor c = {b->data, b->n_bytes, *at};
    struct frame frame;
    uint32_t n_bytes;

    if (cursor_u8(&c, &frame.channel) < 0 || cursor_u32(&c, &n_bytes) < 0)
        return 0;
    if (n_bytes > FRAME_BYTES_MAX)
        return -EPROTO;
    if (cursor_bytes(&c, n_bytes, &frame.data) < 0)
        return 0;
    frame.n_bytes = n_bytes;
    *at = c.at;
    *ret = frame;
    return 1;
}

int frame_size(const struct frame *frame, uint16_t *ret_rows, uint16_t *ret_columns) {
    if (frame->channel != FRAME_SIZE || frame->n_bytes != 4)
        return -EPROTO;
    *ret_rows = (uint16_t)(frame->data[0] | frame->data[1] << 8);
    *ret_columns = (uint16_t)(frame->data[2] | frame->data[3] << 8);
    return 0;
}
