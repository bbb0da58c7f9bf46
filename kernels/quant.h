/* quant.h - whole numbers of 8 and 4 bits with a scale for every 32: weights Q8 and Q4, and the
 * activations they meet.
 *
 * A matrix [n_out, n_in] is kept in panels of 16 outputs, the last one filled up with zeros; n_in
 * is a multiple of 32, and a group is 32 inputs of one output. Layout version 1:
 *
 *   scales  float16 [n_panels, n_in / 32, 16]
 *   Q8      bytes [n_panels, n_in / 32, 8, 16, 4]: input 4 i + j of the group at [i, output, j],
 *           value = scale * (byte - 128)
 *   Q4      bytes [n_panels, n_in / 32, 4, 16, 4]: input 4 i + j in the low half of [i, output, j],
 *           input 16 + 4 i + j in the high half, value = scale * (half - 8)
 *
 * so that a 64-byte vector holds four inputs of 16 outputs, as 8-bit dot products read them.
 */
#pragma once
#include "kernels/quantscale.h"

enum { K_QUANT_LAYOUT = 1 }; // version, written into files

/* Bytes of the values, and of the scales, of a matrix. */
size_t k_quant_bytes(enum k_dtype dtype, int64_t n_out, int64_t n_in);
size_t k_quant_scale_bytes(int64_t n_out, int64_t n_in);

/* Round a matrix of packed rows. Of the scales tried for a group the one with the least squared
 * error is taken, each input's weighing as much as importance says ([n_in], not negative; NULL: all
 * the same). The first candidate is that of the largest value, so the error is never above plain
 * rounding's. */
void k_quant_pack(enum k_dtype dtype, const float *w, int64_t n_out, int64_t n_in,
                  const float *importance, void *data, uint16_t *scale);

/* Put the codes of one group where they belong, as another program rounded them: -128 to 127 for
 * Q8, -8 to 7 for Q4, with a float16 scale. Rows that are never stored must be zeroed bytes: scale
 * 0. */
void k_quant_store(enum k_dtype dtype, int64_t n_in, int64_t row, int64_t group,
                   const int8_t codes[K_QUANT_GROUP], uint16_t by, void *data, uint16_t *scale);

/* The value at [row, column], exact in double. */
double k_quant_value(enum k_dtype dtype, const void *data, const void *scale, int64_t n_in,
                     int64_t row, int64_t column);

/* The scale of a group of activations whose largest magnitude is amax, and what they are multiplied
 * by: scale = amax / 127 and 127 / amax, float32 divisions. Below 2^-100 all count as zero: 0 and
 * 0. Infinite or NaN: scale NaN and 0, so that sums become NaN. */
static inline float k_quant_scale(float amax, float *ret_scale) {
    uint32_t bits;

    memcpy(&bits, &amax, sizeof bits);
    if (bits >= 0x7f800000) {
        bits = 0x7fc00000;
        memcpy(ret_scale, &bits, sizeof bits);
        return 0;
    }
    *ret_scale = amax < 0x1p-100f ? 0 : amax / 127;
    return amax < 0x1p-100f ? 0 : 127 / amax;
}

/* Round a row of n activations, a multiple of 32, in groups of 32: q = x times k_quant_scale's
 * result to the nearest even. The same bits on every backend. q [n], scale [n / 32]. */
void k_quant_row(const float *x, int64_t n, int8_t *q, float *scale);
