/* few_body.h - products of few rows with weights in float formats: read once, nothing packed.
 *
 * VEC outputs go together: a register of each one's row is loaded, the block is transposed in
 * registers, so that a vector holds the same inputs of all outputs, and widened. The sums are those
 * of gemm_body.h: a chain over ascending inputs for each output, in E4M3 and E5M2 four chains a
 * block of 128 (see K_BLOCK_CHAINS), so their bits are the same as among many rows.
 */
#pragma once
#include "kernels/cpu/gemm_body.h"

enum {
    FEW_ROWS = 8,
    FEW_AHEAD = 512, // bytes of a row that are asked for ahead
};

/* Rows of x lie in blocks of 128 inputs, [n_blocks, n_rows, 128], zero behind the last input; for
 * 8-bit floats every four inputs are in the order 0 2 1 3. */
struct few {
    int64_t n_in, n_rows;
    const char *data; // of the first output; rows packed
    int64_t n_out;
    const float *x;
    const float *scale;   // 8-bit floats: of the whole part
    int64_t first_row;    // of data in what scale belongs to
    const float *x_scale; // of the first row, NULL: 1
    int64_t x_scale_block;
    float *y;
    int64_t y_row;
    bool accumulate;
};

static size_t few_floats(int64_t n_in) {
    return (size_t)((n_in + K_BLOCK - 1) / K_BLOCK * K_BLOCK);
}

/* One row into its place among n_rows. */
static void few_pack(const float *x, int64_t n_in, bool narrow, int64_t row, int64_t n_rows,
                     float *dst) {
    for (int64_t k = 0; k < n_in; k += K_BLOCK) {
        int64_t n = MIN(n_in - k, (int64_t)K_BLOCK);
        float *block = dst + (k / K_BLOCK * n_rows + row) * K_BLOCK;
        if (n < K_BLOCK)
            memset(block, 0, K_BLOCK * sizeof *block);
        memcpy(block, x + k, (size_t)n * sizeof *block);
        for (int i = 0; narrow && i < K_BLOCK; i += 4) {
            float one = block[i + 1];
            block[i + 1] = block[i + 2];
            block[i + 2] = one;
        }
    }
}

/* Where the rows of a panel begin; behind the last output its row is read again. */
ALWAYS_INLINE void few_rows_of(const struct few *f, int64_t output, int64_t row_bytes,
                               const char *at[VEC]) {
    for (int i = 0; i < VEC; i++)
        at[i] = f->data + MIN(output + i, f->n_out - 1) * row_bytes;
}

/* A register of every row, transposed: column i holds four bytes of each row. Of 8-bit floats there
 * are the even bytes and the odd ones as float16, each as v_transpose_halves has them. */
struct few_chunk {
    vi column[2][VEC];
};

enum {
    FEW_CHUNK = VEC * 4, // bytes of a row
};

/* Add up the float16 of a column of 8-bit floats: two sums of every row, from sum[r][at] on. */
ALWAYS_INLINE void few_words(const int rows, const vi words[VEC], const int column, const float *x,
                             vf sum[FEW_ROWS][4], const int at) {
    vf low = v_from_f16((const char *)words + v_half_at(column, 0));
    vf high = v_from_f16((const char *)words + v_half_at(column, 1));

#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        vf pair = v_set_pair(x + r * K_BLOCK);
        sum[r][at] = v_fma(pair, low, sum[r][at]);
        sum[r][at + 1] = v_fma(pair, high, sum[r][at + 1]);
    }
}

/* Sums of the columns of a chunk from first on; x is of the chunk. */
ALWAYS_INLINE void few_sums(const enum k_dtype type, const int rows, const struct few_chunk *c,
                            int first, int n, const float *x, vf sum[FEW_ROWS][4]) {
    const int size = type_bytes(type);

#pragma GCC unroll 2
    for (int i = first; i < first + n; i++) {
        if (size == 1) {
            few_words(rows, c->column[0], i, x + i * 4, sum, 0);
            few_words(rows, c->column[1], i, x + i * 4 + 2, sum, 2);
            continue;
        }
        vf low = wide_low(type, c->column[0][i]);
        vf high = size == 2 ? wide_high(type, c->column[0][i]) : low;
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const float *at_x = x + r * K_BLOCK + i * (4 / size);
            sum[r][0] = v_fma(v_set(at_x[0]), low, sum[r][0]);
            if (size == 2)
                sum[r][0] = v_fma(v_set(at_x[1]), high, sum[r][0]);
        }
    }
}

/* Quarter q of the columns. */
ALWAYS_INLINE void few_keep(const enum k_dtype type, struct few_chunk *c, int q, const vi u[VEC]) {
    vi columns[VEC / 4];

    if (type_bytes(type) == 1)
        v_transpose_halves(u, q, columns);
    else
        v_transpose_quarter(u, q, columns);
#pragma GCC unroll 4
    for (int i = 0; i < VEC / 4; i++) {
        if (type_bytes(type) > 1) {
            v_store_bits(&c->column[0][4 * i + q], columns[i]);
            continue;
        }
        int at = v_half_place(q, i);
        v_store_bits(&c->column[0][at], float8_even_words(type, columns[i]));
        v_store_bits(&c->column[1][at], float8_odd_words(type, columns[i]));
    }
}

/* Load the chunk at `offset` of the rows, and meanwhile (NULL: there is none) add up `before`, so
 * that shuffles and sums are under way together. Ask for what lies further on in this panel's rows,
 * or at their end in the next one's. left: bytes of the chunk that are there. */
ALWAYS_INLINE void few_chunk(const enum k_dtype type, const int rows, const char *const at[VEC],
                             int64_t offset, int64_t left, int64_t row_bytes, struct few_chunk *c,
                             const struct few_chunk *before, const float *x, vf sum[FEW_ROWS][4],
                             vi *seen) {
    int64_t ahead = offset + FEW_AHEAD;
    vi u[VEC];

    if (ahead >= row_bytes)
        ahead += (VEC - 1) * row_bytes;
#pragma GCC unroll 4
    for (int i = 0; i < VEC; i += 4) {
        vi r[4];
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) {
            _mm_prefetch(at[i + q] + ahead, _MM_HINT_T0);
            if (left >= FEW_CHUNK) {
                r[q] = v_load_bits(at[i + q] + offset);
            } else {
                char part[FEW_CHUNK] = {0};
                memcpy(part, at[i + q] + offset, (size_t)left);
                r[q] = v_load_bits(part);
            }
            if (type == K_E4M3)
                *seen = float8_see_nan(*seen, r[q]);
        }
        v_transpose_four(r, u + i);
        if (before)
            few_sums(type, rows, before, i / 2, 2, x, sum);
    }
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
        few_keep(type, c, q, u);
        if (before)
            few_sums(type, rows, before, VEC / 2 + q * (VEC / 8), VEC / 8, x, sum);
    }
}

/* The x of input k. */
ALWAYS_INLINE const float *few_x(const struct few *f, const int rows, int64_t k) {
    return f->x + k / K_BLOCK * rows * K_BLOCK + k % K_BLOCK;
}

/* The inputs behind the last whole chunk. */
ALWAYS_INLINE void few_rest(const enum k_dtype type, const int rows, const struct few *f,
                            const char *const at[VEC], int64_t k, vf sum[FEW_ROWS][4]) {
    const int size = type_bytes(type);
    const float *x = few_x(f, rows, k);
    struct few_chunk c;

    few_chunk(type, rows, at, k * size, (f->n_in - k) * size, f->n_in * size, &c, NULL, NULL, sum,
              NULL);
    for (int i = 0; i < f->n_in - k; i++) {
        vi bits = c.column[0][i * size / 4];
        vf w = i * size % 4 ? wide_high(type, bits) : wide_low(type, bits);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            sum[r][0] = v_fma(v_set(x[r * K_BLOCK + i]), w, sum[r][0]);
    }
}

/* One panel of float32, bf16 or float16. */
ALWAYS_INLINE void few_plain(const enum k_dtype type, const int rows, const struct few *f,
                             int64_t output) {
    const int size = type_bytes(type), per = FEW_CHUNK / size;
    int64_t row_bytes = f->n_in * size, last = MIN(f->n_out - output, (int64_t)VEC), k = 0;
    const char *at[VEC];
    struct few_chunk chunks[2];
    vf sum[FEW_ROWS][4];

    few_rows_of(f, output, row_bytes, at);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sum[r][0] = f->accumulate ? v_load_n(f->y + r * f->y_row + output, last) : v_zero();
    if (f->n_in >= per)
        few_chunk(type, rows, at, 0, FEW_CHUNK, row_bytes, &chunks[0], NULL, NULL, sum, NULL);
    for (; k + 2 * per <= f->n_in; k += per)
        few_chunk(type, rows, at, (k + per) * size, FEW_CHUNK, row_bytes,
                  &chunks[(k / per + 1) & 1], &chunks[k / per & 1], few_x(f, rows, k), sum, NULL);
    if (k + per <= f->n_in) {
        few_sums(type, rows, &chunks[k / per & 1], 0, VEC, few_x(f, rows, k), sum);
        k += per;
    }
    if (k < f->n_in)
        few_rest(type, rows, f, at, k, sum);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        v_store_n(f->y + r * f->y_row + output, sum[r][0], last);
}

/* The scales of VEC outputs at a block of inputs: at most two blocks of outputs meet in them. */
ALWAYS_INLINE vf few_scales(const enum k_dtype type, const struct few *f, int64_t output,
                            int64_t block) {
    int64_t row = f->first_row + output, n_blocks = (f->n_in + K_BLOCK - 1) / K_BLOCK;
    int64_t end = f->first_row + MIN(output + VEC, f->n_out) - 1;
    const float *scale = f->scale + row / K_BLOCK * n_blocks + block;
    float lanes[VEC];

    if (row / K_BLOCK == end / K_BLOCK)
        return v_set(scale[0] * FLOAT8_UP(type));
    for (int64_t i = 0; i < VEC; i++)
        lanes[i] = scale[(row + i) / K_BLOCK == row / K_BLOCK ? 0 : n_blocks] * FLOAT8_UP(type);
    return v_load(lanes);
}

/* NaN where a row of the panel holds one. */
static void few_mark_nan(const struct few *f, const char *const at[VEC], int rows, int64_t output) {
    for (int64_t i = 0; i < MIN(f->n_out - output, (int64_t)VEC); i++)
        for (int64_t k = 0; k < f->n_in; k++)
            if ((at[i][k] & 0x7f) == 0x7f)
                for (int r = 0; r < rows; r++)
                    f->y[r * f->y_row + output + i] = k_from_e4m3(0x7f);
}

/* totals += two chains of a block times its scales: pairs of lanes of sum[r][at] and sum[r][at +
 * 1], the lower and the upper outputs. */
ALWAYS_INLINE void few_fold(const enum k_dtype type, const int rows, const struct few *f,
                            int64_t output, int64_t block, vf sum[FEW_ROWS][4], const int at,
                            vf total[FEW_ROWS]) {
    vf scale = few_scales(type, f, output, block);

#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        vf by = scale;
        if (f->x_scale)
            by = v_mul(by, v_set(f->x_scale[block * f->x_scale_block + r]));
        total[r] = v_fma(by, v_evens(sum[r][at], sum[r][at + 1]), total[r]);
        total[r] = v_fma(by, v_odds(sum[r][at], sum[r][at + 1]), total[r]);
        sum[r][at] = sum[r][at + 1] = v_zero();
    }
}

/* The blocks of a panel of E4M3 or E5M2 for many rows: a block is transposed whole, and its even
 * bytes are added up before the odd ones, so that the sums stay in registers. */
ALWAYS_INLINE void few_blocks(const enum k_dtype type, const int rows, const struct few *f,
                              int64_t output, const char *const at[VEC], vf total[FEW_ROWS],
                              vi *seen) {
    struct few_chunk chunks[K_BLOCK / FEW_CHUNK];
    vf sum[FEW_ROWS][4];

#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sum[r][0] = sum[r][1] = v_zero();
    for (int64_t k = 0; k < f->n_in; k += K_BLOCK) {
        const float *x = few_x(f, rows, k);
        int64_t n = MIN((f->n_in - k + FEW_CHUNK - 1) / FEW_CHUNK, (int64_t)ARRAY_SIZE(chunks));
        for (int64_t c = 0; c < n; c++)
            few_chunk(type, rows, at, k + c * FEW_CHUNK, f->n_in - k - c * FEW_CHUNK, f->n_in,
                      &chunks[c], NULL, NULL, sum, seen);
        for (int h = 0; h < 2; h++) {
            for (int64_t c = 0; c < n; c++)
#pragma GCC unroll 16
                for (int i = 0; i < VEC; i++)
                    few_words(rows, chunks[c].column[h], i, x + c * FEW_CHUNK + i * 4 + h * 2, sum,
                              0);
            few_fold(type, rows, f, output, k / K_BLOCK, sum, 0, total);
        }
    }
}

/* The same for few: one chunk is transposed while the one before is added up. */
ALWAYS_INLINE void few_stream(const enum k_dtype type, const int rows, const struct few *f,
                              int64_t output, const char *const at[VEC], vf total[FEW_ROWS],
                              vi *seen) {
    struct few_chunk chunks[2];
    vf sum[FEW_ROWS][4];
    int64_t k = 0;

#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sum[r][0] = sum[r][1] = sum[r][2] = sum[r][3] = v_zero();
    few_chunk(type, rows, at, 0, f->n_in, f->n_in, &chunks[0], NULL, NULL, sum, seen);
    for (; k + 2 * FEW_CHUNK <= f->n_in; k += FEW_CHUNK) {
        few_chunk(type, rows, at, k + FEW_CHUNK, FEW_CHUNK, f->n_in,
                  &chunks[(k / FEW_CHUNK + 1) & 1], &chunks[k / FEW_CHUNK & 1], few_x(f, rows, k),
                  sum, seen);
        if ((k + FEW_CHUNK) % K_BLOCK)
            continue;
        few_fold(type, rows, f, output, k / K_BLOCK, sum, 0, total);
        few_fold(type, rows, f, output, k / K_BLOCK, sum, 2, total);
    }
    if (k + FEW_CHUNK < f->n_in) { /* a last one that is short */
        few_sums(type, rows, &chunks[k / FEW_CHUNK & 1], 0, VEC, few_x(f, rows, k), sum);
        if ((k + FEW_CHUNK) % K_BLOCK == 0) {
            few_fold(type, rows, f, output, k / K_BLOCK, sum, 0, total);
            few_fold(type, rows, f, output, k / K_BLOCK, sum, 2, total);
        }
        k += FEW_CHUNK;
        few_chunk(type, rows, at, k, f->n_in - k, f->n_in, &chunks[k / FEW_CHUNK & 1], NULL, NULL,
                  sum, seen);
    }
    few_sums(type, rows, &chunks[k / FEW_CHUNK & 1], 0, VEC, few_x(f, rows, k), sum);
    few_fold(type, rows, f, output, k / K_BLOCK, sum, 0, total);
    few_fold(type, rows, f, output, k / K_BLOCK, sum, 2, total);
}

/* One panel of E4M3 or E5M2. */
ALWAYS_INLINE void few_narrow(const enum k_dtype type, const int rows, const struct few *f,
                              int64_t output) {
    int64_t last = MIN(f->n_out - output, (int64_t)VEC);
    const char *at[VEC];
    vf total[FEW_ROWS];
    vi seen = v_set_dwords(0);

    few_rows_of(f, output, f->n_in, at);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        total[r] = f->accumulate ? v_load_n(f->y + r * f->y_row + output, last) : v_zero();
    if (rows > 4)
        few_blocks(type, rows, f, output, at, total, &seen);
    else
        few_stream(type, rows, f, output, at, total, &seen);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        v_store_n(f->y + r * f->y_row + output, total[r], last);
    if (type == K_E4M3 && float8_any_nan(seen))
        few_mark_nan(f, at, rows, output);
}

#define FEW(name, rows, panel)                                                                     \
    static void few_##name##_##rows(const struct few *f) {                                         \
        for (int64_t output = 0; output < f->n_out; output += VEC)                                 \
            panel(K_##name, rows, f, output);                                                      \
    }
#define FEW_TYPE(name, panel)                                                                      \
    FEW(name, 1, panel)                                                                            \
    FEW(name, 2, panel)                                                                            \
    FEW(name, 3, panel)                                                                            \
    FEW(name, 4, panel)                                                                            \
    FEW(name, 5, panel)                                                                            \
    FEW(name, 6, panel)                                                                            \
    FEW(name, 7, panel)                                                                            \
    FEW(name, 8, panel)
FEW_TYPE(F32, few_plain)
FEW_TYPE(BF16, few_plain)
FEW_TYPE(F16, few_plain)
FEW_TYPE(E4M3, few_narrow)
FEW_TYPE(E5M2, few_narrow)

#define FEW_LIST(name)                                                                             \
    [K_##name] = {few_##name##_1, few_##name##_2, few_##name##_3, few_##name##_4,                  \
                  few_##name##_5, few_##name##_6, few_##name##_7, few_##name##_8}
static void (*const few[K_DTYPE_COUNT][FEW_ROWS])(const struct few *f) = {
    FEW_LIST(F32), FEW_LIST(BF16), FEW_LIST(F16), FEW_LIST(E4M3), FEW_LIST(E5M2),
};

/* dx = dy w: the same across, a chain over ascending outputs for each input, weights times their
 * scales first. */
struct across {
    int64_t n_in, n_out;
    const char *data;
    const float *scale;
    int64_t first_row;
    const float *dy;
    int64_t dy_row;
    float *dx;
    int64_t dx_row;
    bool accumulate;
};

ALWAYS_INLINE vf load_of(const enum k_dtype type, const char *p, int64_t n) {
    __m256 low = n >= 8 ? load_8(type, p) : load_8_of(type, p, n);
#ifdef __AVX512F__
    const char *behind = p + 8 * type_bytes(type);
    __m256 high = n >= VEC ? load_8(type, behind) : load_8_of(type, behind, n - 8);
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#else
    return low;
#endif
}

ALWAYS_INLINE void across_columns(const enum k_dtype type, const int rows, const int vectors,
                                  const struct across *a, int64_t column) {
    int64_t n_blocks = (a->n_in + K_BLOCK - 1) / K_BLOCK, size = type_bytes(type);
    vf sum[FEW_ROWS][4];

#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            int64_t n = MIN(MAX(a->n_in - column - v * VEC, (int64_t)0), (int64_t)VEC);
            sum[r][v] =
                a->accumulate ? v_load_n(a->dx + r * a->dx_row + column + v * VEC, n) : v_zero();
        }
    for (int64_t o = 0; o < a->n_out; o++) {
        const char *w = a->data + (o * a->n_in + column) * size;
        vf wide[4];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            wide[v] = load_of(type, w + v * VEC * size, a->n_in - column - v * VEC);
            if (type == K_E4M3 || type == K_E5M2)
                wide[v] = v_mul(wide[v], v_set(a->scale[(a->first_row + o) / K_BLOCK * n_blocks +
                                                        (column + v * VEC) / K_BLOCK] *
                                               FLOAT8_UP(type)));
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[r][v] = v_fma(v_set(a->dy[r * a->dy_row + o]), wide[v], sum[r][v]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            int64_t n = MIN(MAX(a->n_in - column - v * VEC, (int64_t)0), (int64_t)VEC);
            v_store_n(a->dx + r * a->dx_row + column + v * VEC, sum[r][v], n);
        }
}

#define ACROSS(name, rows, vectors)                                                                \
    static void across_##name##_##rows(const struct across *a, int64_t column, int64_t n) {        \
        int64_t j = column;                                                                        \
        for (; j + vectors * VEC <= column + n; j += vectors * VEC)                                \
            across_columns(K_##name, rows, vectors, a, j);                                         \
        for (; j < column + n; j += VEC)                                                           \
            across_columns(K_##name, rows, 1, a, j);                                               \
    }
#define ACROSS_TYPE(name)                                                                          \
    ACROSS(name, 1, 4)                                                                             \
    ACROSS(name, 2, 4)                                                                             \
    ACROSS(name, 4, 4)                                                                             \
    ACROSS(name, 8, 2)
ACROSS_TYPE(F32)
ACROSS_TYPE(BF16)
ACROSS_TYPE(F16)
ACROSS_TYPE(E4M3)
ACROSS_TYPE(E5M2)

#define ACROSS_LIST(name)                                                                          \
    [K_##name] = {across_##name##_1, across_##name##_2, across_##name##_4, across_##name##_8}
static void (*const across[K_DTYPE_COUNT][4])(const struct across *a, int64_t column, int64_t n) = {
    ACROSS_LIST(F32), ACROSS_LIST(BF16), ACROSS_LIST(F16), ACROSS_LIST(E4M3), ACROSS_LIST(E5M2),
};

/* Some inputs, from a multiple of VEC on, of at most FEW_ROWS rows: by 8, 4, 2, 1 rows. */
static void across_rows(enum k_dtype type, const struct across *a, int64_t n_rows, int64_t column,
                        int64_t n) {
    struct across here = *a;

    for (int shift = 3; shift >= 0; shift--)
        for (; n_rows >= 1 << shift; n_rows -= 1 << shift) {
            across[type][shift](&here, column, n);
            here.dy += a->dy_row << shift;
            here.dx += a->dx_row << shift;
        }
}
