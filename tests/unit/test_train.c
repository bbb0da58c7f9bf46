#include "engine/data/utf8.h"
#include "engine/train/trainconf.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

/* The example is the documentation of the defaults: what it says must be what is there. */
TEST(the_example_states_the_defaults)
{
    _cleanup_(trainconf_free) struct trainconf read = {0}, fresh = {0};
    struct hai_err err = {0};

    trainconf_init(&read);
    trainconf_init(&fresh);
    CHECK_EQ(trainconf_read("etc/examples/train.yaml", &read, &err), 0, "%s: %s", err.where,
             err.text);
    CHECK_EQ(trainconf_check(&read, 4, &err), 0, "%s", err.text);
    CHECK_EQ(trainconf_check(&read, 3, &err), 0, "%s", err.text);
    CHECK_EQ(trainconf_check(&read, 9, &err), -EINVAL);
    CHECK_STR(trainconf_tokenizer(&read), trainconf_tokenizer(&fresh));
    CHECK(read.steps == fresh.steps && read.batch == fresh.batch && read.seq == fresh.seq);
    CHECK(read.seed == fresh.seed && read.threads == fresh.threads && read.exact == fresh.exact);
    CHECK(read.precision.kind == fresh.precision.kind && read.precision.sum == fresh.precision.sum);
    CHECK(read.precision.format == fresh.precision.format);
    CHECK(read.schedule.kind == fresh.schedule.kind && read.schedule.rate == fresh.schedule.rate);
    CHECK(read.schedule.final == fresh.schedule.final && read.schedule.at.n == fresh.schedule.at.n);
    CHECK(read.schedule.curve == fresh.schedule.curve && !read.schedule.tail.n);
    CHECK(read.schedule.ramp.from == 0 && read.schedule.ramp.multiple == 0);
    CHECK(read.schedule.factor == fresh.schedule.factor);
    CHECK(read.schedule.decay == fresh.schedule.decay && read.schedule.at.values[1] == 0.9);
    CHECK(read.beta1 == fresh.beta1 && read.beta2 == fresh.beta2 && read.eps == fresh.eps);
    CHECK(read.weight_decay == fresh.weight_decay && read.clip == fresh.clip);
    CHECK(read.mtp_weight == fresh.mtp_weight && read.bias_rate == fresh.bias_rate);
    CHECK(read.balance_alpha == fresh.balance_alpha && read.device_alpha == fresh.device_alpha);
    CHECK(read.communication_alpha == fresh.communication_alpha);
    CHECK(read.balance_groups == fresh.balance_groups && read.max_groups == fresh.max_groups);
    CHECK(read.balance_micro_batch == fresh.balance_micro_batch);
    CHECK(read.bias_until == fresh.bias_until);
    CHECK(read.drop_capacity == fresh.drop_capacity && read.drop_whole == fresh.drop_whole);
    CHECK(read.ckpt_every == fresh.ckpt_every && read.ckpt_keep == fresh.ckpt_keep);
    CHECK_EQ(read.max_bytes, 8 << 20);
    CHECK_EQ(read.n_files, 2);
}

TEST(words_of_precision)
{
    static const struct {
        const char *text, *expected; // NULL: read
    } cases[] = {
        {"precision: fp8\nfp8: hybrid\naccumulate: hopper14_promoted\n", NULL                                                            },
        {"precision: fp16\n",                                            "precision is \"fp16\"; expected f32, bf16 or fp8"              },
        {"fp8: e5m6\n",                                                  "fp8 is \"e5m6\"; expected e4m3, e5m2 or hybrid"                },
        {"accumulate: 14\n",                                             "accumulate is 14; expected fp32, hopper14 or hopper14_promoted"},
    };
    char path[] = "/tmp/hai-test-XXXXXX";
    _cleanup_(closep) int fd = mkstemp(path);

    CHECK(fd >= 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(trainconf_free) struct trainconf conf = {0};
        struct hai_err err = {0};
        const char *text = cases[i].text, *expected = cases[i].expected;
        trainconf_init(&conf);
        CHECK_EQ(fileio_replace(path, text, strlen(text), 0600, &err), 0, "%s", err.text);
        CHECK_EQ(trainconf_read(path, &conf, &err), expected ? -EINVAL : 0, "%s", err.text);
        if (expected) {
            CHECK_STR(err.text, expected);
            continue;
        }
        CHECK_EQ(conf.precision.kind, PRECISION_FP8);
        CHECK_EQ(conf.precision.format, PRECISION_FORMAT_HYBRID);
        CHECK_EQ(conf.precision.sum, K_SUM_HOPPER14_PROMOTED);
    }
    CHECK_EQ(unlink(path), 0);
}

TEST(options_go_over_the_file)
{
    _cleanup_(trainconf_free) struct trainconf conf = {0};
    const char *const files[] = {"a", "b"};
    struct hai_err err = {0};

    trainconf_init(&conf);
    CHECK_EQ(trainconf_check(&conf, 1, &err), -EINVAL);
    CHECK(strstr(err.text, "'model'"), "%s", err.text);
    trainconf_set(&conf, "m", "o", NULL, 0);
    CHECK_EQ(trainconf_check(&conf, 1, &err), -EINVAL);
    CHECK(strstr(err.text, "'data.files'"), "%s", err.text);
    trainconf_set(&conf, NULL, NULL, files, 2);
    CHECK_EQ(trainconf_check(&conf, 1, &err), 0, "%s", err.text);
    CHECK_STR(conf.model, "m");
    CHECK_STR(conf.files[1], "b");
    conf.seq = 1 << 24;
    conf.micro_batch = 64;
    CHECK_EQ(trainconf_check(&conf, 1, &err), -EINVAL);
}

/* Losses and dropping that look at groups or micro-batches say what they need. */
TEST(balance_needs_groups_and_micro_batches)
{
    static const struct {
        struct trainconf conf; // what is set of it
        const char *text;      // NULL: fine on two ranks
    } cases[] = {
        {{.device_alpha = 0.05},
         "loss.balance_groups is 1; expected at least 2 for loss.device_alpha"       },
        {{.communication_alpha = 0.02},
         "loss.balance_groups is 1; expected at least 2 for loss.communication_alpha"},
        {{.drop_capacity = 1},
         "loss.balance_groups is 1; expected at least 2 for dropping.capacity"       },
        {{.balance_groups = 2, .max_groups = 3},
         "loss.max_groups is 3; expected at most loss.balance_groups, 2"             },
        {{.drop_capacity = 1, .balance_groups = 2},
         "'micro_batch' is missing; dropping.capacity expects it, so that the number of ranks "
         "changes nothing"                                                           },
        {{.balance_micro_batch = true, .micro_batch = 3},
         "micro_batch is 3; loss.balance_over: micro_batch expects batch, 8, to be a multiple of "
         "it "
         "times the ranks, 2"                                                        },
        {{.drop_capacity = 1,
          .balance_groups = 2,
          .micro_batch = 2,
          .schedule.ramp = {.from = 2, .tokens = 512}},
         "micro_batch is 2; dropping.capacity expects ramp.from, 2, to be a multiple of it times "
         "the ranks, 2"                                                              },
        {{.device_alpha = 0.05, .communication_alpha = 0.02, .balance_groups = 8, .max_groups = 3},
         NULL                                                                        },
        {{.drop_capacity = 1, .balance_groups = 2, .balance_micro_batch = true, .micro_batch = 2},
         NULL                                                                        },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(trainconf_free) struct trainconf conf = {0};
        const struct trainconf *set = &cases[i].conf;
        struct hai_err err = {0};
        trainconf_init(&conf);
        trainconf_set(&conf, "m", "o", (const char *const[]){"a"}, 1);
        conf.device_alpha = set->device_alpha;
        conf.communication_alpha = set->communication_alpha;
        conf.balance_groups = MAX(set->balance_groups, INT64_C(1));
        conf.max_groups = MAX(set->max_groups, INT64_C(1));
        conf.balance_micro_batch = set->balance_micro_batch;
        conf.micro_batch = set->micro_batch;
        conf.schedule.ramp = set->schedule.ramp;
        conf.drop_capacity = set->drop_capacity;
        CHECK_EQ(trainconf_check(&conf, 2, &err), cases[i].text ? -EINVAL : 0, "%zu: %s", i,
                 err.text);
        CHECK_STR(err.text, cases[i].text ? cases[i].text : "", "%zu", i);
    }
}

/* Text that comes byte by byte is the same as the whole, and nothing whole is held back. */
TEST(text_in_pieces)
{
    static const char *const texts[] = {"abc", "\xe4\xb8\xad\xe6\x96\x87", "\xff\xe4\xb8!",
                                        "\xf0\x9f\x98\x80\xf0\x9f", "\xed\xa0\x80x"};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        _cleanup_(buf_free) struct buf pending = {0}, got = {0}, whole = {0};
        size_t n = strlen(texts[i]);
        for (size_t k = 0; k < n; k++) {
            buf_add_u8(&pending, (uint8_t)texts[i][k]);
            utf8_add_stream(&got, &pending);
            CHECK(pending.n_bytes <= 3);
        }
        utf8_add_lossy(&got, pending.data, pending.n_bytes);
        utf8_add_lossy(&whole, texts[i], n);
        CHECK_STR(buf_cstr(&got), buf_cstr(&whole), "%zu", i);
    }
}
