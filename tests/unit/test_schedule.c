/* Rates and batches of every step beside values computed by hand, and what is said of fields that
 * do not fit together. */
#include "engine/train/trainconf.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdlib.h>

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-12 * fabs(b) + 1e-15;
}

/* Read a training file with this text. */
static int read_text(const char *text, struct trainconf *ret, struct hai_err *err) {
    char path[] = "/tmp/hai-test-XXXXXX";
    int fd = mkstemp(path);

    assert(fd >= 0);
    CHECK_EQ(fileio_write_full(fd, text, strlen(text), FILEIO_HERE, err), 0);
    close(fd);
    trainconf_init(ret);
    int r = trainconf_read(path, ret, err);
    unlink(path);
    return r;
}

/* The prepared schedule of a file. */
static struct schedule schedule_of(const char *text) {
    _cleanup_(trainconf_free) struct trainconf conf = {0};
    struct schedule s;
    struct hai_err err = {0};

    CHECK_EQ(read_text(text, &conf, &err), 0, "%s: %s", text, err.text);
    trainconf_schedule(&conf, &s);
    CHECK_EQ(schedule_check(&s, &err), 0, "%s: %s", text, err.text);
    schedule_prepare(&s);
    return s;
}

static const struct {
    enum schedule_kind kind;
    int64_t step;
    double rate; // of 1000 steps, warm-up 100, final 0.1, 0.316 at 0.8 and 0.9, decay 0.1
} rates[] = {
    {SCHEDULE_CONSTANT,   1,    0.01         },
    {SCHEDULE_CONSTANT,   50,   0.5          },
    {SCHEDULE_CONSTANT,   100,  1            },
    {SCHEDULE_CONSTANT,   1000, 1            },
    {SCHEDULE_COSINE,     99,   0.99         },
    {SCHEDULE_COSINE,     100,  1            },
    {SCHEDULE_COSINE,     550,  0.55         },
    {SCHEDULE_COSINE,     1000, 0.1          },
    {SCHEDULE_MULTI_STEP, 800,  1            },
    {SCHEDULE_MULTI_STEP, 801,  0.316        },
    {SCHEDULE_MULTI_STEP, 900,  0.316        },
    {SCHEDULE_MULTI_STEP, 901,  0.316 * 0.316},
    {SCHEDULE_WSD,        900,  1            },
    {SCHEDULE_WSD,        950,  0.55         },
    {SCHEDULE_WSD,        1000, 0.1          },
};

TEST(rates)
{
    for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
        struct schedule s = {
            .kind = rates[i].kind,
            .rate = 2e-3,
            .steps = 1000,
            .warmup = 100,
            .final = 0.1,
            .factor = 0.316,
            .at = {{0.8, 0.9}, 2},
            .decay = 0.1
        };
        schedule_prepare(&s);
        double got = schedule_rate(&s, rates[i].step, 0) / s.rate;
        CHECK(near(got, rates[i].rate), "case %zu: %.15g", i, got);
    }
    CHECK_EQ(schedule_kind_parse("multi_step"), SCHEDULE_MULTI_STEP);
    CHECK_EQ(schedule_kind_parse("Cosine"), -EINVAL);
    CHECK_EQ(schedule_curve_parse("cosine"), SCHEDULE_CURVE_COSINE);
    CHECK_EQ(schedule_curve_parse("constant"), -EINVAL);
}

/* The recipes of docs/schedules.md. A step of the V3 file stands for 10^9 of its tokens. */
static const char llm[] =
    "steps: 100000\n"
    "optimizer: {lr: 4.2e-4}\n"
    "schedule: {kind: multi_step, warmup: 2000, at: [0.8, 0.9], factor: 0.316}\n";
static const char v2[] =
    "steps: 100000\n"
    "optimizer: {lr: 2.4e-4}\n"
    "schedule: {kind: multi_step, warmup: 2000, at: [0.6, 0.9], factor: 0.316}\n";
static const char coder_v2[] = "steps: 100000\n"
                               "optimizer: {lr: 1.0e-4}\n"
                               "schedule: {kind: cosine, warmup: 2000, final: 0.1}\n";
static const char v3[] =
    "steps: 14800\n"
    "optimizer: {lr: 2.2e-4}\n"
    "schedule: {kind: wsd, warmup: 2000, decay: 0.2905405405405405, curve: cosine, final: 0.1,\n"
    "           tail_at: [0.9662162162162162, 0.9887162162162162], tail: [0.1, "
    "0.03318181818181818]}\n";
static const char cut_cosine[] =
    "steps: 1000\n"
    "optimizer: {lr: 1}\n"
    "schedule: {kind: cosine, warmup: 100, final: 0.1, tail_at: [0.8], tail: [0.05]}\n";
static const char thirds[] = "steps: 1000\n"
                             "optimizer: {lr: 1}\n"
                             "schedule: {kind: wsd, decay: 0.3, curve: cosine, final: 0.1}\n";

static const struct {
    const char *text;
    int64_t step;
    double rate;
} recipes[] = {
    {llm,        1,      4.2e-4 / 2000       },
    {llm,        1999,   4.2e-4 * 1999 / 2000},
    {llm,        2000,   4.2e-4              },
    {llm,        80000,  4.2e-4              },
    {llm,        80001,  1.3272e-4           },
    {llm,        90000,  1.3272e-4           },
    {llm,        90001,  4.193952e-5         }, // "10 %": 0.316^2 = 0.099856
    {llm,        100000, 4.193952e-5         },
    {v2,         60000,  2.4e-4              },
    {v2,         60001,  7.584e-5            },
    {v2,         90001,  2.396544e-5         },
    {coder_v2,   2000,   1e-4                },
    {coder_v2,   51000,  5.5e-5              }, // half way from 2,000
    {coder_v2,   100000, 1e-5                },
    {v3,         1000,   1.1e-4              },
    {v3,         2000,   2.2e-4              },
    {v3,         10000,  2.2e-4              },
    {v3,         12150,  1.21e-4             }, // half way down: (1 + 0.1) / 2
    {v3,         14300,  2.2e-5              },
    {v3,         14301,  2.2e-5              },
    {v3,         14633,  2.2e-5              },
    {v3,         14634,  7.3e-6              },
    {v3,         14800,  7.3e-6              },
    {cut_cosine, 100,    1                   },
    {cut_cosine, 450,    0.55                },
    {cut_cosine, 800,    0.1                 },
    {cut_cosine, 801,    0.05                },
    {cut_cosine, 1000,   0.05                },
    {thirds,     700,    1                   },
    {thirds,     800,    0.775               }, // cos 60 = 1/2: 0.1 + 0.9 x 3/4
    {thirds,     900,    0.325               }, // 0.1 + 0.9 x 1/4
    {thirds,     1000,   0.1                 },
};

TEST(recipes)
{
    for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
        struct schedule s = schedule_of(recipes[i].text);
        double got = schedule_rate(&s, recipes[i].step, 0);
        CHECK(near(got, recipes[i].rate), "case %zu, step %lld: %.15g", i,
              (long long)recipes[i].step, got);
    }
}

static const char v2_ramp[] = "batch: 9216\nseq: 4096\nramp: {from: 2304, tokens: 225000000000}\n";
static const char v3_ramp[] = "batch: 15360\nseq: 4096\nramp: {from: 3072, tokens: 469000000000}\n";
static const char fine[] = "batch: 15360\nseq: 4096\n"
                           "ramp: {from: 3072, tokens: 469000000000, multiple: 256}\n";

static const struct {
    const char *text;
    int64_t n_done, batch;
} batches[] = {
    {v2_ramp,                                    0,         2304 },
    {v2_ramp,                                    18310546,  2304 }, // x 4,096 is below a third of 225e9
    {v2_ramp,                                    18310547,  4608 },
    {v2_ramp,                                    54931640,  6912 },
    {v2_ramp,                                    54931641,  9216 }, // all of 225e9
    {v2_ramp,                                    1LL << 50, 9216 },
    {v3_ramp,                                    0,         3072 },
    {v3_ramp,                                    28625488,  3072 }, // below a quarter of 469e9
    {v3_ramp,                                    28625489,  6144 },
    {v3_ramp,                                    57250976,  6144 },
    {v3_ramp,                                    57250977,  9216 },
    {v3_ramp,                                    85876465,  12288},
    {v3_ramp,                                    114501953, 12288},
    {v3_ramp,                                    114501954, 15360},
    {fine,                                       57250977,  9216 },
    {fine,                                       57250976,  8960 }, // a token below half: 9,215.9
    {"batch: 8\n",                               12345,     8    },
    {"batch: 8\nramp: {from: 8, tokens: 100}\n", 0,         8    },
};

TEST(ramp_batches)
{
    for (size_t i = 0; i < ARRAY_SIZE(batches); i++) {
        struct schedule s = schedule_of(batches[i].text);
        CHECK_EQ(schedule_batch(&s, batches[i].n_done), batches[i].batch, "case %zu", i);
    }
}

/* 2 + done / 5 sequences, whole after 40: steps of 2, 2, 2, 3, 3, 4, 5, 6, 7, 8, 10, 10. */
#define SMALL                                                                                      \
    "steps: 12\nbatch: 10\nseq: 2\noptimizer: {lr: 1}\nramp: {from: 2, tokens: 80, multiple: 1}\n"

TEST(ramp_step_by_step)
{
    static const int64_t wanted[] = {2, 2, 2, 3, 3, 4, 5, 6, 7, 8, 10, 10};
    struct schedule marks = schedule_of(SMALL "schedule: {kind: multi_step, at: [0.5]}\n");
    struct schedule curve = schedule_of(SMALL "schedule: {kind: cosine, warmup: 3, final: 0.1}\n");
    int64_t n_done = 0;

    CHECK(near(marks.length, 6.2), "%.15g", marks.length); // 62 sequences
    CHECK(near(curve.warm_length, 0.6), "%.15g", curve.warm_length);
    for (int64_t step = 1; step <= 12; step++) {
        // Half of the sequences, 31, are there after 9 steps: 34.
        double rate = schedule_rate(&marks, step, n_done),
               fall = schedule_rate(&curve, step, n_done);
        CHECK(near(rate, step <= 9 ? 1 : 0.316), "step %lld: %g", (long long)step, rate);
        if (step <= 3)
            CHECK(near(fall, (double)step / 3), "step %lld: %g", (long long)step, fall);
        if (step == 9) // 34 of 6 to 62: half way
            CHECK(near(fall, 0.55), "%.15g", fall);
        if (step == 12)
            CHECK(near(fall, 0.1), "%.15g", fall);
        CHECK_EQ(schedule_past(&marks, step, n_done, 0.5), step > 9, "step %lld", (long long)step);
        CHECK(!schedule_past(&marks, step, n_done, 1) && schedule_past(&marks, step, n_done, 0),
              "");
        CHECK_EQ(schedule_batch(&marks, n_done), wanted[step - 1], "step %lld", (long long)step);
        n_done += schedule_batch(&marks, n_done);
    }
    CHECK_EQ(n_done, 62);
}

/* The length of a run is what its steps add up to, whatever the ramp. */
TEST(ramp_lengths)
{
    uint32_t state = 7;

    for (int round = 0; round < 300; round++) {
        int64_t draws[6], n_done = 0;
        for (int i = 0; i < 6; i++) {
            state = state * 1664525u + 1013904223u;
            draws[i] = state >> 12;
        }
        int64_t multiple = 1 + draws[0] % 8;
        struct schedule s = {
            .kind = SCHEDULE_CONSTANT,
            .rate = 1,
            .steps = draws[1] % 400,
            .seq = 1 + draws[3] % 50,
            .ramp = {multiple * (1 + draws[2] % 5), 1 + draws[4] % 60000, multiple},
        };
        s.batch = s.ramp.from + multiple * (draws[5] % 20);
        schedule_prepare(&s);
        for (int64_t step = 0; step < s.steps; step++)
            n_done += schedule_batch(&s, n_done);
        CHECK(near(s.length * (double)s.batch, (double)n_done), "round %d: %.15g, %lld", round,
              s.length * (double)s.batch, (long long)n_done);
    }
}

/* What is wrong is said with the name of its field: alone, or beside the others. */
static const struct {
    const char *text, *message;
} refusals[] = {
    {"schedule: {curve: round}",                                     "curve is \"round\"; expected linear or cosine"        },
    {"schedule: {tail: [2]}",                                        "tail is 2; expected a number from 0 to 1"             },
    {"schedule: {tail_at: 0.5}",                                     "tail_at is 0.5; expected a list"                      },
    {"schedule: {tails: [1]}",                                       "did you mean 'tail'?"                                 },
    {"schedule: {warmup: -1}",                                       "warmup is -1; expected a whole number from 0"         },
    {"ramp: {from: 0}",                                              "from is 0; expected a whole number from 1"            },
    {"ramp: {token: 5}",                                             "did you mean 'tokens'?"                               },
    {"rampe: {from: 1}",                                             "did you mean 'ramp'?"                                 },
    {"schedule: {warmup: 1001}",                                     "schedule.warmup is 1001; expected at most steps, 1000"},
    {"schedule: {tail: [0.1]}",                                      "schedule.tail has 1 numbers and schedule.tail_at 0"   },
    {"schedule: {kind: multi_step, tail_at: [0.5], tail: [0.1]}",
     "schedule.tail is for cosine and wsd; schedule.kind is multi_step"                                                     },
    {"schedule: {tail_at: [0.5, 0.5], tail: [0.1, 0.2]}",            "schedule.tail_at: 0.5 follows 0.5"                    },
    {"schedule: {curve: cosine}",                                    "schedule.curve is for wsd; schedule.kind is cosine"   },
    {"schedule: {kind: wsd, decay: 0.6, tail_at: [0.5], tail: [0]}",
     "schedule.decay is 0.6; expected at most the first of schedule.tail_at, 0.5"                                           },
    {"ramp: {tokens: 100}",                                          "'ramp.from' is missing"                               },
    {"ramp: {from: 4}",                                              "'ramp.tokens' is missing"                             },
    {"ramp: {from: 16, tokens: 9}",                                  "ramp.from is 16; expected at most batch, 8"           },
    {"ramp: {from: 3, tokens: 9}",
     "ramp.from is 3; expected a divisor of ramp.from, 3, and of batch, 8"                                                  },
    {"ramp: {from: 6, tokens: 9, multiple: 4}",
     "ramp.multiple is 4; expected a divisor of ramp.from, 6"                                                               },
};

TEST(refusals)
{
    for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
        _cleanup_(trainconf_free) struct trainconf conf = {0};
        static const char *const files[] = {"a"};
        struct hai_err err = {0};
        int r = read_text(refusals[i].text, &conf, &err);
        if (r == 0) {
            trainconf_set(&conf, "m", "o", files, 1);
            r = trainconf_check(&conf, 2, &err);
        }
        CHECK_EQ(r, -EINVAL, "%s", refusals[i].text);
        CHECK(strstr(err.text, refusals[i].message), "%s: %s", refusals[i].text, err.text);
    }
}
