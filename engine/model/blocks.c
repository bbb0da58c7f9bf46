#include "engine/model/blocks.h"
#include "kernels/formats.h"
#include "kernels/kernels.h"

static const float code_max = 448; // of E4M3

void blocks_scales(const float *x, int64_t n_rows, int64_t n_in, float *ret) {
    assert(n_rows <= K_BLOCK);
    for (int64_t first = 0; first < n_in; first += K_BLOCK) {
        int64_t n = MIN(n_in - first, (int64_t)K_BLOCK);
        float amax = 0;
        for (int64_t r = 0; r < n_rows; r++)
            for (int64_t i = first; i < first + n; i++) {
                float a = x[r * n_in + i] < 0 ? -x[r * n_in + i] : x[r * n_in + i];
                amax = a > amax ? a : amax;
            }
        float scale = amax / code_max;
        ret[first / K_BLOCK] = scale > 0 ? scale : 1;
    }
}

void blocks_codes(const float *x, int64_t n_rows, int64_t n_in, const float *scales, uint8_t *ret) {
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t i = 0; i < n_in; i++)
            ret[r * n_in + i] = k_to_e4m3(x[r * n_in + i] / scales[i / K_BLOCK]);
}
