/* Recurrent layers over sequences of one length. The input's products are made for all positions at
 * once; positions follow one another in rows, so a step is a view with a stride. */
#include "engine/net/net_impl.h"
#include "kernels/kmath.h"

#include <inttypes.h>

enum { W_INPUT, W_STATE, B_INPUT, B_STATE };

/* As PyTorch names those of one layer and one direction. */
static void declare_gates(struct net *net, struct net_node *node, struct layer *l, int n_gates) {
    int64_t n_in = net->values[node->inputs[0]].shape.channels, n = node->n_hidden;
    double bound = 1 / kmath_sqrt((double)n);

    net_declare(node, l, "weight_ih_l0", n_gates * n, n_in, NET_INIT_UNIFORM, bound);
    net_declare(node, l, "weight_hh_l0", n_gates * n, n, NET_INIT_UNIFORM, bound);
    net_declare(node, l, "bias_ih_l0", n_gates * n, 0, NET_INIT_UNIFORM, bound);
    net_declare(node, l, "bias_hh_l0", n_gates * n, 0, NET_INIT_UNIFORM, bound);
}

/* The same vector for every row; added. */
static int add_vector(struct k_ctx *ctx, struct k_tensor vector, struct k_tensor rows,
                      bool accumulate) {
    struct k_tensor x = k_tensor_2d(vector.data, K_F32, rows.shape[0], rows.shape[1]);

    x.stride[0] = 0;
    return net_copy(ctx, x, rows, accumulate);
}

/* h of the position before, for the product with W_STATE's gradient: zeros first. */
static int keep_before(struct net_pass *p, struct k_tensor h, struct k_tensor before, int64_t n) {
    LAYER_TRY(net_zero(p->ctx, before));
    for (int64_t t = 0; t + 1 < n; t++)
        LAYER_TRY(net_copy(p->ctx, net_at(h, n, t), net_at(before, n, t + 1), false));
    return 0;
}

/* Gradients of all four parameters. */
static int gates_dw(struct net_pass *p, const struct net_node *node, struct layer *l,
                    struct k_tensor dinput, struct k_tensor dstate, struct k_tensor before) {
    LAYER_TRY(net_product_dw(p->ctx, l, W_INPUT, net_rows(p, node->inputs[0]), dinput));
    LAYER_TRY(net_product_dw(p->ctx, l, W_STATE, before, dstate));
    LAYER_TRY(k_sum_rows(p->ctx, &(struct k_sum_rows){.y = l->params[B_INPUT].dw, .x = dinput}));
    return k_sum_rows(p->ctx, &(struct k_sum_rows){.y = l->params[B_STATE].dw, .x = dstate});
}

static int64_t steps_of(const struct net_pass *p, const struct net_node *node) {
    return p->net->values[node->output].shape.width;
}

enum { LSTM_GATES, LSTM_C, LSTM_BEFORE, LSTM_DGATES, LSTM_DC, LSTM_DH };

static void lstm_declare(struct net *net, struct net_node *node, struct layer *l, int64_t n_items) {
    int64_t rows = n_items * net_positions(&net->values[node->output]), n = node->n_hidden;

    declare_gates(net, node, l, 4);
    layer_add_buffer(l, "gates", LAYER_SAVED, K_F32, rows, 4 * n);
    layer_add_buffer(l, "c", LAYER_SAVED, K_F32, rows, n);
    layer_add_buffer(l, "before", LAYER_SAVED, K_F32, rows, n);
    layer_add_buffer(l, "dgates", LAYER_GRAD, K_F32, rows, 4 * n);
    layer_add_buffer(l, "dc", LAYER_SCRATCH, K_F32, n_items, n);
    layer_add_buffer(l, "dh", LAYER_SCRATCH, K_F32, n_items, n);
}

static int lstm_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor x = net_rows(p, node->inputs[0]), h = net_rows(p, node->output);
    struct k_tensor gates = layer_rows(l, LSTM_GATES, h.shape[0]);
    struct k_tensor c = layer_rows(l, LSTM_C, h.shape[0]);
    int64_t n = steps_of(p, node);

    LAYER_TRY(net_product(p->ctx, l, W_INPUT, B_INPUT, x, gates, false));
    LAYER_TRY(add_vector(p->ctx, l->params[B_STATE].vector, gates, true));
    for (int64_t t = 0; t < n; t++) {
        struct k_lstm_cell cell = {
            .h = net_at(h, n, t), .c = net_at(c, n, t), .gates = net_at(gates, n, t)};
        if (t > 0) {
            cell.c_before = net_at(c, n, t - 1);
            LAYER_TRY(net_product(p->ctx, l, W_STATE, -1, net_at(h, n, t - 1), cell.gates, true));
        }
        LAYER_TRY(k_lstm_cell(p->ctx, &cell));
    }
    return p->training ? keep_before(p, h, layer_rows(l, LSTM_BEFORE, h.shape[0]), n) : 0;
}

static int lstm_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor dy = net_dy(p, node);
    struct k_tensor gates = layer_rows(l, LSTM_GATES, dy.shape[0]);
    struct k_tensor dgates = layer_rows(l, LSTM_DGATES, dy.shape[0]);
    struct k_tensor c = layer_rows(l, LSTM_C, dy.shape[0]);
    struct k_tensor dc = layer_rows(l, LSTM_DC, p->n_items);
    struct k_tensor dh = layer_rows(l, LSTM_DH, p->n_items);
    int64_t n = steps_of(p, node);

    LAYER_TRY(net_zero(p->ctx, dc));
    for (int64_t t = n - 1; t >= 0; t--) {
        struct k_lstm_cell_dx cell = {.dgates = net_at(dgates, n, t),
                                      .dc = dc,
                                      .dh = dh,
                                      .gates = net_at(gates, n, t),
                                      .c = net_at(c, n, t)};
        if (t > 0)
            cell.c_before = net_at(c, n, t - 1);
        LAYER_TRY(net_copy(p->ctx, net_at(dy, n, t), dh, false));
        if (t < n - 1)
            LAYER_TRY(net_product_dx(p->ctx, l, W_STATE, net_at(dgates, n, t + 1), dh, true));
        LAYER_TRY(k_lstm_cell_dx(p->ctx, &cell));
    }
    return node->dx[0] ? net_product_dx(p->ctx, l, W_INPUT, dgates, net_dx(p, node, 0), false) : 0;
}

static int lstm_backward_weight(struct net_pass *p, struct net_node *node, struct layer *l) {
    int64_t rows = net_dy(p, node).shape[0];
    struct k_tensor dgates = layer_rows(l, LSTM_DGATES, rows);

    return gates_dw(p, node, l, dgates, dgates, layer_rows(l, LSTM_BEFORE, rows));
}

static const struct net_type lstm_type = {"lstm", lstm_declare, lstm_forward, lstm_backward_input,
                                          lstm_backward_weight};

enum { GRU_INPUT, GRU_STATE, GRU_BEFORE, GRU_DINPUT, GRU_DSTATE, GRU_DH };

static void gru_declare(struct net *net, struct net_node *node, struct layer *l, int64_t n_items) {
    int64_t rows = n_items * net_positions(&net->values[node->output]), n = node->n_hidden;

    declare_gates(net, node, l, 3);
    layer_add_buffer(l, "input", LAYER_SAVED, K_F32, rows, 3 * n);
    layer_add_buffer(l, "state", LAYER_SAVED, K_F32, rows, 3 * n);
    layer_add_buffer(l, "before", LAYER_SAVED, K_F32, rows, n);
    layer_add_buffer(l, "dinput", LAYER_GRAD, K_F32, rows, 3 * n);
    layer_add_buffer(l, "dstate", LAYER_GRAD, K_F32, rows, 3 * n);
    layer_add_buffer(l, "dh", LAYER_SCRATCH, K_F32, n_items, n);
}

static int gru_forward(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor x = net_rows(p, node->inputs[0]), h = net_rows(p, node->output);
    struct k_tensor input = layer_rows(l, GRU_INPUT, h.shape[0]);
    struct k_tensor state = layer_rows(l, GRU_STATE, h.shape[0]);
    int64_t n = steps_of(p, node);

    LAYER_TRY(net_product(p->ctx, l, W_INPUT, B_INPUT, x, input, false));
    LAYER_TRY(add_vector(p->ctx, l->params[B_STATE].vector, state, false));
    for (int64_t t = 0; t < n; t++) {
        struct k_gru_cell cell = {
            .h = net_at(h, n, t), .input = net_at(input, n, t), .state = net_at(state, n, t)};
        if (t > 0) {
            cell.h_before = net_at(h, n, t - 1);
            LAYER_TRY(net_product(p->ctx, l, W_STATE, -1, cell.h_before, cell.state, true));
        }
        LAYER_TRY(k_gru_cell(p->ctx, &cell));
    }
    return p->training ? keep_before(p, h, layer_rows(l, GRU_BEFORE, h.shape[0]), n) : 0;
}

static int gru_backward_input(struct net_pass *p, struct net_node *node, struct layer *l) {
    struct k_tensor dy = net_dy(p, node), h = net_rows(p, node->output);
    struct k_tensor input = layer_rows(l, GRU_INPUT, dy.shape[0]);
    struct k_tensor state = layer_rows(l, GRU_STATE, dy.shape[0]);
    struct k_tensor dinput = layer_rows(l, GRU_DINPUT, dy.shape[0]);
    struct k_tensor dstate = layer_rows(l, GRU_DSTATE, dy.shape[0]);
    struct k_tensor dh = layer_rows(l, GRU_DH, p->n_items);
    int64_t n = steps_of(p, node);

    LAYER_TRY(net_zero(p->ctx, dh));
    for (int64_t t = n - 1; t >= 0; t--) {
        struct k_gru_cell_dx cell = {.dinput = net_at(dinput, n, t),
                                     .dstate = net_at(dstate, n, t),
                                     .dh_before = dh,
                                     .dh = dh,
                                     .gates = net_at(input, n, t),
                                     .state = net_at(state, n, t)};
        if (t > 0)
            cell.h_before = net_at(h, n, t - 1);
        LAYER_TRY(net_copy(p->ctx, net_at(dy, n, t), dh, true));
        LAYER_TRY(k_gru_cell_dx(p->ctx, &cell));
        LAYER_TRY(net_product_dx(p->ctx, l, W_STATE, cell.dstate, dh, true));
    }
    return node->dx[0] ? net_product_dx(p->ctx, l, W_INPUT, dinput, net_dx(p, node, 0), false) : 0;
}

static int gru_backward_weight(struct net_pass *p, struct net_node *node, struct layer *l) {
    int64_t rows = net_dy(p, node).shape[0];

    return gates_dw(p, node, l, layer_rows(l, GRU_DINPUT, rows), layer_rows(l, GRU_DSTATE, rows),
                    layer_rows(l, GRU_BEFORE, rows));
}

static const struct net_type gru_type = {"gru", gru_declare, gru_forward, gru_backward_input,
                                         gru_backward_weight};

static int add_recurrent(struct net *net, const struct net_type *type, const char *name, int x,
                         int64_t n_hidden) {
    const struct net_data *v = net_known(net, x);

    if (!v)
        return -1;
    if (v->dtype != K_F32 || v->shape.height != 1)
        return net_mistake(net, name, "height is %" PRId64 "; expected 1, a sequence of floats",
                           v->shape.height);
    struct net_node *node =
        net_add_node(net, type, name, &x, 1, NET_SEQUENCE(v->shape.width, n_hidden));
    if (!node)
        return -1;
    node->n_hidden = n_hidden;
    return node->output;
}

int net_lstm(struct net *net, const char *name, int x, int64_t n_hidden) {
    return add_recurrent(net, &lstm_type, name, x, n_hidden);
}

int net_gru(struct net *net, const char *name, int x, int64_t n_hidden) {
    return add_recurrent(net, &gru_type, name, x, n_hidden);
}
