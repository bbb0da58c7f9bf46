/* curves_body.h - layer norm, activations, dropout, softmax, and the cells of recurrent layers.
 * Sums over a row are VEC partial sums added in one fixed order.
 */
#pragma once
#include "kernels/cpu/rows_body.h"
#include "kernels/dropout.h"
#include "kernels/philox.h"

/* a < b ? x : y; y where one is NaN. */
#ifdef __AVX512F__
ALWAYS_INLINE vf v_where_below(vf a, vf b, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
#else
ALWAYS_INLINE vf v_where_below(vf a, vf b, vf x, vf y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
#endif

ALWAYS_INLINE vf v_negative(vf x) {
    return v_sub(v_zero(), x);
}

ALWAYS_INLINE vf v_size(vf x) {
    return v_max(v_negative(x), x);
}

/* To about 2 units in the last place. Small numbers by a quotient (Lambert's continued fraction cut
 * off behind 9), as 1 - e^-2x would cancel. */
ALWAYS_INLINE vf v_tanh(vf x) {
    vf square = v_mul(x, x), size = v_size(x), one = v_set(1);
    vf e = v_exp(v_mul(v_set(-2), size));
    vf far = v_div(v_sub(one, e), v_add(one, e));
    vf top = v_fma(square, v_add(square, v_set(105)), v_set(945));
    vf bottom = v_fma(square, v_fma(square, v_set(15), v_set(420)), v_set(945));

    far = v_where_below(x, v_zero(), v_negative(far), far);
    return v_where_below(size, v_set(0.6f), v_div(v_mul(x, top), bottom), far);
}

/* The normal distribution: half of erfc(-x / sqrt 2), whose relative error is below 1.2e-7 by Press
 * et al., Numerical Recipes, 2nd edition, section 6.2. */
ALWAYS_INLINE vf v_normal(vf x) {
    static const float terms[] = {-0.82215223f, 1.48851587f,  -1.13520398f,
                                  0.27886807f,  -0.18628806f, 0.09678418f,
                                  0.37409196f,  1.00002368f,  -1.26551223f};
    vf z = v_mul(v_size(x), v_set(0x1.6a09e6p-1f)), one = v_set(1);
    vf t = v_div(one, v_fma(v_set(0.5f), z, one)), p = v_set(0.17087277f);

    for (size_t i = 0; i < ARRAY_SIZE(terms); i++)
        p = v_fma(p, t, v_set(terms[i]));
    vf half_rest = v_mul(v_mul(v_set(0.5f), t), v_exp(v_fnma(z, z, p)));
    return v_where_below(x, v_zero(), half_rest, v_sub(one, half_rest));
}

/* tanh's argument in gelu_tanh: sqrt(2 / pi) (x + 0.044715 x^3). */
ALWAYS_INLINE vf gelu_inner(vf x) {
    vf cubic = v_mul(v_mul(v_set(0.044715f), v_mul(x, x)), x);

    return v_mul(v_set(0.79788456f), v_add(x, cubic));
}

ALWAYS_INLINE vf curve_at(const enum k_curve curve, vf x) {
    switch (curve) {
    case K_CURVE_RELU:
        return v_max(v_zero(), x);
    case K_CURVE_TANH:
        return v_tanh(x);
    case K_CURVE_SIGMOID:
        return sigmoid(x);
    case K_CURVE_SILU:
        return v_mul(x, sigmoid(x));
    case K_CURVE_GELU:
        return v_mul(x, v_normal(x));
    default:
        return v_mul(v_mul(v_set(0.5f), x), v_add(v_set(1), v_tanh(gelu_inner(x))));
    }
}

ALWAYS_INLINE vf gelu_tanh_slope(vf x) {
    vf t = v_tanh(gelu_inner(x)), half = v_set(0.5f);
    vf inner = v_fma(v_mul(x, x), v_set(0.79788456f * 3 * 0.044715f), v_set(0.79788456f));
    vf rise = v_mul(v_mul(v_mul(half, x), v_fnma(t, t, v_set(1))), inner);

    return v_fma(half, v_add(v_set(1), t), rise);
}

ALWAYS_INLINE vf slope_at(const enum k_curve curve, vf x) {
    vf one = v_set(1), s;

    switch (curve) {
    case K_CURVE_RELU:
        return v_where_below(v_zero(), x, one, v_zero());
    case K_CURVE_TANH:
        s = v_tanh(x);
        return v_fnma(s, s, one);
    case K_CURVE_SIGMOID:
        s = sigmoid(x);
        return v_mul(s, v_sub(one, s));
    case K_CURVE_SILU:
        s = sigmoid(x);
        return v_mul(s, v_fma(x, v_sub(one, s), one));
    case K_CURVE_GELU:
        s = v_exp(v_mul(v_mul(v_set(-0.5f), x), x));
        return v_fma(v_mul(x, v_set(0.39894228f)), s, v_normal(x));
    default:
        return gelu_tanh_slope(x);
    }
}

/* A body for every curve, so that each loop has its own inner part. */
#define EACH_CURVE(curve, body)                                                                    \
    switch (curve) {                                                                               \
        EACH_CURVE_CASE(RELU, body)                                                                \
        EACH_CURVE_CASE(TANH, body)                                                                \
        EACH_CURVE_CASE(SIGMOID, body)                                                             \
        EACH_CURVE_CASE(SILU, body)                                                                \
        EACH_CURVE_CASE(GELU, body)                                                                \
        EACH_CURVE_CASE(GELU_TANH, body)                                                           \
    default:                                                                                       \
        return -EINVAL;                                                                            \
    }
#define EACH_CURVE_CASE(name, body)                                                                \
    case K_CURVE_##name:                                                                           \
        body(K_CURVE_##name);                                                                      \
        return 0;

static int activate(struct k_ctx *ctx, const struct k_activate *a) {
    const float *x = a->x.data;
    float *y = a->y.data;
    int64_t n = a->x.shape[0];

#define BODY(name) FOR_VECTORS(n) STORE(y, curve_at(name, LOAD(x)))
    EACH_CURVE(a->curve, BODY)
#undef BODY
}

static int activate_dx(struct k_ctx *ctx, const struct k_activate_dx *a) {
    const float *x = a->x.data, *dy = a->dy.data;
    float *dx = a->dx.data;
    int64_t n = a->x.shape[0];

#define BODY(name) FOR_VECTORS(n) STORE(dx, v_mul(LOAD(dy), slope_at(name, LOAD(x))))
    EACH_CURVE(a->curve, BODY)
#undef BODY
}

static int layernorm(struct k_ctx *ctx, const struct k_layernorm *a) {
    const float *weight = a->weight.data, *bias = a->bias.data;
    int64_t n = a->x.shape[1];

    for (int64_t r = 0; r < a->x.shape[0]; r++) {
        const float *x = row_of(&a->x, r);
        float *y = row_of(&a->y, r);
        vf sum = v_zero(), square = v_zero();
        FOR_VECTORS(n)
        sum = v_add(sum, LOAD(x));
        float mean = v_sum(sum) / (float)n;
        FOR_VECTORS(n) {
            STORE(y, v_sub(LOAD(x), v_set(mean)));
            square = v_fma(LOAD(y), LOAD(y), square); // not the value at hand: zeros behind the end
        }
        double variance = (double)v_sum(square) / (double)n;
        float scale = (float)(1 / kmath_sqrt(variance + (double)a->eps));
        FOR_VECTORS(n) {
            vf v = v_mul(v_mul(LOAD(y), v_set(scale)), LOAD(weight));
            STORE(y, bias ? v_add(v, LOAD(bias)) : v);
        }
        ((float *)a->mean.data)[r] = mean;
        ((float *)a->scale.data)[r] = scale;
    }
    return 0;
}

static int layernorm_dx(struct k_ctx *ctx, const struct k_layernorm_dx *a) {
    const float *weight = a->weight.data;
    int64_t n = a->x.shape[1];

    for (int64_t r = 0; r < a->x.shape[0]; r++) {
        const float *x = row_of(&a->x, r), *dy = row_of(&a->dy, r);
        float *dx = row_of(&a->dx, r);
        vf mean = v_set(((const float *)a->mean.data)[r]);
        vf scale = v_set(((const float *)a->scale.data)[r]);
        vf sum = v_zero(), along = v_zero();
        FOR_VECTORS(n) {
            vf g = v_mul(LOAD(dy), LOAD(weight));
            sum = v_add(sum, g);
            along = v_fma(g, v_mul(v_sub(LOAD(x), mean), scale), along);
        }
        vf pull = v_set(v_sum(sum) / (float)n), turn = v_set(v_sum(along) / (float)n);
        FOR_VECTORS(n) {
            vf g = v_sub(v_mul(LOAD(dy), LOAD(weight)), pull);
            STORE(dx, v_mul(scale, v_fnma(v_mul(v_sub(LOAD(x), mean), scale), turn, g)));
        }
    }
    return 0;
}

static int layernorm_dw(struct k_ctx *ctx, const struct k_layernorm_dw *a) {
    const float *mean = a->mean.data, *scale = a->scale.data;
    float *dw = a->dw.data;

    FOR_VECTORS(a->x.shape[1]) {
        vf sum = LOAD(dw);
        for (int64_t r = 0; r < a->x.shape[0]; r++) {
            vf away = v_sub(LOAD(row_of(&a->x, r)), v_set(mean[r]));
            sum = v_fma(v_mul(LOAD(row_of(&a->dy, r)), v_set(scale[r])), away, sum);
        }
        STORE(dw, sum);
    }
    return 0;
}

enum { DROPOUT_LANES = 16 };

/* philox_words of DROPOUT_LANES counters side by side, in order; written for the compiler to make
 * vectors of. */
static void dropout_words(const struct k_dropout *a, uint32_t index,
                          uint32_t ret[4 * DROPOUT_LANES]) {
    uint32_t c[4][DROPOUT_LANES], k0 = (uint32_t)a->key, k1 = (uint32_t)(a->key >> 32);

    for (uint32_t l = 0; l < DROPOUT_LANES; l++) {
        struct philox_counter at = philox_at(PHILOX_DROPOUT, a->step, a->layer, index + l);
        for (int i = 0; i < 4; i++)
            c[i][l] = at.word[i];
    }
    for (int round = 0; round < 10; round++) {
        for (int l = 0; l < DROPOUT_LANES; l++) {
            uint64_t p = (uint64_t)0xd2511f53u * c[0][l], q = (uint64_t)0xcd9e8d57u * c[2][l];
            c[0][l] = (uint32_t)(q >> 32) ^ c[1][l] ^ k0;
            c[1][l] = (uint32_t)q;
            c[2][l] = (uint32_t)(p >> 32) ^ c[3][l] ^ k1;
            c[3][l] = (uint32_t)p;
        }
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    for (int l = 0; l < DROPOUT_LANES; l++)
        for (int i = 0; i < 4; i++)
            ret[4 * l + i] = c[i][l];
}

static int dropout(struct k_ctx *ctx, const struct k_dropout *a) {
    enum { LOT = 4 * DROPOUT_LANES };
    const float *x = a->x.data;
    float *y = a->y.data;

    if (!dropout_is_whole(a))
        return -EINVAL;
    uint32_t words[LOT], threshold = dropout_threshold(a);
    float scale = dropout_scale(a);
    int64_t end = a->first + a->x.shape[0];
    for (int64_t lot = a->first / LOT * LOT; lot < end; lot += LOT) {
        int64_t from = MAX(lot, a->first), to = MIN(lot + LOT, end);
        dropout_words(a, (uint32_t)(lot / 4), words);
        for (int64_t number = from; number < to; number++) {
            float kept = x[number - a->first] * scale;
            y[number - a->first] = words[number - lot] >= threshold ? kept : 0;
        }
    }
    return 0;
}

static int softmax(struct k_ctx *ctx, const struct k_softmax *a) {
    int64_t n = a->x.shape[1];

    for (int64_t r = 0; r < a->x.shape[0]; r++) {
        const float *x = row_of(&a->x, r);
        float *y = row_of(&a->y, r);
        vf max = v_set(x[0]), sum = v_zero();
        FOR_VECTORS(n)
        max = left == VEC ? v_max(max, LOAD(x)) : max;
        float top = v_max_all(max);
        for (int64_t i = n / VEC * VEC; i < n; i++)
            top = MAX(top, x[i]);
        FOR_VECTORS(n) {
            STORE(y, v_exp(v_sub(LOAD(x), v_set(top))));
            sum = v_add(sum, LOAD(y));
        }
        vf by = v_set(1 / v_sum(sum));
        FOR_VECTORS(n)
        STORE(y, v_mul(LOAD(y), by));
    }
    return 0;
}

static int softmax_dx(struct k_ctx *ctx, const struct k_softmax_dx *a) {
    int64_t n = a->y.shape[1];

    for (int64_t r = 0; r < a->y.shape[0]; r++) {
        const float *y = row_of(&a->y, r), *dy = row_of(&a->dy, r);
        float *dx = row_of(&a->dx, r);
        vf pull = v_set(dot(dy, y, n));
        FOR_VECTORS(n)
        STORE(dx, v_mul(LOAD(y), v_sub(LOAD(dy), pull)));
    }
    return 0;
}

static int lstm_cell(struct k_ctx *ctx, const struct k_lstm_cell *a) {
    int64_t n = a->h.shape[1];

    if (a->gates.shape[1] != 4 * n)
        return -EINVAL;
    for (int64_t r = 0; r < a->h.shape[0]; r++) {
        const float *before = a->c_before.data ? row_of(&a->c_before, r) : NULL;
        float *gate_i = row_of(&a->gates, r), *gate_f = gate_i + n, *gate_g = gate_f + n,
              *gate_o = gate_g + n, *c = row_of(&a->c, r), *h = row_of(&a->h, r);
        FOR_VECTORS(n) {
            vf in = sigmoid(LOAD(gate_i)), forget = sigmoid(LOAD(gate_f));
            vf fresh = v_tanh(LOAD(gate_g)), out = sigmoid(LOAD(gate_o));
            vf cell = v_fma(in, fresh, before ? v_mul(forget, LOAD(before)) : v_zero());
            STORE(c, cell);
            STORE(h, v_mul(out, v_tanh(cell)));
            STORE(gate_i, in);
            STORE(gate_f, forget);
            STORE(gate_g, fresh);
            STORE(gate_o, out);
        }
    }
    return 0;
}

/* d * s * (1 - s): through a sigmoid whose value was s. */
ALWAYS_INLINE vf through_sigmoid(vf d, vf s) {
    return v_mul(v_mul(d, s), v_sub(v_set(1), s));
}

ALWAYS_INLINE vf through_tanh(vf d, vf t) {
    return v_mul(d, v_fnma(t, t, v_set(1)));
}

static int lstm_cell_dx(struct k_ctx *ctx, const struct k_lstm_cell_dx *a) {
    int64_t n = a->dh.shape[1];

    if (a->gates.shape[1] != 4 * n)
        return -EINVAL;
    for (int64_t r = 0; r < a->dh.shape[0]; r++) {
        const float *before = a->c_before.data ? row_of(&a->c_before, r) : NULL;
        const float *gates = row_of(&a->gates, r), *dh = row_of(&a->dh, r), *c = row_of(&a->c, r);
        float *dgates = row_of(&a->dgates, r), *dc = row_of(&a->dc, r);
        FOR_VECTORS(n) {
            vf in = LOAD(gates), forget = LOAD(gates + n), fresh = LOAD(gates + 2 * n);
            vf out = LOAD(gates + 3 * n), shown = v_tanh(LOAD(c));
            vf d = v_add(LOAD(dc), through_tanh(v_mul(LOAD(dh), out), shown));
            STORE(dgates, through_sigmoid(v_mul(d, fresh), in));
            STORE(dgates + n, before ? through_sigmoid(v_mul(d, LOAD(before)), forget) : v_zero());
            STORE(dgates + 2 * n, through_tanh(v_mul(d, in), fresh));
            STORE(dgates + 3 * n, through_sigmoid(v_mul(LOAD(dh), shown), out));
            STORE(dc, v_mul(d, forget));
        }
    }
    return 0;
}

static int gru_cell(struct k_ctx *ctx, const struct k_gru_cell *a) {
    int64_t n = a->h.shape[1];

    if (a->input.shape[1] != 3 * n)
        return -EINVAL;
    for (int64_t row = 0; row < a->h.shape[0]; row++) {
        const float *before = a->h_before.data ? row_of(&a->h_before, row) : NULL;
        const float *state = row_of(&a->state, row);
        float *input = row_of(&a->input, row), *h = row_of(&a->h, row);
        FOR_VECTORS(n) {
            vf r = sigmoid(v_add(LOAD(input), LOAD(state)));
            vf z = sigmoid(v_add(LOAD(input + n), LOAD(state + n)));
            vf fresh = v_tanh(v_fma(r, LOAD(state + 2 * n), LOAD(input + 2 * n)));
            vf kept = before ? v_mul(z, LOAD(before)) : v_zero();
            STORE(h, v_fma(v_sub(v_set(1), z), fresh, kept));
            STORE(input, r);
            STORE(input + n, z);
            STORE(input + 2 * n, fresh);
        }
    }
    return 0;
}

static int gru_cell_dx(struct k_ctx *ctx, const struct k_gru_cell_dx *a) {
    int64_t n = a->dh.shape[1];

    if (a->gates.shape[1] != 3 * n)
        return -EINVAL;
    for (int64_t row = 0; row < a->dh.shape[0]; row++) {
        const float *before = a->h_before.data ? row_of(&a->h_before, row) : NULL;
        const float *gates = row_of(&a->gates, row), *state = row_of(&a->state, row);
        const float *dh = row_of(&a->dh, row);
        float *dinput = row_of(&a->dinput, row), *dstate = row_of(&a->dstate, row);
        float *dh_before = row_of(&a->dh_before, row);
        FOR_VECTORS(n) {
            vf r = LOAD(gates), z = LOAD(gates + n), fresh = LOAD(gates + 2 * n), d = LOAD(dh);
            vf dfresh = through_tanh(v_mul(d, v_sub(v_set(1), z)), fresh);
            vf dr = through_sigmoid(v_mul(dfresh, LOAD(state + 2 * n)), r);
            vf old = before ? LOAD(before) : v_zero();
            vf dz = through_sigmoid(v_mul(d, v_sub(old, fresh)), z);
            STORE(dinput, dr);
            STORE(dstate, dr);
            STORE(dinput + n, dz);
            STORE(dstate + n, dz);
            STORE(dinput + 2 * n, dfresh);
            STORE(dstate + 2 * n, v_mul(dfresh, r));
            STORE(dh_before, v_mul(d, z));
        }
    }
    return 0;
}
