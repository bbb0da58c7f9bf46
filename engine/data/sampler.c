#include "engine/data/sampler.h"
#include "kernels/philox.h"

enum { ROUNDS = 6, SHIFT_INDEX = UINT32_MAX };

static uint32_t draw(uint64_t seed, int64_t epoch, uint32_t round, uint32_t value) {
    struct philox_counter at = philox_at(PHILOX_SHUFFLE, (uint32_t)epoch, round, value);
    uint32_t words[4];

    philox_words(seed, &at, words);
    return words[0];
}

/* A keyed permutation of [0, n): a Feistel network over the smallest square of a power of two that
 * holds n, walked along its cycle until the value is below n (Black and Rogaway, 2002). The square
 * is less than 4 n, so the walk takes fewer than 4 turns on average. */
int64_t sampler_permute(uint64_t seed, int64_t epoch, int64_t value, int64_t n) {
    int bits = 1;

    while ((int64_t)1 << 2 * bits < n)
        bits++;
    assert(bits <= 31);
    uint32_t mask = (1u << bits) - 1;
    do {
        uint32_t left = (uint32_t)(value >> bits), right = (uint32_t)value & mask;
        for (uint32_t round = 0; round < ROUNDS; round++) {
            uint32_t next = left ^ (draw(seed, epoch, round, right) & mask);
            left = right;
            right = next;
        }
        value = (int64_t)left << bits | right;
    } while (value >= n);
    return value;
}

int64_t sampler_shift(uint64_t seed, int64_t epoch, int64_t n) {
    return (int64_t)draw(seed, epoch, SHIFT_INDEX, 0) % n;
}

/* One window less than fits, so that every shift stays within the data. */
int64_t sampler_epoch(int64_t n_tokens, int64_t n_window) {
    return MAX(n_tokens / n_window - 1, INT64_C(1));
}

int64_t sampler_start(uint64_t seed, int64_t index, int64_t n_tokens, int64_t n_window) {
    int64_t n = sampler_epoch(n_tokens, n_window), epoch = index / n;

    assert(index >= 0);
    assert(n_tokens >= n_window);
    int64_t room = MIN(n_window, n_tokens - n * n_window + 1);
    return sampler_permute(seed, epoch, index % n, n) * n_window + sampler_shift(seed, epoch, room);
}

struct sampler_share sampler_share(int64_t n_batch, int rank, int world) {
    int64_t each = n_batch / world, more = n_batch % world;

    assert(rank >= 0);
    assert(rank < world);
    return (struct sampler_share){rank * each + MIN((int64_t)rank, more), each + (rank < more)};
}
