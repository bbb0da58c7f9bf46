/* The shapes of folders with random weights are the published ones: what a token costs. */
#include "engine/model/config.h"
#include "engine/model/dummy.h"
#include "tests/unit/test.h"

#include <math.h>

static const struct {
    const char *shape;
    double gigabytes; // of matrices a token in bf16, which is floating point operations / 1e9
} cases[] = {
    {"coder-1.3b", 2.56},
    {"qwen2-1.5b", 3.09},
    {"moe-16b-5",  0.99},
    {"v2-lite-16", 4.90},
    {"v3-2b",      1.41},
};

TEST(dummy_shapes)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        for (enum dummy_dtype dtype = 0; dtype < DUMMY_COUNT; dtype++) {
            _cleanup_(buf_free) struct buf text = {0};
            struct model_config config;
            struct hai_err err = {0};
            CHECK_EQ(dummy_config(cases[i].shape, dtype, &text, &err), 0, "%s", err.text);
            CHECK_EQ(
                config_parse((const char *)text.data, text.n_bytes, cases[i].shape, &config, &err),
                0, "%s", err.text);
            double x = config_flops_per_token(&config) / 1e9;
            CHECK(fabs(x - cases[i].gigabytes) < 0.01, "%s: %f", cases[i].shape, x);
            CHECK(strstr(dummy_shapes(), cases[i].shape), "%s is not in the list", cases[i].shape);
        }
}

TEST(dummy_none)
{
    _cleanup_(buf_free) struct buf text = {0};
    struct hai_err err = {0};

    CHECK_EQ(dummy_config("v9", DUMMY_BF16, &text, &err), -EINVAL, "%s", err.text);
    CHECK(strstr(err.text, "coder-1.3b"), "%s", err.text);
}
