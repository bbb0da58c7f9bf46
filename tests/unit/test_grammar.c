#include "engine/infer/grammar.h"
#include "lib/json.h"
#include "tests/unit/schemas.h"
#include "tests/unit/test.h"

/* Words like those of tokenizers, beside all single bytes. */
static const char *const words[] = {
    "{\"",   "\":",  "\",",      "\": \"",   "\"}",
    "\"]",   ", \"", "[]",       "{}",       "true",
    "false", "null", "123",      "-1",       "0.",
    "e+",    "\\n",  "\\u00",    "\\\"x",    "a\"",
    "name",  "id",   "\xc3\xa9", "\xe4\xb8", "  ",
    "\n  ",  " \"",  "],",       "}}",       "[[",
    "abc\"", "\"a",  "hello w",  "orld",     "\":{\"",
    "\\\\",  "2024", "-01-",     "\xf0\x9f", "\x98\x80",
    "tr",    "ue",   "}]",       "\\ud83d",  "\\ude00",
    "id",    ": ",   "[{\"",     "1,",       "a longer token of more than thirty-two characters"};

enum { N_TOKENS = 256 + ARRAY_SIZE(words) + 3, EMPTY = N_TOKENS - 3, END = N_TOKENS - 2 };

static struct grammar_token tokens[N_TOKENS];
static uint8_t single[256];

static struct grammar_vocab *vocab_new(void) {
    static const int32_t ends[] = {END, END + 1};

    for (int i = 0; i < 256; i++) {
        single[i] = (uint8_t)i;
        tokens[i] = (struct grammar_token){&single[i], 1};
    }
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        tokens[256 + i] = (struct grammar_token){words[i], (uint32_t)strlen(words[i])};
    tokens[END] = (struct grammar_token){"<end>", 5};
    return grammar_vocab_new(tokens, N_TOKENS, ends, 2);
}

static struct grammar *grammar_of(const struct grammar_vocab *v, const char *schema,
                                  struct grammar_options options) {
    struct grammar *g = NULL;
    struct hai_err err = {0};

    CHECK_EQ(grammar_new(v, schema, strlen(schema), &options, &g, &err), 0, "%s: %s", schema,
             err.text);
    return g;
}

/* Is the whole text allowed, and may it end there? The bytes are given in pieces of n. */
static bool accepts(struct grammar *g, const char *text, size_t n) {
    _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);

    for (size_t at = 0; at < strlen(text); at += n)
        if (grammar_match_text(m, text + at, MIN(n, strlen(text) - at)) < 0)
            return false;
    return grammar_match_complete(m);
}

static const struct {
    const char *schema;
    const char *good[10], *bad[10];
} cases[] = {
    {"{\"type\": \"object\"}",
     {"{}", "{\"a\":1}", "{ \"a\": [true, null, {\"b\": \"c\"}]}",
      "\n{\n  \"a\": 1,\n  \"b\": 2\n}", "{\"a\":{\"a\":1}}"},
     {"[]", "", "{", "{\"a\"}", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "{\"a\" :1}", "{\"\\u0061\":1}",
      "{}x", "{\"a\":01}"}                                                                                                                                                                                                   },
    {"true",
     {"1", "-0.5e10", "\"x\"", "[[], {}]", "null", "1E-7", "\"\\ud83d\\ude00\"",
      "123456789012345678", "0", " true"},
     {"01", "-", "1.", "1e", "tru", "\"\\ud83d\"", "\"\\u0000\"", "\"\x01\"", "1234567890123456789",
      "\"\xc3\""}                                                                                                                                                                                                            },
    {"{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 3}",
     {"\"ab\"", "\"abc\"", "\"\\n\\u00e9\"", "\"\xe4\xb8\xad\xe6\x96\x87\"", "\"\\ud83d\\ude00x\""},
     {"\"a\"", "\"abcd\"", "\"\\n\"", "\"\xe4\xb8\xad\"", "\"\\ud83d\\ude00\"", "ab"}                                                                                                                                        },
    {"{\"type\": \"integer\", \"minimum\": -12, \"exclusiveMaximum\": 305}",
     {"0", "-12", "304", "9", "-1", "-0", "100"},
     {"-13", "305", "3000", "1.0", "00", "-120", "1e2", "+1"}                                                                                                                                                                },
    {"{\"type\": \"integer\", \"minimum\": 100, \"maximum\": 120}",
     {"100", "120", "110"},
     {"1", "10", "121", "99", "-100", "1000", "0"}                                                                                                                                                                           },
    {"{\"type\": \"number\", \"exclusiveMinimum\": -1e18, \"exclusiveMaximum\": 1e17}",
     {"-999999999999999", "999999999999999.5"},
     {"x"}                                                                                                                                                                                                                   },
    {"{\"type\": \"number\", \"exclusiveMinimum\": 1e14, \"maximum\": 123456789012345.6}",
     {"100000000000000.008", "123456789012345.6", "123456789012345.599"},
     {"100000000000000", "100000000000000.000000001", "123456789012345.7"}                                                                                                                                                   },
    {"{\"type\": \"integer\", \"exclusiveMinimum\": -1e29, \"exclusiveMaximum\": 1e19}",
     {"9223372036854775807", "-9223372036854775808"},
     {"9223372036854775808"}                                                                                                                                                                                                 },
    {"{\"type\": \"integer\"}",
     {"9223372036854775807", "-9223372036854775808", "0", "-5"},
     {"9223372036854775808", "-9223372036854775809", "1.5", "1e3"}                                                                                                                                                           },
    {"{\"type\": \"number\", \"minimum\": 0, \"maximum\": 1}",
     {"0", "1", "0.5", "1.0", "0.000000001", "0.999999999", "1.00"},
     {"1.1", "-0.1", "2", "0.", "1e0", "0.0000000001", "1.000000001", "10"}                                                                                                                                                  },
    {"{\"type\": \"number\", \"exclusiveMinimum\": -0.1, \"exclusiveMaximum\": 2.5}",
     {"-0.099999999", "0", "2.499999999", "2.4", "1"},
     {"-0.1", "-0.10", "2.5", "2.6", "25", "-1"}                                                                                                                                                                             },
    {"{\"enum\": [\"red\", \"green\", \"re\", 1, 12, null, [1, {\"a\": 2}]]}",
     {"\"red\"", "\"re\"", "1", "12", "null", "[1,{\"a\":2}]"},
     {"\"r\"", "\"redd\"", "2", "123", "[1]", "[1, {\"a\":2}]"}                                                                                                                                                              },
    {"{\"const\": \"a/b\\u00e9\\n\"}",                                                              {"\"a/b\xc3\xa9\\n\""},                                                          {"\"a\"", "\"a\\/b\xc3\xa9\\n\""}       },
    {"{\"type\": \"array\", \"items\": {\"type\": \"integer\"}, \"minItems\": 1, \"maxItems\": 3}",
     {"[1]", "[1,2]", "[1, 2, 3]", "[\n  1\n]", "[ 1 ]"},
     {"[]", "[1,2,3,4]", "[1,]", "[\"a\"]", "[1 ,2]", "[ ]", "[  1]"}                                                                                                                                                        },
    {"{\"prefixItems\": [{\"type\": \"integer\"}, {\"type\": \"string\"}], \"items\": false}",
     {"[]", "[1]", "[1,\"a\"]"},
     {"[\"a\"]", "[1,\"a\",1]", "[1,2]"}                                                                                                                                                                                     },
    {"{\"prefixItems\": [{\"type\": \"integer\"}], \"items\": {\"type\": \"boolean\"}, "
     "\"minItems\": 2}",                                                                       {"[1,true]", "[1,true,false]"},
     {"[1]", "[]", "[1,1]"}                                                                                                                                                                                                  },
    {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": "
     "\"string\"}, \"c\": true}, \"required\": [\"b\"], \"additionalProperties\": false}",     {"{\"b\":\"x\"}", "{\"a\":1,\"b\":\"x\"}", "{\"b\":\"x\",\"c\":[1]}",
      "{\"a\":1,\"b\":\"x\",\"c\":null}"},
     {"{}", "{\"a\":1}", "{\"c\":1}", "{\"b\":\"x\",\"a\":1}", "{\"b\":\"x\",\"d\":1}",
      "{\"b\":\"x\",\"b\":\"y\"}", "{\"b\":1}"}                                                                                                                                                                              },
    {"{\"properties\": {\"ab\": {\"type\": \"integer\"}}, \"additionalProperties\": {\"type\": "
     "\"boolean\"}, \"required\": [\"z\"]}",                                                   {"{\"ab\":1,\"z\":true}", "{\"z\":false,\"a\":true,\"abc\":true,\"b\":false}"},
     {"{\"ab\":true,\"z\":true}", "{\"z\":true,\"ab\":true}", "{\"z\":1}", "{\"a\":true}",
      "{\"z\":true,\"a\":true,\"a\":true}"}                                                                                                                                                                                  },
    {"{\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"object\", \"properties\": {\"next\": "
     "{\"$ref\": \"#\"}}, \"required\": [\"next\"], \"additionalProperties\": false}]}",       {"1", "{\"next\":1}", "{\"next\":{\"next\":{\"next\":-7}}}"},
     {"{}", "{\"next\":{}}", "{\"next\":\"\"}"}                                                                                                                                                                              },
    {"{\"oneOf\": [{\"properties\": {\"kind\": {\"const\": \"a\"}, \"x\": {\"type\": "
     "\"integer\"}}, "
     "\"required\": [\"kind\", \"x\"], \"type\": \"object\"}, {\"properties\": {\"kind\": "
     "{\"const\": \"b\"}}, \"required\": [\"kind\"], \"type\": \"object\"}]}",                 {"{\"kind\":\"a\",\"x\":1}", "{\"kind\":\"b\"}", "{\"kind\":\"b\",\"x\":\"\"}"},
     {"{\"kind\":\"a\"}", "{\"kind\":\"c\"}", "{\"kind\":\"a\",\"x\":\"\"}"}                                                                                                                                                 },
    {"{\"allOf\": [{\"$ref\": \"#/$defs/base\"}, {\"properties\": {\"b\": {\"maximum\": 5}}, "
     "\"required\": [\"b\"]}], \"properties\": {\"c\": {\"type\": \"null\"}}, \"$defs\": "
     "{\"base\": "
     "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"string\"}, \"b\": {\"type\": "
     "\"integer\", \"minimum\": 2}}, \"required\": [\"a\"]}}}",                                {"{\"a\":\"\",\"b\":2}", "{\"c\":null,\"a\":\"\",\"b\":5}"},
     {"{\"a\":\"\"}", "{\"a\":\"\",\"b\":6}", "{\"a\":\"\",\"b\":1}", "{\"b\":3}"}                                                                                                                                           },
    {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": "
     "\"integer\"}}, \"additionalProperties\": false, \"anyOf\": [{\"required\": [\"a\"]}, "
     "{\"required\": [\"b\"]}]}",                                                              {"{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":1}"},
     {"{}", "{\"c\":1}"}                                                                                                                                                                                                     },
    {"{\"type\": \"string\", \"pattern\": \"^[a-c]{2,3}(-\\\\d+)?$\"}",
     {"\"ab\"", "\"abc\"", "\"ab-1\"", "\"abc-1234567\""},
     {"\"a\"", "\"abcc\"", "\"ab-\"", "\"xab\"", "\"ab\\u0041\""}                                                                                                                                                            },
    {"{\"type\": \"string\", \"pattern\": \"x|y$\"}",
     {"\"x\"", "\"axb\"", "\"y\"", "\"ay\"", "\"\xe4\xb8\xady\"", "\"\\n\\\"y\""},
     {"\"\"", "\"yz\"", "\"ab\""}                                                                                                                                                                                            },
    {"{\"type\": \"string\", \"pattern\": \"^(?:[^\\\\x00-\\u00ff]|\\\\.)*$\"}",
     {"\"\"", "\"\xe4\xb8\xad\"", "\"..\"", "\"\xf0\x9f\x98\x80\""},
     {"\"a\"", "\"\xc3\xa9\"", "\".a\""}                                                                                                                                                                                     },
    {"{\"type\": \"string\", \"format\": \"date\"}",
     {"\"2024-02-29\"", "\"2000-02-29\"", "\"2023-12-31\"", "\"2023-04-30\""},
     {"\"2023-02-29\"", "\"1900-02-29\"", "\"2023-13-01\"", "\"2023-04-31\"", "\"2023-1-01\""}                                                                                                                               },
    {"{\"format\": \"date-time\"}",
     {"\"2024-02-29T23:59:59Z\"", "\"2024-01-01T00:00:00.123+02:00\""},
     {"\"2024-02-29\"", "\"2024-02-29T24:00:00Z\"", "\"2024-02-29T23:59:59\""}                                                                                                                                               },
    {"{\"format\": \"uuid\"}",
     {"\"123e4567-e89b-12d3-a456-426614174000\""},
     {"\"123e4567e89b12d3a456426614174000\"", "\"123e4567-e89b-12d3-a456-42661417400g\""}                                                                                                                                    },
    {"{\"format\": \"ipv4\"}",                                                                      {"\"0.0.0.0\"", "\"255.10.1.99\""},                                              {"\"256.1.1.1\"", "\"1.1.1\""}          },
    {"{\"format\": \"email\"}",                                                                     {"\"a.b+c@x-y.org\""},                                                           {"\"a@b\"", "\"@b.c\"", "\"a..b@c.de\""}},
    {"{\"type\": [\"string\", \"null\"], \"title\": \"t\", \"default\": null}",
     {"null", "\"\""},
     {"1", "{}"}                                                                                                                                                                                                             },
    {"{\"type\": \"array\", \"items\": {\"type\": \"array\", \"items\": {\"$ref\": "
     "\"#/properties/x~1y\"}}, \"properties\": {\"x/y\": {\"const\": 1}}}",                    {"[[1]]", "[[],[1,1]]"},
     {"[[2]]", "[1]"}                                                                                                                                                                                                        },
    {"{\"type\": \"object\", \"properties\": {\"never\": false, \"x\": true}}",
     {"{}", "{\"x\":1}", "{\"y\":1}"},
     {"{\"never\":1}"}                                                                                                                                                                                                       },
};

TEST(texts)
{
    for (size_t c = 0; c < ARRAY_SIZE(cases); c++) {
        _cleanup_(grammar_freep) struct grammar *g =
            grammar_of(NULL, cases[c].schema, (struct grammar_options){0});
        for (int i = 0; g && i < 10 && cases[c].good[i]; i++)
            for (size_t n = 1; n < 4; n++)
                CHECK(accepts(g, cases[c].good[i], n), "%s refuses %s", cases[c].schema,
                      cases[c].good[i]);
        for (int i = 0; g && i < 10 && cases[c].bad[i]; i++)
            CHECK(!accepts(g, cases[c].bad[i], 1), "%s accepts %s", cases[c].schema,
                  cases[c].bad[i]);
    }
}

TEST(options)
{
    static const char schema[] = "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": "
                                 "\"integer\"}, \"b\": {\"type\": \"integer\"}}, "
                                 "\"required\": [\"a\", \"b\"]}";
    _cleanup_(grammar_freep) struct grammar *any =
        grammar_of(NULL, schema, (struct grammar_options){.any_order = true});
    _cleanup_(grammar_freep) struct grammar *closed =
        grammar_of(NULL, schema, (struct grammar_options){.closed = true});
    _cleanup_(grammar_freep) struct grammar *compact =
        grammar_of(NULL, schema, (struct grammar_options){.compact = true});

    CHECK(accepts(any, "{\"b\":1,\"a\":2}", 1));
    CHECK(accepts(any, "{\"x\":0,\"b\":1,\"y\":0,\"a\":2}", 1));
    CHECK(!accepts(any, "{\"b\":1,\"b\":2,\"a\":1}", 1));
    CHECK(!accepts(any, "{\"b\":1}", 1));
    CHECK(!accepts(closed, "{\"a\":1,\"b\":2,\"c\":3}", 1));
    CHECK(accepts(closed, "{\"a\":1, \"b\":2}", 1));
    CHECK(accepts(compact, "{\"a\":1,\"b\":2,\"c\":3}", 1));
    CHECK(!accepts(compact, "{\"a\":1, \"b\":2}", 1));
}

static const struct {
    const char *schema;
    int r;
    const char *where, *text;
} refused[] = {
    {"{",                                                                    -EBADMSG, NULL,                   ""                 },
    {"3",                                                                    -EINVAL,  "/",                    "expected a schema"},
    {"{\"type\": \"text\"}",                                                 -EINVAL,  "/type",                "no type"          },
    {"{\"type\": \"array\", \"contains\": {}}",                              -ENOTSUP, "/contains",            "not supported"    },
    {"{\"properties\": {\"a/b\": {\"not\": {}}}}",                           -ENOTSUP, "/properties/a~1b/not",
     "not supported"                                                                                                              },
    {"{\"items\": {\"minLength\": -1}}",                                     -EINVAL,  "/items/minLength",     "from 0"           },
    {"{\"maxLength\": 100000000}",                                           -E2BIG,   "/maxLength",           "16777216"         },
    {"{\"uniqueItems\": true}",                                              -ENOTSUP, "/uniqueItems",         "only false"       },
    {"{\"format\": \"hostname\"}",                                           -ENOTSUP, "/format",              "format"           },
    {"{\"$ref\": \"http://x/y\"}",                                           -ENOTSUP, "/$ref",                "other documents"  },
    {"{\"$ref\": \"#/nowhere\"}",                                            -EINVAL,  "/$ref",                "no schema"        },
    {"{\"$ref\": \"#/enum/0\", \"enum\": [{\"type\": 1}]}",                  -EINVAL,  "/$ref",                "no schema"        },
    {"{\"$ref\": \"#\"}",                                                    -EINVAL,  "/",                    "itself"           },
    {"{\"anyOf\": [{\"$ref\": \"#\"}, {\"type\": \"null\"}]}",               -EINVAL,  "/",                    "itself"           },
    {"{\"type\": \"object\", \"anyOf\": [{\"$ref\": \"#\"}]}",               -E2BIG,   NULL,                   "too deep"         },
    {"{\"pattern\": \"^[]\"}",                                               -EINVAL,  "/",                    "no value"         },
    {"false",                                                                -EINVAL,  "/",                    "no value"         },
    {"{\"minimum\": 5, \"maximum\": 4}",                                     -EINVAL,  "/",                    "no value"         },
    {"{\"enum\": [1], \"type\": \"string\"}",                                -EINVAL,  "/",                    "no value"         },
    {"{\"type\": \"array\", \"minItems\": 1, \"items\": {\"$ref\": \"#\"}}", -EINVAL,  "/",
     "no value"                                                                                                                   },
    {"{\"required\": [\"a\"], \"properties\": {\"a\": {\"$ref\": \"#\"}}}",  -EINVAL,  "/",
     "no value"                                                                                                                   },
    {"{\"pattern\": \"a(?=b)\"}",                                            -ENOTSUP, NULL,                   "byte 2"           },
    {"{\"pattern\": \"a**\"}",                                               -EINVAL,  NULL,                   "repeat"           },
    {"{\"pattern\": \"(a\"}",                                                -EINVAL,  NULL,                   "')'"              },
    {"{\"pattern\": \"[b-a]\"}",                                             -EINVAL,  NULL,                   "down"             },
    {"{\"pattern\": \"(a{1000}){1000}\"}",                                   -E2BIG,   NULL,                   "large"            },
    {"{\"pattern\": \"^(a|b)*a(a|b){12}$\"}",                                -E2BIG,   NULL,                   "states"           },
    {"{\"pattern\": \"a\", \"maxLength\": 3}",                               -ENOTSUP, "/",                    "beside"           },
    {"{\"enum\": [\"a\"], \"maxLength\": 3}",                                -ENOTSUP, NULL,                   "maxLength"        },
    {"{\"oneOf\": [{\"type\": \"number\"}, {\"type\": \"integer\"}]}",       -ENOTSUP, "/",                    "anyOf"            },
    {"{\"allOf\": [{\"pattern\": \"a\"}, {\"pattern\": \"b\"}]}",            -ENOTSUP, NULL,                   "pattern"          },
};

TEST(refused_by_name)
{
    for (size_t c = 0; c < ARRAY_SIZE(refused); c++) {
        struct grammar *g = NULL;
        struct hai_err err = {0};
        int r = grammar_new(NULL, refused[c].schema, strlen(refused[c].schema), NULL, &g, &err);
        CHECK_EQ(r, refused[c].r, "%s: %s", refused[c].schema, err.text);
        CHECK(!g, "%s", refused[c].schema);
        CHECK(strstr(err.text, refused[c].text), "%s: %s", refused[c].schema, err.text);
        if (refused[c].where)
            CHECK_STR(err.where, refused[c].where, "%s", refused[c].schema);
    }
}

/* Many patterns cost no more than is left to all of them; the same one again costs nothing. */
TEST(patterns_in_numbers)
{
    for (int same = 0; same < 2; same++) {
        _cleanup_(buf_free) struct buf schema = {0};
        struct grammar *g = NULL;
        struct hai_err err = {0};
        buf_add_str(&schema, "{\"anyOf\": [true");
        for (int i = 0; i < 600; i++)
            buf_printf(&schema, ", {\"pattern\": \"(x{300}|%d){2}\"}", same ? 0 : i);
        buf_add_str(&schema, "]}");
        int r = grammar_new(NULL, buf_cstr(&schema), schema.n_bytes, NULL, &g, &err);
        CHECK_EQ(r, same ? 0 : -E2BIG, "%s", err.text);
        grammar_free(g);
    }
}

/* Schemas that would take minutes or all memory are refused with their place; large ones as people
 * write them are not. Two lists of numbered items, between three texts. */
static const struct {
    struct list {
        const char *before, *item, *item_end;
        int n;
    } lists[2];
    const char *after;
    int r;
    const char *where, *text;
} large[] = {
    {{{"{\"properties\": {\"a\": {\"oneOf\": [", "{\"const\": 1", "}", 12000}},
     "]}}}",                                                                                    -E2BIG,
     "/properties/a",                                                                                         "oneOf"      },
    {{{"{\"oneOf\": [", "{\"const\": 1", "}", 2000}},                                     "]}", 0,      NULL, ""           },
    {{{"{\"items\": {\"allOf\": [{\"enum\": [", "1", "", 12000},
      {"]}, {\"enum\": [", "2", "", 12000}},
     "]}]}}",                                                                                   -E2BIG,
     "/items",                                                                                                "comparisons"},
    {{{"{\"allOf\": [{\"enum\": [", "1", "", 3000}, {"]}, {\"enum\": [", "1", "", 3000}},
     "]}]}",                                                                                    0,
     NULL,                                                                                                    ""           },
    {{{"{\"required\": [", "\"1", "\"", 9000},
      {"], \"allOf\": [{\"required\": [", "\"2", "\"", 9000}},
     "]}]}",                                                                                    -E2BIG,
     "/",                                                                                                     "comparisons"},
    {{{"{\"items\": {\"oneOf\": [",
       "{\"type\": \"object\", \"required\": [\"k\"], \"properties\": {\"k\": {\"const\": 1", "}}}",
       3000}},
     "]}}",                                                                                     -E2BIG,
     "/items",                                                                                                "oneOf"      },
    {{{"{\"allOf\": [{\"properties\": {", "\"1", "\": true", 900},
      {"}}, {\"additionalProperties\": {\"enum\": [", "1", "", 20000}},
     "]}}]}",                                                                                   -E2BIG,
     "/",                                                                                                     "large"      },
};

static void add_list(struct buf *out, const struct list *list) {
    buf_add_str(out, list->before ? list->before : "");
    for (int i = 0; i < list->n; i++)
        buf_printf(out, "%s%s%04d%s", i ? ", " : "", list->item, i, list->item_end);
}

TEST(large_schemas)
{
    for (size_t c = 0; c < ARRAY_SIZE(large); c++) {
        _cleanup_(buf_free) struct buf text = {0};
        _cleanup_(grammar_freep) struct grammar *g = NULL;
        struct hai_err err = {0};
        add_list(&text, &large[c].lists[0]);
        add_list(&text, &large[c].lists[1]);
        buf_add_str(&text, large[c].after);
        int r = grammar_new(NULL, buf_cstr(&text), text.n_bytes, NULL, &g, &err);
        CHECK_EQ(r, large[c].r, "%.60s: %s", buf_cstr(&text), err.text);
        CHECK(strstr(err.text, large[c].text), "%.60s: %s", buf_cstr(&text), err.text);
        if (large[c].where)
            CHECK_STR(err.where, large[c].where, "%.60s", buf_cstr(&text));
    }
}

/* A long text is not copied into each of many alternatives. */
TEST(long_text_merged)
{
    _cleanup_(buf_free) struct buf text = {0};
    struct grammar *g = NULL;
    struct hai_err err = {0};

    buf_printf(&text, "{\"description\": \"%0150000d\", ", 1);
    add_list(&text,
             &(struct list){"\"type\": \"object\", \"anyOf\": [", "{\"title\": \"", "\"}", 3000});
    buf_add_str(&text, "]}");
    CHECK_EQ(grammar_new(NULL, buf_cstr(&text), text.n_bytes, NULL, &g, &err), -E2BIG);
    CHECK(!strncmp(err.where, "/anyOf/", 7), "%s", err.where);
}

/* Forty definitions, each twice the next: 2^40 ways to the same value. */
TEST(alternatives_of_alternatives)
{
    _cleanup_(grammar_vocab_freep) struct grammar_vocab *v = vocab_new();
    _cleanup_(buf_free) struct buf text = {0};

    buf_add_str(&text, "{\"$ref\": \"#/$defs/a0\", \"$defs\": {");
    for (int i = 0; i < 40; i++)
        buf_printf(
            &text,
            "\"a%d\": {\"anyOf\": [{\"$ref\": \"#/$defs/a%d\"}, {\"$ref\": \"#/$defs/a%d\"}]}, ", i,
            i + 1, i + 1);
    buf_add_str(&text, "\"a40\": {\"items\": {\"$ref\": \"#\"}, \"maxItems\": 2}}}");
    _cleanup_(grammar_freep) struct grammar *g =
        grammar_of(v, buf_cstr(&text), (struct grammar_options){0});
    CHECK(accepts(g, "[[],[[]]]", 1));
    CHECK(!accepts(g, "[[],[],[]]", 1));
}

/* ---- random schemas ---- */

static uint64_t state;
static int n_endless;

static uint32_t random_below(uint32_t n) {
    uint64_t z = state += 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ z >> 31) % n);
}

static bool has(const uint64_t *mask, int32_t id) {
    return mask[id / 64] >> (id % 64) & 1;
}

/* Each token by itself: allowed if and only if its bit is set. */
static void check_mask(struct grammar_match *m, const char *schema, const char *so_far) {
    uint64_t mask[(N_TOKENS + 63) / 64];

    grammar_match_mask(m, mask);
    for (int32_t id = 0; id < N_TOKENS; id++) {
        int r = grammar_match_token(m, id);
        CHECK_EQ(has(mask, id), r == 0, "token %d (%.*s) after %s of %s", id,
                 (int)tokens[id].n_bytes, (const char *)tokens[id].bytes, so_far, schema);
        if (r == 0)
            CHECK_EQ(grammar_match_back(m, 1), 0);
    }
}

/* One of the allowed tokens; after many steps one that leads to the end. */
static int32_t choose(const uint64_t *mask, int n_steps) {
    // Where a letter may come, a string is open.
    const char *closers = has(mask, 'Q') ? "\"}]:" : "}]\":";
    int32_t allowed[N_TOKENS];
    uint32_t n = 0;

    if (n_steps > 60 || random_below(4) == 0)
        for (int32_t id = END; id < N_TOKENS; id++)
            if (has(mask, id))
                return id;
    for (int i = 0; n_steps > 60 && closers[i]; i++)
        if (has(mask, closers[i]))
            return closers[i];
    for (int32_t id = 0; id < N_TOKENS; id++)
        // Printable tokens often, so that texts get somewhere.
        if (has(mask, id) && (id < 0x80 || id >= 256 || random_below(4) == 0))
            allowed[n++] = id;
    for (int32_t id = 0; n == 0 && id < N_TOKENS; id++)
        if (has(mask, id))
            return id;
    return n ? allowed[random_below(n)] : -1;
}

/* In a key that has just begun: take one of the schemas' names, so that required ones come. */
static bool name_key(struct grammar_match *m, struct buf *out) {
    for (size_t i = 0; schemas_names[i]; i++) {
        _cleanup_(buf_free) struct buf key = {0};
        json_dump_string(schemas_names[i], strlen(schemas_names[i]), &key);
        buf_add_u8(&key, ':');
        if (grammar_match_text(m, key.data + 1, key.n_bytes - 1) == 0) {
            buf_add(out, key.data + 1, key.n_bytes - 1);
            return true;
        }
    }
    return false;
}

/* A walk through allowed tokens to the end: a text that the schema accepts, which an independent
 * reader of schemas says. */
static void walk(struct grammar *g, const struct json *schema, const char *text) {
    _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);
    _cleanup_(grammar_match_freep) struct grammar_match *other = grammar_match_new(g);
    _cleanup_(buf_free) struct buf out = {0};
    _cleanup_(json_freep) struct json *value = NULL;
    uint64_t mask[(N_TOKENS + 63) / 64];
    struct hai_err err = {0};
    int32_t id = 0;

    for (int step = 0; step < 2000; step++) {
        if (random_below(12) == 0)
            check_mask(m, text, buf_cstr(&out));
        if (step > 60 && name_key(m, &out))
            continue;
        grammar_match_mask(m, mask);
        id = choose(mask, step);
        if (!CHECK(id >= 0, "%s: nothing may follow %s", text, buf_cstr(&out)))
            return;
        CHECK_EQ(grammar_match_token(m, id), 0, "token %d after %s of %s", id, buf_cstr(&out),
                 text);
        if (id >= END)
            break;
        buf_add(&out, tokens[id].bytes, tokens[id].n_bytes);
        // Forth and back, or on in a copy: nothing is forgotten.
        if (random_below(8) == 0) {
            grammar_match_mask(m, mask);
            int32_t next = choose(mask, 0);
            if (next >= 0 && grammar_match_token(m, next) == 0)
                CHECK_EQ(grammar_match_back(m, 1), 0);
            grammar_match_copy(other, m);
            struct grammar_match *swap = m;
            m = other;
            other = swap;
        }
    }
    // Chance may name other keys for very long; what it has written is thrown away then.
    if (id < END) {
        n_endless++;
        return;
    }
    CHECK_EQ(json_parse(out.data, out.n_bytes, NULL, &value, &err), 0, "%s: %s: %s", text,
             buf_cstr(&out), err.text);
    if (value)
        CHECK(schemas_check(schema, schema, value), "%s does not accept %s", text, buf_cstr(&out));
}

/* A value made from the schema, written without white space, is accepted. */
static void check_sample(struct grammar *g, const struct json *schema, const char *text,
                         bool any_order) {
    _cleanup_(buf_free) struct buf out = {0};
    _cleanup_(json_freep) struct json *value =
        schemas_sample(schema, schema, any_order, random_below, 0);

    if (!value)
        return;
    json_dump(value, 0, &out);
    CHECK(schemas_check(schema, schema, value), "the sample %s of %s is wrong", buf_cstr(&out),
          text);
    CHECK(accepts(g, buf_cstr(&out), 1 + random_below(5)), "%s refuses %s", text, buf_cstr(&out));
}

TEST(random_schemas)
{
    _cleanup_(grammar_vocab_freep) struct grammar_vocab *v = vocab_new();
    int n_compiled = 0;

    for (uint64_t seed = 1; seed <= 400 && !test_failed(); seed++) {
        state = seed;
        _cleanup_(json_freep) struct json *schema = schemas_random(random_below);
        _cleanup_(grammar_freep) struct grammar *g = NULL;
        _cleanup_(buf_free) struct buf text = {0};
        struct hai_err err = {0};
        struct grammar_options options = {.any_order = random_below(2), .compact = random_below(2)};
        json_dump(schema, 0, &text);
        int r = grammar_new(v, buf_cstr(&text), text.n_bytes, &options, &g, &err);
        CHECK(r == 0 || r == -EINVAL || r == -ENOTSUP, "%s: %s", buf_cstr(&text), err.text);
        if (r < 0)
            continue;
        n_compiled++;
        for (int i = 0; i < 3; i++)
            walk(g, schema, buf_cstr(&text));
        for (int i = 0; i < 10; i++)
            check_sample(g, schema, buf_cstr(&text), options.any_order);
    }
    CHECK(n_compiled > 250, "%d", n_compiled);
    CHECK(n_endless < n_compiled / 10, "%d walks without end", n_endless);
}

/* ---- many stacks at once ---- */

/* {"anyOf": [ ... ]}: `format` with each number from 0 to n - 1, and one more alternative. */
static void add_crowd(struct buf *out, const char *before, int n, const char *after,
                      const char *last) {
    buf_add_str(out, "{\"anyOf\": [");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s%d%s, ", before, 1000 + i, after);
    buf_printf(out, "%s]}", last);
}

/* A set of stacks, each of one frame, and a text that has ended, is about as long as a mask's key
 * may be: 128 of them are too long by one. */
TEST(keys_of_many_stacks)
{
    _cleanup_(grammar_vocab_freep) struct grammar_vocab *v = vocab_new();

    for (int n = 120; n < 300 && !test_failed(); n += n < 136 ? 1 : 50) {
        _cleanup_(buf_free) struct buf schema = {0};
        add_crowd(&schema, "{\"const\": ", n, "}", "{\"const\": 1}");
        _cleanup_(grammar_freep) struct grammar *g =
            grammar_of(v, buf_cstr(&schema), (struct grammar_options){0});
        _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);
        CHECK_EQ(grammar_match_text(m, "1", 1), 0);
        check_mask(m, "a crowd", "1");
        check_mask(m, "a crowd", "1"); // from memory, where it was kept
        CHECK_EQ(grammar_match_complete(m), n < GRAMMAR_STACKS_MAX, "%d", n);
    }
}

/* The first stack becomes more than there is room for, and none of them goes on; the second one
 * does. Whether a token may come is asked of each alone. */
TEST(crowded_out)
{
    _cleanup_(grammar_vocab_freep) struct grammar_vocab *v = vocab_new();
    _cleanup_(buf_free) struct buf schema = {0};

    buf_add_str(&schema, "{\"anyOf\": [{\"items\": ");
    add_crowd(&schema, "{\"items\": {\"const\": ", 300, "}}", "{\"items\": {\"const\": 1}}");
    buf_add_str(&schema, "}, {\"items\": {\"items\": {\"type\": \"object\"}}}]}");
    _cleanup_(grammar_freep) struct grammar *g =
        grammar_of(v, buf_cstr(&schema), (struct grammar_options){0});
    _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);
    CHECK_EQ(grammar_match_text(m, "[", 1), 0);
    check_mask(m, "crowds", "[");
    CHECK_EQ(grammar_match_text(m, "[{\"", 3), 0);
    check_mask(m, "crowds", "[[{");
    CHECK_EQ(grammar_match_text(m, "a\":1}]]", 7), 0);
    CHECK(grammar_match_complete(m));
}

/* Alternatives that begin alike, inside each other, from none to more than there is room for. */
static void add_alike(struct buf *out, int depth) {
    static const char *const begin[] = {"{\"items\": ", "{\"prefixItems\": [true], \"items\": ",
                                        "{\"properties\": {\"a\": ",
                                        "{\"properties\": {\"id\": true, \"a\": "},
                             *const end[] = {"}", "}", "}}", "}}"},
                             *const leaf[] = {"{\"type\": \"string\", \"maxLength\": %u}",
                                              "{\"type\": \"integer\", \"minimum\": %u}",
                                              "{\"enum\": [%u, \"abc\", \"name\"]}",
                                              "{\"pattern\": \"^a{%u}\"}",
                                              "{\"type\": \"object\", \"required\": [\"a%u\"]}"};
    uint32_t n = depth == 0 ? 0 : random_below(3) ? 1 + random_below(6) : 1 + random_below(40);

    buf_add_str(out, "{\"anyOf\": [");
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = random_below(ARRAY_SIZE(begin));
        buf_add_str(out, begin[k]);
        add_alike(out, depth - 1);
        buf_printf(out, "%s, ", end[k]);
    }
    n = 1 + random_below(8);
    for (uint32_t i = 0; i < n; i++) {
        buf_add_str(out, i ? ", " : "");
        uint32_t k = random_below(ARRAY_SIZE(leaf)), number = random_below(9);
        const char *cut = strstr(leaf[k], "%u");
        buf_printf(out, "%.*s%u%s", (int)(cut - leaf[k]), leaf[k], number, cut + 2);
    }
    buf_add_str(out, "]}");
}

TEST(masks_of_crowds)
{
    _cleanup_(grammar_vocab_freep) struct grammar_vocab *v = vocab_new();
    int n_steps = 0;

    for (uint64_t seed = 1; seed <= 30 && !test_failed(); seed++) {
        state = seed;
        _cleanup_(buf_free) struct buf schema = {0};
        add_alike(&schema, 2);
        _cleanup_(grammar_freep) struct grammar *g =
            grammar_of(v, buf_cstr(&schema), (struct grammar_options){0});
        if (!g)
            continue;
        _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);
        _cleanup_(grammar_match_freep) struct grammar_match *twin = grammar_match_new(g);
        uint64_t mask[(N_TOKENS + 63) / 64];
        for (int step = 0; step < 12 && !test_failed(); step++, n_steps++) {
            grammar_match_copy(twin, m);
            check_mask(twin, buf_cstr(&schema), "a walk");
            grammar_match_mask(m, mask);
            int32_t id = choose(mask, 0);
            if (!CHECK(id >= 0, "%s: a dead end", buf_cstr(&schema)) || id >= END)
                break;
            CHECK_EQ(grammar_match_token(m, id), 0);
        }
    }
    CHECK(n_steps > 150, "%d", n_steps);
}

TEST(masks_of_the_cases)
{
    _cleanup_(grammar_vocab_freep) struct grammar_vocab *v = vocab_new();

    for (size_t c = 0; c < ARRAY_SIZE(cases) && !test_failed(); c++) {
        _cleanup_(grammar_freep) struct grammar *g =
            grammar_of(v, cases[c].schema, (struct grammar_options){0});
        _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);
        for (int i = 0; i < 10 && cases[c].good[i]; i++) {
            const char *text = cases[c].good[i];
            grammar_match_reset(m);
            check_mask(m, cases[c].schema, "");
            for (size_t at = 0; text[at]; at++) {
                CHECK_EQ(grammar_match_text(m, text + at, 1), 0);
                check_mask(m, cases[c].schema, text);
            }
        }
    }
}

TEST(steps_are_taken_back)
{
    _cleanup_(grammar_vocab_freep) struct grammar_vocab *v = vocab_new();
    _cleanup_(grammar_freep) struct grammar *g =
        grammar_of(v, "{\"type\": \"object\"}", (struct grammar_options){0});
    _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);

    CHECK_EQ(grammar_match_back(m, 1), -EINVAL);
    CHECK_EQ(grammar_match_text(m, "{\"a\": [", 7), 0);
    for (int i = 0; i < 5000; i++) // far more frames than are kept
        CHECK_EQ(grammar_match_text(m, i % 2 ? "{\"b\":0}," : "[\"x\"],", i % 2 ? 8 : 6), 0);
    CHECK_EQ(grammar_match_back(m, GRAMMAR_HISTORY_MAX + 1), -EINVAL);
    CHECK_EQ(grammar_match_back(m, GRAMMAR_HISTORY_MAX), 0);
    CHECK_EQ(grammar_match_back(m, 1), -EINVAL);
    CHECK_EQ(grammar_match_text(m, "1]}", 3), 0);
    CHECK(grammar_match_closed(m));
    CHECK_EQ(grammar_match_token(m, 'x'), -EINVAL);
    CHECK_EQ(grammar_match_token(m, END), 0);
    CHECK_EQ(grammar_match_token(m, EMPTY), -EINVAL);
    CHECK_EQ(grammar_match_token(m, N_TOKENS), -EINVAL);
    CHECK_EQ(grammar_match_token(m, -1), -EINVAL);
}

/* Nesting ends in time, and always finds its way out. */
TEST(depth)
{
    _cleanup_(grammar_freep) struct grammar *g =
        grammar_of(NULL, "{\"type\": \"array\"}", (struct grammar_options){0});
    _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);

    for (int i = 0; i < GRAMMAR_DEPTH_MAX; i++)
        CHECK_EQ(grammar_match_text(m, "[", 1), 0);
    CHECK_EQ(grammar_match_text(m, "[", 1), -EINVAL);
    CHECK_EQ(grammar_match_text(m, "{", 1), -EINVAL);
    for (int i = 0; i < GRAMMAR_DEPTH_MAX; i++)
        CHECK_EQ(grammar_match_text(m, "]", 1), 0);
    CHECK(grammar_match_closed(m));
}
