/* quantize_body.h - numbers to few bits and back: the codes and scales that ref has.
 *
 * Work is cut in stripes: 128 rows where scales belong to rows or blocks, 128 columns where they
 * lie along tokens. Within a stripe a run of at most 128 numbers of a row goes at a time, each with
 * a scale of its own in `by`, whatever shares it.
 */
#pragma once
#include "kernels/cpu/float8.h"
#include "kernels/formats.h"
#include "kernels/pool.h"
#include "kernels/scaled.h"

/* |x| to a code of a format with n_fraction bits of fraction, largest and NaN: without branches,
 * for the compiler to make vectors of. `step` is the number whose last place is the spacing below
 * the normal numbers, least_normal the bits of the smallest of those. */
struct narrow {
    float step;
    uint32_t least_normal;
    int drop;      // bits of float32's fraction that go
    uint32_t bias; // float32's exponent less the format's
    uint32_t largest, nan;
};

ALWAYS_INLINE struct narrow narrow_of(const enum k_dtype type) {
    if (type == K_E4M3)
        return (struct narrow){0x1p14f, 0x3c800000, 20, 120u << 3, 0x7e, 0x7f};
    if (type == K_E5M2)
        return (struct narrow){0x1p7f, 0x38800000, 21, 112u << 2, 0x7b, 0x7e};
    return (struct narrow){0x1p3f, 0x38800000, 17, 112u << 6, 0x7bf, 0x7e0};
}

/* Code with the sign at `sign`. */
ALWAYS_INLINE uint32_t narrow_code(const struct narrow f, const uint32_t sign, float q) {
    uint32_t bits, low_bits, step_bits;
    float low;

    memcpy(&bits, &q, sizeof bits);
    memcpy(&step_bits, &f.step, sizeof step_bits);
    uint32_t magnitude = bits & 0x7fffffff, capped = MIN(magnitude, 0x47800000u);
    memcpy(&low, &capped, sizeof low);
    low += f.step;
    memcpy(&low_bits, &low, sizeof low_bits);
    uint32_t half = (1u << (f.drop - 1)) - 1 + (capped >> f.drop & 1);
    uint32_t normal = ((capped + half) >> f.drop) - f.bias;
    uint32_t code = capped >= f.least_normal ? normal : low_bits - step_bits;
    code = magnitude > 0x7f800000 ? f.nan : MIN(code, f.largest);
    return code | (bits >> 31) * sign;
}

ALWAYS_INLINE void narrow_bytes(const enum k_dtype type, const float *x, const float *by, int64_t n,
                                uint8_t *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] = (uint8_t)narrow_code(narrow_of(type), 0x80, x[i] / by[i]);
}

static void narrow_e5m6(const float *x, const float *by, int64_t n, uint8_t *y) {
    uint16_t codes[K_BLOCK + 1] = {0};

    for (int64_t i = 0; i < n; i++)
        codes[i] = (uint16_t)narrow_code(narrow_of(K_E5M6), 0x800, x[i] / by[i]);
    for (int64_t i = 0; i < n / 2; i++) {
        uint32_t pair = codes[2 * i] | (uint32_t)codes[2 * i + 1] << 12;
        y[3 * i] = (uint8_t)pair;
        y[3 * i + 1] = (uint8_t)(pair >> 8);
        y[3 * i + 2] = (uint8_t)(pair >> 16);
    }
    if (n % 2)
        k_e5m6_put(y, n - 1, codes[n - 1]);
}

static void narrow_bf16(const float *x, int64_t n, uint16_t *y) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        uint32_t even = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
        y[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : even);
    }
}

/* Numbers k and so on, n <= 128 of them, of row r; k even. */
static void put_run(const struct k_tensor *y, int64_t r, int64_t k, const float *x, const float *by,
                    int64_t n) {
    char *to = (char *)y->data + k_dtype_n_bytes(y->dtype, r * y->stride[0] + k);

    if (y->dtype == K_E4M3)
        narrow_bytes(K_E4M3, x, by, n, (uint8_t *)to);
    else if (y->dtype == K_E5M2)
        narrow_bytes(K_E5M2, x, by, n, (uint8_t *)to);
    else if (y->dtype == K_E5M6)
        narrow_e5m6(x, by, n, (uint8_t *)to);
    else
        narrow_bf16(x, n, (uint16_t *)(void *)to);
}

/* Codes made run, scales left out. */
ALWAYS_INLINE void widen_codes(const enum k_dtype type, const uint8_t *codes, int64_t n,
                               float *ret) {
    uint16_t words[K_BLOCK] = {0};

    if (type == K_E5M6) {
        for (int64_t i = 0; i < n / 2; i++) {
            words[2 * i] = (uint16_t)((codes[3 * i] | codes[3 * i + 1] << 8) << 4);
            words[2 * i + 1] = (uint16_t)((codes[3 * i + 1] & 0xf0) | codes[3 * i + 2] << 8);
        }
        if (n % 2)
            words[n - 1] = (uint16_t)(k_e5m6_get(codes, n - 1) << 4);
    }
    for (int64_t i = 0; i < n; i += 8) {
        float eight[8];
        __m256 v;
        if (type == K_E5M6)
            v = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(words + i)));
        else if (i + 8 <= n)
            v = float8_load_8(type, codes + i);
        else
            v = float8_load_8(type, memcpy(words, codes + i, (size_t)(n - i)));
        _mm256_storeu_ps(eight, _mm256_mul_ps(v, _mm256_set1_ps(FLOAT8_UP(type))));
        memcpy(ret + i, eight, (size_t)MIN(n - i, (int64_t)8) * sizeof *eight);
    }
}

static void widen_bf16(const uint16_t *x, int64_t n, float *ret) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(ret + i, &bits, sizeof bits);
    }
}

/* Numbers k and so on, n <= 128 of them, of row r, times by (NULL: 1). Those of float32 stay where
 * they are. k is a multiple of 128. */
static const float *get_run(const struct k_tensor *x, int64_t r, int64_t k, int64_t n,
                            const float *by, float ret[K_BLOCK]) {
    const char *from = (const char *)x->data + k_dtype_n_bytes(x->dtype, r * x->stride[0] + k);

    if (x->dtype == K_F32)
        return (const float *)(const void *)from;
    if (x->dtype == K_BF16)
        widen_bf16((const uint16_t *)(const void *)from, n, ret);
    else if (x->dtype == K_E4M3)
        widen_codes(K_E4M3, (const uint8_t *)from, n, ret);
    else if (x->dtype == K_E5M2)
        widen_codes(K_E5M2, (const uint8_t *)from, n, ret);
    else
        widen_codes(K_E5M6, (const uint8_t *)from, n, ret);
    for (int64_t i = 0; by && i < n; i++)
        ret[i] *= by[i];
    return ret;
}

static void fill_run(float *to, float value) {
    for (int i = 0; i < K_BLOCK; i++)
        to[i] = value;
}

/* The same of x of an operator, with its tiles of scales if it has any. */
static const float *get_tile(const struct k_tensor *x, int64_t r, int64_t k, int64_t n,
                             float ret[K_BLOCK]) {
    float by[K_BLOCK];

    if (x->scale_kind == K_SCALE_NONE)
        return get_run(x, r, k, n, NULL, ret);
    fill_run(by, ((const float *)x->scale)[k / K_BLOCK * x->shape[0] + r]);
    return get_run(x, r, k, n, by, ret);
}

/* The largest magnitude of amax and n numbers; a NaN counts as ref has it, as what follows it
 * decides. */
static float largest_of(float amax, const float *x, int64_t n) {
    int32_t largest = 0;
    float found;

    for (int64_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        largest = MAX(largest, bits & 0x7fffffff);
    }
    if (largest <= 0x7f800000 && amax == amax) {
        memcpy(&found, &largest, sizeof found);
        return MAX(amax, found);
    }
    for (int64_t i = 0; i < n; i++)
        amax = MAX(amax, x[i] < 0 ? -x[i] : x[i]);
    return amax;
}

ALWAYS_INLINE float scale_of(const struct k_quantize *a, float amax) {
    float largest = a->y.dtype == K_E4M3 ? 448 : a->y.dtype == K_E5M2 ? 57344 : 65024;
    float scale = MAX(amax, a->amax_min) / largest;
    uint32_t bits;

    scale = scale < 0x1p-126f ? 1 : scale;
    if (!a->power_of_two)
        return scale;
    memcpy(&bits, &scale, sizeof bits);
    bits = (bits + 0x7fffff) & 0x7f800000;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

static float *scale_row(const struct k_tensor *scale, int64_t i) {
    return (float *)scale->data + i * scale->stride[0];
}

/* A run of rows that share the scale of their n columns from k on. */
static void quantize_block(const struct k_quantize *a, int64_t row, int64_t end, int64_t k,
                           int64_t n, float *ret_scale) {
    float amax = 0, run[K_BLOCK], by[K_BLOCK];

    for (int64_t r = row; r < end; r++)
        amax = largest_of(amax, get_tile(&a->x, r, k, n, run), n);
    *ret_scale = scale_of(a, amax);
    fill_run(by, *ret_scale);
    for (int64_t r = row; r < end; r++)
        put_run(&a->y, r, k, get_tile(&a->x, r, k, n, run), by, n);
}

static void quantize_rows(void *arg, int64_t stripe, int thread) {
    const struct k_quantize *a = arg;
    int64_t first = stripe * K_BLOCK, end = MIN(first + K_BLOCK, a->x.shape[0]);

    for (int64_t k = 0; k < a->x.shape[1]; k += K_BLOCK) {
        int64_t n = MIN(a->x.shape[1] - k, (int64_t)K_BLOCK);
        float run[K_BLOCK];
        if (a->y.scale_kind == K_SCALE_BLOCKS)
            quantize_block(a, first, end, k, n, scale_row(&a->scale, stripe) + k / K_BLOCK);
        for (int64_t r = first; r < end && a->y.scale_kind == K_SCALE_TILES; r++)
            quantize_block(a, r, r + 1, k, n, scale_row(&a->scale, k / K_BLOCK) + r);
        for (int64_t r = first; r < end && a->y.scale_kind == K_SCALE_NONE; r++)
            put_run(&a->y, r, k, get_tile(&a->x, r, k, n, run), NULL, n);
    }
}

/* At most 128 rows of 128 columns, a scale for each column. */
static void quantize_token_tile(const struct k_quantize *a, int64_t row, int64_t end, int64_t k,
                                int64_t n, float *scale) {
    float amax[K_BLOCK] = {0}, run[K_BLOCK];

    for (int64_t r = row; r < end; r++) {
        const float *x = get_tile(&a->x, r, k, n, run);
        for (int64_t i = 0; i < n; i++) {
            float magnitude = x[i] < 0 ? -x[i] : x[i];
            amax[i] = MAX(amax[i], magnitude);
        }
    }
    for (int64_t i = 0; i < n; i++)
        scale[i] = scale_of(a, amax[i]);
    for (int64_t r = row; r < end; r++)
        put_run(&a->y, r, k, get_tile(&a->x, r, k, n, run), scale, n);
}

/* Rows of group g, and the row of scales that its first tile along tokens has. */
static int64_t token_group(const struct k_tensor *row_start, int64_t n_rows, int64_t g,
                           int64_t *ret_end, int64_t *ret_tile) {
    const int32_t *start = row_start->data;
    int64_t first = start ? start[g] : 0;

    *ret_end = start ? start[g + 1] : n_rows;
    *ret_tile = first / K_BLOCK + g;
    return first;
}

static void quantize_columns(void *arg, int64_t stripe, int thread) {
    const struct k_quantize *a = arg;
    int64_t k = stripe * K_BLOCK, n = MIN(a->x.shape[1] - k, (int64_t)K_BLOCK), end, tile;

    for (int64_t g = 0; g < k_n_groups(&a->row_start); g++) {
        int64_t row = token_group(&a->row_start, a->x.shape[0], g, &end, &tile);
        for (; row < end; row += K_BLOCK, tile++)
            quantize_token_tile(a, row, MIN(row + K_BLOCK, end), k, n,
                                scale_row(&a->scale, tile) + k);
    }
}

static int64_t stripes_of(int64_t n) {
    return (n + K_BLOCK - 1) / K_BLOCK;
}

static int quantize(struct k_ctx *ctx, const struct k_quantize *a) {
    bool tokens = a->y.scale_kind == K_SCALE_TOKENS;

    if (!k_quantize_fits(a))
        return -EINVAL;
    pool_run(ctx->pool, stripes_of(a->x.shape[tokens]), tokens ? quantize_columns : quantize_rows,
             (void *)(uintptr_t)a);
    return 0;
}

/* A row of x of an operator made wide; tile: the row of its scales along tokens. */
static void widen_row(const struct k_tensor *x, int64_t r, int64_t tile, float *to) {
    int64_t n_rows = x->shape[0], n_dim = x->shape[1];
    const float *scale = x->scale;

    for (int64_t k = 0; k < n_dim; k += K_BLOCK) {
        int64_t n = MIN(n_dim - k, (int64_t)K_BLOCK);
        float by[K_BLOCK];
        if (x->scale_kind == K_SCALE_TILES)
            fill_run(by, scale[k / K_BLOCK * n_rows + r]);
        if (x->scale_kind == K_SCALE_BLOCKS)
            fill_run(by, scale[r / K_BLOCK * stripes_of(n_dim) + k / K_BLOCK]);
        (void)get_run(x, r, k, n,
                      x->scale_kind == K_SCALE_NONE     ? NULL
                      : x->scale_kind == K_SCALE_TOKENS ? scale + tile * n_dim + k
                                                        : by,
                      to + k);
    }
}

struct widen {
    const struct k_tensor *x, *row_start;
    float *to;
    int64_t to_row;
};

static void widen_rows(void *arg, int64_t stripe, int thread) {
    const struct widen *w = arg;
    int64_t end = MIN((stripe + 1) * K_BLOCK, w->x->shape[0]), g = 0, g_end, tile;
    int64_t first = token_group(w->row_start, w->x->shape[0], g, &g_end, &tile);

    for (int64_t r = stripe * K_BLOCK; r < end; r++) {
        while (r >= g_end)
            first = token_group(w->row_start, w->x->shape[0], ++g, &g_end, &tile);
        widen_row(w->x, r, tile + (r - first) / K_BLOCK, w->to + r * w->to_row);
    }
}

/* All of x, not float32, made wide. to: [n_rows, n_dim], to_row from row to row. */
static void make_wide(struct k_ctx *ctx, const struct k_tensor *x, const struct k_tensor *row_start,
                      float *to, int64_t to_row) {
    struct widen w = {x, row_start, to, to_row};

    pool_run(ctx->pool, stripes_of(x->shape[0]), widen_rows, &w);
}

static int dequantize(struct k_ctx *ctx, const struct k_dequantize *a) {
    if (!k_scaled_fits(&a->x, &a->row_start))
        return -EINVAL;
    make_wide(ctx, &a->x, &a->row_start, a->y.data, a->y.stride[0]);
    return 0;
}
