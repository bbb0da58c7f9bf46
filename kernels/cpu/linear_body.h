/* linear_body.h - gradients of products with weights, and products across, cut into pieces for the
 * threads. A piece is rows of one group times columns of one of its parts.
 */
#pragma once
#include "kernels/cpu/product_body.h"

/* One product per group; `prepare` fills in what differs between them. */
struct grouped {
    struct gemm whole; // m the largest of a group
    void (*prepare)(const void *a, int64_t group, struct gemm *g);
    const void *a;
    float *work;
    int64_t row_pieces, column_pieces;
};

/* Room behind the workspace of the product for an operand made wide: what comes in few bits. */
static size_t wide_bytes(const struct k_tensor *t) {
    return t->dtype == K_F32 ? 0 : (size_t)(k_tensor_n_elements(t) + 15) / 16 * 16 * sizeof(float);
}

/* An operand as float32, made wide at *at if it is not. */
static struct k_tensor wide_operand(struct k_ctx *ctx, const struct k_tensor *t,
                                    const struct k_tensor *row_start, char **at) {
    struct k_tensor to = k_tensor_2d(*at, K_F32, t->shape[0], t->shape[1]);

    if (t->dtype == K_F32)
        return *t;
    make_wide(ctx, t, row_start, to.data, to.stride[0]);
    *at += wide_bytes(t);
    return to;
}

static int64_t pieces_of(int64_t n) {
    return (n + PIECE_COLUMNS - 1) / PIECE_COLUMNS;
}

static void grouped_piece(void *arg, int64_t piece, int thread) {
    const struct grouped *j = arg;
    int64_t column = piece % j->column_pieces * PIECE_COLUMNS;
    int64_t row = piece / j->column_pieces % j->row_pieces * PIECE_ROWS;
    struct gemm g = j->whole;

    j->prepare(j->a, piece / j->column_pieces / j->row_pieces, &g);
    if (row >= g.m)
        return;
    gemm_piece(&g, row, MIN(g.m - row, (int64_t)PIECE_ROWS), column,
               MIN(g.n - column, (int64_t)PIECE_COLUMNS), j->work + thread * GEMM_FLOATS);
}

static int grouped_run(struct k_ctx *ctx, struct grouped *j, int64_t n_groups) {
    j->work = ctx->workspace;
    j->row_pieces = (j->whole.m + PIECE_ROWS - 1) / PIECE_ROWS;
    j->column_pieces = pieces_of(j->whole.n);
    pool_run(ctx->pool, n_groups * j->row_pieces * j->column_pieces, grouped_piece, j);
    return 0;
}

/* A gradient by the input runs over the parts' rows: each part goes on with the sums of the one
 * before, so they stay one chain. */
struct linear_dx_job {
    struct k_linear_dx a;
    int part;
    int64_t before; // rows of the parts before it
};

static void linear_dx_prepare(const void *arg, int64_t group, struct gemm *g) {
    const struct linear_dx_job *job = arg;
    const struct k_linear_dx *a = &job->a;
    const struct k_weight_part *w = &a->w->parts[group * a->w->n_parts + job->part];
    int64_t first;

    g->m = group_rows(&a->row_start, a->dy.shape[0], group, &first);
    g->a = (const float *)a->dy.data + first * a->dy.stride[0] + job->before;
    g->b = w->data;
    g->b_scale = w->scale;
    g->first_column = w->first_row;
    g->c = (float *)a->dx.data + first * a->dx.stride[0];
}

static int linear_dx(struct k_ctx *ctx, const struct k_linear_dx *a) {
    char *at = (char *)ctx->workspace + gemm_bytes(ctx);
    struct linear_dx_job job = {.a = *a};

    if (!k_linear_dx_fits(a))
        return -EINVAL;
    if (a->sum != K_SUM_F32)
        return -ENOTSUP;
    job.a.dy = wide_operand(ctx, &a->dy, &a->row_start, &at);
    for (; job.part < a->w->n_parts; job.before += a->w->parts[job.part++].n_out) {
        struct grouped j = {
            .whole = {.m = a->dy.shape[0],
                      .n = a->w->n_in,
                      .k = a->w->parts[job.part].n_out,
                      .a_row = job.a.dy.stride[0],
                      .a_k = 1,
                      .b_k = a->w->n_in,
                      .b_column = 1,
                      .b_type = a->w->dtype,
                      .c_row = a->dx.stride[0],
                      .accumulate = a->accumulate || job.part > 0},
            .prepare = linear_dx_prepare,
            .a = &job,
        };
        (void)grouped_run(ctx, &j, a->w->n_groups);
    }
    return 0;
}

static void linear_dw_prepare(const void *arg, int64_t group, struct gemm *g) {
    const struct k_linear_dw *a = arg;
    int64_t first;

    g->k = group_rows(&a->row_start, a->dy.shape[0], group, &first);
    g->a = (const float *)a->dy.data + first * a->dy.stride[0];
    g->b = (const float *)a->x.data + first * a->x.stride[0];
    g->c = (float *)a->dw.data + group * a->dw.stride[0];
}

static int linear_dw(struct k_ctx *ctx, const struct k_linear_dw *a) {
    char *at = (char *)ctx->workspace + gemm_bytes(ctx);
    struct k_linear_dw all = *a;

    if (!k_linear_dw_fits(a))
        return -EINVAL;
    if (a->sum != K_SUM_F32)
        return -ENOTSUP;
    all.dy = wide_operand(ctx, &a->dy, &a->row_start, &at);
    all.x = wide_operand(ctx, &a->x, &a->row_start, &at);
    struct grouped j = {
        .whole = {.m = a->dw.shape[1],
                  .n = a->dw.shape[2],
                  .a_row = 1,
                  .a_k = all.dy.stride[0],
                  .b_k = all.x.stride[0],
                  .b_column = 1,
                  .c_row = a->dw.stride[1],
                  .accumulate = true},
        .prepare = linear_dw_prepare,
        .a = &all,
    };

    return grouped_run(ctx, &j, a->dw.shape[0]);
}

/* Products across: parts go on with the sums of the one before. */
struct heads_dx_job {
    const struct k_linear_heads_dx *a;
    int part;
    int64_t before;
};

static void linear_heads_dx_prepare(const void *arg, int64_t group, struct gemm *g) {
    const struct heads_dx_job *job = arg;
    const struct k_linear_heads_dx *a = job->a;
    const struct k_weight_part *w = &a->w->parts[group * a->w->n_parts + job->part];

    g->a = (const float *)a->dy.data + group * a->dy.stride[1] + job->before;
    g->b = w->data;
    g->b_scale = w->scale;
    g->first_column = w->first_row;
    g->c = (float *)a->dx.data + group * a->dx.stride[1];
}

static void heads_dx_few_piece(void *arg, int64_t piece, int thread) {
    const struct heads_dx_job *job = arg;
    const struct k_linear_heads_dx *a = job->a;
    int64_t pieces = pieces_of(a->w->n_in), group = piece / pieces;
    int64_t column = piece % pieces * PIECE_COLUMNS, before = 0;

    for (int p = 0; p < a->w->n_parts; p++) {
        const struct k_weight_part *w = &a->w->parts[group * a->w->n_parts + p];
        struct across here = {
            .n_in = a->w->n_in,
            .n_out = w->n_out,
            .data = w->data,
            .scale = w->scale,
            .first_row = w->first_row,
            .dy = (const float *)a->dy.data + group * a->dy.stride[1] + before,
            .dy_row = a->dy.stride[0],
            .dx = (float *)a->dx.data + group * a->dx.stride[1],
            .dx_row = a->dx.stride[0],
            .accumulate = p > 0,
        };
        across_rows(a->w->dtype, &here, a->dy.shape[0], column,
                    MIN(a->w->n_in - column, (int64_t)PIECE_COLUMNS));
        before += w->n_out;
    }
}

static int linear_heads_dx(struct k_ctx *ctx, const struct k_linear_heads_dx *a) {
    struct heads_dx_job job = {.a = a};

    if (a->dy.shape[0] <= FEW_ROWS) {
        pool_run(ctx->pool, a->w->n_groups * pieces_of(a->w->n_in), heads_dx_few_piece, &job);
        return 0;
    }
    for (; job.part < a->w->n_parts; job.before += a->w->parts[job.part++].n_out) {
        struct grouped j = {
            .whole = {.m = a->dy.shape[0],
                      .n = a->w->n_in,
                      .k = a->w->parts[job.part].n_out,
                      .a_row = a->dy.stride[0],
                      .a_k = 1,
                      .b_k = a->w->n_in,
                      .b_column = 1,
                      .b_type = a->w->dtype,
                      .c_row = a->dx.stride[0],
                      .accumulate = job.part > 0},
            .prepare = linear_heads_dx_prepare,
            .a = &job,
        };
        (void)grouped_run(ctx, &j, a->w->n_groups);
    }
    return 0;
}

static size_t linear_dx_workspace(const struct k_ctx *ctx, const struct k_linear_dx *a) {
    return gemm_bytes(ctx) + wide_bytes(&a->dy);
}

static size_t linear_dw_workspace(const struct k_ctx *ctx, const struct k_linear_dw *a) {
    return gemm_bytes(ctx) + wide_bytes(&a->dy) + wide_bytes(&a->x);
}

static size_t linear_heads_dx_workspace(const struct k_ctx *ctx,
                                        const struct k_linear_heads_dx *a) {
    return gemm_bytes(ctx);
}
