#include "engine/data/textstream.h"
#include "engine/data/utf8.h"
#include "lib/fileio.h"
#include "storage/jsonscan.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <sys/stat.h>

static struct tokenizer *tiny(void) {
    struct tokenizer *t = NULL;
    struct hai_err err = {0};

    CHECK_EQ(tokenizer_read("tests/fixtures/tokenizer/tiny", &t, &err), 0, "%s", err.text);
    return t;
}

/* One line of the reference. */
struct line {
    struct buf category, text, decoded, kept;
    bool has_text, has_decoded, has_kept;
    struct token_list ids;
};

static void line_free(struct line *l) {
    buf_free(&l->category);
    buf_free(&l->text);
    buf_free(&l->decoded);
    buf_free(&l->kept);
    token_list_free(&l->ids);
}

/* Texts may hold zero bytes, which lib/json.h refuses. */
static int line_read(const char *text, size_t n_bytes, struct line *ret) {
    struct jsonscan s = {.text = text, .n_bytes = n_bytes, .zeros = true};
    _cleanup_(buf_free) struct buf key = {0};
    size_t n = 0, n_ids = 0;
    uint64_t id;
    int r = jsonscan_enter(&s, '{');

    while (r == 0 && (r = jsonscan_next(&s, '}', &n)) > 0) {
        r = jsonscan_key(&s, &key);
        const char *name = buf_cstr(&key);
        if (hai_streq(name, "category"))
            r = jsonscan_string(&s, &ret->category);
        else if (hai_streq(name, "text"))
            r = (ret->has_text = true, jsonscan_string(&s, &ret->text));
        else if (hai_streq(name, "decoded"))
            r = (ret->has_decoded = true, jsonscan_string(&s, &ret->decoded));
        else if (hai_streq(name, "decoded_skip_special"))
            r = (ret->has_kept = true, jsonscan_string(&s, &ret->kept));
        else if (hai_streq(name, "ids")) {
            r = jsonscan_enter(&s, '[');
            while (r == 0 && (r = jsonscan_next(&s, ']', &n_ids)) > 0) {
                r = jsonscan_u64(&s, &id);
                token_list_add(&ret->ids, (int32_t)id);
            }
        } else
            r = jsonscan_skip(&s);
    }
    return r;
}

static void check_ids(const struct token_list *got, const struct token_list *wanted,
                      const char *what) {
    CHECK_EQ(got->n, wanted->n, "%s", what);
    for (size_t i = 0; i < MIN(got->n, wanted->n); i++)
        if (!CHECK_EQ(got->ids[i], wanted->ids[i], "%s %zu", what, i))
            break;
}

static void check_bytes(const struct buf *got, const struct buf *wanted, const char *what) {
    CHECK(got->n_bytes == wanted->n_bytes &&
              (!got->n_bytes || !memcmp(got->data, wanted->data, got->n_bytes)),
          "%s", what);
}

/* Ids both ways, at once and token by token. */
static void check_line(struct tokenizer *t, struct line *l) {
    _cleanup_(token_list_free) struct token_list ids = {0};
    const char *what = buf_cstr(&l->category);
    const struct buf *decoded = l->has_decoded ? &l->decoded : &l->text;
    struct hai_err err = {0};

    if (l->has_text) {
        CHECK_EQ(tokenizer_encode(t, buf_cstr(&l->text), l->text.n_bytes, &ids, &err), 0, "%s",
                 err.text);
        check_ids(&ids, &l->ids, what);
    }
    for (int skip = 0; skip < 2; skip++) {
        _cleanup_(buf_free) struct buf whole = {0}, parts = {0};
        struct textstream stream = {.tokenizer = t, .skip_special = skip};
        const struct buf *wanted = skip && l->has_kept ? &l->kept : decoded;
        CHECK_EQ(tokenizer_decode(t, l->ids.ids, l->ids.n, skip, &whole, &err), 0, "%s", err.text);
        check_bytes(&whole, wanted, what);
        for (size_t i = 0; i < l->ids.n; i++) {
            CHECK_EQ(textstream_feed(&stream, l->ids.ids[i], &parts), 0);
            CHECK_EQ(utf8_valid(buf_cstr(&parts), parts.n_bytes), parts.n_bytes, "%s", what);
        }
        textstream_flush(&stream, &parts);
        check_bytes(&parts, wanted, what);
        textstream_free(&stream);
    }
}

TEST(tiny_as_the_reference)
{
    _cleanup_(tokenizer_freep) struct tokenizer *t = tiny();
    FILE *f = fopen("tests/fixtures/tokenizer/tiny.jsonl", "r");
    char *text = NULL;
    size_t size = 0;
    int n = 0;

    for (ssize_t length; t && f && (length = getline(&text, &size, f)) > 0; n++) {
        _cleanup_(line_free) struct line line = {0};
        CHECK_EQ(line_read(text, (size_t)length, &line), 0, "line %d", n + 1);
        check_line(t, &line);
    }
    CHECK_EQ(n, 829);
    free(text);
    if (f)
        fclose(f);
}

/* A tokenizer of our own: the bytes are tokens 0 to 255 in order, after them come these. */
struct made_up {
    const char *normalizer, *pattern, *model; // JSON; model: more members
    bool pairs;                               // merges are lists of two
    bool merges_first;                        // before the vocabulary
};

static const char *const made_up_tokens[] = {"ab", "abc", "\u0120a",      "xyz",
                                             "12", "123", "\u00c3\u00a9", "end"};
static const char *const made_up_merges[][2] = {
    {"a",      "b"     },
    {"ab",     "c"     },
    {"\u0120", "a"     },
    {"1",      "2"     },
    {"12",     "3"     },
    {"\u00c3", "\u00a9"}
};

static void add_merges(const struct made_up *m, struct buf *ret) {
    buf_add_str(ret, "\"merges\": [");
    for (size_t i = 0; i < ARRAY_SIZE(made_up_merges); i++)
        buf_printf(ret, m->pairs ? "%s[\"%s\", \"%s\"]" : "%s\"%s %s\"", i ? ", " : "",
                   made_up_merges[i][0], made_up_merges[i][1]);
    buf_add_str(ret, "]");
}

static void add_vocab(struct buf *ret) {
    int next = 256;

    buf_add_str(ret, "\"vocab\": {");
    for (int i = 0; i < 256; i++) {
        bool printed = (i >= '!' && i <= '~') || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE;
        buf_printf(ret, "\"\\u%04x\": %d, ", printed ? i : next++, i);
    }
    for (size_t i = 0; i < ARRAY_SIZE(made_up_tokens); i++)
        buf_printf(ret, "%s\"%s\": %zu", i ? ", " : "", made_up_tokens[i], 256 + i);
    buf_add_str(ret, "}");
}

static struct tokenizer *make_up(const struct made_up *m) {
    _cleanup_(buf_free) struct buf text = {0};
    struct tokenizer *t = NULL;
    struct hai_err err = {0};

    buf_printf(&text,
               "{\"added_tokens\": ["
               "{\"id\": 270, \"content\": \"<a>\", \"special\": true},"
               "{\"id\": 271, \"content\": \"<a>b\", \"special\": false},"
               "{\"id\": 272, \"content\": \"<n>e\u0301\", \"normalized\": true},"
               "{\"id\": 273, \"content\": \"\u00f5\", \"normalized\": true},"
               "{\"id\": 274, \"content\": \"<think>\", \"normalized\": true},"
               "{\"id\": 275, \"content\": \"\u00a7\", \"special\": true},"
               "{\"id\": 276, \"content\": \"call\", \"special\": true},"
               "{\"id\": 263, \"content\": \"end\", \"special\": true}],"
               "\"normalizer\": %s, \"pre_tokenizer\": {\"type\": \"Sequence\", "
               "\"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": %s}, "
               "\"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", \"use_regex\": false}]},"
               "\"post_processor\": {\"type\": \"Sequence\", \"processors\": [{\"type\": "
               "\"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<a>\"}}]}]},"
               "\"model\": {\"type\": \"BPE\" %s, ",
               m->normalizer, m->pattern, m->model);
    if (m->merges_first) {
        add_merges(m, &text);
        buf_add_str(&text, ", ");
    }
    add_vocab(&text);
    if (!m->merges_first) {
        buf_add_str(&text, ", ");
        add_merges(m, &text);
    }
    buf_add_str(&text, "}}");
    CHECK_EQ(tokenizer_parse((const char *)text.data, text.n_bytes, &t, &err), 0, "%s", err.text);
    return t;
}

#define QWEN                                                                                       \
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}|"             \
    " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\""
#define DIGITS "\"\\\\p{N}{1,3}\""

static const struct {
    struct made_up made;
    const char *text;
    int ids[8]; // ended by -1
} made_up_cases[] = {
    {{"null", QWEN, "", false, false},                                                             "abc abc",      {257, ' ', 257, -1}          },
    {{"null", QWEN, "", true, false},                                                              "abc abc",      {257, ' ', 257, -1}          },
    {{"null", QWEN, "", true, true},                                                               "abc abc",      {257, ' ', 257, -1}          },
    {{"null", QWEN, "", false, false},                                                             "xyz",          {'x', 'y', 'z', -1}          },
    {{"null", QWEN, ", \"ignore_merges\": true", false, false},                                    "xyz",          {259, -1}                    },
    {{"null", QWEN, ", \"ignore_merges\": true", false, true},                                     "xyz abx",      {259, ' ', 256, 'x', -1}     },
    {{"null", QWEN, "", false, false},                                                             " a ax",        {258, 258, 'x', -1}          },
    {{"null", QWEN, "", false, false},                                                             "1234",         {'1', '2', '3', '4', -1}     },
    {{"null", DIGITS, "", false, false},                                                           "12312",        {261, 260, -1}               },
    {{"null", QWEN, "", false, false},                                                             "e\xCC\x81",    {'e', 0xCC, 0x81, -1}        },
    {{"{\"type\": \"NFC\"}", QWEN, "", false, false},                                              "e\xCC\x81",    {262, -1}                    },
    {{"{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}]}", QWEN, "", false, false},
     "xe\xCC\x81x",                                                                                                {'x', 262, 'x', -1}          },
    {{"null", QWEN, "", false, false},                                                             "a<a><a>b<a",   {'a', 270, 271, '<', 'a', -1}},
    {{"{\"type\": \"NFC\"}", QWEN, "", false, false},                                              "<n>\xC3\xA9",  {272, -1}                    },
    {{"null", QWEN, "", false, false},                                                             "\xC3\xB5\xFF", {273, 0xFF, -1}              },
};

TEST(made_up_tokenizers)
{
    for (size_t i = 0; i < ARRAY_SIZE(made_up_cases); i++) {
        _cleanup_(tokenizer_freep) struct tokenizer *t = make_up(&made_up_cases[i].made);
        _cleanup_(token_list_free) struct token_list ids = {0};
        const char *text = made_up_cases[i].text;
        size_t n = 0;
        if (!t)
            continue;
        CHECK_EQ(tokenizer_encode(t, text, strlen(text), &ids, NULL), 0);
        for (; made_up_cases[i].ids[n] >= 0; n++)
            CHECK(n < ids.n && ids.ids[n] == made_up_cases[i].ids[n], "%zu: %s: %zu is %d", i, text,
                  n, n < ids.n ? ids.ids[n] : -1);
        CHECK_EQ(ids.n, n, "%zu: %s", i, text);
        CHECK_EQ(tokenizer_begin(t), 270);
    }
}

/* What a person wrote holds no special token, part of it neither, nor as a whole word; what a model
 * wrote holds its thoughts; a vocabulary's single characters are always found, unless special. */
TEST(marked_text)
{
    static const struct {
        const char *text, *marks;
        int ids[12];
    } cases[] = {
        {"<a>",          "000",      {270, -1}                          },
        {"<a>",          "111",      {'<', 'a', '>', -1}                },
        {"<a>",          "001",      {'<', 'a', '>', -1}                },
        {"<a>",          "100",      {'<', 'a', '>', -1}                },
        {"<a>b",         "0001",     {270, 'b', -1}                     },
        {"<a><a>",       "111000",   {'<', 'a', '>', 270, -1}           },
        {"\xC3\xB5",     "11",       {273, -1}                          },
        {"<think>",      "0000000",  {274, -1}                          },
        {"<think>",      "2222222",  {274, -1}                          },
        {"<a>",          "222",      {'<', 'a', '>', -1}                },
        {"e\xCC\x81<a>", "111111",   {262, '<', 'a', '>', -1}           },
        {"e\xCC\x81<a>", "111000",   {262, 270, -1}                     },
        {"\xC2\xA7",     "00",       {275, -1}                          },
        {"\xC2\xA7",     "11",       {0xC2, 0xA7, -1}                   },
        {"\xC2\xA7",     "22",       {0xC2, 0xA7, -1}                   },
        {"call\nxyz",    "00000000", {276, '\n', 259, -1}               },
        {"call\nxyz",    "11111111", {'c', 'a', 'l', 'l', '\n', 259, -1}},
        {"end\nxyz",     "0000000",  {263, '\n', 259, -1}               },
        {"end\nxyz",     "1111111",  {'e', 'n', 'd', '\n', 259, -1}     },
    };
    static const struct made_up made = {"{\"type\": \"NFC\"}", QWEN, ", \"ignore_merges\": true",
                                        false, false};
    _cleanup_(tokenizer_freep) struct tokenizer *t = make_up(&made);

    for (size_t i = 0; t && i < ARRAY_SIZE(cases); i++) {
        _cleanup_(token_list_free) struct token_list ids = {0};
        uint8_t marks[16];
        size_t n = 0;
        for (size_t j = 0; cases[i].marks[j]; j++)
            marks[j] = (uint8_t)(cases[i].marks[j] - '0');
        CHECK_EQ(
            tokenizer_encode_marked(t, cases[i].text, marks, strlen(cases[i].text), &ids, NULL), 0);
        for (; cases[i].ids[n] >= 0; n++)
            CHECK(n < ids.n && ids.ids[n] == cases[i].ids[n], "%zu: %s: %zu is %d", i,
                  cases[i].text, n, n < ids.n ? ids.ids[n] : -1);
        CHECK_EQ(ids.n, n, "%zu: %s", i, cases[i].text);
    }
}

/* Cut at every byte: what is out is whole characters, and nothing is lost or repeated. */
TEST(text_in_pieces)
{
    static const char text[] = "a\xC3\xA9\xE6\xAF\x95\xF0\x9F\x98\x80\xFFz\xE6\xAF\xF0\x9F";
    _cleanup_(tokenizer_freep) struct tokenizer *t = tokenizer_new_bytes();

    for (size_t cut = 0; cut < sizeof text; cut++) {
        _cleanup_(buf_free) struct buf got = {0}, wanted = {0};
        struct textstream s = {.tokenizer = t};
        for (size_t i = 0; i < sizeof text - 1; i++) {
            if (i == cut)
                textstream_flush(&s, &got);
            CHECK_EQ(textstream_feed(&s, (uint8_t)text[i], &got), 0);
            CHECK_EQ(utf8_valid(buf_cstr(&got), got.n_bytes), got.n_bytes);
        }
        CHECK_EQ(textstream_feed(&s, -1, &got), -EINVAL);
        textstream_flush(&s, &got);
        utf8_add_lossy(&wanted, text, cut);
        utf8_add_lossy(&wanted, text + cut, sizeof text - 1 - cut);
        check_bytes(&got, &wanted, "cut");
        textstream_free(&s);
    }
}

TEST(special_ids)
{
    _cleanup_(tokenizer_freep) struct tokenizer *t = tiny();
    _cleanup_(tokenizer_freep) struct tokenizer *bytes = tokenizer_new_bytes();

    CHECK_EQ(tokenizer_n_vocab(t), 512);
    CHECK_EQ(tokenizer_begin(t), 0);
    CHECK_EQ(tokenizer_end(t), 1);
    CHECK_EQ(tokenizer_n_vocab(bytes), 258);
    CHECK_EQ(tokenizer_begin(bytes), 256);
    CHECK_EQ(tokenizer_end(bytes), 257);
}

/* Any bytes survive, broken UTF-8 and zeros too, in both tokenizers. */
TEST(bytes_survive)
{
    static const char text[] =
        "a\0b \xff\xfe\xe4\xb8\xad\xe4\xb8 \xf0\x9f\x98\x80\xed\xa0\x80<think>";

    for (int i = 0; i < 2; i++) {
        _cleanup_(tokenizer_freep) struct tokenizer *t = i ? tiny() : tokenizer_new_bytes();
        _cleanup_(token_list_free) struct token_list ids = {0};
        _cleanup_(buf_free) struct buf back = {0};
        struct hai_err err = {0};
        CHECK_EQ(tokenizer_encode(t, text, sizeof text, &ids, &err), 0);
        for (size_t j = 0; j < ids.n; j++)
            CHECK_EQ(tokenizer_add_bytes(t, ids.ids[j], &back), 0);
        CHECK_EQ(back.n_bytes, sizeof text);
        CHECK(!memcmp(back.data, text, MIN(back.n_bytes, sizeof text)));
        CHECK_EQ(tokenizer_add_bytes(t, -1, &back), -EINVAL);
        CHECK_EQ(tokenizer_add_bytes(t, tokenizer_n_vocab(t), &back), -EINVAL);
    }
}

/* A word of a million bytes takes no quadratic time. */
TEST(long_word)
{
    enum { N = 1 << 20 };
    _cleanup_(tokenizer_freep) struct tokenizer *t = tiny();
    _cleanup_(token_list_free) struct token_list ids = {0};
    _cleanup_free_ char *text = hai_alloc(N);
    struct hai_err err = {0};

    memset(text, 'e', N);
    CHECK_EQ(tokenizer_encode(t, text, N, &ids, &err), 0);
    CHECK(ids.n > N / 64 && ids.n <= N, "%zu", ids.n);
}

TEST(lossy_text)
{
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"abc",                      "abc"                                 },
        {"\xff",                     "\xEF\xBF\xBD"                        },
        {"\xe4\xb8!",                "\xEF\xBF\xBD!"                       },
        {"\xed\xa0\x80",             "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xf0\x9f\x98\x80\xf0\x9f", "\xf0\x9f\x98\x80\xEF\xBF\xBD"        },
        {"\xc0\x80",                 "\xEF\xBF\xBD\xEF\xBF\xBD"            },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(buf_free) struct buf b = {0};
        utf8_add_lossy(&b, cases[i].bytes, strlen(cases[i].bytes));
        CHECK_STR(buf_cstr(&b), cases[i].text, "%zu", i);
    }
}

TEST(characters_come_back)
{
    static const uint32_t cs[] = {0, 0x41, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFD, 0x10000, 0x10FFFF};

    for (size_t i = 0; i < ARRAY_SIZE(cs); i++) {
        char text[4];
        uint32_t c = 1;
        size_t n = utf8_write(cs[i], text);
        CHECK_EQ(utf8_valid(text, n), n);
        CHECK_EQ(utf8_read(text, n, &c), n);
        CHECK_EQ(c, cs[i]);
    }
}

/* Files that ask for what is not built in, or are broken, are refused and say what it was. */
static const struct {
    const char *text;
    int r;
    const char *says;
} files[] = {
    {"{",                                                                         -EBADMSG, ""             },
    {"{}",                                                                        -EBADMSG, "vocabulary"   },
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":{\"a\":0}}}",                    -ENOTSUP, "Unigram"      },
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0}}}",                -EBADMSG, "different ids"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1,\"b\":0}}}",               -EBADMSG, "different ids"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":9223372036854775807}}}",      -EBADMSG,
     "vocabulary"                                                                                          },
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}",                        -EBADMSG, "a byte has no"},
    {"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0}}}", -ENOTSUP,
     "byte_fallback"                                                                                       },
    {"{\"model\":{\"vocab\":{},\"vocab\":{}}}",                                   -EBADMSG, "vocabulary"   },
    {"{\"model\":{\"vocab\":[]}}",                                                -EBADMSG, "an object"    },
    {"{\"a\":1,\"a\":2,\"model\":{}}",                                            -EBADMSG, "twice"        },
    {"{\"model\":{},\n\"model\" 7}",                                              -EBADMSG, "vocabulary"   },
    {"{\"version\":\"1\",\n\"model\":7}",                                         -EBADMSG, "an object"    },
    {"{\"version\":\"1\",\n\"x\":nul}",                                           -EBADMSG, ":2:"          },
};

TEST(refused_files)
{
    char dir[] = "/tmp/hai-test-XXXXXX";
    struct tokenizer *t = NULL;
    struct hai_err err = {0};

    CHECK(mkdtemp(dir));
    CHECK_EQ(tokenizer_read(dir, &t, &err), -ENOENT);
    _cleanup_free_ char *path = hai_asprintf("%s/tokenizer.json", dir);
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        CHECK_EQ(fileio_replace(path, files[i].text, strlen(files[i].text), 0600, &err), 0);
        CHECK_EQ(tokenizer_read(dir, &t, &err), files[i].r, "%s: %s", files[i].text, err.text);
        CHECK(strstr(err.text, files[i].says), "%s: %s", files[i].text, err.text);
        CHECK(!t);
    }
    fileio_remove_tree(dir, NULL);
}

TEST(exported_is_the_same)
{
    char dir[] = "/tmp/hai-test-XXXXXX";
    struct hai_err err = {0};

    CHECK(mkdtemp(dir));
    for (int i = 0; i < 2; i++) {
        _cleanup_(tokenizer_freep) struct tokenizer *t = i ? tiny() : tokenizer_new_bytes();
        _cleanup_(tokenizer_freep) struct tokenizer *back = NULL;
        CHECK_EQ(tokenizer_export(t, dir, &err), 0, "%s", err.text);
        CHECK_EQ(tokenizer_read(dir, &back, &err), 0, "%s", err.text);
        CHECK(back && tokenizer_n_vocab(back) == tokenizer_n_vocab(t));
        CHECK(back && tokenizer_begin(back) == tokenizer_begin(t));
    }
    fileio_remove_tree(dir, NULL);
}
