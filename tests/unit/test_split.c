#include "engine/data/nfc.h"
#include "engine/data/split.h"
#include "engine/data/utf8.h"
#include "lib/fileio.h"
#include "lib/json.h"
#include "tests/unit/test.h"

#include <time.h>
#include <utf8proc.h>

static const char *const by_hand[] = {
    // V3, Qwen2, Llama 3
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    // the steps of LLM, Coder and V3, some shortened
    "[\r\n]",
    "\\s?\\p{L}+",
    "\\s?\\p{P}+",
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿΆΈ-ΊͰ-ͳ𐐀-𐑏]+",
    "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "\\s+$",
    "[一-龥ࠀ-一가-퟿]+",
    "[一-龥぀-ゟ゠-ヿ]+",
    "\\p{N}",
    "\\p{N}+",
    "\\p{N}{1,3}",
    "[^a-z\\s]+",
};

/* Shapes that look like those and are not. */
static const char *const by_regex[] = {"\\s?[a-z]", "[a-z]{2}", "[a-z]|b", "[[:alpha:]]+", "a+",
                                       "",          "\\s?",     "[a-z",    "\\p{L}?"};

static uint64_t next(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u; // SplitMix64, Steele and others, 2014
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Characters that patterns speak of often, all others seldom. */
static uint32_t character(uint64_t *state) {
    static const uint32_t often[] = {
        ' ',    ' ',    '\n',   '\r',  '\t',  'a',    's',    'T',     'l',    'L',
        '\'',   '\'',   '1',    '9',   '.',   '_',    0xA0,   0x3000,  0x4E00, 0x9FA5,
        0x3042, 0x30A2, 0xAC00, 0x301, 0x17F, 0x212A, 0xBD,   0x2160,  0x2028, 0x85,
        0x180E, 0xFF0C, 0x2019, 0xE9,  0x430, 0x200B, 0xFEFF, 0x1F600, '$',    0x0E33};
    uint64_t x = next(state);
    uint32_t c = (uint32_t)(x >> 8);

    switch (x % 8) {
    case 0:
        c %= 0x80;
        break;
    case 1:
        c %= 0x3000;
        break;
    case 2:
        c %= 0x110000;
        break;
    default:
        return often[c % ARRAY_SIZE(often)];
    }
    return c >= 0xD800 && c < 0xE000 ? 'x' : c;
}

static size_t random_text(uint64_t *state, size_t n, char *ret) {
    size_t at = 0;

    for (size_t i = 0; i < n; i++)
        at += utf8_write(character(state), ret + at);
    return at;
}

/* All pieces of a text, by both ways. */
static bool same_pieces(struct split *a, struct split *b, const char *text, size_t n) {
    size_t at = 0, from[2], to[2];

    for (;;) {
        int r[2] = {split_find(a, text, n, at, &from[0], &to[0]),
                    split_find(b, text, n, at, &from[1], &to[1])};
        if (!CHECK_EQ(r[0], r[1], "byte %zu of '%.*s'", at, (int)n, text))
            return false;
        if (r[0] <= 0)
            return true;
        if (!CHECK(from[0] == from[1] && to[0] == to[1],
                   "byte %zu of '%.*s': by hand %zu-%zu, else %zu-%zu", at, (int)n, text, from[0],
                   to[0], from[1], to[1]))
            return false;
        at = to[0];
    }
}

TEST(by_hand_as_pcre2)
{
    enum { TEXTS = 3000, LENGTH = 24 };
    _cleanup_(buf_free) struct buf fixtures = {0};
    uint64_t state = 7;

    CHECK_EQ(fileio_read_file("tests/fixtures/tokenizer/tiny.jsonl", 1 << 24, &fixtures, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(by_hand); i++) {
        _cleanup_(split_freep) struct split *a = NULL, *b = NULL;
        struct hai_err err = {0};
        char text[4 * LENGTH];
        CHECK_EQ(split_new(by_hand[i], true, &a, &err), 0, "%s", err.text);
        CHECK_EQ(split_new(by_hand[i], false, &b, &err), 0, "%s", err.text);
        CHECK(a && split_by_hand(a), "%s", by_hand[i]);
        CHECK(b && !split_by_hand(b), "%s", by_hand[i]);
        if (!same_pieces(a, b, buf_cstr(&fixtures), fixtures.n_bytes))
            continue;
        for (int j = 0; j < TEXTS; j++)
            if (!same_pieces(a, b, text, random_text(&state, 1 + next(&state) % LENGTH, text)))
                break;
    }
}

/* Every character alone, and after a letter. */
TEST(every_character)
{
    for (size_t i = 0; i < ARRAY_SIZE(by_hand); i++) {
        _cleanup_(split_freep) struct split *a = NULL, *b = NULL;
        CHECK_EQ(split_new(by_hand[i], true, &a, NULL), 0);
        CHECK_EQ(split_new(by_hand[i], false, &b, NULL), 0);
        for (uint32_t c = 1; c < 0x110000; c += c < 0x3100 ? 1 : 7) {
            char text[8] = " a";
            if (c >= 0xD800 && c < 0xE000)
                continue;
            size_t n = 2 + utf8_write(c, text + 2);
            if (!same_pieces(a, b, text, n) || !same_pieces(a, b, text + 2, n - 2))
                break;
        }
    }
}

TEST(other_shapes)
{
    for (size_t i = 0; i < ARRAY_SIZE(by_regex); i++) {
        _cleanup_(split_freep) struct split *s = NULL;
        int r = split_new(by_regex[i], true, &s, NULL);
        CHECK(r == -EINVAL || (r == 0 && !split_by_hand(s)), "%s", by_regex[i]);
    }
}

/* The library's answer for a whole text is ours, and "plain" is never said of text that changes. */
TEST(normal_forms)
{
    static const uint32_t joining[] = {'e',     0x301,  0x323, 0x1100, 0x1161,  0x11A8,
                                       0xAC00,  0x915,  0x93C, 0x9BE,  0x9C7,   0x212B,
                                       0xF900,  0x1EC7, 0x344, 0x37E,  0x11127, 0x11131,
                                       0x1D15E, 0x307,  0x53,  0x0F71, 0x0F72};
    _cleanup_(nfc_freep) struct nfc *nfc = nfc_new();
    uint64_t state = 3;

    for (int i = 0; i < 20000; i++) {
        _cleanup_(buf_free) struct buf got = {0}, marks = {0};
        char text[64] = {0};
        uint8_t from_marks[64];
        size_t n = 0;
        for (uint64_t j = 1 + next(&state) % 10; j; j--) {
            uint32_t c =
                next(&state) % 3 ? joining[next(&state) % ARRAY_SIZE(joining)] : character(&state);
            n += utf8_write(c ? c : 'x', text + n);
        }
        memset(from_marks, 1, sizeof from_marks);
        _cleanup_free_ uint8_t *wanted = utf8proc_NFC((const uint8_t *)text);
        nfc_add(nfc, text, n, from_marks, &got, &marks);
        CHECK_EQ(got.n_bytes, marks.n_bytes);
        if (!CHECK_STR(buf_cstr(&got), (const char *)wanted, "%s", text))
            break;
        CHECK(!nfc_is_plain(nfc, text, n) || !strcmp(text, (const char *)wanted), "%s", text);
    }
    CHECK(nfc_is_plain(nfc, "plain \xE6\xAF\x95\xE3\x81\x82", 12));
    CHECK(!nfc_is_plain(nfc, "e\xCC\x81", 3));
}

/* A megabyte of combining characters in the wrong order: the library needs minutes to sort it. */
TEST(long_normal_forms)
{
    enum { N = 1 << 18 };
    static const char *const made_of[][2] = {
        {"\xCC\x81\xCC\xA3", "\xCC\xA3"}, // one over, one under the letter
        {"\xCC\x81\xCC\x81", "\xCC\x81"},
    };
    _cleanup_(nfc_freep) struct nfc *nfc = nfc_new();

    for (size_t i = 0; i < ARRAY_SIZE(made_of); i++) {
        _cleanup_(buf_free) struct buf text = {0}, got = {0};
        for (int k = 0; k < N; k++)
            buf_add_str(&text, made_of[i][0]);
        clock_t start = clock();
        nfc_add(nfc, (const char *)text.data, text.n_bytes, NULL, &got, NULL);
        CHECK((clock() - start) / CLOCKS_PER_SEC < 5);
        CHECK_EQ(got.n_bytes, text.n_bytes);
        for (size_t k = 0; k < got.n_bytes; k += 2)
            if (!CHECK(!memcmp(got.data + k, k < 2 * N ? made_of[i][1] : "\xCC\x81", 2)))
                break;
    }
}
