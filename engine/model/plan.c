#include "engine/model/plan.h"

enum { ALIGN = 64 };

void *plan_take(struct plan *plan, size_t n_bytes) {
    void *p = plan->base ? plan->base + plan->n_bytes : NULL;

    plan->n_bytes += (n_bytes + ALIGN - 1) / ALIGN * ALIGN;
    return p;
}

float *plan_floats(struct plan *plan, int64_t n) {
    return plan_take(plan, (size_t)n * sizeof(float));
}

int32_t *plan_ints(struct plan *plan, int64_t n) {
    return plan_take(plan, (size_t)n * sizeof(int32_t));
}

static bool is_shared(enum layer_life life, bool training) {
    return life == LAYER_GRAD || life == LAYER_SCRATCH || (life == LAYER_SAVED && !training);
}

/* Buffers of one layer, the shared ones or its own. */
static void place(struct plan *plan, struct layer *l, bool shared, bool training) {
    for (int i = 0; i < l->n_buffers; i++) {
        struct layer_buffer *b = &l->buffers[i];
        bool unused = !training && b->life == LAYER_GRAD;
        if (is_shared(b->life, training) != shared || unused)
            continue;
        b->data = plan_take(plan, k_dtype_n_bytes(b->dtype, b->rows * b->columns));
    }
}

/* Copies of a layer's saved buffers in fewer bits. */
static void place_kept(struct plan *plan, struct layer *l) {
    for (int i = 0; i < l->n_buffers; i++) {
        struct layer_buffer *b = &l->buffers[i];
        int64_t n = (b->rows * b->columns + 1) / 2 * 2; /* E5M6 comes in pairs */
        if (b->kept == K_F32)
            continue;
        b->kept_data = plan_take(plan, k_dtype_n_bytes(b->kept, n));
        if (b->kept != K_BF16)
            b->kept_scale = plan_floats(plan, k_n_scales(K_SCALE_TILES, b->rows, b->columns, 1));
    }
}

void plan_layers(struct plan *plan, struct layer *layers, int n, bool training) {
    size_t start, end;

    for (int i = 0; i < n; i++) {
        place(plan, &layers[i], false, training);
        place_kept(plan, &layers[i]);
    }
    start = end = plan->n_bytes;
    for (int i = 0; i < n; i++) {
        plan->n_bytes = start;
        place(plan, &layers[i], true, training);
        end = MAX(end, plan->n_bytes);
    }
    plan->n_bytes = end;
}
