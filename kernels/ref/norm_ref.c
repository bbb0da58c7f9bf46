#include "kernels/kmath.h"
#include "kernels/ref/ref.h"

int k_ref_rmsnorm(struct k_ctx *ctx, const struct k_rmsnorm *a) {
    const float *weight = a->weight.data;
    int64_t n = a->x.shape[1];

    for (int64_t t = 0; t < a->x.shape[0]; t++) {
        const float *x = ref_row(&a->x, t);
        float *y = ref_row(&a->y, t);
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += (double)x[i] * x[i];
        double scale = 1 / kmath_sqrt(sum / (double)n + (double)a->eps);
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)(x[i] * scale * weight[i]);
        if (a->scale.data)
            ((float *)a->scale.data)[t] = (float)scale;
    }
    return 0;
}

int k_ref_rmsnorm_dx(struct k_ctx *ctx, const struct k_rmsnorm_dx *a) {
    const float *weight = a->weight.data;
    int64_t n = a->x.shape[1];

    for (int64_t t = 0; t < a->x.shape[0]; t++) {
        const float *x = ref_row(&a->x, t), *dy = ref_row(&a->dy, t);
        const float *residual = a->residual.data ? ref_row(&a->residual, t) : NULL;
        float *dx = ref_row(&a->dx, t);
        double scale = ((const float *)a->scale.data)[t], dot = 0;
        for (int64_t i = 0; i < n; i++)
            dot += (double)dy[i] * weight[i] * x[i];
        double pull = dot * scale * scale / (double)n;
        for (int64_t i = 0; i < n; i++) {
            double g = scale * ((double)dy[i] * weight[i] - x[i] * pull);
            dx[i] = (float)(residual ? residual[i] + g : g);
        }
    }
    return 0;
}

int k_ref_rmsnorm_dw(struct k_ctx *ctx, const struct k_rmsnorm_dw *a) {
    float *dw = a->dw.data;

    for (int64_t i = 0; i < a->x.shape[1]; i++) {
        double sum = 0;
        for (int64_t t = 0; t < a->x.shape[0]; t++)
            sum += (double)ref_row(&a->dy, t)[i] * ref_row(&a->x, t)[i] *
                   ((const float *)a->scale.data)[t];
        dw[i] = (float)(dw[i] + sum);
    }
    return 0;
}
