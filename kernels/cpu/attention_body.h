/* attention_body.h - causal attention and its gradients as matrix products over blocks of queries.
 *
 * A block is ROWS queries cut at absolute positions, all keys before its end are scored at once.
 * A row's own sums run over its keys in ascending order with exact zeros behind, so they do not
 * depend on which rows share its block. Rows are pieces by (sequence, head). Keys in pages or in 16
 * bits are first brought together in workspace.
 */
#pragma once
#include "kernels/cpu/gemm_body.h"
#include "kernels/formats.h"
#include "kernels/kmath.h"

enum { ROWS = 64 / TILE_ROWS * TILE_ROWS };

ALWAYS_INLINE float *head_row(const struct k_tensor *t, int64_t i, int64_t h) {
    return (float *)t->data + i * t->stride[0] + h * t->stride[1];
}

static int32_t int_at(const struct k_tensor *t, int64_t i) {
    return ((const int32_t *)t->data)[i];
}

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

/* p = exp(scale * s - shift) for the first n, zero up to n_keys; returns the sum. */
static float exponentials(float *s, int64_t n, int64_t n_keys, float scale, float shift) {
    vf sum = v_zero(), by = v_set(scale), minus = v_set(shift);
    int64_t i = 0;

    for (; i + VEC <= n; i += VEC) {
        vf e = v_exp(v_sub(v_mul(v_load(s + i), by), minus));
        v_store(s + i, e);
        sum = v_add(sum, e);
    }
    if (i < n) {
        v_store_n(s + i, v_exp(v_sub(v_mul(v_load_n(s + i, n - i), by), minus)), n - i);
        sum = v_add(sum, v_load_n(s + i, n - i));
    }
    memset(s + n, 0, (size_t)(n_keys - n) * sizeof *s);
    return v_sum(sum);
}

static float row_max(const float *s, int64_t n) {
    vf max = v_set(-__builtin_inff());
    int64_t i = 0;

    for (; i + VEC <= n; i += VEC)
        max = v_max(max, v_load(s + i));
    float m = v_max_all(max);
    for (; i < n; i++)
        m = MAX(m, s[i]);
    return m;
}

static void scale_row(float *y, int64_t n, float by) {
    int64_t i = 0;

    for (; i + VEC <= n; i += VEC)
        v_store(y + i, v_mul(v_load(y + i), v_set(by)));
    for (; i < n; i++)
        y[i] *= by;
}

struct attention_job {
    const struct k_attention *a;
    float *work;
    int64_t work_floats; // of one thread
};

/* Queries [row, row + rows) of one head; the first sees n_first keys, which are rows from `key` on
 * of k and v. */
static void attention_block(const struct k_attention *a, int64_t row, int64_t rows, int64_t h,
                            int64_t key, int64_t j, int64_t n_first, float *work) {
    int64_t n_keys = n_first + rows - 1;
    float *scores = work + GEMM_FLOATS, sums[ROWS];

    score(&a->q, row, h, rows, &a->k, key, j, n_keys, scores, work);
    for (int64_t i = 0; i < rows; i++) {
        float *s = scores + i * n_keys;
        /* The scale is positive, so the largest score stays the largest. */
        float max = row_max(s, n_first + i) * a->scale;
        sums[i] = exponentials(s, n_first + i, n_keys, a->scale, max);
        if (a->lse.data)
            ((float *)a->lse.data)[(row + i) * a->lse.stride[0] + h] =
                (float)((double)max + kmath_log((double)sums[i]));
    }
    weigh(scores, n_keys, false, rows, n_keys, &a->v, key, j, &a->y, row, h, false, work);
    for (int64_t i = 0; i < rows; i++)
        scale_row(head_row(&a->y, row + i, h), a->v.shape[2], 1 / sums[i]);
}

static float widen(const struct k_tensor *t, const void *row, int64_t i) {
    if (t->dtype == K_F32)
        return ((const float *)row)[i];
    uint16_t bits = ((const uint16_t *)row)[i];
    return t->dtype == K_BF16 ? k_from_bf16(bits) : _cvtsh_ss(bits);
}

/* The keys (or values) of head j of a sequence, one after the other. */
static struct k_tensor bring_together(const struct k_attention *a, const struct k_tensor *t,
                                      int64_t s, int64_t j, float *place) {
    int64_t n = int_at(&a->kv_length, s), d = t->shape[2];

    for (int64_t p = 0; p < n; p++) {
        int64_t i = int_at(&a->q_start, s) + p;
        if (a->pages.data)
            i = int_at(&a->pages, s * a->pages.stride[0] + p / a->page_tokens) * a->page_tokens +
                p % a->page_tokens;
        const void *row =
            (const char *)t->data + (size_t)(i * t->stride[0] + j * t->stride[1]) *
                                        (t->dtype == K_F32 ? sizeof(float) : sizeof(uint16_t));
        for (int64_t k = 0; k < d; k++)
            place[p * d + k] = widen(t, row, k);
    }
    return k_tensor_3d(place, K_F32, n, 1, d);
}

static bool lie_together(const struct k_attention *a) {
    return !a->pages.data && a->k.dtype == K_F32 && a->v.dtype == K_F32;
}

static int64_t keys_max(const struct k_attention *a) {
    return a->pages.data ? a->pages.shape[1] * a->page_tokens : a->k.shape[0];
}

static int64_t scores_floats(const struct k_attention *a) {
    return GEMM_FLOATS + ROWS * (keys_max(a) + 16);
}

static void attention_piece(void *arg, int64_t piece, int thread) {
    const struct attention_job *job = arg;
    struct k_attention a = *job->a;
    int64_t s = piece / a.q.shape[1], h = piece % a.q.shape[1],
            j = h / (a.q.shape[1] / a.k.shape[1]);
    int64_t row = int_at(&a.q_start, s), end = int_at(&a.q_start, s + 1), key = row;
    int64_t position = int_at(&a.kv_length, s) - (end - row);
    float *work = job->work + thread * job->work_floats;

    if (!lie_together(&a)) {
        float *place = work + scores_floats(&a);
        struct k_tensor k = bring_together(&a, &a.k, s, j, place);
        a.v = bring_together(&a, &a.v, s, j, place + k_tensor_n_elements(&k));
        a.k = k;
        key = j = 0;
    }
    while (row < end) {
        int64_t rows = MIN(end - row, ROWS - position % ROWS);
        attention_block(&a, row, rows, h, key, j, position + 1, work);
        row += rows;
        position += rows;
    }
}

static int64_t attention_floats(const struct k_attention *a) {
    int64_t together = lie_together(a) ? 0 : keys_max(a) * (a->k.shape[2] + a->v.shape[2]);

    return (scores_floats(a) + together + 15) / 16 * 16;
}

static size_t attention_workspace(const struct k_ctx *ctx, const struct k_attention *a) {
    return (size_t)pool_n_threads(ctx->pool) * sizeof(float) * (size_t)attention_floats(a);
}

static int attention(struct k_ctx *ctx, const struct k_attention *a) {
    struct attention_job job = {a, ctx->workspace, attention_floats(a)};

    if (a->q.shape[1] % a->k.shape[1] || a->scale <= 0 || (a->pages.data && a->page_tokens < 1))
        return -EINVAL;
    pool_run(ctx->pool, a->kv_length.shape[0] * a->q.shape[1], attention_piece, &job);
    return 0;
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
    float *p = work + GEMM_FLOATS, *dp = p + ROWS * n_keys;

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
        for (int64_t row = first; row < end; row += ROWS)
            attention_dx_block(a, first, row, MIN(end - row, (int64_t)ROWS), h, j,
                               job->work + thread * job->work_floats);
}

static int64_t attention_dx_floats(int64_t n_keys) {
    return GEMM_FLOATS + 2 * ROWS * (n_keys + 16);
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
