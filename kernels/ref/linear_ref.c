#include "kernels/ref/ref.h"

/* Rows of group g. Without row_start there is one group of all rows. */
static int group_rows(const struct k_tensor *row_start, int64_t n_groups, int64_t n_rows, int64_t g,
                      int64_t *ret_first) {
    const int32_t *start = row_start->data;

    *ret_first = start ? start[g] : 0;
    return (int)((start ? start[g + 1] : n_rows) - *ret_first);
}

static bool groups_fit(const struct k_tensor *row_start, int64_t n_groups, int64_t n_rows) {
    const int32_t *start = row_start->data;

    return start ? start[0] == 0 && start[n_groups] == n_rows : n_groups == 1;
}

int k_ref_linear(struct k_ctx *ctx, const struct k_linear *a) {
    int64_t n_groups = a->w.shape[0], first;

    if (!groups_fit(&a->row_start, n_groups, a->x.shape[0]))
        return -EINVAL;
    for (int64_t g = 0; g < n_groups; g++) {
        int n_rows = group_rows(&a->row_start, n_groups, a->x.shape[0], g, &first);
        for (int64_t r = first; r < first + n_rows; r++)
            for (int64_t o = 0; o < a->w.shape[1]; o++) {
                int64_t w = g * a->w.stride[0] + o * a->w.stride[1];
                const float *x = ref_row(&a->x, r);
                float *y = ref_row(&a->y, r) + o;
                double sum = a->accumulate ? *y : 0;
                for (int64_t i = 0; i < a->w.shape[2]; i++)
                    sum += x[i] * ref_weight(&a->w, w + i);
                *y = (float)sum;
            }
    }
    return 0;
}

int k_ref_linear_dx(struct k_ctx *ctx, const struct k_linear_dx *a) {
    int64_t n_groups = a->w.shape[0], first;

    if (!groups_fit(&a->row_start, n_groups, a->dx.shape[0]))
        return -EINVAL;
    for (int64_t g = 0; g < n_groups; g++) {
        int n_rows = group_rows(&a->row_start, n_groups, a->dx.shape[0], g, &first);
        for (int64_t r = first; r < first + n_rows; r++)
            for (int64_t i = 0; i < a->w.shape[2]; i++) {
                const float *dy = ref_row(&a->dy, r);
                float *dx = ref_row(&a->dx, r) + i;
                double sum = a->accumulate ? *dx : 0;
                for (int64_t o = 0; o < a->w.shape[1]; o++)
                    sum += dy[o] * ref_weight(&a->w, g * a->w.stride[0] + o * a->w.stride[1] + i);
                *dx = (float)sum;
            }
    }
    return 0;
}

int k_ref_linear_dw(struct k_ctx *ctx, const struct k_linear_dw *a) {
    int64_t n_groups = a->dw.shape[0], first;

    if (!groups_fit(&a->row_start, n_groups, a->x.shape[0]))
        return -EINVAL;
    for (int64_t g = 0; g < n_groups; g++) {
        int n_rows = group_rows(&a->row_start, n_groups, a->x.shape[0], g, &first);
        for (int64_t o = 0; o < a->dw.shape[1]; o++)
            for (int64_t i = 0; i < a->dw.shape[2]; i++) {
                float *dw = ref_row2(&a->dw, g, o) + i;
                double sum = *dw;
                for (int64_t r = first; r < first + n_rows; r++)
                    sum += (double)ref_row(&a->dy, r)[o] * ref_row(&a->x, r)[i];
                *dw = (float)sum;
            }
    }
    return 0;
}
