#include "sim/fixed.h"
#include "sim/history.h"
#include "sim/trace.h"
#include "tests/unit/test.h"

#define SECOND INT64_C(1000000)
#define HEADER "submit_s,gpus,duration_s,prio\n"

static int parse(const char *text, struct trace *ret, struct hai_err *err) {
    *ret = (struct trace){0};
    return trace_parse(text, strlen(text), "t.csv", ret, err);
}

TEST(rows_become_jobs_by_time)
{
    struct trace trace;
    struct hai_err err = {0};
    const char *text = "job,submit_s,queue,gpus,duration_s,est_s,prio\r\n"
                       "0,90,vc1,16,1.5,900,2\r\n"
                       "\n"
                       "1,60.25,vc2,1,10,,0\n"
                       "2,60.25,vc1,8,0,1,1";

    CHECK_EQ(parse(text, &trace, &err), 0, "%s", err.text);
    CHECK_EQ(trace.n, 3);
    CHECK_EQ(trace.n_users, 2);
    CHECK_EQ(trace.jobs[0].row, 1);
    CHECK_EQ(trace.jobs[0].submit_us, 60250000);
    CHECK_EQ(trace.jobs[0].estimate_us, 0);
    CHECK_EQ(trace.jobs[0].priority, 0);
    CHECK_STR(trace.users[trace.jobs[0].user], "vc2");
    CHECK_EQ(trace.jobs[1].row, 2);
    CHECK_EQ(trace.jobs[2].gpus, 16);
    CHECK_EQ(trace.jobs[2].run_us, 1500000);
    CHECK_EQ(trace.jobs[2].estimate_us, 900 * SECOND);
    CHECK_EQ(trace_last_us(&trace), 90 * SECOND);
    trace_free(&trace);
}

static const struct {
    const char *text;
    int r;
    const char *where, *says;
} bad[] = {
    {"",                                    -ENODATA, "t.csv",      "empty"                     },
    {"\n\n",                                -ENODATA, "t.csv",      "empty"                     },
    {"gpus,duration_s\n",                   -EBADMSG, "t.csv:1:1",  "no column submit_s"        },
    {"submit_s,gpus\n",                     -EBADMSG, "t.csv:1:1",  "no column duration_s"      },
    {"submit_s,gpus,gpus\n",                -EBADMSG, "t.csv:1:15", "name of column 2"          },
    {"submit_s,,gpus\n",                    -EBADMSG, "t.csv:1:10", "column 2 has no name"      },
    {HEADER "1,2,3\n",                      -EBADMSG, "t.csv:2:5",  "3 fields; expected 4"      },
    {HEADER "1,2,3,0,5\n",                  -EBADMSG, "t.csv:2:7",  "5 fields; expected 4"      },
    {HEADER "0,1,1,0\nx,2,3,0\n",           -EINVAL,  "t.csv:3:1",  "submit_s is 'x'"           },
    {HEADER "-1,2,3,0\n",                   -ERANGE,  "t.csv:2:1",  "submit_s is -1"            },
    {HEADER "1,0,3,0\n",                    -ERANGE,  "t.csv:2:3",  "gpus is 0; expected 1 to"  },
    {HEADER "1,1.5,3,0\n",                  -EINVAL,  "t.csv:2:3",  "expected a whole number"   },
    {HEADER "1,,3,0\n",                     -EINVAL,  "t.csv:2:3",  "gpus is ''"                },
    {HEADER "1,1,99999999999999999999,0\n", -ERANGE,  "t.csv:2:5",  "duration_s is 9999"        },
    {HEADER "1,1,1,3\n",                    -ERANGE,  "t.csv:2:7",  "prio is 3; expected 0 to 2"},
};

TEST(bad_rows_are_refused_with_their_place)
{
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct trace trace;
        struct hai_err err = {0};
        CHECK_EQ(parse(bad[i].text, &trace, &err), bad[i].r, "%s", bad[i].text);
        CHECK_STR(err.where, bad[i].where, "%s", bad[i].text);
        CHECK(strstr(err.text, bad[i].says), "%s: %s", bad[i].text, err.text);
        trace_free(&trace);
    }
}

TEST(damaged_gzip_is_refused)
{
    struct trace trace = {0};
    struct hai_err err = {0};

    CHECK_EQ(trace_read("/nonexistent.csv", &trace, &err), -ENOENT);
    trace_free(&trace);
    err = (struct hai_err){0};
    CHECK_EQ(trace_read("tests/fixtures/traces/README.md", &trace, &err), -EBADMSG);
    trace_free(&trace);
}

TEST(real_traces_are_read)
{
    struct trace trace = {0};
    struct hai_err err = {0};

    CHECK_EQ(trace_read("tests/fixtures/traces/philly_2017oct.csv.gz", &trace, &err), 0, "%s",
             err.text);
    CHECK_EQ(trace.n, 47192);
    CHECK_STR(trace.name, "philly_2017oct");
    /* The published load of 74 nodes. */
    CHECK_EQ(trace_load(&trace, 8, 74 * 8) / 1000, 995);
    trace_free(&trace);
}

TEST(windows_and_stretching)
{
    struct trace trace;
    struct hai_err err = {0};

    CHECK_EQ(parse(HEADER "10,8,100,0\n20,8,100,0\n30,9,50,0\n40,1,60,0\n", &trace, &err), 0);
    trace_window(&trace, 20 * SECOND, 40 * SECOND);
    CHECK_EQ(trace.n, 2);
    CHECK_EQ(trace.jobs[0].submit_us, 0);
    CHECK_EQ(trace.jobs[1].submit_us, 10 * SECOND);
    /* 8 x 100 + 16 x 50 GPU seconds, whole nodes above 8, on 16 GPUs for 10 s. */
    CHECK_EQ(trace_load(&trace, 8, 16), 10 * FIXED_ONE);
    trace_stretch(&trace, 2 * FIXED_ONE);
    CHECK_EQ(trace.jobs[1].submit_us, 20 * SECOND);
    CHECK_EQ(trace_stretch_to(&trace, 8, 16, FIXED_ONE / 2, &err), 0);
    CHECK_EQ(trace.jobs[1].submit_us, 200 * SECOND);
    CHECK_EQ(trace_load(&trace, 8, 16), FIXED_ONE / 2);
    trace_window(&trace, 0, 1);
    CHECK_EQ(trace_stretch_to(&trace, 8, 16, FIXED_ONE, &err), -EINVAL);
    trace_free(&trace);
}

static const struct {
    const char *text;
    int64_t value;
    int r;
} fixed[] = {
    {"0",                    0,       0      },
    {"6.5",                  6500000, 0      },
    {"-0.25",                -250000, 0      },
    {".5",                   500000,  0      },
    {"1.2345678",            1234567, 0      },
    {"",                     0,       -EINVAL},
    {".",                    0,       -EINVAL},
    {"1e3",                  0,       -EINVAL},
    {"1.2.3",                0,       -EINVAL},
    {"99999999999999999999", 0,       -ERANGE},
    {"9999999999999",        0,       -ERANGE},
};

TEST(decimal_numbers)
{
    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++) {
        int64_t value = 0;
        CHECK_EQ(fixed_parse(fixed[i].text, strlen(fixed[i].text), &value), fixed[i].r, "%s",
                 fixed[i].text);
        CHECK_EQ(value, fixed[i].value, "%s", fixed[i].text);
    }
}

static const struct {
    int64_t value;
    int places;
    const char *text;
} texts[] = {
    {0,        2, "0.00"     },
    {1234567,  3, "1.235"    },
    {999999,   2, "1.00"     },
    {-1500000, 0, "-2"       },
    {-400,     3, "0.000"    },
    {12345678, 6, "12.345678"},
};

TEST(decimal_texts)
{
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        char text[FIXED_TEXT_BYTES];
        fixed_text(texts[i].value, texts[i].places, text);
        CHECK_STR(text, texts[i].text);
    }
}

TEST(logarithms)
{
    CHECK_EQ(fixed_log2(1), 0);
    CHECK(fixed_log2(1024) == UINT64_C(10) << FIXED_LOG2_BITS);
    /* log2(3) = 1.584962500721156 */
    CHECK_EQ(fixed_log2(3) >> 8, INT64_C(6807362105) >> 8);
    CHECK_EQ(fixed_log2(UINT64_MAX) >> 20, (UINT64_C(64) << FIXED_LOG2_BITS >> 20) - 1);
}

static int add_history(struct trace *trace, struct history *left_out, const char *text,
                       int64_t *ret_lowest, struct hai_err *err) {
    _cleanup_(json_freep) struct json *jobs = NULL;
    struct map known = {0};

    CHECK_EQ(json_parse(text, strlen(text), NULL, &jobs, err), 0, "%s", err->text);
    int r = history_add(trace, &known, left_out, jobs, ret_lowest, err);
    map_free(&known);
    return r;
}

#define ENDED "\"submitted_at\":\"2026-11-23T13:11:40.102Z\",\"state\":\"succeeded\",\"ran_s\":90.5"

TEST(jobs_of_the_cluster_become_a_trace)
{
    struct trace trace = {0};
    struct history left_out = {0};
    struct hai_err err = {0};
    int64_t lowest = 0;

    int n = add_history(
        &trace, &left_out,
        "[{\"id\":9,\"user\":\"bob\",\"nodes\":2,\"gpus_per_node\":8,\"priority\":50," ENDED "},"
        "{\"id\":8,\"nodes\":1,\"gpus_per_node\":0," ENDED "},"
        "{\"id\":7,\"nodes\":1,\"gpus_per_node\":1,\"state\":\"running\",\"ran_s\":4,"
        "\"submitted_at\":\"2026-11-23T13:11:40Z\"},"
        "{\"id\":5,\"nodes\":1,\"gpus_per_node\":4,\"priority\":0," ENDED "}]",
        &lowest, &err);
    CHECK_EQ(n, 4, "%s", err.text);
    CHECK_EQ(lowest, 5);
    CHECK_EQ(left_out.n_without_gpus, 1);
    CHECK_EQ(left_out.n_unended, 1);
    CHECK_EQ(trace.n, 2);
    CHECK_EQ(trace.jobs[0].gpus, 16);
    CHECK_EQ(trace.jobs[0].run_us, 90500000);
    CHECK_EQ(trace.jobs[0].level, 51);
    CHECK_EQ(trace.jobs[0].priority, 2);
    CHECK_STR(trace.users[trace.jobs[0].user], "bob");
    CHECK_EQ(trace.jobs[1].level, 1);
    CHECK_EQ(trace.jobs[1].priority, 0);
    trace_free(&trace);
}

TEST(what_hai_list_does_not_print_is_refused)
{
    static const char *const lists[] = {
        "{}",
        "[{\"id\":1}]",
        "[{\"id\":1,\"nodes\":0,\"gpus_per_node\":1," ENDED "}]",
        "[{\"id\":1,\"nodes\":1,\"gpus_per_node\":-1," ENDED "}]",
        "[{\"id\":1,\"nodes\":1,\"gpus_per_node\":99999," ENDED "}]",
        "[{\"id\":1,\"nodes\":1,\"gpus_per_node\":1,\"priority\":51," ENDED "}]",
        "[{\"id\":1,\"nodes\":1,\"gpus_per_node\":1,\"submitted_at\":\"yesterday\"}]",
    };

    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        struct trace trace = {0};
        struct history left_out = {0};
        struct hai_err err = {0};
        int64_t lowest = 0;
        CHECK_EQ(add_history(&trace, &left_out, lists[i], &lowest, &err), -EBADMSG, "%s", lists[i]);
        trace_free(&trace);
    }
}
