#include "engine/train/dropping.h"
#include "kernels/philox.h"

bool dropping_spares(uint64_t seed, int64_t index, double share) {
    struct philox_counter at =
        philox_at(PHILOX_WHOLE, (uint32_t)((uint64_t)index >> 32), (uint32_t)index, 0);
    uint32_t words[4];

    philox_words(seed, &at, words);
    return philox_uniform(words[0]) < share;
}
