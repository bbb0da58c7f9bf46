/* cuda.h - the CUDA backend: the table of its operators, if it was built and there is a GPU.
 *
 * Every sum has one order, fixed by shapes; no atomics on floats. Sums of `linear`: linear_cuda.cu.
 */
#pragma once
#include "kernels/device.h"

/* path: NULL or "cuda". -ENOTSUP: not built, no driver, or another path; -ENODEV: no GPU, or none
 * that the kernels run on. */
int k_cuda_table(const char *path, const struct k_table **ret, struct hai_err *err);

/* Inside: what table_cuda.c puts together. */
extern const struct k_table k_cuda_operators;
extern const struct k_device k_cuda_device;
int k_cuda_bind(struct k_ctx *ctx, struct k_weight *w, struct hai_err *err);

#define X(op)                                                                                      \
    int k_cuda_##op(struct k_ctx *ctx, const struct k_##op *a);                                    \
    size_t k_cuda_##op##_workspace(const struct k_ctx *ctx, const struct k_##op *a);
K_OPS(X)
#undef X
