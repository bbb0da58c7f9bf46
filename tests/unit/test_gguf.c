/* GGUF headers that lie are refused, whatever they lie about. */
#include "lib/pure/buf.h"
#include "storage/gguf.h"
#include "tests/unit/test.h"

/* A file of two tensors and two keys; fields that are not 0 take the place of what is right. */
struct made {
    uint32_t magic, version;
    uint64_t n_tensors, n_keys, n_key_bytes, key_type, item_type, n_items, alignment;
    const char *key, *name;
    uint64_t n_dims, dims[4], type, offsets[2];
    int64_t more_bytes; // after the last tensor; negative: cut off
    int r;
    const char *says;
};

static uint64_t or (uint64_t x, uint64_t otherwise) {
    return x ? x : otherwise;
}

static void add(struct buf *b, uint64_t x, int n_bytes) {
    for (int i = 0; i < n_bytes; i++)
        buf_add_u8(b, (uint8_t)(x >> 8 * i));
}

static void add_text(struct buf *b, const char *text, uint64_t n_bytes) {
    add(b, or (n_bytes, strlen(text)), 8);
    buf_add_str(b, text);
}

static void make(const struct made *m, struct buf *b) {
    add(b, or (m->magic, 0x46554747), 4);
    add(b, or (m->version, 3), 4);
    add(b, or (m->n_tensors, 2), 8);
    add(b, or (m->n_keys, 2), 8);
    add_text(b, "general.alignment", m->n_key_bytes);
    add(b, 4, 4);
    add(b, or (m->alignment, 32), 4);
    add_text(b, m->key ? m->key : "words", 0);
    add(b, or (m->key_type, 9), 4);
    add(b, or (m->item_type, 8), 4);
    add(b, or (m->n_items, 2), 8);
    add_text(b, "one", 0);
    add_text(b, "three", 0);
    add_text(b, "a", 0);
    add(b, or (m->n_dims, 2), 4);
    for (uint64_t i = 0; i < MIN(or (m->n_dims, 2), (uint64_t)4); i++)
        add(b, m->dims[i] == UINT64_MAX - 1 ? 0 : or (m->dims[i], i == 0 ? 32 : 2), 8);
    add(b, or (m->type, 8), 4); // Q8_0: 68 bytes, 96 with padding
    add(b, m->offsets[0], 8);
    add_text(b, m->name ? m->name : "b", 0);
    add(b, 1, 4);
    add(b, 3, 8);
    add(b, 0, 4); // F32: 12 bytes
    add(b, or (m->offsets[1], 96), 8);
    while (b->n_bytes % 32)
        buf_add_u8(b, 0);
    for (int64_t i = 0; i < 96 + 12 + m->more_bytes; i++)
        buf_add_u8(b, (uint8_t)i);
}

static const struct made cases[] = {
    {.version = 3                                        },
    {                                 .version = 2                                                                  },
    {                                           .more_bytes = 20}, // padding
    {                                                           .magic = 0x46554746,                                                             .r = -EBADMSG, .says = "not a GGUF file"},
    {                                                                 .version = 1,                                                                 .r = -ENOTSUP, .says = "version 1"},
    {                                                          .version = 0x03000000,                                               .r = -ENOTSUP, .says = "version 50331648"},
    {                                                                   .n_tensors = UINT64_MAX,                                                        .r = -EFBIG, .says = "tensors"},
    {                                                                      .n_keys = 1ull << 40,                                                                                       .r = -EFBIG, .says = "keys"},
    {                                                .n_tensors = 3,                                                                  .r = -EBADMSG, .says = "a tensor's name of 0 bytes"},
    {                                               .n_tensors = 1,                                    .r = -EBADMSG, .says = "bytes after the last tensor"},
    {                                                                 .n_key_bytes = UINT64_MAX,                                                             .r = -EBADMSG, .says = "cut short"},
    {                                                                 .n_key_bytes = 600,                                                      .r = -EBADMSG, .says = "cut short"},
    {                                                                 .n_key_bytes = 1ull << 63,                                                                  .r = -EBADMSG, .says = "cut short"},
    {                                                           .key = "with space",                                                 .r = -EBADMSG, .says = "printable ASCII"},
    {                                                               .key = "general.alignment",                                                                        .r = -EBADMSG, .says = "comes twice"},
    {                                                        .key_type = 13,                                                                 .r = -EBADMSG, .says = "a value of type 13"},
    {                                                        .item_type = 9,                                                                 .r = -EBADMSG, .says = "an array of type 9"},
    {                                                       .item_type = 13,                                            .r = -EBADMSG, .says = "an array of type 13"},
    {                                                                     .n_items = 1ull << 62,                                                                 .r = -EFBIG, .says = "items"},
    {                                                                 .n_items = 1 << 20,                                                                             .r = -EBADMSG, .says = "cut short"},
    {                                                    .item_type = 12,                                                                                                                                  .n_items = 1 << 24, .r = -EBADMSG, .says = "cut short"},
    {           .alignment = 48,                                                                                         .r = -EBADMSG, .says = "power of two"},
    {           .alignment = 1 << 30,                                                                                         .r = -EBADMSG, .says = "power of two"},
    {   .name = "a",                                                                                 .r = -EBADMSG, .says = "tensor a comes twice"},
    {           .n_dims = 5,                                                                                         .r = -EBADMSG, .says = "5 dimensions"},
    {             .n_dims = 1ull << 31,                                                                                           .r = -EBADMSG, .says = "dimensions"},
    {     .dims = {32, UINT64_MAX - 1},                                                                                   .r = -EBADMSG, .says = "empty or overflows"},
    {     .dims = {1ull << 63, 2},                                                                                   .r = -EBADMSG, .says = "empty or overflows"},
    {                                           .dims = {1ull << 40, 1ull << 40},                                                                                                                         .r = -EBADMSG, .says = "empty or overflows"},
    {                                                                          .n_dims = 4,
     .dims = {1ull << 20, 1ull << 20, 1ull << 20, 1 << 4},
     .r = -EBADMSG,
     .says = "empty or overflows"},
    {                    .dims = {1ull << 61, 2},                                                             .r = -EBADMSG, .says = "outside"},
    { .dims = {1ull << 62, 2},                                                                 .type = 28, .r = -EBADMSG, .says = "overflows"},
    {                                                                      .dims = {33, 2},              .r = -EBADMSG, .says = "no whole blocks of Q8_0"},
    {                                                                      .dims = {32, 3},              .r = -EBADMSG, .says = "overlap"},
    {                                                                      .dims = {32, 1},              .r = -EBADMSG, .says = "belong to no tensor"},
    {                                                                   .dims = {32, 1000},              .r = -EBADMSG, .says = "outside the file's"},
    {                                                                            .type = 4,              .r = -ENOTSUP, .says = "type 4 is not known"},
    {                                                                   .type = 0x80000000,              .r = -ENOTSUP, .says = "is not known"},
    {                                                                   .offsets = {8, 96},              .r = -EBADMSG, .says = "unaligned"},
    {                                                                  .offsets = {32, 96},              .r = -EBADMSG, .says = "belong to no tensor"},
    {                                                                   .offsets = {0, 64},              .r = -EBADMSG, .says = "overlap"},
    {                                                                  .offsets = {0, 128},              .r = -EBADMSG, .says = "outside"},
    {                                                      .offsets = {0, UINT64_MAX - 31},              .r = -EBADMSG, .says = "outside"},
    {                                                                     .more_bytes = 21,              .r = -EBADMSG, .says = "after the last tensor"},
    {                                                                     .more_bytes = -1,              .r = -EBADMSG, .says = "outside"},
    {                                                                   .more_bytes = -108,              .r = -EBADMSG, .says = "outside"},
};

TEST(headers)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        _cleanup_(buf_free) struct buf b = {0};
        struct hai_err err = {0};
        make(&cases[i], &b);
        CHECK_EQ(gguf_open_bytes(b.data, b.n_bytes, &g, &err), cases[i].r, "case %zu: %s", i,
                 err.text);
        if (cases[i].says)
            CHECK(strstr(err.text, cases[i].says), "case %zu: %s", i, err.text);
    }
}

TEST(every_length)
{
    _cleanup_(buf_free) struct buf b = {0};
    struct hai_err err = {0};

    make(&cases[0], &b);
    for (size_t n = 0; n < b.n_bytes; n++) {
        struct gguf *g = NULL;
        _cleanup_free_ uint8_t *copy = hai_alloc(n + 1); // so that reading behind it is seen
        memcpy(copy, b.data, n);
        CHECK(gguf_open_bytes(copy, n, &g, &err) < 0, "%zu bytes", n);
        gguf_free(g);
    }
}

TEST(what_it_says)
{
    _cleanup_(gguf_freep) struct gguf *g = NULL;
    _cleanup_(buf_free) struct buf b = {0};
    struct hai_err err = {0};

    make(&cases[0], &b);
    CHECK_EQ(gguf_open_bytes(b.data, b.n_bytes, &g, &err), 0, "%s", err.text);
    if (!g)
        return;
    const struct gguf_value *words = gguf_find(g, "words");
    CHECK(words && words->kind == GGUF_ARRAY && words->n == 2);
    const uint8_t *at = words->items;
    struct gguf_value one = gguf_next(words, &at), three = gguf_next(words, &at);
    CHECK(one.n_bytes == 3 && memcmp(one.text, "one", 3) == 0);
    CHECK(three.n_bytes == 5 && memcmp(three.text, "three", 5) == 0);
    CHECK_EQ(gguf_find(g, "general.alignment")->number, 32);
    CHECK(!gguf_find(g, "nothing"));
    const struct gguf_tensor *a = gguf_tensor_find(g, "a"), *t = gguf_tensor_find(g, "b");
    CHECK(a && a->type == GGUF_Q8_0 && a->shape[0] == 32 && a->shape[1] == 2 && a->n_bytes == 68);
    CHECK(t && t->type == GGUF_F32 && t->n_dims == 1 && t->n_bytes == 12);
    CHECK_EQ(t->data - a->data, 96);
    CHECK_EQ(a->data[5], 5);
}
