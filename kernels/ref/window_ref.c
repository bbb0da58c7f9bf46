/* What moves over pictures: windows as rows, and pooling. */
#include "kernels/ref/ref.h"
#include "kernels/window.h"

/* Picture n, at place row * width + column. */
static float *pixel(const struct k_tensor *x, int64_t n, int64_t at) {
    int64_t width = x->shape[2];

    return (float *)x->data + n * x->stride[0] + at / width * x->stride[1] +
           at % width * x->stride[2];
}

/* Visit every element of every window of a picture. */
#define FOR_WINDOWS(w, x)                                                                          \
    for (int64_t down = 0; down < window_down(w, (x)->shape[1]); down++)                           \
        for (int64_t across = 0; across < window_across(w, (x)->shape[2]); across++)

#define FOR_ELEMENTS(w, x)                                                                         \
    for (int64_t i = 0; i < (w)->height; i++)                                                      \
        for (int64_t j = 0, at; j < (w)->width; j++)                                               \
            if ((at = window_at(w, (x)->shape[1], (x)->shape[2], down, across, i, j)) >= 0)

int k_ref_unfold(struct k_ctx *ctx, const struct k_unfold *a) {
    const struct k_window *w = &a->window;
    int64_t row = 0;

    if (!window_fits_rows(w, &a->x, &a->y))
        return -EINVAL;
    for (int64_t n = 0; n < a->x.shape[0]; n++)
        FOR_WINDOWS(w, &a->x) {
            float *y = ref_row(&a->y, row++);
            memset(y, 0, (size_t)a->y.shape[1] * sizeof *y);
            FOR_ELEMENTS(w, &a->x)
            for (int64_t c = 0; c < a->x.shape[3]; c++)
                y[(c * w->height + i) * w->width + j] = pixel(&a->x, n, at)[c];
        }
    return 0;
}

static void clear_picture(const struct k_tensor *x, int64_t n) {
    for (int64_t at = 0; at < x->shape[1] * x->shape[2]; at++)
        memset(pixel(x, n, at), 0, (size_t)x->shape[3] * sizeof(float));
}

int k_ref_fold(struct k_ctx *ctx, const struct k_fold *a) {
    const struct k_window *w = &a->window;
    int64_t row = 0;

    if (!window_fits_rows(w, &a->x, &a->y))
        return -EINVAL;
    for (int64_t n = 0; n < a->x.shape[0]; n++) {
        clear_picture(&a->x, n);
        FOR_WINDOWS(w, &a->x) {
            const float *y = ref_row(&a->y, row++);
            FOR_ELEMENTS(w, &a->x)
            for (int64_t c = 0; c < a->x.shape[3]; c++)
                pixel(&a->x, n, at)[c] += y[(c * w->height + i) * w->width + j];
        }
    }
    return 0;
}

static float *y_at(const struct k_tensor *y, int64_t n, int64_t down, int64_t across) {
    return (float *)y->data + n * y->stride[0] + down * y->stride[1] + across * y->stride[2];
}

/* Channel c of one window: its mean, or its maximum and where that lies. */
static float pool_one(const struct k_pooling *a, int64_t n, int64_t down, int64_t across, int64_t c,
                      int32_t *ret_from) {
    const struct k_window *w = &a->window;
    double sum = 0;
    float max = 0;
    bool seen = false;

    FOR_ELEMENTS(w, &a->x) {
        float x = pixel(&a->x, n, at)[c];
        sum += x;
        if (!seen || x > max || (x != x && max == max)) {
            max = x;
            *ret_from = (int32_t)at;
        }
        seen = true;
    }
    return a->mean ? (float)(sum / (double)(w->height * w->width)) : max;
}

int k_ref_pooling(struct k_ctx *ctx, const struct k_pooling *a) {
    int32_t from = 0;

    if (!window_fits(&a->window, &a->x, &a->y))
        return -EINVAL;
    for (int64_t n = 0; n < a->x.shape[0]; n++)
        FOR_WINDOWS(&a->window, &a->x)
    for (int64_t c = 0; c < a->x.shape[3]; c++) {
        y_at(&a->y, n, down, across)[c] = pool_one(a, n, down, across, c, &from);
        if (a->from.data)
            ((int32_t *)(void *)y_at(&a->from, n, down, across))[c] = from;
    }
    return 0;
}

int k_ref_pooling_dx(struct k_ctx *ctx, const struct k_pooling_dx *a) {
    const struct k_window *w = &a->window;
    float part = 1 / (float)(w->height * w->width);

    if (!window_fits(w, &a->dx, &a->dy) || (!a->mean && !a->from.data))
        return -EINVAL;
    for (int64_t n = 0; n < a->dx.shape[0]; n++) {
        clear_picture(&a->dx, n);
        FOR_WINDOWS(w, &a->dx) {
            const float *dy = y_at(&a->dy, n, down, across);
            const int32_t *from = a->mean ? NULL : (const void *)y_at(&a->from, n, down, across);
            for (int64_t c = 0; from && c < a->dx.shape[3]; c++)
                pixel(&a->dx, n, from[c])[c] += dy[c];
            if (from)
                continue;
            FOR_ELEMENTS(w, &a->dx)
            for (int64_t c = 0; c < a->dx.shape[3]; c++)
                pixel(&a->dx, n, at)[c] += dy[c] * part;
        }
    }
    return 0;
}
