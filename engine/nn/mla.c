#include "engine/nn/layer.h"

/* Multi-head latent attention: queries (optionally) and keys with values come out of compressed,
 * normed vectors; d_rope dimensions of every key are one rotated vector shared by all heads.
 * Training forms the keys and values of every head. With a cache they are never formed: the cache
 * holds the compressed vector and the rotated key, queries are taken through the keys' half of kv_b
 * and the attended vectors through the values' half, at every position. Quantised files hold the
 * keys' half transposed, so that this too is a product along rows. With fast_prefill a sequence
 * that has many rows in the batch forms keys and values of what is cached after all, where that is
 * less work. Source: DeepSeek-V2, section 2.1 and appendix C; DeepSeek-V3, inference/model.py
 * ("absorb"). */
enum { NORM, O, KV_A, KV_A_NORM, KV_B, KV_B_KEYS, KV_B_VALUES, KV_B_TURNED, Q, Q_A, Q_A_NORM };

enum {
    SCALE,
    H,
    QUERY,
    CKV,
    CKV_SCALE,
    CKV_NORMED,
    KV,
    KEY,
    OUT,
    LSE,
    DQUERY,
    DCKV,
    DCKV_NORMED,
    DKV,
    DH,
    DKEY,
    DOUT,
    CACHE,
    QUERY_LATENT,
    OUT_LATENT,
    CQ,
    CQ_SCALE,
    CQ_NORMED,
    DCQ,
    DCQ_NORMED,
};

/* Of the norms on compressed vectors: fixed in the published code, whatever rms_norm_eps is. */
static const double latent_eps = 1e-6;

static void declare_latent_query(struct layer *l, const struct layer_limits *limits) {
    const struct model_config *c = l->config;
    int64_t t = limits->n_tokens, q = c->q_lora;

    layer_add_param(l, "self_attn.q_a_proj.weight", 1, q, c->n_dim);
    layer_add_param(l, "self_attn.q_a_layernorm.weight", 0, q, 0);
    layer_add_buffer(l, "latent_query", LAYER_SAVED, K_F32, t, q);
    layer_add_buffer(l, "latent_query_scale", LAYER_SAVED, K_F32, t, 1);
    layer_add_saved(l, "latent_query_normed", PRECISION_INPUT, t, q);
    layer_add_buffer(l, "latent_query_grad", LAYER_GRAD, K_F32, t, q);
    layer_add_buffer(l, "latent_query_normed_grad", LAYER_GRAD, K_F32, t, q);
}

static void declare(struct layer *l, const struct layer_limits *limits) {
    const struct model_config *c = l->config;
    int64_t t = limits->n_tokens, d = c->n_dim, h = c->n_heads, key = h * (c->d_nope + c->d_rope);
    int64_t out = h * c->d_value, kv = h * (c->d_nope + c->d_value), latent = c->kv_lora;

    layer_add_param(l, "input_layernorm.weight", 0, d, 0);
    layer_add_param(l, "self_attn.o_proj.weight", 1, d, out);
    layer_add_param(l, "self_attn.kv_a_proj_with_mqa.weight", 1, latent + c->d_rope, d);
    layer_add_param(l, "self_attn.kv_a_layernorm.weight", 0, latent, 0);
    layer_add_param(l, "self_attn.kv_b_proj.weight", 1, kv, latent);
    layer_add_heads(l, "self_attn.kv_b_proj.weight", h, c->d_nope, latent, 0,
                    c->d_nope + c->d_value);
    layer_add_heads(l, "self_attn.kv_b_proj.weight", h, c->d_value, latent, c->d_nope,
                    c->d_nope + c->d_value);
    layer_add_heads_turned(l, "self_attn.kv_b_proj.weight", h, latent, c->d_nope,
                           c->d_nope + c->d_value);
    layer_add_param(l, c->q_lora ? "self_attn.q_b_proj.weight" : "self_attn.q_proj.weight", 1, key,
                    c->q_lora ? c->q_lora : d);
    layer_add_buffer(l, "norm_scale", LAYER_SAVED, K_F32, t, 1);
    layer_add_saved(l, "normed", PRECISION_INPUT, t, d);
    layer_add_saved(l, "query", PRECISION_CORE, t, key);
    layer_add_buffer(l, "latent", LAYER_SAVED, K_F32, t, latent + c->d_rope);
    layer_add_buffer(l, "latent_scale", LAYER_SAVED, K_F32, t, 1);
    layer_add_saved(l, "latent_normed", PRECISION_INPUT, t, latent);
    layer_add_saved(l, "key_value", PRECISION_CORE, t, kv);
    layer_add_saved(l, "key", PRECISION_CORE, t, key);
    layer_add_saved(l, "attended", PRECISION_ATTENDED, t, out);
    layer_add_buffer(l, "log_sum_exp", LAYER_SAVED, K_F32, t, h);
    layer_add_buffer(l, "query_grad", LAYER_GRAD, K_F32, t, key);
    layer_add_buffer(l, "latent_grad", LAYER_GRAD, K_F32, t, latent + c->d_rope);
    layer_add_buffer(l, "latent_normed_grad", LAYER_GRAD, K_F32, t, latent);
    layer_add_buffer(l, "key_value_grad", LAYER_GRAD, K_F32, t, kv);
    layer_add_buffer(l, "normed_grad", LAYER_GRAD, K_F32, t, d);
    layer_add_buffer(l, "key_grad", LAYER_SCRATCH, K_F32, t, key);
    layer_add_buffer(l, "attended_grad", LAYER_SCRATCH, K_F32, t, out);
    layer_add_buffer(l, "cache", LAYER_CACHE, limits->cache_dtype, limits->n_cache_rows,
                     latent + c->d_rope);
    int64_t cached = limits->n_cache_rows ? t : 0;
    layer_add_buffer(l, "query_latent", LAYER_SCRATCH, K_F32, cached, h * (latent + c->d_rope));
    layer_add_buffer(l, "attended_latent", LAYER_SCRATCH, K_F32, cached, h * latent);
    if (c->q_lora)
        declare_latent_query(l, limits);
}

/* Heads of a buffer of queries or keys: all of them, the part not rotated, the rotated part. */
enum part { WHOLE, NOPE, ROPE };

static struct k_tensor key_part(const struct layer *l, int buffer, int64_t n, enum part part) {
    const struct model_config *c = l->config;
    int64_t width = c->d_nope + c->d_rope;

    return layer_heads(l, buffer, n, part == ROPE ? c->d_nope : 0, c->n_heads, width,
                       part == WHOLE  ? width
                       : part == NOPE ? c->d_nope
                                      : c->d_rope);
}

/* Of a buffer of the kv_b product: the keys' part, or the values. */
static struct k_tensor kv_part(const struct layer *l, int buffer, int64_t n, bool values) {
    const struct model_config *c = l->config;

    return layer_heads(l, buffer, n, values ? c->d_nope : 0, c->n_heads, c->d_nope + c->d_value,
                       values ? c->d_value : c->d_nope);
}

/* The shared rotated key in a buffer of the kv_a product, as `n_heads` equal heads. */
static struct k_tensor shared_key(const struct layer *l, int buffer, int64_t n, int64_t n_heads) {
    struct k_tensor t =
        layer_heads(l, buffer, n, l->config->kv_lora, 1, l->config->d_rope, l->config->d_rope);

    t.shape[1] = n_heads;
    t.stride[1] = n_heads > 1 ? 0 : t.stride[1];
    return t;
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

static int copy(struct k_ctx *ctx, struct k_tensor x, struct k_tensor y) {
    return k_copy(ctx, &(struct k_copy){.y = y, .x = x});
}

/* Queries, and what keys and values are made of: the normed compressed vector, the rotated key. */
static int project(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch) {
    const struct model_config *c = l->config;
    int64_t n = batch->n_tokens;

    if (c->q_lora) {
        LAYER_TRY(layer_linear(ctx, l, Q_A, H, layer_rows(l, CQ, n), false));
        LAYER_TRY(layer_norm(ctx, l, Q_A_NORM, layer_rows(l, CQ, n), layer_rows(l, CQ_NORMED, n),
                             layer_vector(l, CQ_SCALE, n), latent_eps));
        LAYER_TRY(layer_keep(ctx, l, CQ_NORMED, n));
    }
    LAYER_TRY(layer_linear(ctx, l, Q, c->q_lora ? CQ_NORMED : H, layer_rows(l, QUERY, n), false));
    LAYER_TRY(rotate(ctx, l, batch, key_part(l, QUERY, n, ROPE), false));
    LAYER_TRY(layer_keep(ctx, l, QUERY, n));
    LAYER_TRY(layer_linear(ctx, l, KV_A, H, layer_rows(l, CKV, n), false));
    LAYER_TRY(rotate(ctx, l, batch, shared_key(l, CKV, n, 1), false));
    LAYER_TRY(layer_norm(ctx, l, KV_A_NORM, layer_columns(l, CKV, n, 0, c->kv_lora),
                         layer_rows(l, CKV_NORMED, n), layer_vector(l, CKV_SCALE, n), latent_eps));
    return layer_keep(ctx, l, CKV_NORMED, n);
}

static struct k_attention attention_of(const struct layer *l, const struct layer_batch *batch) {
    return (struct k_attention){
        .lse = layer_rows(l, LSE, batch->n_tokens),
        .q_start = batch->seq_start,
        .kv_length = batch->kv_length,
        .pages = batch->pages,
        .page_tokens = batch->page_tokens,
        .scale = (float)config_attention_scale(l->config),
    };
}

/* Every head's keys and values are formed. */
static int attend(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch) {
    const struct model_config *c = l->config;
    int64_t n = batch->n_tokens;
    struct k_attention a = attention_of(l, batch);

    if (!l->params[KV_B].w)
        return -ENOTSUP; /* the files have its halves, for use with a cache */
    LAYER_TRY(layer_linear(ctx, l, KV_B, CKV_NORMED, layer_rows(l, KV, n), false));
    LAYER_TRY(layer_keep(ctx, l, KV, n));
    LAYER_TRY(copy(ctx, kv_part(l, KV, n, false), key_part(l, KEY, n, NOPE)));
    LAYER_TRY(copy(ctx, shared_key(l, CKV, n, c->n_heads), key_part(l, KEY, n, ROPE)));
    LAYER_TRY(layer_keep(ctx, l, KEY, n));
    a.y = layer_heads(l, OUT, n, 0, c->n_heads, c->d_value, c->d_value);
    a.q = key_part(l, QUERY, n, WHOLE);
    a.k = key_part(l, KEY, n, WHOLE);
    a.v = kv_part(l, KV, n, true);
    return k_attention(ctx, &a);
}

/* Rows [first, first + n) of a tensor. */
static struct k_tensor rows_from(struct k_tensor t, int64_t first, int64_t n) {
    t.data = (char *)t.data + k_dtype_n_bytes(t.dtype, first * t.stride[0]);
    t.shape[0] = n;
    return t;
}

/* Sequences [first, end) of a batch, their rows where they are. */
static struct layer_batch seqs_from(const struct layer_batch *batch, int64_t first, int64_t end) {
    struct layer_batch b = *batch;

    b.seq_start = rows_from(b.seq_start, first, end - first + 1);
    b.kv_length = rows_from(b.kv_length, first, end - first);
    b.pages = rows_from(b.pages, first, end - first);
    b.n_seqs = end - first;
    return b;
}

/* Queries through the keys' half of kv_b, rows [first, first + n). */
static int absorb(struct k_ctx *ctx, const struct layer *l, int64_t first, int64_t n) {
    const struct model_config *c = l->config;
    struct k_tensor to =
        layer_heads(l, QUERY_LATENT, first + n, 0, c->n_heads, c->kv_lora + c->d_rope, c->kv_lora);
    struct k_tensor from = rows_from(key_part(l, QUERY, first + n, NOPE), first, n);

    to = rows_from(to, first, n);
    if (l->params[KV_B_TURNED].w)
        return k_linear_heads(
            ctx, &(struct k_linear_heads){.y = to, .x = from, .w = l->params[KV_B_TURNED].w});
    return k_linear_heads_dx(
        ctx, &(struct k_linear_heads_dx){.dx = to, .dy = from, .w = l->params[KV_B_KEYS].w});
}

/* Rows [first, first + n) of a batch's sequences over the cache of compressed vectors: one key head
 * of kv_lora + d_rope, whose first kv_lora numbers are the value. */
static int attend_latent(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                         int64_t first, int64_t n) {
    const struct model_config *c = l->config;
    int64_t all = batch->n_tokens, h = c->n_heads, latent = c->kv_lora, width = latent + c->d_rope;
    struct k_tensor cache = layer_cache(l, CACHE, 1, width, width), values = cache;
    struct k_attention a = attention_of(l, batch);

    values.shape[2] = latent;
    LAYER_TRY(absorb(ctx, l, first, n));
    LAYER_TRY(
        copy(ctx, rows_from(key_part(l, QUERY, all, ROPE), first, n),
             rows_from(layer_heads(l, QUERY_LATENT, all, latent, h, width, c->d_rope), first, n)));
    a.y = layer_heads(l, OUT_LATENT, all, 0, h, latent, latent);
    a.q = layer_heads(l, QUERY_LATENT, all, 0, h, width, width);
    a.k = cache;
    a.v = values;
    LAYER_TRY(k_attention(ctx, &a));
    return k_linear_heads(
        ctx, &(struct k_linear_heads){
                 .y = rows_from(layer_heads(l, OUT, all, 0, h, c->d_value, c->d_value), first, n),
                 .x = rows_from(a.y, first, n),
                 .w = l->params[KV_B_VALUES].w});
}

/* The same in the form that expands the cache. */
static int attend_expanded(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch) {
    const struct model_config *c = l->config;
    int64_t n = batch->n_tokens;
    bool turned = l->params[KV_B_TURNED].w != NULL;

    return k_attention_expand(
        ctx, &(struct k_attention_expand){
                 .y = layer_heads(l, OUT, n, 0, c->n_heads, c->d_value, c->d_value),
                 .q = key_part(l, QUERY, n, WHOLE),
                 .cache = layer_rows(l, CACHE, l->buffers[CACHE].rows),
                 .w_key = l->params[turned ? KV_B_TURNED : KV_B_KEYS].w,
                 .w_value = l->params[KV_B_VALUES].w,
                 .q_start = batch->seq_start,
                 .kv_length = batch->kv_length,
                 .pages = batch->pages,
                 .page_tokens = batch->page_tokens,
                 .scale = (float)config_attention_scale(c),
                 .turned = turned,
             });
}

/* Rows of a sequence below which it stays compressed whatever the count of operations says: more
 * than one that decodes has, with all that is guessed ahead for it. A batch with that many rows is
 * one that k_attention does not split, so it leaves alone the rows of sequences it is not given. */
enum { EXPAND_ROWS_MIN = 48 };

/* Would sequence s be less work expanded? In multiply-adds of a head. */
static bool expands(const struct layer *l, const struct layer_batch *batch, int64_t s) {
    const struct model_config *c = l->config;
    const int32_t *start = batch->seq_start.data;
    int64_t n = start[s + 1] - start[s], n_keys = ((const int32_t *)batch->kv_length.data)[s];
    int64_t pairs = n * n_keys - n * (n - 1) / 2, row = c->kv_lora * (c->d_nope + c->d_value);

    return l->shared->fast_prefill && n >= EXPAND_ROWS_MIN &&
           n_keys * row + pairs * (c->d_nope + c->d_rope + c->d_value) <
               n * row + pairs * (2 * c->kv_lora + c->d_rope);
}

/* Attention over the cache: runs of sequences that take the same form. */
static int attend_cached(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch) {
    const int32_t *start = batch->seq_start.data;

    if (ctx->measuring) {
        LAYER_TRY(attend_latent(ctx, l, batch, 0, batch->n_tokens));
        return l->shared->fast_prefill ? attend_expanded(ctx, l, batch) : 0;
    }
    for (int64_t s = 0, end; s < batch->n_seqs; s = end) {
        bool expanded = expands(l, batch, s);
        for (end = s + 1; end < batch->n_seqs && expands(l, batch, end) == expanded;)
            end++;
        struct layer_batch some = seqs_from(batch, s, end);
        LAYER_TRY(expanded ? attend_expanded(ctx, l, &some)
                           : attend_latent(ctx, l, &some, start[s], start[end] - start[s]));
    }
    return 0;
}

/* New tokens into the cache. */
static int put(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch) {
    const struct model_config *c = l->config;
    int64_t n = batch->n_tokens, latent = c->kv_lora, width = latent + c->d_rope;
    struct k_tensor values = layer_cache(l, CACHE, 1, width, latent), turned = values;

    turned.data = (char *)values.data + (size_t)latent * k_dtype_bytes(values.dtype);
    turned.shape[2] = c->d_rope;
    LAYER_TRY(
        layer_cache_put(ctx, batch, layer_heads(l, CKV_NORMED, n, 0, 1, latent, latent), values));
    return layer_cache_put(ctx, batch, shared_key(l, CKV, n, 1), turned);
}

static int forward(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                   const struct k_tensor *x, const struct k_tensor *y) {
    int64_t n = batch->n_tokens;

    LAYER_TRY(layer_norm(ctx, l, NORM, *x, layer_rows(l, H, n), layer_vector(l, SCALE, n),
                         l->config->norm_eps));
    LAYER_TRY(layer_keep(ctx, l, H, n));
    LAYER_TRY(project(ctx, l, batch));
    if (batch->pages.data) {
        LAYER_TRY(put(ctx, l, batch));
        LAYER_TRY(attend_cached(ctx, l, batch));
    } else {
        LAYER_TRY(attend(ctx, l, batch));
    }
    LAYER_TRY(layer_keep(ctx, l, OUT, n));
    LAYER_TRY(layer_residual(ctx, x, y));
    return layer_linear(ctx, l, O, OUT, *y, true);
}

/* Gradients of queries, keys and values into those of the products that made them; dh written. */
static int project_backward(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                            struct k_tensor dh) {
    const struct model_config *c = l->config;
    int64_t n = batch->n_tokens;
    struct k_tensor shared = layer_columns(l, DCKV, n, c->kv_lora, c->d_rope);

    LAYER_TRY(copy(ctx, key_part(l, DKEY, n, NOPE), kv_part(l, DKV, n, false)));
    LAYER_TRY(
        k_sum_heads(ctx, &(struct k_sum_heads){.y = shared, .x = key_part(l, DKEY, n, ROPE)}));
    LAYER_TRY(rotate(ctx, l, batch, shared_key(l, DCKV, n, 1), true));
    LAYER_TRY(rotate(ctx, l, batch, key_part(l, DQUERY, n, ROPE), true));
    LAYER_TRY(
        layer_linear_dx(ctx, l, KV_B, layer_rows(l, DKV, n), layer_rows(l, DCKV_NORMED, n), false));
    LAYER_TRY(layer_norm_dx(ctx, l, KV_A_NORM, layer_rows(l, DCKV_NORMED, n),
                            layer_columns(l, CKV, n, 0, c->kv_lora), layer_vector(l, CKV_SCALE, n),
                            NULL, layer_columns(l, DCKV, n, 0, c->kv_lora)));
    LAYER_TRY(layer_linear_dx(ctx, l, KV_A, layer_rows(l, DCKV, n), dh, false));
    if (!c->q_lora)
        return layer_linear_dx(ctx, l, Q, layer_rows(l, DQUERY, n), dh, true);
    LAYER_TRY(
        layer_linear_dx(ctx, l, Q, layer_rows(l, DQUERY, n), layer_rows(l, DCQ_NORMED, n), false));
    LAYER_TRY(layer_norm_dx(ctx, l, Q_A_NORM, layer_rows(l, DCQ_NORMED, n), layer_rows(l, CQ, n),
                            layer_vector(l, CQ_SCALE, n), NULL, layer_rows(l, DCQ, n)));
    return layer_linear_dx(ctx, l, Q_A, layer_rows(l, DCQ, n), dh, true);
}

static int backward_input(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                          const struct k_tensor *x, const struct k_tensor *dy,
                          const struct k_tensor *dx) {
    static const int read[] = {QUERY, KEY, KV, OUT};
    const struct model_config *c = l->config;
    int64_t n = batch->n_tokens, v = c->d_value;
    struct k_tensor dh = layer_rows(l, DH, n);

    for (size_t i = 0; i < ARRAY_SIZE(read); i++)
        LAYER_TRY(layer_recall(ctx, l, read[i], n));
    LAYER_TRY(layer_linear_dx(ctx, l, O, *dy, layer_rows(l, DOUT, n), false));
    struct k_attention_dx a = {
        .dq = key_part(l, DQUERY, n, WHOLE),
        .dk = key_part(l, DKEY, n, WHOLE),
        .dv = kv_part(l, DKV, n, true),
        .dy = layer_heads(l, DOUT, n, 0, c->n_heads, v, v),
        .y = layer_heads(l, OUT, n, 0, c->n_heads, v, v),
        .q = key_part(l, QUERY, n, WHOLE),
        .k = key_part(l, KEY, n, WHOLE),
        .v = kv_part(l, KV, n, true),
        .lse = layer_rows(l, LSE, n),
        .q_start = batch->seq_start,
        .scale = (float)config_attention_scale(c),
    };
    LAYER_TRY(k_attention_dx(ctx, &a));
    LAYER_TRY(project_backward(ctx, l, batch, dh));
    return layer_norm_dx(ctx, l, NORM, dh, *x, layer_vector(l, SCALE, n), dy, *dx);
}

static int backward_weight(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                           const struct k_tensor *x, const struct k_tensor *dy) {
    const struct model_config *c = l->config;
    int64_t n = batch->n_tokens;

    LAYER_TRY(layer_linear_dw(ctx, l, O, OUT, *dy));
    LAYER_TRY(layer_linear_dw(ctx, l, KV_B, CKV_NORMED, layer_rows(l, DKV, n)));
    LAYER_TRY(layer_norm_dw(ctx, l, KV_A_NORM, layer_rows(l, DCKV_NORMED, n),
                            layer_columns(l, CKV, n, 0, c->kv_lora),
                            layer_vector(l, CKV_SCALE, n)));
    LAYER_TRY(layer_linear_dw(ctx, l, KV_A, H, layer_rows(l, DCKV, n)));
    if (c->q_lora) {
        LAYER_TRY(layer_linear_dw(ctx, l, Q, CQ_NORMED, layer_rows(l, DQUERY, n)));
        LAYER_TRY(layer_norm_dw(ctx, l, Q_A_NORM, layer_rows(l, DCQ_NORMED, n),
                                layer_rows(l, CQ, n), layer_vector(l, CQ_SCALE, n)));
        LAYER_TRY(layer_linear_dw(ctx, l, Q_A, H, layer_rows(l, DCQ, n)));
    } else {
        LAYER_TRY(layer_linear_dw(ctx, l, Q, H, layer_rows(l, DQUERY, n)));
    }
    return layer_norm_dw(ctx, l, NORM, layer_rows(l, DH, n), *x, layer_vector(l, SCALE, n));
}

const struct layer_type mla_layer = {"mla", declare, forward, backward_input, backward_weight};
