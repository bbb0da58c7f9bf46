/* product.h - a product with weights, y = x w^T, as the CPU paths cut it into pieces.
 *
 * A piece is rows of one group times outputs of one of its parts. What is done with a piece is the
 * business of product_body.h, and of product_amx.c for those that run in tile registers.
 */
#pragma once
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"
#include "kernels/weight.h"

struct product {
    const struct k_weight *w;
    const struct k_tensor *x, *y;
    const int32_t *row_start; // NULL: one group, or heads
    bool heads;
    const float *bias;
    bool accumulate;
    bool tiles;            // in tile registers
    int64_t n_rows, n_all; // of the largest group; of all
    bool wide_x;           // x is in few bits; product_run makes it wide, scales left out
    // Made when it runs.
    float *x_wide; // [n_all, n_in], then
    char *packed;  // x as the kernels want it
    char *work;
    size_t work_bytes; // of a thread
    int64_t piece_rows, piece_columns, row_pieces, column_pieces;
};

/* A piece. */
struct product_spot {
    const struct k_weight_part *w;
    int64_t group;
    int64_t first, m;    // rows of other groups before it, its own
    int64_t row, n_rows; // of those
    int64_t column, n;   // outputs of the part
    float *y;            // of the group's first row and the part's first output
    const float *bias;   // of that output, NULL: none
};

/* Products in tile registers, in product_amx.c. */
size_t k_amx_product_bytes(const struct k_ctx *ctx, const struct product *p);
void k_amx_product_run(struct k_ctx *ctx, struct product *p);

/* Has path "amx" a form of its own for these weights? float16 does not fit into bf16, float32 would
 * take twice the products, and one row of E4M3 or E5M2 would be slower (docs/performance.md). */
ALWAYS_INLINE bool product_in_tiles(const struct k_ctx *ctx, const struct k_weight *w) {
    return ctx->table->path == k_amx_table.path && w->dtype == K_BF16;
}

/* Rows of a group; ret_first: how many rows of other groups lie before them when packed. */
ALWAYS_INLINE int64_t product_rows(const struct product *p, int64_t group, int64_t *ret_first) {
    if (!p->row_start) {
        *ret_first = group * p->n_rows;
        return p->n_rows;
    }
    *ret_first = p->row_start[group];
    return p->row_start[group + 1] - p->row_start[group];
}

/* Where the first row of a group begins, in elements. */
ALWAYS_INLINE int64_t product_at(const struct product *p, const struct k_tensor *t, int64_t group,
                                 int64_t first) {
    return p->heads ? group * t->stride[1] : first * t->stride[0];
}

/* Cut into pieces of at most piece_rows times piece_columns: by the shape alone. */
ALWAYS_INLINE void product_cut_into(struct product *p, int64_t piece_rows, int64_t piece_columns) {
    p->piece_rows = piece_rows;
    p->piece_columns = piece_columns;
    p->row_pieces = MAX((p->n_rows + piece_rows - 1) / piece_rows, (int64_t)1);
    p->column_pieces = 0;
    for (int i = 0; i < p->w->n_parts; i++)
        p->column_pieces += (p->w->parts[i].n_out + piece_columns - 1) / piece_columns;
}

ALWAYS_INLINE int64_t product_n_pieces(const struct product *p) {
    return p->w->n_groups * p->row_pieces * p->column_pieces;
}

/* false: a group that has no such rows. */
ALWAYS_INLINE bool product_find(const struct product *p, int64_t piece, struct product_spot *ret) {
    int64_t column = piece % p->column_pieces, before = 0;
    struct product_spot s = {
        .group = piece / p->column_pieces / p->row_pieces,
        .row = piece / p->column_pieces % p->row_pieces * p->piece_rows,
    };

    s.w = &p->w->parts[s.group * p->w->n_parts];
    s.m = product_rows(p, s.group, &s.first);
    s.n_rows = MIN(s.m - s.row, p->piece_rows);
    for (int64_t n; column >= (n = (s.w->n_out + p->piece_columns - 1) / p->piece_columns); s.w++) {
        column -= n;
        before += s.w->n_out;
    }
    s.column = column * p->piece_columns;
    s.n = MIN(s.w->n_out - s.column, p->piece_columns);
    s.y = (float *)p->y->data + product_at(p, p->y, s.group, s.first) + before;
    s.bias = p->bias ? p->bias + before : NULL;
    *ret = s;
    return s.n_rows > 0;
}

/* The bias comes last. */
ALWAYS_INLINE void product_add_bias(const struct product *p, const struct product_spot *s) {
    for (int64_t r = s->row; s->bias && r < s->row + s->n_rows; r++)
        for (int64_t j = s->column; j < s->column + s->n; j++)
            s->y[r * p->y->stride[0] + j] += s->bias[j];
}
