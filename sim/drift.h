/* drift.h - a clock that is wrong: it began at another time and goes too fast or too slow. */
#pragma once
#include "lib/base.h"

struct drift {
    int64_t offset_us; // what it shows at the true time 0
    int64_t ppm;       // so much too fast
};

static inline int64_t drift_read(const struct drift *clock, int64_t true_us) {
    return clock->offset_us + true_us + true_us * clock->ppm / 1000000;
}

/* The first true time at which it shows at_us or more, give or take 2 us. */
static inline int64_t drift_when(const struct drift *clock, int64_t at_us) {
    int64_t shown_us = at_us - clock->offset_us;

    return shown_us - shown_us * clock->ppm / (1000000 + clock->ppm) + 2;
}
