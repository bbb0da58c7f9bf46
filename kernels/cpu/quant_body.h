/* quant_body.h - products with weights of 8 and 4 bits in whole numbers.
 *
 * Rows of x are rounded once (the rule of k_quant_row) into blocks of QUANT_ROWS. A group of 32
 * inputs is a sum of products of 8 bits, exact in 32, taken over the bytes as they lie and
 * corrected by their middle times the sum of x; then acc = fma(float(sum), x_scale * w_scale, acc),
 * groups ascending. Whole numbers have no order, so the bits are the same whichever instructions
 * are used: those of AVX512-VNNI where the processor has them, else 16-bit products of AVX2.
 */
#pragma once
#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"
#include "kernels/quant.h"

enum {
    QUANT_ROWS = 8, // of x in a block
    QUANT_CODES = QUANT_ROWS * K_QUANT_GROUP,
    QUANT_SPAN = 8,     // groups of unpacked weights that are used again and again
    QUANT_PANELS = 3,   // and panels
    QUANT_AHEAD = 4096, // bytes of weights that are asked for ahead
    QUANT_PANEL_GROUP = K_QUANT_PANEL * K_QUANT_GROUP,
    QUANT_WORK = QUANT_PANELS * QUANT_SPAN * QUANT_PANEL_GROUP,
};

/* A group of a block of rows. With 16-bit products the codes of every four inputs lie as 0 2 and
 * 1 3, and in 16 bits for Q8. */
struct quant_group {
    int8_t codes[QUANT_CODES];
    float scale[QUANT_ROWS];
    int32_t middle[QUANT_ROWS]; // -128 or -8 times the sum of the codes
};

struct quant_group_16 {
    int16_t codes[QUANT_CODES];
    float scale[QUANT_ROWS];
    int32_t middle[QUANT_ROWS];
};

/* Rows of x and outputs of one part. */
struct quant {
    int64_t n_groups; // n_in / 32
    int64_t n_rows;   // of the first block on
    const char *x;    // blocks [n_groups] of quant_group
    const char *data; // of the first panel
    const uint16_t *scale;
    int64_t n_out;
    float *y;
    int64_t y_row;
    bool accumulate;
};

ALWAYS_INLINE bool quant_vnni(void) {
#ifdef __AVX512F__
    return __builtin_cpu_supports("avx512vnni") != 0;
#else
    return false;
#endif
}

static size_t quant_group_bytes(enum k_dtype dtype) {
    return !quant_vnni() && dtype == K_Q8 ? sizeof(struct quant_group_16)
                                          : sizeof(struct quant_group);
}

/* k_quant_row for one group; returns the sum of the codes. */
ALWAYS_INLINE int32_t quant_row_32(const float *x, int8_t codes[K_QUANT_GROUP], float *ret_scale) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i largest = _mm256_setzero_si256(), q[4];

    for (int i = 0; i < 4; i++)
        largest = _mm256_max_epi32(
            largest, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + 8 * i)), magnitude));
    __m128i most =
        _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1));
    float scale, inverse = k_quant_scale(_mm_cvtss_f32(_mm_castsi128_ps(most)), &scale);
    for (int i = 0; i < 4; i++)
        q[i] = inverse == 0 ? _mm256_setzero_si256()
                            : _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i),
                                                               _mm256_set1_ps(inverse)));
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)codes, bytes);
    *ret_scale = scale;
    __m256i upward = _mm256_xor_si256(bytes, _mm256_set1_epi8((char)0x80)); /* code + 128 */
    __m256i sums = _mm256_sad_epu8(upward, _mm256_setzero_si256());
    __m128i two = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 2) - 128 * K_QUANT_GROUP;
}

/* Round one row into its place in a block whose first group is at dst. */
static void quant_pack(enum k_dtype dtype, const float *x, int64_t n_groups, int64_t row,
                       char *dst) {
    bool wide = !quant_vnni() && dtype == K_Q8;
    size_t size = quant_group_bytes(dtype);

    for (int64_t g = 0; g < n_groups; g++, dst += size) {
        struct quant_group *group = (void *)dst;
        struct quant_group_16 *group_16 = (void *)dst;
        int8_t codes[K_QUANT_GROUP];
        float scale;
        int32_t sum = quant_row_32(x + g * K_QUANT_GROUP, codes, &scale);
        sum *= dtype == K_Q8 ? -128 : -8;
        if (wide) {
            int16_t *to = group_16->codes + row * K_QUANT_GROUP;
            for (int i = 0; i < K_QUANT_GROUP; i++)
                to[i] = codes[(i & ~3) | (i & 1) << 1 | (i >> 1 & 1)];
            group_16->scale[row] = scale;
            group_16->middle[row] = sum;
        } else {
            memcpy(group->codes + row * K_QUANT_GROUP, codes, sizeof codes);
            group->scale[row] = scale;
            group->middle[row] = sum;
        }
    }
}

/* Some rows of a block times some panels over some groups. */
struct quant_tile {
    const char *codes;   // of the first row in the first group
    const char *numbers; // its scale; the middle is QUANT_ROWS numbers further on
    const char *w;
    int64_t w_panel; // bytes from panel to panel
    const uint16_t *scale;
    int64_t scale_panel;
    int64_t n_groups;
    float *y;
    int64_t y_row;
    int64_t last; // outputs of the last panel
    bool load;    // go on from y
};

/* Some panels of a part over some groups, rows left out. */
static struct quant_tile quant_tile_of(enum k_dtype dtype, const struct quant *q, int64_t output,
                                       int n_panels, int64_t group, int64_t n) {
    int64_t group_bytes = QUANT_PANEL_GROUP / (dtype == K_Q4 ? 2 : 1);
    int64_t first = output / K_QUANT_PANEL * q->n_groups + group;

    return (struct quant_tile){
        .w = q->data + first * group_bytes,
        .w_panel = q->n_groups * group_bytes,
        .scale = q->scale + first * K_QUANT_PANEL,
        .scale_panel = q->n_groups * K_QUANT_PANEL,
        .n_groups = n,
        .y_row = q->y_row,
        .last = MIN(q->n_out - output - (n_panels - 1) * K_QUANT_PANEL, (int64_t)K_QUANT_PANEL),
        .load = q->accumulate || group > 0};
}

/* Rows from `row` on of a block. */
static void quant_tile_rows(enum k_dtype dtype, const struct quant *q, struct quant_tile *t,
                            int64_t output, int64_t group, int64_t row) {
    int64_t size = (int64_t)quant_group_bytes(dtype), numbers = size - 2 * QUANT_ROWS * 4;
    const char *at = q->x + (row / QUANT_ROWS * q->n_groups + group) * size;

    t->codes = at + row % QUANT_ROWS * (numbers / QUANT_ROWS);
    t->numbers = at + numbers + row % QUANT_ROWS * 4;
    t->y = q->y + row * q->y_row + output;
}

#ifdef __AVX512F__
#define TARGET_VNNI __attribute__((target("avx512vnni")))

/* Four inputs of every row times those of 16 outputs. */
TARGET_VNNI ALWAYS_INLINE void vnni_step(const int rows, const int panels, const char *codes,
                                         const __m512i w[QUANT_PANELS],
                                         __m512i sum[QUANT_ROWS][QUANT_PANELS]) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        int32_t four;
        memcpy(&four, codes + r * K_QUANT_GROUP, sizeof four);
#pragma GCC unroll 3
        for (int p = 0; p < panels; p++)
            sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], w[p], _mm512_set1_epi32(four));
    }
}

/* One group. half_bytes: Q4 as it lies. */
TARGET_VNNI ALWAYS_INLINE void vnni_group(const bool half_bytes, const int rows, const int panels,
                                          const char *codes, const char *at, int64_t w_panel,
                                          __m512i sum[QUANT_ROWS][QUANT_PANELS]) {
    const __m512i low = _mm512_set1_epi8(15);
    const int n_vectors = half_bytes ? 4 : 8;

#pragma GCC unroll 8
    for (int i = 0; i < n_vectors; i++) {
        __m512i w[QUANT_PANELS], high[QUANT_PANELS];
#pragma GCC unroll 3
        for (int p = 0; p < panels; p++) {
            w[p] = _mm512_loadu_si512(at + p * w_panel + 64 * i);
            high[p] = _mm512_and_si512(_mm512_srli_epi16(w[p], 4), low);
            if (half_bytes)
                w[p] = _mm512_and_si512(w[p], low);
        }
        vnni_step(rows, panels, codes + 4 * i, w, sum);
        if (half_bytes)
            vnni_step(rows, panels, codes + 16 + 4 * i, high, sum);
    }
}

TARGET_VNNI ALWAYS_INLINE void vnni_tile(const bool half_bytes, const int rows, const int panels,
                                         const struct quant_tile *t) {
    const int group_bytes = K_QUANT_PANEL * K_QUANT_GROUP / (half_bytes ? 2 : 1);
    const char *w = t->w, *codes = t->codes, *numbers = t->numbers;
    const uint16_t *scale = t->scale;
    vf acc[QUANT_ROWS][QUANT_PANELS];

#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int p = 0; p < panels; p++)
            acc[r][p] =
                !t->load ? v_zero()
                         : v_load_n(t->y + r * t->y_row + p * VEC, p < panels - 1 ? VEC : t->last);
    for (int64_t g = 0; g < t->n_groups; g++) {
        const float *x_scale = (const void *)numbers;
        const int32_t *middle = (const int32_t *)(const void *)numbers + QUANT_ROWS;
        __m512i sum[QUANT_ROWS][QUANT_PANELS];
        if (panels == 1) { /* else they are in the cache */
#pragma GCC unroll 8
            for (int i = 0; i < group_bytes; i += 64)
                _mm_prefetch(w + QUANT_AHEAD + i, _MM_HINT_T0);
            _mm_prefetch(scale + QUANT_AHEAD / 16, _MM_HINT_T0);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
            for (int p = 0; p < panels; p++)
                sum[r][p] = _mm512_set1_epi32(middle[r]);
        vnni_group(half_bytes, rows, panels, codes, w, t->w_panel, sum);
#pragma GCC unroll 3
        for (int p = 0; p < panels; p++) {
            vf by = v_from_f16(scale + p * t->scale_panel);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                acc[r][p] =
                    v_fma(_mm512_cvtepi32_ps(sum[r][p]), v_mul(by, v_set(x_scale[r])), acc[r][p]);
        }
        w += group_bytes;
        codes += sizeof(struct quant_group);
        numbers += sizeof(struct quant_group);
        scale += K_QUANT_PANEL;
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int p = 0; p < panels; p++)
            v_store_n(t->y + r * t->y_row + p * VEC, acc[r][p], p < panels - 1 ? VEC : t->last);
}

#define VNNI(rows)                                                                                 \
    TARGET_VNNI static void vnni_##rows##_half(const struct quant_tile *t) {                       \
        vnni_tile(true, rows, 1, t);                                                               \
    }                                                                                              \
    TARGET_VNNI static void vnni_##rows(const struct quant_tile *t) {                              \
        vnni_tile(false, rows, 1, t);                                                              \
    }
#define VNNI_WIDE(rows)                                                                            \
    TARGET_VNNI static void vnni_##rows##_2(const struct quant_tile *t) {                          \
        vnni_tile(false, rows, 2, t);                                                              \
    }                                                                                              \
    TARGET_VNNI static void vnni_##rows##_3(const struct quant_tile *t) {                          \
        vnni_tile(false, rows, 3, t);                                                              \
    }
VNNI(1)
VNNI(2)
VNNI(3)
VNNI(4)
VNNI(5)
VNNI(6)
VNNI(7)
VNNI(8)
VNNI_WIDE(1)
VNNI_WIDE(2)
VNNI_WIDE(3)
VNNI_WIDE(4)

/* By half bytes and rows; by panels and rows. */
static void (*const vnni_few[2][QUANT_ROWS])(const struct quant_tile *t) = {
    {vnni_1,      vnni_2,      vnni_3,      vnni_4,      vnni_5,      vnni_6,      vnni_7,      vnni_8},
    {vnni_1_half, vnni_2_half, vnni_3_half, vnni_4_half, vnni_5_half, vnni_6_half, vnni_7_half,
     vnni_8_half                                                                                      },
};
static void (*const vnni_many[QUANT_PANELS][4])(const struct quant_tile *t) = {
    {vnni_1,   vnni_2,   vnni_3,   vnni_4  },
    {vnni_1_2, vnni_2_2, vnni_3_2, vnni_4_2},
    {vnni_1_3, vnni_2_3, vnni_3_3, vnni_4_3},
};

/* Codes of 4 bits to bytes, as Q8 lies. */
static void unpack_halves(const char *src, int64_t n_groups, char *dst) {
    const __m512i low = _mm512_set1_epi8(15);

    for (int64_t i = 0; i < n_groups * 4; i++) {
        __m512i both = _mm512_loadu_si512(src + 64 * i);
        char *to = dst + i / 4 * 512 + i % 4 * 64;
        _mm512_storeu_si512(to, _mm512_and_si512(both, low));
        _mm512_storeu_si512(to + 256, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
    }
}

/* Some panels over a span of groups times all rows. work: QUANT_WORK bytes. */
static void vnni_span(enum k_dtype dtype, const struct quant *q, int64_t output, int n_panels,
                      int64_t group, int64_t n, char *work) {
    struct quant_tile t = quant_tile_of(dtype, q, output, n_panels, group, n);

    if (dtype == K_Q4) {
        for (int p = 0; p < n_panels; p++)
            unpack_halves(t.w + p * t.w_panel, n, work + p * n * QUANT_PANEL_GROUP);
        t.w = work;
        t.w_panel = n * QUANT_PANEL_GROUP;
    }
    for (int64_t r = 0; r < q->n_rows; r += 4) {
        quant_tile_rows(dtype, q, &t, output, group, r);
        vnni_many[n_panels - 1][MIN(q->n_rows - r, (int64_t)4) - 1](&t);
    }
}
#endif

/* The sum of a group for 8 outputs and some rows, 16-bit products; w: their first 32 bytes. */
ALWAYS_INLINE void wide_group(const bool half_bytes, const int rows, const char *codes,
                              const char *w, __m256i sum[4]) {
    const __m256i low = _mm256_set1_epi8(15), bytes = _mm256_set1_epi16(255);
    const int n_vectors = half_bytes ? 4 : 8;
    __m256i part[4];

#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
        part[r] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < n_vectors; i++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(w + 64 * i));
        __m256i high = _mm256_srli_epi16(v, half_bytes ? 4 : 8);
        v = _mm256_and_si256(v, half_bytes ? low : bytes);
        high = half_bytes ? _mm256_and_si256(high, low) : high;
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            int32_t one, other;
            const char *x = codes + r * K_QUANT_GROUP * (half_bytes ? 1 : 2);
            memcpy(&one, x + (half_bytes ? 4 : 8) * i, sizeof one);
            memcpy(&other, x + (half_bytes ? 16 + 4 * i : 8 * i + 4), sizeof other);
            __m256i a = _mm256_set1_epi32(one), b = _mm256_set1_epi32(other);
            if (half_bytes) /* 8 of at most 2 * 15 * 127 fit into 16 bits */
                part[r] =
                    _mm256_add_epi16(part[r], _mm256_add_epi16(_mm256_maddubs_epi16(v, a),
                                                               _mm256_maddubs_epi16(high, b)));
            else
                sum[r] = _mm256_add_epi32(
                    sum[r], _mm256_add_epi32(_mm256_madd_epi16(v, a), _mm256_madd_epi16(high, b)));
        }
    }
    for (int r = 0; r < rows && half_bytes; r++)
        sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(part[r], _mm256_set1_epi16(1)));
}

/* Half a panel times some rows of a block over all groups of the tile. */
ALWAYS_INLINE void wide_tile(const bool half_bytes, const int rows, const struct quant_tile *t,
                             int half) {
    const int group_bytes = QUANT_PANEL_GROUP / (half_bytes ? 2 : 1);
    const char *w = t->w + 32 * half, *codes = t->codes, *numbers = t->numbers;
    const uint16_t *scale = t->scale + 8 * half;
    int64_t last = MIN(t->last - 8 * half, (int64_t)8);
    __m256i mask =
        _mm256_cmpgt_epi32(_mm256_set1_epi32((int)last), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    float *y = t->y + 8 * half;
    __m256 acc[4];

    if (last <= 0)
        return;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
        acc[r] = t->load ? _mm256_maskload_ps(y + r * t->y_row, mask) : _mm256_setzero_ps();
    for (int64_t g = 0; g < t->n_groups; g++) {
        const float *x_scale = (const void *)numbers;
        const int32_t *middle = (const int32_t *)(const void *)numbers + QUANT_ROWS;
        __m256 by = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)scale));
        __m256i sum[4];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            sum[r] = _mm256_set1_epi32(middle[r]);
        wide_group(half_bytes, rows, codes, w, sum);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r]),
                                     _mm256_mul_ps(by, _mm256_set1_ps(x_scale[r])), acc[r]);
        w += group_bytes;
        codes += half_bytes ? sizeof(struct quant_group) : sizeof(struct quant_group_16);
        numbers += half_bytes ? sizeof(struct quant_group) : sizeof(struct quant_group_16);
        scale += K_QUANT_PANEL;
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
        _mm256_maskstore_ps(y + r * t->y_row, mask, acc[r]);
}

#define WIDE(rows)                                                                                 \
    static void wide_##rows##_half(const struct quant_tile *t) {                                   \
        wide_tile(true, rows, t, 0);                                                               \
        wide_tile(true, rows, t, 1);                                                               \
    }                                                                                              \
    static void wide_##rows(const struct quant_tile *t) {                                          \
        wide_tile(false, rows, t, 0);                                                              \
        wide_tile(false, rows, t, 1);                                                              \
    }
WIDE(1)
WIDE(2)
WIDE(3)
WIDE(4)

static void (*const wide[2][4])(const struct quant_tile *t) = {
    {wide_1,      wide_2,      wide_3,      wide_4     },
    {wide_1_half, wide_2_half, wide_3_half, wide_4_half},
};

/* All rows of some outputs of a part; output is a multiple of 16. work: QUANT_WORK bytes. */
static void quant_piece(enum k_dtype dtype, const struct quant *q, int64_t output, int64_t n,
                        char *work) {
#ifdef __AVX512F__
    if (quant_vnni() && q->n_rows > QUANT_ROWS) {
        for (int64_t g = 0; g < q->n_groups; g += QUANT_SPAN)
            for (int64_t o = 0; o < n; o += QUANT_PANELS * K_QUANT_PANEL) {
                int64_t panels = (n - o + K_QUANT_PANEL - 1) / K_QUANT_PANEL;
                vnni_span(dtype, q, output + o, (int)MIN(panels, (int64_t)QUANT_PANELS), g,
                          MIN(q->n_groups - g, (int64_t)QUANT_SPAN), work);
            }
        return;
    }
#endif
    for (int64_t o = output; o < output + n; o += K_QUANT_PANEL) {
        struct quant_tile t = quant_tile_of(dtype, q, o, 1, 0, q->n_groups);
#ifdef __AVX512F__
        if (quant_vnni()) {
            quant_tile_rows(dtype, q, &t, o, 0, 0);
            vnni_few[dtype == K_Q4][q->n_rows - 1](&t);
            continue;
        }
#endif
        for (int64_t r = 0; r < q->n_rows; r += 4) {
            quant_tile_rows(dtype, q, &t, o, 0, r);
            wide[dtype == K_Q4][MIN(q->n_rows - r, (int64_t)4) - 1](&t);
        }
    }
}
