/* linear_body.h - products with weights and their gradients, cut into pieces for the threads.
 *
 * A piece is rows of one group times columns of one of its parts. F32 and BF16 weights go through
 * gemm_body.h; for the other types these operators say -ENOTSUP before anything has run.
 */
#pragma once
#include "kernels/cpu/gemm_body.h"
#include "kernels/weight.h"

/* One product per group and part; `prepare` fills in what differs between them. */
struct grouped {
    struct gemm whole;        // m the largest of a group
    const struct k_weight *w; // its parts cut the columns; NULL: whole.n columns, one part
    void (*prepare)(const void *a, int64_t group, int part, struct gemm *g);
    const void *a;
    const float *bias; // of the columns, NULL: none
    float *work;
    int64_t row_pieces, column_pieces;
};

static int64_t pieces_of(int64_t n) {
    return (n + PIECE_COLUMNS - 1) / PIECE_COLUMNS;
}

static void add_bias(const struct gemm *g, int64_t row, int64_t m, int64_t column, int64_t n,
                     const float *bias) {
    for (int64_t i = row; i < row + m; i++) {
        float *c = g->c + i * g->c_row;
        for (int64_t j = column; j < column + n; j++)
            c[j] += bias[j];
    }
}

static void grouped_piece(void *arg, int64_t piece, int thread) {
    const struct grouped *j = arg;
    int64_t column = piece % j->column_pieces, before = 0;
    int64_t row = piece / j->column_pieces % j->row_pieces * PIECE_ROWS;
    struct gemm g = j->whole;
    int part = 0;

    for (; j->w && column >= pieces_of(j->w->parts[part].n_out); part++) {
        column -= pieces_of(j->w->parts[part].n_out);
        before += j->w->parts[part].n_out;
    }
    if (j->w)
        g.n = j->w->parts[part].n_out;
    j->prepare(j->a, piece / j->column_pieces / j->row_pieces, part, &g);
    g.c += before;
    column *= PIECE_COLUMNS;
    if (row >= g.m)
        return;
    int64_t m = MIN(g.m - row, (int64_t)PIECE_ROWS), n = MIN(g.n - column, (int64_t)PIECE_COLUMNS);
    gemm_piece(&g, row, m, column, n, j->work + thread * GEMM_FLOATS);
    if (j->bias)
        add_bias(&g, row, m, column, n, j->bias + before);
}

static int grouped_run(struct k_ctx *ctx, struct grouped *j, int64_t n_groups) {
    j->work = ctx->workspace;
    j->row_pieces = (j->whole.m + PIECE_ROWS - 1) / PIECE_ROWS;
    j->column_pieces = j->w ? 0 : pieces_of(j->whole.n);
    for (int p = 0; j->w && p < j->w->n_parts; p++)
        j->column_pieces += pieces_of(j->w->parts[p].n_out);
    pool_run(ctx->pool, n_groups * j->row_pieces * j->column_pieces, grouped_piece, j);
    return 0;
}

/* Rows of a group. */
ALWAYS_INLINE int64_t group_rows(const struct k_tensor *row_start, int64_t n_rows, int64_t group,
                                 int64_t *ret_first) {
    const int32_t *start = row_start->data;

    *ret_first = start ? start[group] : 0;
    return (start ? start[group + 1] : n_rows) - *ret_first;
}

static bool groups_cover(const struct k_tensor *row_start, int64_t n_groups, int64_t n_rows) {
    const int32_t *start = row_start->data;

    return start ? start[0] == 0 && start[n_groups] == n_rows : n_groups == 1;
}

static bool is_wide(const struct k_weight *w) {
    return w->dtype == K_F32 || w->dtype == K_BF16;
}

static const void *part_data(const struct k_weight *w, int64_t group, int part) {
    return w->parts[group * w->n_parts + part].data;
}

static void linear_prepare(const void *arg, int64_t group, int part, struct gemm *g) {
    const struct k_linear *a = arg;
    int64_t first;

    g->m = group_rows(&a->row_start, a->x.shape[0], group, &first);
    g->a = (const float *)a->x.data + first * a->x.stride[0];
    g->b = part_data(a->w, group, part);
    g->c = (float *)a->y.data + first * a->y.stride[0];
}

static int linear(struct k_ctx *ctx, const struct k_linear *a) {
    struct grouped j = {
        .whole = {.m = a->x.shape[0],
                  .k = a->w->n_in,
                  .a_row = a->x.stride[0],
                  .a_k = 1,
                  .b_k = 1,
                  .b_column = a->w->n_in,
                  .b_bf16 = a->w->dtype == K_BF16,
                  .c_row = a->y.stride[0],
                  .accumulate = a->accumulate},
        .w = a->w,
        .prepare = linear_prepare,
        .a = a,
        .bias = a->bias.data,
    };

    if (!groups_cover(&a->row_start, a->w->n_groups, a->x.shape[0]))
        return -EINVAL;
    if (!is_wide(a->w) || a->x.dtype != K_F32)
        return -ENOTSUP;
    return grouped_run(ctx, &j, a->w->n_groups);
}

/* A gradient by the input runs over the parts' rows: each part goes on with the sums of the one
 * before, so they stay one chain. */
struct linear_dx_job {
    struct k_linear_dx a;
    int part;
    int64_t before; // rows of the parts before it
};

static void linear_dx_prepare(const void *arg, int64_t group, int part, struct gemm *g) {
    const struct linear_dx_job *job = arg;
    const struct k_linear_dx *a = &job->a;
    int64_t first;

    g->m = group_rows(&a->row_start, a->dy.shape[0], group, &first);
    g->a = (const float *)a->dy.data + first * a->dy.stride[0] + job->before;
    g->b = part_data(a->w, group, job->part);
    g->c = (float *)a->dx.data + first * a->dx.stride[0];
}

static int linear_dx(struct k_ctx *ctx, const struct k_linear_dx *a) {
    struct linear_dx_job job = {.a = *a};

    if (!groups_cover(&a->row_start, a->w->n_groups, a->dy.shape[0]))
        return -EINVAL;
    for (; job.part < a->w->n_parts; job.before += a->w->parts[job.part++].n_out) {
        struct grouped j = {
            .whole = {.m = a->dy.shape[0],
                      .n = a->w->n_in,
                      .k = a->w->parts[job.part].n_out,
                      .a_row = a->dy.stride[0],
                      .a_k = 1,
                      .b_k = a->w->n_in,
                      .b_column = 1,
                      .b_bf16 = a->w->dtype == K_BF16,
                      .c_row = a->dx.stride[0],
                      .accumulate = a->accumulate || job.part > 0},
            .prepare = linear_dx_prepare,
            .a = &job,
        };
        (void)grouped_run(ctx, &j, a->w->n_groups);
    }
    return 0;
}

static void linear_dw_prepare(const void *arg, int64_t group, int part, struct gemm *g) {
    const struct k_linear_dw *a = arg;
    int64_t first;

    g->k = group_rows(&a->row_start, a->dy.shape[0], group, &first);
    g->a = (const float *)a->dy.data + first * a->dy.stride[0];
    g->b = (const float *)a->x.data + first * a->x.stride[0];
    g->c = (float *)a->dw.data + group * a->dw.stride[0];
}

static int linear_dw(struct k_ctx *ctx, const struct k_linear_dw *a) {
    struct grouped j = {
        .whole = {.m = a->dw.shape[1],
                  .n = a->dw.shape[2],
                  .a_row = 1,
                  .a_k = a->dy.stride[0],
                  .b_k = a->x.stride[0],
                  .b_column = 1,
                  .c_row = a->dw.stride[1],
                  .accumulate = true},
        .prepare = linear_dw_prepare,
        .a = a,
    };

    if (!groups_cover(&a->row_start, a->dw.shape[0], a->dy.shape[0]))
        return -EINVAL;
    return grouped_run(ctx, &j, a->dw.shape[0]);
}

static void linear_heads_prepare(const void *arg, int64_t group, int part, struct gemm *g) {
    const struct k_linear_heads *a = arg;

    g->a = (const float *)a->x.data + group * a->x.stride[1];
    g->b = part_data(a->w, group, part);
    g->c = (float *)a->y.data + group * a->y.stride[1];
}

static int linear_heads(struct k_ctx *ctx, const struct k_linear_heads *a) {
    struct grouped j = {
        .whole = {.m = a->x.shape[0],
                  .k = a->w->n_in,
                  .a_row = a->x.stride[0],
                  .a_k = 1,
                  .b_k = 1,
                  .b_column = a->w->n_in,
                  .b_bf16 = a->w->dtype == K_BF16,
                  .c_row = a->y.stride[0]},
        .w = a->w,
        .prepare = linear_heads_prepare,
        .a = a,
    };

    return is_wide(a->w) ? grouped_run(ctx, &j, a->w->n_groups) : -ENOTSUP;
}

static void linear_heads_dx_prepare(const void *arg, int64_t group, int part, struct gemm *g) {
    const struct k_linear_heads_dx *a = arg;

    g->a = (const float *)a->dy.data + group * a->dy.stride[1];
    g->b = part_data(a->w, group, 0);
    g->c = (float *)a->dx.data + group * a->dx.stride[1];
}

static int linear_heads_dx(struct k_ctx *ctx, const struct k_linear_heads_dx *a) {
    struct grouped j = {
        .whole = {.m = a->dy.shape[0],
                  .n = a->w->n_in,
                  .k = a->w->n_out,
                  .a_row = a->dy.stride[0],
                  .a_k = 1,
                  .b_k = a->w->n_in,
                  .b_column = 1,
                  .b_bf16 = a->w->dtype == K_BF16,
                  .c_row = a->dx.stride[0]},
        .prepare = linear_heads_dx_prepare,
        .a = a,
    };

    return is_wide(a->w) && a->w->n_parts == 1 ? grouped_run(ctx, &j, a->w->n_groups) : -ENOTSUP;
}

static size_t linear_workspace(const struct k_ctx *ctx, const struct k_linear *a) {
    return gemm_bytes(ctx);
}

static size_t linear_dx_workspace(const struct k_ctx *ctx, const struct k_linear_dx *a) {
    return gemm_bytes(ctx);
}

static size_t linear_dw_workspace(const struct k_ctx *ctx, const struct k_linear_dw *a) {
    return gemm_bytes(ctx);
}

static size_t linear_heads_workspace(const struct k_ctx *ctx, const struct k_linear_heads *a) {
    return gemm_bytes(ctx);
}

static size_t linear_heads_dx_workspace(const struct k_ctx *ctx,
                                        const struct k_linear_heads_dx *a) {
    return gemm_bytes(ctx);
}
