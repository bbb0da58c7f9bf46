#include "kernels/quant.h"
#include "kernels/formats.h"

enum {
    GROUP = K_QUANT_GROUP,
    PANEL = K_QUANT_PANEL,
    TRIES = 8, // on each side of the plain scale
};

size_t k_quant_bytes(enum k_dtype dtype, int64_t n_out, int64_t n_in) {
    return k_dtype_n_bytes(dtype, (n_out + PANEL - 1) / PANEL * PANEL * n_in);
}

size_t k_quant_scale_bytes(int64_t n_out, int64_t n_in) {
    return (size_t)((n_out + PANEL - 1) / PANEL * PANEL * (n_in / GROUP)) * sizeof(uint16_t);
}

/* To the nearest whole number, ties to even; |x| below 2^22. */
static float nearest(float x) {
    const float large = 0x1.8p23f;

    return x + large - large;
}

/* Where a group begins, in groups. */
static int64_t group_at(int64_t n_in, int64_t panel, int64_t group) {
    return panel * (n_in / GROUP) + group;
}

static uint8_t *byte_at(enum k_dtype dtype, const void *data, int64_t at, int64_t output,
                        int64_t k) {
    uint8_t *group = (uint8_t *)(uintptr_t)data + at * (dtype == K_Q8 ? GROUP : GROUP / 2) * PANEL;

    if (dtype == K_Q4)
        k %= GROUP / 2;
    return group + k / 4 * PANEL * 4 + output * 4 + k % 4;
}

double k_quant_value(enum k_dtype dtype, const void *data, const void *scale, int64_t n_in,
                     int64_t row, int64_t column) {
    int64_t at = group_at(n_in, row / PANEL, column / GROUP), k = column % GROUP;
    double by = (double)k_from_f16(((const uint16_t *)scale)[at * PANEL + row % PANEL]);
    int byte = *byte_at(dtype, data, at, row % PANEL, k);

    if (dtype == K_Q8)
        return by * (byte - 128);
    return by * ((k < GROUP / 2 ? byte & 15 : byte >> 4) - 8);
}

/* Codes of a group under a scale, and their weighted squared error. */
static double round_group(const float *w, const float *importance, float scale, int low, int high,
                          int8_t *ret) {
    float inverse = scale != 0 ? 1 / scale : 0;
    double error = 0;

    for (int k = 0; k < GROUP; k++) {
        float x = MAX(w[k] * inverse, (float)low), q = nearest(MIN(x, (float)high));
        double d = (double)w[k] - (double)q * (double)scale;
        error += d * d * (importance ? (double)importance[k] : 1);
        ret[k] = (int8_t)q;
    }
    return error;
}

/* Scale and codes of a group. Q4 has one more code below zero than above: the largest value, of
 * whichever sign, gets it. */
static uint16_t choose_scale(enum k_dtype dtype, const float *w, const float *importance,
                             int8_t *codes) {
    int high = dtype == K_Q8 ? 127 : 7, low = dtype == K_Q8 ? -127 : -8;
    float largest = 0;
    int8_t tried[GROUP];

    for (int k = 0; k < GROUP; k++)
        if ((w[k] < 0 ? -w[k] : w[k]) > (largest < 0 ? -largest : largest))
            largest = w[k];
    float plain = dtype == K_Q8 ? (largest < 0 ? -largest : largest) / 127 : largest / -8;
    uint16_t best = k_to_f16(plain);
    double least = round_group(w, importance, k_from_f16(best), low, high, codes);
    for (int t = -TRIES; t <= TRIES && dtype == K_Q4; t++) {
        uint16_t scale = k_to_f16(largest / (-8 + 0.15f * (float)t));
        double error = round_group(w, importance, k_from_f16(scale), low, high, tried);
        if (error < least) {
            least = error;
            best = scale;
            memcpy(codes, tried, sizeof tried);
        }
    }
    return best;
}

static void store_group(enum k_dtype dtype, void *data, int64_t at, int64_t output,
                        const int8_t *codes) {
    for (int k = 0; k < GROUP; k++) {
        uint8_t *byte = byte_at(dtype, data, at, output, k);
        if (dtype == K_Q8)
            *byte = (uint8_t)(codes[k] + 128);
        else if (k < GROUP / 2)
            *byte = (uint8_t)((*byte & 0xf0) | (codes[k] + 8));
        else
            *byte = (uint8_t)((*byte & 0x0f) | (codes[k] + 8) << 4);
    }
}

void k_quant_pack(enum k_dtype dtype, const float *w, int64_t n_out, int64_t n_in,
                  const float *importance, void *data, uint16_t *scale) {
    static const float zeros[GROUP];
    int8_t codes[GROUP];

    assert(dtype == K_Q8 || dtype == K_Q4);
    assert(n_in % GROUP == 0);
    for (int64_t row = 0; row < (n_out + PANEL - 1) / PANEL * PANEL; row++)
        for (int64_t g = 0; g < n_in / GROUP; g++) {
            int64_t at = group_at(n_in, row / PANEL, g);
            const float *values = row < n_out ? w + row * n_in + g * GROUP : zeros;
            scale[at * PANEL + row % PANEL] =
                choose_scale(dtype, values, importance ? importance + g * GROUP : NULL, codes);
            store_group(dtype, data, at, row % PANEL, codes);
        }
}

void k_quant_row(const float *x, int64_t n, int8_t *q, float *scale) {
    for (int64_t g = 0; g < n / GROUP; g++) {
        const float *group = x + g * GROUP;
        uint32_t largest = 0; /* as bits: a NaN is above all numbers */
        float amax;
        for (int k = 0; k < GROUP; k++) {
            uint32_t bits;
            memcpy(&bits, &group[k], sizeof bits);
            largest = MAX(largest, bits & 0x7fffffff);
        }
        memcpy(&amax, &largest, sizeof amax);
        float inverse = k_quant_scale(amax, &scale[g]);
        for (int k = 0; k < GROUP; k++)
            q[g * GROUP + k] = inverse == 0 ? 0 : (int8_t)nearest(group[k] * inverse);
    }
}
