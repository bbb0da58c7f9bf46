#include "kernels/hopper14.h"
#include "kernels/ref/ref.h"

/* Rows of group g. Without row_start there is one group of all rows. */
static int group_rows(const struct k_tensor *row_start, int64_t n_groups, int64_t n_rows, int64_t g,
                      int64_t *ret_first) {
    const int32_t *start = row_start->data;

    *ret_first = start ? start[g] : 0;
    return (int)((start ? start[g + 1] : n_rows) - *ret_first);
}

/* n numbers of a row from `first` on. */
static void numbers(enum k_dtype dtype, const void *row, int64_t first, int64_t n, double *ret) {
    if (dtype == K_F32)
        for (int64_t i = 0; i < n; i++)
            ret[i] = (double)((const float *)row)[first + i];
    else
        for (int64_t i = 0; i < n; i++)
            ret[i] = ref_number(dtype, row, first + i);
}

/* x w over inputs [first, first + n) of one row of x and one of w: whole numbers or floats, in
 * double. The row is looked up once, a block's scale is applied to each of its weights. */
static double dot(const struct k_linear *a, int64_t group, int64_t r, int64_t o, int64_t first,
                  int64_t n) {
    const char *x = (const char *)a->x.data + k_dtype_n_bytes(a->x.dtype, r * a->x.stride[0]);
    int64_t row;
    const struct k_weight_part *part = k_weight_find(a->w, group, o, &row);
    const void *w = k_weight_row(a->w, part, row);
    double sum = 0;

    for (int64_t i = first, end; i < first + n; i = end) {
        double scale = part->scale ? (double)k_weight_block(a->w, part, row, i) : 1;
        double xs[K_BLOCK], ws[K_BLOCK];
        end = MIN(first + n, i - i % K_BLOCK + K_BLOCK);
        numbers(a->x.dtype, x, i, end - i, xs);
        numbers(a->w->dtype, w, i, end - i, ws);
        for (int64_t k = 0; k < end - i; k++)
            sum += xs[k] * (ws[k] * scale);
    }
    return sum;
}

/* One element without bias. Rounded activations: tile by tile, each with its scale. */
static double product(const struct k_linear *a, int64_t group, int64_t r, int64_t o) {
    double sum = 0;

    if (a->x.scale_kind == K_SCALE_NONE)
        return dot(a, group, r, o, 0, a->w->n_in);
    for (int64_t i = 0; i < a->w->n_in; i += K_BLOCK)
        sum += dot(a, group, r, o, i, MIN(a->w->n_in - i, (int64_t)K_BLOCK)) *
               (double)((const float *)a->x.scale)[i / K_BLOCK * a->x.shape[0] + r];
    return sum;
}

/* A number of an operand with a scale, and that scale. */
struct scaled {
    float code, scale;
};

static struct scaled of_tensor(const struct k_tensor *t, const struct k_tensor *row_start,
                               int64_t row, int64_t i) {
    return (struct scaled){(float)ref_code(t, row, i), *float8_ref_scale(t, row_start, row, i)};
}

static struct scaled of_weight(const struct k_weight *w, int64_t group, int64_t o, int64_t i) {
    int64_t row;
    const struct k_weight_part *part = k_weight_find(w, group, o, &row);

    return (struct scaled){(float)ref_number(w->dtype, k_weight_row(w, part, row), i),
                           k_weight_block(w, part, row, i)};
}

/* Products as Hopper adds them: in runs that share their scales. */
struct hopper_run {
    struct hopper14 h;
    float a[K_BLOCK], b[K_BLOCK], a_scale, b_scale;
    int n;
};

static void hopper_flush(struct hopper_run *run) {
    hopper14_add(&run->h, run->a, run->b, run->n, run->a_scale * run->b_scale);
    run->n = 0;
}

static void hopper_take(struct hopper_run *run, struct scaled a, struct scaled b) {
    if (run->n == K_BLOCK || (run->n && (a.scale != run->a_scale || b.scale != run->b_scale)))
        hopper_flush(run);
    run->a_scale = a.scale;
    run->b_scale = b.scale;
    run->a[run->n] = a.code;
    run->b[run->n++] = b.code;
}

static double hopper_end(struct hopper_run *run) {
    if (run->n)
        hopper_flush(run);
    return (double)hopper14_result(&run->h);
}

static double product_hopper(const struct k_linear *a, int64_t group, int64_t r, int64_t o) {
    struct hopper_run run = {.h.sum = a->sum};

    for (int64_t i = 0; i < a->w->n_in; i++)
        hopper_take(&run, of_tensor(&a->x, &a->row_start, r, i), of_weight(a->w, group, o, i));
    return hopper_end(&run);
}

/* The same with x rounded to 8 bits on the way. */
static double product_quant(const struct k_weight *w, const float *x, int64_t group, int64_t o) {
    double sum = 0;

    for (int64_t i = 0; i < w->n_in; i += K_QUANT_GROUP) {
        int8_t q[K_QUANT_GROUP];
        float scale;
        double part = 0;
        k_quant_row(x + i, K_QUANT_GROUP, q, &scale);
        for (int k = 0; k < K_QUANT_GROUP; k++)
            part += q[k] * ref_weight(w, group, o, i + k);
        sum += part * (double)scale;
    }
    return sum;
}

static bool is_quant(const struct k_weight *w) {
    return w->dtype == K_Q8 || w->dtype == K_Q4;
}

int k_ref_linear(struct k_ctx *ctx, const struct k_linear *a) {
    int64_t n_groups = a->w->n_groups, first;
    const float *bias = a->bias.data;

    if (!k_linear_fits(a))
        return -EINVAL;
    for (int64_t g = 0; g < n_groups; g++) {
        int n_rows = group_rows(&a->row_start, n_groups, a->x.shape[0], g, &first);
        for (int64_t r = first; r < first + n_rows; r++)
            for (int64_t o = 0; o < a->w->n_out; o++) {
                float *y = ref_row(&a->y, r) + o;
                double sum = a->sum != K_SUM_F32 ? product_hopper(a, g, r, o)
                             : is_quant(a->w)    ? product_quant(a->w, ref_row(&a->x, r), g, o)
                                                 : product(a, g, r, o);
                *y = (float)(sum + (bias ? bias[o] : 0) + (a->accumulate ? *y : 0));
            }
    }
    return 0;
}

/* A number of an operand times its scale. */
static double scaled(const struct k_tensor *t, const struct k_tensor *row_start, int64_t row,
                     int64_t i) {
    const float *scale = float8_ref_scale(t, row_start, row, i);

    return ref_code(t, row, i) * (scale ? (double)*scale : 1);
}

static double product_dx(const struct k_linear_dx *a, int64_t group, int64_t r, int64_t i) {
    struct hopper_run run = {.h.sum = a->sum};
    double sum = 0;

    for (int64_t o = 0; o < a->w->n_out; o++)
        if (a->sum == K_SUM_F32)
            sum += scaled(&a->dy, &a->row_start, r, o) * ref_weight(a->w, group, o, i);
        else
            hopper_take(&run, of_tensor(&a->dy, &a->row_start, r, o), of_weight(a->w, group, o, i));
    return a->sum == K_SUM_F32 ? sum : hopper_end(&run);
}

int k_ref_linear_dx(struct k_ctx *ctx, const struct k_linear_dx *a) {
    int64_t n_groups = a->w->n_groups, first;

    if (!k_linear_dx_fits(a))
        return -EINVAL;
    for (int64_t g = 0; g < n_groups; g++) {
        int n_rows = group_rows(&a->row_start, n_groups, a->dx.shape[0], g, &first);
        for (int64_t r = first; r < first + n_rows; r++)
            for (int64_t i = 0; i < a->w->n_in; i++) {
                float *dx = ref_row(&a->dx, r) + i;
                *dx = (float)(product_dx(a, g, r, i) + (a->accumulate ? *dx : 0));
            }
    }
    return 0;
}

int k_ref_linear_heads(struct k_ctx *ctx, const struct k_linear_heads *a) {
    for (int64_t t = 0; t < a->x.shape[0]; t++)
        for (int64_t h = 0; h < a->x.shape[1]; h++) {
            const float *x = ref_row2(&a->x, t, h);
            for (int64_t o = 0; o < a->w->n_out; o++) {
                double sum = 0;
                for (int64_t i = 0; i < a->w->n_in && !is_quant(a->w); i++)
                    sum += x[i] * ref_weight(a->w, h, o, i);
                if (is_quant(a->w))
                    sum = product_quant(a->w, x, h, o);
                ref_row2(&a->y, t, h)[o] = (float)sum;
            }
        }
    return 0;
}

int k_ref_linear_heads_dx(struct k_ctx *ctx, const struct k_linear_heads_dx *a) {
    for (int64_t t = 0; t < a->dy.shape[0]; t++)
        for (int64_t h = 0; h < a->dy.shape[1]; h++)
            for (int64_t i = 0; i < a->w->n_in; i++) {
                double sum = 0;
                for (int64_t o = 0; o < a->w->n_out; o++)
                    sum += ref_row2(&a->dy, t, h)[o] * ref_weight(a->w, h, o, i);
                ref_row2(&a->dx, t, h)[i] = (float)sum;
            }
    return 0;
}

static double product_dw(const struct k_linear_dw *a, int64_t first, int64_t n_rows, int64_t o,
                         int64_t i) {
    struct hopper_run run = {.h.sum = a->sum};
    double sum = 0;

    for (int64_t r = first; r < first + n_rows; r++)
        if (a->sum == K_SUM_F32)
            sum += scaled(&a->dy, &a->row_start, r, o) * scaled(&a->x, &a->row_start, r, i);
        else
            hopper_take(&run, of_tensor(&a->dy, &a->row_start, r, o),
                        of_tensor(&a->x, &a->row_start, r, i));
    return a->sum == K_SUM_F32 ? sum : hopper_end(&run);
}

int k_ref_linear_dw(struct k_ctx *ctx, const struct k_linear_dw *a) {
    int64_t n_groups = a->dw.shape[0], first;

    if (!k_linear_dw_fits(a))
        return -EINVAL;
    for (int64_t g = 0; g < n_groups; g++) {
        int n_rows = group_rows(&a->row_start, n_groups, a->x.shape[0], g, &first);
        for (int64_t o = 0; o < a->dw.shape[1]; o++)
            for (int64_t i = 0; i < a->dw.shape[2]; i++) {
                float *dw = ref_row2(&a->dw, g, o) + i;
                *dw = (float)(*dw + product_dw(a, first, n_rows, o, i));
            }
    }
    return 0;
}
