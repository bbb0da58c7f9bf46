/* gemm_body.h - the one matrix product of the CPU backends over numbers in float formats.
 *
 * C (m x n) = or += A (m x k) B (k x n), float32, rows of C contiguous. Panels of A and B are
 * packed into workspace, so every layout of the operands runs the same inner loop. Whatever the
 * blocking, an element of C is one chain of fused multiply-adds over ascending k (kept in C between
 * blocks of k): its bits depend neither on m, n and threads nor on the width of the vectors.
 *
 * With scales (B in E4M3 or E5M2, [n, k] as weights lie) a block of 128 k is four chains from zero,
 * one for each remainder of k by 4; in the order 0 2 1 3 each is multiplied by the block's scale
 * and added to C in one operation. Panels are packed in that order of k, and filled up with zeros
 * to whole blocks: a sum that began with +0 never becomes -0, so they add nothing.
 */
#pragma once
#include "kernels/cpu/float8.h"
#include "kernels/formats.h"
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
    BLOCK_K = 128,               // a panel of B stays in the first-level cache
    BLOCK_ROWS = 40 * TILE_ROWS, // packed A in the second level
    PIECE_ROWS = 80 * TILE_ROWS, // what one thread takes
    PIECE_COLUMNS = 512,
    GEMM_FLOATS = BLOCK_K * (PIECE_COLUMNS + 40 * PANEL_ROWS) + // workspace of one thread
                  BLOCK_K / K_BLOCK * PIECE_COLUMNS,
};

/* Element (i, k) of A is a[i * a_row + k * a_k]; one of the two strides is 1. The same for B. */
struct gemm {
    int64_t m, n, k;
    const float *a;
    int64_t a_row, a_k;
    const void *b;
    int64_t b_k, b_column;
    enum k_dtype b_type;
    const float *b_scale; // of E4M3 and E5M2, a row for 128 columns; column 0 is its first_column
    int64_t first_column;
    const float *a_scale; // [block of 128 k, row of A], NULL: 1
    int64_t a_scale_block;
    float *c;
    int64_t c_row;
    bool accumulate;
};

/* Scales of the columns of a block of B, for each 128 of its k, and of the rows of A. */
struct gemm_scale {
    const float *column; // [BLOCK_K / K_BLOCK, PIECE_COLUMNS]
    const float *row;
    int64_t row_block;
};

/* Of numbers of a type: E4M3 comes out as float8.h says. */
ALWAYS_INLINE __m256 load_8(const enum k_dtype type, const void *p) {
    if (type == K_F32)
        return _mm256_loadu_ps(p);
    if (type == K_E4M3 || type == K_E5M2)
        return float8_load_8(type, p);
    __m128i half = _mm_loadu_si128((const __m128i *)p);
    if (type == K_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

ALWAYS_INLINE int type_bytes(const enum k_dtype type) {
    return type == K_F32 ? 4 : type == K_BF16 || type == K_F16 ? 2 : 1;
}

/* n < 8 numbers, zero behind. */
ALWAYS_INLINE __m256 load_8_of(const enum k_dtype type, const void *p, int64_t n) {
    char part[32] = {0};

    if (n > 0)
        memcpy(part, p, (size_t)MIN(n, (int64_t)7) * (size_t)type_bytes(type));
    return load_8(type, part);
}

/* Inputs k and k + 1 of bf16 or float16, k of float32, from transposed dwords. */
ALWAYS_INLINE vf wide_low(const enum k_dtype type, vi t) {
    if (type == K_F32)
        return v_as_floats(t);
    if (type == K_BF16)
        return v_as_floats(V_LEFT_DWORDS(t, 16));
    return v_from_f16_in_dwords(t);
}

ALWAYS_INLINE vf wide_high(const enum k_dtype type, vi t) {
    if (type == K_BF16)
        return v_as_floats(v_and(t, v_set_dwords((int)0xffff0000)));
    return v_from_f16_in_dwords(V_UNSIGNED_RIGHT_DWORDS(t, 16));
}

/* Where number k of a panel goes: a block of 128 in chains has them one after the other, remainders
 * in the order 0 2 1 3. */
ALWAYS_INLINE int64_t packed_at(int64_t k, bool chains) {
    if (!chains)
        return k;
    return k / K_BLOCK * K_BLOCK + ((k & 1) * 2 + (k >> 1 & 1)) * K_BLOCK_CHAIN +
           k % K_BLOCK / K_BLOCK_CHAINS;
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

/* dst[packed_at(k) * width + i] = src[i * stride + k] for i < n_rows, 0 for n_rows <= i < width: of
 * all k from first up to n_padded, those from n_k on 0. width is a multiple of 8. */
ALWAYS_INLINE void pack_across(const enum k_dtype type, const char *src, int64_t stride,
                               int64_t n_rows, int64_t first, int64_t n_k, int64_t n_padded,
                               float *dst, int64_t width, bool chains) {
    const int size = type_bytes(type);

    for (int64_t i = 0; i < width; i += 8) {
        int64_t rows = MIN(MAX(n_rows - i, (int64_t)0), (int64_t)8);
        for (int64_t k = first; k < n_padded; k += 8) {
            __m256 r[8];
            for (int q = 0; q < 8; q++) {
                const char *p = src + ((i + q) * stride + k) * size;
                r[q] = q >= rows      ? _mm256_setzero_ps()
                       : k + 8 <= n_k ? load_8(type, p)
                                      : load_8_of(type, p, n_k - k);
            }
            transpose_8(r);
            for (int q = 0; q < 8 && k + q < n_padded; q++)
                _mm256_storeu_ps(dst + packed_at(k + q, chains) * width + i, r[q]);
        }
    }
}

/* A register of each of VEC rows, from k on, into the panel: what pack_across does, quicker. Bytes
 * are widened after they have been transposed four at a time. False, and nothing done: E4M3 with a
 * NaN among them. src: of row 0; the last row is read again behind n_rows. */
ALWAYS_INLINE bool pack_chunk(const enum k_dtype type, const char *src, int64_t stride,
                              int64_t n_rows, int64_t k, float *dst) {
    const int size = type_bytes(type), per = 4 / size;
    vi seen = v_set_dwords(0), u[VEC];

    for (int i = 0; i < VEC; i += 4) {
        vi r[4];
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) {
            r[q] = v_load_bits(src + (MIN(i + q, n_rows - 1) * stride + k) * size);
            seen = float8_see_nan(seen, r[q]);
        }
        v_transpose_four(r, u + i);
    }
    if (type == K_E4M3 && float8_any_nan(seen))
        return false;
    for (int q = 0; q < 4; q++) {
        vi columns[VEC / 4];
        v_transpose_quarter(u, q, columns);
#pragma GCC unroll 4
        for (int i = 0; i < VEC / 4; i++) {
            int64_t at = k + (4 * i + q) * per;
            if (size == 4)
                v_store(dst + at * TILE_COLUMNS, v_as_floats(columns[i]));
            if (size == 2) {
                v_store(dst + at * TILE_COLUMNS, wide_low(type, columns[i]));
                v_store(dst + (at + 1) * TILE_COLUMNS, wide_high(type, columns[i]));
            }
            if (size > 1)
                continue;
            vi words[2] = {float8_even_words(type, columns[i]), float8_odd_words(type, columns[i])};
            for (int h = 0; h < 2; h++) {
                vf low = v_from_f16(&words[h]), high = v_from_f16((char *)&words[h] + VEC * 2);
                v_store(dst + packed_at(at + h, true) * TILE_COLUMNS, v_evens(low, high));
                v_store(dst + packed_at(at + h + 2, true) * TILE_COLUMNS, v_odds(low, high));
            }
        }
    }
    return true;
}

/* A panel of weights as they lie: whole chunks the quick way, the rest the other. */
ALWAYS_INLINE void pack_weights(const enum k_dtype type, const char *src, int64_t stride,
                                int64_t columns, int64_t n_k, int64_t n_padded, float *dst) {
    const bool chains = type == K_E4M3 || type == K_E5M2;
    const int per = VEC * 4 / type_bytes(type);
    int64_t k = 0;

    for (; k + per <= n_k; k += per) {
        bool done = true;
        for (int64_t j = 0; j < columns && done; j += VEC)
            done = pack_chunk(type, src + j * stride * type_bytes(type), stride, columns - j, k,
                              dst + j);
        if (!done)
            pack_across(type, src, stride, columns, k, k + per, k + per, dst, TILE_COLUMNS, chains);
    }
    if (k < n_padded)
        pack_across(type, src, stride, columns, k, n_k, n_padded, dst, TILE_COLUMNS, chains);
}

/* dst[k * width + i] = src[k * stride + i] for i < n, 0 behind; width is a multiple of 8. */
ALWAYS_INLINE void pack_along(const enum k_dtype type, const char *src, int64_t stride, int64_t n,
                              int64_t n_k, float *dst, int64_t width) {
    const int size = type_bytes(type);

    for (int64_t k = 0; k < n_k; k++, dst += width)
        for (int64_t i = 0; i < width; i += 8) {
            const char *p = src + (k * stride + i) * size;
            _mm256_storeu_ps(dst + i, i + 8 <= n ? load_8(type, p) : load_8_of(type, p, n - i));
        }
}

/* Scale of a weight at [column, k]. */
ALWAYS_INLINE float scale_at(const struct gemm *g, int64_t column, int64_t k) {
    int64_t n_blocks = (g->k + K_BLOCK - 1) / K_BLOCK;

    return g->b_scale[(g->first_column + column) / K_BLOCK * n_blocks + k / K_BLOCK] *
           FLOAT8_UP(g->b_type);
}

/* A panel of B whose columns lie at b_column = 1, weights read across: [k, n] with the scale of
 * each taken in. The scales' rows are then of k. */
static void scale_panel(const struct gemm *g, int64_t column, int64_t k, int64_t n_k, float *dst) {
    int64_t n_blocks = (g->n + K_BLOCK - 1) / K_BLOCK;

    for (int64_t i = 0; i < n_k; i++, dst += TILE_COLUMNS)
        for (int64_t j = 0; j < TILE_COLUMNS && column + j < g->n; j++)
            dst[j] *= g->b_scale[(g->first_column + k + i) / K_BLOCK * n_blocks +
                                 (column + j) / K_BLOCK] *
                      FLOAT8_UP(g->b_type);
}

#define PACK_TYPE(type_)                                                                           \
    case type_:                                                                                    \
        if (g->b_column == 1)                                                                      \
            pack_along(type_, src, g->b_k, columns, n_k, dst, TILE_COLUMNS);                       \
        else                                                                                       \
            pack_weights(type_, src, g->b_column, columns, n_k, n_padded, dst);                    \
        break

static void pack_b(const struct gemm *g, int64_t column, int64_t n, int64_t k, int64_t n_k,
                   int64_t n_padded, float *dst) {
    int64_t size = type_bytes(g->b_type);

    for (int64_t j = 0; j < n; j += TILE_COLUMNS, dst += n_padded * TILE_COLUMNS) {
        int64_t columns = MIN(n - j, (int64_t)TILE_COLUMNS);
        const char *src = (const char *)g->b + ((column + j) * g->b_column + k * g->b_k) * size;
        switch (g->b_type) {
            PACK_TYPE(K_F32);
            PACK_TYPE(K_BF16);
            PACK_TYPE(K_F16);
            PACK_TYPE(K_E4M3);
            PACK_TYPE(K_E5M2);
        default:
            assert(false);
        }
        if (g->b_scale && g->b_column == 1)
            scale_panel(g, column + j, k, n_k, dst);
    }
}

static void pack_a(const struct gemm *g, int64_t row, int64_t n, int64_t k, int64_t n_k,
                   int64_t n_padded, bool chains, float *dst) {
    for (int64_t i = 0; i < n; i += TILE_ROWS, dst += n_padded * PANEL_ROWS) {
        int64_t rows = MIN(n - i, (int64_t)TILE_ROWS);
        const char *src = (const char *)(g->a + (row + i) * g->a_row + k * g->a_k);
        if (g->a_row == 1)
            pack_along(K_F32, src, g->a_k, rows, n_k, dst, PANEL_ROWS);
        else if (chains)
            pack_across(K_F32, src, g->a_row, rows, 0, n_k, n_padded, dst, PANEL_ROWS, true);
        else
            pack_across(K_F32, src, g->a_row, rows, 0, n_k, n_padded, dst, PANEL_ROWS, false);
    }
}

/* Totals of a tile += sums times the scales. */
ALWAYS_INLINE void fold(const int rows, const int vectors, vf sum[TILE_ROWS][2],
                        vf total[TILE_ROWS][2], const float *column, const float *row) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
        vf scale = v_load(column + v * VEC);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            vf by = row ? v_mul(scale, v_set(row[i])) : scale;
            total[i][v] = v_fma(by, sum[i][v], total[i][v]);
        }
    }
}

/* Sums of a tile over n_k steps. */
ALWAYS_INLINE void tile_steps(const int rows, const int vectors, int64_t n_k, const float *a,
                              const float *b, vf sum[TILE_ROWS][2]) {
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
}

/* A tile from and to C. last: columns of the last vector; load: else it counts as zero. */
ALWAYS_INLINE void tile_load(const int rows, const int vectors, const float *c, int64_t c_row,
                             int64_t last, bool load, vf ret[TILE_ROWS][2]) {
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            ret[i][v] = !load             ? v_zero()
                        : v < vectors - 1 ? v_load(c + i * c_row + v * VEC)
                                          : v_load_n(c + i * c_row + v * VEC, last);
}

ALWAYS_INLINE void tile_store(const int rows, const int vectors, float *c, int64_t c_row,
                              int64_t last, vf sum[TILE_ROWS][2]) {
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

/* A tile of C with scales: a chain after the other. Between them C is in `total`, not in its rows:
 * these, a power of two apart, would drive each other out of the first-level cache. */
ALWAYS_INLINE void tile_scaled(const int rows, const int vectors, int64_t n_k, const float *a,
                               const float *b, float *c, int64_t c_row, int64_t last, bool load,
                               const struct gemm_scale *s) {
    vf total[TILE_ROWS][2];

    tile_load(rows, vectors, c, c_row, last, load, total);
    for (int64_t k = 0; k < n_k; k += K_BLOCK_CHAIN) {
        vf sum[TILE_ROWS][2];
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++)
            sum[i][0] = sum[i][1] = v_zero();
        tile_steps(rows, vectors, K_BLOCK_CHAIN, a + k * PANEL_ROWS, b + k * TILE_COLUMNS, sum);
        fold(rows, vectors, sum, total, s->column + k / K_BLOCK * PIECE_COLUMNS,
             s->row ? s->row + k / K_BLOCK * s->row_block : NULL);
    }
    tile_store(rows, vectors, c, c_row, last, total);
}

/* One tile of C: rows and vectors are constants where this is called. last: columns of the last
 * vector. load: go on from what is in C. */
ALWAYS_INLINE void tile(const int rows, const int vectors, int64_t n_k, const float *a,
                        const float *b, float *c, int64_t c_row, int64_t last, bool load) {
    vf sum[TILE_ROWS][2];

    tile_load(rows, vectors, c, c_row, last, load, sum);
    tile_steps(rows, vectors, n_k, a, b, sum);
    tile_store(rows, vectors, c, c_row, last, sum);
}

#define TILE(rows)                                                                                 \
    static void tile_##rows(int vectors, int64_t n_k, const float *a, const float *b, float *c,    \
                            int64_t c_row, int64_t last, bool load, const struct gemm_scale *s) {  \
        if (s && vectors == 2)                                                                     \
            tile_scaled(rows, 2, n_k, a, b, c, c_row, last, load, s);                              \
        else if (s)                                                                                \
            tile_scaled(rows, 1, n_k, a, b, c, c_row, last, load, s);                              \
        else if (vectors == 2)                                                                     \
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
                             int64_t c_row, int64_t last, bool load, const struct gemm_scale *s) = {
    NULL,   tile_1, tile_2, tile_3,  tile_4,  tile_5,  tile_6,
#ifdef __AVX512F__
    tile_7, tile_8, tile_9, tile_10, tile_11, tile_12, tile_13, tile_14,
#endif
};

/* A block of packed A times packed B into rows of C from c on. s: NULL without scales. */
static void multiply(int64_t m, int64_t n, int64_t n_k, const float *a, const float *b, float *c,
                     int64_t c_row, bool load, const struct gemm_scale *s) {
    for (int64_t j = 0; j < n; j += TILE_COLUMNS, b += n_k * TILE_COLUMNS) {
        int64_t columns = MIN(n - j, (int64_t)TILE_COLUMNS);
        int vectors = columns > VEC ? 2 : 1;
        const float *panel = a;
        for (int64_t i = 0; i < m; i += TILE_ROWS, panel += n_k * PANEL_ROWS) {
            struct gemm_scale here = {0};
            if (s) {
                here = *s;
                here.column += j;
                here.row = s->row ? s->row + i : NULL;
            }
            tiles[MIN(m - i, (int64_t)TILE_ROWS)](vectors, n_k, panel, b, c + i * c_row + j, c_row,
                                                  columns - (vectors - 1) * VEC, load,
                                                  s ? &here : NULL);
        }
    }
}

/* The scales of a block of B for `column` and so on; behind n they are not used. */
static void gather_scales(const struct gemm *g, int64_t column, int64_t n, int64_t k, int64_t n_k,
                          float *dst) {
    for (int64_t q = 0; q < n_k; q += K_BLOCK, dst += PIECE_COLUMNS)
        for (int64_t j = 0; j < n; j++)
            dst[j] = scale_at(g, column + j, k + q);
}

/* The product of some rows and at most PIECE_COLUMNS columns. work: GEMM_FLOATS floats. */
static void gemm_piece(const struct gemm *g, int64_t row, int64_t m, int64_t column, int64_t n,
                       float *work) {
    float *packed_b = work, *packed_a = work + BLOCK_K * PIECE_COLUMNS;
    float *scales = packed_a + BLOCK_K * 40 * PANEL_ROWS;
    bool chains = g->b_scale && g->b_column != 1;

    if (g->k == 0 && !g->accumulate)
        for (int64_t i = row; i < row + m; i++)
            memset(g->c + i * g->c_row + column, 0, (size_t)n * sizeof(float));
    for (int64_t k = 0; k < g->k; k += BLOCK_K) {
        int64_t n_k = MIN(g->k - k, (int64_t)BLOCK_K);
        int64_t n_padded = chains ? (n_k + K_BLOCK - 1) / K_BLOCK * K_BLOCK : n_k;
        pack_b(g, column, n, k, n_k, n_padded, packed_b);
        if (chains)
            gather_scales(g, column, n, k, n_k, scales);
        for (int64_t i = 0; i < m; i += BLOCK_ROWS) {
            int64_t rows = MIN(m - i, (int64_t)BLOCK_ROWS);
            const float *a_scale =
                g->a_scale ? g->a_scale + k / K_BLOCK * g->a_scale_block + row + i : NULL;
            struct gemm_scale s = {scales, a_scale, g->a_scale_block};
            pack_a(g, row + i, rows, k, n_k, n_padded, chains, packed_a);
            multiply(rows, n, n_padded, packed_a, packed_b, g->c + (row + i) * g->c_row + column,
                     g->c_row, g->accumulate || k > 0, chains ? &s : NULL);
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
