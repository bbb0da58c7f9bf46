#include "engine/nn/moe.h"

/* y = x + shared(h) + sum over the chosen experts of weight * expert(h), h = norm(x).
 *
 * Forward is three resumable parts (attention, before them, is a layer of its own): dispatch picks
 * experts and sorts the rows, experts computes them, combine adds them up. Rows are sorted by
 * (expert, token), so an expert's rows are one run of them. What training drops has no row: as many
 * rows at the end are gathered and activated for nobody. */
enum { NORM, GATE, EXPERT_IN, EXPERT_OUT, SHARED_IN, SHARED_OUT, BIAS };

enum {
    SCALE,
    H,
    LOGITS,
    SCORES,
    EXPERTS,
    WEIGHTS,
    KEPT,
    ROW_START,
    ROW_TOKEN,
    PAIR_ROW,
    ROWS,
    ROWS_IN,
    ROWS_ACT,
    ROWS_OUT,
    SHARED_GU,
    SHARED_ACT,
    BALANCE_F,
    DROWS_OUT,
    DROWS_IN,
    DLOGITS,
    DSHARED_GU,
    DH,
    DROWS_ACT,
    DROWS,
    DWEIGHTS,
    DSHARED_ACT,
};

static void declare(struct layer *l, const struct layer_limits *limits) {
    const struct model_config *c = l->config;
    int64_t t = limits->n_tokens, d = c->n_dim, f = c->n_dim_expert, e = c->n_experts;
    int64_t k = c->n_expert_slots, r = t * k, fs = f * c->n_shared_experts;

    layer_add_param(l, "post_attention_layernorm.weight", 0, d, 0);
    layer_add_param(l, "mlp.gate.weight", 1, e, d);
    layer_add_param(l, "mlp.experts.0.gate_proj.weight", e, 2 * f, d);
    layer_add_param(l, "mlp.experts.0.down_proj.weight", e, d, f);
    layer_add_param(l, "mlp.shared_experts.gate_proj.weight", 1, 2 * fs, d);
    layer_add_param(l, "mlp.shared_experts.down_proj.weight", 1, d, fs);
    l->params[EXPERT_IN].row_start = l->params[EXPERT_OUT].row_start = ROW_START;
    l->params[EXPERT_OUT].dispatched = true;
    if (c->router_bias)
        layer_add_param(l, "mlp.gate.e_score_correction_bias", 0, e, 0);
    layer_add_buffer(l, "norm_scale", LAYER_SAVED, K_F32, t, 1);
    layer_add_saved(l, "normed", PRECISION_INPUT, t, d);
    layer_add_buffer(l, "router_logits", LAYER_SCRATCH, K_F32, t, e);
    layer_add_buffer(l, "router_scores", LAYER_SAVED, K_F32, t, e);
    layer_add_buffer(l, "experts", LAYER_KEPT, K_I32, t, k);
    layer_add_buffer(l, "expert_weights", LAYER_KEPT, K_F32, t, k);
    layer_add_buffer(l, "kept_experts", LAYER_SCRATCH, K_I32, t, k);
    layer_add_buffer(l, "row_start", LAYER_KEPT, K_I32, e + 1, 1);
    layer_add_buffer(l, "row_token", LAYER_SAVED, K_I32, r, 1);
    layer_add_buffer(l, "pair_row", LAYER_SAVED, K_I32, t, k);
    layer_add_saved(l, "rows", PRECISION_DISPATCHED, r, d);
    layer_add_saved(l, "rows_gate_up", PRECISION_GATE_UP, r, 2 * f);
    layer_add_saved(l, "rows_activated", PRECISION_ACTIVATED, r, f);
    layer_add_saved(l, "rows_out", PRECISION_CORE, r, d);
    layer_add_saved(l, "shared_gate_up", PRECISION_GATE_UP, t, 2 * fs);
    layer_add_saved(l, "shared_activated", PRECISION_ACTIVATED, t, fs);
    layer_add_buffer(l, "balance_f", LAYER_SAVED, K_F32, limits->n_seqs, e);
    layer_add_buffer(l, "rows_out_grad", LAYER_GRAD, K_F32, r, d);
    layer_add_buffer(l, "rows_gate_up_grad", LAYER_GRAD, K_F32, r, 2 * f);
    layer_add_buffer(l, "router_logits_grad", LAYER_GRAD, K_F32, t, e);
    layer_add_buffer(l, "shared_gate_up_grad", LAYER_GRAD, K_F32, t, 2 * fs);
    layer_add_buffer(l, "normed_grad", LAYER_GRAD, K_F32, t, d);
    layer_add_buffer(l, "rows_activated_grad", LAYER_SCRATCH, K_F32, r, f);
    layer_add_buffer(l, "rows_grad", LAYER_SCRATCH, K_F32, r, d);
    layer_add_buffer(l, "expert_weights_grad", LAYER_SCRATCH, K_F32, t, k);
    layer_add_buffer(l, "shared_activated_grad", LAYER_SCRATCH, K_F32, t, fs);
}

static struct k_tensor row_start(const struct layer *l) {
    return layer_vector(l, ROW_START, l->config->n_experts + 1);
}

static struct k_tensor router_bias(const struct layer *l) {
    struct k_tensor none = {0};

    return l->config->router_bias ? l->params[BIAS].vector : none;
}

static enum k_score score_kind(const struct model_config *c) {
    return c->softmax_scores ? K_SCORE_SOFTMAX : K_SCORE_SIGMOID;
}

static int balance(struct k_ctx *ctx, struct layer *l, int64_t n_tokens) {
    const struct layer_routing *r = &l->routing;
    struct k_balance a = {
        .loss = k_tensor_1d(r->balance_loss, K_F64, K_BALANCE_COUNT),
        .f = layer_rows(l, BALANCE_F, r->span_start.shape[0] - 1),
        .scores = layer_rows(l, SCORES, n_tokens),
        .experts = layer_rows(l, EXPERTS, n_tokens),
        .span_start = r->span_start,
        .balance_scale = r->balance_scale,
        .n_groups = r->n_groups,
        .max_groups = r->max_groups,
        .plain = l->config->router_bias,
    };

    memcpy(a.alpha, r->alpha, sizeof a.alpha);
    return k_balance(ctx, &a);
}

/* The tokens' rows sorted by expert, without what is dropped. */
static int sort(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch) {
    const struct layer_routing *r = &l->routing;
    int64_t n = batch->n_tokens, rows = n * l->config->n_expert_slots;
    struct k_tensor experts = layer_rows(l, EXPERTS, n), kept = layer_rows(l, KEPT, n);

    if (r->capacity)
        LAYER_TRY(k_route_drop(ctx, &(struct k_route_drop){.kept = kept,
                                                           .experts = experts,
                                                           .scores = layer_rows(l, SCORES, n),
                                                           .seq_start = batch->seq_start,
                                                           .whole = r->whole,
                                                           .n_groups = r->n_groups,
                                                           .capacity = r->capacity}));
    LAYER_TRY(
        k_route_sort(ctx, &(struct k_route_sort){.row_start = row_start(l),
                                                 .row_token = layer_vector(l, ROW_TOKEN, rows),
                                                 .pair_row = layer_rows(l, PAIR_ROW, n),
                                                 .experts = r->capacity ? kept : experts}));
    LAYER_TRY(k_gather(ctx, &(struct k_gather){.y = layer_rows(l, ROWS, rows),
                                               .x = layer_rows(l, H, n),
                                               .row_token = layer_vector(l, ROW_TOKEN, rows)}));
    return layer_keep(ctx, l, ROWS, rows);
}

/* Gate and choice, then the rows that follow from it. */
static int dispatch(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch) {
    const struct model_config *c = l->config;
    int64_t n = batch->n_tokens;
    struct k_tensor logits = layer_rows(l, LOGITS, n);

    LAYER_TRY(layer_linear(ctx, l, GATE, H, logits, false));
    LAYER_TRY(k_router(ctx, &(struct k_router){.experts = layer_rows(l, EXPERTS, n),
                                               .weights = layer_rows(l, WEIGHTS, n),
                                               .scores = layer_rows(l, SCORES, n),
                                               .logits = logits,
                                               .bias = router_bias(l),
                                               .score = score_kind(c),
                                               .group_best = (int)c->group_best,
                                               .n_groups = (int)c->n_expert_groups,
                                               .group_top = (int)c->n_expert_groups_top,
                                               .normalise = c->normalise_slots,
                                               .scaling = (float)c->routed_scaling}));
    if (l->routing.balance_scale != 0)
        LAYER_TRY(balance(ctx, l, n));
    return sort(ctx, l, batch);
}

/* SwiGLU of n rows of a buffer of f gates and f others. */
static int activate(struct k_ctx *ctx, const struct layer *l, int from, int to, int64_t n) {
    int64_t f = l->buffers[to].columns;

    return k_swiglu(ctx, &(struct k_swiglu){.y = layer_rows(l, to, n),
                                            .gate = layer_columns(l, from, n, 0, f),
                                            .up = layer_columns(l, from, n, f, f)});
}

/* Again, in the backward pass, where its output is not kept. */
static int activate_again(struct k_ctx *ctx, const struct layer *l, int from, int to, int64_t n) {
    if (layer_is_saved(l, to))
        return 0;
    LAYER_TRY(layer_recall(ctx, l, from, n));
    return activate(ctx, l, from, to, n);
}

/* The chosen experts on their rows. */
static int experts(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch) {
    int64_t rows = batch->n_tokens * l->config->n_expert_slots;

    LAYER_TRY(layer_linear(ctx, l, EXPERT_IN, ROWS, layer_rows(l, ROWS_IN, rows), false));
    LAYER_TRY(layer_keep(ctx, l, ROWS_IN, rows));
    LAYER_TRY(activate(ctx, l, ROWS_IN, ROWS_ACT, rows));
    LAYER_TRY(layer_linear(ctx, l, EXPERT_OUT, ROWS_ACT, layer_rows(l, ROWS_OUT, rows), false));
    return layer_keep(ctx, l, ROWS_OUT, rows);
}

/* y += weights times the experts' rows. */
static int combine(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                   const struct k_tensor *y) {
    int64_t n = batch->n_tokens, rows = n * l->config->n_expert_slots;

    return k_combine(ctx, &(struct k_combine){.y = *y,
                                              .x = layer_rows(l, ROWS_OUT, rows),
                                              .pair_row = layer_rows(l, PAIR_ROW, n),
                                              .weights = layer_rows(l, WEIGHTS, n)});
}

static int shared_forward(struct k_ctx *ctx, struct layer *l, int64_t n, const struct k_tensor *y) {
    LAYER_TRY(layer_linear(ctx, l, SHARED_IN, H, layer_rows(l, SHARED_GU, n), false));
    LAYER_TRY(layer_keep(ctx, l, SHARED_GU, n));
    LAYER_TRY(activate(ctx, l, SHARED_GU, SHARED_ACT, n));
    return layer_linear(ctx, l, SHARED_OUT, SHARED_ACT, *y, true);
}

static int forward(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                   const struct k_tensor *x, const struct k_tensor *y) {
    int64_t n = batch->n_tokens;

    LAYER_TRY(layer_norm(ctx, l, NORM, *x, layer_rows(l, H, n), layer_vector(l, SCALE, n),
                         l->config->norm_eps));
    LAYER_TRY(dispatch(ctx, l, batch));
    LAYER_TRY(layer_keep(ctx, l, H, n)); /* the gate has seen it as it is */
    LAYER_TRY(layer_residual(ctx, x, y));
    LAYER_TRY(shared_forward(ctx, l, n, y));
    LAYER_TRY(experts(ctx, l, batch));
    return combine(ctx, l, batch, y);
}

/* Gradients of the routed experts: dh is written, the slot weights' gradient left for the gate. */
static int experts_backward(struct k_ctx *ctx, struct layer *l, int64_t n,
                            const struct k_tensor *dy, struct k_tensor dh) {
    int64_t rows = n * l->config->n_expert_slots, f = l->config->n_dim_expert;
    struct k_tensor drows = layer_rows(l, DROWS, rows), dact = layer_rows(l, DROWS_ACT, rows);

    LAYER_TRY(layer_recall(ctx, l, ROWS_OUT, rows));
    LAYER_TRY(layer_recall(ctx, l, ROWS_IN, rows));
    LAYER_TRY(k_combine_dx(ctx, &(struct k_combine_dx){.dx = layer_rows(l, DROWS_OUT, rows),
                                                       .dweights = layer_rows(l, DWEIGHTS, n),
                                                       .dy = *dy,
                                                       .x = layer_rows(l, ROWS_OUT, rows),
                                                       .pair_row = layer_rows(l, PAIR_ROW, n),
                                                       .weights = layer_rows(l, WEIGHTS, n)}));
    LAYER_TRY(layer_linear_dx(ctx, l, EXPERT_OUT, layer_rows(l, DROWS_OUT, rows), dact, false));
    LAYER_TRY(
        k_swiglu_dx(ctx, &(struct k_swiglu_dx){.dgate = layer_columns(l, DROWS_IN, rows, 0, f),
                                               .dup = layer_columns(l, DROWS_IN, rows, f, f),
                                               .dy = dact,
                                               .gate = layer_columns(l, ROWS_IN, rows, 0, f),
                                               .up = layer_columns(l, ROWS_IN, rows, f, f)}));
    LAYER_TRY(layer_linear_dx(ctx, l, EXPERT_IN, layer_rows(l, DROWS_IN, rows), drows, false));
    LAYER_TRY(k_add(ctx, &(struct k_add){.y = layer_vector(l, DH, n * l->config->n_dim)}));
    return k_combine(
        ctx, &(struct k_combine){.y = dh, .x = drows, .pair_row = layer_rows(l, PAIR_ROW, n)});
}

static int gate_backward(struct k_ctx *ctx, struct layer *l, int64_t n, struct k_tensor dh) {
    struct k_router_dx a = {
        .dlogits = layer_rows(l, DLOGITS, n),
        .dweights = layer_rows(l, DWEIGHTS, n),
        .experts = layer_rows(l, EXPERTS, n),
        .scores = layer_rows(l, SCORES, n),
        .score = score_kind(l->config),
        .normalise = l->config->normalise_slots,
        .scaling = (float)l->config->routed_scaling,
        .balance_scale = l->routing.balance_scale,
    };

    if (l->routing.balance_scale != 0) {
        a.span_start = l->routing.span_start;
        a.f = layer_rows(l, BALANCE_F, a.span_start.shape[0] - 1);
    }
    LAYER_TRY(k_router_dx(ctx, &a));
    return layer_linear_dx(ctx, l, GATE, a.dlogits, dh, true);
}

static int shared_backward(struct k_ctx *ctx, struct layer *l, int64_t n, const struct k_tensor *dy,
                           struct k_tensor dh) {
    int64_t f = l->config->n_dim_expert * l->config->n_shared_experts;
    struct k_tensor dact = layer_rows(l, DSHARED_ACT, n);

    LAYER_TRY(layer_recall(ctx, l, SHARED_GU, n));
    LAYER_TRY(layer_linear_dx(ctx, l, SHARED_OUT, *dy, dact, false));
    LAYER_TRY(k_swiglu_dx(ctx, &(struct k_swiglu_dx){.dgate = layer_columns(l, DSHARED_GU, n, 0, f),
                                                     .dup = layer_columns(l, DSHARED_GU, n, f, f),
                                                     .dy = dact,
                                                     .gate = layer_columns(l, SHARED_GU, n, 0, f),
                                                     .up = layer_columns(l, SHARED_GU, n, f, f)}));
    return layer_linear_dx(ctx, l, SHARED_IN, layer_rows(l, DSHARED_GU, n), dh, true);
}

static int backward_input(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                          const struct k_tensor *x, const struct k_tensor *dy,
                          const struct k_tensor *dx) {
    int64_t n = batch->n_tokens;
    struct k_tensor dh = layer_rows(l, DH, n);

    LAYER_TRY(experts_backward(ctx, l, n, dy, dh));
    LAYER_TRY(gate_backward(ctx, l, n, dh));
    LAYER_TRY(shared_backward(ctx, l, n, dy, dh));
    return layer_norm_dx(ctx, l, NORM, dh, *x, layer_vector(l, SCALE, n), dy, *dx);
}

static int backward_weight(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                           const struct k_tensor *x, const struct k_tensor *dy) {
    int64_t n = batch->n_tokens, rows = n * l->config->n_expert_slots;

    LAYER_TRY(activate_again(ctx, l, ROWS_IN, ROWS_ACT, rows));
    LAYER_TRY(layer_linear_dw(ctx, l, EXPERT_OUT, ROWS_ACT, layer_rows(l, DROWS_OUT, rows)));
    LAYER_TRY(layer_linear_dw(ctx, l, EXPERT_IN, ROWS, layer_rows(l, DROWS_IN, rows)));
    LAYER_TRY(activate_again(ctx, l, SHARED_GU, SHARED_ACT, n));
    LAYER_TRY(layer_linear_dw(ctx, l, SHARED_OUT, SHARED_ACT, *dy));
    LAYER_TRY(layer_linear_dw(ctx, l, SHARED_IN, H, layer_rows(l, DSHARED_GU, n)));
    if (!layer_is_saved(l, H))
        LAYER_TRY(layer_norm(ctx, l, NORM, *x, layer_rows(l, H, n), layer_vector(l, SCALE, n),
                             l->config->norm_eps));
    LAYER_TRY(layer_linear_dw(ctx, l, GATE, H, layer_rows(l, DLOGITS, n)));
    return layer_norm_dw(ctx, l, NORM, layer_rows(l, DH, n), *x, layer_vector(l, SCALE, n));
}

void moe_choice(const struct layer *l, const int32_t **ret_experts, const float **ret_weights) {
    *ret_experts = l->buffers[EXPERTS].data;
    *ret_weights = l->buffers[WEIGHTS].data;
}

void moe_counts_add(const struct layer *l, int64_t n_tokens, int64_t *picks, int64_t *dropped) {
    const int32_t *experts = l->buffers[EXPERTS].data, *start = l->buffers[ROW_START].data;
    int64_t n_pairs = n_tokens * l->config->n_expert_slots;

    for (int64_t p = 0; p < n_pairs; p++)
        picks[experts[p]]++;
    *dropped += n_pairs - start[l->config->n_experts];
}

float *moe_bias(const struct layer *l) {
    return l->params[BIAS].vector.data;
}

const struct layer_type moe_layer = {"moe", declare, forward, backward_input, backward_weight};
