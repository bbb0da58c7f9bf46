/* Multi-head attention with masks: in_proj makes q of one value's positions, k and v of another's
 * (or the same), out_proj brings the heads together. */
#include "engine/net/net_impl.h"
#include "kernels/kmath.h"

#include <inttypes.h>

enum { W_Q, W_KV, B_Q, B_KV, W_OUT, B_OUT };
enum { Q, KV, LSE, HEADS, DQ, DKV, DHEADS };

static void declare(struct net *net, struct net_node *node, struct layer *l, int64_t n_items) {
    int64_t n = node->n_hidden;
    int64_t queries = n_items * net_positions(&net->values[node->inputs[0]]);
    int64_t keys = n_items * net_positions(&net->values[node->inputs[node->n_inputs - 1]]);
    double bound = kmath_sqrt(6 / (double)(4 * n)), out = 1 / kmath_sqrt((double)n);

    net_declare(node, l, "in_proj_weight", n, n, NET_INIT_UNIFORM, bound);
    net_declare(node, l, "in_proj_weight", 2 * n, n, NET_INIT_UNIFORM, bound);
    net_declare(node, l, "in_proj_bias", n, 0, NET_INIT_CONSTANT, 0);
    net_declare(node, l, "in_proj_bias", 2 * n, 0, NET_INIT_CONSTANT, 0);
    net_declare(node, l, "out_proj.weight", n, n, NET_INIT_UNIFORM, out);
    net_declare(node, l, "out_proj.bias", n, 0, NET_INIT_CONSTANT, 0);
    l->params[W_Q].group_rows = l->params[B_Q].group_rows = 3 * n;
    l->params[W_KV].group_rows = l->params[B_KV].group_rows = 3 * n;
    l->params[W_KV].first_row = l->params[B_KV].first_row = n;
    layer_add_buffer(l, "q", LAYER_SAVED, K_F32, queries, n);
    layer_add_buffer(l, "kv", LAYER_SAVED, K_F32, keys, 2 * n);
    layer_add_buffer(l, "lse", LAYER_SAVED, K_F32, queries, node->attention.n_heads);
    layer_add_buffer(l, "heads", LAYER_SAVED, K_F32, queries, n);
    layer_add_buffer(l, "dq", LAYER_GRAD, K_F32, queries, n);
    layer_add_buffer(l, "dkv", LAYER_GRAD, K_F32, keys, 2 * n);
    layer_add_buffer(l, "dheads", LAYER_SCRATCH, K_F32, queries, n);
}

static int keys_input(const struct net_node *node) {
    return node->inputs[node->n_inputs - 1];
}

static struct k_tensor heads(const struct net_node *node, const struct layer *l, int buffer,
                             int64_t rows, int64_t first) {
    int64_t n_heads = node->attention.n_heads, d = node->n_hidden / n_heads;

    return layer_heads(l, buffer, rows, first, n_heads, d, d);
}

static struct k_attention_masked attend(const struct net_pass *p, const struct net_node *node,
                                        const struct layer *l) {
    const struct net_attention *rule = &node->attention;
    int64_t queries = net_rows(p, node->inputs[0]).shape[0];
    int64_t keys = net_rows(p, keys_input(node)).shape[0];
    int64_t per = queries / p->n_items;
    struct k_attention_masked a = {
        .y = heads(node, l, HEADS, queries, 0),
        .q = heads(node, l, Q, queries, 0),
        .k = heads(node, l, KV, keys, 0),
        .v = heads(node, l, KV, keys, node->n_hidden),
        .lse = layer_rows(l, LSE, queries),
        .n_seqs = p->n_items,
        .scale = (float)(1 / kmath_sqrt((double)(node->n_hidden / rule->n_heads))),
        .causal = rule->causal,
    };

    if (rule->mask) {
        struct k_tensor mask = net_rows(p, rule->mask);
        int64_t n = k_tensor_n_elements(&mask) / (per * (keys / p->n_items));
        a.mask = k_tensor_3d(mask.data, mask.dtype, n, per, keys / p->n_items);
    }
    if (rule->lengths)
        a.kv_length = net_flat(net_rows(p, rule->lengths));
    return a;
}

static int forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor x = net_rows(p, node->inputs[0]), from = net_rows(p, keys_input(node));
    struct k_attention_masked a = attend(p, node, l);

    LAYER_TRY(net_product(p->ctx, l, W_Q, B_Q, x, layer_rows(l, Q, x.shape[0]), false));
    LAYER_TRY(net_product(p->ctx, l, W_KV, B_KV, from, layer_rows(l, KV, from.shape[0]), false));
    LAYER_TRY(k_attention_masked(p->ctx, &a));
    return net_product(p->ctx, l, W_OUT, B_OUT, layer_rows(l, HEADS, x.shape[0]),
                       net_rows(p, node->output), false);
}

static int backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor dy = net_dy(p, node);
    struct k_attention_masked a = attend(p, node, l);
    int64_t queries = dy.shape[0], keys = a.k.shape[0];
    bool self = node->n_inputs == 1;
    float *keys_dx = node->dx[node->n_inputs - 1];
    const struct k_attention_masked_dx dx = {
        .dq = heads(node, l, DQ, queries, 0),
        .dk = heads(node, l, DKV, keys, 0),
        .dv = heads(node, l, DKV, keys, node->n_hidden),
        .dy = heads(node, l, DHEADS, queries, 0),
        .of = a,
    };

    LAYER_TRY(net_product_dx(p->ctx, l, W_OUT, dy, layer_rows(l, DHEADS, queries), false));
    LAYER_TRY(k_attention_masked_dx(p->ctx, &dx));
    if (node->dx[0])
        LAYER_TRY(
            net_product_dx(p->ctx, l, W_Q, layer_rows(l, DQ, queries), net_dx(p, node, 0), false));
    if (!keys_dx)
        return 0;
    return net_product_dx(p->ctx, l, W_KV, layer_rows(l, DKV, keys),
                          net_dx(p, node, node->n_inputs - 1), self);
}

static int part_dw(struct net_pass *p, struct layer *l, int weight, int bias, struct k_tensor x,
                   struct k_tensor dy) {
    LAYER_TRY(net_product_dw(p->ctx, l, weight, x, dy));
    return k_sum_rows(p->ctx, &(struct k_sum_rows){.y = l->params[bias].dw, .x = dy});
}

static int backward_weight(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor x = net_rows(p, node->inputs[0]), from = net_rows(p, keys_input(node));

    LAYER_TRY(part_dw(p, l, W_Q, B_Q, x, layer_rows(l, DQ, x.shape[0])));
    LAYER_TRY(part_dw(p, l, W_KV, B_KV, from, layer_rows(l, DKV, from.shape[0])));
    return part_dw(p, l, W_OUT, B_OUT, layer_rows(l, HEADS, x.shape[0]), net_dy(p, node));
}

static const struct net_type attention_type = {"attention", declare, forward, backward_input,
                                               backward_weight};

/* What must hold between the values; false: a mistake has been kept. */
static bool fits(struct net *net, const char *name, int q, int kv,
                 const struct net_attention *rule) {
    const struct net_data *x = net_known(net, q), *from = net_known(net, kv);
    const struct net_data *mask = rule->mask ? net_known(net, rule->mask) : NULL;
    const struct net_data *lengths = rule->lengths ? net_known(net, rule->lengths) : NULL;

    if (!x || !from)
        return false;
    int64_t n = x->shape.channels;
    if (x->dtype != K_F32 || from->dtype != K_F32 || from->shape.channels != n)
        net_mistake(net, name, "q and kv are to be floats of equally many channels");
    else if (rule->n_heads < 1 || n % rule->n_heads)
        net_mistake(net, name, "n_heads is %d; expected a divisor of the channels, %" PRId64,
                    rule->n_heads, n);
    else if (mask && (mask->shape.channels != 1 || mask->shape.width != net_positions(from) ||
                      (mask->shape.height != net_positions(x) &&
                       mask->shape.height != rule->n_heads * net_positions(x))))
        net_mistake(net, name,
                    "mask is %" PRId64 " x %" PRId64 " x %" PRId64 "; expected %" PRId64
                    " (or n_heads times that) x %" PRId64 " x 1",
                    mask->shape.height, mask->shape.width, mask->shape.channels, net_positions(x),
                    net_positions(from));
    else if (lengths && (lengths->dtype != K_I32 || net_numbers(lengths) != 1))
        net_mistake(net, name, "lengths are to be ints, one an item");
    return net->mistake.r == 0;
}

int net_attention(struct net *net, const char *name, int q, int kv,
                  const struct net_attention *rule) {
    const int inputs[] = {q, kv};

    if (!fits(net, name, q, kv, rule))
        return -1;
    struct net_node *node =
        net_add_node(net, &attention_type, name, inputs, q == kv ? 1 : 2, net->values[q].shape);
    if (!node)
        return -1;
    node->n_hidden = net->values[q].shape.channels;
    node->attention = *rule;
    return node->output;
}
