/* masked_body.h - attention with masks and its gradients, as matrix products over blocks of
 * queries.
 *
 * Pieces are (sequence, head), so a key's gradient is one thread's sum.
 */
#pragma once
#include "kernels/cpu/attention_dx_body.h"
#include "kernels/cpu/curves_body.h"
#include "kernels/masked.h"

struct masked_job {
    const struct k_attention_masked *of;
    const struct k_attention_masked_dx *dx; // NULL: forward
    float *work;
    int64_t work_floats;
};

/* A row of products becomes scores, up to `end`; -infinity: hidden. */
static void mask_row(const struct k_attention_masked *a, int64_t s, int64_t h, int64_t query,
                     int64_t end, float *row) {
    const void *mask = masked_row(a, s, h, query);
    const float *add = a->mask.dtype == K_F32 ? mask : NULL;
    const int32_t *hide = a->mask.dtype == K_F32 ? NULL : mask;

    FOR_VECTORS(end)
    STORE(row, v_fma(LOAD(row), v_set(a->scale), add ? LOAD(add) : v_zero()));
    for (int64_t j = 0; hide && j < end; j++)
        row[j] = hide[j] ? -INFINITY : row[j];
}

/* e^(score - by), 0 where hidden; their sum. */
static float masked_exponentials(float *row, int64_t end, float by) {
    vf sum = v_zero();

    FOR_VECTORS(end) {
        vf x = LOAD(row);
        STORE(row, v_where_below(x, v_set(-3.4e38f), v_zero(), v_exp(v_sub(x, v_set(by)))));
        sum = v_add(sum, LOAD(row));
    }
    return v_sum(sum);
}

/* Scores of a row become weights, zero from `end` on; returns their lse. */
static float masked_softmax(float *row, int64_t end, int64_t n_keys) {
    float max = -INFINITY;

    for (int64_t j = 0; j < end; j++)
        max = row[j] > max || row[j] != row[j] ? row[j] : max;
    memset(row + end, 0, (size_t)(n_keys - end) * sizeof *row);
    if (max == -INFINITY) { // sees nothing
        memset(row, 0, (size_t)end * sizeof *row);
        return -INFINITY;
    }
    float sum = masked_exponentials(row, end, max);
    FOR_VECTORS(end)
    STORE(row, v_mul(LOAD(row), v_set(1 / sum)));
    return (float)((double)max + kmath_log((double)sum));
}

/* Keys that any of the queries [i, i + rows) sees: none behind them is touched. */
static int64_t masked_keys(const struct k_attention_masked *a, int64_t s, int64_t i, int64_t rows) {
    return masked_end(a, s, i + rows - 1);
}

static void masked_block(const struct k_attention_masked *a, int64_t s, int64_t h, int64_t i,
                         int64_t rows, float *work) {
    int64_t row = s * (a->q.shape[0] / a->n_seqs) + i, key = s * (a->k.shape[0] / a->n_seqs);
    int64_t n_keys = masked_keys(a, s, i, rows);
    float *p = work + GEMM_FLOATS;

    if (n_keys)
        score(&a->q, row, h, rows, &a->k, key, h, n_keys, p, work);
    for (int64_t r = 0; r < rows; r++) {
        int64_t end = masked_end(a, s, i + r);
        mask_row(a, s, h, i + r, end, p + r * n_keys);
        row_of(&a->lse, row + r)[h] = masked_softmax(p + r * n_keys, end, n_keys);
    }
    if (n_keys)
        weigh(p, n_keys, false, rows, n_keys, &a->v, key, h, &a->y, row, h, false, work);
    else
        zero_head(&a->y, row, row + rows, h);
}

static void masked_dx_block(const struct k_attention_masked_dx *a, int64_t s, int64_t h, int64_t i,
                            int64_t rows, float *work) {
    const struct k_attention_masked *of = &a->of;
    int64_t row = s * (of->q.shape[0] / of->n_seqs) + i, key = s * (of->k.shape[0] / of->n_seqs);
    int64_t n_keys = masked_keys(of, s, i, rows);
    float *p = work + GEMM_FLOATS, *dp = p + DX_ROWS * n_keys;

    if (!n_keys) {
        zero_head(&a->dq, row, row + rows, h);
        return;
    }
    score(&of->q, row, h, rows, &of->k, key, h, n_keys, p, work);
    score(&a->dy, row, h, rows, &of->v, key, h, n_keys, dp, work);
    for (int64_t r = 0; r < rows; r++) {
        int64_t end = masked_end(of, s, i + r);
        float *weights = p + r * n_keys, lse = row_of(&of->lse, row + r)[h];
        mask_row(of, s, h, i + r, end, weights);
        (void)masked_exponentials(weights, end, lse);
        memset(weights + end, 0, (size_t)(n_keys - end) * sizeof *weights);
        score_gradient(dp + r * n_keys, weights, head_row(&a->dy, row + r, h),
                       head_row(&of->y, row + r, h), of->v.shape[2], end, n_keys, of->scale);
    }
    weigh(dp, n_keys, false, rows, n_keys, &of->k, key, h, &a->dq, row, h, false, work);
    weigh(dp, n_keys, true, n_keys, rows, &of->q, row, h, &a->dk, key, h, true, work);
    weigh(p, n_keys, true, n_keys, rows, &a->dy, row, h, &a->dv, key, h, true, work);
}

static void masked_piece(void *arg, int64_t piece, int thread) {
    const struct masked_job *job = arg;
    const struct k_attention_masked *of = job->of;
    int64_t s = piece / of->q.shape[1], h = piece % of->q.shape[1];
    int64_t n_queries = of->q.shape[0] / of->n_seqs, n_keys = of->k.shape[0] / of->n_seqs;
    float *work = job->work + thread * job->work_floats;

    if (job->dx) {
        zero_head(&job->dx->dk, s * n_keys, (s + 1) * n_keys, h);
        zero_head(&job->dx->dv, s * n_keys, (s + 1) * n_keys, h);
    }
    for (int64_t i = 0; i < n_queries; i += DX_ROWS) {
        int64_t rows = MIN(n_queries - i, (int64_t)DX_ROWS);
        if (job->dx)
            masked_dx_block(job->dx, s, h, i, rows, work);
        else
            masked_block(of, s, h, i, rows, work);
    }
}

static int64_t masked_floats(const struct k_attention_masked *a) {
    return attention_dx_floats(a->n_seqs > 0 ? a->k.shape[0] / a->n_seqs : 0);
}

static int masked_run(struct k_ctx *ctx, const struct k_attention_masked *of,
                      const struct k_attention_masked_dx *dx) {
    struct masked_job job = {of, dx, ctx->workspace, masked_floats(of)};

    if (!masked_is_whole(of))
        return -EINVAL;
    pool_run(ctx->pool, of->n_seqs * of->q.shape[1], masked_piece, &job);
    return 0;
}

static size_t masked_bytes(const struct k_ctx *ctx, const struct k_attention_masked *a) {
    return (size_t)pool_n_threads(ctx->pool) * sizeof(float) * (size_t)masked_floats(a);
}

static size_t attention_masked_workspace(const struct k_ctx *ctx,
                                         const struct k_attention_masked *a) {
    return masked_bytes(ctx, a);
}

static size_t attention_masked_dx_workspace(const struct k_ctx *ctx,
                                            const struct k_attention_masked_dx *a) {
    return masked_bytes(ctx, &a->of);
}

static int attention_masked(struct k_ctx *ctx, const struct k_attention_masked *a) {
    return masked_run(ctx, a, NULL);
}

static int attention_masked_dx(struct k_ctx *ctx, const struct k_attention_masked_dx *a) {
    return masked_run(ctx, &a->of, a);
}
