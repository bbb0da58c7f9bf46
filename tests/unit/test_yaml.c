#include "lib/yaml.h"
#include "tests/unit/test.h"

#include <time.h>
#include <unistd.h>

static const struct {
    const char *text;
    int r;
    const char *out; // the compact dump, or the place of the error
} cases[] = {
    {"a: 1\nb: [x, 2.5]\n",                                  0,        "{\"a\":1,\"b\":[\"x\",2.5]}"      },
    {"{\"a\": [true, null]}",                                0,        "{\"a\":[true,null]}"              },
    {"[yes, no, on, off, y, True, FALSE, ~, Null, '']",      0,
     "[\"yes\",\"no\",\"on\",\"off\",\"y\",true,false,null,null,\"\"]"                                    },
    {"[0x1F, 0o17, 017, +5, -3, 1_000, 0b1, 0x, 190:20:30]", 0,
     "[31,15,17,5,-3,\"1_000\",\"0b1\",\"0x\",\"190:20:30\"]"                                             },
    {"[1., .5, 1e3, -1.5E-2, ., -, e5, 1e, 1.2.3]",          0,
     "[1.0,0.5,1000.0,-0.015,\".\",\"-\",\"e5\",\"1e\",\"1.2.3\"]"                                        },
    {"['1', \"2\"]",                                         0,        "[\"1\",\"2\"]"                    },
    {"a: |\n  two\n  lines\nb: >\n  one\n  line\n",          0,
     "{\"a\":\"two\\nlines\\n\",\"b\":\"one line\\n\"}"                                                   },
    {"1: x\ntrue: y\n",                                      0,        "{\"1\":\"x\",\"true\":\"y\"}"     },
    {"a:\nb: 2016-01-01",                                    0,        "{\"a\":null,\"b\":\"2016-01-01\"}"},
    {"# nothing\n",                                          -ENODATA, "f.yaml"                           },
    {"",                                                     -ENODATA, "f.yaml"                           },
    {"a: 1\nb: 2\na: 3\n",                                   -EBADMSG, "f.yaml:3:1"                       },
    {"a: &x 1\nb: *x\n",                                     -EBADMSG, "f.yaml:1:4"                       },
    {"a: [1, *x]\n",                                         -EBADMSG, "f.yaml:1:8"                       },
    {"&k a: 1\n",                                            -EBADMSG, "f.yaml:1:1"                       },
    {"a: !!str 1\n",                                         -EBADMSG, "f.yaml:1:4"                       },
    {"a: !foo {b: 1}\n",                                     -EBADMSG, "f.yaml:1:4"                       },
    {"a: .inf\n",                                            -EBADMSG, "f.yaml:1:4"                       },
    {"a: -.INF\n",                                           -EBADMSG, "f.yaml:1:4"                       },
    {"a: .nan\n",                                            -EBADMSG, "f.yaml:1:4"                       },
    {"a: 9223372036854775808\n",                             -ERANGE,  "f.yaml:1:4"                       },
    {"a: 1e999\n",                                           -ERANGE,  "f.yaml:1:4"                       },
    {"? [a, b]\n: 1\n",                                      -EBADMSG, "f.yaml:1:3"                       },
    {"a: \"x\\0y\"\n",                                       -EBADMSG, "f.yaml:1:4"                       },
    {"\"x\\0y\": 1\n",                                       -EBADMSG, "f.yaml:1:1"                       },
    {"a: [1, 2\nb: 3\n",                                     -EBADMSG, "f.yaml:2:2"                       },
    {"a: 1\n b: 2\n",                                        -EBADMSG, "f.yaml:2:3"                       },
    {"a:\n\t- 1\n",                                          -EBADMSG, "f.yaml:2:1"                       },
    {"a: \xff\n",                                            -EBADMSG, "f.yaml:1:1"                       },
    {"---\na: 1\n---\nb: 2\n",                               -EBADMSG, "f.yaml:4:1"                       },
    {"--- {a: 1}\n...\n",                                    0,        "{\"a\":1}"                        },
};

TEST(parse)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(json_freep) struct json *value = NULL;
        _cleanup_(buf_free) struct buf out = {0};
        struct hai_err err = {0};
        const char *text = cases[i].text;
        int r = yaml_parse(text, strlen(text), "f.yaml", &value, &err);
        if (!CHECK_EQ(r, cases[i].r, "%s", text))
            continue;
        if (r == 0)
            json_dump(value, 0, &out);
        CHECK_STR(r == 0 ? buf_cstr(&out) : err.where, cases[i].out, "%s: %s", text, err.text);
    }
}

TEST(positions)
{
    const char *text = "name: x\nresources:\n  nodes: 2\n  zones: [a, \u00fc, b]\n";
    _cleanup_(json_freep) struct json *value = NULL;

    CHECK_EQ(yaml_parse(text, strlen(text), NULL, &value, NULL), 0);
    struct json *nodes = json_get(json_get(value, "resources"), "nodes");
    CHECK_EQ(json_line(nodes), 3);
    CHECK_EQ(json_column(nodes), 10);
    CHECK_EQ(json_key_line(nodes), 3);
    CHECK_EQ(json_key_column(nodes), 3);
    struct json *zone = json_next(json_next(json_first(json_next(nodes))));
    CHECK_STR(json_as_string(zone), "b");
    CHECK_EQ(json_line(zone), 4);
    CHECK_EQ(json_column(zone), 17, "columns are characters, not bytes");
}

TEST(source_is_kept)
{
    const char *text = "{a: 1.10, b: 0x10, c: yes, d: 'q', e: [1]}";
    _cleanup_(json_freep) struct json *value = NULL;

    CHECK_EQ(yaml_parse(text, strlen(text), NULL, &value, NULL), 0);
    CHECK_STR(json_source(json_get(value, "a")), "1.10");
    CHECK_STR(json_source(json_get(value, "b")), "0x10");
    CHECK_STR(json_source(json_get(value, "c")), "yes");
    CHECK_STR(json_source(json_get(value, "d")), "q");
    CHECK(!json_source(json_get(value, "e")));
}

TEST(depth_is_limited)
{
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_(json_freep) struct json *value = NULL;

    for (int i = 0; i < 5000; i++)
        buf_add_u8(&text, '[');
    CHECK_EQ(yaml_parse(text.data, text.n_bytes, NULL, &value, NULL), -EFBIG);
    CHECK_EQ(yaml_parse(text.data, JSON_DEPTH_MAX, NULL, &value, NULL), -EBADMSG); // unclosed
}

TEST(length_is_limited)
{
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_(json_freep) struct json *value = NULL;

    buf_add_str(&text, "a: ");
    memset(buf_extend(&text, YAML_BYTES_MAX), 'x', YAML_BYTES_MAX);
    CHECK_EQ(yaml_parse(text.data, text.n_bytes, NULL, &value, NULL), -EFBIG);
}

static void check_stream(struct yaml_stream *s) {
    for (int i = 1; i <= 3; i++) {
        _cleanup_(json_freep) struct json *value = NULL;
        CHECK_EQ(yaml_stream_next(s, &value, NULL), 1);
        CHECK_EQ(json_get_int(value, "a", 0), i);
    }
    struct json *value = NULL;
    struct hai_err err = {0};
    CHECK_EQ(yaml_stream_next(s, &value, &err), -EBADMSG);
    CHECK_STR(err.where, "jobs:6:9");
    err = (struct hai_err){0};
    CHECK_EQ(yaml_stream_next(s, &value, &err), -EBADMSG, "an error ends the stream");
    CHECK_STR(err.where, "jobs:6:9");
}

static const char stream_text[] = "a: 1\n---\na: 2\n---\n--- {a: 3}\n--- [1, }\n---\na: 5\n";

TEST(stream_of_text)
{
    _cleanup_(yaml_stream_freep) struct yaml_stream *s =
        yaml_stream_of_text(stream_text, strlen(stream_text), "jobs");

    check_stream(s);
}

TEST(stream_of_fd)
{
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(write(ends[1], stream_text, strlen(stream_text)), strlen(stream_text));
    close(ends[1]);
    _cleanup_(yaml_stream_freep) struct yaml_stream *s = yaml_stream_of_fd(ends[0], "jobs");
    check_stream(s);
    close(ends[0]);
    _cleanup_(yaml_stream_freep) struct yaml_stream *bad = yaml_stream_of_fd(ends[0], "jobs");
    struct json *value = NULL;
    CHECK_EQ(yaml_stream_next(bad, &value, NULL), -EBADF);
}

static const char job[] =
    "version: 3\nname: gpt-small\nkind: command\ncommand: python3 -u train.py\n"
    "env: {OMP_NUM_THREADS: 4}\nresources:\n  nodes: 2\n  gpus_per_node: 2\n"
    "  zones: [a, b]\ntime_limit: 3d\nrestart: {when: [fault], max: 20}\n";

TEST(job_files_are_parsed_fast)
{
    enum { N = 2000, PER_SECOND_MIN = 5000 };
    struct timespec start, end;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
    for (int i = 0; i < N; i++) {
        _cleanup_(json_freep) struct json *value = NULL;
        CHECK_EQ(yaml_parse(job, strlen(job), NULL, &value, NULL), 0);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    double s = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    printf("job files parsed a second of CPU time: %.0f\n", N / s);
    CHECK(TEST_SANITIZED || N / s > PER_SECOND_MIN, "%.0f", N / s);
}
