/* gemm_body.h - the one matrix product of the CPU backends over numbers in float32 and bf16.
 *
 * C (m x n) = or += A (m x k) B (k x n), float32, rows of C contiguous. Panels of A and B are
 * packed into workspace, so every layout of the operands runs the same inner loop. Whatever the
 * blocking, an element of C is one chain of fused multiply-adds over ascending k (kept in C between
 * blocks of k): its bits depend neither on m, n and threads nor on the width of the vectors.
 */
#pragma once
#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"
#include "kernels/pool.h"

enum {
#ifdef __AVX512F__
    TILE_ROWS = 14,  // 28 sums, 2 vectors of B, 1 of A in 32 registers
    PANEL_ROWS = 16, // of packed A: rows of a tile, padded
#else
    TILE_ROWS = 6, // 12 sums, 2 of B, 1 of A in 16 registers
    PANEL_ROWS = 8,
#endif
    TILE_COLUMNS = 2 * VEC,
    BLOCK_K = 256,               // a panel of B stays in the first-level cache
    BLOCK_ROWS = 16 * TILE_ROWS, // packed A in the second level
    PIECE_ROWS = 32 * TILE_ROWS, // what one thread takes
    PIECE_COLUMNS = 512,
    GEMM_FLOATS = BLOCK_K * (PIECE_COLUMNS + 16 * PANEL_ROWS), // workspace of one thread
};

/* Element (i, k) of A is a[i * a_row + k * a_k]; one of the two strides is 1. The same for B, which
 * may be bf16. */
struct gemm {
    int64_t m, n, k;
    const float *a;
    int64_t a_row, a_k;
    const void *b;
    int64_t b_k, b_column;
    bool b_bf16;
    float *c;
    int64_t c_row;
    bool accumulate;
};

ALWAYS_INLINE __m256 load_8(const void *p, int64_t at, bool bf16) {
    if (!bf16)
        return _mm256_loadu_ps((const float *)p + at);
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)p + at));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

ALWAYS_INLINE float load_1(const void *p, int64_t at, bool bf16) {
    if (!bf16)
        return ((const float *)p)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)p)[at] << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

ALWAYS_INLINE void transpose_8(__m256 r[8]) {
    __m256 t[8], u[8];

    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* dst[k * width + i] = src[i * stride + k] for i < n_rows, 0 for n_rows <= i < width. */
ALWAYS_INLINE void pack_across(const void *src, int64_t stride, int64_t n_rows, int64_t n_k,
                               float *dst, int64_t width, bool bf16) {
    for (int64_t i = 0; i < width; i += 8) {
        int64_t rows = MIN(MAX(n_rows - i, (int64_t)0), (int64_t)8), k = 0;
        for (; k + 8 <= n_k; k += 8) {
            __m256 r[8];
            for (int q = 0; q < 8; q++)
                r[q] = q < rows ? load_8(src, (i + q) * stride + k, bf16) : _mm256_setzero_ps();
            transpose_8(r);
            for (int q = 0; q < 8; q++)
                _mm256_storeu_ps(dst + (k + q) * width + i, r[q]);
        }
        for (; k < n_k; k++)
            for (int64_t q = 0; q < 8; q++)
                dst[k * width + i + q] = q < rows ? load_1(src, (i + q) * stride + k, bf16) : 0;
    }
}

/* VEC numbers, zero from n on. */
ALWAYS_INLINE vf load_up_to(const void *p, int64_t at, int64_t n, bool bf16) {
    float wide[VEC] = {0};

    if (!bf16)
        return n >= VEC ? v_load((const float *)p + at) : v_load_n((const float *)p + at, n);
    for (int64_t i = 0; i < MIN(n, (int64_t)VEC); i++)
        wide[i] = load_1(p, at + i, true);
    return v_load(wide);
}

/* dst[k * width + i] = src[k * stride + i] for i < n, 0 behind; width is VEC or twice that. */
ALWAYS_INLINE void pack_along(const void *src, int64_t stride, int64_t n, int64_t n_k, float *dst,
                              int64_t width, bool bf16) {
    if (n == width && !bf16) {
        for (int64_t k = 0; k < n_k; k++, dst += width)
            for (int64_t i = 0; i < width; i += VEC)
                v_store(dst + i, v_load((const float *)src + k * stride + i));
        return;
    }
    for (int64_t k = 0; k < n_k; k++, dst += width)
        for (int64_t i = 0; i < width; i += VEC)
            v_store(dst + i, i < n ? load_up_to(src, k * stride + i, n - i, bf16) : v_zero());
}

static void pack_b(const struct gemm *g, int64_t column, int64_t n, int64_t k, int64_t n_k,
                   float *dst) {
    size_t size = g->b_bf16 ? sizeof(uint16_t) : sizeof(float);

    for (int64_t j = 0; j < n; j += TILE_COLUMNS, dst += n_k * TILE_COLUMNS) {
        int64_t columns = MIN(n - j, (int64_t)TILE_COLUMNS);
        const char *src =
            (const char *)g->b + (size_t)((column + j) * g->b_column + k * g->b_k) * size;
        if (g->b_column == 1 && g->b_bf16)
            pack_along(src, g->b_k, columns, n_k, dst, TILE_COLUMNS, true);
        else if (g->b_column == 1)
            pack_along(src, g->b_k, columns, n_k, dst, TILE_COLUMNS, false);
        else if (g->b_bf16)
            pack_across(src, g->b_column, columns, n_k, dst, TILE_COLUMNS, true);
        else
            pack_across(src, g->b_column, columns, n_k, dst, TILE_COLUMNS, false);
    }
}

static void pack_a(const struct gemm *g, int64_t row, int64_t n, int64_t k, int64_t n_k,
                   float *dst) {
    for (int64_t i = 0; i < n; i += TILE_ROWS, dst += n_k * PANEL_ROWS) {
        int64_t rows = MIN(n - i, (int64_t)TILE_ROWS);
        const float *src = g->a + (row + i) * g->a_row + k * g->a_k;
        if (g->a_row == 1)
            pack_along(src, g->a_k, rows, n_k, dst, PANEL_ROWS, false);
        else
            pack_across(src, g->a_row, rows, n_k, dst, PANEL_ROWS, false);
    }
}

/* One tile of C: rows and vectors are constants where this is called. last: columns of the last
 * vector. load: go on from what is in C. */
ALWAYS_INLINE void tile(const int rows, const int vectors, int64_t n_k, const float *a,
                        const float *b, float *c, int64_t c_row, int64_t last, bool load) {
    vf sum[TILE_ROWS][2];

#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[i][v] = !load             ? v_zero()
                        : v < vectors - 1 ? v_load(c + i * c_row + v * VEC)
                                          : v_load_n(c + i * c_row + v * VEC, last);
    for (int64_t k = 0; k < n_k; k++, a += PANEL_ROWS, b += TILE_COLUMNS) {
        vf b0 = v_load(b), b1 = vectors > 1 ? v_load(b + VEC) : b0;
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            vf x = v_set(a[i]);
            sum[i][0] = v_fma(x, b0, sum[i][0]);
            if (vectors > 1)
                sum[i][1] = v_fma(x, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            if (v < vectors - 1)
                v_store(c + i * c_row + v * VEC, sum[i][v]);
            else
                v_store_n(c + i * c_row + v * VEC, sum[i][v], last);
        }
}

#define TILE(rows)                                                                                 \
    static void tile_##rows(int vectors, int64_t n_k, const float *a, const float *b, float *c,    \
                            int64_t c_row, int64_t last, bool load) {                              \
        if (vectors == 2)                                                                          \
            tile(rows, 2, n_k, a, b, c, c_row, last, load);                                        \
        else                                                                                       \
            tile(rows, 1, n_k, a, b, c, c_row, last, load);                                        \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)
#ifdef __AVX512F__
TILE(7)
TILE(8)
TILE(9)
TILE(10)
TILE(11)
TILE(12)
TILE(13)
TILE(14)
#endif

static void (*const tiles[])(int vectors, int64_t n_k, const float *a, const float *b, float *c,
                             int64_t c_row, int64_t last, bool load) = {
    NULL,   tile_1, tile_2, tile_3,  tile_4,  tile_5,  tile_6,
#ifdef __AVX512F__
    tile_7, tile_8, tile_9, tile_10, tile_11, tile_12, tile_13, tile_14,
#endif
};

/* A block of packed A times packed B into rows of C from c on. */
static void multiply(int64_t m, int64_t n, int64_t n_k, const float *a, const float *b, float *c,
                     int64_t c_row, bool load) {
    for (int64_t j = 0; j < n; j += TILE_COLUMNS, b += n_k * TILE_COLUMNS) {
        int64_t columns = MIN(n - j, (int64_t)TILE_COLUMNS);
        int vectors = columns > VEC ? 2 : 1;
        const float *panel = a;
        for (int64_t i = 0; i < m; i += TILE_ROWS, panel += n_k * PANEL_ROWS)
            tiles[MIN(m - i, (int64_t)TILE_ROWS)](vectors, n_k, panel, b, c + i * c_row + j, c_row,
                                                  columns - (vectors - 1) * VEC, load);
    }
}

/* The product of some rows and at most PIECE_COLUMNS columns. work: GEMM_FLOATS floats. */
static void gemm_piece(const struct gemm *g, int64_t row, int64_t m, int64_t column, int64_t n,
                       float *work) {
    float *packed_b = work, *packed_a = work + BLOCK_K * PIECE_COLUMNS;

    if (g->k == 0 && !g->accumulate)
        for (int64_t i = row; i < row + m; i++)
            memset(g->c + i * g->c_row + column, 0, (size_t)n * sizeof(float));
    for (int64_t k = 0; k < g->k; k += BLOCK_K) {
        int64_t n_k = MIN(g->k - k, (int64_t)BLOCK_K);
        pack_b(g, column, n, k, n_k, packed_b);
        for (int64_t i = 0; i < m; i += BLOCK_ROWS) {
            int64_t rows = MIN(m - i, (int64_t)BLOCK_ROWS);
            pack_a(g, row + i, rows, k, n_k, packed_a);
            multiply(rows, n, n_k, packed_a, packed_b, g->c + (row + i) * g->c_row + column,
                     g->c_row, g->accumulate || k > 0);
        }
    }
}

/* The whole product in this thread. */
static void gemm(const struct gemm *g, float *work) {
    for (int64_t j = 0; j < g->n; j += PIECE_COLUMNS)
        gemm_piece(g, 0, g->m, j, MIN(g->n - j, (int64_t)PIECE_COLUMNS), work);
}

static size_t gemm_bytes(const struct k_ctx *ctx) {
    return (size_t)pool_n_threads(ctx->pool) * GEMM_FLOATS * sizeof(float);
}
