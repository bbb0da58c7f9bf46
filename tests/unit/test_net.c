/* Networks of every layer at random shapes: gradients against central differences, the fast paths
 * against ref, the same bits at any number of threads; what cannot be built; dropout; training. */
#include "engine/net/net.h"
#include "kernels/philox.h"
#include "tests/unit/test.h"

#include <math.h>

/* Random whole and bell-shaped numbers, by seed. */
struct dice {
    uint64_t seed;
    uint32_t thrown;
};

static uint32_t word(struct dice *d) {
    struct philox_counter at = philox_at(PHILOX_SHUFFLE, 0, 0, d->thrown++);
    uint32_t words[4];

    philox_words(d->seed, &at, words);
    return words[0];
}

static int64_t whole(struct dice *d, int64_t low, int64_t high) {
    return low + word(d) % (high - low + 1);
}

static float bell(struct dice *d) {
    struct philox_counter at = philox_at(PHILOX_SHUFFLE, 1, 0, d->thrown++);
    uint32_t words[4];

    philox_words(d->seed, &at, words);
    return (float)philox_normal(words[0], words[1]);
}

/* One network of one kind of layer; x is its first input. */
struct made {
    struct net *net;
    int x, y;
    struct dice *dice;
    int64_t n_items;
};

static void add_x(struct made *m, struct net_shape shape) {
    m->x = net_input(m->net, shape);
    net_want_gradient(m->net, m->x);
}

static void sequence(struct made *m) {
    add_x(m, NET_SEQUENCE(whole(m->dice, 1, 6), whole(m->dice, 1, 9)));
}

static void picture(struct made *m) {
    add_x(m, NET_PICTURE(whole(m->dice, 4, 7), whole(m->dice, 4, 7), whole(m->dice, 1, 4)));
}

static struct k_window some_window(struct made *m, int64_t height) {
    return (struct k_window){.height = height,
                             .width = whole(m->dice, 2, 3),
                             .step_y = whole(m->dice, 1, 2),
                             .step_x = whole(m->dice, 1, 2),
                             .pad_y = height > 1,
                             .pad_x = whole(m->dice, 0, 1),
                             .spread_y = 1,
                             .spread_x = whole(m->dice, 1, 2)};
}

static void make_linear(struct made *m) {
    sequence(m);
    m->y = net_linear(m->net, "l", m->x, whole(m->dice, 1, 20), whole(m->dice, 0, 1));
}

static void make_layernorm(struct made *m) {
    add_x(m, NET_SEQUENCE(3, whole(m->dice, 2, 20)));
    m->y = net_layernorm(m->net, "n", m->x, 1e-5f);
}

static void make_curve(struct made *m) {
    sequence(m);
    m->y = net_activation(m->net, m->x, (enum k_curve)(m->dice->seed % K_CURVE_COUNT));
}

static void make_softmax(struct made *m) {
    sequence(m);
    m->y = net_softmax(m->net, m->x);
}

static void make_dropout(struct made *m) {
    sequence(m);
    m->y = net_dropout(m->net, m->x, 0.4f);
}

static void make_lstm(struct made *m) {
    sequence(m);
    m->y = net_lstm(m->net, "r", m->x, whole(m->dice, 1, 18));
}

static void make_gru(struct made *m) {
    sequence(m);
    m->y = net_last(m->net, net_gru(m->net, "r", m->x, whole(m->dice, 1, 18)));
}

static void make_self_attention(struct made *m) {
    int n_heads = (int)whole(m->dice, 1, 3);
    int64_t length = whole(m->dice, 2, 6);

    add_x(m, NET_SEQUENCE(length, n_heads * whole(m->dice, 1, 4)));
    const struct net_attention rule = {.n_heads = n_heads,
                                       .causal = whole(m->dice, 0, 1),
                                       .mask = net_input(m->net, NET_PICTURE(length, length, 1))};
    m->y = net_attention(m->net, "a", m->x, m->x, &rule);
}

static void make_cross_attention(struct made *m) {
    int64_t length = whole(m->dice, 2, 6);

    add_x(m, NET_SEQUENCE(whole(m->dice, 1, 5), 6));
    int kv = net_linear(m->net, "l", net_input(m->net, NET_SEQUENCE(length, 2)), 6, true);
    const struct net_attention rule = {.n_heads = 2,
                                       .lengths = net_input_ints(m->net, NET_VECTOR(1))};
    m->y = net_attention(m->net, "a", m->x, kv, &rule);
}

static void make_conv(struct made *m) {
    picture(m);
    struct k_window w = some_window(m, whole(m->dice, 2, 3));
    m->y = net_conv(m->net, "c", m->x, whole(m->dice, 1, 5), &w, whole(m->dice, 0, 1));
}

static void make_conv_1d(struct made *m) {
    add_x(m, NET_SEQUENCE(whole(m->dice, 5, 8), whole(m->dice, 1, 5)));
    struct k_window w = some_window(m, 1);
    m->y = net_conv(m->net, "c", m->x, whole(m->dice, 1, 5), &w, true);
}

static void make_max_pool(struct made *m) {
    picture(m);
    struct k_window w = some_window(m, 2);
    m->y = net_pool(m->net, m->x, &w, false);
}

static void make_mean_pool(struct made *m) {
    picture(m);
    struct k_window w = some_window(m, 3);
    m->y = net_flatten(m->net, net_pool(m->net, m->x, &w, true));
}

/* A value that three layers read, one of them twice. */
static void make_branches(struct made *m) {
    sequence(m);
    int a = net_linear(m->net, "a", m->x, 4, true);
    int b = net_activation(m->net, a, K_CURVE_TANH), c = net_add(m->net, a, b);
    m->y = net_add(m->net, net_add(m->net, c, c), net_linear(m->net, "b", a, 4, false));
}

static const struct {
    const char *name;
    void (*make)(struct made *m);
} kinds[] = {
    {"linear",          make_linear         },
    {"layernorm",       make_layernorm      },
    {"curve",           make_curve          },
    {"softmax",         make_softmax        },
    {"dropout",         make_dropout        },
    {"lstm",            make_lstm           },
    {"gru",             make_gru            },
    {"self-attention",  make_self_attention },
    {"cross-attention", make_cross_attention},
    {"conv",            make_conv           },
    {"conv-1d",         make_conv_1d        },
    {"max-pool",        make_max_pool       },
    {"mean-pool",       make_mean_pool      },
    {"branches",        make_branches       },
};

enum { ROUNDS = 6, NUMBERS_MAX = 4096, INPUTS = 3 };

/* A planned network and a batch for it, the same for every backend. */
struct trial {
    struct made made;
    struct dice dice;
    float floats[INPUTS][NUMBERS_MAX], target[NUMBERS_MAX];
    int32_t lengths[8];
    struct net_batch batch;
};

static int64_t n_of(const struct net *net, int value) {
    struct net_shape s = net_value_shape(net, value);

    return s.height * s.width * s.channels;
}

static void fill(struct trial *t) {
    for (int i = 0; i < INPUTS; i++)
        for (int64_t e = 0; e < NUMBERS_MAX; e++)
            t->floats[i][e] = bell(&t->dice);
    for (int64_t e = 0; e < NUMBERS_MAX; e++)
        t->target[e] = bell(&t->dice);
    for (int i = 0; i < 8; i++)
        t->lengths[i] = (i + 2) % 3;
    t->batch = (struct net_batch){
        .n_items = t->made.n_items,
        .inputs = {t->floats[0], t->floats[1], t->lengths},
        .target = t->target,
        .n_items_all = 2 * t->made.n_items,
        .first_item = 3,
        .step = 5
    };
}

static int begin(struct trial *t, int kind, uint64_t seed, const char *path, int n_threads) {
    struct hai_err err = {0};

    t->dice = (struct dice){seed, 0};
    t->made = (struct made){.net = net_new(), .dice = &t->dice, .n_items = 1 + (int64_t)seed % 3};
    kinds[kind].make(&t->made);
    net_loss(t->made.net, t->made.y, K_LOSS_SQUARE);
    const struct net_options options = {.backend = path ? K_BACKEND_CPU : K_BACKEND_REF,
                                        .path = path,
                                        .n_threads = n_threads,
                                        .n_items_max = t->made.n_items + 1,
                                        .training = true,
                                        .seed = seed};
    int r = net_plan(t->made.net, &options, &err);
    if (r == -ENOTSUP)
        return r;
    CHECK_EQ(r, 0, "%s: %s", kinds[kind].name, err.text);
    CHECK(t->made.n_items * n_of(t->made.net, t->made.x) <= NUMBERS_MAX, "%s", kinds[kind].name);
    CHECK(t->made.n_items * n_of(t->made.net, t->made.y) <= NUMBERS_MAX, "%s", kinds[kind].name);
    fill(t);
    return r;
}

static double train(struct trial *t) {
    double loss = 0;

    CHECK_EQ(net_train(t->made.net, &t->batch, &loss), 0, "");
    return loss;
}

/* The slope of the loss along a number, by differences of width h. */
static double slope(struct trial *t, float *number, double h) {
    float kept = *number, up = (float)((double)kept + h), down = (float)((double)kept - h);

    *number = up;
    double high = train(t);
    *number = down;
    double low = train(t);
    *number = kept;
    return (high - low) / ((double)up - (double)down);
}

struct tally {
    int n, bent;
};

/* Of one number. Where two widths differ the loss has a bend (relu, maxima): counted, not compared.
 */
static void check_number(struct trial *t, const char *name, float *number, float wanted,
                         double size, struct tally *tally) {
    double near = slope(t, number, 5e-3), far = slope(t, number, 1e-2);
    double best = near + (near - far) / 3; // their errors go with the square of the width

    tally->n++;
    if (fabs(near - far) > 2e-3 * (fabs(near) + size)) {
        tally->bent++;
        return;
    }
    CHECK(fabs(best - (double)wanted) <= 2e-3 * (fabs((double)wanted) + size),
          "%s: gradient %.7g, by differences %.7g (typical %.3g)", name, (double)wanted, best,
          size);
}

static void check_some(struct trial *t, const char *name, float *numbers, const float *gradients,
                       int64_t n, struct tally *tally) {
    const double noise = 1e-3; // losses near 1 are made of float32, and divided by a width
    double square = 0;

    for (int64_t i = 0; i < n; i++)
        square += (double)gradients[i] * (double)gradients[i];
    for (int k = 0; k < 8; k++) {
        int64_t i = whole(&t->dice, 0, n - 1);
        check_number(t, name, &numbers[i], gradients[i], sqrt(square / (double)n) + noise, tally);
    }
}

static void check_gradients(int kind, uint64_t seed) {
    static struct trial t;
    struct tally tally = {0};
    int n_params;

    if (begin(&t, kind, seed, NULL, 1) < 0)
        return;
    struct net *net = t.made.net;
    const struct net_param *params = net_params(net, &n_params);
    int64_t n = net_n_elements(net), n_x = t.made.n_items * n_of(net, t.made.x);
    (void)train(&t);
    _cleanup_free_ float *gradients = hai_new_array(float, (size_t)n + 1);
    _cleanup_free_ float *dx = hai_new_array(float, (size_t)n_x);
    memcpy(gradients, net_gradients(net), (size_t)n * sizeof *gradients);
    memcpy(dx, net_value_gradient(net, t.made.x), (size_t)n_x * sizeof *dx);
    check_some(&t, kinds[kind].name, t.floats[0], dx, n_x, &tally);
    for (int i = 0; i < n_params; i++)
        check_some(&t, params[i].name, net_weights(net) + params[i].offset,
                   gradients + params[i].offset, params[i].n_elements, &tally);
    CHECK(tally.bent * 4 <= tally.n, "%s: %d bends in %d", kinds[kind].name, tally.bent, tally.n);
    net_free(net);
}

TEST(gradients_are_those_of_differences)
{
    for (int kind = 0; kind < (int)ARRAY_SIZE(kinds); kind++)
        for (uint64_t round = 0; round < ROUNDS; round++)
            check_gradients(kind, 100 + round);
}

static void near(const char *name, const char *path, const float *got, const float *want,
                 int64_t n) {
    double square = 0, worst = 0;

    for (int64_t i = 0; i < n; i++)
        square += (double)want[i] * (double)want[i];
    double rms = sqrt(square / (double)MAX(n, (int64_t)1));
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]) / (fabs((double)want[i]) + rms + 1e-6);
        worst = isnan(worst) || d <= worst ? worst : d;
    }
    CHECK(worst <= 1e-4, "%s on %s: off by %.3g", name, path, worst);
}

static void check_path(int kind, uint64_t seed, const char *path) {
    static struct trial ref, one, two;

    if (begin(&one, kind, seed, path, 1) < 0) {
        net_free(one.made.net);
        return;
    }
    (void)begin(&ref, kind, seed, NULL, 1);
    (void)begin(&two, kind, seed, path, 2);
    double loss = train(&one), same = train(&two), wanted = train(&ref);
    struct net *net = one.made.net;
    int64_t n = net_n_elements(net), n_x = one.made.n_items * n_of(net, one.made.x);
    CHECK(fabs(loss - wanted) <= 1e-5 * (wanted + 1e-3), "%s on %s", kinds[kind].name, path);
    near(kinds[kind].name, path, net_gradients(net), net_gradients(ref.made.net), n);
    near(kinds[kind].name, path, net_value_gradient(net, one.made.x),
         net_value_gradient(ref.made.net, ref.made.x), n_x);
    near(kinds[kind].name, path, net_value(net, one.made.y), net_value(ref.made.net, ref.made.y),
         one.made.n_items * n_of(net, one.made.y));
    CHECK(memcmp(&loss, &same, sizeof loss) == 0 &&
              memcmp(net_gradients(net), net_gradients(two.made.net), (size_t)n * sizeof(float)) ==
                  0,
          "%s on %s: bits of two threads", kinds[kind].name, path);
    net_free(one.made.net);
    net_free(two.made.net);
    net_free(ref.made.net);
}

TEST(fast_paths_against_ref)
{
    static const char *const paths[] = {"avx2", "avx512", "amx"};

    for (size_t p = 0; p < ARRAY_SIZE(paths); p++)
        for (int kind = 0; kind < (int)ARRAY_SIZE(kinds); kind++)
            for (uint64_t round = 0; round < ROUNDS; round++)
                check_path(kind, 200 + round, paths[p]);
}

static void plan_small(struct net *net, int64_t n_items) {
    struct hai_err err = {0};
    const struct net_options options = {
        .backend = K_BACKEND_CPU, .n_items_max = n_items, .training = true, .seed = 3};

    CHECK_EQ(net_plan(net, &options, &err), 0, "%s", err.text);
}

/* A rank's share of a batch drops what the whole batch drops there; a step later it is others. */
TEST(dropout_does_not_know_of_ranks)
{
    enum { N = 1000 };
    _cleanup_(net_freep) struct net *net = net_new();
    static float x[4 * N], whole_batch[4 * N];
    int input = net_input(net, NET_VECTOR(N)), y = net_dropout(net, input, 0.25f), kept = 0;
    double loss;

    net_want_gradient(net, input);
    net_loss(net, y, K_LOSS_SQUARE);
    plan_small(net, 4);
    for (int i = 0; i < 4 * N; i++)
        x[i] = 1;
    struct net_batch batch = {
        .n_items = 4, .inputs = {x}, .target = x, .n_items_all = 4, .step = 1};
    CHECK_EQ(net_train(net, &batch, &loss), 0, "");
    memcpy(whole_batch, net_value(net, y), sizeof whole_batch);
    for (int i = 0; i < 4 * N; i++)
        kept += whole_batch[i] > 0;
    CHECK(kept > 2900 && kept < 3100, "%d of 4000 kept at rate 0.25", kept);
    batch.n_items = 2;
    batch.first_item = 2;
    CHECK_EQ(net_train(net, &batch, &loss), 0, "");
    CHECK(memcmp(net_value(net, y), whole_batch + 2 * N, 2 * N * sizeof(float)) == 0, "");
    batch.step = 2;
    CHECK_EQ(net_train(net, &batch, &loss), 0, "");
    CHECK(memcmp(net_value(net, y), whole_batch + 2 * N, 2 * N * sizeof(float)) != 0, "");
    CHECK_EQ(net_forward(net, &batch), 0, "");
    CHECK(memcmp(net_value(net, y), x, 2 * N * sizeof(float)) == 0, "nothing outside training");
}

/* Which of two tokens came first: an embedding, attention, labels; AdamW learns it. */
TEST(a_network_learns)
{
    _cleanup_(net_freep) struct net *net = net_new();
    const struct net_attention rule = {.n_heads = 2, .causal = true};
    const struct adamw_rule adamw = {.lr = 0.03, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
    int ids = net_input_ints(net, NET_SEQUENCE(2, 1));
    int x = net_embedding(net, "e", ids, 4, 8);
    int y = net_linear(net, "l", net_last(net, net_attention(net, "a", x, x, &rule)), 4, true);
    int32_t tokens[32], labels[16];
    struct net_batch batch = {
        .n_items = 16, .inputs = {tokens}, .target = labels, .n_items_all = 16};
    double first = 0, loss = 0, norm;

    net_loss_labels(net, y);
    plan_small(net, 16);
    for (int i = 0; i < 16; i++) {
        labels[i] = tokens[2 * i] = i / 4;
        tokens[2 * i + 1] = i % 4;
    }
    for (int step = 1; step <= 150; step++) {
        net_gradients_clear(net);
        CHECK_EQ(net_train(net, &batch, &loss), 0, "");
        CHECK_EQ(net_step(net, &adamw, step, &norm), 0, "");
        first = step == 1 ? loss : first;
    }
    CHECK(first > 1.2 && loss < 0.05, "loss from %.3f to %.3f", first, loss);
}

TEST(mistakes_are_reported)
{
    static const char *const texts[] = {
        "layer 0 (l): its input is ints; expected floats",
        "layer 0 (a): n_heads is 3; expected a divisor of the channels, 4",
        "layer 0 (c): a window of 9 x 1 does not fit 1 x 5 floats",
        "layer 0 (dropout): rate is 1; expected 0 or more, below 1",
        "layer 0 (reshape): 2 x 2 x 2 is not 20 numbers",
        "layer 3 (same.weight): this name is taken",
    };
    const struct net_options options = {.n_items_max = 1};

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        _cleanup_(net_freep) struct net *net = net_new();
        struct hai_err err = {0};
        int x = net_input(net, NET_SEQUENCE(5, 4));
        int ids = net_input_ints(net, NET_VECTOR(1));
        const struct net_attention three = {.n_heads = 3};
        const struct k_window tall = {9, 1, 1, 1, 0, 0, 1, 1};
        int y = i == 0   ? net_linear(net, "l", ids, 2, true)
                : i == 1 ? net_attention(net, "a", x, x, &three)
                : i == 2 ? net_conv(net, "c", x, 2, &tall, true)
                : i == 3 ? net_dropout(net, x, 1)
                : i == 4 ? net_reshape(net, x, NET_PICTURE(2, 2, 2))
                         : net_linear(net, "same", net_linear(net, "same", x, 4, true), 4, true);
        (void)net_activation(net, y, K_CURVE_RELU); // passes mistakes on
        CHECK_EQ(net_plan(net, &options, &err), -EINVAL, "%zu", i);
        CHECK_STR(err.text, texts[i], "%zu", i);
    }
}

TEST(a_loss_without_parameters_is_refused)
{
    _cleanup_(net_freep) struct net *net = net_new();
    struct hai_err err = {0};
    const struct net_options options = {.n_items_max = 1, .training = true};

    net_loss(net, net_softmax(net, net_input(net, NET_VECTOR(3))), K_LOSS_SQUARE);
    CHECK_EQ(net_plan(net, &options, &err), -EINVAL, "");
    CHECK_STR(err.text, "loss: no parameter leads to it; expected one to train", "");
}
