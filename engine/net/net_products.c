#include "engine/net/net_impl.h"

int net_product(struct k_ctx *ctx, const struct layer *l, int param, int bias, struct k_tensor x,
                struct k_tensor y, bool accumulate) {
    struct k_linear a = {.y = y, .x = x, .w = l->params[param].w, .accumulate = accumulate};

    if (bias >= 0)
        a.bias = l->params[bias].vector;
    return k_linear(ctx, &a);
}

int net_product_dx(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor dy,
                   struct k_tensor dx, bool accumulate) {
    return k_linear_dx(ctx,
                       &(struct k_linear_dx){
                           .dx = dx, .dy = dy, .w = l->params[param].w, .accumulate = accumulate});
}

int net_product_dw(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor x,
                   struct k_tensor dy) {
    return k_linear_dw(ctx, &(struct k_linear_dw){.dw = l->params[param].dw, .dy = dy, .x = x});
}
