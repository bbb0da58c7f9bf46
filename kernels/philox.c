#include "kernels/philox.h"

#include "kernels/kmath.h"

void philox_words(uint64_t key, const struct philox_counter *counter, uint32_t ret[4]) {
    uint32_t c[4] = {counter->word[0], counter->word[1], counter->word[2], counter->word[3]};
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);

    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xd2511f53u * c[0], b = (uint64_t)0xcd9e8d57u * c[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b,
                            (uint32_t)(a >> 32) ^ c[3] ^ k1, (uint32_t)a};
        for (int i = 0; i < 4; i++)
            c[i] = next[i];
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    for (int i = 0; i < 4; i++)
        ret[i] = c[i];
}

struct philox_counter philox_at(enum philox_purpose purpose, uint32_t major, uint32_t minor,
                                uint32_t index) {
    return (struct philox_counter){
        {(uint32_t)purpose, major, minor, index}
    };
}

double philox_uniform(uint32_t word) {
    return word * 0x1p-32;
}

double philox_normal(uint32_t word_a, uint32_t word_b) {
    double s, c;

    /* The radius needs a number above zero: halves of steps. */
    double radius = kmath_sqrt(-2 * kmath_log((word_a + 0.5) * 0x1p-32));
    kmath_sincos(6.283185307179586 * philox_uniform(word_b), &s, &c);
    return radius * c;
}
