#include "lib/pure/buf.h"
#include "tests/unit/test.h"

TEST(numbers_come_back)
{
    static const uint64_t values[] = {0, 1, 127, 128, 300, UINT32_MAX, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        _cleanup_(buf_free) struct buf b = {0};
        buf_add_varint(&b, values[i]);
        buf_add_u64(&b, values[i]);
        struct cursor c = {b.data, b.n_bytes, 0};
        uint64_t v = 7;
        CHECK_EQ(cursor_varint(&c, &v), 0);
        CHECK(v == values[i]);
        CHECK_EQ(cursor_u64(&c, &v), 0);
        CHECK(v == values[i]);
        CHECK_EQ(cursor_u64(&c, &v), -EBADMSG);
    }
}

TEST(long_forms_are_refused)
{
    static const uint8_t forms[][11] = {
        {0x80,  0x00},
        { 0xff,  0xff,     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02},
        {  0x80, 0x80, 0x80,     0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01},
    };
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        struct cursor c = {forms[i], sizeof forms[i], 0};
        uint64_t v;
        CHECK_EQ(cursor_varint(&c, &v), -EBADMSG, "form %zu", i);
    }
}

TEST(printf_and_drop)
{
    _cleanup_(buf_free) struct buf b = {0};
    buf_printf(&b, "%s-%d", "abc", 12);
    buf_drop(&b, 2);
    CHECK_STR(buf_cstr(&b), "c-12");
}
