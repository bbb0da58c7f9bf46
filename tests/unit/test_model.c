/* The model's own promises: initialisation, the cache's bits, splitting a batch, refusals. */
#include "engine/model/load.h"
#include "engine/model/model.h"
#include "lib/fileio.h"
#include "storage/safetensors.h"
#include "tests/unit/golden.h"
#include "tests/unit/test.h"

#include <math.h>

static const char llama_dir[] = "tests/fixtures/models/llama_gqa";
static const char v3_dir[] = "tests/fixtures/models/dsv3";

enum {
    TOKENS = 40,
    PAGE = 16,
    SEQ_PAGES = 2 * TOKENS / PAGE,
};

static struct model *new_model(const char *dir, bool training, int n_threads) {
    struct model_config config;
    struct model *model = NULL;
    struct hai_err err = {0};
    struct model_options options = {.backend = K_BACKEND_CPU,
                                    .n_threads = n_threads,
                                    .n_tokens_max = TOKENS,
                                    .n_seqs_max = 4,
                                    .training = training,
                                    .n_cache_pages = training ? 0 : 2 * SEQ_PAGES,
                                    .n_seq_pages = training ? 0 : SEQ_PAGES,
                                    .page_tokens = training ? 0 : PAGE};

    CHECK_EQ(config_read(dir, &config, &err), 0, "%s", err.text);
    CHECK_EQ(model_new(&config, &options, &model, &err), 0, "%s", err.text);
    return model;
}

static void make_ids(int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * 37 + i * i * 11 + 5) % 500);
}

TEST(init_depends_on_seed_alone)
{
    struct model *a = new_model(v3_dir, false, 1), *b = new_model(v3_dir, true, 2);
    const struct params *p = model_params(a);
    size_t n_bytes = (size_t)p->n_elements * sizeof(float);
    double sum = 0, square = 0;

    model_init(a, 17);
    model_init(b, 17);
    CHECK(memcmp(model_weights(a), model_weights(b), n_bytes) == 0, "");
    model_init(b, 18);
    CHECK(memcmp(model_weights(a), model_weights(b), n_bytes) != 0, "");
    const struct param *e = &p->items[params_find(p, "model.embed_tokens.weight")];
    for (int64_t i = 0; i < e->n_elements; i++) {
        double x = (double)model_weights(a)[e->offset + i];
        sum += x;
        square += x * x;
    }
    double n = (double)e->n_elements;
    CHECK(fabs(sum / n) < 4 * 0.02 / sqrt(n), "mean %g", sum / n);
    CHECK(fabs(sqrt(square / n) / 0.02 - 1) < 0.02, "deviation %g", sqrt(square / n));
    model_free(a);
    model_free(b);
}

/* Run n tokens of one sequence that has `length` tokens with them; page i of it is pages[i]. */
static const float *run_cached(struct model *m, const int32_t *ids, int32_t n, int32_t length,
                               const int32_t *pages) {
    struct hai_err err = {0};
    struct k_tensor logits;
    const struct model_batch batch = {
        .n_tokens = n,
        .n_seqs = 1,
        .ids = ids,
        .seq_start = (int32_t[]){0, n},
        .pages = pages,
        .n_pages = SEQ_PAGES,
        .kv_length = &length
    };

    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), 0, "%s", err.text);
    return (const float *)logits.data + (n - 1) * logits.stride[0];
}

/* Logits of the last token through the cache: in one piece, token by token in other pages, in
 * chunks beside another sequence. */
static void check_cache(const char *dir) {
    struct model *m = new_model(dir, false, 1);
    int64_t n_vocab = model_config_of(m)->n_vocab;
    _cleanup_free_ float *whole = hai_new_array(float, (size_t)n_vocab);
    const int32_t pages[2 * SEQ_PAGES] = {4, 7, 0, 9, 2, 1, 3, 5, 6, 8};
    int32_t ids[TOKENS], two[2 * TOKENS];
    size_t row_bytes = (size_t)n_vocab * sizeof(float);
    struct hai_err err = {0};
    struct k_tensor logits;

    CHECK_EQ(load_model(m, dir, &err), 0, "%s", err.text);
    make_ids(ids, TOKENS);
    memcpy(whole, run_cached(m, ids, TOKENS, TOKENS, pages), row_bytes);
    const float *last = NULL;
    for (int i = 0; i < TOKENS; i++)
        last = run_cached(m, &ids[i], 1, i + 1, pages + SEQ_PAGES);
    CHECK(memcmp(whole, last, row_bytes) == 0, "%s: token by token", dir);

    for (int at = 7; at < TOKENS; at += 11) { /* go on behind seven tokens in chunks of 11 */
        int n = MIN(11, TOKENS - at);
        memcpy(two, ids, 3 * sizeof *two);
        memcpy(two + 3, ids + at, (size_t)n * sizeof *two);
        const struct model_batch batch = {
            .n_tokens = n + 3,
            .n_seqs = 2,
            .ids = two,
            .seq_start = (int32_t[]){0, 3, 3 + n},
            .pages = pages,
            .n_pages = SEQ_PAGES,
            .kv_length = (int32_t[]){3, at + n }
        };
        CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), 0, "%s", err.text);
        CHECK(memcmp(whole, (float *)logits.data + (n + 2) * n_vocab, row_bytes) == 0 ||
                  at + n < TOKENS,
              "%s: in chunks", dir);
    }
    model_free(m);
}

TEST(cache_bits_llama)
{ check_cache(llama_dir); }

TEST(cache_bits_v3)
{ check_cache(v3_dir); }

/* Two micro-batches with the counts of both give the losses and gradients of one. */
static void check_split(const char *dir) {
    struct model *m = new_model(dir, true, 1);
    int64_t n = model_params(m)->n_trained;
    _cleanup_free_ float *whole = hai_new_array(float, (size_t)n);
    struct model_rules rules = {.mtp_weight = model_config_of(m)->n_mtp ? 0.3 : 0,
                                .balance_alpha = 0.01,
                                .device_alpha = 0.02,
                                .communication_alpha = 0.03,
                                .balance_groups = 2};
    struct model_losses all, part[2];
    struct model_counts total;
    int32_t ids[TOKENS], labels[TOKENS], seq_start[3] = {0, 15, TOKENS};
    struct hai_err err = {0};
    double worst = 0, largest = 0;

    CHECK_EQ(load_model(m, dir, &err), 0, "%s", err.text);
    make_ids(ids, TOKENS);
    memcpy(labels, ids, sizeof labels);
    labels[3] = labels[20] = -100;
    struct model_batch batch = {
        .n_tokens = TOKENS, .n_seqs = 2, .ids = ids, .labels = labels, .seq_start = seq_start};
    model_gradients_clear(m);
    model_count(m, &batch, &total);
    CHECK_EQ(total.labels, TOKENS - 2 - 2, "");
    CHECK_EQ(model_train(m, &batch, &total, &rules, &all, &err), 0, "%s", err.text);
    memcpy(whole, model_gradients(m), (size_t)n * sizeof *whole);
    model_gradients_clear(m);
    for (int i = 0; i < 2; i++) {
        int32_t length = seq_start[i + 1] - seq_start[i];
        batch = (struct model_batch){
            .n_tokens = length,
            .n_seqs = 1,
            .ids = ids + seq_start[i],
            .labels = labels + seq_start[i],
            .seq_start = (int32_t[]){0, length}
        };
        CHECK_EQ(model_train(m, &batch, &total, &rules, &part[i], &err), 0, "%s", err.text);
    }
    CHECK(fabs(part[0].total + part[1].total - all.total) < 1e-6, "%s: %g + %g, %g", dir,
          part[0].total, part[1].total, all.total);
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)model_gradients(m)[i] - (double)whole[i]);
        worst = isnan(worst) || d <= worst ? worst : d; // once NaN, it stays; fmax would drop it
        largest = fmax(largest, fabs((double)whole[i]));
    }
    CHECK(worst < 1e-5 * largest, "%s: gradients differ by %g of %g", dir, worst, largest);
    model_free(m);
}

TEST(split_batch_llama)
{ check_split(llama_dir); }

TEST(split_batch_v3)
{ check_split(v3_dir); }

/* Targets of rows are labels by another name; a row more of them at a cut sequence counts. */
TEST(targets_are_labels_moved)
{
    struct model *m = new_model(v3_dir, true, 1);
    size_t n_bytes = (size_t)model_params(m)->n_trained * sizeof(float);
    _cleanup_free_ float *wanted = hai_alloc(n_bytes);
    int32_t ids[TOKENS + 2], starts[3] = {0, 15, TOKENS}, all[2][TOKENS], next[TOKENS];
    const struct model_rules rules = {.mtp_weight = 0.3, .balance_alpha = 0.01};
    struct model_losses losses[2];
    struct model_counts total;
    struct hai_err err = {0};

    CHECK_EQ(load_model(m, v3_dir, &err), 0, "%s", err.text);
    make_ids(ids, TOKENS + 2);
    for (int t = 0; t < TOKENS; t++) {
        int end = t < 15 ? 15 : TOKENS;
        next[t] = t + 1 < end ? ids[t + 1] : -1;
        all[0][t] = next[t];
        all[1][t] = t + 2 < end ? ids[t + 2] : -1;
    }
    const struct model_batch labelled = {
        .n_tokens = TOKENS, .n_seqs = 2, .ids = ids, .labels = ids, .seq_start = starts};
    struct model_batch aimed = {.n_tokens = TOKENS,
                                .n_seqs = 2,
                                .ids = ids,
                                .seq_start = starts,
                                .targets = all[0],
                                .mtp_targets = all[1],
                                .next_ids = next};
    const struct model_batch *batches[] = {&labelled, &aimed};
    for (int i = 0; i < 2; i++) {
        model_gradients_clear(m);
        model_count(m, batches[i], &total);
        CHECK_EQ(total.labels, TOKENS - 2);
        CHECK_EQ(total.mtp_labels, TOKENS - 4);
        CHECK_EQ(model_train(m, batches[i], &total, &rules, &losses[i], &err), 0, "%s", err.text);
        if (!i)
            memcpy(wanted, model_gradients(m), n_bytes);
    }
    CHECK(losses[0].total == losses[1].total);
    CHECK(memcmp(wanted, model_gradients(m), n_bytes) == 0);
    all[0][TOKENS - 1] = next[TOKENS - 1] = ids[TOKENS];
    all[1][TOKENS - 1] = ids[TOKENS + 1];
    model_count(m, &aimed, &total);
    CHECK_EQ(total.labels, TOKENS - 1);
    CHECK_EQ(total.mtp_labels, TOKENS - 3);
    CHECK_EQ(model_evaluate(m, &aimed, &total, &rules, &losses[1], &err), 0, "%s", err.text);
    CHECK(losses[0].ce != losses[1].ce && losses[0].mtp != losses[1].mtp);
    all[0][2] = 512;
    CHECK_EQ(model_evaluate(m, &aimed, &total, &rules, &losses[1], &err), -EINVAL);
    all[0][2] = -1;
    aimed.labels = ids;
    CHECK_EQ(model_evaluate(m, &aimed, &total, &rules, &losses[1], &err), -EINVAL);
    model_free(m);
}

/* Where nothing is to be predicted there is no gradient: rows behind the last target, and all if
 * there is none. */
TEST(masked_labels_give_no_gradient)
{
    struct model *m = new_model(llama_dir, true, 1);
    size_t n = (size_t)model_params(m)->n_trained;
    _cleanup_free_ float *wanted = hai_alloc(n * sizeof(float));
    int32_t ids[TOKENS], targets[TOKENS], starts[2] = {0, TOKENS};
    const struct model_rules rules = {0};
    struct model_losses losses;
    struct model_counts total;
    struct hai_err err = {0};

    CHECK_EQ(load_model(m, llama_dir, &err), 0, "%s", err.text);
    make_ids(ids, TOKENS);
    memset(targets, 0xff, sizeof targets);
    const struct model_batch batch = {
        .n_tokens = TOKENS, .n_seqs = 1, .ids = ids, .seq_start = starts, .targets = targets};
    for (int i = 0; i < 3; i++) {
        double sum = 0;
        if (i == 1)
            targets[10] = 7;
        if (i == 2)
            ids[11] = ids[30] = 3; // behind the only target: nothing sees it
        model_gradients_clear(m);
        model_count(m, &batch, &total);
        CHECK_EQ(total.labels, i > 0);
        CHECK_EQ(model_train(m, &batch, &total, &rules, &losses, &err), 0, "%s", err.text);
        for (size_t k = 0; k < n; k++)
            sum += fabs((double)model_gradients(m)[k]);
        CHECK(i ? sum > 0 : sum == 0, "%d: %g", i, sum);
        CHECK(i ? losses.total > 0 : losses.total == 0, "%g", losses.total);
        if (i == 1)
            memcpy(wanted, model_gradients(m), n * sizeof(float));
    }
    for (size_t k = 0; k < n; k++)
        CHECK(wanted[k] == model_gradients(m)[k], "element %zu", k);
    model_free(m);
}

TEST(bits_do_not_depend_on_threads)
{
    struct model *m[2] = {new_model(v3_dir, true, 1), new_model(v3_dir, true, 3)};
    int32_t ids[TOKENS], seq_start[2] = {0, TOKENS};
    struct model_rules rules = {.mtp_weight = 0.3, .balance_alpha = 0.01};
    struct model_losses losses[2];
    struct model_counts total;
    struct hai_err err = {0};

    make_ids(ids, TOKENS);
    struct model_batch batch = {
        .n_tokens = TOKENS, .n_seqs = 1, .ids = ids, .labels = ids, .seq_start = seq_start};
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(load_model(m[i], v3_dir, &err), 0, "%s", err.text);
        model_gradients_clear(m[i]);
        model_count(m[i], &batch, &total);
        CHECK_EQ(model_train(m[i], &batch, &total, &rules, &losses[i], &err), 0, "%s", err.text);
    }
    CHECK(losses[0].total == losses[1].total, "%.17g %.17g", losses[0].total, losses[1].total);
    CHECK(memcmp(model_gradients(m[0]), model_gradients(m[1]),
                 (size_t)model_params(m[0])->n_trained * sizeof(float)) == 0,
          "");
    model_free(m[0]);
    model_free(m[1]);
}

TEST(batch_refusals)
{
    struct model *m = new_model(llama_dir, false, 1);
    int32_t ids[TOKENS] = {0}, seq_start[3] = {0, TOKENS, 0}, length = TOKENS;
    int32_t pages[SEQ_PAGES] = {3, 2, 5, 0, 1};
    struct hai_err err = {0};
    struct k_tensor logits;

    model_init(m, 1);
    struct model_batch good = {.n_tokens = TOKENS,
                               .n_seqs = 1,
                               .ids = ids,
                               .seq_start = seq_start,
                               .pages = pages,
                               .n_pages = SEQ_PAGES,
                               .kv_length = &length};
    struct model_batch batch = good;
    ids[3] = 512;
    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), -EINVAL, "");
    CHECK_STR(err.text, "token id 512; the vocabulary has 512", "");
    ids[3] = -1;
    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), -EINVAL, "");
    ids[3] = 3;
    batch.n_tokens = TOKENS + 1;
    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), -EINVAL, "too many tokens");
    batch = good;
    seq_start[1] = TOKENS - 1;
    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), -EINVAL, "not covered");
    seq_start[1] = 2 * TOKENS;
    seq_start[2] = TOKENS;
    batch.n_seqs = 2;
    batch.pages = NULL;
    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), -EINVAL, "a sequence of two batches");
    CHECK_STR(err.text, "sequence 0 ends behind the batch", "");
    batch = good;
    seq_start[1] = TOKENS;
    pages[2] = 2 * SEQ_PAGES;
    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), -EINVAL, "no such page");
    CHECK_STR(err.text, "page 10; there are 10", "");
    pages[2] = 5;
    length = TOKENS - 1;
    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), -EINVAL, "shorter than its tokens");
    length = 2 * TOKENS + 1;
    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), -EINVAL, "more than its pages");
    length = 2 * TOKENS;
    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), 0, "%s", err.text);
    batch.n_pages = SEQ_PAGES + 1;
    CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), -EINVAL, "more pages than ever");
    batch.n_pages = SEQ_PAGES;
    CHECK_EQ(model_forward_mtp(m, &batch, &logits, &err), -ENOTSUP, "");
    model_free(m);
}

static int load_with(const char *config_dir, const char *dir,
                     const struct safetensors_tensor *tensors, size_t n, struct hai_err *err) {
    struct model *m = new_model(config_dir, false, 1);
    _cleanup_free_ char *path = hai_asprintf("%s/model.safetensors", dir);

    CHECK_EQ(safetensors_write(path, tensors, n, NULL, err), 0, "%s", err->text);
    int r = load_model(m, dir, err);
    model_free(m);
    return r;
}

TEST(load_refusals)
{
    _cleanup_(safetensors_freep) struct safetensors *files = NULL;
    char dir[] = "/tmp/hai-test-model-XXXXXX";
    struct hai_err err = {0};

    CHECK(mkdtemp(dir) != NULL, "");
    CHECK_EQ(safetensors_open(llama_dir, &files, &err), 0, "%s", err.text);
    size_t n = safetensors_count(files);
    _cleanup_free_ struct safetensors_tensor *t = hai_new_array(struct safetensors_tensor, n + 1);
    for (size_t i = 0; i < n; i++)
        t[i] = *safetensors_at(files, i);
    CHECK_EQ(load_with(llama_dir, dir, t, n, &err), 0, "%s", err.text);
    CHECK_EQ(load_with(llama_dir, dir, t + 1, n - 1, &err), -ENOENT, "one is missing");
    CHECK(strstr(err.text, t[0].name) != NULL, "%s", err.text);
    int64_t rows = t[0].shape[0];
    t[0].shape[0] = t[0].shape[1];
    t[0].shape[1] = rows;
    CHECK_EQ(load_with(llama_dir, dir, t, n, &err), -EINVAL, "transposed");
    CHECK(strstr(err.text, t[0].name) != NULL, "%s", err.text);
    t[0] = *safetensors_at(files, 0);
    t[n] = t[0];
    t[n].name = "model.layers.0.self_attn.q_proj.bias";
    CHECK_EQ(load_with(llama_dir, dir, t, n + 1, &err), -EINVAL, "unknown tensor");
    CHECK(strstr(err.text, t[n].name) != NULL, "%s", err.text);
    t[0].dtype = SAFETENSORS_I16;
    CHECK_EQ(load_with(llama_dir, dir, t, n, &err), -ENOTSUP, "whole numbers");
    CHECK_EQ(fileio_remove_tree(dir, &err), 0, "%s", err.text);
}

/* Every half-precision pattern as a weight: 65,536 of them fill the embedding. */
TEST(load_widens_f16)
{
    enum { N = 65536 };
    _cleanup_(safetensors_freep) struct safetensors *files = NULL;
    struct model *m = new_model(llama_dir, false, 1);
    _cleanup_free_ uint16_t *halves = hai_new_array(uint16_t, N);
    char dir[] = "/tmp/hai-test-model-XXXXXX";
    struct hai_err err = {0};

    CHECK(mkdtemp(dir) != NULL, "");
    CHECK_EQ(safetensors_open(llama_dir, &files, &err), 0, "%s", err.text);
    size_t n = safetensors_count(files);
    _cleanup_free_ struct safetensors_tensor *t = hai_new_array(struct safetensors_tensor, n);
    for (size_t i = 0; i < n; i++) {
        t[i] = *safetensors_at(files, i);
        if (strcmp(t[i].name, "model.embed_tokens.weight"))
            continue;
        CHECK_EQ(t[i].n_bytes, N * sizeof *halves, "");
        t[i].dtype = SAFETENSORS_F16;
        t[i].data = halves;
    }
    for (int i = 0; i < N; i++)
        halves[i] = (uint16_t)i;
    _cleanup_free_ char *path = hai_asprintf("%s/model.safetensors", dir);
    CHECK_EQ(safetensors_write(path, t, n, NULL, &err), 0, "%s", err.text);
    CHECK_EQ(load_model(m, dir, &err), 0, "%s", err.text);
    const float *got =
        model_values(m, params_find(model_params(m), "model.embed_tokens.weight")).data;
    for (int i = 0; i < N; i++) {
        _Float16 half;
        memcpy(&half, &halves[i], sizeof half);
        float want = (float)half;
        CHECK(isnan(want) ? isnan(got[i]) : memcmp(&want, &got[i], sizeof want) == 0,
              "%04x: %a, expected %a", (unsigned)i, (double)got[i], (double)want);
    }
    model_free(m);
    CHECK_EQ(fileio_remove_tree(dir, &err), 0, "%s", err.text);
}

/* The multi-token module's copy of the head has one other bit. */
TEST(load_other_copy)
{
    _cleanup_(safetensors_freep) struct safetensors *files = NULL;
    char dir[] = "/tmp/hai-test-model-XXXXXX";
    struct hai_err err = {0};

    CHECK(mkdtemp(dir) != NULL, "");
    CHECK_EQ(safetensors_open(v3_dir, &files, &err), 0, "%s", err.text);
    size_t n = safetensors_count(files);
    _cleanup_free_ struct safetensors_tensor *t = hai_new_array(struct safetensors_tensor, n);
    _cleanup_free_ char *changed = NULL;
    for (size_t i = 0; i < n; i++) {
        t[i] = *safetensors_at(files, i);
        if (strcmp(t[i].name, "model.layers.4.shared_head.head.weight") == 0) {
            changed = hai_alloc(t[i].n_bytes);
            memcpy(changed, t[i].data, t[i].n_bytes);
            changed[100] ^= 1;
            t[i].data = changed;
        }
    }
    CHECK(changed != NULL, "");
    CHECK_EQ(load_with(v3_dir, dir, t, n, &err), -EINVAL, "");
    CHECK(strstr(err.text, "shared_head.head.weight is not the same as lm_head.weight") != NULL,
          "%s", err.text);
    CHECK_EQ(fileio_remove_tree(dir, &err), 0, "%s", err.text);
}
