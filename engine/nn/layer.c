#include "engine/nn/layer.h"

int layer_add_param(struct layer *l, const char *name, int64_t n_groups, int64_t n_out,
                    int64_t n_in) {
    assert(l->n_params < LAYER_PARAMS_MAX);
    l->params[l->n_params] = (struct layer_param){
        .name = name, .n_groups = n_groups, .n_out = n_out, .n_in = n_in, .row_start = -1};
    return l->n_params++;
}

int layer_add_heads(struct layer *l, const char *name, int64_t n_heads, int64_t n_out, int64_t n_in,
                    int64_t first_row, int64_t group_rows) {
    int param = layer_add_param(l, name, n_heads, n_out, n_in);

    l->params[param].first_row = first_row;
    l->params[param].group_rows = group_rows;
    return param;
}

int layer_add_heads_turned(struct layer *l, const char *name, int64_t n_heads, int64_t n_out,
                           int64_t n_in, int64_t group_rows) {
    int param = layer_add_heads(l, name, n_heads, n_out, n_in, 0, group_rows);

    l->params[param].turned = true;
    return param;
}

int layer_add_buffer(struct layer *l, const char *name, enum layer_life life, enum k_dtype dtype,
                     int64_t rows, int64_t columns) {
    assert(l->n_buffers < LAYER_BUFFERS_MAX);
    l->buffers[l->n_buffers] = (struct layer_buffer){
        .name = name, .life = life, .dtype = dtype, .rows = rows, .columns = columns};
    return l->n_buffers++;
}

struct k_tensor layer_rows(const struct layer *l, int buffer, int64_t n_rows) {
    const struct layer_buffer *b = &l->buffers[buffer];

    assert(n_rows <= b->rows);
    return k_tensor_2d(b->data, b->dtype, n_rows, b->columns);
}

struct k_tensor layer_columns(const struct layer *l, int buffer, int64_t n_rows, int64_t first,
                              int64_t n_columns) {
    struct k_tensor t = layer_rows(l, buffer, n_rows);

    assert(first + n_columns <= t.shape[1]);
    t.data = (char *)t.data + (size_t)first * k_dtype_bytes(t.dtype);
    t.shape[1] = n_columns;
    return t;
}

struct k_tensor layer_heads(const struct layer *l, int buffer, int64_t n_rows, int64_t first,
                            int64_t n_heads, int64_t head_stride, int64_t d) {
    struct k_tensor t = layer_rows(l, buffer, n_rows);
    int64_t row = t.shape[1];

    assert(first + (n_heads - 1) * head_stride + d <= row);
    t = k_tensor_3d((char *)t.data + (size_t)first * k_dtype_bytes(t.dtype), t.dtype, n_rows,
                    n_heads, d);
    t.stride[0] = row;
    t.stride[1] = head_stride;
    return t;
}

struct k_tensor layer_vector(const struct layer *l, int buffer, int64_t n) {
    const struct layer_buffer *b = &l->buffers[buffer];

    assert(n <= b->rows * b->columns);
    return k_tensor_1d(b->data, b->dtype, n);
}

int layer_norm(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor x,
               struct k_tensor y, struct k_tensor scale, double eps) {
    return k_rmsnorm(
        ctx,
        &(struct k_rmsnorm){
            .y = y, .x = x, .weight = l->params[param].vector, .scale = scale, .eps = (float)eps});
}

int layer_norm_dx(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor dy,
                  struct k_tensor x, struct k_tensor scale, const struct k_tensor *residual,
                  struct k_tensor dx) {
    struct k_rmsnorm_dx a = {
        .dx = dx, .dy = dy, .x = x, .weight = l->params[param].vector, .scale = scale};

    if (residual)
        a.residual = *residual;
    return k_rmsnorm_dx(ctx, &a);
}

int layer_norm_dw(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor dy,
                  struct k_tensor x, struct k_tensor scale) {
    return k_rmsnorm_dw(
        ctx, &(struct k_rmsnorm_dw){.dw = l->params[param].dw, .dy = dy, .x = x, .scale = scale});
}

int layer_residual(struct k_ctx *ctx, const struct k_tensor *x, const struct k_tensor *y) {
    return k_copy(ctx, &(struct k_copy){
                           .y = k_tensor_3d(y->data, K_F32, y->shape[0], 1, y->shape[1]),
                           .x = k_tensor_3d(x->data, K_F32, x->shape[0], 1, x->shape[1]),
                       });
}

struct k_tensor layer_cache(const struct layer *l, int buffer, int64_t n_heads, int64_t head_stride,
                            int64_t d) {
    return layer_heads(l, buffer, l->buffers[buffer].rows, 0, n_heads, head_stride, d);
}

int layer_cache_put(struct k_ctx *ctx, const struct layer_batch *batch, struct k_tensor rows,
                    struct k_tensor cache) {
    return k_cache_put(ctx,
                       &(struct k_cache_put){.cache = cache, .x = rows, .row = batch->cache_row});
}
