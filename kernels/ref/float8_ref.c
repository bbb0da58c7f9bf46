#include "kernels/ref/ref.h"

/* The group of a row, its first row, and the number of groups. */
static int64_t group_of(const struct k_tensor *row_start, int64_t row, int64_t *ret_first) {
    const int32_t *start = row_start->data;
    int64_t g = 0;

    *ret_first = 0;
    if (!start)
        return 0;
    while (g + 2 < row_start->shape[0] && start[g + 1] <= row)
        g++;
    *ret_first = start[g];
    return g;
}

/* The row of scales that a row's numbers have along tokens. */
static int64_t token_tile(const struct k_tensor *row_start, int64_t row) {
    int64_t first, g = group_of(row_start, row, &first);

    return first / K_BLOCK + g + (row - first) / K_BLOCK;
}

const float *float8_ref_scale(const struct k_tensor *t, const struct k_tensor *row_start,
                              int64_t row, int64_t i) {
    const float *scale = t->scale;
    int64_t n_blocks = (t->shape[1] + K_BLOCK - 1) / K_BLOCK;

    switch (t->scale_kind) {
    case K_SCALE_TILES:
        return scale + i / K_BLOCK * t->shape[0] + row;
    case K_SCALE_TOKENS:
        return scale + token_tile(row_start, row) * t->shape[1] + i;
    case K_SCALE_BLOCKS:
        return scale + row / K_BLOCK * n_blocks + i / K_BLOCK;
    default:
        return NULL;
    }
}

/* The power of two that is not below a positive number. */
static float power_of_two_above(float x) {
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fffff) & 0x7f800000;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float largest_of(enum k_dtype dtype) {
    return dtype == K_E4M3 ? 448 : dtype == K_E5M2 ? 57344 : 65024;
}

/* A number of x, its scale included. */
static float wide(const struct k_tensor *x, const struct k_tensor *row_start, int64_t row,
                  int64_t i) {
    const float *scale = float8_ref_scale(x, row_start, row, i);

    return (float)ref_code(x, row, i) * (scale ? *scale : 1);
}

static void put(const struct k_tensor *y, int64_t row, int64_t i, float x) {
    int64_t at = row * y->stride[0] + i;

    if (y->dtype == K_BF16)
        ((uint16_t *)y->data)[at] = k_to_bf16(x);
    else if (y->dtype == K_E4M3)
        ((uint8_t *)y->data)[at] = k_to_e4m3(x);
    else if (y->dtype == K_E5M2)
        ((uint8_t *)y->data)[at] = k_to_e5m2(x);
    else
        k_e5m6_put(y->data, at, k_to_e5m6(x));
}

/* Numbers that share a scale. */
static void quantize_share(const struct k_quantize *a, int64_t row, int64_t n_rows, int64_t column,
                           int64_t n_columns, float *ret_scale) {
    float amax = 0;

    for (int64_t r = row; r < row + n_rows; r++)
        for (int64_t i = column; i < column + n_columns; i++) {
            float x = wide(&a->x, &a->row_start, r, i);
            amax = MAX(amax, x < 0 ? -x : x);
        }
    float scale = MAX(amax, a->amax_min) / largest_of(a->y.dtype);
    if (scale < 0x1p-126f)
        scale = 1;
    if (a->power_of_two)
        scale = power_of_two_above(scale);
    *ret_scale = scale;
    for (int64_t r = row; r < row + n_rows; r++)
        for (int64_t i = column; i < column + n_columns; i++)
            put(&a->y, r, i, wide(&a->x, &a->row_start, r, i) / scale);
}

/* Along tokens: groups one by one, their columns one by one. */
static void quantize_tokens(const struct k_quantize *a) {
    const int32_t *start = a->row_start.data;
    int64_t n_groups = start ? a->row_start.shape[0] - 1 : 1;

    for (int64_t g = 0; g < n_groups; g++) {
        int64_t first = start ? start[g] : 0, end = start ? start[g + 1] : a->x.shape[0];
        for (int64_t r = first; r < end; r += K_BLOCK)
            for (int64_t i = 0; i < a->x.shape[1]; i++)
                quantize_share(a, r, MIN(end - r, (int64_t)K_BLOCK), i, 1,
                               ref_row(&a->scale, token_tile(&a->row_start, r)) + i);
    }
}

int k_ref_quantize(struct k_ctx *ctx, const struct k_quantize *a) {
    int64_t n_rows = a->x.shape[0], n = a->x.shape[1];
    int64_t rows = a->y.scale_kind == K_SCALE_BLOCKS ? K_BLOCK : 1;

    if (!k_quantize_fits(a))
        return -EINVAL;
    if (a->y.scale_kind == K_SCALE_TOKENS) {
        quantize_tokens(a);
        return 0;
    }
    for (int64_t r = 0; r < n_rows && a->y.scale_kind == K_SCALE_NONE; r++)
        for (int64_t i = 0; i < n; i++)
            put(&a->y, r, i, wide(&a->x, &a->row_start, r, i));
    for (int64_t r = 0; r < n_rows && a->y.scale_kind != K_SCALE_NONE; r += rows)
        for (int64_t i = 0; i < n; i += K_BLOCK)
            quantize_share(a, r, MIN(n_rows - r, rows), i, MIN(n - i, (int64_t)K_BLOCK),
                           rows == 1 ? ref_row(&a->scale, i / K_BLOCK) + r
                                     : ref_row(&a->scale, r / K_BLOCK) + i / K_BLOCK);
    return 0;
}

int k_ref_dequantize(struct k_ctx *ctx, const struct k_dequantize *a) {
    if (!k_scaled_fits(&a->x, &a->row_start))
        return -EINVAL;
    for (int64_t r = 0; r < a->y.shape[0]; r++)
        for (int64_t i = 0; i < a->y.shape[1]; i++)
            ref_row(&a->y, r)[i] = wide(&a->x, &a->row_start, r, i);
    return 0;
}
