/* Training in few bits against float32: the losses and gradients of the reference models, and what
 * each layer does to them by itself. */
#include "engine/model/adamw.h"
#include "engine/model/load.h"
#include "tests/unit/golden.h"
#include "tests/unit/layer_errors.h"
#include "tests/unit/test.h"

#include <math.h>

/* Bounds of relative errors: of a layer's y, dx and dw; of loss and whole gradient with weights as
 * they are drawn, and with the reference run's, which are large: its logits are far apart, and few
 * bits change them much. */
static const struct recipe {
    struct precision precision;
    const char *name;
    double layer;
    double drawn_loss, drawn_gradient, loss, gradient;
} recipes[] = {
    {{PRECISION_BF16, 0, 0},                                          "bf16",       0.01, 1e-3, 0.02, 2e-3, 0.03},
    {{PRECISION_FP8, PRECISION_FORMAT_E4M3, 0},                       "fp8 e4m3",   0.08, 5e-3, 0.1,  0.02, 0.3 },
    {{PRECISION_FP8, PRECISION_FORMAT_HYBRID, 0},                     "fp8 hybrid", 0.12, 5e-3, 0.15, 0.02, 0.3 },
    {{PRECISION_FP8, PRECISION_FORMAT_E5M2, 0},                       "fp8 e5m2",   0.16, 1e-2, 0.2,  0.02, 0.5 },
    {{PRECISION_FP8, PRECISION_FORMAT_E4M3, K_SUM_HOPPER14_PROMOTED},
     "fp8 e4m3 hopper14_promoted",                                                  0.08,
     5e-3,                                                                                      0.1,
     0.02,                                                                                                  0.3 },
};

static const char *const models[] = {"tests/fixtures/train/train_llama",
                                     "tests/fixtures/train/train_dsv3"};

TEST(names)
{
    char name[PRECISION_NAME_BYTES];

    for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
        precision_name(&recipes[i].precision, name);
        CHECK_STR(name, recipes[i].name);
    }
    precision_name(&(struct precision){0}, name);
    CHECK_STR(name, "f32"); /* what checkpoints of before there were others say */
    CHECK_EQ(precision_parse("fp16"), -EINVAL);
    CHECK_EQ(precision_sum_parse("hopper14"), K_SUM_HOPPER14);
}

/* What stays of a layer's buffers between forward and backward: DeepSeek-V3's recipe. */
TEST(what_is_kept)
{
    static const struct {
        enum precision_role role;
        enum k_dtype bf16, fp8;
        bool power_of_two;
    } cases[] = {
        {PRECISION_INPUT,      K_BF16,        K_E4M3,        false},
        {PRECISION_DISPATCHED, K_BF16,        K_E4M3,        true },
        {PRECISION_CORE,       K_BF16,        K_BF16,        false},
        {PRECISION_ATTENDED,   K_BF16,        K_E5M6,        true },
        {PRECISION_GATE_UP,    K_BF16,        K_E4M3,        false},
        {PRECISION_ACTIVATED,  K_DTYPE_COUNT, K_DTYPE_COUNT, false},
    };
    const struct precision f32 = {0}, bf16 = {PRECISION_BF16, 0, 0}, fp8 = {PRECISION_FP8, 0, 0};
    const struct precision hybrid = {PRECISION_FP8, PRECISION_FORMAT_HYBRID, 0};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        CHECK_EQ(precision_kept(&f32, cases[i].role), K_F32, "%zu", i);
        CHECK_EQ(precision_kept(&bf16, cases[i].role), cases[i].bf16, "%zu", i);
        CHECK_EQ(precision_kept(&fp8, cases[i].role), cases[i].fp8, "%zu", i);
        CHECK_EQ(precision_power_of_two(cases[i].role), cases[i].power_of_two, "%zu", i);
    }
    CHECK_EQ(precision_weight(&fp8, false), K_BF16);
    CHECK_EQ(precision_weight(&hybrid, true), K_E4M3);
    CHECK_EQ(precision_gradient(&hybrid, K_E4M3), K_E5M2);
    CHECK_EQ(precision_gradient(&hybrid, K_BF16), K_BF16);
}

TEST(every_layer_against_float32)
{
    for (size_t m = 0; m < ARRAY_SIZE(models); m++)
        for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
            const struct recipe *r = &recipes[i];
            struct model_options options = {.backend =
                                                r->precision.sum ? K_BACKEND_REF : K_BACKEND_CPU,
                                            .n_tokens_max = 64,
                                            .n_seqs_max = 2};
            struct model_config config;
            struct layer_error errors[16];
            struct hai_err err = {0};
            CHECK_EQ(config_read(models[m], &config, &err), 0, "%s", err.text);
            if (!CHECK_EQ(layer_errors(&config, &options, &r->precision, errors, &err), 0, "%s",
                          err.text))
                continue;
            for (int l = 0; l < 2 * config.n_layers; l++) {
                const struct layer_error *e = &errors[l];
                CHECK(e->y > 0 && e->y < r->layer && e->dx > 0 && e->dx < r->layer && e->dw > 0 &&
                          e->dw < r->layer,
                      "%s %s layer %d %s: y %.4f dx %.4f dw %.4f", models[m], r->name, l, e->layer,
                      e->y, e->dx, e->dw);
            }
        }
}

struct trained {
    struct model *m;
    double loss;
};

/* The first batch of a reference run, forward and backward, with its weights or drawn ones. */
static struct trained train(const char *dir, const struct precision *precision, bool drawn,
                            struct model_options options) {
    struct golden g;
    struct trained t = {0};
    struct model_losses losses = {0};
    struct model_counts counts;
    struct hai_err err = {0};

    golden_open(&g, dir);
    const struct safetensors_tensor *ids = golden_tensor(&g, "batches");
    int32_t length = (int32_t)ids->shape[2], seq_start[] = {0, length, 2 * length};
    options.n_tokens_max = 2 * length;
    options.n_seqs_max = 2;
    options.training = true;
    options.precision = *precision;
    CHECK_EQ(model_new(&g.config, &options, &t.m, &err), 0, "%s", err.text);
    if (drawn)
        model_init(t.m, 1);
    else
        CHECK_EQ(load_model(t.m, dir, &err), 0, "%s", err.text);
    struct model_batch batch = {.n_tokens = 2 * length,
                                .n_seqs = 2,
                                .ids = ids->data,
                                .labels = golden_tensor(&g, "labels")->data,
                                .seq_start = seq_start};
    model_count(t.m, &batch, &counts);
    CHECK_EQ(model_train(t.m, &batch, &counts,
                         &(struct model_rules){.mtp_weight = 0.3, .balance_alpha = 1e-3}, &losses,
                         &err),
             0, "%s", err.text);
    t.loss = losses.total;
    golden_close(&g);
    return t;
}

static double relative(const float *a, const float *b, int64_t n) {
    double difference = 0, norm = 0;

    for (int64_t i = 0; i < n; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / norm);
}

static void check_gradients(const char *dir, bool drawn) {
    const struct model_options options = {.backend = K_BACKEND_CPU};
    struct trained exact = train(dir, &(struct precision){0}, drawn, options);

    for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
        const struct recipe *r = &recipes[i];
        double loss = drawn ? r->drawn_loss : r->loss;
        double gradient = drawn ? r->drawn_gradient : r->gradient;
        struct trained t = train(dir, &r->precision, drawn, options);
        double error =
            relative(model_gradients(t.m), model_gradients(exact.m), model_params(t.m)->n_trained);
        CHECK(error > 0 && error < gradient, "%s %s: gradient off by %.4f", dir, r->name, error);
        CHECK(fabs(t.loss - exact.loss) < loss * exact.loss, "%s %s: loss %.6f, f32 %.6f", dir,
              r->name, t.loss, exact.loss);
        model_free(t.m);
    }
    model_free(exact.m);
}

/* The V3-like model's own weights are left out: with them few bits send tokens to other experts,
 * and a gradient of other experts is another gradient. */
TEST(gradients_against_float32)
{
    check_gradients(models[0], true);
    check_gradients(models[1], true);
    check_gradients(models[0], false);
}

TEST(bits_do_not_depend_on_threads)
{
    static const struct model_options ways[] = {
        {.backend = K_BACKEND_CPU, .path = "avx2"},
        { .backend = K_BACKEND_CPU,          .path = "avx2", .n_threads = 3},
    };
    struct k_ctx ctx;

    if (k_ctx_init(&ctx, K_BACKEND_CPU, "avx2", NULL) < 0)
        SKIP("no AVX2");
    for (size_t i = 0; i < ARRAY_SIZE(recipes); i++) {
        if (recipes[i].precision.sum)
            continue;
        struct trained one = train(models[1], &recipes[i].precision, false, ways[0]);
        struct trained three = train(models[1], &recipes[i].precision, false, ways[1]);
        CHECK(one.loss == three.loss, "%s", recipes[i].name);
        CHECK(memcmp(model_gradients(one.m), model_gradients(three.m),
                     (size_t)model_params(one.m)->n_trained * sizeof(float)) == 0,
              "%s", recipes[i].name);
        model_free(one.m);
        model_free(three.m);
    }
}

/* The optimizer changes the master; what products read follows it. */
TEST(working_weights_follow_the_master)
{
    static const struct adamw_rule rule = {
        .lr = 0.02, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .clip_norm = 1};
    const struct model_options options = {.backend = K_BACKEND_CPU};
    struct trained t = train(models[0], &recipes[1].precision, false, options);
    size_t n = (size_t)model_params(t.m)->n_trained;
    _cleanup_free_ float *exp_avg = hai_new_array(float, n), *exp_avg_sq = hai_new_array(float, n);
    int32_t ids[] = {5, 9, 17, 3}, seq_start[] = {0, 4};
    struct model_batch batch = {
        .n_tokens = 4, .n_seqs = 1, .ids = ids, .labels = ids, .seq_start = seq_start};
    struct model_losses before, after, again;
    struct model_counts counts;
    struct hai_err err = {0};
    double norm;

    model_count(t.m, &batch, &counts);
    CHECK_EQ(model_evaluate(t.m, &batch, &counts, &(struct model_rules){0}, &before, &err), 0, "");
    CHECK_EQ(adamw_norm(t.m, &norm), 0, "");
    CHECK_EQ(adamw_step(t.m, &rule, 1, norm, exp_avg, exp_avg_sq), 0, "");
    CHECK_EQ(model_evaluate(t.m, &batch, &counts, &(struct model_rules){0}, &after, &err), 0, "");
    CHECK(after.total != before.total, "%a", after.total);
    CHECK_EQ(model_weights_changed(t.m), 0, "");
    CHECK_EQ(model_evaluate(t.m, &batch, &counts, &(struct model_rules){0}, &again, &err), 0, "");
    CHECK(again.total == after.total, "%a %a", again.total, after.total);
    model_free(t.m);
}
