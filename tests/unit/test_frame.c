#include "tests/unit/test.h"
#include "wire/frame.h"

TEST(round_trip)
{
    _cleanup_(buf_free) struct buf b = {0};
    struct frame frame;
    uint16_t rows, columns;
    size_t at = 0;

    frame_put(&b, FRAME_STDOUT, "hello", 5);
    frame_put(&b, FRAME_STDIN, NULL, 0);
    frame_put_size(&b, 24, 300);
    frame_put_exit(&b, 143);
    CHECK(!memcmp(b.data, "\1\5\0\0\0hello", 10));
    CHECK_EQ(frame_next(&b, &at, &frame), 1);
    CHECK_EQ(frame.channel, FRAME_STDOUT);
    CHECK(frame.n_bytes == 5 && !memcmp(frame.data, "hello", 5));
    CHECK_EQ(frame_size(&frame, &rows, &columns), -EPROTO);
    CHECK_EQ(frame_next(&b, &at, &frame), 1);
    CHECK_EQ(frame.n_bytes, 0);
    CHECK_EQ(frame_next(&b, &at, &frame), 1);
    CHECK_EQ(frame_size(&frame, &rows, &columns), 0);
    CHECK_EQ(rows, 24);
    CHECK_EQ(columns, 300);
    CHECK_EQ(frame_next(&b, &at, &frame), 1);
    CHECK(frame.channel == FRAME_EXIT && frame.data[0] == 143);
    CHECK_EQ(frame_next(&b, &at, &frame), 0);
}

TEST(pieces_and_lies)
{
    _cleanup_(buf_free) struct buf whole = {0};
    struct frame frame;

    frame_put(&whole, FRAME_STDERR, "abc", 3);
    for (size_t n = 0; n < whole.n_bytes; n++) {
        struct buf part = {whole.data, n, n};
        size_t at = 0;
        CHECK_EQ(frame_next(&part, &at, &frame), 0);
        CHECK_EQ(at, 0);
    }
    size_t at = 0;
    struct buf lie = {(uint8_t *)"\1\377\377\377\377", 5, 5};
    CHECK_EQ(frame_next(&lie, &at, &frame), -EPROTO);
}
