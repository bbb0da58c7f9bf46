#include "tests/unit/test.h"

TEST(errors_carry_context)
{
    struct hai_err err = {0};
    CHECK_EQ(hai_fail(&err, -EINVAL, "priority is %d", 35), -EINVAL);
    CHECK_STR(err.code, "invalid");
    hai_err_prefix(&err, "job %d: ", 7);
    CHECK_STR(err.text, "job 7: priority is 35");
    hai_fail(&err, err.r, "outer: %s", err.text);
    CHECK_STR(err.text, "outer: job 7: priority is 35");
}

TEST(distance)
{
    CHECK_EQ(hai_distance("gpu_per_node", "gpus_per_node"), 1);
    CHECK_EQ(hai_distance("", "abc"), 3);
    CHECK_EQ(hai_distance("same", "same"), 0);
}

TEST(a_proposal_is_near)
{
    static const struct {
        const char *word, *name;
        int distance; // -1: not proposed
    } cases[] = {
        {"gpu_per_node", "gpus_per_node", 1 },
        {"lsit",         "list",          2 },
        {"setps",        "steps",         2 },
        {"lrr",          "lr",            1 },
        {"user",         "set",           -1},
        {"foo",          "hold",          -1},
        {"foo",          "json",          -1},
        {"x",            "",              -1},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int best = INT_MAX;
        CHECK_EQ(hai_nearer(cases[i].word, cases[i].name, &best), cases[i].distance >= 0, "%s",
                 cases[i].word);
        CHECK_EQ(best, cases[i].distance < 0 ? INT_MAX : cases[i].distance, "%s", cases[i].word);
        CHECK(!hai_nearer(cases[i].word, cases[i].name, &best) || cases[i].distance < 0);
    }
}
