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
