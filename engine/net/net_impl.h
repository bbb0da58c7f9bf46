/* net_impl.h - what the parts of net.h share: nodes of the graph, and the types of layers.
 *
 * A node is one layer: its parameters and buffers are declared as engine/nn/layer.h says. forward
 * leaves in its saved buffers what the backward pass reads; backward_input turns the gradient of
 * its output into those of its inputs; backward_weight follows it and adds to the gradients of
 * weights.
 */
#pragma once
#include "engine/model/plan.h"
#include "engine/net/net.h"
#include "engine/nn/layer.h"

enum {
    NET_NODE_INPUTS = 4,
    NET_PARAMS_MAX = 1024,
};

enum net_init {
    NET_INIT_UNIFORM, // from -bound to bound
    NET_INIT_NORMAL,  // with deviation `bound`
    NET_INIT_CONSTANT,
};

struct net_data {
    struct net_shape shape;
    enum k_dtype dtype;
    int root;    // whose memory it is: itself, or what it is a shape of
    bool wanted; // needs a gradient
    bool made;   // has one in this pass
    void *data;
    float *gradient; // NULL: needs none
};

struct net_node {
    const struct net_type *type;
    char name[NET_NAME_BYTES];
    int inputs[NET_NODE_INPUTS];
    int n_inputs;
    int output;
    int number;
    float *dx[NET_NODE_INPUTS]; // where gradients of inputs go; NULL: nobody wants it
    enum net_init init[LAYER_PARAMS_MAX];
    float bound[LAYER_PARAMS_MAX];
    // What the types need to know.
    int64_t n_hidden, n_vocab;
    bool bias, mean;
    enum k_curve curve;
    float rate, eps;
    struct k_window window;
    struct net_attention attention;
};

/* One batch on its way. */
struct net_pass {
    struct net *net;
    struct k_ctx *ctx;
    const struct net_batch *batch;
    int64_t n_items;
    bool training;
};

struct net_type {
    const char *name;
    void (*declare)(struct net *net, struct net_node *node, struct layer *l, int64_t n_items);
    int (*forward)(struct net_pass *p, struct net_node *node, struct layer *l);
    int (*backward_input)(struct net_pass *p, struct net_node *node, struct layer *l);
    int (*backward_weight)(struct net_pass *p, struct net_node *node, struct layer *l); // or NULL
};

struct net {
    struct hai_err mistake; // the first one while building; r 0: none
    struct net_data values[NET_NODES_MAX];
    int n_values;
    int inputs[NET_INPUTS_MAX];
    int n_inputs;
    struct net_node nodes[NET_NODES_MAX];
    struct layer layers[NET_NODES_MAX];
    int n_nodes;
    int loss_value; // 0: none
    bool labels;
    enum k_loss_kind loss_kind;
    struct net_options options;
    struct k_ctx ctx;
    char *memory;
    float *spare[NET_NODE_INPUTS]; // gradients on their way to a value that has one already
    struct net_param params[NET_PARAMS_MAX];
    int n_params;
    int64_t n_decayed, n_elements;
    float *weights, *gradients, *exp_avg, *exp_avg_sq;
    struct ckpt_part *parts;
    size_t n_parts;
};

/* Numbers of an item. */
static inline int64_t net_positions(const struct net_data *v) {
    return v->shape.height * v->shape.width;
}

static inline int64_t net_numbers(const struct net_data *v) {
    return net_positions(v) * v->shape.channels;
}

/* The input and output of a node as rows of channels, and their gradients. */
struct k_tensor net_rows(const struct net_pass *p, int value);
struct k_tensor net_dx(const struct net_pass *p, const struct net_node *node, int input);
struct k_tensor net_dy(const struct net_pass *p, const struct net_node *node);

/* All numbers of a tensor with packed rows in one dimension. */
struct k_tensor net_flat(struct k_tensor t);

/* Every position number t of sequences of n positions whose rows are packed: [sequences, ...]. */
struct k_tensor net_at(struct k_tensor rows, int64_t n, int64_t t);

/* y = x, or y += x, rows with any stride. */
int net_copy(struct k_ctx *ctx, struct k_tensor x, struct k_tensor y, bool accumulate);
int net_zero(struct k_ctx *ctx, struct k_tensor t);

/* A declared parameter with its initial values. */
int net_declare(struct net_node *node, struct layer *l, const char *name, int64_t n_out,
                int64_t n_in, enum net_init init, double bound);

/* A new node and its output; -1 after a mistake. The caller fills in the rest. */
struct net_node *net_add_node(struct net *net, const struct net_type *type, const char *name,
                              const int *inputs, int n_inputs, struct net_shape shape);
/* Keep a mistake; -1. */
int net_mistake(struct net *net, const char *name, const char *format, ...) _printf_(3, 4);
const struct net_data *net_known(struct net *net, int value); // NULL after a mistake

/* Products with parameter number `param` in float32; bias: number of a vector, -1: none. */
int net_product(struct k_ctx *ctx, const struct layer *l, int param, int bias, struct k_tensor x,
                struct k_tensor y, bool accumulate);
int net_product_dx(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor dy,
                   struct k_tensor dx, bool accumulate);
int net_product_dw(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor x,
                   struct k_tensor dy);
