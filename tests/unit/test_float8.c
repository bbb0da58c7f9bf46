/* Numbers of few bits: every code of every format and every half-way point; and how products of
 * them are added up. */
#include "kernels/formats.h"
#include "kernels/hopper14.h"
#include "tests/unit/test.h"

#include <float.h>
#include <math.h>

static float from_e4m3(int code) {
    return k_from_e4m3((uint8_t)code);
}

static int to_e4m3(float x) {
    return k_to_e4m3(x);
}

static float from_e5m2(int code) {
    return k_from_e5m2((uint8_t)code);
}

static int to_e5m2(float x) {
    return k_to_e5m2(x);
}

static float from_e5m6(int code) {
    return k_from_e5m6((uint16_t)code);
}

static int to_e5m6(float x) {
    return k_to_e5m6(x);
}

static float from_f16(int code) {
    return k_from_f16((uint16_t)code);
}

static int to_f16(float x) {
    return k_to_f16(x);
}

/* Positive codes count from 0 up to the largest number's, with the sign bit above them. */
static const struct format {
    const char *name;
    int n_codes, sign, above; // above: the code of what is larger than all numbers
    float largest, least;
    float (*from)(int code);
    int (*to)(float x);
} formats[] = {
    {"e4m3", 0x7f,   0x80,   0x7e,   448,   0x1p-9f,  from_e4m3, to_e4m3},
    {"e5m2", 0x7c,   0x80,   0x7b,   57344, 0x1p-16f, from_e5m2, to_e5m2},
    {"e5m6", 0x7c0,  0x800,  0x7bf,  65024, 0x1p-20f, from_e5m6, to_e5m6},
    {"f16",  0x7c00, 0x8000, 0x7c00, 65504, 0x1p-24f, from_f16,  to_f16 },
};

/* A number, and the same below zero. */
static void check_to(const struct format *f, float x, int code, const char *what) {
    CHECK_EQ(f->to(x), code, "%s %s %a", f->name, what, (double)x);
    CHECK_EQ(f->to(-x), code | f->sign, "%s %s %a", f->name, what, -(double)x);
}

/* Between a code and the next: the half-way point goes to the even one, its neighbours to theirs.
 */
static void check_between(const struct format *f, int code) {
    float x = f->from(code), next = f->from(code + 1), half = (x + next) / 2;

    CHECK(next > x, "%s %d", f->name, code);
    check_to(f, half, code % 2 ? code + 1 : code, "half-way");
    check_to(f, nextafterf(half, 0), code, "below half-way");
    check_to(f, nextafterf(half, INFINITY), code + 1, "above half-way");
}

TEST(every_code_and_half_way_point)
{
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        const struct format *f = &formats[i];
        for (int code = 0; code < f->n_codes; code++) {
            check_to(f, f->from(code), code, "code");
            CHECK(f->from(code | f->sign) == -f->from(code), "%s %d", f->name, code);
            if (code + 1 < f->n_codes)
                check_between(f, code);
        }
        CHECK(f->from(f->n_codes - 1) == f->largest && f->from(1) == f->least, "%s", f->name);
        CHECK(!signbit(f->from(0)) && signbit(f->from(f->sign)), "%s zeros", f->name);
    }
}

TEST(above_the_largest_and_no_number)
{
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        const struct format *f = &formats[i];
        float spacing = f->largest - f->from(f->n_codes - 2);
        check_to(f, nextafterf(f->largest + spacing / 2, 0), f->n_codes - 1, "rounds down");
        check_to(f, f->largest + spacing / 2, f->above, "half above");
        check_to(f, f->largest * 2, f->above, "above");
        check_to(f, FLT_MAX, f->above, "far above");
        check_to(f, INFINITY, f->above, "infinite");
        CHECK(isnan(f->from(f->to(NAN))) && isnan(f->from(f->to(-NAN))), "%s", f->name);
        check_to(f, f->least / 2, 0, "half of the least");
        check_to(f, FLT_TRUE_MIN, 0, "least of all");
    }
    CHECK(isnan(k_from_e4m3(0x7f)) && isnan(k_from_e5m2(0x7d)) && isnan(k_from_f16(0x7e00)), "");
}

/* Both places of a pair, each with every code, leave the other alone. */
TEST(pairs_of_e5m6)
{
    uint8_t pair[3] = {0xff, 0xff, 0xff};

    for (int code = 0; code < 0x1000; code++) {
        k_e5m6_put(pair, 0, (uint16_t)code);
        k_e5m6_put(pair, 1, (uint16_t)(0xfff - code));
        CHECK_EQ(k_e5m6_get(pair, 0), code, "");
        CHECK_EQ(k_e5m6_get(pair, 1), 0xfff - code, "");
        CHECK_EQ(pair[0] | pair[1] << 8 | pair[2] << 16, code | (0xfff - code) << 12, "");
    }
}

enum { ROWS = 300, COLUMNS = 260, SCALES_MAX = 4 * ROWS * COLUMNS / K_BLOCK };

/* Groups of rows: the first ends within a tile, the second has none. */
static int32_t row_start[] = {0, 170, 170, ROWS};

/* Which scale of a kind an element has, reckoned apart from the kernels. */
static int64_t share_of(enum k_scale kind, int64_t r, int64_t i) {
    switch (kind) {
    case K_SCALE_TILES:
        return i / 128 * ROWS + r;
    case K_SCALE_BLOCKS:
        return r / 128 * 3 + i / 128;
    default: /* tiles of the first group 0 and 1; of the third 170 / 128 + 2 = 3 and so on */
        return (r < 170 ? r / 128 : 3 + (r - 170) / 128) * COLUMNS + i;
    }
}

struct rounding {
    enum k_dtype dtype;
    float largest, relative, least; // error of a number: relative of it, or half of the least
};

static const struct rounding roundings[] = {
    {K_E4M3, 448,   0x1p-4f, 0x1p-9f },
    {K_E5M2, 57344, 0x1p-3f, 0x1p-16f},
    {K_E5M6, 65024, 0x1p-7f, 0x1p-20f},
};

static void check_scales(struct k_ctx *ctx, const struct rounding *f, enum k_scale kind, bool up) {
    static float x[ROWS * COLUMNS], y[ROWS * COLUMNS], scale[SCALES_MAX], amax[SCALES_MAX];
    static uint8_t codes[ROWS * COLUMNS * 3 / 2];
    int64_t columns = kind == K_SCALE_TILES ? ROWS : kind == K_SCALE_TOKENS ? COLUMNS : 3;
    int64_t n = k_n_scales(kind, ROWS, COLUMNS, kind == K_SCALE_TOKENS ? 3 : 1);
    struct k_quantize q = {.y = k_tensor_2d(codes, f->dtype, ROWS, COLUMNS),
                           .x = k_tensor_2d(x, K_F32, ROWS, COLUMNS),
                           .scale = k_tensor_2d(scale, K_F32, n / columns, columns),
                           .power_of_two = up};

    memset(amax, 0, sizeof amax);
    for (int64_t k = 0; k < ROWS * COLUMNS; k++) {
        x[k] = (float)((k * 7919 + k / 13) % 2003 - 1001) * (k % 257 ? 0.01f : 3);
        float *largest = &amax[share_of(kind, k / COLUMNS, k % COLUMNS)];
        *largest = fmaxf(*largest, fabsf(x[k]));
    }
    q.y.scale_kind = kind;
    if (kind == K_SCALE_TOKENS)
        q.row_start = k_tensor_1d(row_start, K_I32, 4);
    CHECK_EQ(k_quantize(ctx, &q), 0, "");
    struct k_dequantize d = {
        .y = k_tensor_2d(y, K_F32, ROWS, COLUMNS), .x = q.y, .row_start = q.row_start};
    d.x.scale = scale;
    CHECK_EQ(k_dequantize(ctx, &d), 0, "");
    for (int64_t k = 0; k < ROWS * COLUMNS; k++) {
        int64_t share = share_of(kind, k / COLUMNS, k % COLUMNS);
        float want = amax[share] / f->largest, got = scale[share];
        CHECK(up ? got >= want && got < 2 * want && frexpf(got, &(int){0}) == 0.5f : got == want,
              "%s %s kind %d: scale %a, expected %a", ctx->path, k_dtype_name(f->dtype), kind,
              (double)got, (double)want);
        if (!CHECK(fabsf(y[k] - x[k]) <=
                       fmaxf(fabsf(x[k]) * f->relative, got * f->least / 2) * 1.000001f,
                   "%s %s kind %d: %a became %a", ctx->path, k_dtype_name(f->dtype), kind,
                   (double)x[k], (double)y[k]))
            return;
    }
}

TEST(scales_of_every_kind)
{
    static const char *const paths[] = {NULL, "avx2", "avx512"};

    for (size_t p = 0; p < ARRAY_SIZE(paths); p++) {
        struct k_ctx ctx;
        if (k_ctx_init(&ctx, paths[p] ? K_BACKEND_CPU : K_BACKEND_REF, paths[p], NULL) < 0)
            continue;
        for (size_t f = 0; f < ARRAY_SIZE(roundings); f++)
            for (int kind = K_SCALE_TILES; kind < K_SCALE_COUNT; kind++)
                for (int up = 0; up < 2; up++)
                    check_scales(&ctx, &roundings[f], (enum k_scale)kind, up);
    }
}

/* A scale that would be below the normal numbers, or zero, is 1, and what it is for is zeros. */
TEST(next_to_nothing)
{
    static const char *const paths[] = {NULL, "avx2", "avx512"};

    for (size_t p = 0; p < ARRAY_SIZE(paths); p++) {
        float x[2] = {FLT_TRUE_MIN, 0}, scale = 0;
        uint8_t codes[2] = {0xff, 0xff};
        struct k_ctx ctx;
        struct k_quantize q = {.y = k_tensor_2d(codes, K_E4M3, 1, 2),
                               .x = k_tensor_2d(x, K_F32, 1, 2),
                               .scale = k_tensor_2d(&scale, K_F32, 1, 1)};
        if (k_ctx_init(&ctx, paths[p] ? K_BACKEND_CPU : K_BACKEND_REF, paths[p], NULL) < 0)
            continue;
        q.y.scale_kind = K_SCALE_TILES;
        CHECK_EQ(k_quantize(&ctx, &q), 0, "%s", ctx.path);
        CHECK(scale == 1 && codes[0] == 0 && codes[1] == 0, "%s: %a %d %d", ctx.path, (double)scale,
              codes[0], codes[1]);
    }
}

/* Sums worked out by hand. */
TEST(sums_of_14_bits)
{
    static const struct {
        float products[4];
        int n;
        float sum;
    } cases[] = {
        {{1, 0x1p-13f},               2, 1 + 0x1p-13f}, /* the last place that is kept */
        {{1, 0x1.8p-13f},             2, 1 + 0x1p-13f}, /* cut, not rounded */
        {{1, -0x1.8p-13f},            2, 1 - 0x1p-13f}, /* towards zero */
        {{1, 0x1.fp-14f, 0x1.fp-14f}, 3, 1           }, /* each by itself */
        {{-1, 1, 0x1.8p-13f},         3, 0x1p-13f    }, /* by the largest, not by the sum */
        {{0x1p-120f, 0x1p-120f},      2, 0           }, /* below what is kept at all */
    };
    static const float one[4] = {1, 1, 1, 1};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        for (int sum = K_SUM_HOPPER14; sum < K_SUM_COUNT; sum++) {
            struct hopper14 h = {.sum = (enum k_sum)sum};
            hopper14_add(&h, cases[i].products, one, cases[i].n, 1);
            CHECK(hopper14_result(&h) == cases[i].sum, "%zu: %a", i, (double)hopper14_result(&h));
        }
}

enum { LONG = 4096 };

/* Relative error of the sum of LONG products, a scale for every 128 of them. */
static double error_of(enum k_sum sum, const float *a, const float *b) {
    struct hopper14 h = {.sum = sum};
    double exact = 0;

    for (int i = 0; i < LONG; i += K_BLOCK) {
        float scale = 0.5f + (float)i / LONG;
        hopper14_add(&h, a + i, b + i, K_BLOCK, scale);
        for (int k = i; k < i + K_BLOCK; k++)
            exact += (double)a[k] * (double)b[k] * (double)scale;
    }
    return fabs((double)hopper14_result(&h) - exact) / fabs(exact);
}

/* Why partial sums are promoted: the error without grows with the length of the sum. */
TEST(promotion_is_needed)
{
    static float a[LONG], b[LONG];
    uint32_t state = 1;

    for (int i = 0; i < LONG; i++) {
        state = state * 1664525 + 1013904223;
        a[i] = k_from_e4m3(k_to_e4m3((float)(state >> 16 & 1023) / 8));
        b[i] = k_from_e4m3(k_to_e4m3((float)(state >> 6 & 1023) / 8));
    }
    double promoted = error_of(K_SUM_HOPPER14_PROMOTED, a, b), one = error_of(K_SUM_HOPPER14, a, b);
    CHECK(promoted < 0.004, "%g", promoted);
    CHECK(one > 0.02 && one > 10 * promoted, "%g, promoted %g", one, promoted);
}
