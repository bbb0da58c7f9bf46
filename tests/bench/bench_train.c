/* bench_train - training steps a second of a small model on random tokens, one process.
 *
 * usage: bench-train [DIR_WITH_CONFIG [SEQUENCES [LENGTH [THREADS [PATH]]]]]
 * One line: median step of STEPS, its spread, tokens/s, GFLOP/s (products of the forward pass times
 * three, attention scores not counted) and the share of each phase.
 */
#include "engine/model/adamw.h"
#include "kernels/philox.h"

#include <stdio.h>
#include <time.h>

enum { STEPS = 9 };

static const char llama[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 192, \"intermediate_size\": 512,"
    " \"num_hidden_layers\": 4, \"num_attention_heads\": 6, \"num_key_value_heads\": 3,"
    " \"vocab_size\": 512, \"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-6}";

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int fail(const struct hai_err *err) {
    fprintf(stderr, "bench-train: %s\n", hai_err_text(err));
    return 1;
}

/* Random tokens, labels the same. */
static void fill(int32_t *ids, int32_t *seq_start, int64_t n_seqs, int64_t length,
                 int64_t n_vocab) {
    for (int64_t s = 0; s <= n_seqs; s++)
        seq_start[s] = (int32_t)(s * length);
    for (int64_t t = 0; t < n_seqs * length; t++) {
        struct philox_counter at = philox_at(PHILOX_SHUFFLE, 0, 0, (uint32_t)t);
        uint32_t words[4];
        philox_words(1, &at, words);
        ids[t] = (int32_t)(words[0] % n_vocab);
    }
}

struct bench {
    struct model *model;
    struct model_batch batch;
    float *exp_avg, *exp_avg_sq;
    double forward_s, optimizer_s; // of the last step
};

/* Seconds of one whole step. */
static int step(struct bench *b, int64_t number, double *ret_s, struct hai_err *err) {
    const struct model_config *c = model_config_of(b->model);
    struct model_rules rules = {.mtp_weight = c->n_mtp ? 0.3 : 0,
                                .balance_alpha = c->balance_alpha};
    struct adamw_rule rule = {
        .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .clip_norm = 1};
    struct model_losses losses;
    struct model_counts counts;
    double norm;

    double start = now_s();
    model_count(b->model, &b->batch, &counts);
    int r = model_evaluate(b->model, &b->batch, &counts, &rules, &losses, err);
    if (r < 0)
        return r;
    b->forward_s = now_s() - start;
    start = now_s();
    model_gradients_clear(b->model);
    r = model_train(b->model, &b->batch, &counts, &rules, &losses, err);
    if (r < 0)
        return r;
    double middle = now_s();
    r = adamw_norm(b->model, &norm);
    if (r >= 0)
        r = adamw_step(b->model, &rule, number, norm, b->exp_avg, b->exp_avg_sq);
    b->optimizer_s = now_s() - middle;
    *ret_s = now_s() - start;
    return r;
}

int main(int argc, char **argv) {
    int64_t n_seqs = argc > 2 ? atoi(argv[2]) : 4, length = argc > 3 ? atoi(argv[3]) : 256;
    struct model_config config;
    struct bench b = {0};
    struct hai_err err = {0};
    double times[STEPS];

    int r = argc > 1 && *argv[1] ? config_read(argv[1], &config, &err)
                                 : config_parse(llama, strlen(llama), "built in", &config, &err);
    if (r < 0)
        return fail(&err);
    struct model_options options = {.backend = K_BACKEND_CPU,
                                    .path = argc > 5 ? argv[5] : NULL,
                                    .n_threads = argc > 4 ? atoi(argv[4]) : 1,
                                    .n_tokens_max = n_seqs * length,
                                    .n_seqs_max = n_seqs,
                                    .training = true};
    if (model_new(&config, &options, &b.model, &err) < 0)
        return fail(&err);
    model_init(b.model, 1);
    _cleanup_free_ int32_t *ids = hai_new_array(int32_t, (size_t)(n_seqs * length));
    _cleanup_free_ int32_t *seq_start = hai_new_array(int32_t, (size_t)n_seqs + 1);
    fill(ids, seq_start, n_seqs, length, config.n_vocab);
    b.batch = (struct model_batch){.n_tokens = n_seqs * length,
                                   .n_seqs = n_seqs,
                                   .ids = ids,
                                   .labels = ids,
                                   .seq_start = seq_start};
    b.exp_avg = hai_new_array(float, (size_t)model_params(b.model)->n_trained);
    b.exp_avg_sq = hai_new_array(float, (size_t)model_params(b.model)->n_trained);
    for (int i = -1; i < STEPS; i++) /* the first is for the caches */
        if (step(&b, i + 2, &times[MAX(i, 0)], &err) < 0)
            return fail(&err);
    qsort(times, STEPS, sizeof *times, ascending);
    double t = times[STEPS / 2], n = (double)b.batch.n_tokens;
    printf("%s: %.2fM parameters, %lld x %lld tokens, %d thread: step %.1f ms (spread %.0f %%), "
           "%.0f tokens/s, %.1f GFLOP/s; forward %.0f %%, optimizer %.0f %%\n",
           model_ctx(b.model)->path, (double)model_params(b.model)->n_counted * 1e-6,
           (long long)n_seqs, (long long)length, options.n_threads, 1e3 * t,
           100 * (times[STEPS - 1] - times[0]) / t, n / t,
           3e-9 * config_flops_per_token(&config) * n / t, 100 * b.forward_s / t,
           100 * b.optimizer_s / t);
    free(b.exp_avg);
    free(b.exp_avg_sq);
    model_free(b.model);
    return 0;
}
