#include "engine/nn/layer.h"

/* y = x + o(attention(rope(q), rope(k), v)), q, k, v = one product of norm(x), in Qwen2 with a
 * bias. */
enum { NORM, QKV, O, QKV_BIAS };

enum { SCALE, H, QKV_OUT, OUT, LSE, DQKV, DH, DOUT, KEYS, VALUES };

static void declare(struct layer *l, const struct layer_limits *limits) {
    const struct model_config *c = l->config;
    int64_t t = limits->n_tokens, d = c->n_dim, out = c->n_heads * c->d_head;
    int64_t kv = c->n_kv_heads * c->d_head, qkv = out + 2 * kv;

    layer_add_param(l, "input_layernorm.weight", 0, d, 0);
    layer_add_param(l, "self_attn.q_proj.weight", 1, qkv, d);
    layer_add_param(l, "self_attn.o_proj.weight", 1, d, out);
    if (c->attention_bias)
        layer_add_param(l, "self_attn.q_proj.bias", 0, qkv, 0);
    layer_add_buffer(l, "norm_scale", LAYER_SAVED, K_F32, t, 1);
    layer_add_saved(l, "normed", PRECISION_INPUT, t, d);
    layer_add_saved(l, "qkv", PRECISION_CORE, t, qkv);
    layer_add_saved(l, "attended", PRECISION_ATTENDED, t, out);
    layer_add_buffer(l, "log_sum_exp", LAYER_SAVED, K_F32, t, c->n_heads);
    layer_add_buffer(l, "qkv_grad", LAYER_GRAD, K_F32, t, qkv);
    layer_add_buffer(l, "normed_grad", LAYER_GRAD, K_F32, t, d);
    layer_add_buffer(l, "attended_grad", LAYER_SCRATCH, K_F32, t, out);
    layer_add_buffer(l, "keys", LAYER_CACHE, limits->cache_dtype, limits->n_cache_rows, kv);
    layer_add_buffer(l, "values", LAYER_CACHE, limits->cache_dtype, limits->n_cache_rows, kv);
}

/* Queries (part 0), keys (1) or values (2) in a buffer of the fused product. */
static struct k_tensor part(const struct layer *l, int buffer, int64_t n, int which) {
    const struct model_config *c = l->config;
    int64_t d = c->d_head;
    int64_t first = which == 0 ? 0 : (c->n_heads + (which - 1) * c->n_kv_heads) * d;

    return layer_heads(l, buffer, n, first, which == 0 ? c->n_heads : c->n_kv_heads, d, d);
}

static int rotate(struct k_ctx *ctx, const struct layer *l, const struct layer_batch *batch,
                  struct k_tensor x, bool inverse) {
    return k_rope(ctx, &(struct k_rope){.x = x,
                                        .cosine = l->shared->rope_cos,
                                        .sine = l->shared->rope_sin,
                                        .position = batch->position,
                                        .adjacent = l->config->rope.adjacent,
                                        .inverse = inverse});
}

static int forward(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                   const struct k_tensor *x, const struct k_tensor *y) {
    const struct model_config *c = l->config;
    int64_t n = batch->n_tokens, d = c->d_head;

    LAYER_TRY(
        layer_norm(ctx, l, NORM, *x, layer_rows(l, H, n), layer_vector(l, SCALE, n), c->norm_eps));
    LAYER_TRY(layer_keep(ctx, l, H, n));
    LAYER_TRY(layer_linear_bias(ctx, l, QKV, c->attention_bias ? QKV_BIAS : -1, H,
                                layer_rows(l, QKV_OUT, n)));
    /* Queries and keys lie side by side: one call turns both. */
    LAYER_TRY(rotate(ctx, l, batch, layer_heads(l, QKV_OUT, n, 0, c->n_heads + c->n_kv_heads, d, d),
                     false));
    LAYER_TRY(layer_keep(ctx, l, QKV_OUT, n));
    struct k_attention a = {
        .y = layer_heads(l, OUT, n, 0, c->n_heads, d, d),
        .q = part(l, QKV_OUT, n, 0),
        .k = part(l, QKV_OUT, n, 1),
        .v = part(l, QKV_OUT, n, 2),
        .lse = layer_rows(l, LSE, n),
        .q_start = batch->seq_start,
        .kv_length = batch->kv_length,
        .pages = batch->pages,
        .page_tokens = batch->page_tokens,
        .scale = (float)config_attention_scale(c),
    };
    if (batch->pages.data) {
        struct k_tensor keys = layer_cache(l, KEYS, c->n_kv_heads, d, d);
        struct k_tensor values = layer_cache(l, VALUES, c->n_kv_heads, d, d);
        LAYER_TRY(layer_cache_put(ctx, batch, a.k, keys));
        LAYER_TRY(layer_cache_put(ctx, batch, a.v, values));
        a.k = keys;
        a.v = values;
    }
    LAYER_TRY(k_attention(ctx, &a));
    LAYER_TRY(layer_keep(ctx, l, OUT, n));
    LAYER_TRY(layer_residual(ctx, x, y));
    return layer_linear(ctx, l, O, OUT, *y, true);
}

static int backward_input(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                          const struct k_tensor *x, const struct k_tensor *dy,
                          const struct k_tensor *dx) {
    const struct model_config *c = l->config;
    int64_t n = batch->n_tokens, d = c->d_head;
    struct k_tensor dh = layer_rows(l, DH, n);

    LAYER_TRY(layer_recall(ctx, l, QKV_OUT, n));
    LAYER_TRY(layer_recall(ctx, l, OUT, n));
    LAYER_TRY(layer_linear_dx(ctx, l, O, *dy, layer_rows(l, DOUT, n), false));
    struct k_attention_dx a = {
        .dq = part(l, DQKV, n, 0),
        .dk = part(l, DQKV, n, 1),
        .dv = part(l, DQKV, n, 2),
        .dy = layer_heads(l, DOUT, n, 0, c->n_heads, d, d),
        .y = layer_heads(l, OUT, n, 0, c->n_heads, d, d),
        .q = part(l, QKV_OUT, n, 0),
        .k = part(l, QKV_OUT, n, 1),
        .v = part(l, QKV_OUT, n, 2),
        .lse = layer_rows(l, LSE, n),
        .q_start = batch->seq_start,
        .scale = (float)config_attention_scale(c),
    };
    LAYER_TRY(k_attention_dx(ctx, &a));
    LAYER_TRY(
        rotate(ctx, l, batch, layer_heads(l, DQKV, n, 0, c->n_heads + c->n_kv_heads, d, d), true));
    LAYER_TRY(layer_linear_dx(ctx, l, QKV, layer_rows(l, DQKV, n), dh, false));
    return layer_norm_dx(ctx, l, NORM, dh, *x, layer_vector(l, SCALE, n), dy, *dx);
}

static int backward_weight(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                           const struct k_tensor *x, const struct k_tensor *dy) {
    int64_t n = batch->n_tokens;

    LAYER_TRY(layer_linear_dw(ctx, l, O, OUT, *dy));
    LAYER_TRY(layer_linear_dw(ctx, l, QKV, H, layer_rows(l, DQKV, n)));
    if (l->config->attention_bias)
        LAYER_TRY(k_sum_rows(
            ctx, &(struct k_sum_rows){.y = l->params[QKV_BIAS].dw, .x = layer_rows(l, DQKV, n)}));
    return layer_norm_dw(ctx, l, NORM, layer_rows(l, DH, n), *x, layer_vector(l, SCALE, n));
}

const struct layer_type attn_layer = {"attn", declare, forward, backward_input, backward_weight};
