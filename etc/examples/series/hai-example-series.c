/* hai-example-series - a model that is no language model, trained data parallel: an LSTM that
 * foretells the next price of a synthetic series from the last ones.
 *
 * All that a program of your own needs: the network (build), its data by number (fill), the rule
 * (main). Ranks, checkpoints, resuming and progress are fit_run's. Headers: engine/net/net.h and
 * engine/net/fit.h; docs/nn.md explains both.
 */
#include "engine/net/fit.h"
#include "kernels/philox.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

#define NAME "hai-example-series"

enum {
    WINDOW = 24,    // prices that the model sees
    HIDDEN = 32,    // of the LSTM
    PRICES = 20000, // of the series; the last HELD_OUT windows are for the end's comparison
    HELD_OUT = 1000,
    BATCH = 64,
    SEED = 1,
};

struct series {
    float prices[PRICES];
    float x[BATCH * WINDOW], target[BATCH];
};

/* Two random words that depend on their numbers alone. */
static void draw(uint32_t what, int64_t number, uint32_t ret[4]) {
    struct philox_counter at = philox_at(PHILOX_SHUFFLE, what, 0, (uint32_t)number);

    philox_words(SEED, &at, ret);
}

/* Returns swing (each depends on the last two) and carry noise, so that a price says which way the
 * next goes, but not exactly. */
static void make_prices(float *prices) {
    double price = 100, before = 0, last = 0;

    for (int i = 0; i < PRICES; i++) {
        uint32_t words[4];
        draw(0, i, words);
        double now = 1.6 * last - 0.8 * before + 0.001 * philox_normal(words[0], words[1]);
        price *= 1 + now - 0.001 * (price / 100 - 1);
        prices[i] = (float)price;
        before = last;
        last = now;
    }
}

/* The window from price number `at` on, and the price behind it: both as percent of its last. */
static void window(const struct series *s, int64_t at, float *x, float *target) {
    const float *prices = s->prices + at;
    float last = prices[WINDOW - 1];

    for (int i = 0; i < WINDOW; i++)
        x[i] = 100 * (prices[i] / last - 1);
    *target = 100 * (prices[WINDOW] / last - 1);
}

/* Samples follow from their numbers: any rank makes any of them, before or after a restart. */
static void fill(void *userdata, int64_t first, int64_t n, struct net_batch *ret) {
    struct series *s = userdata;

    for (int64_t i = 0; i < n; i++) {
        uint32_t words[4];
        draw(1, first + i, words);
        window(s, words[0] % (PRICES - HELD_OUT - 2 * WINDOW), s->x + i * WINDOW, &s->target[i]);
    }
    ret->inputs[0] = s->x;
    ret->target = s->target;
}

/* The network; returns the number of its foretold price. */
static int build(struct net *net) {
    int x = net_input(net, NET_SEQUENCE(WINDOW, 1));
    int h = net_lstm(net, "lstm", x, HIDDEN);
    int y = net_linear(net, "head", net_last(net, h), 1, true);

    net_loss(net, y, K_LOSS_SQUARE);
    return y;
}

/* Mean squared errors over windows that training never saw: the model's, and that of foretelling
 * the last price, which is 0 percent of change. */
static int compare(struct net *net, int y, struct series *s) {
    double model = 0, last = 0;

    for (int64_t i = 0; i < HELD_OUT; i += BATCH) {
        struct net_batch batch = {.n_items = MIN((int64_t)BATCH, HELD_OUT - i), .inputs = {s->x}};
        for (int64_t k = 0; k < batch.n_items; k++)
            window(s, PRICES - HELD_OUT - WINDOW + i + k, s->x + k * WINDOW, &s->target[k]);
        int r = net_forward(net, &batch);
        if (r < 0)
            return r;
        for (int64_t k = 0; k < batch.n_items; k++) {
            double off = (double)net_value(net, y)[k] - (double)s->target[k];
            model += off * off / HELD_OUT;
            last += (double)s->target[k] * (double)s->target[k] / HELD_OUT;
        }
    }
    printf("held out: loss %.5f, predicting the last value %.5f\n", model, last);
    return 0;
}

static int run(struct net *net, struct fit *fit, struct series *s, struct hai_err *err) {
    const struct net_options options = {
        .backend = K_BACKEND_CPU, .n_items_max = BATCH, .training = true, .seed = SEED};
    struct fit_end end;
    int y = build(net);
    int r = net_plan(net, &options, err);

    if (r == 0)
        r = fit_run(net, fit, &end, err);
    if (r == 0 && end.signal == 0 && end.is_first)
        r = compare(net, y, s);
    return r < 0 ? r : end.signal;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"steps", required_argument, NULL, 's'},
        {"log",   required_argument, NULL, 'l'},
        {0      }
    };
    _cleanup_free_ struct series *s = hai_new(struct series);
    _cleanup_(net_freep) struct net *net = net_new();
    struct hai_err err = {0};
    struct fit fit = {
        .program = NAME,
        .steps = 1000,
        .batch = BATCH,
        .every = 20,
        .keep = 2,
        .rule = {.lr = 0.005, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .clip_norm = 1},
        .seed = SEED,
        .unit = "windows",
        .fill = fill,
        .userdata = s,
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (c == 's' && atoll(optarg) > 0)
            fit.steps = atoll(optarg);
        else if (c == 'l')
            fit.log = optarg;
        else
            return fprintf(stderr, "usage: " NAME " [--steps N] [--log FILE]\n"), 2;
    make_prices(s->prices);
    int r = run(net, &fit, s, &err);
    if (r < 0)
        fprintf(stderr, NAME ": %s\n", hai_err_text(&err));
    return r < 0 ? 1 : r > 0 ? 128 + r : 0;
}
