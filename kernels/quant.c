#include "kernels/quant.h"
#include "kernels/formats.h"

enum {
    GROUP = K_QUANT_GROUP,
    PANEL = K_QUANT_PANEL,
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

/* The codes of one group of a panel, four inputs of an output side by side; Q4's second half of the
 * inputs goes into the high halves. */
static void store_group(enum k_dtype dtype, void *data, int64_t at,
                        const int8_t codes[GROUP][PANEL]) {
    int n = dtype == K_Q8 ? GROUP : GROUP / 2;

    for (int k = 0; k < n; k += 4) {
        uint8_t *bytes = byte_at(dtype, data, at, 0, k);
        for (int output = 0; output < PANEL; output++)
            for (int j = 0; j < 4; j++)
                bytes[4 * output + j] =
                    dtype == K_Q8 ? (uint8_t)(codes[k + j][output] + 128)
                                  : (uint8_t)((codes[k + j][output] + 8) |
                                              (codes[GROUP / 2 + k + j][output] + 8) << 4);
    }
}

void k_quant_pack(enum k_dtype dtype, const float *w, int64_t n_out, int64_t n_in,
                  const float *importance, void *data, uint16_t *scale) {
    float group[GROUP][PANEL];
    int8_t codes[GROUP][PANEL];

    assert(dtype == K_Q8 || dtype == K_Q4);
    assert(n_in % GROUP == 0);
    for (int64_t panel = 0; panel < (n_out + PANEL - 1) / PANEL; panel++)
        for (int64_t g = 0; g < n_in / GROUP; g++) {
            int64_t at = group_at(n_in, panel, g);
            for (int64_t o = 0; o < PANEL; o++) {
                int64_t row = panel * PANEL + o;
                for (int k = 0; k < GROUP; k++)
                    group[k][o] = row < n_out ? w[row * n_in + g * GROUP + k] : 0;
            }
            quantscale_group(dtype, group, importance ? importance + g * GROUP : NULL, codes,
                             &scale[at * PANEL]);
            store_group(dtype, data, at, codes);
        }
}

void k_quant_store(enum k_dtype dtype, int64_t n_in, int64_t row, int64_t group,
                   const int8_t codes[GROUP], uint16_t by, void *data, uint16_t *scale) {
    int64_t at = group_at(n_in, row / PANEL, group), output = row % PANEL;

    scale[at * PANEL + output] = by;
    for (int k = 0; k < (dtype == K_Q8 ? GROUP : GROUP / 2); k++)
        *byte_at(dtype, data, at, output, k) =
            dtype == K_Q8 ? (uint8_t)(codes[k] + 128)
                          : (uint8_t)((codes[k] + 8) | (codes[GROUP / 2 + k] + 8) << 4);
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
