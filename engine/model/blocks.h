/* blocks.h - matrices as 8-bit floats with a scale for 128 x 128 values, as DeepSeek-V3 publishes
 * them.
 *
 * Works on bands of at most 128 rows; the last block of a band may be short. scale = amax / 448,
 * or 1 where that is 0; code = x / scale in E4M3, to the nearest, ties to even, saturating. Both
 * divisions are of float32. Values are finite.
 */
#pragma once
#include "lib/base.h"

/* The scales of a band x [n_rows, n_in]: [ceil(n_in / 128)]. */
void blocks_scales(const float *x, int64_t n_rows, int64_t n_in, float *ret);

/* Its codes [n_rows, n_in] under those scales. */
void blocks_codes(const float *x, int64_t n_rows, int64_t n_in, const float *scales, uint8_t *ret);
