/* ref.h - the reference backend: plain loops, sums in double, nothing clever.
 *
 * It defines what an operator means. Shapes and types have been checked by the dispatcher. Every
 * operator has a form here, so a faster backend may leave any out.
 */
#pragma once
#include "kernels/formats.h"
#include "kernels/quant.h"
#include "kernels/scaled.h"
#include "kernels/weight.h"

extern const struct k_table k_ref_table;

#define X(op) int k_ref_##op(struct k_ctx *ctx, const struct k_##op *a);
K_OPS(X)
#undef X

/* Keys and values of one head of one sequence. */
size_t k_ref_attention_expand_workspace(const struct k_ctx *ctx,
                                        const struct k_attention_expand *a);

/* More experts than any published model has (384), with room. */
enum { REF_EXPERTS_MAX = 1024 };

/* Added to a sum of scores before it divides, as the published code does: all may vanish. */
#define REF_SUM_MIN 1e-20

/* Mark the best n of value[first, first + count), ties to the lower number. */
void moe_ref_mark_best(const double *value, int64_t first, int64_t count, int64_t n, bool *mark);

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

/* Number i of a tensor's row, of any type that tensors have. */
static inline double ref_number(enum k_dtype dtype, const void *row, int64_t i) {
    switch (dtype) {
    case K_BF16:
        return (double)k_from_bf16(((const uint16_t *)row)[i]);
    case K_F16:
        return (double)k_from_f16(((const uint16_t *)row)[i]);
    case K_E4M3:
        return (double)k_from_e4m3(((const uint8_t *)row)[i]);
    case K_E5M2:
        return (double)k_from_e5m2(((const uint8_t *)row)[i]);
    case K_E5M6:
        return (double)k_from_e5m6(k_e5m6_get(row, i));
    default:
        return (double)((const float *)row)[i];
    }
}

/* Where the scale of [row, i] lies; rows in groups of row_start. NULL without scales. */
const float *float8_ref_scale(const struct k_tensor *t, const struct k_tensor *row_start,
                              int64_t row, int64_t i);

/* Number i of a tensor's row without its scale. */
static inline double ref_code(const struct k_tensor *t, int64_t row, int64_t i) {
    return ref_number(t->dtype, t->data, row * t->stride[0] + i);
}

/* Row (i, j) of a tensor of any type. */
static inline const void *ref_row_of(const struct k_tensor *t, int64_t i, int64_t j) {
    return (const char *)t->data + k_dtype_n_bytes(t->dtype, i * t->stride[0] + j * t->stride[1]);
}

/* A weight, its scale included. */
static inline double ref_weight(const struct k_weight *w, int64_t group, int64_t out, int64_t in) {
    int64_t row;
    const struct k_weight_part *part = k_weight_find(w, group, out, &row);

    if (w->dtype == K_Q8 || w->dtype == K_Q4)
        return k_quant_value(w->dtype, part->data, part->scale, w->n_in, row, in);
    double value = ref_number(w->dtype, k_weight_row(w, part, row), in);
    return part->scale ? value * (double)k_weight_block(w, part, row, in) : value;
}
