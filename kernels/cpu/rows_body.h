/* rows_body.h - operators that work row by row, bound by memory: norms, activations, cross-entropy,
 * rotary embedding, optimizer. Sums over a row are VEC partial sums added in one fixed order.
 */
#pragma once
#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"
#include "kernels/kmath.h"

ALWAYS_INLINE float *row_of(const struct k_tensor *t, int64_t i) {
    return (float *)t->data + i * t->stride[0];
}

ALWAYS_INLINE float dot(const float *a, const float *b, int64_t n) {
    vf sum = v_zero();
    int64_t i = 0;

    for (; i + VEC <= n; i += VEC)
        sum = v_fma(v_load(a + i), v_load(b + i), sum);
    if (i < n)
        sum = v_fma(v_load_n(a + i, n - i), v_load_n(b + i, n - i), sum);
    return v_sum(sum);
}

/* y += by * x */
ALWAYS_INLINE void add_scaled(float *y, const float *x, float by, int64_t n) {
    int64_t i = 0;

    for (; i + VEC <= n; i += VEC)
        v_store(y + i, v_fma(v_set(by), v_load(x + i), v_load(y + i)));
    if (i < n)
        v_store_n(y + i, v_fma(v_set(by), v_load_n(x + i, n - i), v_load_n(y + i, n - i)), n - i);
}

/* Run `body` over [0, n) in vectors, the last of `left` elements; load and store know the width. */
#define FOR_VECTORS(n)                                                                             \
    for (int64_t i = 0, left_ = (n); i < left_; i += VEC)                                          \
        for (int64_t left = MIN(left_ - i, (int64_t)VEC), once_ = 1; once_; once_ = 0)
#define LOAD(p) (left == VEC ? v_load((p) + i) : v_load_n((p) + i, left))
#define STORE(p, v) (left == VEC ? v_store((p) + i, (v)) : v_store_n((p) + i, (v), left))

static int rmsnorm(struct k_ctx *ctx, const struct k_rmsnorm *a) {
    const float *weight = a->weight.data;
    int64_t n = a->x.shape[1];

    for (int64_t t = 0; t < a->x.shape[0]; t++) {
        const float *x = row_of(&a->x, t);
        float *y = row_of(&a->y, t);
        double mean = (double)dot(x, x, n) / (double)n;
        float scale = (float)(1 / kmath_sqrt(mean + (double)a->eps));
        FOR_VECTORS(n)
        STORE(y, v_mul(v_mul(LOAD(x), v_set(scale)), LOAD(weight)));
        if (a->scale.data)
            ((float *)a->scale.data)[t] = scale;
    }
    return 0;
}

static int rmsnorm_dx(struct k_ctx *ctx, const struct k_rmsnorm_dx *a) {
    const float *weight = a->weight.data;
    int64_t n = a->x.shape[1];

    for (int64_t t = 0; t < a->x.shape[0]; t++) {
        const float *x = row_of(&a->x, t), *dy = row_of(&a->dy, t);
        float *dx = row_of(&a->dx, t), scale = ((const float *)a->scale.data)[t];
        const float *residual = a->residual.data ? row_of(&a->residual, t) : NULL;
        vf sum = v_zero();
        FOR_VECTORS(n)
        sum = v_fma(v_mul(LOAD(dy), LOAD(weight)), LOAD(x), sum);
        vf pull = v_set(v_sum(sum) * scale * scale / (float)n);
        FOR_VECTORS(n) {
            vf g = v_fnma(LOAD(x), pull, v_mul(LOAD(dy), LOAD(weight)));
            STORE(dx, v_fma(v_set(scale), g, residual ? LOAD(residual) : v_zero()));
        }
    }
    return 0;
}

static int rmsnorm_dw(struct k_ctx *ctx, const struct k_rmsnorm_dw *a) {
    const float *scale = a->scale.data;
    float *dw = a->dw.data;

    FOR_VECTORS(a->x.shape[1]) {
        vf sum = LOAD(dw);
        for (int64_t t = 0; t < a->x.shape[0]; t++)
            sum =
                v_fma(v_mul(LOAD(row_of(&a->dy, t)), v_set(scale[t])), LOAD(row_of(&a->x, t)), sum);
        STORE(dw, sum);
    }
    return 0;
}

ALWAYS_INLINE vf sigmoid(vf x) {
    return v_div(v_set(1), v_add(v_set(1), v_exp(v_sub(v_zero(), x))));
}

static int swiglu(struct k_ctx *ctx, const struct k_swiglu *a) {
    for (int64_t r = 0; r < a->y.shape[0]; r++) {
        const float *gate = row_of(&a->gate, r), *up = row_of(&a->up, r);
        float *y = row_of(&a->y, r);
        FOR_VECTORS(a->y.shape[1]) {
            vf g = LOAD(gate);
            STORE(y, v_mul(v_mul(g, sigmoid(g)), LOAD(up)));
        }
    }
    return 0;
}

static int swiglu_dx(struct k_ctx *ctx, const struct k_swiglu_dx *a) {
    for (int64_t r = 0; r < a->dy.shape[0]; r++) {
        const float *gate = row_of(&a->gate, r), *up = row_of(&a->up, r), *dy = row_of(&a->dy, r);
        float *dgate = row_of(&a->dgate, r), *dup = row_of(&a->dup, r);
        FOR_VECTORS(a->dy.shape[1]) {
            vf g = LOAD(gate), u = LOAD(up), d = LOAD(dy), s = sigmoid(g);
            vf slope = v_mul(s, v_fma(g, v_sub(v_set(1), s), v_set(1)));
            STORE(dgate, v_mul(v_mul(d, u), slope));
            STORE(dup, v_mul(v_mul(d, g), s));
        }
    }
    return 0;
}

/* Loss of a row; its exponentials are left in place and their sum and maximum given back. */
static double row_loss(float *x, int64_t n, int32_t label, float *ret_sum) {
    vf max = v_set(x[0]), sum = v_zero();

    double picked = (double)x[label];
    FOR_VECTORS(n)
    max = left == VEC ? v_max(max, LOAD(x)) : max;
    float m = v_max_all(max);
    for (int64_t i = n / VEC * VEC; i < n; i++)
        m = MAX(m, x[i]);
    FOR_VECTORS(n) {
        STORE(x, v_exp(v_sub(LOAD(x), v_set(m))));
        sum = v_add(sum, LOAD(x));
    }
    *ret_sum = v_sum(sum);
    return (double)m + kmath_log((double)*ret_sum) - picked;
}

static int cross_entropy(struct k_ctx *ctx, const struct k_cross_entropy *a) {
    const int32_t *labels = a->labels.data;
    int64_t n = a->logits.shape[1];
    double loss = 0;

    for (int64_t t = 0; t < a->logits.shape[0]; t++) {
        float *x = row_of(&a->logits, t), sum;
        if (labels[t] < 0) {
            if (a->backward)
                memset(x, 0, (size_t)n * sizeof *x);
            continue;
        }
        loss += row_loss(x, n, labels[t], &sum);
        if (!a->backward)
            continue;
        vf by = v_set(a->grad_scale / sum);
        FOR_VECTORS(n)
        STORE(x, v_mul(LOAD(x), by));
        x[labels[t]] -= a->grad_scale;
    }
    *(double *)a->loss.data += loss * (double)a->loss_scale;
    return 0;
}

/* Pairs (i, i + half) of one head. */
ALWAYS_INLINE void rotate_halves(float *x, const float *c, const float *s, int64_t half,
                                 float sign) {
    float *y = x + half;

    FOR_VECTORS(half) {
        vf u = LOAD(x), v = LOAD(y), co = LOAD(c), si = v_mul(LOAD(s), v_set(sign));
        STORE(x, v_fnma(v, si, v_mul(u, co)));
        STORE(y, v_fma(u, si, v_mul(v, co)));
    }
}

ALWAYS_INLINE void rotate_adjacent(float *x, const float *c, const float *s, int64_t half,
                                   float sign) {
    for (int64_t i = 0; i < half; i++) {
        float u = x[2 * i], v = x[2 * i + 1], si = s[i] * sign;
        x[2 * i] = u * c[i] - v * si;
        x[2 * i + 1] = v * c[i] + u * si;
    }
}

static int rope(struct k_ctx *ctx, const struct k_rope *a) {
    const int32_t *position = a->position.data;
    int64_t half = a->cosine.shape[1];
    float sign = a->inverse ? -1 : 1;

    if (a->x.shape[2] != 2 * half)
        return -EINVAL;
    for (int64_t t = 0; t < a->x.shape[0]; t++) {
        const float *c = row_of(&a->cosine, position[t]), *s = row_of(&a->sine, position[t]);
        for (int64_t h = 0; h < a->x.shape[1]; h++) {
            float *x = row_of(&a->x, t) + h * a->x.stride[1];
            if (a->adjacent)
                rotate_adjacent(x, c, s, half, sign);
            else
                rotate_halves(x, c, s, half, sign);
        }
    }
    return 0;
}

static int embed_dw(struct k_ctx *ctx, const struct k_embed_dw *a) {
    const int32_t *ids = a->ids.data;

    for (int64_t t = 0; t < a->dy.shape[0]; t++)
        if (ids[t] >= 0)
            add_scaled(row_of(&a->dw, ids[t]), row_of(&a->dy, t), 1, a->dy.shape[1]);
    return 0;
}

static int combine(struct k_ctx *ctx, const struct k_combine *a) {
    int64_t n_slots = a->pair_row.shape[1];

    for (int64_t t = 0; t < a->y.shape[0]; t++) {
        const int32_t *rows = (const int32_t *)a->pair_row.data + t * a->pair_row.stride[0];
        for (int64_t s = 0; s < n_slots; s++)
            if (rows[s] >= 0)
                add_scaled(row_of(&a->y, t), row_of(&a->x, rows[s]),
                           a->weights.data ? row_of(&a->weights, t)[s] : 1, a->y.shape[1]);
    }
    return 0;
}

static int combine_dx(struct k_ctx *ctx, const struct k_combine_dx *a) {
    int64_t n = a->dy.shape[1];

    for (int64_t t = 0; t < a->dy.shape[0]; t++) {
        const int32_t *rows = (const int32_t *)a->pair_row.data + t * a->pair_row.stride[0];
        const float *dy = row_of(&a->dy, t);
        for (int64_t s = 0; s < a->pair_row.shape[1]; s++) {
            row_of(&a->dweights, t)[s] = 0;
            if (rows[s] < 0)
                continue;
            float *dx = row_of(&a->dx, rows[s]), weight = row_of(&a->weights, t)[s];
            row_of(&a->dweights, t)[s] = dot(dy, row_of(&a->x, rows[s]), n);
            FOR_VECTORS(n)
            STORE(dx, v_mul(LOAD(dy), v_set(weight)));
        }
    }
    return 0;
}

static int copy(struct k_ctx *ctx, const struct k_copy *a) {
    int64_t n = a->y.shape[2];

    for (int64_t r = 0; r < a->y.shape[0]; r++)
        for (int64_t h = 0; h < a->y.shape[1]; h++) {
            float *y = row_of(&a->y, r) + h * a->y.stride[1];
            const float *x = row_of(&a->x, r) + h * a->x.stride[1];
            if (a->accumulate)
                add_scaled(y, x, 1, n);
            else
                memcpy(y, x, (size_t)n * sizeof *y);
        }
    return 0;
}

static int sum_heads(struct k_ctx *ctx, const struct k_sum_heads *a) {
    for (int64_t r = 0; r < a->y.shape[0]; r++) {
        float *y = row_of(&a->y, r);
        memset(y, 0, (size_t)a->y.shape[1] * sizeof *y);
        for (int64_t h = 0; h < a->x.shape[1]; h++)
            add_scaled(y, row_of(&a->x, r) + h * a->x.stride[1], 1, a->y.shape[1]);
    }
    return 0;
}

static int add(struct k_ctx *ctx, const struct k_add *a) {
    float *y = a->y.data;
    const float *x = a->x.data;

    FOR_VECTORS(a->y.shape[0]) {
        vf v = a->beta == 0 ? v_zero() : v_mul(LOAD(y), v_set(a->beta));
        STORE(y, x ? v_fma(v_set(a->alpha), LOAD(x), v) : v);
    }
    return 0;
}

/* Eight double sums, one an element position modulo eight, then added in order. */
static int sum_squares(struct k_ctx *ctx, const struct k_sum_squares *a) {
    const float *x = a->x.data;
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    double lanes[8], sum = 0;
    int64_t n = a->x.shape[0], i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256d u = _mm256_cvtps_pd(_mm_loadu_ps(x + i));
        __m256d v = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4));
        low = _mm256_fmadd_pd(u, u, low);
        high = _mm256_fmadd_pd(v, v, high);
    }
    _mm256_storeu_pd(lanes, low);
    _mm256_storeu_pd(lanes + 4, high);
    for (int k = 0; k < 8; k++)
        sum += lanes[k];
    for (; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    *(double *)a->sum.data += sum;
    return 0;
}

static int adamw(struct k_ctx *ctx, const struct k_adamw *a) {
    float *w = a->w.data, *m = a->m.data, *v = a->v.data;
    const float *g = a->g.data;
    double beta1 = (double)a->beta1, beta2 = (double)a->beta2;
    float step_size = (float)((double)a->lr / (1 - kmath_pow(beta1, (double)a->step)));
    float correct2 = (float)(1 / (1 - kmath_pow(beta2, (double)a->step)));
    vf keep = v_set((float)(1 - (double)a->lr * (double)a->decay));
    vf rest1 = v_set((float)(1 - beta1)), rest2 = v_set((float)(1 - beta2));

    FOR_VECTORS(a->w.shape[0]) {
        vf grad = v_mul(LOAD(g), v_set(a->grad_scale));
        vf mean = v_fma(v_set(a->beta1), LOAD(m), v_mul(rest1, grad));
        vf square = v_fma(v_set(a->beta2), LOAD(v), v_mul(rest2, v_mul(grad, grad)));
        vf root = v_add(v_sqrt(v_mul(square, v_set(correct2))), v_set(a->eps));
        STORE(w, v_fnma(v_set(step_size), v_div(mean, root), v_mul(LOAD(w), keep)));
        STORE(m, mean);
        STORE(v, square);
    }
    return 0;
}
