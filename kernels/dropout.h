/* dropout.h - which elements k_dropout keeps, and by what it multiplies them: one fact for every
 * backend, as the bits must be the same.
 */
#pragma once
#include "kernels/kernels.h"

/* -EINVAL otherwise. */
static inline bool dropout_is_whole(const struct k_dropout *a) {
    return a->rate >= 0 && a->rate < 1 && a->first >= 0 &&
           a->first + a->x.shape[0] <= (int64_t)1 << 34;
}

/* Words below it are dropped. */
static inline uint32_t dropout_threshold(const struct k_dropout *a) {
    return (uint32_t)((double)a->rate * 0x1p32);
}

static inline float dropout_scale(const struct k_dropout *a) {
    return 1 / (1 - a->rate);
}
