/* Attention with masks. */
#include "kernels/kmath.h"
#include "kernels/masked.h"
#include "kernels/ref/ref.h"

#include <math.h>

/* Score of query i and key j of a sequence and head; -infinity: hidden. */
static double score(const struct k_attention_masked *a, int64_t s, int64_t h, int64_t i,
                    int64_t j) {
    int64_t n_queries = a->q.shape[0] / a->n_seqs, n_keys = a->k.shape[0] / a->n_seqs;
    const float *q = ref_row2(&a->q, s * n_queries + i, h);
    const float *k = ref_row2(&a->k, s * n_keys + j, h);
    double sum = 0;

    if (j >= masked_end(a, s, i))
        return -INFINITY;
    for (int64_t d = 0; d < a->q.shape[2]; d++)
        sum += (double)q[d] * k[d];
    return sum * (double)a->scale + masked_add(a, s, h, i, j);
}

int k_ref_attention_masked(struct k_ctx *ctx, const struct k_attention_masked *a) {
    if (!masked_is_whole(a))
        return -EINVAL;
    int64_t n_queries = a->q.shape[0] / a->n_seqs, n_keys = a->k.shape[0] / a->n_seqs;

    for (int64_t t = 0; t < a->q.shape[0]; t++)
        for (int64_t h = 0; h < a->q.shape[1]; h++) {
            int64_t s = t / n_queries, i = t % n_queries, n_value = a->v.shape[2];
            float *y = ref_row2(&a->y, t, h), *lse = &ref_row(&a->lse, t)[h];
            double max = -INFINITY, sum = 0;
            for (int64_t j = 0; j < n_keys; j++)
                max = MAX(max, score(a, s, h, i, j));
            for (int64_t j = 0; j < n_keys && max != -INFINITY; j++)
                sum += kmath_exp(score(a, s, h, i, j) - max);
            *lse = sum == 0 ? -INFINITY : (float)(max + kmath_log(sum)); // NaN stays
            for (int64_t d = 0; d < n_value; d++) {
                double value = 0;
                for (int64_t j = 0; j < n_keys && sum != 0; j++)
                    value += kmath_exp(score(a, s, h, i, j) - max) / sum *
                             ref_row2(&a->v, s * n_keys + j, h)[d];
                y[d] = (float)value;
            }
        }
    return 0;
}

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* The weight of key j for query i, and the gradient of their score. */
static double weight(const struct k_attention_masked_dx *a, int64_t s, int64_t h, int64_t i,
                     int64_t j, double *ret_dscore) {
    const struct k_attention_masked *of = &a->of;
    int64_t n_queries = of->q.shape[0] / of->n_seqs, n_keys = of->k.shape[0] / of->n_seqs;
    int64_t t = s * n_queries + i, n_value = of->v.shape[2];
    const float *dy = ref_row2(&a->dy, t, h);
    double lse = ref_row(&of->lse, t)[h], from = score(of, s, h, i, j);

    *ret_dscore = 0;
    if (from == -INFINITY)
        return 0;
    double p = kmath_exp(from - lse);
    *ret_dscore = p *
                  (dot(dy, ref_row2(&of->v, s * n_keys + j, h), n_value) -
                   dot(dy, ref_row2(&of->y, t, h), n_value)) *
                  (double)of->scale;
    return p;
}

/* dq of a sequence's head. */
static void queries_dx(const struct k_attention_masked_dx *a, int64_t s, int64_t h) {
    const struct k_attention_masked *of = &a->of;
    int64_t n_queries = of->q.shape[0] / of->n_seqs, n_keys = of->k.shape[0] / of->n_seqs;

    for (int64_t i = 0; i < n_queries; i++)
        for (int64_t d = 0; d < of->q.shape[2]; d++) {
            double sum = 0, dscore;
            for (int64_t j = 0; j < n_keys; j++) {
                (void)weight(a, s, h, i, j, &dscore);
                sum += dscore * ref_row2(&of->k, s * n_keys + j, h)[d];
            }
            ref_row2(&a->dq, s * n_queries + i, h)[d] = (float)sum;
        }
}

/* dk and dv of one key. */
static void key_dx(const struct k_attention_masked_dx *a, int64_t s, int64_t h, int64_t j) {
    const struct k_attention_masked *of = &a->of;
    int64_t n_queries = of->q.shape[0] / of->n_seqs, n_keys = of->k.shape[0] / of->n_seqs;
    double dscore;

    for (int64_t d = 0; d < of->k.shape[2]; d++) {
        double sum = 0;
        for (int64_t i = 0; i < n_queries; i++) {
            (void)weight(a, s, h, i, j, &dscore);
            sum += dscore * ref_row2(&of->q, s * n_queries + i, h)[d];
        }
        ref_row2(&a->dk, s * n_keys + j, h)[d] = (float)sum;
    }
    for (int64_t d = 0; d < of->v.shape[2]; d++) {
        double sum = 0;
        for (int64_t i = 0; i < n_queries; i++)
            sum += weight(a, s, h, i, j, &dscore) * ref_row2(&a->dy, s * n_queries + i, h)[d];
        ref_row2(&a->dv, s * n_keys + j, h)[d] = (float)sum;
    }
}

int k_ref_attention_masked_dx(struct k_ctx *ctx, const struct k_attention_masked_dx *a) {
    if (!masked_is_whole(&a->of))
        return -EINVAL;
    for (int64_t s = 0; s < a->of.n_seqs; s++)
        for (int64_t h = 0; h < a->of.q.shape[1]; h++) {
            queries_dx(a, s, h);
            for (int64_t j = 0; j < a->of.k.shape[0] / a->of.n_seqs; j++)
                key_dx(a, s, h, j);
        }
    return 0;
}
