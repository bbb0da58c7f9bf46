/* Balance losses and token dropping of layers with experts: the worked example of docs/training.md,
 * random cases against sums and gradients in double, dropping against a sort, and models that
 * become even. */
#include "kernels/philox.h"
#include "lib/fileio.h"
#include "tests/unit/golden.h"
#include "tests/unit/test.h"

#include <math.h>

enum {
    TOKENS_MAX = 40,
    EXPERTS_MAX = 24,
    SLOTS_MAX = 6,
    SPANS_MAX = 4,
};

/* Numbers that depend on the seed alone. */
struct draws {
    uint64_t seed;
    uint32_t n;
};

static uint32_t draw_word(struct draws *d) {
    struct philox_counter at = philox_at(PHILOX_SAMPLE, 0, 0, d->n++);
    uint32_t words[4];

    philox_words(d->seed, &at, words);
    return words[0];
}

static int draw(struct draws *d, int low, int high) {
    return low + (int)(draw_word(d) % (uint32_t)(high - low + 1));
}

/* One router's tokens, their scores, and what is made of them. */
struct layer_case {
    int n_tokens, n_experts, n_slots, n_groups, max_groups, n_spans;
    bool plain;
    enum k_score score;
    float logits[TOKENS_MAX * EXPERTS_MAX], scores[TOKENS_MAX * EXPERTS_MAX];
    float weights[TOKENS_MAX * SLOTS_MAX], f[SPANS_MAX * EXPERTS_MAX];
    int32_t experts[TOKENS_MAX * SLOTS_MAX], span_start[SPANS_MAX + 1];
    float alpha[K_BALANCE_COUNT], scale;
};

static struct k_tensor floats(float *data, int64_t n, int64_t m) {
    return k_tensor_2d(data, K_F32, n, m);
}

static struct k_tensor experts_of(struct layer_case *c) {
    return k_tensor_2d(c->experts, K_I32, c->n_tokens, c->n_slots);
}

static int run_balance(struct k_ctx *ctx, struct layer_case *c, double loss[K_BALANCE_COUNT]) {
    struct k_balance a = {
        .loss = k_tensor_1d(loss, K_F64, K_BALANCE_COUNT),
        .f = floats(c->f, c->n_spans, c->n_experts),
        .scores = floats(c->scores, c->n_tokens, c->n_experts),
        .experts = experts_of(c),
        .span_start = k_tensor_1d(c->span_start, K_I32, c->n_spans + 1),
        .alpha = {c->alpha[0], c->alpha[1], c->alpha[2]},
        .balance_scale = c->scale,
        .n_groups = c->n_groups,
        .max_groups = c->max_groups,
        .plain = c->plain,
    };

    memset(loss, 0, K_BALANCE_COUNT * sizeof *loss);
    return k_balance(ctx, &a);
}

/* The example of docs/training.md: four tokens, four experts in two groups, two slots. */
static const struct layer_case example = {
    .n_tokens = 4,
    .n_experts = 4,
    .n_slots = 2,
    .n_groups = 2,
    .max_groups = 2,
    .scores = {0.4f,  0.3f, 0.2f, 0.1f, 0.5f, 0.1f, 0.3f, 0.1f, 0.1f, 0.6f, 0.2f, 0.1f, 0.3f, 0.4f,
               0.1f, 0.2f},
    .experts = {0, 1, 0, 2, 1, 2, 0, 1},
    .alpha = {1, 1, 1},
};

/* It is what is written there. */
static void check_documented(double value) {
    _cleanup_(buf_free) struct buf text = {0};
    char number[32];
    struct hai_err err = {0};

    snprintf(number, sizeof number, "= %.5g\n", value);
    CHECK_EQ(fileio_read_file("docs/training.md", 1 << 20, &text, &err), 0, "%s", err.text);
    CHECK(strstr(buf_cstr(&text), number), "docs/training.md does not say '%.*s'",
          (int)strlen(number) - 1, number);
}

TEST(worked_example)
{
    static const double whole[K_BALANCE_COUNT] = {1.2125, 1.175, 0.8375};
    struct layer_case c = example;
    double loss[K_BALANCE_COUNT];
    struct k_ctx ctx;

    CHECK_EQ(k_ctx_init(&ctx, K_BACKEND_REF, NULL, NULL), 0, "");
    c.n_spans = 1; // over the micro-batch
    c.span_start[1] = 4;
    c.scale = 1;
    CHECK_EQ(run_balance(&ctx, &c, loss), 0, "");
    for (int i = 0; i < K_BALANCE_COUNT; i++) {
        CHECK(fabs(loss[i] - whole[i]) < 1e-6, "loss %d: %.9g", i, loss[i]);
        check_documented(whole[i]);
    }
    c.n_spans = 2; // over two sequences
    c.span_start[1] = 2;
    c.span_start[2] = 4;
    c.scale = 0.5f;
    CHECK_EQ(run_balance(&ctx, &c, loss), 0, "");
    CHECK(fabs(loss[K_BALANCE_EXPERT] - 1.35) < 1e-6, "%.9g", loss[K_BALANCE_EXPERT]);
    check_documented(1.35);
}

static void make_case(struct layer_case *c, uint64_t seed) {
    struct draws d = {.seed = seed};

    *c = (struct layer_case){.n_groups = draw(&d, 1, 4), .n_spans = draw(&d, 1, SPANS_MAX)};
    c->n_experts = c->n_groups * draw(&d, 1, EXPERTS_MAX / 4);
    c->n_slots = draw(&d, 1, MIN(c->n_experts, SLOTS_MAX));
    c->max_groups = draw(&d, 1, c->n_groups);
    c->plain = draw(&d, 0, 1);
    c->score = draw(&d, 0, 1) ? K_SCORE_SIGMOID : K_SCORE_SOFTMAX;
    c->scale = 0.25f;
    for (int i = 0; i < K_BALANCE_COUNT; i++)
        c->alpha[i] = (float)draw(&d, 0, 3) / 2;
    for (int s = 0; s < c->n_spans; s++) // the last is not empty
        c->span_start[s + 1] = c->span_start[s] + draw(&d, s == c->n_spans - 1, 10);
    c->n_tokens = c->span_start[c->n_spans];
    for (int i = 0; i < c->n_tokens * c->n_experts; i++)
        c->logits[i] = (float)draw(&d, -3000, 3000) / 1000;
}

static int run_router(struct k_ctx *ctx, struct layer_case *c, uint64_t seed) {
    struct draws d = {.seed = ~seed};
    float bias[EXPERTS_MAX];

    for (int e = 0; e < c->n_experts; e++) // so that the choice is not the plain best
        bias[e] = (float)draw(&d, -300, 300) / 1000;
    return k_router(ctx, &(struct k_router){.experts = experts_of(c),
                                            .weights = floats(c->weights, c->n_tokens, c->n_slots),
                                            .scores = floats(c->scores, c->n_tokens, c->n_experts),
                                            .logits = floats(c->logits, c->n_tokens, c->n_experts),
                                            .bias = k_tensor_1d(bias, K_F32, c->n_experts),
                                            .score = c->score,
                                            .n_groups = 1,
                                            .group_best = 1,
                                            .group_top = 1,
                                            .scaling = 1});
}

/* P of one expert over tokens [from, to), from the logits in double. */
static double mean_share(const struct layer_case *c, const double *logits, int from, int to,
                         int expert) {
    double mean = 0;

    for (int t = from; t < to; t++) {
        double sum = 0, own = 0;
        for (int e = 0; e < c->n_experts; e++) {
            double x = logits[t * c->n_experts + e];
            double s = c->score == K_SCORE_SOFTMAX ? exp(x) : 1 / (1 + exp(-x));
            sum += s;
            own = e == expert ? s : own;
        }
        mean += own / sum / (to - from);
    }
    return mean;
}

static bool picked(const struct layer_case *c, int t, int expert, bool plain) {
    const float *scores = c->scores + t * c->n_experts;
    int better = 0;

    for (int k = 0; !plain && k < c->n_slots; k++)
        if (c->experts[t * c->n_slots + k] == expert)
            return true;
    for (int e = 0; e < c->n_experts; e++)
        better += scores[e] > scores[expert] || (scores[e] == scores[expert] && e < expert);
    return plain && better < c->n_slots;
}

/* f of one expert in tokens [from, to): the definitions of kernels.h, one after the other. */
static double f_expert(const struct layer_case *c, int from, int to, int expert) {
    int picks = 0;

    for (int t = from; t < to; t++)
        picks += picked(c, t, expert, c->plain);
    return (double)c->n_experts * picks / (c->n_slots * (to - from));
}

static double f_device(const struct layer_case *c, int from, int to, int group) {
    int size = c->n_experts / c->n_groups;
    double sum = 0;

    for (int e = group * size; e < (group + 1) * size; e++)
        sum += f_expert(c, from, to, e);
    return sum / size;
}

static double f_communication(const struct layer_case *c, int from, int to, int group) {
    int size = c->n_experts / c->n_groups, sent = 0;

    for (int t = from; t < to; t++) {
        bool goes = false;
        for (int e = group * size; e < (group + 1) * size; e++)
            goes |= picked(c, t, e, false);
        sent += goes;
    }
    return (double)c->n_groups * sent / (c->max_groups * (to - from));
}

/* The losses with picks from the case and P from these logits: picks are constants to gradients. */
static void losses_of(const struct layer_case *c, const double *logits,
                      double ret[K_BALANCE_COUNT]) {
    int size = c->n_experts / c->n_groups;

    memset(ret, 0, K_BALANCE_COUNT * sizeof *ret);
    for (int s = 0; s < c->n_spans; s++)
        for (int e = 0; c->span_start[s] < c->span_start[s + 1] && e < c->n_experts; e++) {
            int from = c->span_start[s], to = c->span_start[s + 1];
            double p = mean_share(c, logits, from, to, e) * (double)c->scale;
            ret[0] += p * (double)c->alpha[0] * f_expert(c, from, to, e);
            ret[1] += p * (double)c->alpha[1] * f_device(c, from, to, e / size);
            ret[2] += p * (double)c->alpha[2] * f_communication(c, from, to, e / size);
        }
}

static double total_of(const struct layer_case *c, const double *logits) {
    double loss[K_BALANCE_COUNT];

    losses_of(c, logits, loss);
    return loss[0] + loss[1] + loss[2];
}

static void check_gradient(struct k_ctx *ctx, struct layer_case *c, double *logits, uint64_t seed) {
    static float dlogits[TOKENS_MAX * EXPERTS_MAX], dweights[TOKENS_MAX * SLOTS_MAX];
    const double h = 1e-5;

    CHECK_EQ(k_router_dx(ctx,
                         &(struct k_router_dx){
                             .dlogits = floats(dlogits, c->n_tokens, c->n_experts),
                             .dweights = floats(dweights, c->n_tokens, c->n_slots),
                             .experts = experts_of(c),
                             .scores = floats(c->scores, c->n_tokens, c->n_experts),
                             .f = floats(c->f, c->n_spans, c->n_experts),
                             .span_start = k_tensor_1d(c->span_start, K_I32, c->n_spans + 1),
                             .score = c->score,
                             .scaling = 1,
                             .balance_scale = c->scale}),
             0, "");
    for (int i = 0; i < c->n_tokens * c->n_experts; i += 1 + i % 3) {
        double x = logits[i];
        logits[i] = x + h;
        double above = total_of(c, logits);
        logits[i] = x - h;
        double want = (above - total_of(c, logits)) / (2 * h);
        logits[i] = x;
        CHECK(fabs((double)dlogits[i] - want) < 2e-7 + 1e-5 * fabs(want),
              "%s seed %d logit %d: %.9g, expected %.9g", ctx->path, (int)seed, i,
              (double)dlogits[i], want);
    }
}

TEST(losses_and_gradients)
{
    static struct layer_case c;
    static double logits[TOKENS_MAX * EXPERTS_MAX];
    struct golden_path paths[4];
    int n_paths = golden_paths(paths);

    for (int p = 0; p < n_paths; p++)
        for (uint64_t seed = 1; seed <= (TEST_SANITIZED ? 10 : 40); seed++) {
            double loss[K_BALANCE_COUNT], want[K_BALANCE_COUNT];
            struct k_ctx ctx;
            CHECK_EQ(k_ctx_init(&ctx, paths[p].backend, paths[p].path, NULL), 0, "");
            make_case(&c, seed);
            for (int i = 0; i < c.n_tokens * c.n_experts; i++)
                logits[i] = (double)c.logits[i];
            CHECK_EQ(run_router(&ctx, &c, seed), 0, "seed %d", (int)seed);
            CHECK_EQ(run_balance(&ctx, &c, loss), 0, "seed %d", (int)seed);
            losses_of(&c, logits, want);
            for (int i = 0; i < K_BALANCE_COUNT; i++)
                CHECK(fabs(loss[i] - want[i]) < 1e-6 * (1 + want[i]),
                      "%s seed %d loss %d: %.9g, expected %.9g", ctx.path, (int)seed, i, loss[i],
                      want[i]);
            check_gradient(&ctx, &c, logits, seed);
        }
}

/* Is pair p dropped? Those of its group that go before it fill the group up. */
static bool is_dropped(const struct layer_case *c, const int32_t *whole, int p, int64_t capacity) {
    int size = c->n_experts / c->n_groups, n_before = 0;
    bool own_whole = false;

    for (int s = 0; s < c->n_spans; s++)
        own_whole |=
            whole[s] && p >= c->span_start[s] * c->n_slots && p < c->span_start[s + 1] * c->n_slots;
    for (int s = 0; s < c->n_spans; s++)
        for (int q = c->span_start[s] * c->n_slots; q < c->span_start[s + 1] * c->n_slots; q++) {
            float own = c->scores[p / c->n_slots * c->n_experts + c->experts[p]];
            float other = c->scores[q / c->n_slots * c->n_experts + c->experts[q]];
            bool before = whole[s] || other > own || (other == own && q < p);
            n_before += q != p && before && c->experts[q] / size == c->experts[p] / size;
        }
    return !own_whole && n_before >= capacity;
}

TEST(dropping_against_brute_force)
{
    static struct layer_case c;
    struct k_ctx ctx;
    int n_dropped = 0, n_pairs = 0;

    CHECK_EQ(k_ctx_init(&ctx, K_BACKEND_CPU, NULL, NULL), 0, "");
    for (uint64_t seed = 1; seed <= (TEST_SANITIZED ? 40 : 300); seed++) {
        struct draws d = {.seed = seed << 32};
        int32_t kept[TOKENS_MAX * SLOTS_MAX], whole[SPANS_MAX];
        make_case(&c, seed);
        CHECK_EQ(run_router(&ctx, &c, seed), 0, "");
        for (int i = 0; i < c.n_tokens * c.n_experts; i++) // many that are equal, and zeros
            c.scores[i] = seed % 2 ? c.scores[i] : floorf(c.scores[i] * 4) / 4;
        for (int s = 0; s < c.n_spans; s++)
            whole[s] = draw(&d, 0, 3) == 0;
        int64_t n = c.n_tokens * c.n_slots, capacity = draw(&d, 0, (int)n / c.n_groups + 2);
        CHECK_EQ(k_route_drop(&ctx,
                              &(struct k_route_drop){
                                  .kept = k_tensor_2d(kept, K_I32, c.n_tokens, c.n_slots),
                                  .experts = experts_of(&c),
                                  .scores = floats(c.scores, c.n_tokens, c.n_experts),
                                  .seq_start = k_tensor_1d(c.span_start, K_I32, c.n_spans + 1),
                                  .whole = k_tensor_1d(whole, K_I32, c.n_spans),
                                  .n_groups = c.n_groups,
                                  .capacity = capacity}),
                 0, "");
        for (int p = 0; p < n; p++) {
            bool dropped = is_dropped(&c, whole, p, capacity);
            CHECK_EQ(kept[p], dropped ? -1 : c.experts[p], "seed %d pair %d", (int)seed, p);
            n_dropped += dropped;
        }
        n_pairs += (int)n;
    }
    CHECK(n_dropped > n_pairs / 10 && n_dropped < n_pairs, "%d of %d", n_dropped, n_pairs);
}

/* A pair without a row adds nothing to its token, and its weight has no gradient. */
TEST(pairs_without_a_row)
{
    float x[2] = {3, 5}, y[1] = {1}, dy[1] = {2}, weights[3] = {10, 20, 30}, dx[2] = {0, 7};
    float dweights[3] = {9, 9, 9};
    int32_t rows[3] = {-1, 0, -1};
    struct golden_path paths[4];
    int n_paths = golden_paths(paths);

    for (int p = 0; p < n_paths; p++) {
        struct k_ctx ctx;
        CHECK_EQ(k_ctx_init(&ctx, paths[p].backend, paths[p].path, NULL), 0, "");
        y[0] = 1;
        dweights[0] = dweights[2] = 9;
        CHECK_EQ(k_combine(&ctx, &(struct k_combine){.y = floats(y, 1, 1),
                                                     .x = floats(x, 2, 1),
                                                     .pair_row = k_tensor_2d(rows, K_I32, 1, 3),
                                                     .weights = floats(weights, 1, 3)}),
                 0, "");
        CHECK_EQ(
            k_combine_dx(&ctx, &(struct k_combine_dx){.dx = floats(dx, 2, 1),
                                                      .dweights = floats(dweights, 1, 3),
                                                      .dy = floats(dy, 1, 1),
                                                      .x = floats(x, 2, 1),
                                                      .pair_row = k_tensor_2d(rows, K_I32, 1, 3),
                                                      .weights = floats(weights, 1, 3)}),
            0, "");
        CHECK(y[0] == 61, "%s: %g", ctx.path, (double)y[0]);
        CHECK(dweights[0] == 0 && dweights[1] == 6 && dweights[2] == 0, "%s", ctx.path);
        CHECK(dx[0] == 40 && dx[1] == 7, "%s: %g %g", ctx.path, (double)dx[0], (double)dx[1]);
    }
}
