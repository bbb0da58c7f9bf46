/* Logits, hidden states, expert choices and greedy continuations of the reference models. */
#include "engine/model/load.h"
#include "tests/unit/golden.h"
#include "tests/unit/test.h"

static const char *const prompts[] = {"p0", "p1", "p2", "p3"};

enum {
    TOKENS_MAX = 160,
    GREEDY_TOKENS = 32,
};

static struct model_batch one_sequence(const int32_t *ids, int64_t n, int32_t seq_start[2]) {
    seq_start[0] = 0;
    seq_start[1] = (int32_t)n;
    return (struct model_batch){.n_tokens = n, .n_seqs = 1, .ids = ids, .seq_start = seq_start};
}

static void check_experts(const struct golden *g, struct model *m, const char *prompt, int64_t n) {
    const struct safetensors_tensor *idx = golden_tensor(g, "%s.expert_idx", prompt);
    const struct safetensors_tensor *weight = golden_tensor(g, "%s.expert_weight", prompt);
    int64_t slots = g->config.n_expert_slots;

    CHECK_EQ(idx != NULL, g->config.n_experts > 0, "%s: no choices to compare with", prompt);
    for (int i = 0; idx && i < idx->shape[0]; i++) {
        const int32_t *experts = NULL;
        const float *weights = NULL;
        CHECK_EQ(model_expert_choice(m, i, &experts, &weights), 0, "%s", prompt);
        for (int64_t k = 0; k < n * slots; k++)
            CHECK_EQ(experts[k], ((const int32_t *)idx->data)[i * n * slots + k], "%s %d", prompt,
                     i);
        golden_compare(prompt, weights, (const float *)weight->data + i * n * slots, n * slots,
                       golden_tolerance(g, "expert_weight_atol"), 0);
    }
}

static void check_mtp(const struct golden *g, struct model *m, const struct model_batch *batch,
                      const char *prompt) {
    const struct safetensors_tensor *want = golden_tensor(g, "%s.mtp_logits", prompt);
    struct hai_err err = {0};
    struct k_tensor logits;

    // A single token has none after it.
    CHECK_EQ(want != NULL, g->config.n_mtp && batch->n_tokens > 1, "%s: no mtp logits", prompt);
    if (!want)
        return;
    CHECK_EQ(model_forward_mtp(m, batch, &logits, &err), 0, "%s", err.text);
    /* Reference rows end with the last but one token's. */
    int64_t first = batch->n_tokens - 1 - want->shape[0];
    golden_compare("mtp logits", (const float *)logits.data + first * logits.stride[0], want->data,
                   want->shape[0] * want->shape[1], golden_tolerance(g, "mtp_logits_atol"),
                   golden_tolerance(g, "logits_rtol"));
}

static void check_prompt(const struct golden *g, struct model *m, const char *prompt) {
    const struct safetensors_tensor *ids = golden_tensor(g, "%s.input_ids", prompt);
    const struct safetensors_tensor *want = golden_tensor(g, "%s.logits", prompt);
    const struct safetensors_tensor *hidden = golden_tensor(g, "%s.hidden", prompt);
    int64_t n = ids->shape[0], first = n - want->shape[0];
    _cleanup_free_ float *states =
        hai_new_array(float, (size_t)(g->config.n_layers * n * g->config.n_dim));
    struct hai_err err = {0};
    int32_t seq_start[2];
    struct k_tensor logits;

    struct model_batch batch = one_sequence(ids->data, n, seq_start);
    CHECK_EQ(model_forward(m, &batch, &logits, states, &err), 0, "%s", err.text);
    golden_compare("logits", (const float *)logits.data + first * logits.stride[0], want->data,
                   want->shape[0] * want->shape[1], golden_tolerance(g, "logits_atol"),
                   golden_tolerance(g, "logits_rtol"));
    if (hidden)
        golden_compare("hidden", states, hidden->data, g->config.n_layers * n * g->config.n_dim,
                       golden_tolerance(g, "hidden_atol"), golden_tolerance(g, "hidden_rtol"));
    check_experts(g, m, prompt, n);
    check_mtp(g, m, &batch, prompt);
}

static int32_t best(const float *row, int64_t n) {
    int64_t at = 0;

    for (int64_t i = 1; i < n; i++)
        if (row[i] > row[at])
            at = i;
    return (int32_t)at;
}

enum { PAGES = 4 };

/* Greedy ids through the cache, the prompt in two pieces; pages in no order. */
static void check_greedy(const struct golden *g, struct model *m) {
    const struct safetensors_tensor *ids = golden_tensor(g, "p1.input_ids");
    const struct safetensors_tensor *want = golden_tensor(g, "greedy.from_p1");
    int32_t seq_start[2], next = 0, length = 0;
    const int32_t pages[PAGES] = {6, 1, 7, 0}, *at = ids->data;
    struct hai_err err = {0};
    struct k_tensor logits;
    int64_t left = ids->shape[0], n = 10;

    for (int i = 0; i <= GREEDY_TOKENS; i++) {
        struct model_batch batch = one_sequence(at, n, seq_start);
        length += (int32_t)n;
        batch.pages = pages;
        batch.n_pages = PAGES;
        batch.kv_length = &length;
        CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), 0, "%s", err.text);
        left -= i < 2 ? n : 0;
        if (i == 0) { /* the rest of the prompt */
            at += n;
            n = left;
            continue;
        }
        next = best((const float *)logits.data + (n - 1) * logits.stride[0], logits.shape[1]);
        CHECK_EQ(next, ((const int32_t *)want->data)[i - 1], "greedy token %d", i - 1);
        at = &next;
        n = 1;
    }
}

/* A model whose matrices stay in the files: the reference's values, too; and rows of logits that
 * are asked for alone are those of all. */
static void check_mapped(const struct golden *g, const char *dir, const struct golden_path *path) {
    const struct safetensors_tensor *ids = golden_tensor(g, "p1.input_ids");
    const struct model_options options = {.backend = path->backend,
                                          .path = path->path,
                                          .n_tokens_max = TOKENS_MAX,
                                          .n_seqs_max = 1,
                                          .n_cache_pages = 8,
                                          .n_seq_pages = 4,
                                          .page_tokens = GOLDEN_PAGE};
    const int32_t rows[2] = {3, (int32_t)ids->shape[0] - 1};
    struct safetensors *files = NULL;
    struct model *m = NULL;
    struct hai_err err = {0};
    struct k_tensor all, some;
    int32_t seq_start[2];

    CHECK_EQ(load_mapped(&g->config, &options, dir, &files, &m, &err), 0, "%s", err.text);
    for (size_t i = 0; i < ARRAY_SIZE(prompts) && path->backend != K_BACKEND_REF; i++)
        check_prompt(g, m, prompts[i]);
    check_prompt(g, m, "p1");
    check_greedy(g, m);
    struct model_batch batch = one_sequence(ids->data, ids->shape[0], seq_start);
    CHECK_EQ(model_forward(m, &batch, &all, NULL, &err), 0, "%s", err.text);
    _cleanup_free_ float *want = hai_new_array(float, (size_t)k_tensor_n_elements(&all));
    memcpy(want, all.data, (size_t)k_tensor_n_elements(&all) * sizeof *want);
    batch.logit_rows = rows;
    batch.n_logit_rows = 2;
    CHECK_EQ(model_forward(m, &batch, &some, NULL, &err), 0, "%s", err.text);
    CHECK_EQ(some.shape[0], 2, "");
    for (int i = 0; i < 2; i++)
        CHECK(memcmp(want + rows[i] * all.shape[1], (const float *)some.data + i * some.stride[0],
                     (size_t)all.shape[1] * sizeof(float)) == 0,
              "%s row %d", dir, rows[i]);
    model_free(m);
    safetensors_free(files);
}

/* Matrices kept as bf16: of files that are bf16 the bits of float32 ones (but in tile registers,
 * where they have an order of their own: the reference's values), of 8-bit files the reference's
 * values with weights rounded so. */
static void check_narrow(const struct golden *g, const char *dir, const struct golden_path *path,
                         bool bf16) {
    const struct safetensors_tensor *ids = golden_tensor(g, "p1.input_ids");
    const struct safetensors_tensor *rounded = golden_tensor(g, "p1.logits_weights_as_bf16");
    bool tiles = path->path && strcmp(path->path, "amx") == 0;
    struct k_tensor logits[2];
    struct model *m[2];
    int32_t seq_start[2];
    struct hai_err err = {0};

    struct model_batch batch = one_sequence(ids->data, ids->shape[0], seq_start);
    for (int i = 0; i < 2; i++) {
        struct model_options options = {.backend = path->backend,
                                        .path = path->path,
                                        .n_tokens_max = TOKENS_MAX,
                                        .n_seqs_max = 1,
                                        .dtype = i ? K_BF16 : K_F32};
        CHECK_EQ(model_new(&g->config, &options, &m[i], &err), 0, "%s", err.text);
        CHECK_EQ(load_model(m[i], dir, &err), 0, "%s", err.text);
        CHECK_EQ(model_forward(m[i], &batch, &logits[i], NULL, &err), 0, "%s", err.text);
    }
    CHECK_EQ(rounded != NULL, g->config.fp8, "%s", dir);
    if (!rounded && bf16 && tiles)
        rounded = golden_tensor(g, "p1.logits");
    if (rounded)
        golden_compare("weights as bf16", logits[1].data, rounded->data,
                       rounded->shape[0] * rounded->shape[1], golden_tolerance(g, "logits_atol"),
                       golden_tolerance(g, "logits_rtol"));
    else if (bf16)
        CHECK(memcmp(logits[0].data, logits[1].data,
                     (size_t)k_tensor_n_elements(&logits[0]) * sizeof(float)) == 0,
              "%s", dir);
    model_free(m[0]);
    model_free(m[1]);
}

/* Latent attention that expands its cache for many rows: within the same tolerances, in one piece
 * and behind a part that was cached; and not the row-invariant form's bits. */
static void check_fast(const struct golden *g, const char *dir, const struct golden_path *path,
                       const char *prompt) {
    const struct safetensors_tensor *ids = golden_tensor(g, "%s.input_ids", prompt);
    const struct safetensors_tensor *want = golden_tensor(g, "%s.logits", prompt);
    const int32_t pages[TOKENS_MAX / GOLDEN_PAGE] = {6, 1, 7, 0, 3, 2, 9, 4, 8, 5};
    int32_t n = (int32_t)ids->shape[0], n_want = (int32_t)want->shape[0], seq_start[2];
    size_t n_bytes = (size_t)(want->shape[0] * want->shape[1]) * sizeof(float);
    float *found[2];

    for (int fast = 0; fast < 2; fast++) {
        const struct model_options options = {.backend = path->backend,
                                              .path = path->path,
                                              .n_tokens_max = TOKENS_MAX,
                                              .n_seqs_max = 1,
                                              .n_cache_pages = TOKENS_MAX / GOLDEN_PAGE,
                                              .n_seq_pages = TOKENS_MAX / GOLDEN_PAGE,
                                              .page_tokens = GOLDEN_PAGE,
                                              .fast_prefill = fast};
        struct safetensors *files = NULL;
        struct model *m = NULL;
        struct hai_err err = {0};
        struct k_tensor logits;
        CHECK_EQ(load_mapped(&g->config, &options, dir, &files, &m, &err), 0, "%s", err.text);
        for (int32_t at = 0, length; at < n; at = length) {
            length = at || n < TOKENS_MAX ? n : n / 3;
            struct model_batch batch =
                one_sequence((const int32_t *)ids->data + at, length - at, seq_start);
            batch.pages = pages;
            batch.n_pages = TOKENS_MAX / GOLDEN_PAGE;
            batch.kv_length = &length;
            CHECK_EQ(model_forward(m, &batch, &logits, NULL, &err), 0, "%s", err.text);
            if (length < n)
                continue;
            found[fast] = hai_alloc(n_bytes);
            memcpy(found[fast],
                   (const float *)logits.data + (length - at - n_want) * logits.stride[0], n_bytes);
        }
        golden_compare("logits", found[fast], want->data, want->shape[0] * want->shape[1],
                       golden_tolerance(g, "logits_atol"), golden_tolerance(g, "logits_rtol"));
        model_free(m);
        safetensors_free(files);
    }
    CHECK_EQ(memcmp(found[0], found[1], n_bytes) != 0, g->config.latent_attention, "%s %s", dir,
             prompt);
    free(found[0]);
    free(found[1]);
}

/* bf16: that is what the file has. */
static void check_model(const char *name, bool bf16) {
    _cleanup_free_ char *dir = hai_asprintf("tests/fixtures/models/%s", name);
    struct golden_path paths[4];
    struct golden g;
    int n_paths = golden_paths(paths);

    golden_open(&g, dir);
    for (int p = 0; p < n_paths; p++) {
        if (TEST_SANITIZED && paths[p].backend == K_BACKEND_REF)
            continue; // test_kernels has each of its operators
        struct model *m =
            golden_model(&g, dir, paths[p].backend, paths[p].path, TOKENS_MAX, 1, false, 64);
        for (size_t i = 0; i < ARRAY_SIZE(prompts); i++)
            check_prompt(&g, m, prompts[i]);
        check_mapped(&g, dir, &paths[p]);
        check_narrow(&g, dir, &paths[p], bf16);
        check_fast(&g, dir, &paths[p], "p0");
        check_fast(&g, dir, &paths[p], "p3");
        model_free(m);
    }
    golden_close(&g);
}

TEST(llama_mha)
{ check_model("llama_mha", true); }

TEST(llama_gqa)
{ check_model("llama_gqa", true); }

TEST(llama_linear)
{ check_model("llama_linear", true); }

TEST(llama3_rope)
{ check_model("llama3_rope", true); }

TEST(qwen2)
{ check_model("qwen2", true); }

TEST(qwen2_tied)
{ check_model("qwen2_tied", false); }

TEST(deepseek_moe)
{ check_model("deepseek_moe", true); }

TEST(dsv2_lite)
{ check_model("dsv2_lite", true); }

TEST(dsv2_full)
{ check_model("dsv2_full", true); }

TEST(dsv3)
{ check_model("dsv3", true); }

TEST(dsv3_fp8)
{ check_model("dsv3_fp8", false); }

TEST(dsv3_fp8_act)
{ check_model("dsv3_fp8_act", false); }
