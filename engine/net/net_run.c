/* A step: forward, loss, backward, optimizer. */
#include "engine/net/net_impl.h"

struct k_tensor net_rows(const struct net_pass *p, int value) {
    const struct net_data *v = &p->net->values[value];

    return k_tensor_2d(p->net->values[v->root].data, v->dtype, p->n_items * net_positions(v),
                       v->shape.channels);
}

static struct k_tensor gradient_rows(const struct net_pass *p, int value, float *data) {
    struct k_tensor t = net_rows(p, value);

    t.data = data;
    return t;
}

struct k_tensor net_dx(const struct net_pass *p, const struct net_node *node, int input) {
    return gradient_rows(p, node->inputs[input], node->dx[input]);
}

struct k_tensor net_dy(const struct net_pass *p, const struct net_node *node) {
    return gradient_rows(p, node->output, p->net->values[node->output].gradient);
}

struct k_tensor net_flat(struct k_tensor t) {
    return k_tensor_1d(t.data, t.dtype, k_tensor_n_elements(&t));
}

struct k_tensor net_at(struct k_tensor rows, int64_t n, int64_t t) {
    rows.data = (float *)rows.data + t * rows.stride[0];
    rows.shape[0] /= n;
    rows.stride[0] *= n;
    return rows;
}

static struct k_tensor as_heads(struct k_tensor rows) {
    struct k_tensor t = k_tensor_3d(rows.data, K_F32, rows.shape[0], 1, rows.shape[1]);

    t.stride[0] = rows.stride[0];
    return t;
}

int net_copy(struct k_ctx *ctx, struct k_tensor x, struct k_tensor y, bool accumulate) {
    return k_copy(ctx,
                  &(struct k_copy){.y = as_heads(y), .x = as_heads(x), .accumulate = accumulate});
}

int net_zero(struct k_ctx *ctx, struct k_tensor t) {
    return k_add(ctx, &(struct k_add){.y = net_flat(t)});
}

static void bind_inputs(struct net *net, const struct net_batch *batch) {
    assert(net->memory);
    assert(batch->n_items > 0);
    assert(batch->n_items <= net->options.n_items_max);
    for (int i = 0; i < net->n_inputs; i++) {
        assert(batch->inputs[i]);
        net->values[net->inputs[i]].data = (void *)(uintptr_t)batch->inputs[i];
    }
}

static int forward(struct net_pass *p) {
    for (int i = 0; i < p->net->n_nodes; i++)
        LAYER_TRY(p->net->nodes[i].type->forward(p, &p->net->nodes[i], &p->net->layers[i]));
    return 0;
}

int net_forward(struct net *net, const struct net_batch *batch) {
    struct net_pass pass = {net, &net->ctx, batch, batch->n_items, false};

    bind_inputs(net, batch);
    return forward(&pass);
}

/* The loss, and the gradient of its value. */
static int loss(struct net_pass *p, double *ret) {
    struct net *net = p->net;
    const struct net_data *v = &net->values[net->loss_value];
    struct net_data *root = &net->values[v->root];
    struct k_tensor y = net_rows(p, net->loss_value), dy = y;
    int64_t n = p->batch->n_items_all * (net->labels ? net_positions(v) : net_numbers(v));
    float scale = (float)(1 / (double)n);

    *ret = 0;
    dy.data = root->gradient;
    root->made = true;
    if (!net->labels)
        return k_loss(p->ctx,
                      &(struct k_loss){.loss = k_tensor_1d(ret, K_F64, 1),
                                       .dx = net_flat(dy),
                                       .x = net_flat(y),
                                       .target = k_tensor_1d((void *)(uintptr_t)p->batch->target,
                                                             K_F32, k_tensor_n_elements(&y)),
                                       .kind = net->loss_kind,
                                       .loss_scale = scale,
                                       .grad_scale = scale});
    LAYER_TRY(net_copy(p->ctx, y, dy, false));
    return k_cross_entropy(
        p->ctx, &(struct k_cross_entropy){
                    .loss = k_tensor_1d(ret, K_F64, 1),
                    .logits = dy,
                    .labels = k_tensor_1d((void *)(uintptr_t)p->batch->target, K_I32, y.shape[0]),
                    .loss_scale = scale,
                    .grad_scale = scale,
                    .backward = true});
}

/* Gradients of inputs go where they belong, or, if something is there already, wait to be added. */
static void aim(struct net *net, struct net_node *node, bool *late) {
    for (int k = 0; k < node->n_inputs; k++) {
        struct net_data *root = &net->values[net->values[node->inputs[k]].root];
        late[k] = root->wanted && root->made;
        node->dx[k] = !root->wanted ? NULL : late[k] ? net->spare[k] : root->gradient;
        root->made |= root->wanted;
    }
}

static int backward_node(struct net_pass *p, struct net_node *node, struct layer *l) {
    const struct net_data *output = &p->net->values[node->output];
    bool late[NET_NODE_INPUTS];

    if (!output->wanted)
        return 0;
    if (!output->made) // nothing reads it
        LAYER_TRY(net_zero(p->ctx, net_dy(p, node)));
    aim(p->net, node, late);
    LAYER_TRY(node->type->backward_input(p, node, l));
    for (int k = 0; k < node->n_inputs; k++)
        if (late[k]) {
            const struct net_data *v = &p->net->values[node->inputs[k]];
            LAYER_TRY(net_copy(p->ctx, net_dx(p, node, k),
                               gradient_rows(p, node->inputs[k], p->net->values[v->root].gradient),
                               true));
        }
    return node->type->backward_weight ? node->type->backward_weight(p, node, l) : 0;
}

int net_train(struct net *net, const struct net_batch *batch, double *ret_loss) {
    struct net_pass pass = {net, &net->ctx, batch, batch->n_items, true};

    assert(net->options.training);
    assert(net->loss_value);
    assert(batch->target);
    assert(batch->n_items_all >= batch->n_items);
    bind_inputs(net, batch);
    for (int i = 0; i < net->n_values; i++)
        net->values[i].made = false;
    LAYER_TRY(forward(&pass));
    LAYER_TRY(loss(&pass, ret_loss));
    for (int i = net->n_nodes - 1; i >= 0; i--)
        LAYER_TRY(backward_node(&pass, &net->nodes[i], &net->layers[i]));
    return 0;
}

int net_step(struct net *net, const struct adamw_rule *rule, int64_t step, double *ret_norm) {
    const struct adamw_range range = {&net->ctx,       net->weights,   net->gradients, net->exp_avg,
                                      net->exp_avg_sq, net->n_decayed, net->n_elements};

    LAYER_TRY(adamw_range_norm(&range, ret_norm));
    return adamw_range_step(&range, rule, step, *ret_norm);
}
