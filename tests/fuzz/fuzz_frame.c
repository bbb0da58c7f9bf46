/* Whatever bytes a stream carries: frames inside of them in order, or an error, never a crash. */
#include "wire/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    struct buf in = {(uint8_t *)data, n_bytes, n_bytes};
    struct frame frame;
    uint16_t rows, columns;
    size_t at = 0, before = 0;

    while (frame_next(&in, &at, &frame) > 0) {
        assert(at == before + FRAME_HEAD_BYTES + frame.n_bytes);
        assert(frame.data == data + before + FRAME_HEAD_BYTES);
        if (frame_size(&frame, &rows, &columns) == 0)
            assert(frame.channel == FRAME_SIZE);
        before = at;
    }
    assert(at == before);
    assert(at <= n_bytes);
    return 0;
}
