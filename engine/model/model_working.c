#include "engine/model/model_impl.h"
#include "engine/model/plan.h"

/* Weights that products read in training under a recipe of few bits: rounded copies of the float32
 * master, made again after every change of it. A tied row has its owner's. */

void model_place_working(struct model *m, struct plan *plan) {
    const struct precision *p = &m->options.precision;

    for (int i = 0; i < m->params->n; i++) {
        const struct param *row = &m->params->items[i];
        bool matrix = row->tie == i && row->n_dims == 2 && !params_is_router(row);
        struct model_working *w = &m->working[i];
        w->dtype = matrix ? precision_weight(p, params_is_fp8(row)) : K_F32;
        if (w->dtype == K_F32)
            continue;
        w->data = plan_take(plan, k_dtype_n_bytes(w->dtype, row->n_elements));
        if (w->dtype != K_BF16)
            w->scale =
                plan_floats(plan, k_n_scales(K_SCALE_BLOCKS, row->shape[0], row->shape[1], 1));
    }
}

static int round_weight(struct model *m, int i) {
    const struct model_working *w = &m->working[i];
    struct k_tensor x = model_values(m, i);
    int64_t rows = x.shape[0], columns = x.shape[1];
    struct k_quantize a = {.y = k_tensor_2d(w->data, w->dtype, rows, columns), .x = x};

    if (w->scale) {
        a.y.scale_kind = K_SCALE_BLOCKS;
        a.scale = k_tensor_2d(w->scale, K_F32, (rows + K_BLOCK - 1) / K_BLOCK,
                              (columns + K_BLOCK - 1) / K_BLOCK);
    }
    return k_quantize(&m->ctx, &a);
}

int model_weights_changed(struct model *m) {
    int r = 0;

    for (int i = 0; i < m->params->n && r >= 0; i++)
        if (m->working[i].data)
            r = round_weight(m, i);
    return r;
}
