#include "kernels/quantscale.h"
#include "kernels/cpu/cpu.h"
#include "kernels/formats.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

enum {
    GROUP = K_QUANT_GROUP,
    PANEL = K_QUANT_PANEL,
    LANES = 8, // outputs side by side
    TRIES = 8, // on each side of the plain scale
};

/* The compiler cuts these to the registers of each target. */
typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef double doubles __attribute__((vector_size(8 * LANES), aligned(8)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

/* x, but not below low and not above high. */
#define CLAMP(x, lows, highs)                                                                      \
    do {                                                                                           \
        ints inside_ = (x) > (lows);                                                               \
        (x) = (floats)(((ints)(x)&inside_) | ((ints)(lows) & ~inside_));                           \
        inside_ = (x) < (highs);                                                                   \
        (x) = (floats)(((ints)(x)&inside_) | ((ints)(highs) & ~inside_));                          \
    } while (0)

/* Quotients w * inverse to the nearest code from low to high, ties to even. A macro: functions that
 * hand vectors over have another form on each target. */
#define NEAREST(w, inverse, low, high, ret)                                                        \
    do {                                                                                           \
        const float large_ = 0x1.8p23f;                                                            \
        floats x_ = (w) * (inverse), lows_ = (low) - (floats){0}, highs_ = (high) - (floats){0};   \
        CLAMP(x_, lows_, highs_);                                                                  \
        (ret) = x_ + large_ - large_;                                                              \
    } while (0)

#define WIDEN(x) __builtin_convertvector((x), doubles)

/* To float16 and back. */
#define TO_F16(x, bits, ret)                                                                       \
    for (int i_ = 0; i_ < LANES; i_++) {                                                           \
        (bits)[i_] = k_to_f16((x)[i_]);                                                            \
        (ret)[i_] = k_from_f16((bits)[i_]);                                                        \
    }

#define SCALE_TARGET
#define SCALE_PATH(name) CONCAT(plain_, name)
#include "kernels/quantscale_body.h"
#undef SCALE_TARGET
#undef SCALE_PATH

#ifdef __x86_64__
#undef CLAMP
#define CLAMP(x, lows, highs)                                                                      \
    ((x) = (floats)_mm256_min_ps(_mm256_max_ps((__m256)(x), (__m256)(lows)), (__m256)(highs)))
#undef TO_F16
#define TO_F16(x, bits, ret)                                                                       \
    do {                                                                                           \
        __m128i bits_ = _mm256_cvtps_ph((__m256)(x), _MM_FROUND_TO_NEAREST_INT);                   \
        memcpy((bits), &bits_, sizeof bits_);                                                      \
        (ret) = (floats)_mm256_cvtph_ps(bits_);                                                    \
    } while (0)

#define SCALE_TARGET __attribute__((target("avx2,f16c")))
#define SCALE_PATH(name) CONCAT(avx2_, name)
#include "kernels/quantscale_body.h"
#undef SCALE_TARGET
#undef SCALE_PATH

#undef WIDEN
#define WIDEN(x) ((doubles)_mm512_cvtps_pd((__m256)(x)))
#define SCALE_TARGET __attribute__((target("avx2,f16c,avx512f,avx512dq,avx512bw,avx512vl")))
#define SCALE_PATH(name) CONCAT(avx512_, name)
#include "kernels/quantscale_body.h"
#undef SCALE_TARGET
#undef SCALE_PATH
#endif

static const struct path {
    const char *name;
    void (*candidates)(const float *largest, float divisor, uint16_t *bits, float *value,
                       float *inverse);
    void (*errors)(const float *w, const double *exact, const double *importance,
                   const float *scale, const float *inverse, float low, float high, double *ret);
    void (*codes)(const float *w, const float *inverse, float low, float high, int8_t *ret);
} paths[] = {
    {"plain",  plain_candidates,  plain_errors,  plain_codes },
#ifdef __x86_64__
    {"avx2",   avx2_candidates,   avx2_errors,   avx2_codes  },
    {"avx512", avx512_candidates, avx512_errors, avx512_codes},
#endif
};

static bool can_run(size_t path) {
    return path == 0 || k_cpu_table(paths[path].name);
}

/* One candidate of every output. */
struct scales {
    uint16_t bits[PANEL];
    float value[PANEL], inverse[PANEL];
};

static void set_scales(const struct path *path, struct scales *s, const float *largest,
                       float divisor) {
    for (int o = 0; o < PANEL; o += LANES)
        path->candidates(largest + o, divisor, &s->bits[o], &s->value[o], &s->inverse[o]);
}

/* The largest value of each output, with its sign. */
static void largest_of(const float w[GROUP][PANEL], float ret[PANEL]) {
    float amax[PANEL] = {0};

    memset(ret, 0, PANEL * sizeof *ret);
    for (int k = 0; k < GROUP; k++)
        for (int o = 0; o < PANEL; o++) {
            float a = w[k][o] < 0 ? -w[k][o] : w[k][o];
            ret[o] = a > amax[o] ? w[k][o] : ret[o];
            amax[o] = a > amax[o] ? a : amax[o];
        }
}

/* Try the scales beside the plain one. */
static void improve(const struct path *path, const float *w, const float *importance,
                    const float *largest, float low, float high, struct scales *best) {
    double least[PANEL], error[PANEL], weights[GROUP], exact[GROUP * PANEL];
    struct scales tried;

    for (int k = 0; k < GROUP * PANEL; k++)
        exact[k] = (double)w[k];
    for (int k = 0; k < GROUP; k++)
        weights[k] = importance ? (double)importance[k] : 1;
    path->errors(w, exact, weights, best->value, best->inverse, low, high, least);
    for (int t = -TRIES; t <= TRIES; t++) {
        if (t == 0)
            continue; /* the plain one */
        set_scales(path, &tried, largest, -8 + 0.15f * (float)t);
        path->errors(w, exact, weights, tried.value, tried.inverse, low, high, error);
        for (int o = 0; o < PANEL; o++) {
            bool better = error[o] < least[o];
            least[o] = better ? error[o] : least[o];
            best->bits[o] = better ? tried.bits[o] : best->bits[o];
            best->inverse[o] = better ? tried.inverse[o] : best->inverse[o];
        }
    }
}

static void search(const struct path *path, enum k_dtype dtype, const float w[GROUP][PANEL],
                   const float *importance, int8_t codes[GROUP][PANEL], uint16_t scale[PANEL]) {
    float low = dtype == K_Q8 ? -127 : -8, high = dtype == K_Q8 ? 127 : 7, largest[PANEL];
    struct scales best;

    largest_of(w, largest);
    for (int o = 0; o < PANEL && dtype == K_Q8; o++)
        largest[o] = largest[o] < 0 ? -largest[o] : largest[o];
    set_scales(path, &best, largest, dtype == K_Q8 ? 127 : -8);
    if (dtype == K_Q4)
        improve(path, w[0], importance, largest, low, high, &best);
    for (int o = 0; o < PANEL; o += LANES)
        path->codes(w[0] + o, &best.inverse[o], low, high, codes[0] + o);
    memcpy(scale, best.bits, sizeof best.bits);
}

bool quantscale_group_on(const char *path, enum k_dtype dtype, const float w[GROUP][PANEL],
                         const float *importance, int8_t codes[GROUP][PANEL],
                         uint16_t scale[PANEL]) {
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
        if (hai_streq(paths[i].name, path) && can_run(i)) {
            search(&paths[i], dtype, w, importance, codes, scale);
            return true;
        }
    return false;
}

void quantscale_group(enum k_dtype dtype, const float w[GROUP][PANEL], const float *importance,
                      int8_t codes[GROUP][PANEL], uint16_t scale[PANEL]) {
    size_t i = ARRAY_SIZE(paths) - 1;

    while (!can_run(i))
        i--;
    search(&paths[i], dtype, w, importance, codes, scale);
}
