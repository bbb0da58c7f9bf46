#include "kernels/kmath.h"
#include "kernels/ref/ref.h"

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* The row of a sequence's key p. */
static int64_t key_row(const struct k_attention *a, int64_t s, int64_t p) {
    if (!a->pages.data)
        return ref_ints(&a->q_start)[s] + p;
    int32_t page = ref_ints(&a->pages)[s * a->pages.stride[0] + p / a->page_tokens];
    return page * a->page_tokens + p % a->page_tokens;
}

/* Scaled score of query t of head h with key p. */
static double score(const struct k_attention *a, int64_t s, int64_t t, int64_t h, int64_t p) {
    const float *q = ref_row2(&a->q, t, h);
    const void *k = ref_row_of(&a->k, key_row(a, s, p), h / (a->q.shape[1] / a->k.shape[1]));
    double sum = 0;

    for (int64_t i = 0; i < a->q.shape[2]; i++)
        sum += (double)q[i] * ref_number(a->k.dtype, k, i);
    return sum * (double)a->scale;
}

/* One query: passes over its keys, so that no memory is needed; the maximum goes first. */
static void attend(const struct k_attention *a, int64_t s, int64_t t, int64_t h, int64_t n_keys) {
    int64_t j = h / (a->q.shape[1] / a->k.shape[1]);
    double max = -__builtin_inf(), sum = 0;

    for (int64_t p = 0; p < n_keys; p++)
        max = MAX(max, score(a, s, t, h, p));
    for (int64_t p = 0; p < n_keys; p++)
        sum += kmath_exp(score(a, s, t, h, p) - max);
    double lse = max + kmath_log(sum);
    for (int64_t d0 = 0; d0 < a->v.shape[2]; d0 += 64) {
        double acc[64] = {0};
        int64_t n = MIN(a->v.shape[2] - d0, 64);
        for (int64_t p = 0; p < n_keys; p++) {
            const void *v = ref_row_of(&a->v, key_row(a, s, p), j);
            double weight = kmath_exp(score(a, s, t, h, p) - lse);
            for (int64_t d = 0; d < n; d++)
                acc[d] += weight * ref_number(a->v.dtype, v, d0 + d);
        }
        for (int64_t d = 0; d < n; d++)
            ref_row2(&a->y, t, h)[d0 + d] = (float)acc[d];
    }
    if (a->lse.data)
        ref_row(&a->lse, t)[h] = (float)lse;
}

int k_ref_attention(struct k_ctx *ctx, const struct k_attention *a) {
    const int32_t *q_start = a->q_start.data, *kv_length = a->kv_length.data;

    if (a->q.shape[1] % a->k.shape[1] || (a->pages.data && a->page_tokens < 1))
        return -EINVAL;
    for (int64_t s = 0; s < a->kv_length.shape[0]; s++)
        for (int64_t t = q_start[s]; t < q_start[s + 1]; t++)
            for (int64_t h = 0; h < a->q.shape[1]; h++)
                attend(a, s, t, h, kv_length[s] - (q_start[s + 1] - 1 - t));
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

enum {
    CHUNK = 64 // elements of a row summed in double at once; scores are computed again for each
};

/* dq of one query: sum over its keys, ascending. */
static void query_gradient(const struct k_attention_dx *a, int64_t first, int64_t t, int64_t h) {
    int64_t j = h / (a->q.shape[1] / a->k.shape[1]);

    for (int64_t d0 = 0; d0 < a->q.shape[2]; d0 += CHUNK) {
        double acc[CHUNK] = {0}, p;
        int64_t n = MIN(a->q.shape[2] - d0, (int64_t)CHUNK);
        for (int64_t u = first; u <= t; u++) {
            double ds = pair_gradient(a, t, u, h, j, &p);
            for (int64_t d = 0; d < n; d++)
                acc[d] += ds * ref_row2(&a->k, u, j)[d0 + d];
        }
        for (int64_t d = 0; d < n; d++)
            ref_row2(&a->dq, t, h)[d0 + d] = (float)acc[d];
    }
}

/* dk and dv of one key: sums over the heads that read it and the queries from it on, ascending. */
static void key_gradient(const struct k_attention_dx *a, int64_t u, int64_t end, int64_t j) {
    int64_t group = a->q.shape[1] / a->k.shape[1], d_key = a->k.shape[2], d_value = a->v.shape[2];

    for (int64_t d0 = 0; d0 < MAX(d_key, d_value); d0 += CHUNK) {
        double dk[CHUNK] = {0}, dv[CHUNK] = {0}, p;
        int64_t n_key = MIN(d_key - d0, (int64_t)CHUNK),
                n_value = MIN(d_value - d0, (int64_t)CHUNK);
        for (int64_t h = j * group; h < (j + 1) * group; h++)
            for (int64_t t = u; t < end; t++) {
                double ds = pair_gradient(a, t, u, h, j, &p);
                for (int64_t d = 0; d < n_key; d++)
                    dk[d] += ds * ref_row2(&a->q, t, h)[d0 + d];
                for (int64_t d = 0; d < n_value; d++)
                    dv[d] += p * ref_row2(&a->dy, t, h)[d0 + d];
            }
        for (int64_t d = 0; d < n_key; d++)
            ref_row2(&a->dk, u, j)[d0 + d] = (float)dk[d];
        for (int64_t d = 0; d < n_value; d++)
            ref_row2(&a->dv, u, j)[d0 + d] = (float)dv[d];
    }
}

int k_ref_attention_dx(struct k_ctx *ctx, const struct k_attention_dx *a) {
    const int32_t *q_start = a->q_start.data;

    if (a->q.shape[1] % a->k.shape[1])
        return -EINVAL;
    for (int64_t s = 0; s < a->q_start.shape[0] - 1; s++)
        for (int64_t t = q_start[s]; t < q_start[s + 1]; t++) {
            for (int64_t h = 0; h < a->q.shape[1]; h++)
                query_gradient(a, q_start[s], t, h);
            for (int64_t j = 0; j < a->k.shape[1]; j++)
                key_gradient(a, t, q_start[s + 1], j);
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
