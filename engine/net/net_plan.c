/* Places of all parameters and buffers, before the first step. */
#include "engine/net/net_impl.h"
#include "kernels/kmath.h"
#include "kernels/philox.h"
#include "kernels/pool.h"

#include <stdio.h>

enum { ALIGN = 16 }; // elements: parameters begin at multiples of 64 bytes

static struct net_param *find(struct net *net, const char *name) {
    for (int i = 0; i < net->n_params; i++)
        if (hai_streq(net->params[i].name, name))
            return &net->params[i];
    return NULL;
}

static void full_name(const struct net_node *node, const char *name, char ret[NET_NAME_BYTES]) {
    (void)snprintf(ret, NET_NAME_BYTES, "%.*s%s%s", NET_NAME_BYTES / 2, node->name,
                   node->name[0] ? "." : "", name);
}

/* A published tensor; those read in parts are declared with the rows of all (layer.h). */
static int add_param(struct net *net, const struct net_node *node, const struct layer_param *p) {
    char name[NET_NAME_BYTES];
    int64_t rows = p->group_rows ? p->group_rows : p->n_out;

    full_name(node, p->name, name);
    if (find(net, name))
        return p->first_row ? 0 : net_mistake(net, name, "this name is taken");
    if (net->n_params == NET_PARAMS_MAX)
        return net_mistake(net, name, "more than %d parameters", NET_PARAMS_MAX);
    struct net_param *param = &net->params[net->n_params++];
    *param = (struct net_param){
        .n_dims = p->n_groups ? 2 : 1, .shape = {rows, p->n_in},
                 .n_elements = rows
    };
    memcpy(param->name, name, sizeof name);
    if (p->n_groups)
        param->n_elements *= p->n_in;
    if (node->window.height && p->n_groups) { // as PyTorch has them
        bool flat = node->window.height == 1;
        int64_t channels = p->n_in / (node->window.height * node->window.width);
        param->n_dims = flat ? 3 : 4;
        param->shape[1] = channels;
        param->shape[2] = flat ? node->window.width : node->window.height;
        param->shape[3] = flat ? 0 : node->window.width;
    }
    return 0;
}

/* Offsets: what decays first. */
static void place_params(struct net *net) {
    for (int vectors = 0; vectors < 2; vectors++) {
        for (int i = 0; i < net->n_params; i++) {
            struct net_param *p = &net->params[i];
            if ((p->n_dims == 1) != vectors)
                continue;
            p->offset = net->n_elements;
            net->n_elements += (p->n_elements + ALIGN - 1) / ALIGN * ALIGN;
        }
        if (!vectors)
            net->n_decayed = net->n_elements;
    }
}

static void mark_wanted(struct net *net) {
    for (int i = 0; i < net->n_nodes; i++) {
        const struct net_node *node = &net->nodes[i];
        bool wanted = net->layers[i].n_params > 0;
        for (int k = 0; k < node->n_inputs; k++)
            wanted |= net->values[net->values[node->inputs[k]].root].wanted;
        net->values[node->output].wanted = wanted;
    }
}

/* One walk of the plan: parameters, values, gradients, the layers' own. */
static void walk(struct net *net, struct plan *plan) {
    const struct net_options *o = &net->options;
    int64_t largest = 0, n = net->n_elements;

    net->weights = plan_floats(plan, n);
    if (o->training) {
        net->gradients = plan_floats(plan, n);
        net->exp_avg = plan_floats(plan, n);
        net->exp_avg_sq = plan_floats(plan, n);
    }
    for (int i = 1; i < net->n_values; i++) {
        struct net_data *v = &net->values[i];
        int64_t numbers = o->n_items_max * net_numbers(v);
        if (v->root != i)
            continue;
        v->data = plan_floats(plan, numbers); // ints are as wide
        if (o->training && v->wanted) {
            v->gradient = plan_floats(plan, numbers);
            largest = MAX(largest, numbers);
        }
    }
    for (int k = 0; o->training && k < NET_NODE_INPUTS; k++)
        net->spare[k] = plan_floats(plan, largest);
    plan_layers(plan, net->layers, net->n_nodes, o->training);
}

static int bind_param(struct net *net, struct layer_param *p, const struct net_param *param,
                      struct hai_err *err) {
    int64_t at = param->offset + p->first_row * MAX(p->n_in, (int64_t)1);
    float *w = net->weights + at, *dw = net->gradients ? net->gradients + at : NULL;

    if (p->n_groups == 0) {
        p->vector = k_tensor_1d(w, K_F32, p->n_out);
        p->dw = k_tensor_1d(dw, K_F32, p->n_out);
        return 0;
    }
    p->dw = k_tensor_3d(dw, K_F32, 1, p->n_out, p->n_in);
    return k_weight_plain(&net->ctx, K_F32, 1, p->n_out, p->n_in, w, &p->w, err);
}

static double draw(enum net_init init, double bound, uint64_t seed, uint32_t param, int64_t i) {
    struct philox_counter at = philox_at(PHILOX_INIT, 0, param, (uint32_t)i);
    uint32_t words[4];

    if (init == NET_INIT_CONSTANT)
        return bound;
    philox_words(seed, &at, words);
    return init == NET_INIT_NORMAL ? bound * philox_normal(words[0], words[1])
                                   : bound * (2 * philox_uniform(words[0]) - 1);
}

/* Bind every node's parameters, and draw those that it is the first to name. */
static int bind(struct net *net, struct hai_err *err) {
    char name[NET_NAME_BYTES];

    for (int i = 0; i < net->n_nodes; i++)
        for (int k = 0; k < net->layers[i].n_params; k++) {
            struct layer_param *p = &net->layers[i].params[k];
            full_name(&net->nodes[i], p->name, name);
            const struct net_param *param = find(net, name);
            int r = bind_param(net, p, param, err);
            if (r < 0)
                return r;
            for (int64_t e = 0; !p->first_row && e < param->n_elements; e++)
                net->weights[param->offset + e] =
                    (float)draw(net->nodes[i].init[k], (double)net->nodes[i].bound[k],
                                net->options.seed, (uint32_t)(param - net->params), e);
        }
    return 0;
}

static void list_parts(struct net *net) {
    const struct {
        enum ckpt_state state;
        float *base;
    } states[] = {
        {CKPT_STATE_WEIGHT,     net->weights   },
        {CKPT_STATE_EXP_AVG,    net->exp_avg   },
        {CKPT_STATE_EXP_AVG_SQ, net->exp_avg_sq}
    };

    net->parts = hai_new_array(struct ckpt_part, 3 * (size_t)net->n_params);
    for (int i = 0; i < net->n_params; i++)
        for (size_t s = 0; s < (net->options.training ? ARRAY_SIZE(states) : 1); s++) {
            const struct net_param *p = &net->params[i];
            struct ckpt_part *part = &net->parts[net->n_parts++];
            *part = (struct ckpt_part){.name = p->name,
                                       .state = states[s].state,
                                       .n_dims = p->n_dims,
                                       .data = states[s].base + p->offset};
            memcpy(part->shape, p->shape, sizeof part->shape);
        }
}

/* Workspace at the largest batch: a pass that only measures. */
static int measure(struct net *net, struct hai_err *err) {
    struct net_batch batch = {.n_items = net->options.n_items_max,
                              .n_items_all = net->options.n_items_max};
    double loss;

    for (int i = 0; i < net->n_inputs; i++)
        batch.inputs[i] = net->values[net->inputs[i]].data;
    batch.target = net->memory;
    net->ctx.measuring = true;
    int r = net->options.training && net->loss_value ? net_train(net, &batch, &loss)
                                                     : net_forward(net, &batch);
    net->ctx.measuring = false;
    return r < 0 ? hai_fail(err, r, "a layer's operator refused its shapes") : 0;
}

/* Two walks: bytes, then places. */
static int allocate(struct net *net, struct hai_err *err) {
    struct plan plan = {0};

    walk(net, &plan);
    net->memory = hai_alloc(plan.n_bytes + 64);
    plan = (struct plan){.base = (char *)(((uintptr_t)net->memory + 63) & ~(uintptr_t)63)};
    walk(net, &plan);
    return bind(net, err);
}

static int declare_all(struct net *net) {
    for (int i = 0; i < net->n_nodes; i++) {
        struct layer *l = &net->layers[i];
        net->nodes[i].type->declare(net, &net->nodes[i], l, net->options.n_items_max);
        for (int k = 0; k < l->n_params; k++)
            if (add_param(net, &net->nodes[i], &l->params[k]) < 0)
                return net->mistake.r;
    }
    return 0;
}

int net_plan(struct net *net, const struct net_options *options, struct hai_err *err) {
    assert(!net->memory);
    assert(options->n_items_max > 0);
    net->options = *options;
    int r = net->mistake.r < 0 ? net->mistake.r : declare_all(net);
    if (r < 0) {
        if (err)
            *err = net->mistake;
        return r;
    }
    place_params(net);
    mark_wanted(net);
    if (options->training && net->loss_value &&
        !net->values[net->values[net->loss_value].root].wanted)
        return hai_fail(err, -EINVAL, "loss: no parameter leads to it; expected one to train");
    r = k_ctx_init(&net->ctx, options->backend, options->path, err);
    if (r == 0 && options->n_threads > 1)
        r = pool_new(options->n_threads, &net->ctx.pool, err);
    if (r == 0)
        r = allocate(net, err);
    if (r == 0)
        r = measure(net, err);
    if (r < 0)
        return r;
    net->ctx.workspace_bytes = (net->ctx.measured_bytes + 63) / 64 * 64;
    net->ctx.workspace = aligned_alloc(64, MAX(net->ctx.workspace_bytes, (size_t)64));
    if (!net->ctx.workspace)
        return hai_fail(err, -ENOMEM, "%zu bytes of workspace", net->ctx.workspace_bytes);
    list_parts(net);
    return 0;
}
