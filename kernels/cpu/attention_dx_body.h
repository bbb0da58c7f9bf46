/* attention_dx_body.h - gradients of causal attention as matrix products over blocks of queries.
 *
 * A block is DX_ROWS queries cut at absolute positions; all keys before its end are scored at once.
 * Pieces are (sequence, key head), so a key's gradient is one thread's sum.
 */
#pragma once
#include "kernels/cpu/attention_body.h"

enum { DX_ROWS = 64 / TILE_ROWS * TILE_ROWS };

/* scores (rows x n_keys, row stride n_keys) = q k^T of one head. */
static void score(const struct k_tensor *q, int64_t row, int64_t h, int64_t rows,
                  const struct k_tensor *k, int64_t key, int64_t j, int64_t n_keys, float *scores,
                  float *work) {
    gemm(&(struct gemm){.m = rows,
                        .n = n_keys,
                        .k = q->shape[2],
                        .a = head_row(q, row, h),
                        .a_row = q->stride[0],
                        .a_k = 1,
                        .b = head_row(k, key, j),
                        .b_k = 1,
                        .b_column = k->stride[0],
                        .c = scores,
                        .c_row = n_keys},
         work);
}

/* y (rows x d) = or += p (rows x n_keys) v of one head; across: p transposed, rows and keys
 * exchanged. */
static void weigh(const float *p, int64_t p_row, bool across, int64_t m, int64_t n_k,
                  const struct k_tensor *v, int64_t first_v, int64_t head_v,
                  const struct k_tensor *y, int64_t first_y, int64_t head_y, bool accumulate,
                  float *work) {
    gemm(&(struct gemm){.m = m,
                        .n = v->shape[2],
                        .k = n_k,
                        .a = p,
                        .a_row = across ? 1 : p_row,
                        .a_k = across ? p_row : 1,
                        .b = head_row(v, first_v, head_v),
                        .b_k = v->stride[0],
                        .b_column = 1,
                        .c = head_row(y, first_y, head_y),
                        .c_row = y->stride[0],
                        .accumulate = accumulate},
         work);
}

struct attention_dx_job {
    const struct k_attention_dx *a;
    float *work;
    int64_t work_floats;
};

static void zero_head(const struct k_tensor *t, int64_t row, int64_t end, int64_t h) {
    for (; row < end; row++)
        memset(head_row(t, row, h), 0, (size_t)t->shape[2] * sizeof(float));
}

/* dp = p * (dp - delta) * scale for the first n, zero up to n_keys; delta = dy . y. */
static void score_gradient(float *dp, const float *p, const float *dy, const float *y, int64_t d,
                           int64_t n, int64_t n_keys, float scale) {
    vf sum = v_zero(), by = v_set(scale);
    int64_t i = 0;

    for (; i + VEC <= d; i += VEC)
        sum = v_fma(v_load(dy + i), v_load(y + i), sum);
    if (i < d)
        sum = v_fma(v_load_n(dy + i, d - i), v_load_n(y + i, d - i), sum);
    vf delta = v_set(v_sum(sum));
    for (i = 0; i + VEC <= n; i += VEC)
        v_store(dp + i, v_mul(v_mul(v_load(p + i), v_sub(v_load(dp + i), delta)), by));
    if (i < n)
        v_store_n(dp + i,
                  v_mul(v_mul(v_load_n(p + i, n - i), v_sub(v_load_n(dp + i, n - i), delta)), by),
                  n - i);
    memset(dp + n, 0, (size_t)(n_keys - n) * sizeof *dp);
}

/* Queries [row, row + rows) of head h, which is `first + position` rows into its sequence. */
static void attention_dx_block(const struct k_attention_dx *a, int64_t first, int64_t row,
                               int64_t rows, int64_t h, int64_t j, float *work) {
    int64_t n_first = row - first + 1, n_keys = n_first + rows - 1;
    float *p = work + GEMM_FLOATS, *dp = p + DX_ROWS * n_keys;

    score(&a->q, row, h, rows, &a->k, first, j, n_keys, p, work);
    score(&a->dy, row, h, rows, &a->v, first, j, n_keys, dp, work);
    for (int64_t i = 0; i < rows; i++) {
        float lse = ((const float *)a->lse.data)[(row + i) * a->lse.stride[0] + h];
        (void)exponentials(p + i * n_keys, n_first + i, n_keys, a->scale, lse);
        score_gradient(dp + i * n_keys, p + i * n_keys, head_row(&a->dy, row + i, h),
                       head_row(&a->y, row + i, h), a->v.shape[2], n_first + i, n_keys, a->scale);
    }
    weigh(dp, n_keys, false, rows, n_keys, &a->k, first, j, &a->dq, row, h, false, work);
    weigh(dp, n_keys, true, n_keys, rows, &a->q, row, h, &a->dk, first, j, true, work);
    weigh(p, n_keys, true, n_keys, rows, &a->dy, row, h, &a->dv, first, j, true, work);
}

static void attention_dx_piece(void *arg, int64_t piece, int thread) {
    const struct attention_dx_job *job = arg;
    const struct k_attention_dx *a = job->a;
    int64_t s = piece / a->k.shape[1], j = piece % a->k.shape[1];
    int64_t group = a->q.shape[1] / a->k.shape[1];
    int64_t first = int_at(&a->q_start, s), end = int_at(&a->q_start, s + 1);

    zero_head(&a->dk, first, end, j);
    zero_head(&a->dv, first, end, j);
    for (int64_t h = j * group; h < (j + 1) * group; h++)
        for (int64_t row = first; row < end; row += DX_ROWS)
            attention_dx_block(a, first, row, MIN(end - row, (int64_t)DX_ROWS), h, j,
                               job->work + thread * job->work_floats);
}

static int64_t attention_dx_floats(int64_t n_keys) {
    return GEMM_FLOATS + 2 * DX_ROWS * (n_keys + 16);
}

static size_t attention_dx_workspace(const struct k_ctx *ctx, const struct k_attention_dx *a) {
    return (size_t)pool_n_threads(ctx->pool) * sizeof(float) *
           (size_t)attention_dx_floats(a->k.shape[0]);
}

static int attention_dx(struct k_ctx *ctx, const struct k_attention_dx *a) {
    struct attention_dx_job job = {a, ctx->workspace, attention_dx_floats(a->k.shape[0])};

    if (a->q.shape[1] % a->k.shape[1])
        return -EINVAL;
    pool_run(ctx->pool, (a->q_start.shape[0] - 1) * a->k.shape[1], attention_dx_piece, &job);
    return 0;
}
