/* Layers that work on positions alone, and sums of values. */
#include "engine/net/net_impl.h"
#include "kernels/kmath.h"

#include <inttypes.h>

static void linear_declare(struct net *net, struct net_node *node, struct layer *l,
                           int64_t n_items) {
    int64_t n_in = net->values[node->inputs[0]].shape.channels;
    double bound = 1 / kmath_sqrt((double)n_in);

    net_declare(node, l, "weight", node->n_hidden, n_in, NET_INIT_UNIFORM, bound);
    if (node->bias)
        net_declare(node, l, "bias", node->n_hidden, 0, NET_INIT_UNIFORM, bound);
}

static int linear_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    return net_product(p->ctx, l, 0, node->bias ? 1 : -1, net_rows(p, node->inputs[0]),
                       net_rows(p, node->output), false);
}

static int linear_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    return node->dx[0] ? net_product_dx(p->ctx, l, 0, net_dy(p, node), net_dx(p, node, 0), false)
                       : 0;
}

static int linear_backward_weight(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor dy = net_dy(p, node);

    LAYER_TRY(net_product_dw(p->ctx, l, 0, net_rows(p, node->inputs[0]), dy));
    return node->bias ? k_sum_rows(p->ctx, &(struct k_sum_rows){.y = l->params[1].dw, .x = dy}) : 0;
}

static const struct net_type linear_type = {"linear", linear_declare, linear_forward,
                                            linear_backward_input, linear_backward_weight};

int net_linear(struct net *net, const char *name, int x, int64_t n_out, bool bias) {
    const struct net_data *v = net_known(net, x);

    if (!v)
        return -1;
    if (v->dtype != K_F32)
        return net_mistake(net, name, "its input is ints; expected floats");
    struct net_shape shape = v->shape;
    shape.channels = n_out;
    struct net_node *node = net_add_node(net, &linear_type, name, &x, 1, shape);
    if (!node)
        return -1;
    node->n_hidden = n_out;
    node->bias = bias;
    return node->output;
}

static void embedding_declare(struct net *net, struct net_node *node, struct layer *l,
                              int64_t n_items) {
    net_declare(node, l, "weight", node->n_vocab, node->n_hidden, NET_INIT_NORMAL, 1);
}

static int embedding_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    return k_embed(p->ctx, &(struct k_embed){.y = net_rows(p, node->output),
                                             .ids = net_flat(net_rows(p, node->inputs[0])),
                                             .w = l->params[0].w});
}

static int no_backward(struct net_pass *p, struct net_node *node, struct layer *l) {
    return 0;
}

static int embedding_backward_weight(struct net_pass *p, struct net_node *node, struct layer *l) {
    return k_embed_dw(p->ctx, &(struct k_embed_dw){.dw = k_tensor_2d(l->params[0].dw.data, K_F32,
                                                                     node->n_vocab, node->n_hidden),
                                                   .ids = net_flat(net_rows(p, node->inputs[0])),
                                                   .dy = net_dy(p, node)});
}

static const struct net_type embedding_type = {"embedding", embedding_declare, embedding_forward,
                                               no_backward, embedding_backward_weight};

int net_embedding(struct net *net, const char *name, int ids, int64_t n_vocab, int64_t n_dim) {
    const struct net_data *v = net_known(net, ids);

    if (!v)
        return -1;
    if (v->dtype != K_I32 || v->shape.channels != 1)
        return net_mistake(net, name, "expected ids: an input of ints with 1 channel");
    struct net_shape shape = v->shape;
    shape.channels = n_dim;
    struct net_node *node = net_add_node(net, &embedding_type, name, &ids, 1, shape);
    if (!node)
        return -1;
    node->n_vocab = n_vocab;
    node->n_hidden = n_dim;
    return node->output;
}

static void declare_nothing(struct net *net, struct net_node *node, struct layer *l,
                            int64_t n_items) {
}

static int activation_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    return k_activate(p->ctx, &(struct k_activate){.y = net_flat(net_rows(p, node->output)),
                                                   .x = net_flat(net_rows(p, node->inputs[0])),
                                                   .curve = node->curve});
}

static int activation_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    if (!node->dx[0])
        return 0;
    return k_activate_dx(p->ctx,
                         &(struct k_activate_dx){.dx = net_flat(net_dx(p, node, 0)),
                                                 .dy = net_flat(net_dy(p, node)),
                                                 .x = net_flat(net_rows(p, node->inputs[0])),
                                                 .curve = node->curve});
}

static const struct net_type activation_type = {"activation", declare_nothing, activation_forward,
                                                activation_backward_input, NULL};

/* A node of its input's shape without a name. */
static struct net_node *add_same(struct net *net, const struct net_type *type, const char *name,
                                 const int *inputs, int n_inputs) {
    const struct net_data *v = net_known(net, inputs[0]);

    if (!v)
        return NULL;
    if (v->dtype != K_F32) {
        net_mistake(net, type->name, "its input is ints; expected floats");
        return NULL;
    }
    return net_add_node(net, type, name, inputs, n_inputs, v->shape);
}

int net_activation(struct net *net, int x, enum k_curve curve) {
    struct net_node *node = add_same(net, &activation_type, NULL, &x, 1);

    if (!node)
        return -1;
    node->curve = curve;
    return node->output;
}

/* Elements are numbered over the whole batch, so a rank's share says nothing. */
static int drop(struct net_pass *p, const struct net_node *node, struct k_tensor x,
                struct k_tensor y) {
    int64_t item = net_numbers(&p->net->values[node->output]);

    return k_dropout(p->ctx, &(struct k_dropout){.y = net_flat(y),
                                                 .x = net_flat(x),
                                                 .key = p->net->options.seed,
                                                 .step = (uint32_t)p->batch->step,
                                                 .layer = (uint32_t)node->number,
                                                 .first = p->batch->first_item * item,
                                                 .rate = node->rate});
}

static int dropout_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor x = net_rows(p, node->inputs[0]), y = net_rows(p, node->output);

    return p->training ? drop(p, node, x, y) : net_copy(p->ctx, x, y, false);
}

static int dropout_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    return node->dx[0] ? drop(p, node, net_dy(p, node), net_dx(p, node, 0)) : 0;
}

static const struct net_type dropout_type = {"dropout", declare_nothing, dropout_forward,
                                             dropout_backward_input, NULL};

int net_dropout(struct net *net, int x, float rate) {
    if (!(rate >= 0 && rate < 1))
        return net_mistake(net, "dropout", "rate is %g; expected 0 or more, below 1", (double)rate);
    struct net_node *node = add_same(net, &dropout_type, NULL, &x, 1);
    if (!node)
        return -1;
    node->rate = rate;
    return node->output;
}

enum { NORM_WEIGHT, NORM_BIAS };
enum { NORM_MEAN, NORM_SCALE };

static void layernorm_declare(struct net *net, struct net_node *node, struct layer *l,
                              int64_t n_items) {
    const struct net_data *x = &net->values[node->inputs[0]];

    net_declare(node, l, "weight", x->shape.channels, 0, NET_INIT_CONSTANT, 1);
    net_declare(node, l, "bias", x->shape.channels, 0, NET_INIT_CONSTANT, 0);
    layer_add_buffer(l, "mean", LAYER_SAVED, K_F32, n_items * net_positions(x), 1);
    layer_add_buffer(l, "scale", LAYER_SAVED, K_F32, n_items * net_positions(x), 1);
}

static int layernorm_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor x = net_rows(p, node->inputs[0]);

    return k_layernorm(p->ctx,
                       &(struct k_layernorm){.y = net_rows(p, node->output),
                                             .x = x,
                                             .weight = l->params[NORM_WEIGHT].vector,
                                             .bias = l->params[NORM_BIAS].vector,
                                             .mean = layer_vector(l, NORM_MEAN, x.shape[0]),
                                             .scale = layer_vector(l, NORM_SCALE, x.shape[0]),
                                             .eps = node->eps});
}

static int layernorm_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor x = net_rows(p, node->inputs[0]);

    if (!node->dx[0])
        return 0;
    return k_layernorm_dx(
        p->ctx, &(struct k_layernorm_dx){.dx = net_dx(p, node, 0),
                                         .dy = net_dy(p, node),
                                         .x = x,
                                         .weight = l->params[NORM_WEIGHT].vector,
                                         .mean = layer_vector(l, NORM_MEAN, x.shape[0]),
                                         .scale = layer_vector(l, NORM_SCALE, x.shape[0])});
}

static int layernorm_backward_weight(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor x = net_rows(p, node->inputs[0]), dy = net_dy(p, node);

    LAYER_TRY(k_layernorm_dw(
        p->ctx, &(struct k_layernorm_dw){.dw = l->params[NORM_WEIGHT].dw,
                                         .dy = dy,
                                         .x = x,
                                         .mean = layer_vector(l, NORM_MEAN, x.shape[0]),
                                         .scale = layer_vector(l, NORM_SCALE, x.shape[0])}));
    return k_sum_rows(p->ctx, &(struct k_sum_rows){.y = l->params[NORM_BIAS].dw, .x = dy});
}

static const struct net_type layernorm_type = {"layernorm", layernorm_declare, layernorm_forward,
                                               layernorm_backward_input, layernorm_backward_weight};

int net_layernorm(struct net *net, const char *name, int x, float eps) {
    struct net_node *node = add_same(net, &layernorm_type, name, &x, 1);

    if (!node)
        return -1;
    node->eps = eps;
    return node->output;
}

static int softmax_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    return k_softmax(p->ctx, &(struct k_softmax){.y = net_rows(p, node->output),
                                                 .x = net_rows(p, node->inputs[0])});
}

static int softmax_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    if (!node->dx[0])
        return 0;
    return k_softmax_dx(p->ctx, &(struct k_softmax_dx){.dx = net_dx(p, node, 0),
                                                       .dy = net_dy(p, node),
                                                       .y = net_rows(p, node->output)});
}

static const struct net_type softmax_type = {"softmax", declare_nothing, softmax_forward,
                                             softmax_backward_input, NULL};

int net_softmax(struct net *net, int x) {
    struct net_node *node = add_same(net, &softmax_type, NULL, &x, 1);

    return node ? node->output : -1;
}

static int add_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor y = net_rows(p, node->output);

    LAYER_TRY(net_copy(p->ctx, net_rows(p, node->inputs[0]), y, false));
    return net_copy(p->ctx, net_rows(p, node->inputs[1]), y, true);
}

static int add_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    for (int k = 0; k < 2; k++)
        if (node->dx[k])
            LAYER_TRY(net_copy(p->ctx, net_dy(p, node), net_dx(p, node, k), false));
    return 0;
}

static const struct net_type add_type = {"add", declare_nothing, add_forward, add_backward_input,
                                         NULL};

int net_add(struct net *net, int a, int b) {
    const struct net_data *x = net_known(net, a), *y = net_known(net, b);
    const int inputs[] = {a, b};

    if (!x || !y)
        return -1;
    if (memcmp(&x->shape, &y->shape, sizeof x->shape) != 0 || y->dtype != K_F32)
        return net_mistake(net, "add", "its inputs differ in shape or are ints");
    struct net_node *node = add_same(net, &add_type, NULL, inputs, 2);
    return node ? node->output : -1;
}

static int last_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    int64_t n = net_positions(&p->net->values[node->inputs[0]]);

    return net_copy(p->ctx, net_at(net_rows(p, node->inputs[0]), n, n - 1),
                    net_rows(p, node->output), false);
}

static int last_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    int64_t n = net_positions(&p->net->values[node->inputs[0]]);
    struct k_tensor dx = net_dx(p, node, 0);

    if (!node->dx[0])
        return 0;
    LAYER_TRY(net_zero(p->ctx, dx));
    return net_copy(p->ctx, net_dy(p, node), net_at(dx, n, n - 1), false);
}

static const struct net_type last_type = {"last", declare_nothing, last_forward,
                                          last_backward_input, NULL};

int net_last(struct net *net, int x) {
    const struct net_data *v = net_known(net, x);

    if (!v)
        return -1;
    if (v->dtype != K_F32 || v->shape.height != 1)
        return net_mistake(net, "last", "height is %" PRId64 "; expected 1, a sequence of floats",
                           v->shape.height);
    struct net_node *node =
        net_add_node(net, &last_type, NULL, &x, 1, NET_VECTOR(v->shape.channels));
    return node ? node->output : -1;
}
