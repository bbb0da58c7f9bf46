/* Models with experts in training: what is dropped and what that changes, means over sequences and
 * micro-batches, the bias, and that each loss makes an uneven model even. */
#include "engine/model/adamw.h"
#include "tests/unit/golden.h"
#include "tests/unit/test.h"

#include <math.h>

static const char v2_dir[] = "tests/fixtures/train/train_dsv2";
static const char v3_dir[] = "tests/fixtures/train/train_dsv3";

enum { SEQS = 4, LENGTH = 16, TOKENS = SEQS * LENGTH, VOCAB = 128, GROUPS = 2 };

struct run {
    struct golden g;
    struct model *m;
    int32_t ids[TOKENS], seq_start[SEQS + 1];
    int64_t *counts;
    int64_t n_counts, n_layers; // that have experts
};

static void run_open(struct run *run, const char *dir, enum k_backend backend) {
    golden_open(&run->g, dir);
    run->m = golden_model(&run->g, dir, backend, NULL, TOKENS, SEQS, true, 0);
    for (int i = 0; i < TOKENS; i++)
        run->ids[i] = (i * 37 + i * i * 11 + 5) % VOCAB;
    for (int s = 0; s <= SEQS; s++)
        run->seq_start[s] = s * LENGTH;
    run->counts = model_expert_counts(run->m, &run->n_counts);
    run->n_layers = run->n_counts / (run->g.config.n_experts + 1);
}

static void run_close(struct run *run) {
    model_free(run->m);
    golden_close(&run->g);
}

/* Forward and backward over sequences [first, first + n) of all. */
static struct model_losses train(struct run *run, const struct model_rules *rules, int first, int n,
                                 const int32_t *whole) {
    const struct model_counts total = {SEQS * (LENGTH - 1), SEQS * (LENGTH - 2), SEQS};
    struct model_batch batch = {.n_tokens = n * LENGTH,
                                .n_seqs = n,
                                .ids = run->ids + first * LENGTH,
                                .labels = run->ids + first * LENGTH,
                                .seq_start = run->seq_start,
                                .whole = whole};
    struct model_losses losses = {0};
    struct hai_err err = {0};

    CHECK_EQ(model_train(run->m, &batch, &total, rules, &losses, &err), 0, "%s", err.text);
    return losses;
}

static struct model_losses train_anew(struct run *run, const struct model_rules *rules,
                                      const int32_t *whole) {
    model_gradients_clear(run->m);
    model_expert_counts_clear(run->m);
    return train(run, rules, 0, SEQS, whole);
}

static int64_t dropped(const struct run *run) {
    int64_t n = 0;

    for (int64_t i = run->n_counts - run->n_layers; i < run->n_counts; i++)
        n += run->counts[i];
    return n;
}

/* A group that has room for everything, or sequences that are left whole: nothing changes, to the
 * bit. Else the loss does, and the picks before dropping are those of the first layer still. */
static void check_dropping(const char *dir) {
    static const int32_t all[SEQS] = {1, 1, 1, 1}, one[SEQS] = {0, 1, 0, 0};
    struct model_rules rules = {.mtp_weight = 0.3, .balance_groups = GROUPS};
    struct run run;

    run_open(&run, dir, K_BACKEND_CPU);
    size_t n = (size_t)model_params(run.m)->n_trained, n_bytes = n * sizeof(float);
    int64_t n_experts = run.g.config.n_experts;
    _cleanup_free_ float *gradients = hai_new_array(float, n);
    _cleanup_free_ int64_t *picks = hai_new_array(int64_t, (size_t)n_experts);
    struct model_losses plain = train_anew(&run, &rules, NULL);
    memcpy(gradients, model_gradients(run.m), n_bytes);
    memcpy(picks, run.counts, (size_t)n_experts * sizeof *picks);
    rules.capacity = GROUPS;
    struct model_losses same = train_anew(&run, &rules, NULL);
    CHECK(same.total == plain.total && !dropped(&run), "%s", dir);
    CHECK(memcmp(gradients, model_gradients(run.m), n_bytes) == 0, "%s", dir);
    rules.capacity = 0.5;
    same = train_anew(&run, &rules, all);
    CHECK(same.total == plain.total && !dropped(&run), "%s", dir);
    CHECK(memcmp(gradients, model_gradients(run.m), n_bytes) == 0, "%s", dir);
    double loss = train_anew(&run, &rules, NULL).total;
    // Half of the pairs have room; a group that was asked for less drops none instead.
    int64_t n_pairs = run.n_layers * TOKENS * run.g.config.n_expert_slots;
    CHECK(dropped(&run) >= n_pairs / 2 && loss != plain.total, "%s: %d of %d", dir,
          (int)dropped(&run), (int)n_pairs);
    CHECK(memcmp(picks, run.counts, (size_t)n_experts * sizeof *picks) == 0, "%s", dir);
    CHECK(train_anew(&run, &rules, one).total != loss, "%s", dir);
    run_close(&run);
}

TEST(dropping_v2)
{ check_dropping(v2_dir); }

TEST(dropping_v3)
{ check_dropping(v3_dir); }

/* The gradient is that of the loss with what was dropped left out: along itself the loss grows by
 * its length. The capacity is one at which no pair is so near to being dropped that it is on the
 * way, where the loss jumps. */
static void check_slope(const char *dir) {
    const struct model_rules rules = {.mtp_weight = 0.3, .balance_groups = GROUPS, .capacity = 0.7};
    const double h = 2e-4;
    struct run run;

    run_open(&run, dir, K_BACKEND_REF);
    size_t n = (size_t)model_params(run.m)->n_trained;
    _cleanup_free_ float *gradients = hai_new_array(float, n), *weights = hai_new_array(float, n);
    double norm = 0, loss[2];
    train_anew(&run, &rules, NULL);
    memcpy(gradients, model_gradients(run.m), n * sizeof *gradients);
    memcpy(weights, model_weights(run.m), n * sizeof *weights);
    for (size_t i = 0; i < n; i++)
        norm += (double)gradients[i] * (double)gradients[i];
    norm = sqrt(norm);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++)
            model_weights(run.m)[i] =
                (float)((double)weights[i] + (side ? h : -h) / norm * (double)gradients[i]);
        loss[side] = train_anew(&run, &rules, NULL).total;
    }
    double slope = (loss[1] - loss[0]) / (2 * h);
    CHECK(fabs(slope / norm - 1) < 0.01, "%s: slope %g, gradient %g", dir, slope, norm);
    run_close(&run);
}

TEST(slope_with_dropping_v2)
{ check_slope(v2_dir); }

TEST(slope_with_dropping_v3)
{ check_slope(v3_dir); }

/* Evaluation drops nothing. */
TEST(evaluation_drops_nothing)
{
    struct model_rules rules = {.balance_alpha = 0.1, .balance_groups = GROUPS, .capacity = 0.5};
    const struct model_counts total = {SEQS * (LENGTH - 1), SEQS * (LENGTH - 2), SEQS};
    struct model_losses with, without;
    struct hai_err err = {0};
    struct run run;

    run_open(&run, v2_dir, K_BACKEND_CPU);
    struct model_batch batch = {.n_tokens = TOKENS,
                                .n_seqs = SEQS,
                                .ids = run.ids,
                                .labels = run.ids,
                                .seq_start = run.seq_start};
    CHECK(train_anew(&run, &rules, NULL).total > 0, "");
    CHECK_EQ(model_evaluate(run.m, &batch, &total, &rules, &with, &err), 0, "%s", err.text);
    rules.capacity = 0;
    CHECK_EQ(model_evaluate(run.m, &batch, &total, &rules, &without, &err), 0, "%s", err.text);
    CHECK(with.total == without.total, "%.17g %.17g", with.total, without.total);
    run_close(&run);
}

/* Means over sequences do not see micro-batches; those over micro-batches of one sequence are the
 * same, and of two they are not. */
TEST(means_over_sequences_and_micro_batches)
{
    struct model_rules rules = {.balance_alpha = 0.1,
                                .device_alpha = 0.2,
                                .communication_alpha = 0.3,
                                .balance_groups = 4,
                                .max_groups = 2};
    struct model_losses sums[2][3] = {0}; // by sequence or micro-batch; of 4, 2 and 1 sequences
    struct run run;

    run_open(&run, v2_dir, K_BACKEND_CPU);
    for (int form = 0; form < 2; form++)
        for (int i = 0; i < 3; i++) {
            int micro = SEQS >> i;
            rules.balance_micro_batch = form;
            model_gradients_clear(run.m);
            for (int s = 0; s < SEQS; s += micro) {
                struct model_losses part = train(&run, &rules, s, micro, NULL);
                for (int k = 0; k < K_BALANCE_COUNT; k++)
                    sums[form][i].balance_parts[k] += part.balance_parts[k];
            }
        }
    for (int k = 0; k < K_BALANCE_COUNT; k++) {
        double want = sums[0][0].balance_parts[k];
        for (int i = 1; i < 3; i++)
            CHECK(fabs(sums[0][i].balance_parts[k] - want) < 1e-6 * want, "loss %d: %g %g", k,
                  sums[0][i].balance_parts[k], want);
        CHECK(fabs(sums[1][2].balance_parts[k] - want) < 1e-6 * want, "loss %d: %g %g", k,
              sums[1][2].balance_parts[k], want);
        CHECK(fabs(sums[1][0].balance_parts[k] - want) > 1e-4 * want &&
                  fabs(sums[1][1].balance_parts[k] - want) > 1e-4 * want,
              "loss %d", k);
    }
    run_close(&run);
}

TEST(groups_must_fit)
{
    const struct model_config config = {.n_experts = 8};
    struct hai_err err = {0};

    CHECK_EQ(model_rules_check(&config, &(struct model_rules){.balance_groups = 4}, &err), 0, "");
    CHECK_EQ(model_rules_check(&config, &(struct model_rules){.balance_groups = 3}, &err), -EINVAL);
    CHECK_STR(err.text, "balance_groups is 3; expected a divisor of the model's 8 experts");
    CHECK_EQ(model_rules_check(&config, &(struct model_rules){.balance_groups = 4, .max_groups = 5},
                               &err),
             -EINVAL);
    CHECK_STR(err.text, "max_groups is 5; expected at most balance_groups, 4");
}

/* Over the mean is down, under it up, at it nothing; the multi-token module's bias never moves. */
TEST(bias_moves_by_sign)
{
    static const int64_t picks[8] = {3, 5, 4, 4, 0, 8, 4, 4};
    struct run run;

    run_open(&run, v3_dir, K_BACKEND_CPU);
    const struct params *params = model_params(run.m);
    size_t n_bytes = (size_t)(params->n_elements - params->n_trained) * sizeof(float);
    float *bias = model_weights(run.m) + params->n_trained;
    _cleanup_free_ float *before = hai_alloc(n_bytes);
    CHECK_EQ(run.g.config.n_experts, 8, "");
    memcpy(before, bias, n_bytes);
    for (int64_t i = 0; i < run.n_counts; i++)
        run.counts[i] = i < run.n_counts - run.n_layers ? picks[i % 8] : 7;
    model_bias_update(run.m, 0.25);
    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        for (int64_t e = 0; !p->trained && p->tie == i && e < p->n_elements; e++) {
            float was = before[p->offset - params->n_trained + e];
            int64_t surplus = picks[e % 8] - 4;
            double step = p->layer < run.g.config.n_layers ? surplus > 0   ? -0.25
                                                             : surplus < 0 ? 0.25
                                                                           : 0
                                                           : 0;
            CHECK(model_weights(run.m)[p->offset + e] == (float)((double)was + step), "%s %d",
                  p->name, (int)e);
        }
    }
    run_close(&run);
}

/* How uneven the last step was, in the worst layer: share of the busiest expert, group, or group
 * that tokens are sent to, over the mean. */
struct unevenness {
    double of[K_BALANCE_COUNT];
};

static double over_mean(const int64_t *n, int count) {
    int64_t sum = 0, most = 0;

    for (int i = 0; i < count; i++) {
        sum += n[i];
        most = MAX(most, n[i]);
    }
    return (double)most * count / (double)sum;
}

static void measure(const struct run *run, struct unevenness *ret) {
    int n_experts = (int)run->g.config.n_experts, n_slots = (int)run->g.config.n_expert_slots;

    for (int layer = 0; layer < run->n_layers; layer++) {
        int64_t picks[64] = {0}, groups[GROUPS] = {0}, sent[GROUPS] = {0};
        const int32_t *experts;
        const float *weights;
        CHECK_EQ(model_expert_choice(run->m, layer, &experts, &weights), 0, "");
        for (int i = 0; i < TOKENS * n_slots; i++) {
            int group = experts[i] * GROUPS / n_experts;
            picks[experts[i]]++;
            groups[group]++;
            sent[group] += i % n_slots == 0 || experts[i - 1] * GROUPS / n_experts != group;
        }
        ret->of[K_BALANCE_EXPERT] = fmax(ret->of[K_BALANCE_EXPERT], over_mean(picks, n_experts));
        ret->of[K_BALANCE_DEVICE] = fmax(ret->of[K_BALANCE_DEVICE], over_mean(groups, GROUPS));
        ret->of[K_BALANCE_COMMUNICATION] =
            fmax(ret->of[K_BALANCE_COMMUNICATION], over_mean(sent, GROUPS));
    }
}

/* All tokens go to experts of the first half: their rows of the gates are what is common to the
 * vectors that they meet. */
static void make_uneven(struct run *run) {
    const struct params *params = model_params(run->m);
    int64_t d = run->g.config.n_dim;

    model_init(run->m, 3);
    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        float *w = model_weights(run->m) + p->offset;
        if (hai_streq(p->name, "model.embed_tokens.weight"))
            for (int64_t k = 0; k < p->n_elements; k++)
                w[k] += k % d % 2 ? 0.03f : -0.03f;
        if (params_is_router(p))
            for (int64_t k = 0; k < p->n_elements / 2; k++)
                w[k] += k % d % 2 ? 0.02f : -0.02f;
    }
}

/* Steps with these rules, from the same uneven start over the same tokens. */
static struct unevenness trained(const char *dir, const struct model_rules *rules, double gamma) {
    static const struct adamw_rule rule = {
        .lr = 4e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip_norm = 1};
    struct unevenness u = {0};
    struct run run;

    run_open(&run, dir, K_BACKEND_CPU);
    size_t n = (size_t)model_params(run.m)->n_trained;
    _cleanup_free_ float *exp_avg = hai_new_array(float, n), *exp_avg_sq = hai_new_array(float, n);
    make_uneven(&run);
    for (int step = 1; step <= 40; step++) {
        double norm;
        train_anew(&run, rules, NULL);
        if (step > 35)
            measure(&run, &u);
        CHECK_EQ(adamw_norm(run.m, &norm), 0, "");
        CHECK_EQ(adamw_step(run.m, &rule, step, norm, exp_avg, exp_avg_sq), 0, "");
        model_bias_update(run.m, gamma);
    }
    run_close(&run);
    return u;
}

TEST(each_loss_makes_even)
{
    static const struct {
        const char *name, *dir;
        enum k_balance_kind kind; // of the loss, and of what is measured
        double alpha, gamma;
        bool micro_batch;
    } cases[] = {
        {"expert",        v2_dir, K_BALANCE_EXPERT,        0.3, 0,    false},
        {"expert, batch", v2_dir, K_BALANCE_EXPERT,        0.3, 0,    true },
        {"device",        v2_dir, K_BALANCE_DEVICE,        0.3, 0,    false},
        {"communication", v2_dir, K_BALANCE_COMMUNICATION, 0.3, 0,    false},
        {"sequence",      v3_dir, K_BALANCE_EXPERT,        0.3, 0,    false},
        {"bias",          v3_dir, K_BALANCE_EXPERT,        0,   0.01, false},
    };
    const struct model_rules none = {.balance_alpha = 0};
    struct unevenness v2 = trained(v2_dir, &none, 0), v3 = trained(v3_dir, &none, 0);

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        enum k_balance_kind kind = cases[i].kind;
        const struct model_rules rules = {
            .balance_alpha = kind == K_BALANCE_EXPERT ? cases[i].alpha : 0,
            .device_alpha = kind == K_BALANCE_DEVICE ? cases[i].alpha : 0,
            .communication_alpha = kind == K_BALANCE_COMMUNICATION ? cases[i].alpha : 0,
            .balance_groups = GROUPS,
            .balance_micro_batch = cases[i].micro_batch,
        };
        double before = (cases[i].dir == v2_dir ? &v2 : &v3)->of[kind];
        double after = trained(cases[i].dir, &rules, cases[i].gamma).of[kind];
        printf("%s: busiest %.3f times the mean without, %.3f with\n", cases[i].name, before,
               after);
        CHECK(after - 1 < 0.6 * (before - 1), "%s: %.3f, %.3f without", cases[i].name, after,
              before);
    }
}
