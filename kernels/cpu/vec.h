/* vec.h - vectors of float32 as wide as the file's compile flags allow: one source, two paths.
 *
 * Included only by the bodies that cpu_avx2.c and cpu_avx512.c compile. A tail of fewer than VEC
 * elements is loaded with zeros behind it and stored without touching what lies behind.
 */
#pragma once
#include "lib/base.h"
#include <immintrin.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
typedef __m512 vf;
enum { VEC = 16 };

ALWAYS_INLINE vf v_zero(void) {
    return _mm512_setzero_ps();
}
ALWAYS_INLINE vf v_set(float x) {
    return _mm512_set1_ps(x);
}
ALWAYS_INLINE vf v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
ALWAYS_INLINE void v_store(float *p, vf v) {
    _mm512_storeu_ps(p, v);
}
ALWAYS_INLINE vf v_load_n(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
ALWAYS_INLINE void v_store_n(float *p, vf v, int64_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}
ALWAYS_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
ALWAYS_INLINE vf v_fnma(vf a, vf b, vf c) {
    return _mm512_fnmadd_ps(a, b, c);
}
ALWAYS_INLINE vf v_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
ALWAYS_INLINE vf v_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
ALWAYS_INLINE vf v_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
ALWAYS_INLINE vf v_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
ALWAYS_INLINE vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
ALWAYS_INLINE vf v_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
ALWAYS_INLINE vf v_sqrt(vf a) {
    return _mm512_sqrt_ps(a);
}
ALWAYS_INLINE vf v_round(vf a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* 2^n for whole n from -126 to 127. */
ALWAYS_INLINE vf v_power_of_two(vf n) {
    __m512i bits = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));

    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
}
ALWAYS_INLINE __m256 v_low(vf a) {
    return _mm512_castps512_ps256(a);
}
ALWAYS_INLINE __m256 v_high(vf a) {
    return _mm512_extractf32x8_ps(a, 1);
}

/* The same register as whole numbers, and VEC float16 made wide. */
typedef __m512i vi;

ALWAYS_INLINE vi v_load_bits(const void *p) {
    return _mm512_loadu_si512(p);
}
ALWAYS_INLINE vf v_as_floats(vi a) {
    return _mm512_castsi512_ps(a);
}
ALWAYS_INLINE vi v_set_words(int x) {
    return _mm512_set1_epi16((short)x);
}
ALWAYS_INLINE vi v_set_dwords(int x) {
    return _mm512_set1_epi32(x);
}
ALWAYS_INLINE vi v_and(vi a, vi b) {
    return _mm512_and_si512(a, b);
}
ALWAYS_INLINE vi v_or(vi a, vi b) {
    return _mm512_or_si512(a, b);
}
ALWAYS_INLINE vi v_add_bytes(vi a, vi b) {
    return _mm512_add_epi8(a, b);
}
/* a | (b ^ c), and: is the sign of any byte set? */
ALWAYS_INLINE vi v_or_differences(vi a, vi b, vi c) {
    return _mm512_ternarylogic_epi32(a, b, c, 0xf6);
}
ALWAYS_INLINE bool v_any_sign(vi a) {
    return _mm512_movepi8_mask(a) != 0;
}
#define V_LEFT_DWORDS(a, n) _mm512_slli_epi32(a, n)
#define V_UNSIGNED_RIGHT_DWORDS(a, n) _mm512_srli_epi32(a, n)
#define V_LEFT_WORDS(a, n) _mm512_slli_epi16(a, n)
/* Words: sums of two products of an unsigned and a signed byte. */
ALWAYS_INLINE vi v_multiply_bytes(vi a, vi b) {
    return _mm512_maddubs_epi16(a, b);
}
ALWAYS_INLINE vf v_from_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
ALWAYS_INLINE vf v_from_bf16(const void *p) {
    __m256i half = _mm256_loadu_si256((const __m256i *)p);

    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
/* The low words of every dword as float16, made wide. */
ALWAYS_INLINE vf v_from_f16_in_dwords(vi a) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
}
ALWAYS_INLINE vf v_set_pair(const float *p) {
    double pair;

    memcpy(&pair, p, sizeof pair);
    return _mm512_castpd_ps(_mm512_set1_pd(pair));
}
/* Even and odd elements of a followed by b. */
ALWAYS_INLINE vf v_evens(vf a, vf b) {
    return _mm512_permutex2var_ps(
        a, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), b);
}
ALWAYS_INLINE vf v_odds(vf a, vf b) {
    return _mm512_permutex2var_ps(
        a, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31), b);
}
/* Transposing VEC rows in two steps: rows four by four, then a quarter of the columns from all:
 * ret[i] is column 4 i + q. */
ALWAYS_INLINE void v_transpose_four(const vi r[4], vi u[4]) {
    vi a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
    vi c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);

    u[0] = _mm512_unpacklo_epi64(a, c);
    u[1] = _mm512_unpackhi_epi64(a, c);
    u[2] = _mm512_unpacklo_epi64(b, d);
    u[3] = _mm512_unpackhi_epi64(b, d);
}
ALWAYS_INLINE void v_transpose_quarter(const vi u[VEC], int q, vi ret[VEC / 4]) {
    vi a = _mm512_shuffle_i32x4(u[q], u[4 + q], 0x88);
    vi b = _mm512_shuffle_i32x4(u[q], u[4 + q], 0xdd);
    vi c = _mm512_shuffle_i32x4(u[8 + q], u[12 + q], 0x88);
    vi d = _mm512_shuffle_i32x4(u[8 + q], u[12 + q], 0xdd);

    ret[0] = _mm512_shuffle_i32x4(a, c, 0x88);
    ret[1] = _mm512_shuffle_i32x4(b, d, 0x88);
    ret[2] = _mm512_shuffle_i32x4(a, c, 0xdd);
    ret[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}
/* The second step with half the shuffles, for columns that memory takes and gives back by halves
 * of a register: ret[i] goes to place v_half_place(q, i) of VEC registers in a row. */
ALWAYS_INLINE void v_transpose_halves(const vi u[VEC], int q, vi ret[VEC / 4]) {
    const vi first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const vi last = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);

    ret[0] = _mm512_permutex2var_epi64(u[q], first, u[4 + q]);
    ret[1] = _mm512_permutex2var_epi64(u[q], last, u[4 + q]);
    ret[2] = _mm512_permutex2var_epi64(u[8 + q], first, u[12 + q]);
    ret[3] = _mm512_permutex2var_epi64(u[8 + q], last, u[12 + q]);
}
ALWAYS_INLINE int v_half_place(int q, int i) {
    return i / 2 * 8 + q * 2 + i % 2;
}
/* Where half 0 or 1 of a column then begins, in bytes. */
ALWAYS_INLINE int v_half_at(int column, int half) {
    return half * 512 + (column % 4 * 4 + column / 4) * 32;
}
ALWAYS_INLINE void v_store_bits(void *p, vi a) {
    _mm512_storeu_si512(p, a);
}
/* Words: a register of half the width, made wide as float16 or bfloat16. */
typedef __m256i vh;

ALWAYS_INLINE vf v_widen_f16(vh a) {
    return _mm512_cvtph_ps(a);
}
ALWAYS_INLINE vf v_widen_bf16(vh a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16));
}
/* Rows 0, 8: 16 bytes from `at` on in its halves; rows 0, 4, 8, 12 in its quarters. */
ALWAYS_INLINE vh v_load_half_parts(const char *const *rows, int64_t at) {
    __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(rows[0] + at)));

    return _mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)(rows[8] + at)), 1);
}
ALWAYS_INLINE vi v_load_parts(const char *const *rows, int64_t at) {
    vi r = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(rows[0] + at)));

    r = _mm512_inserti32x4(r, _mm_loadu_si128((const __m128i *)(rows[4] + at)), 1);
    r = _mm512_inserti32x4(r, _mm_loadu_si128((const __m128i *)(rows[8] + at)), 2);
    return _mm512_inserti32x4(r, _mm_loadu_si128((const __m128i *)(rows[12] + at)), 3);
}
/* Eight words of eight rows, transposed, in each part of 16 bytes by itself. */
ALWAYS_INLINE void v_transpose_words(vh r[8]) {
    vh t[8], u[8];

    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        t[4 + i] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int h = 0; h < 2; h++) {
            u[i + h] = _mm256_unpacklo_epi32(t[i + 2 * h], t[i + 2 * h + 1]);
            u[i + 2 + h] = _mm256_unpackhi_epi32(t[i + 2 * h], t[i + 2 * h + 1]);
        }
    for (int i = 0; i < 8; i += 2) {
        r[i] = _mm256_unpacklo_epi64(u[i], u[i + 1]);
        r[i + 1] = _mm256_unpackhi_epi64(u[i], u[i + 1]);
    }
}
#else
typedef __m256 vf;
enum { VEC = 8 };

ALWAYS_INLINE vf v_zero(void) {
    return _mm256_setzero_ps();
}
ALWAYS_INLINE vf v_set(float x) {
    return _mm256_set1_ps(x);
}
ALWAYS_INLINE vf v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
ALWAYS_INLINE void v_store(float *p, vf v) {
    _mm256_storeu_ps(p, v);
}
ALWAYS_INLINE __m256i v_mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
ALWAYS_INLINE vf v_load_n(const float *p, int64_t n) {
    return _mm256_maskload_ps(p, v_mask(n));
}
ALWAYS_INLINE void v_store_n(float *p, vf v, int64_t n) {
    _mm256_maskstore_ps(p, v_mask(n), v);
}
ALWAYS_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
ALWAYS_INLINE vf v_fnma(vf a, vf b, vf c) {
    return _mm256_fnmadd_ps(a, b, c);
}
ALWAYS_INLINE vf v_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
ALWAYS_INLINE vf v_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
ALWAYS_INLINE vf v_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
ALWAYS_INLINE vf v_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
ALWAYS_INLINE vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
ALWAYS_INLINE vf v_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
ALWAYS_INLINE vf v_sqrt(vf a) {
    return _mm256_sqrt_ps(a);
}
ALWAYS_INLINE vf v_round(vf a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
ALWAYS_INLINE vf v_power_of_two(vf n) {
    __m256i bits = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));

    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
}

typedef __m256i vi;

ALWAYS_INLINE vi v_load_bits(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
ALWAYS_INLINE vf v_as_floats(vi a) {
    return _mm256_castsi256_ps(a);
}
ALWAYS_INLINE vi v_set_words(int x) {
    return _mm256_set1_epi16((short)x);
}
ALWAYS_INLINE vi v_set_dwords(int x) {
    return _mm256_set1_epi32(x);
}
ALWAYS_INLINE vi v_and(vi a, vi b) {
    return _mm256_and_si256(a, b);
}
ALWAYS_INLINE vi v_or(vi a, vi b) {
    return _mm256_or_si256(a, b);
}
ALWAYS_INLINE vi v_add_bytes(vi a, vi b) {
    return _mm256_add_epi8(a, b);
}
ALWAYS_INLINE vi v_or_differences(vi a, vi b, vi c) {
    return _mm256_or_si256(a, _mm256_xor_si256(b, c));
}
ALWAYS_INLINE bool v_any_sign(vi a) {
    return _mm256_movemask_epi8(a) != 0;
}
#define V_LEFT_DWORDS(a, n) _mm256_slli_epi32(a, n)
#define V_UNSIGNED_RIGHT_DWORDS(a, n) _mm256_srli_epi32(a, n)
#define V_LEFT_WORDS(a, n) _mm256_slli_epi16(a, n)
ALWAYS_INLINE vi v_multiply_bytes(vi a, vi b) {
    return _mm256_maddubs_epi16(a, b);
}
ALWAYS_INLINE vf v_from_f16(const void *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
ALWAYS_INLINE vf v_from_bf16(const void *p) {
    __m128i half = _mm_loadu_si128((const __m128i *)p);

    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
ALWAYS_INLINE vf v_from_f16_in_dwords(vi a) {
    vi words = _mm256_packus_epi32(_mm256_and_si256(a, _mm256_set1_epi32(0xffff)), a);

    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(words, 0x08)));
}
ALWAYS_INLINE vf v_set_pair(const float *p) {
    double pair;

    memcpy(&pair, p, sizeof pair);
    return _mm256_castpd_ps(_mm256_set1_pd(pair));
}
ALWAYS_INLINE vf v_evens(vf a, vf b) {
    vf mixed = _mm256_shuffle_ps(a, b, 0x88);

    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}
ALWAYS_INLINE vf v_odds(vf a, vf b) {
    vf mixed = _mm256_shuffle_ps(a, b, 0xdd);

    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}
ALWAYS_INLINE void v_transpose_four(const vi r[4], vi u[4]) {
    vi a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpackhi_epi32(r[0], r[1]);
    vi c = _mm256_unpacklo_epi32(r[2], r[3]), d = _mm256_unpackhi_epi32(r[2], r[3]);

    u[0] = _mm256_unpacklo_epi64(a, c);
    u[1] = _mm256_unpackhi_epi64(a, c);
    u[2] = _mm256_unpacklo_epi64(b, d);
    u[3] = _mm256_unpackhi_epi64(b, d);
}
ALWAYS_INLINE void v_transpose_quarter(const vi u[VEC], int q, vi ret[VEC / 4]) {
    ret[0] = _mm256_permute2x128_si256(u[q], u[4 + q], 0x20);
    ret[1] = _mm256_permute2x128_si256(u[q], u[4 + q], 0x31);
}
ALWAYS_INLINE void v_transpose_halves(const vi u[VEC], int q, vi ret[VEC / 4]) {
    v_transpose_quarter(u, q, ret);
}
ALWAYS_INLINE int v_half_place(int q, int i) {
    return 4 * i + q;
}
ALWAYS_INLINE int v_half_at(int column, int half) {
    return column * 32 + half * 16;
}
ALWAYS_INLINE void v_store_bits(void *p, vi a) {
    _mm256_storeu_si256((__m256i *)p, a);
}
typedef __m128i vh;

ALWAYS_INLINE vf v_widen_f16(vh a) {
    return _mm256_cvtph_ps(a);
}
ALWAYS_INLINE vf v_widen_bf16(vh a) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16));
}
ALWAYS_INLINE vh v_load_half_parts(const char *const *rows, int64_t at) {
    return _mm_loadu_si128((const __m128i *)(rows[0] + at));
}
ALWAYS_INLINE vi v_load_parts(const char *const *rows, int64_t at) {
    __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(rows[0] + at)));

    return _mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)(rows[4] + at)), 1);
}
ALWAYS_INLINE void v_transpose_words(vh r[8]) {
    vh t[8], u[8];

    for (int i = 0; i < 4; i++) {
        t[i] = _mm_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        t[4 + i] = _mm_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int h = 0; h < 2; h++) {
            u[i + h] = _mm_unpacklo_epi32(t[i + 2 * h], t[i + 2 * h + 1]);
            u[i + 2 + h] = _mm_unpackhi_epi32(t[i + 2 * h], t[i + 2 * h + 1]);
        }
    for (int i = 0; i < 8; i += 2) {
        r[i] = _mm_unpacklo_epi64(u[i], u[i + 1]);
        r[i + 1] = _mm_unpackhi_epi64(u[i], u[i + 1]);
    }
}
#endif

/* Sum and maximum of eight lanes, in one fixed order. */
ALWAYS_INLINE float sum_8(__m256 a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
ALWAYS_INLINE float max_8(__m256 a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

#ifdef __AVX512F__
ALWAYS_INLINE float v_sum(vf a) {
    return sum_8(_mm256_add_ps(v_low(a), v_high(a)));
}
ALWAYS_INLINE float v_max_all(vf a) {
    return max_8(_mm256_max_ps(v_low(a), v_high(a)));
}
#else
ALWAYS_INLINE float v_sum(vf a) {
    return sum_8(a);
}
ALWAYS_INLINE float v_max_all(vf a) {
    return max_8(a);
}
#endif

/* e^x to about 1 unit in the last place; 0 is approached below -87, +inf is not reached. The bounds
 * come first because these instructions give their second operand where one is NaN: a NaN must stay
 * one, or damaged weights would make plausible numbers. */
ALWAYS_INLINE vf v_exp(vf x) {
    x = v_min(v_set(88.3f), v_max(v_set(-87.3f), x));
    vf n = v_round(v_mul(x, v_set(0x1.715476p+0f)));
    vf r = v_fnma(n, v_set(0x1.62e4p-1f), x);
    r = v_fnma(n, v_set(0x1.7f7d1cp-20f), r);
    vf p = v_set(0x1.a01a02p-13f); /* 1/5040, 1/720, ..., Taylor: |r| < 0.347 */
    p = v_fma(p, r, v_set(0x1.6c16c2p-10f));
    p = v_fma(p, r, v_set(0x1.111112p-7f));
    p = v_fma(p, r, v_set(0x1.555556p-5f));
    p = v_fma(p, r, v_set(0x1.555556p-3f));
    p = v_fma(p, r, v_set(0.5f));
    p = v_add(v_fma(v_mul(r, r), p, r), v_set(1));
    return v_mul(p, v_power_of_two(n));
}
