/* The graph: values, nodes, mistakes. */
#include "engine/net/net_impl.h"

#include "kernels/pool.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

struct net *net_new(void) {
    struct net *net = hai_new(struct net);

    net->n_values = 1; // 0: none
    return net;
}

void net_free(struct net *net) {
    if (!net)
        return;
    for (int i = 0; i < net->n_nodes; i++)
        for (int k = 0; k < net->layers[i].n_params; k++)
            k_weight_free(net->layers[i].params[k].w);
    pool_free(net->ctx.pool);
    free(net->ctx.workspace);
    free(net->memory);
    free(net->parts);
    free(net);
}

int net_mistake(struct net *net, const char *name, const char *format, ...) {
    char text[256];
    va_list ap;

    if (net->mistake.r < 0)
        return -1;
    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    hai_fail(&net->mistake, -EINVAL, "layer %d (%s): %s", net->n_nodes, name, text);
    return -1;
}

const struct net_data *net_known(struct net *net, int value) {
    if (net->mistake.r < 0)
        return NULL;
    assert(value > 0);
    assert(value < net->n_values);
    return &net->values[value];
}

static int add_value(struct net *net, struct net_shape shape, enum k_dtype dtype) {
    if (net->mistake.r < 0)
        return -1;
    if (net->n_values == NET_NODES_MAX)
        return net_mistake(net, "value", "more than %d values", NET_NODES_MAX);
    if (shape.height < 1 || shape.width < 1 || shape.channels < 1)
        return net_mistake(net, "value",
                           "shape %" PRId64 " x %" PRId64 " x %" PRId64 "; expected above 0",
                           shape.height, shape.width, shape.channels);
    net->values[net->n_values] =
        (struct net_data){.shape = shape, .dtype = dtype, .root = net->n_values};
    return net->n_values++;
}

static int add_input(struct net *net, struct net_shape shape, enum k_dtype dtype) {
    if (net->n_inputs == NET_INPUTS_MAX)
        return net_mistake(net, "input", "more than %d inputs", NET_INPUTS_MAX);
    int value = add_value(net, shape, dtype);
    if (value >= 0)
        net->inputs[net->n_inputs++] = value;
    return value;
}

int net_input(struct net *net, struct net_shape shape) {
    return add_input(net, shape, K_F32);
}

int net_input_ints(struct net *net, struct net_shape shape) {
    return add_input(net, shape, K_I32);
}

void net_want_gradient(struct net *net, int input) {
    const struct net_data *v = net_known(net, input);

    if (v && v->dtype != K_F32)
        net_mistake(net, "input", "a gradient of ints is wanted; expected floats");
    else if (v)
        net->values[input].wanted = true;
}

struct net_node *net_add_node(struct net *net, const struct net_type *type, const char *name,
                              const int *inputs, int n_inputs, struct net_shape shape) {
    if (net->mistake.r == 0 && net->n_nodes == NET_NODES_MAX)
        net_mistake(net, type->name, "more than %d layers", NET_NODES_MAX);
    if (name && strlen(name) >= NET_NAME_BYTES / 2)
        net_mistake(net, type->name, "name %s is longer than %d bytes", name,
                    NET_NAME_BYTES / 2 - 1);
    int output = add_value(net, shape, K_F32);
    if (output < 0)
        return NULL;
    struct net_node *node = &net->nodes[net->n_nodes];
    *node = (struct net_node){
        .type = type, .n_inputs = n_inputs, .output = output, .number = net->n_nodes++};
    (void)snprintf(node->name, sizeof node->name, "%s", name ? name : "");
    for (int i = 0; i < n_inputs; i++)
        node->inputs[i] = inputs[i];
    return node;
}

int net_declare(struct net_node *node, struct layer *l, const char *name, int64_t n_out,
                int64_t n_in, enum net_init init, double bound) {
    int param = layer_add_param(l, name, n_in ? 1 : 0, n_out, n_in);

    node->init[param] = init;
    node->bound[param] = (float)bound;
    return param;
}

int net_reshape(struct net *net, int x, struct net_shape shape) {
    const struct net_data *v = net_known(net, x);

    if (!v)
        return -1;
    if (shape.height * shape.width * shape.channels != net_numbers(v))
        return net_mistake(net, "reshape",
                           "%" PRId64 " x %" PRId64 " x %" PRId64 " is not %" PRId64 " numbers",
                           shape.height, shape.width, shape.channels, net_numbers(v));
    int value = add_value(net, shape, v->dtype);
    if (value >= 0)
        net->values[value].root = v->root;
    return value;
}

int net_flatten(struct net *net, int x) {
    const struct net_data *v = net_known(net, x);

    return v ? net_reshape(net, x, NET_VECTOR(net_numbers(v))) : -1;
}

static void set_loss(struct net *net, int y) {
    const struct net_data *v = net_known(net, y);

    if (!v)
        return;
    if (net->loss_value)
        net_mistake(net, "loss", "there is one already");
    else if (v->dtype != K_F32)
        net_mistake(net, "loss", "of an input of ints");
    net->loss_value = y;
}

void net_loss(struct net *net, int y, enum k_loss_kind kind) {
    set_loss(net, y);
    net->loss_kind = kind;
}

void net_loss_labels(struct net *net, int logits) {
    set_loss(net, logits);
    net->labels = true;
}

static const struct net_data *root_of(const struct net *net, int value) {
    assert(value > 0);
    assert(value < net->n_values);
    return &net->values[net->values[value].root];
}

const float *net_value(const struct net *net, int value) {
    return root_of(net, value)->data;
}

const float *net_value_gradient(const struct net *net, int value) {
    return root_of(net, value)->gradient;
}

struct net_shape net_value_shape(const struct net *net, int value) {
    assert(value > 0);
    assert(value < net->n_values);
    return net->values[value].shape;
}

const struct net_param *net_params(const struct net *net, int *ret_n) {
    *ret_n = net->n_params;
    return net->params;
}

int64_t net_n_elements(const struct net *net) {
    return net->n_elements;
}

float *net_weights(struct net *net) {
    return net->weights;
}

float *net_gradients(struct net *net) {
    return net->gradients;
}

void net_gradients_clear(struct net *net) {
    memset(net->gradients, 0, (size_t)net->n_elements * sizeof *net->gradients);
}

const struct ckpt_part *net_parts(const struct net *net, size_t *ret_n) {
    *ret_n = net->n_parts;
    return net->parts;
}

const char *net_kernel_path(const struct net *net) {
    return net->ctx.path;
}

int64_t net_n_items_max(const struct net *net) {
    return net->options.n_items_max;
}
