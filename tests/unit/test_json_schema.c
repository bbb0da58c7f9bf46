#include "lib/json_schema.h"
#include "lib/yaml.h"
#include "tests/unit/test.h"

#define COLOURS(P, X) X(P, RED, "red") X(P, GREEN, "green") X(P, BLUE, "blue")
DECLARE_ENUM(colour, COLOUR, COLOURS);
DEFINE_ENUM(colour, COLOUR, COLOURS);

/* Every field kind once. The .def files of the tree are included twice; this list is a macro. */
#define SHAPES                                                                                     \
    SCHEMA(inner, "a block", F_I64(gpus_per_node, 0, 16, 1, "") F_STR(group, 8, S_ABSENT, ""))     \
    SCHEMA(outer, "everything",                                                                    \
           F_STR(name, 8, S_REQUIRED, "") F_I64(n, -5, 5, S_ABSENT, "") F_F64(loss, S_ABSENT, "")  \
               F_BOOL(on, 1, "") F_ENUM(colour, colour, COLOUR_GREEN, "")                          \
                   F_TIME(at_us, S_ABSENT, "") F_DURATION(grace_us, 0, 60000000, S_ABSENT, "")     \
                       F_SIZE(memory_bytes, 1, 1 << 20, S_ABSENT, "") F_BLOB(key, 4, "")           \
                           F_SUB(in, inner, "") F_LIST(list, inner, 2, "") F_STRS(words, 3, 3, "") \
                               F_I64S(ids, 0, 9, 3, "") F_MAP(env, 4, 2, "") F_JSON(any, 20, ""))
// clang-format off
#include "lib/pure/schema_structs.h"
SHAPES
#include "lib/pure/schema_undef.h"
#include "lib/pure/schema_tables.h"
SHAPES
#include "lib/pure/schema_undef.h"
// clang-format on

static const struct {
    const char *text;
    const char *out; // NULL: as text
} round_trips[] = {
    {"{\"name\":\"x\",\"n\":-3,\"loss\":0.5,\"on\":false,\"colour\":\"blue\","
     "\"at_us\":\"2026-11-23T13:11:40.102Z\",\"grace_s\":1.5,\"memory_bytes\":80,\"key\":\"00ff\","
     "\"in\":{\"gpus_per_node\":2,\"group\":\"g\"},\"list\":[{\"gpus_per_node\":3,\"group\":null}],"
     "\"words\":[\"a\",\"b\"],\"ids\":[1,2],\"env\":{\"A\":\"1\"},\"any\":{\"k\":[1,null]}}", NULL},
    {"{\"name\":\"y\",\"n\":null}",
     "{\"name\":\"y\",\"n\":null,\"loss\":null,\"on\":true,\"colour\":\"green\",\"at_us\":null,"
     "\"grace_s\":null,\"memory_bytes\":null,\"key\":null,\"in\":{\"gpus_per_node\":1,\"group\":"
     "null},"
     "\"list\":[],\"words\":[],\"ids\":[],\"env\":{},\"any\":null}"                                    },
};

TEST(wire_round_trips)
{
    for (size_t i = 0; i < ARRAY_SIZE(round_trips); i++) {
        _cleanup_(buf_free) struct buf out = {0};
        struct outer value;
        struct hai_err err = {0};
        const char *text = round_trips[i].text;
        int r = json_schema_parse(outer_schema(), text, strlen(text), 0, &value, &err);
        if (!CHECK_EQ(r, 0, "%s: %s", err.where, err.text))
            continue;
        json_schema_dump(outer_schema(), &value, &out);
        CHECK_STR(buf_cstr(&out), round_trips[i].out ? round_trips[i].out : text);
        schema_free(outer_schema(), &value);
    }
}

static const struct {
    const char *text;
    int r;
    const char *where;
    const char *message; // a part of it
} wire_errors[] = {
    {"[]",                                               -EINVAL, "",                 "expected a block of fields"     },
    {"{}",                                               -EINVAL, "name",             "name is missing"                },
    {"{\"name\":\"\"}",                                  -EINVAL, "name",             "name is empty"                  },
    {"{\"name\":5}",                                     -EINVAL, "name",             "expected text"                  },
    {"{\"name\":\"123456789\"}",                         -ERANGE, "name",             "9 bytes; expected at most 8"    },
    {"{\"name\":\"x\",\"n\":6}",                         -ERANGE, "n",                "n is 6; expected -5 to 5"       },
    {"{\"name\":\"x\",\"n\":1.0}",                       -EINVAL, "n",                "expected a whole number"        },
    {"{\"name\":\"x\",\"on\":1}",                        -EINVAL, "on",               "expected true or false"         },
    {"{\"name\":\"x\",\"loss\":\"1\"}",                  -EINVAL, "loss",             "expected a number"              },
    {"{\"name\":\"x\",\"colour\":\"rot\"}",              -EINVAL, "colour",
     "'rot'; expected red, green or blue"                                                                              },
    {"{\"name\":\"x\",\"at_us\":12}",                    -EINVAL, "at_us",            "expected a time"                },
    {"{\"name\":\"x\",\"grace_s\":61}",                  -ERANGE, "grace_s",          "is 61; expected 0 to 60 seconds"},
    {"{\"name\":\"x\",\"grace_s\":1e300}",               -ERANGE, "grace_s",          "expected 0 to 60 seconds"       },
    {"{\"name\":\"x\",\"grace_s\":9223372036854775807}", -ERANGE, "grace_s",          "expected 0 to 60"               },
    {"{\"name\":\"x\",\"grace_us\":1}",                  -EINVAL, "grace_us",         "unknown field 'grace_us'"       },
    {"{\"name\":\"x\",\"memory_bytes\":0}",              -ERANGE, "memory_bytes",     "is 0; expected 1 to"            },
    {"{\"name\":\"x\",\"key\":\"0\"}",                   -EINVAL, "key",              "not hexadecimal"                },
    {"{\"name\":\"x\",\"key\":\"0011223344\"}",          -ERANGE, "key",              "5 bytes; expected at most 4"    },
    {"{\"name\":\"x\",\"in\":{\"gpus_per_node\":17}}",   -ERANGE, "in.gpus_per_node", "is 17"                          },
    {"{\"name\":\"x\",\"in\":3}",                        -EINVAL, "in",               "expected a block of fields"     },
    {"{\"name\":\"x\",\"list\":[{},{\"group\":1}]}",     -EINVAL, "list[1].group",    "expected text"                  },
    {"{\"name\":\"x\",\"list\":[{},{},{}]}",             -ERANGE, "list",             "3 elements; expected at most 2" },
    {"{\"name\":\"x\",\"words\":[\"abcd\"]}",            -ERANGE, "words[0]",         "4 bytes"                        },
    {"{\"name\":\"x\",\"words\":[null]}",                -EINVAL, "words[0]",         "expected text"                  },
    {"{\"name\":\"x\",\"ids\":[10]}",                    -ERANGE, "ids[0]",           "is 10; expected 0 to 9"         },
    {"{\"name\":\"x\",\"env\":[]}",                      -EINVAL, "env",              "block of names"                 },
    {"{\"name\":\"x\",\"env\":{\"A\":1}}",               -EINVAL, "env.A",            "expected text"                  },
    {"{\"name\":\"x\",\"any\":\"0123456789012345678\"}", -ERANGE, "any",              "21 bytes"                       },
};

TEST(wire_errors)
{
    for (size_t i = 0; i < ARRAY_SIZE(wire_errors); i++) {
        struct outer value = {.n = 77};
        struct hai_err err = {0};
        const char *text = wire_errors[i].text;
        CHECK_EQ(json_schema_parse(outer_schema(), text, strlen(text), 0, &value, &err),
                 wire_errors[i].r, "%s", text);
        CHECK_STR(err.where, wire_errors[i].where, "%s", text);
        CHECK(strstr(err.text, wire_errors[i].message) != NULL, "%s: %s", text, err.text);
        CHECK_EQ(value.n, 77, "untouched");
    }
}

TEST(unknown_fields_may_be_ignored)
{
    const char *text = "{\"name\":\"x\",\"newer\":{\"a\":1}}";
    struct outer value;

    CHECK_EQ(json_schema_parse(outer_schema(), text, strlen(text), 0, &value, NULL), -EINVAL);
    CHECK_EQ(json_schema_parse(outer_schema(), text, strlen(text), JSON_SCHEMA_IGNORE_UNKNOWN,
                               &value, NULL),
             0);
    schema_free(outer_schema(), &value);
}

TEST(all_errors_of_a_file)
{
    const char *text = "name: x\nn: 35\nin:\n  gpu_per_node: 2\ngrace: 30\nmemory: 8XB\n"
                       "env: {A: 1.10}\n";
    static const struct {
        const char *where, *code, *text, *hint;
    } expected[] = {
        {"bad.yaml:2:4", "out_of_range",  "n is 35; expected -5 to 5",                  ""},
        {"bad.yaml:4:3", "unknown_field", "unknown field 'gpu_per_node' in 'in'",
         "did you mean 'gpus_per_node'?"                                                  },
        {"bad.yaml:5:8", "invalid",
         "grace is '30'; expected a duration with a unit, such as 90s, 30m, 6h or 3d",  ""},
        {"bad.yaml:6:9", "invalid",
         "'8XB' is not a size; expected a number with a unit, such as 512MiB or 80GiB", ""},
    };
    _cleanup_(json_freep) struct json *tree = NULL;
    struct json_schema_errors errors = {0};
    struct outer value;
    struct hai_err err = {0};

    CHECK_EQ(yaml_parse(text, strlen(text), "bad.yaml", &tree, NULL), 0);
    CHECK_EQ(json_schema_decode(outer_schema(), tree, JSON_SCHEMA_FILE, 0, "bad.yaml", &value,
                                &errors, &err),
             -ERANGE);
    CHECK_STR(err.where, expected[0].where);
    json_schema_error(&errors, json_get(tree, "env"), true, "bad.yaml", -EINVAL, NULL, NULL, "no");
    CHECK_EQ(errors.n, ARRAY_SIZE(expected) + 1);
    CHECK_STR(errors.items[errors.n - 1].where, "bad.yaml:7:1");
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        CHECK_STR(errors.items[i].where, expected[i].where);
        CHECK_STR(errors.items[i].code, expected[i].code);
        CHECK_STR(errors.items[i].text, expected[i].text);
        CHECK_STR(errors.items[i].hint, expected[i].hint);
    }
}

TEST(files_have_units)
{
    const char *text = "name: 007\ngrace: 1m\nmemory: 512KiB\nenv: {A: 1.10, B: yes}\n"
                       "words: [1, 2.0]\n";
    _cleanup_(json_freep) struct json *tree = NULL;
    struct outer value;

    CHECK_EQ(yaml_parse(text, strlen(text), NULL, &tree, NULL), 0);
    CHECK_EQ(
        json_schema_decode(outer_schema(), tree, JSON_SCHEMA_FILE, 0, NULL, &value, NULL, NULL), 0);
    CHECK_STR(value.name, "007");
    CHECK_EQ(value.grace_us, 60000000);
    CHECK_EQ(value.memory_bytes, 512 << 10);
    CHECK_STR(value.env.items[0].value, "1.10");
    CHECK_STR(value.env.items[1].value, "yes");
    CHECK_STR(value.words.items[1], "2.0");
    schema_free(outer_schema(), &value);
}
