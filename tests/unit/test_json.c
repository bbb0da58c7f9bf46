#include "lib/json.h"
#include "tests/unit/test.h"

static const struct {
    const char *text;
    int r;
    const char *out; // the compact dump, or the place of the error
} cases[] = {
    {"{\"b\": 1, \"a\": [true, null, -2.5, \"x\"]}", 0,        "{\"b\":1,\"a\":[true,null,-2.5,\"x\"]}"},
    {"7",                                            0,        "7"                                     },
    {"-9223372036854775808",                         0,        "-9223372036854775808"                  },
    {"1e300",                                        0,        "1e+300"                                },
    {"0.1",                                          0,        "0.1"                                   },
    {"2.0",                                          0,        "2.0"                                   },
    {"\"\\u00e9\\ud83d\\ude00\\n\\u0001\"",          0,        "\"\u00e9\U0001f600\\n\\u0001\""        },
    {"{}",                                           0,        "{}"                                    },
    {"",                                             -EBADMSG, "f.json:1:1"                            },
    {"{\"a\": 1,\n \"a\": 2}",                       -EBADMSG, "f.json:2:4"                            },
    {"[1, 2\n, }",                                   -EBADMSG, "f.json:2:3"                            },
    {"NaN",                                          -EBADMSG, "f.json:1:3"                            },
    {"[Infinity]",                                   -EBADMSG, "f.json:1:9"                            },
    {"9223372036854775808",                          -EBADMSG, "f.json:1:19"                           },
    {"1e999",                                        -EBADMSG, "f.json:1:5"                            },
    {"\"a\\u0000b\"",                                -EBADMSG, "f.json:1:10"                           },
    {"\"\xff\"",                                     -EBADMSG, "f.json:1:1"                            },
    {"1 2",                                          -EBADMSG, "f.json:1:3"                            },
};

TEST(parse_and_dump)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(json_freep) struct json *value = NULL;
        _cleanup_(buf_free) struct buf out = {0};
        struct hai_err err = {0};
        const char *text = cases[i].text;
        int r = json_parse(text, strlen(text), "f.json", &value, &err);
        if (!CHECK_EQ(r, cases[i].r, "%s", text))
            continue;
        if (r == 0)
            json_dump(value, 0, &out);
        CHECK_STR(r == 0 ? buf_cstr(&out) : err.where, cases[i].out, "%s", text);
    }
}

TEST(depth_is_limited)
{
    for (int depth = JSON_DEPTH_MAX; depth <= 100000;
         depth = depth == JSON_DEPTH_MAX ? depth + 1 : depth * 100) {
        _cleanup_(buf_free) struct buf text = {0};
        _cleanup_(json_freep) struct json *value = NULL;
        for (int i = 0; i < depth; i++)
            buf_add_u8(&text, '[');
        for (int i = 0; i < depth; i++)
            buf_add_u8(&text, ']');
        int r = json_parse(text.data, text.n_bytes, NULL, &value, NULL);
        CHECK_EQ(r, depth == JSON_DEPTH_MAX ? 0 : -EFBIG, "%d", depth);
    }
}

TEST(walk_and_getters)
{
    const char *text = "{\"name\": \"x\", \"n\": 3, \"on\": true, \"list\": [1, 2, 3]}";
    _cleanup_(json_freep) struct json *value = NULL;
    int64_t sum = 0;
    const char *last = NULL;

    CHECK_EQ(json_parse(text, strlen(text), NULL, &value, NULL), 0);
    CHECK_STR(json_get_string(value, "name", "-"), "x");
    CHECK_STR(json_get_string(value, "n", "-"), "-");
    CHECK_EQ(json_get_int(value, "n", 0), 3);
    CHECK_EQ(json_get_bool(value, "on", false), true);
    CHECK(!json_get(value, "absent"));
    CHECK(!json_get(json_get(value, "list"), "name"));
    for (struct json *v = json_first(json_get(value, "list")); v; v = json_next(v))
        sum += json_as_int(v);
    for (struct json *v = json_first(value); v; v = json_next(v))
        last = json_key(v);
    CHECK_EQ(sum, 6);
    CHECK_STR(last, "list");
    CHECK_EQ(json_count(value), 4);
}

TEST(large_objects_are_indexed)
{
    _cleanup_(json_freep) struct json *value = json_new_object();
    enum { N = 5000 };
    char key[16];

    for (int i = 0; i < N; i++) {
        (void)snprintf(key, sizeof key, "key%d", i * 7);
        json_add_int(value, key, i);
    }
    for (int i = 0; i < N; i++) {
        (void)snprintf(key, sizeof key, "key%d", i * 7);
        CHECK_EQ(json_get_int(value, key, -1), i);
    }
    CHECK(!json_get(value, "key1"));
    struct json *again = json_new_null();
    CHECK(!json_try_add(value, "key14", 5, again));
    json_free(again);
    CHECK_EQ(json_count(value), N);
}

TEST(indented_dump)
{
    _cleanup_(json_freep) struct json *value = json_new_object();
    _cleanup_(buf_free) struct buf out = {0};

    json_add_int(value, "a", 1);
    struct json *list = json_add(value, "b", json_new_array());
    json_append(list, json_new_real(0.5));
    json_append(list, json_new_string(NULL));
    json_add(value, "c", json_new_array());
    json_dump(value, 2, &out);
    CHECK_STR(buf_cstr(&out),
              "{\n  \"a\": 1,\n  \"b\": [\n    0.5,\n    null\n  ],\n  \"c\": []\n}\n");
}

static const struct {
    const char *s;
    const char *out;
} string_cases[] = {
    {"a\"\\\n\x7f",       "\"a\\\"\\\\\\n\\u007f\""     },
    {"bad\xff utf8 \xc3", "\"bad\uFFFD utf8 \uFFFD\""   },
    {"\xed\xa0\x80",      "\"\uFFFD\uFFFD\uFFFD\""      },
    {"\xf4\x90\x80\x80",  "\"\uFFFD\uFFFD\uFFFD\uFFFD\""},
    {"\xc0\x80",          "\"\uFFFD\uFFFD\""            },
    {"\u00fc\u20ac",      "\"\u00fc\u20ac\""            },
};

TEST(dump_string_is_always_valid)
{
    for (size_t i = 0; i < ARRAY_SIZE(string_cases); i++) {
        _cleanup_(buf_free) struct buf out = {0};
        json_dump_string(string_cases[i].s, strlen(string_cases[i].s), &out);
        CHECK_STR(buf_cstr(&out), string_cases[i].out);
    }
}

TEST(dump_real_reads_back)
{
    static const double values[] = {0.1, 1.0 / 3, 5e-324, 1.7976931348623157e308, -0.0, 3e20};

    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        _cleanup_(buf_free) struct buf out = {0};
        _cleanup_(json_freep) struct json *value = NULL;
        json_dump_real(values[i], &out);
        CHECK_EQ(json_parse(out.data, out.n_bytes, NULL, &value, NULL), 0);
        CHECK(value && json_kind(value) == JSON_KIND_REAL && json_as_real(value) == values[i]);
    }
}
