/* product_body.h - linear and linear_heads: which kernel a product runs in, and how it is cut.
 *
 * Q8 and Q4 go through quant_body.h; on path "amx" product_amx.c takes what tile registers hold; of
 * the others, groups of at most FEW_ROWS rows through few_body.h and more through
 * gemm_body.h, which add in the same order. Few rows are bound by memory: their pieces are small,
 * so that threads end together.
 */
#pragma once
#include "kernels/cpu/few_body.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/quant_body.h"
#include "kernels/cpu/quantize_body.h"

enum {
    FEW_PIECE_BYTES = 96 * 1024,
    QUANT_PIECE_ROWS = 512,
    QUANT_PIECE_COLUMNS = 4 * QUANT_PANELS * K_QUANT_PANEL,
};

static bool is_quant(const struct k_weight *w) {
    return w->dtype == K_Q8 || w->dtype == K_Q4;
}

/* Rows of a group. */
ALWAYS_INLINE int64_t group_rows(const struct k_tensor *row_start, int64_t n_rows, int64_t group,
                                 int64_t *ret_first) {
    const int32_t *start = row_start->data;

    *ret_first = start ? start[group] : 0;
    return (start ? start[group + 1] : n_rows) - *ret_first;
}

/* x of the first row of a group as float32, and from row to row. */
static const float *product_x(const struct product *p, int64_t group, int64_t first,
                              int64_t *ret_row) {
    if (p->wide_x) {
        *ret_row = p->w->n_in;
        return p->x_wide + first * p->w->n_in;
    }
    *ret_row = p->x->stride[0];
    return (const float *)p->x->data + product_at(p, p->x, group, first);
}

/* The place of a packed group: rounded rows come in blocks, of which `group` more than first / 8
 * are enough before it; few rows at most FEW_ROWS a group. */
static char *product_packed(const struct product *p, int64_t group, int64_t first) {
    if (is_quant(p->w))
        return p->packed + (first / QUANT_ROWS + group) * (p->w->n_in / K_QUANT_GROUP) *
                               (int64_t)quant_group_bytes(p->w->dtype);
    int64_t row = p->n_all <= p->w->n_groups * FEW_ROWS ? first : group * FEW_ROWS;
    return p->packed + row * (int64_t)(few_floats(p->w->n_in) * sizeof(float));
}

static size_t product_packed_bytes(const struct product *p) {
    if (is_quant(p->w))
        return (size_t)(p->n_all / QUANT_ROWS + p->w->n_groups) *
               (size_t)(p->w->n_in / K_QUANT_GROUP) * quant_group_bytes(p->w->dtype);
    return (size_t)MIN(p->n_all, p->w->n_groups * FEW_ROWS) * few_floats(p->w->n_in) *
           sizeof(float);
}

/* Eight rows of a group: piece counts groups, then blocks. */
static void product_pack(void *arg, int64_t piece, int thread) {
    const struct product *p = arg;
    int64_t blocks = (p->n_rows + QUANT_ROWS - 1) / QUANT_ROWS, group = piece / blocks;
    int64_t first, x_row, n = product_rows(p, group, &first), row = piece % blocks * QUANT_ROWS;
    const float *x = product_x(p, group, first, &x_row);
    int64_t n_in = p->w->n_in, n_groups = n_in / K_QUANT_GROUP;
    char *to = product_packed(p, group, first);
    bool narrow = p->w->dtype == K_E4M3 || p->w->dtype == K_E5M2;

    if (!is_quant(p->w) && n > FEW_ROWS)
        return;
    for (int64_t r = row; r < MIN(row + QUANT_ROWS, n); r++) {
        if (is_quant(p->w))
            quant_pack(p->w->dtype, x + r * x_row, n_groups, r - row,
                       to + row / QUANT_ROWS * n_groups * (int64_t)quant_group_bytes(p->w->dtype));
        else
            few_pack(x + r * x_row, n_in, narrow, r, n, (float *)(void *)to);
    }
}

static const float *x_scale_of(const struct product *p, int64_t first) {
    return p->x->scale_kind == K_SCALE_TILES ? (const float *)p->x->scale + first : NULL;
}

static void product_quant(const struct product *p, const struct product_spot *s, char *work) {
    int64_t n_groups = p->w->n_in / K_QUANT_GROUP;
    struct quant q = {
        .n_groups = n_groups,
        .n_rows = s->n_rows,
        .x = product_packed(p, s->group, s->first) +
             s->row / QUANT_ROWS * n_groups * (int64_t)quant_group_bytes(p->w->dtype),
        .data = s->w->data,
        .scale = s->w->scale,
        .n_out = s->w->n_out,
        .y = s->y + s->row * p->y->stride[0],
        .y_row = p->y->stride[0],
        .accumulate = p->accumulate,
    };

    quant_piece(p->w->dtype, &q, s->column, s->n, work);
}

static void product_few(const struct product *p, const struct product_spot *s) {
    struct few f = {
        .n_in = p->w->n_in,
        .data = (const char *)s->w->data + k_dtype_n_bytes(p->w->dtype, s->column * p->w->n_in),
        .n_out = s->n,
        .x = (const float *)(const void *)product_packed(p, s->group, s->first),
        .scale = s->w->scale,
        .first_row = s->w->first_row + s->column,
        .x_scale = x_scale_of(p, s->first),
        .x_scale_block = p->x->shape[0],
        .y = s->y + s->column,
        .y_row = p->y->stride[0],
        .accumulate = p->accumulate,
    };

    few[p->w->dtype][s->n_rows - 1](&f);
}

static void product_gemm(const struct product *p, const struct product_spot *s, char *work) {
    struct gemm g = {
        .n = s->w->n_out,
        .k = p->w->n_in,
        .a_k = 1,
        .b = s->w->data,
        .b_k = 1,
        .b_column = p->w->n_in,
        .b_type = p->w->dtype,
        .b_scale = s->w->scale,
        .first_column = s->w->first_row,
        .a_scale = x_scale_of(p, s->first),
        .a_scale_block = p->x->shape[0],
        .c = s->y,
        .c_row = p->y->stride[0],
        .accumulate = p->accumulate,
    };

    g.a = product_x(p, s->group, s->first, &g.a_row);
    gemm_piece(&g, s->row, s->n_rows, s->column, s->n, (float *)(void *)work);
}

static void product_piece(void *arg, int64_t piece, int thread) {
    const struct product *p = arg;
    char *work = p->work + (size_t)thread * p->work_bytes;
    struct product_spot s;

    if (!product_find(p, piece, &s))
        return;
    if (is_quant(p->w))
        product_quant(p, &s, work);
    else if (s.m <= FEW_ROWS)
        product_few(p, &s);
    else
        product_gemm(p, &s, work);
    product_add_bias(p, &s);
}

/* How the product is cut: by its shape alone. */
static void product_cut(struct product *p) {
    int64_t tile_rows = is_quant(p->w) ? QUANT_ROWS : TILE_ROWS;
    int64_t most = is_quant(p->w) ? QUANT_PIECE_ROWS : PIECE_ROWS;
    int64_t row_bytes =
        (int64_t)k_dtype_n_bytes(p->w->dtype, MAX(p->w->n_in, (int64_t)1) * 16) / 16;
    int64_t n = MAX((p->n_rows + most - 1) / most, (int64_t)1);
    int64_t rows = MAX((p->n_rows + n - 1) / n, (int64_t)1);
    int64_t columns = is_quant(p->w) ? QUANT_PIECE_COLUMNS : PIECE_COLUMNS;

    if (p->n_rows <= FEW_ROWS)
        columns =
            MIN(MAX(FEW_PIECE_BYTES / row_bytes / 16, (int64_t)1) * 16, (int64_t)PIECE_COLUMNS);
    product_cut_into(p, (rows + tile_rows - 1) / tile_rows * tile_rows, columns);
}

/* What product_run places in the workspace, for its size and for itself. */
static size_t product_place(const struct k_ctx *ctx, struct product *p, char *workspace) {
    if (p->tiles)
        return k_amx_product_bytes(ctx, p);
    size_t x_bytes = p->wide_x ? (size_t)(p->n_all * p->w->n_in) * sizeof(float) : 0;
    size_t packed = product_packed_bytes(p);

    x_bytes = (x_bytes + 63) / 64 * 64;
    packed = (packed + 63) / 64 * 64;
    p->work_bytes = is_quant(p->w)         ? QUANT_WORK
                    : p->n_rows > FEW_ROWS ? GEMM_FLOATS * sizeof(float)
                                           : 0;
    if (workspace) {
        p->x_wide = (float *)(void *)workspace;
        p->packed = workspace + x_bytes;
        p->work = workspace + x_bytes + packed;
    }
    return x_bytes + packed + (size_t)pool_n_threads(ctx->pool) * p->work_bytes;
}

static int product_run(struct k_ctx *ctx, struct product *p) {
    int64_t blocks = (p->n_rows + QUANT_ROWS - 1) / QUANT_ROWS;

    if (p->tiles) {
        k_amx_product_run(ctx, p);
        return 0;
    }
    (void)product_place(ctx, p, ctx->workspace);
    product_cut(p);
    if (p->wide_x) {
        struct k_tensor codes = *p->x, none = {0};
        codes.scale_kind = K_SCALE_NONE;
        make_wide(ctx, &codes, &none, p->x_wide, p->w->n_in);
    }
    pool_run(p->n_all > FEW_ROWS ? ctx->pool : NULL, p->w->n_groups * blocks, product_pack, p);
    pool_run(ctx->pool, product_n_pieces(p), product_piece, p);
    return 0;
}

static struct product linear_product(const struct k_ctx *ctx, const struct k_linear *a) {
    return (struct product){.w = a->w,
                            .x = &a->x,
                            .y = &a->y,
                            .row_start = a->row_start.data,
                            .bias = a->bias.data,
                            .accumulate = a->accumulate,
                            .tiles = a->x.dtype == K_F32 && product_in_tiles(ctx, a->w),
                            .n_rows = a->x.shape[0],
                            .n_all = a->x.shape[0],
                            .wide_x = a->x.dtype != K_F32};
}

static int linear(struct k_ctx *ctx, const struct k_linear *a) {
    struct product p = linear_product(ctx, a);

    if (!k_linear_fits(a))
        return -EINVAL;
    return a->sum != K_SUM_F32 ? -ENOTSUP : product_run(ctx, &p);
}

static struct product heads_product(const struct k_ctx *ctx, const struct k_linear_heads *a) {
    return (struct product){.w = a->w,
                            .x = &a->x,
                            .y = &a->y,
                            .heads = true,
                            .tiles = product_in_tiles(ctx, a->w),
                            .n_rows = a->x.shape[0],
                            .n_all = a->x.shape[0] * a->w->n_groups};
}

static int linear_heads(struct k_ctx *ctx, const struct k_linear_heads *a) {
    struct product p = heads_product(ctx, a);

    return product_run(ctx, &p);
}

static size_t linear_workspace(const struct k_ctx *ctx, const struct k_linear *a) {
    struct product p = linear_product(ctx, a);

    return product_place(ctx, &p, NULL);
}

static size_t linear_heads_workspace(const struct k_ctx *ctx, const struct k_linear_heads *a) {
    struct product p = heads_product(ctx, a);

    return product_place(ctx, &p, NULL);
}
