#include "kernels/scaled.h"
#include "kernels/weight.h"

static bool is_float_8(enum k_dtype dtype) {
    return dtype == K_E4M3 || dtype == K_E5M2;
}

int64_t k_n_groups(const struct k_tensor *row_start) {
    return row_start->data ? row_start->shape[0] - 1 : 1;
}

int64_t k_n_scales(enum k_scale kind, int64_t n_rows, int64_t n_dim, int64_t n_groups) {
    int64_t row_blocks = (n_rows + K_BLOCK - 1) / K_BLOCK;
    int64_t column_blocks = (n_dim + K_BLOCK - 1) / K_BLOCK;

    switch (kind) {
    case K_SCALE_TILES:
        return column_blocks * n_rows;
    case K_SCALE_TOKENS:
        return (n_rows / K_BLOCK + n_groups) * n_dim;
    case K_SCALE_BLOCKS:
        return row_blocks * column_blocks;
    default:
        return 0;
    }
}

/* Rows behind the last group belong to nobody. */
static bool covers(const struct k_tensor *row_start, int64_t n_groups, int64_t n_rows) {
    const int32_t *start = row_start->data;

    return start ? start[0] == 0 && start[n_groups] <= n_rows : n_groups == 1;
}

/* All but the pointer to scales: there is a kind where the type needs one. */
static bool kind_fits(const struct k_tensor *t, const struct k_tensor *row_start) {
    bool scaled = is_float_8(t->dtype) || t->dtype == K_E5M6;

    if (scaled != (t->scale_kind != K_SCALE_NONE) || (unsigned)t->scale_kind >= K_SCALE_COUNT ||
        (t->dtype == K_E5M6 && t->stride[0] % 2 && t->shape[0] > 1))
        return false;
    return t->scale_kind != K_SCALE_TOKENS || covers(row_start, k_n_groups(row_start), t->shape[0]);
}

bool k_scaled_fits(const struct k_tensor *t, const struct k_tensor *row_start) {
    return kind_fits(t, row_start) && (t->scale || t->scale_kind == K_SCALE_NONE);
}

bool k_quantize_fits(const struct k_quantize *a) {
    const struct k_tensor *s = &a->scale;
    int64_t n_rows = a->x.shape[0], n_dim = a->x.shape[1];
    int64_t n = k_n_scales(a->y.scale_kind, n_rows, n_dim, k_n_groups(&a->row_start));

    if (!kind_fits(&a->y, &a->row_start) ||
        (a->x.dtype == K_F32 ? a->x.scale_kind != K_SCALE_NONE
                             : !k_scaled_fits(&a->x, &a->row_start)) ||
        (a->x.scale_kind != K_SCALE_NONE && a->x.scale_kind != K_SCALE_TILES))
        return false;
    if (a->y.scale_kind == K_SCALE_NONE)
        return true;
    int64_t columns = a->y.scale_kind == K_SCALE_TILES    ? n_rows
                      : a->y.scale_kind == K_SCALE_TOKENS ? n_dim
                                                          : (n_dim + K_BLOCK - 1) / K_BLOCK;
    return (s->data || n == 0) && s->shape[1] == columns && s->shape[0] * s->shape[1] == n;
}

/* An operand of a product with weights; what the sums need. */
static bool input_fits(const struct k_tensor *x, const struct k_weight *w, enum k_sum sum) {
    if (is_float_8(x->dtype))
        return is_float_8(w->dtype) && x->scale_kind == K_SCALE_TILES && x->scale;
    return sum == K_SUM_F32 && (x->dtype == K_F32 || w->dtype == K_F32 || w->dtype == K_BF16);
}

bool k_linear_fits(const struct k_linear *a) {
    return covers(&a->row_start, a->w->n_groups, a->x.shape[0]) && input_fits(&a->x, a->w, a->sum);
}

bool k_linear_dx_fits(const struct k_linear_dx *a) {
    return covers(&a->row_start, a->w->n_groups, a->dy.shape[0]) &&
           input_fits(&a->dy, a->w, a->sum);
}

bool k_linear_dw_fits(const struct k_linear_dw *a) {
    bool narrow = is_float_8(a->x.dtype);

    if (!covers(&a->row_start, a->dw.shape[0], a->x.shape[0]) ||
        narrow != is_float_8(a->dy.dtype) || (!narrow && a->sum != K_SUM_F32))
        return false;
    return !narrow || (a->x.scale_kind == K_SCALE_TOKENS && a->dy.scale_kind == K_SCALE_TOKENS &&
                       k_scaled_fits(&a->x, &a->row_start) && k_scaled_fits(&a->dy, &a->row_start));
}
