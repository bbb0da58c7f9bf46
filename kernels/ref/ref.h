/* ref.h - the reference backend: plain loops, sums in double, nothing clever.
 *
 * It defines what an operator means. Shapes and types have been checked by the dispatcher. Every
 * operator has a form here, so a faster backend may leave any out.
 */
#pragma once
#include "kernels/kernels.h"

extern const struct k_table k_ref_table;

#define X(op) int k_ref_##op(struct k_ctx *ctx, const struct k_##op *a);
K_OPS(X)
#undef X

static inline double ref_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float f;

    memcpy(&f, &wide, sizeof f);
    return f;
}

/* Row i of a float32 tensor; row (i, j) of one with three dimensions. */
static inline float *ref_row(const struct k_tensor *t, int64_t i) {
    return (float *)t->data + i * t->stride[0];
}

static inline float *ref_row2(const struct k_tensor *t, int64_t i, int64_t j) {
    return (float *)t->data + i * t->stride[0] + j * t->stride[1];
}

static inline const int32_t *ref_ints(const struct k_tensor *t) {
    return t->data;
}

/* Element `at` of float32 or bf16 weights. */
static inline double ref_weight(const struct k_tensor *t, int64_t at) {
    return t->dtype == K_BF16 ? ref_bf16(((const uint16_t *)t->data)[at])
                              : (double)((const float *)t->data)[at];
}
