#include "engine/nn/layer.h"

/* Operands that are rounded for one product only: of the forward side, and gradients. */
enum side { SIDE_X, SIDE_DY, SIDE_COUNT };

void layer_add_saved(struct layer *l, const char *name, enum precision_role role, int64_t rows,
                     int64_t columns) {
    const struct precision *p = &l->shared->precision;
    enum k_dtype kept = precision_kept(p, role);
    int b = layer_add_buffer(l, name, kept == K_F32 ? LAYER_SAVED : LAYER_SCRATCH, K_F32, rows,
                             columns);

    l->buffers[b].kept = kept == K_DTYPE_COUNT ? K_F32 : kept;
    l->buffers[b].power_of_two = precision_power_of_two(role);
}

void layer_add_operands(struct layer *l, const struct layer_limits *limits) {
    static const char *const names[] = {"operand", "operand_grad"};
    static const char *const scales[] = {"operand_scale", "operand_grad_scale"};
    int64_t n = limits->n_tokens * l->config->n_dim, n_scales = 0;
    int64_t n_groups = MAX(l->config->n_experts, INT64_C(1));

    if (l->shared->precision.kind == PRECISION_F32)
        return;
    for (int i = 0; i < l->n_buffers; i++) {
        const struct layer_buffer *b = &l->buffers[i];
        n = MAX(n, b->rows * b->columns);
        n_scales = MAX(n_scales, k_n_scales(K_SCALE_TILES, b->rows, b->columns, 1));
        n_scales = MAX(n_scales, k_n_scales(K_SCALE_TOKENS, b->rows, b->columns, n_groups));
    }
    l->operands = l->n_buffers;
    for (int side = 0; side < SIDE_COUNT; side++) {
        layer_add_buffer(l, names[side], LAYER_SCRATCH, K_BF16, n, 1);
        layer_add_buffer(l, scales[side], LAYER_SCRATCH, K_F32, n_scales, 1);
    }
}

bool layer_is_saved(const struct layer *l, int buffer) {
    return l->buffers[buffer].life == LAYER_SAVED;
}

/* What is kept of a buffer's first n rows. */
static struct k_tensor kept(const struct layer *l, int buffer, int64_t n) {
    const struct layer_buffer *b = &l->buffers[buffer];
    struct k_tensor t = k_tensor_2d(b->kept_data, b->kept, n, b->columns);

    if (b->kept == K_F32)
        return layer_rows(l, buffer, n);
    if (b->kept != K_BF16) {
        t.scale_kind = K_SCALE_TILES;
        t.scale = b->kept_scale;
    }
    return t;
}

/* Where the scales of a rounded tensor go. */
static struct k_tensor scales_of(const struct k_tensor *t, float *data, int64_t n_groups) {
    int64_t columns = t->scale_kind == K_SCALE_TILES ? t->shape[0] : t->shape[1];
    int64_t n = k_n_scales(t->scale_kind, t->shape[0], t->shape[1], n_groups);

    if (t->scale_kind == K_SCALE_NONE)
        return (struct k_tensor){0};
    return k_tensor_2d(data, K_F32, n / MAX(columns, INT64_C(1)), columns);
}

int layer_keep(struct k_ctx *ctx, const struct layer *l, int buffer, int64_t n) {
    const struct layer_buffer *b = &l->buffers[buffer];
    struct k_tensor to = kept(l, buffer, n);

    if (b->kept == K_F32)
        return 0;
    LAYER_TRY(k_quantize(ctx, &(struct k_quantize){.y = to,
                                                   .scale = scales_of(&to, b->kept_scale, 1),
                                                   .x = layer_rows(l, buffer, n),
                                                   .power_of_two = b->power_of_two}));
    return b->kept == K_BF16 ? layer_recall(ctx, l, buffer, n) : 0;
}

int layer_recall(struct k_ctx *ctx, const struct layer *l, int buffer, int64_t n) {
    if (l->buffers[buffer].kept == K_F32)
        return 0;
    return k_dequantize(
        ctx, &(struct k_dequantize){.y = layer_rows(l, buffer, n), .x = kept(l, buffer, n)});
}

/* An operand as a product takes it, in *x. */
struct rounding {
    enum side side;
    enum k_dtype dtype;
    enum k_scale kind;
    struct k_tensor row_start;
    bool power_of_two;
};

static int round_operand(struct k_ctx *ctx, const struct layer *l, struct rounding how,
                         struct k_tensor *x) {
    const struct layer_buffer *codes = &l->buffers[l->operands + 2 * (int)how.side];
    struct k_tensor y = k_tensor_2d(codes->data, how.dtype, x->shape[0], x->shape[1]);

    y.scale_kind = how.dtype == K_BF16 ? K_SCALE_NONE : how.kind;
    if (x->dtype == y.dtype && x->scale_kind == y.scale_kind)
        return 0;
    struct k_quantize a = {
        .y = y, .x = *x, .row_start = how.row_start, .power_of_two = how.power_of_two};
    int64_t n_groups = how.row_start.data ? how.row_start.shape[0] - 1 : 1;
    a.scale = scales_of(&y, codes[1].data, n_groups);
    LAYER_TRY(k_quantize(ctx, &a));
    y.scale = a.scale.data;
    *x = y;
    return 0;
}

/* The type of a product's weights if it takes operands in few bits, else K_F32. */
static enum k_dtype narrow_weight(const struct layer *l, int param) {
    return l->shared->precision.kind == PRECISION_F32 ? K_F32 : k_weight_dtype(l->params[param].w);
}

static struct k_tensor row_start_of(const struct layer *l, int param) {
    const struct layer_param *p = &l->params[param];

    return p->row_start < 0 ? (struct k_tensor){0} : layer_vector(l, p->row_start, p->n_groups + 1);
}

/* The first n rows of a buffer for a product with a parameter. */
static int input_of(struct k_ctx *ctx, const struct layer *l, int param, int x, int64_t n,
                    enum k_scale kind, struct k_tensor *ret) {
    enum k_dtype dtype = narrow_weight(l, param);

    *ret = layer_rows(l, x, n);
    if (dtype == K_F32)
        return 0;
    if (l->buffers[x].kept != K_F32)
        *ret = kept(l, x, n);
    return round_operand(
        ctx, l,
        (struct rounding){SIDE_X, dtype, kind, row_start_of(l, param), l->buffers[x].power_of_two},
        ret);
}

/* A gradient for a product with a parameter. */
static int gradient_of(struct k_ctx *ctx, const struct layer *l, int param, enum k_scale kind,
                       struct k_tensor *dy) {
    enum k_dtype weight = narrow_weight(l, param);

    if (weight == K_F32)
        return 0;
    return round_operand(ctx, l,
                         (struct rounding){SIDE_DY,
                                           precision_gradient(&l->shared->precision, weight), kind,
                                           row_start_of(l, param), l->params[param].dispatched},
                         dy);
}

static enum k_sum sum_of(const struct layer *l, int param) {
    enum k_dtype weight = narrow_weight(l, param);

    return weight == K_F32 || weight == K_BF16 ? K_SUM_F32 : l->shared->precision.sum;
}

static int linear(struct k_ctx *ctx, const struct layer *l, int param, int bias, int x,
                  struct k_tensor y, bool accumulate) {
    struct k_linear a = {.y = y,
                         .w = l->params[param].w,
                         .row_start = row_start_of(l, param),
                         .accumulate = accumulate,
                         .sum = sum_of(l, param)};

    if (bias >= 0)
        a.bias = l->params[bias].vector;
    LAYER_TRY(input_of(ctx, l, param, x, y.shape[0], K_SCALE_TILES, &a.x));
    return k_linear(ctx, &a);
}

int layer_linear_bias(struct k_ctx *ctx, const struct layer *l, int param, int bias, int x,
                      struct k_tensor y) {
    return linear(ctx, l, param, bias, x, y, false);
}

int layer_linear(struct k_ctx *ctx, const struct layer *l, int param, int x, struct k_tensor y,
                 bool accumulate) {
    return linear(ctx, l, param, -1, x, y, accumulate);
}

int layer_linear_dx(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor dy,
                    struct k_tensor dx, bool accumulate) {
    LAYER_TRY(gradient_of(ctx, l, param, K_SCALE_TILES, &dy));
    return k_linear_dx(ctx, &(struct k_linear_dx){.dx = dx,
                                                  .dy = dy,
                                                  .w = l->params[param].w,
                                                  .row_start = row_start_of(l, param),
                                                  .accumulate = accumulate,
                                                  .sum = sum_of(l, param)});
}

int layer_linear_dw(struct k_ctx *ctx, const struct layer *l, int param, int x,
                    struct k_tensor dy) {
    struct k_linear_dw a = {
        .dw = l->params[param].dw, .row_start = row_start_of(l, param), .sum = sum_of(l, param)};

    LAYER_TRY(input_of(ctx, l, param, x, dy.shape[0], K_SCALE_TOKENS, &a.x));
    LAYER_TRY(gradient_of(ctx, l, param, K_SCALE_TOKENS, &dy));
    a.dy = dy;
    return k_linear_dw(ctx, &a);
}
