#include "lib/pure/tlv.h"
#include "tests/unit/test.h"

#define COLOURS(P, X) X(P, RED, "red") X(P, BLUE, "blue")
DECLARE_ENUM(colour, COLOUR, COLOURS);
DEFINE_ENUM(colour, COLOUR, COLOURS);

// clang-format off
#define DEFS                                                                                       \
    SCHEMA(leafy, "inner",                                                                         \
        F_STR(name, 8, S_REQUIRED, "name")                                                         \
        F_I64(n, -5, 5, 3, "n"))                                                                   \
    SCHEMA(all, "every kind",                                                                      \
        F_I64(number, INT64_MIN + 1, INT64_MAX - 1, S_ABSENT, "number")                            \
        F_BOOL(flag, 1, "flag")                                                                    \
        F_ENUM(colour, colour, COLOUR_BLUE, "colour")                                              \
        F_STR(text, 16, S_ABSENT, "text")                                                          \
        F_BLOB(blob, 4, "blob")                                                                    \
        F_SUB(sub, leafy, "sub")                                                                   \
        F_LIST(leaves, leafy, 3, "leaves")                                                         \
        F_STRS(words, 8, 3, "words")                                                               \
        F_I64S(numbers, 0, 9, 3, "numbers")                                                        \
        F_MAP(env, 8, 2, "env")                                                                    \
        F_TIME(at, S_ABSENT, "at"))

#include "lib/pure/schema_structs.h"
DEFS
#include "lib/pure/schema_undef.h"

#include "lib/pure/schema_tables.h"
DEFS
#include "lib/pure/schema_undef.h"
    // clang-format on

    static struct all
    sample(void) {
    struct all v;

    schema_init(all_schema(), &v);
    v.number = -77;
    v.flag = false;
    v.colour = COLOUR_RED;
    v.text = hai_strdup("hello");
    v.blob = (struct schema_blob){(uint8_t *)hai_strdup("ab"), 2};
    v.sub.name = hai_strdup("in");
    for (int i = 0; i < 3; i++) {
        LIST_ADD(&v.leaves)->name = hai_strdup("leaf");
        *LIST_ADD(&v.words) = hai_strdup("word");
        *LIST_ADD(&v.numbers) = i;
    }
    *LIST_ADD(&v.env) = (struct schema_pair){hai_strdup("K"), hai_strdup("V")};
    v.at = 12;
    return v;
}

TEST(a_struct_comes_back)
{
    struct all v = sample(), w, copy;
    struct hai_err err = {0};
    _cleanup_(buf_free) struct buf a = {0};
    _cleanup_(buf_free) struct buf b = {0};
    tlv_encode(all_schema(), &v, &a);
    CHECK_EQ(tlv_decode(all_schema(), a.data, a.n_bytes, &w, &err), 0, "%s", err.text);
    schema_copy(all_schema(), &copy, &w);
    schema_free(all_schema(), &w);
    tlv_encode(all_schema(), &copy, &b);
    CHECK_EQ(a.n_bytes, b.n_bytes);
    CHECK(!memcmp(a.data, b.data, a.n_bytes));
    CHECK_EQ(copy.number, -77);
    CHECK_STR(copy.words.items[2], "word");
    CHECK_STR(copy.env.items[0].value, "V");
    schema_free(all_schema(), &v);
    schema_free(all_schema(), &copy);
}

/* Every prefix and every single changed byte either decodes or is refused; nothing else happens
 * (the sanitizer build is the judge), and what decodes encodes without loss of control. */
TEST(damaged_bytes_do_no_harm)
{
    struct all v = sample(), w;
    struct hai_err err;
    _cleanup_(buf_free) struct buf a = {0};
    tlv_encode(all_schema(), &v, &a);
    schema_free(all_schema(), &v);
    for (size_t n = 0; n < a.n_bytes; n++)
        if (tlv_decode(all_schema(), a.data, n, &w, &err) == 0)
            schema_free(all_schema(), &w);
    for (size_t i = 0; i < a.n_bytes; i++) {
        for (int bit = 0; bit < 8; bit++) {
            a.data[i] ^= (uint8_t)(1 << bit);
            if (tlv_decode(all_schema(), a.data, a.n_bytes, &w, &err) == 0)
                schema_free(all_schema(), &w);
            a.data[i] ^= (uint8_t)(1 << bit);
        }
    }
}

TEST(bounds_are_checked)
{
    struct hai_err err = {0};
    struct all v = sample();
    v.leaves.items[1].n = 6;
    CHECK_EQ(schema_check(all_schema(), &v, &err), -ERANGE);
    CHECK_STR(err.text, "leaves[1].n is 6; expected -5 to 5");
    v.leaves.items[1].n = 5;
    hai_strset(&v.sub.name, NULL);
    CHECK_EQ(schema_check(all_schema(), &v, &err), -EINVAL);
    CHECK_STR(err.text, "sub.name is missing; it must be given");
    schema_free(all_schema(), &v);
}

TEST(unknown_tags_are_skipped)
{
    struct leafy v;
    static const uint8_t bytes[] = {1, 1, 'x', 9, 2, 0xff, 0xff};
    CHECK_EQ(tlv_decode(leafy_schema(), bytes, sizeof bytes, &v, NULL), 0);
    CHECK_STR(v.name, "x");
    CHECK_EQ(v.n, 3);
    schema_free(leafy_schema(), &v);
}
