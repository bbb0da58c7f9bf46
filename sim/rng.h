/* rng.h - the simulator's seeded random numbers (splitmix64): one seed, one run. */
#pragma once
#include "lib/base.h"

struct rng {
    uint64_t state;
};

static inline uint64_t rng_u64(struct rng *rng) {
    uint64_t z = rng->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* A number from 0 to n - 1. */
static inline int64_t rng_below(struct rng *rng, int64_t n) {
    return (int64_t)(rng_u64(rng) % (uint64_t)n);
}

/* True once in n times. */
static inline bool rng_once_in(struct rng *rng, int64_t n) {
    return rng_below(rng, n) == 0;
}
