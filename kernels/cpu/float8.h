/* float8.h - E4M3 and E5M2 made wide by the float16 instructions.
 *
 * E5M2 is the upper byte of a float16. E4M3, its sign kept and its exponent moved to float16's
 * place, is 2^-8 of its value, below the normal numbers too; FLOAT8_UP goes into the scales to make
 * up for it. So no number below float32's normal ones, which arithmetic is slow on, comes up. The
 * codes 0x7f and 0xff of E4M3 come out as 1.875: whoever reads weights looks for them.
 */
#pragma once
#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"

#define FLOAT8_UP(type) ((type) == K_E4M3 ? 256.0f : 1.0f)

enum {
    // Every block of 128 inputs has a chain for each remainder of the input's number by 4.
    K_BLOCK_CHAINS = 4,
    K_BLOCK_CHAIN = K_BLOCK / K_BLOCK_CHAINS,
};

/* Even and odd bytes as float16. A product by 128 moves a byte of E4M3 and its sign in one step. */
ALWAYS_INLINE vi float8_even_words(const enum k_dtype type, vi bytes) {
    if (type == K_E5M2)
        return V_LEFT_WORDS(bytes, 8);
    return v_and(v_multiply_bytes(v_set_words(0x0080), bytes), v_set_words((short)0xbfff));
}

ALWAYS_INLINE vi float8_odd_words(const enum k_dtype type, vi bytes) {
    if (type == K_E5M2)
        return v_and(bytes, v_set_words((short)0xff00));
    return v_and(v_multiply_bytes(v_set_words((short)0x8000), bytes), v_set_words((short)0xbfff));
}

/* Eight codes from memory, E4M3's NaN made NaN. */
ALWAYS_INLINE __m256 float8_load_8(const enum k_dtype type, const void *p) {
    __m128i codes = _mm_loadl_epi64((const __m128i *)p);

    if (type == K_E5M2)
        return _mm256_cvtph_ps(_mm_unpacklo_epi8(_mm_setzero_si128(), codes));
    __m128i words = _mm_slli_epi16(_mm_cvtepi8_epi16(codes), 7);
    __m256 x = _mm256_cvtph_ps(_mm_and_si128(words, _mm_set1_epi16((short)0xbfff)));
    __m128i nan =
        _mm_cmpeq_epi8(_mm_or_si128(codes, _mm_set1_epi8((char)0x80)), _mm_set1_epi8((char)0xff));
    return _mm256_blendv_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)),
                            _mm256_castsi256_ps(_mm256_cvtepi8_epi32(nan)));
}

/* Note E4M3's NaN among bytes: of all codes only 0x7f and 0xff change sign when 1 is added. */
ALWAYS_INLINE vi float8_see_nan(vi seen, vi bytes) {
    return v_or_differences(seen, bytes, v_add_bytes(bytes, v_set_words(0x0101)));
}

ALWAYS_INLINE bool float8_any_nan(vi seen) {
    return v_any_sign(seen);
}
