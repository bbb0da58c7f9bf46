/* quantscale.h - which scale a group of weights is rounded with: the search inside quant.h.
 *
 * Done for as many outputs side by side as a panel has. Every sum keeps its order whatever vectors
 * the processor has, so all paths give the same codes.
 */
#pragma once
#include "kernels/kernels.h"

enum {
    K_QUANT_GROUP = 32, // inputs with one scale
    K_QUANT_PANEL = 16, // outputs side by side
};

/* One group of each output of a panel: w[input][output]. Writes a float16 scale and codes, -127 to
 * 127 for Q8, -8 to 7 for Q4. Q4 has one more code below zero than above: the largest value, of
 * whichever sign, gets it, and 8 scales on either side are tried. importance [K_QUANT_GROUP] or
 * NULL. */
void quantscale_group(enum k_dtype dtype, const float w[K_QUANT_GROUP][K_QUANT_PANEL],
                      const float *importance, int8_t codes[K_QUANT_GROUP][K_QUANT_PANEL],
                      uint16_t scale[K_QUANT_PANEL]);

/* The same on a named path: "plain", "avx2", "avx512". false: this processor lacks it. For tests.
 */
bool quantscale_group_on(const char *path, enum k_dtype dtype,
                         const float w[K_QUANT_GROUP][K_QUANT_PANEL], const float *importance,
                         int8_t codes[K_QUANT_GROUP][K_QUANT_PANEL], uint16_t scale[K_QUANT_PANEL]);
