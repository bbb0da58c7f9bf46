/* Convolutions as products over unfolded windows, and pooling. The windows are scratch: the
 * backward pass unfolds them again. */
#include "engine/net/net_impl.h"
#include "kernels/kmath.h"
#include "kernels/window.h"

#include <inttypes.h>

enum { WINDOWS };

static int64_t window_numbers(const struct net *net, const struct net_node *node) {
    return net->values[node->inputs[0]].shape.channels * node->window.height * node->window.width;
}

/* A value as pictures: [n_items, height, width, channels]. */
static struct k_tensor pictures(const struct net_pass *p, int value, struct k_tensor rows) {
    struct net_shape s = p->net->values[value].shape;

    return (struct k_tensor){
        .data = rows.data,
        .dtype = rows.dtype,
        .n_dims = 4,
        .shape = {p->n_items,                      s.height,             s.width,    s.channels},
        .stride = {s.height * s.width * s.channels, s.width * s.channels, s.channels, 1         }
    };
}

static void conv_declare(struct net *net, struct net_node *node, struct layer *l, int64_t n_items) {
    int64_t n_in = window_numbers(net, node);
    double bound = 1 / kmath_sqrt((double)n_in);

    net_declare(node, l, "weight", node->n_hidden, n_in, NET_INIT_UNIFORM, bound);
    if (node->bias)
        net_declare(node, l, "bias", node->n_hidden, 0, NET_INIT_UNIFORM, bound);
    layer_add_buffer(l, "windows", LAYER_SCRATCH, K_F32,
                     n_items * net_positions(&net->values[node->output]), n_in);
}

static int unfold(struct net_pass *p, const struct net_node *node, struct k_tensor windows) {
    return k_unfold(
        p->ctx, &(struct k_unfold){.y = windows,
                                   .x = pictures(p, node->inputs[0], net_rows(p, node->inputs[0])),
                                   .window = node->window});
}

static int conv_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor y = net_rows(p, node->output);
    struct k_tensor windows = layer_rows(l, WINDOWS, y.shape[0]);

    LAYER_TRY(unfold(p, node, windows));
    return net_product(p->ctx, l, 0, node->bias ? 1 : -1, windows, y, false);
}

static int conv_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor dy = net_dy(p, node);
    struct k_tensor windows = layer_rows(l, WINDOWS, dy.shape[0]);

    if (!node->dx[0])
        return 0;
    LAYER_TRY(net_product_dx(p->ctx, l, 0, dy, windows, false));
    return k_fold(p->ctx, &(struct k_fold){.x = pictures(p, node->inputs[0], net_dx(p, node, 0)),
                                           .y = windows,
                                           .window = node->window});
}

static int conv_backward_weight(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor dy = net_dy(p, node);
    struct k_tensor windows = layer_rows(l, WINDOWS, dy.shape[0]);

    LAYER_TRY(unfold(p, node, windows));
    LAYER_TRY(net_product_dw(p->ctx, l, 0, windows, dy));
    return node->bias ? k_sum_rows(p->ctx, &(struct k_sum_rows){.y = l->params[1].dw, .x = dy}) : 0;
}

static const struct net_type conv_type = {"conv", conv_declare, conv_forward, conv_backward_input,
                                          conv_backward_weight};

enum { POOL_FROM };

static void pool_declare(struct net *net, struct net_node *node, struct layer *l, int64_t n_items) {
    const struct net_data *y = &net->values[node->output];

    if (node->mean)
        return;
    layer_add_buffer(l, "from", LAYER_SAVED, K_I32, n_items * net_positions(y), y->shape.channels);
}

static struct k_tensor pool_from(const struct net_pass *p, const struct net_node *node,
                                 const struct layer *l, int64_t rows) {
    return node->mean ? (struct k_tensor){0}
                      : pictures(p, node->output, layer_rows(l, POOL_FROM, rows));
}

static int pool_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor y = net_rows(p, node->output);

    return k_pooling(
        p->ctx, &(struct k_pooling){.y = pictures(p, node->output, y),
                                    .x = pictures(p, node->inputs[0], net_rows(p, node->inputs[0])),
                                    .from = pool_from(p, node, l, y.shape[0]),
                                    .window = node->window,
                                    .mean = node->mean});
}

static int pool_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor dy = net_dy(p, node);

    if (!node->dx[0])
        return 0;
    return k_pooling_dx(
        p->ctx, &(struct k_pooling_dx){.dx = pictures(p, node->inputs[0], net_dx(p, node, 0)),
                                       .dy = pictures(p, node->output, dy),
                                       .from = pool_from(p, node, l, dy.shape[0]),
                                       .window = node->window,
                                       .mean = node->mean});
}

static const struct net_type pool_type = {"pool", pool_declare, pool_forward, pool_backward_input,
                                          NULL};

/* A layer of windows; channels 0: those of x. */
static struct net_node *add_windows(struct net *net, const struct net_type *type, const char *name,
                                    int x, const struct k_window *w, int64_t channels) {
    const struct net_data *v = net_known(net, x);

    if (!v)
        return NULL;
    bool whole = v->dtype == K_F32 && window_is_whole(w);
    struct net_shape shape = {whole ? window_down(w, v->shape.height) : 0,
                              whole ? window_across(w, v->shape.width) : 0,
                              channels ? channels : v->shape.channels};
    if (shape.height < 1 || shape.width < 1) {
        net_mistake(net, name,
                    "a window of %" PRId64 " x %" PRId64 " does not fit %" PRId64 " x %" PRId64
                    " floats",
                    w->height, w->width, v->shape.height, v->shape.width);
        return NULL;
    }
    struct net_node *node = net_add_node(net, type, name, &x, 1, shape);
    if (node)
        node->window = *w;
    return node;
}

int net_conv(struct net *net, const char *name, int x, int64_t n_out, const struct k_window *window,
             bool bias) {
    struct net_node *node = add_windows(net, &conv_type, name, x, window, n_out);

    if (!node)
        return -1;
    node->n_hidden = n_out;
    node->bias = bias;
    return node->output;
}

int net_pool(struct net *net, int x, const struct k_window *window, bool mean) {
    if (2 * window->pad_y > window->height || 2 * window->pad_x > window->width)
        return net_mistake(net, "pool", "pads are more than half a window");
    struct net_node *node = add_windows(net, &pool_type, "pool", x, window, 0);
    if (!node)
        return -1;
    node->mean = mean;
    return node->output;
}
