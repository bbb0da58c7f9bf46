#include "engine/nn/layer.h"

/* y = x + down(silu(gate(h)) * up(h)), h = norm(x). Gate and up are one product. */
enum { NORM, GATE_UP, DOWN };

enum { SCALE, H, GU, ACT, DGU, DH, DACT };

static void declare(struct layer *l, const struct layer_limits *limits) {
    int64_t t = limits->n_tokens, d = l->config->n_dim, f = l->config->n_dim_ffn;

    layer_add_param(l, "post_attention_layernorm.weight", 0, d, 0);
    layer_add_param(l, "mlp.gate_proj.weight", 1, 2 * f, d);
    layer_add_param(l, "mlp.down_proj.weight", 1, d, f);
    layer_add_buffer(l, "norm_scale", LAYER_SAVED, K_F32, t, 1);
    layer_add_saved(l, "normed", PRECISION_INPUT, t, d);
    layer_add_saved(l, "gate_up", PRECISION_GATE_UP, t, 2 * f);
    layer_add_saved(l, "activated", PRECISION_ACTIVATED, t, f);
    layer_add_buffer(l, "gate_up_grad", LAYER_GRAD, K_F32, t, 2 * f);
    layer_add_buffer(l, "normed_grad", LAYER_GRAD, K_F32, t, d);
    layer_add_buffer(l, "activated_grad", LAYER_SCRATCH, K_F32, t, f);
}

static int activate(struct k_ctx *ctx, const struct layer *l, int64_t n) {
    int64_t f = l->config->n_dim_ffn;

    return k_swiglu(ctx, &(struct k_swiglu){.y = layer_rows(l, ACT, n),
                                            .gate = layer_columns(l, GU, n, 0, f),
                                            .up = layer_columns(l, GU, n, f, f)});
}

static int forward(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                   const struct k_tensor *x, const struct k_tensor *y) {
    int64_t n = batch->n_tokens;

    LAYER_TRY(layer_norm(ctx, l, NORM, *x, layer_rows(l, H, n), layer_vector(l, SCALE, n),
                         l->config->norm_eps));
    LAYER_TRY(layer_keep(ctx, l, H, n));
    LAYER_TRY(layer_linear(ctx, l, GATE_UP, H, layer_rows(l, GU, n), false));
    LAYER_TRY(layer_keep(ctx, l, GU, n));
    LAYER_TRY(activate(ctx, l, n));
    LAYER_TRY(layer_residual(ctx, x, y));
    return layer_linear(ctx, l, DOWN, ACT, *y, true);
}

static int backward_input(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                          const struct k_tensor *x, const struct k_tensor *dy,
                          const struct k_tensor *dx) {
    int64_t n = batch->n_tokens, f = l->config->n_dim_ffn;
    struct k_tensor dact = layer_rows(l, DACT, n), dh = layer_rows(l, DH, n);

    LAYER_TRY(layer_recall(ctx, l, GU, n));
    LAYER_TRY(layer_linear_dx(ctx, l, DOWN, *dy, dact, false));
    LAYER_TRY(k_swiglu_dx(ctx, &(struct k_swiglu_dx){.dgate = layer_columns(l, DGU, n, 0, f),
                                                     .dup = layer_columns(l, DGU, n, f, f),
                                                     .dy = dact,
                                                     .gate = layer_columns(l, GU, n, 0, f),
                                                     .up = layer_columns(l, GU, n, f, f)}));
    LAYER_TRY(layer_linear_dx(ctx, l, GATE_UP, layer_rows(l, DGU, n), dh, false));
    return layer_norm_dx(ctx, l, NORM, dh, *x, layer_vector(l, SCALE, n), dy, *dx);
}

static int backward_weight(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                           const struct k_tensor *x, const struct k_tensor *dy) {
    int64_t n = batch->n_tokens;

    if (!layer_is_saved(l, ACT)) {
        LAYER_TRY(layer_recall(ctx, l, GU, n));
        LAYER_TRY(activate(ctx, l, n));
    }
    LAYER_TRY(layer_linear_dw(ctx, l, DOWN, ACT, *dy));
    LAYER_TRY(layer_linear_dw(ctx, l, GATE_UP, H, layer_rows(l, DGU, n)));
    return layer_norm_dw(ctx, l, NORM, layer_rows(l, DH, n), *x, layer_vector(l, SCALE, n));
}

const struct layer_type mlp_layer = {"mlp", declare, forward, backward_input, backward_weight};
