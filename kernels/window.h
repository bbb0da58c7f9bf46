/* window.h - how often a window of k_window fits, and where its elements lie: one fact for every
 * backend and for who declares shapes.
 */
#pragma once
#include "kernels/kernels.h"

/* Is it one that can move? */
static inline bool window_is_whole(const struct k_window *w) {
    return w->height > 0 && w->width > 0 && w->step_y > 0 && w->step_x > 0 && w->pad_y >= 0 &&
           w->pad_x >= 0 && w->spread_y > 0 && w->spread_x > 0;
}

/* Places along an axis of n elements; 0 if it does not fit. */
static inline int64_t window_places(int64_t n, int64_t size, int64_t step, int64_t pad,
                                    int64_t spread) {
    int64_t room = n + 2 * pad - ((size - 1) * spread + 1);

    return room < 0 ? 0 : room / step + 1;
}

static inline int64_t window_down(const struct k_window *w, int64_t height) {
    return window_places(height, w->height, w->step_y, w->pad_y, w->spread_y);
}

static inline int64_t window_across(const struct k_window *w, int64_t width) {
    return window_places(width, w->width, w->step_x, w->pad_x, w->spread_x);
}

/* Do x [n, height, width, channels] and the rows of its windows belong together? */
static inline bool window_fits_rows(const struct k_window *w, const struct k_tensor *x,
                                    const struct k_tensor *rows) {
    return window_is_whole(w) &&
           rows->shape[0] ==
               x->shape[0] * window_down(w, x->shape[1]) * window_across(w, x->shape[2]) &&
           rows->shape[1] == x->shape[3] * w->height * w->width;
}

/* And pictures of one number a window? */
static inline bool window_fits(const struct k_window *w, const struct k_tensor *x,
                               const struct k_tensor *y) {
    return window_is_whole(w) && 2 * w->pad_y <= w->height && 2 * w->pad_x <= w->width &&
           y->shape[1] == window_down(w, x->shape[1]) &&
           y->shape[2] == window_across(w, x->shape[2]);
}

/* Element (i, j) of the window at place (down, across) of a picture: row * width + column, or -1
 * beyond the edges. */
static inline int64_t window_at(const struct k_window *w, int64_t height, int64_t width,
                                int64_t down, int64_t across, int64_t i, int64_t j) {
    int64_t y = down * w->step_y - w->pad_y + i * w->spread_y;
    int64_t x = across * w->step_x - w->pad_x + j * w->spread_x;

    return y < 0 || y >= height || x < 0 || x >= width ? -1 : y * width + x;
}
