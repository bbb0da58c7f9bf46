/* The average beside a training that changes the weights between two updates. */
#include "engine/train/ema.h"
#include "tests/unit/test.h"

TEST(the_average_is_that_of_every_step)
{
    enum { N = 10007, STEPS = 300 };
    _cleanup_free_ float *weights = hai_new_array(float, N), *wanted = hai_new_array(float, N);

    for (int i = 0; i < N; i++)
        weights[i] = wanted[i] = (float)i;
    _cleanup_(ema_freep) struct ema *e = ema_new(weights, N, 0.9);
    CHECK(e);
    for (int step = 1; step <= STEPS; step++) {
        ema_wait(e);
        for (int i = 0; i < N; i++)
            weights[i] = (float)(i % 17) + 0.01f * (float)step;
        ema_update(e);
        for (int i = 0; i < N; i++)
            wanted[i] += (float)(1 - 0.9) * (weights[i] - wanted[i]);
    }
    ema_wait(e);
    CHECK(!memcmp(ema_values(e), wanted, N * sizeof *wanted));
    ema_restart(e);
    CHECK(!memcmp(ema_values(e), weights, N * sizeof *wanted));
}
