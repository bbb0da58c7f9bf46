#include "engine/data/utf8.h"
#include "engine/train/trainconf.h"
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
    CHECK(read.schedule.kind == fresh.schedule.kind && read.schedule.rate == fresh.schedule.rate);
    CHECK(read.schedule.final == fresh.schedule.final && read.schedule.at.n == fresh.schedule.at.n);
    CHECK(read.schedule.curve == fresh.schedule.curve && !read.schedule.tail.n);
    CHECK(read.schedule.ramp.from == 0 && read.schedule.ramp.multiple == 0);
    CHECK(read.schedule.factor == fresh.schedule.factor);
    CHECK(read.schedule.decay == fresh.schedule.decay && read.schedule.at.values[1] == 0.9);
    CHECK(read.beta1 == fresh.beta1 && read.beta2 == fresh.beta2 && read.eps == fresh.eps);
    CHECK(read.weight_decay == fresh.weight_decay && read.clip == fresh.clip);
    CHECK(read.mtp_weight == fresh.mtp_weight && read.bias_rate == fresh.bias_rate);
    CHECK(read.ckpt_every == fresh.ckpt_every && read.ckpt_keep == fresh.ckpt_keep);
    CHECK_EQ(read.max_bytes, 8 << 20);
    CHECK_EQ(read.n_files, 2);
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
