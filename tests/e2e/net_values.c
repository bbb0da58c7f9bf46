/* net_values SEED - one network of each kind of layer at random shapes, with all it computed: a
 * JSON object a line, for torch_layers.py. Floats are exact to read back. */
#include "engine/net/net.h"
#include "kernels/philox.h"

#include <inttypes.h>
#include <stdio.h>

static uint64_t seed;
static uint32_t thrown;

static int64_t whole(int64_t low, int64_t high) {
    struct philox_counter at = philox_at(PHILOX_SHUFFLE, 0, 0, thrown++);
    uint32_t words[4];

    philox_words(seed, &at, words);
    return low + words[0] % (high - low + 1);
}

static float bell(void) {
    struct philox_counter at = philox_at(PHILOX_SHUFFLE, 1, 0, thrown++);
    uint32_t words[4];

    philox_words(seed, &at, words);
    return (float)philox_normal(words[0], words[1]);
}

static void print_floats(const char *name, const float *x, int64_t n) {
    printf(", \"%s\": [", name);
    for (int64_t i = 0; i < n; i++)
        printf("%s%.9g", i ? ", " : "", (double)x[i]);
    printf("]");
}

static void print_shape(const char *name, const int64_t *shape, int n) {
    printf(", \"%s\": [", name);
    for (int i = 0; i < n; i++)
        printf("%s%" PRId64, i ? ", " : "", shape[i]);
    printf("]");
}

enum { NUMBERS_MAX = 1 << 14, INPUTS = 3 };

static struct {
    float floats[INPUTS][NUMBERS_MAX], target[NUMBERS_MAX];
    int32_t ints[NUMBERS_MAX], lengths[NUMBERS_MAX];
} data;

/* A network under way. */
struct values {
    struct net *net;
    int x, y, n_inputs;
    bool ids;    // x is ints below 7
    bool labels; // targets are
    enum k_loss_kind loss;
    int64_t n_items;
};

static void add_x(struct values *v, struct net_shape shape) {
    v->x = net_input(v->net, shape);
    net_want_gradient(v->net, v->x);
}

static void say(const char *kind) {
    printf("{\"kind\": \"%s\"", kind);
}

static int64_t n_of(const struct net *net, int value) {
    struct net_shape s = net_value_shape(net, value);

    return s.height * s.width * s.channels;
}

static void print_value(const char *name, const struct values *v, int value) {
    struct net_shape s = net_value_shape(v->net, value);
    char shape[64];

    snprintf(shape, sizeof shape, "%s_shape", name);
    print_shape(shape, (const int64_t[]){v->n_items, s.height, s.width, s.channels}, 4);
    print_floats(name, net_value(v->net, value), v->n_items * n_of(v->net, value));
}

static void print_params(struct net *net) {
    int n;
    const struct net_param *params = net_params(net, &n);

    printf(", \"params\": [");
    for (int i = 0; i < n; i++) {
        printf("%s{\"name\": \"%s\"", i ? ", " : "", params[i].name);
        print_shape("shape", params[i].shape, params[i].n_dims);
        print_floats("w", net_weights(net) + params[i].offset, params[i].n_elements);
        print_floats("dw", net_gradients(net) + params[i].offset, params[i].n_elements);
        printf("}");
    }
    printf("]");
}

static void fill(struct values *v, struct net_batch *batch) {
    for (int i = 0; i < INPUTS; i++)
        for (int64_t e = 0; e < NUMBERS_MAX; e++)
            data.floats[i][e] = bell();
    for (int64_t e = 0; e < NUMBERS_MAX; e++) {
        data.ints[e] = (int32_t)whole(0, 2);
        data.lengths[e] = data.ints[e] + 1; // torch has NaN where there are no keys
        data.target[e] = v->loss == K_LOSS_SQUARE ? bell() : (float)whole(0, 1);
    }
    *batch = (struct net_batch){
        .n_items = v->n_items,
        .inputs = {v->ids ? (const void *)data.ints : data.floats[0], data.floats[1], data.lengths},
        .target = v->labels ? (const void *)data.ints : data.target,
        .n_items_all = v->n_items,
    };
}

static int finish(struct values *v) {
    const struct net_options options = {
        .backend = K_BACKEND_CPU, .n_items_max = v->n_items, .training = true, .seed = seed};
    struct net_batch batch;
    struct hai_err err = {0};
    double loss;
    int n_params;

    if (v->labels)
        net_loss_labels(v->net, v->y);
    else
        net_loss(v->net, v->y, v->loss);
    int r = net_plan(v->net, &options, &err);
    if (r < 0)
        return fprintf(stderr, "%s\n", hai_err_text(&err)), r;
    const struct net_param *params = net_params(v->net, &n_params);
    for (int i = 0; i < n_params; i++) // biases of zero would hide mistakes
        for (int64_t e = 0; params[i].n_dims == 1 && e < params[i].n_elements; e++)
            net_weights(v->net)[params[i].offset + e] += 0.3f * bell();
    fill(v, &batch);
    r = net_train(v->net, &batch, &loss);
    if (r < 0)
        return r;
    printf(", \"loss\": %.17g", loss);
    print_value("y", v, v->y);
    print_floats("target", data.target, v->n_items * n_of(v->net, v->y));
    if (!v->ids) {
        print_value("x", v, v->x);
        print_floats("dx", net_value_gradient(v->net, v->x), v->n_items * n_of(v->net, v->x));
    }
    print_floats("second", data.floats[1], 512);
    printf(", \"ints\": [");
    for (int i = 0; i < 512; i++)
        printf("%s%d", i ? ", " : "", data.ints[i]);
    printf("]");
    print_params(v->net);
    printf("}\n");
    return 0;
}

static struct values begin(const char *kind) {
    say(kind);
    return (struct values){.net = net_new(), .n_items = whole(1, 4)};
}

static int end(struct values *v) {
    int r = finish(v);

    net_free(v->net);
    return r;
}

static int activations(void) {
    static const char *const names[] = {
#define X(name, text) text,
        K_CURVES(X)
#undef X
    };
    int r = 0;

    for (int c = 0; r == 0 && c < K_CURVE_COUNT; c++) {
        struct values v = begin(names[c]);
        add_x(&v, NET_SEQUENCE(5, 7));
        v.y = net_activation(v.net, v.x, (enum k_curve)c);
        r = end(&v);
    }
    return r;
}

static int losses(void) {
    static const char *const names[] = {
#define X(name, text) "loss_" text,
        K_LOSSES(X)
#undef X
    };
    int r = 0;

    for (int k = 0; r == 0 && k < K_LOSS_COUNT; k++) {
        struct values v = begin(names[k]);
        add_x(&v, NET_VECTOR(9));
        v.y = k == K_LOSS_BINARY ? net_activation(v.net, v.x, K_CURVE_SIGMOID) : v.x;
        v.loss = (enum k_loss_kind)k;
        r = end(&v);
    }
    return r;
}

static int simple(const char *kind, int which) {
    struct values v = begin(kind);

    if (which == 2) {
        v.x = net_input_ints(v.net, NET_SEQUENCE(4, 1));
        v.ids = v.labels = true;
        v.y = net_embedding(v.net, "m", v.x, 7, 5);
        return end(&v);
    }
    add_x(&v, NET_SEQUENCE(whole(1, 9), whole(2, 40)));
    v.labels = which == 4;
    v.y = which == 0   ? net_linear(v.net, "m", v.x, whole(1, 40), true)
          : which == 1 ? net_layernorm(v.net, "m", v.x, 1e-5f)
          : which == 3 ? net_softmax(v.net, v.x)
          : which == 4 ? net_linear(v.net, "m", v.x, 3, true)
          : which == 5 ? net_lstm(v.net, "m", v.x, whole(1, 20))
                       : net_gru(v.net, "m", v.x, whole(1, 20));
    return end(&v);
}

static int attention(int which) {
    struct values v = begin("attention");
    int n_heads = (int)whole(1, 3);
    int64_t n_q = whole(2, 6), n_k = which == 2 ? whole(2, 6) : n_q, n = n_heads * whole(2, 8);
    struct net_attention rule = {.n_heads = n_heads};

    v.n_items = 3;
    add_x(&v, NET_SEQUENCE(n_q, n));
    if (which == 2) { // other keys, padded
        int kv = net_input(v.net, NET_SEQUENCE(n_k, n));
        rule.lengths = net_input_ints(v.net, NET_VECTOR(1));
        v.y = net_attention(v.net, "m", v.x, kv, &rule);
    } else {
        if (which == 1) // a mask to add
            rule.mask = net_input(v.net, NET_PICTURE(n_q, n_q, 1));
        rule.causal = which == 0;
        v.y = net_attention(v.net, "m", v.x, v.x, &rule);
    }
    printf(", \"form\": %d, \"heads\": %d, \"keys\": %" PRId64, which, n_heads, n_k);
    return end(&v);
}

static int windows(const char *kind, int which) {
    struct values v = begin(kind);
    struct k_window w = {which == 0 ? 1 : whole(2, 3),
                         whole(2, 3),
                         whole(1, 2),
                         whole(1, 2),
                         which != 0,
                         whole(0, 1),
                         which == 1 ? whole(1, 2) : 1,
                         which == 3 ? 1 : whole(1, 2)};

    add_x(&v, NET_PICTURE(which == 0 ? 1 : whole(5, 9), whole(5, 9), whole(1, 6)));
    v.y = which < 2 ? net_conv(v.net, "m", v.x, whole(1, 7), &w, true)
                    : net_pool(v.net, v.x, &w, which == 3);
    print_shape("window",
                (const int64_t[]){w.height, w.width, w.step_y, w.step_x, w.pad_y, w.pad_x,
                                  w.spread_y, w.spread_x},
                8);
    return end(&v);
}

int main(int argc, char **argv) {
    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    int r = activations() | losses() | simple("linear", 0) | simple("layernorm", 1) |
            simple("embedding", 2) | simple("softmax", 3) | simple("labels", 4) |
            simple("lstm", 5) | simple("gru", 6) | attention(0) | attention(1) | attention(2) |
            windows("conv1d", 0) | windows("conv2d", 1) | windows("maxpool", 2) |
            windows("meanpool", 3);
    return r < 0;
}
