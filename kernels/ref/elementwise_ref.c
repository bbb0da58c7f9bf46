#include "kernels/kmath.h"
#include "kernels/ref/ref.h"

int k_ref_embed(struct k_ctx *ctx, const struct k_embed *a) {
    const int32_t *ids = a->ids.data;
    int64_t n = a->y.shape[1];

    for (int64_t t = 0; t < a->y.shape[0]; t++)
        for (int64_t i = 0; i < n; i++)
            ref_row(&a->y, t)[i] = ids[t] < 0 ? 0 : (float)ref_weight(a->w, 0, ids[t], i);
    return 0;
}

int k_ref_embed_dw(struct k_ctx *ctx, const struct k_embed_dw *a) {
    const int32_t *ids = a->ids.data;

    for (int64_t t = 0; t < a->dy.shape[0]; t++)
        for (int64_t i = 0; ids[t] >= 0 && i < a->dy.shape[1]; i++)
            ref_row(&a->dw, ids[t])[i] += ref_row(&a->dy, t)[i];
    return 0;
}

int k_ref_swiglu(struct k_ctx *ctx, const struct k_swiglu *a) {
    for (int64_t r = 0; r < a->y.shape[0]; r++)
        for (int64_t i = 0; i < a->y.shape[1]; i++) {
            double g = ref_row(&a->gate, r)[i];
            ref_row(&a->y, r)[i] = (float)(g / (1 + kmath_exp(-g)) * ref_row(&a->up, r)[i]);
        }
    return 0;
}

int k_ref_swiglu_dx(struct k_ctx *ctx, const struct k_swiglu_dx *a) {
    for (int64_t r = 0; r < a->dy.shape[0]; r++)
        for (int64_t i = 0; i < a->dy.shape[1]; i++) {
            double g = ref_row(&a->gate, r)[i], u = ref_row(&a->up, r)[i];
            double dy = ref_row(&a->dy, r)[i], sigmoid = 1 / (1 + kmath_exp(-g));
            ref_row(&a->dgate, r)[i] = (float)(dy * u * sigmoid * (1 + g * (1 - sigmoid)));
            ref_row(&a->dup, r)[i] = (float)(dy * g * sigmoid);
        }
    return 0;
}

int k_ref_copy(struct k_ctx *ctx, const struct k_copy *a) {
    for (int64_t r = 0; r < a->y.shape[0]; r++)
        for (int64_t h = 0; h < a->y.shape[1]; h++) {
            float *y = ref_row2(&a->y, r, h);
            const float *x = ref_row2(&a->x, r, h);
            for (int64_t i = 0; i < a->y.shape[2]; i++)
                y[i] = a->accumulate ? y[i] + x[i] : x[i];
        }
    return 0;
}

int k_ref_sum_heads(struct k_ctx *ctx, const struct k_sum_heads *a) {
    for (int64_t r = 0; r < a->y.shape[0]; r++)
        for (int64_t i = 0; i < a->y.shape[1]; i++) {
            double sum = 0;
            for (int64_t h = 0; h < a->x.shape[1]; h++)
                sum += ref_row2(&a->x, r, h)[i];
            ref_row(&a->y, r)[i] = (float)sum;
        }
    return 0;
}

int k_ref_sum_rows(struct k_ctx *ctx, const struct k_sum_rows *a) {
    float *y = a->y.data;

    for (int64_t i = 0; i < a->x.shape[1]; i++) {
        double sum = y[i];
        for (int64_t r = 0; r < a->x.shape[0]; r++)
            sum += ref_row(&a->x, r)[i];
        y[i] = (float)sum;
    }
    return 0;
}

/* float16 whose infinities became its largest numbers. */
static uint16_t saturated_f16(float x) {
    uint16_t bits = k_to_f16(x);

    return (bits & 0x7fff) == 0x7c00 ? bits - 1 : bits;
}

int k_ref_cache_put(struct k_ctx *ctx, const struct k_cache_put *a) {
    const int32_t *row = a->row.data;

    for (int64_t t = 0; t < a->x.shape[0]; t++)
        for (int64_t h = 0; row[t] >= 0 && h < a->x.shape[1]; h++) {
            const float *x = ref_row2(&a->x, t, h);
            void *y = (void *)(uintptr_t)ref_row_of(&a->cache, row[t], h);
            for (int64_t i = 0; i < a->x.shape[2]; i++) {
                if (a->cache.dtype == K_F32)
                    ((float *)y)[i] = x[i];
                else if (a->cache.dtype == K_BF16)
                    ((uint16_t *)y)[i] = k_to_bf16(x[i]);
                else
                    ((uint16_t *)y)[i] = saturated_f16(x[i]);
            }
        }
    return 0;
}

int k_ref_add(struct k_ctx *ctx, const struct k_add *a) {
    float *y = a->y.data;
    const float *x = a->x.data;

    for (int64_t i = 0; i < a->y.shape[0]; i++) {
        double old = a->beta == 0 ? 0 : (double)a->beta * y[i];
        y[i] = (float)(old + (x ? (double)a->alpha * x[i] : 0));
    }
    return 0;
}

int k_ref_sum_squares(struct k_ctx *ctx, const struct k_sum_squares *a) {
    const float *x = a->x.data;
    double sum = 0;

    for (int64_t i = 0; i < a->x.shape[0]; i++)
        sum += (double)x[i] * x[i];
    *(double *)a->sum.data += sum;
    return 0;
}

int k_ref_adamw(struct k_ctx *ctx, const struct k_adamw *a) {
    float *w = a->w.data, *m = a->m.data, *v = a->v.data;
    const float *g = a->g.data;
    double beta1 = (double)a->beta1, beta2 = (double)a->beta2;
    double correct1 = 1 - kmath_pow(beta1, (double)a->step);
    double correct2 = 1 - kmath_pow(beta2, (double)a->step);

    for (int64_t i = 0; i < a->w.shape[0]; i++) {
        double grad = (double)g[i] * (double)a->grad_scale;
        double mean = beta1 * m[i] + (1 - beta1) * grad;
        double square = beta2 * v[i] + (1 - beta2) * grad * grad;
        double update = mean / correct1 / (kmath_sqrt(square / correct2) + (double)a->eps);
        w[i] = (float)(w[i] - (double)a->lr * ((double)a->decay * w[i] + update));
        m[i] = (float)mean;
        v[i] = (float)square;
    }
    return 0;
}

int k_ref_cross_entropy(struct k_ctx *ctx, const struct k_cross_entropy *a) {
    const int32_t *labels = a->labels.data;
    int64_t n = a->logits.shape[1];
    double loss = 0;

    for (int64_t t = 0; t < a->logits.shape[0]; t++) {
        float *x = ref_row(&a->logits, t);
        double max = x[0], sum = 0;
        if (labels[t] < 0) {
            if (a->backward)
                memset(x, 0, (size_t)n * sizeof *x);
            continue;
        }
        for (int64_t i = 1; i < n; i++)
            max = MAX(max, (double)x[i]);
        for (int64_t i = 0; i < n; i++)
            sum += kmath_exp(x[i] - max);
        double lse = max + kmath_log(sum);
        loss += lse - x[labels[t]];
        for (int64_t i = 0; a->backward && i < n; i++)
            x[i] = (float)((kmath_exp(x[i] - lse) - (i == labels[t])) * (double)a->grad_scale);
    }
    *(double *)a->loss.data += loss * (double)a->loss_scale;
    return 0;
}
