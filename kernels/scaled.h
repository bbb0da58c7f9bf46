/* scaled.h - do tensors with scales, and what goes with them, fit together? For the backends.
 */
#pragma once
#include "kernels/kernels.h"

/* Groups of rows: row_start's, or one. */
int64_t k_n_groups(const struct k_tensor *row_start);

/* Has a tensor [n_rows, n_dim] the scales that its kind and type need, and does row_start cover its
 * rows where they lie along tokens? Rows of E5M6 begin at whole bytes: their stride is even. */
bool k_scaled_fits(const struct k_tensor *t, const struct k_tensor *row_start);

bool k_quantize_fits(const struct k_quantize *a);

/* Operands of products beyond operands.def: 8-bit floats meet their like,
 * scaled as kernels.h says. */
bool k_linear_fits(const struct k_linear *a);
bool k_linear_dx_fits(const struct k_linear_dx *a);
bool k_linear_dw_fits(const struct k_linear_dw *a);
