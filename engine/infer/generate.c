#include "engine/infer/generate.h"
#include "engine/model/load.h"

#include <inttypes.h>

enum {
    CHUNK_TOKENS = 256, // of one forward pass over the prompt
    PAGE_TOKENS = 64,
};

struct generate {
    struct safetensors *files; // where the matrices are; NULL: in the model
    struct model *model;
    struct model_config config;
    int64_t n_tokens;
    int32_t *pages; // [n_pages], all there are, in order
    int64_t n_pages;
    int64_t length; // tokens in the cache
    struct sample_space *space;
};

void generate_free(struct generate *g) {
    if (!g)
        return;
    model_free(g->model);
    safetensors_free(g->files);
    free(g->pages);
    sample_space_free(g->space);
    free(g);
}

int generate_open(const char *dir, const struct generate_place *place, int64_t n_tokens,
                  struct generate **ret, struct hai_err *err) {
    _cleanup_(generate_freep) struct generate *g = hai_new(struct generate);
    int r = config_read(dir, &g->config, err);

    if (r < 0)
        return r;
    if (n_tokens > g->config.n_position)
        return hai_fail(err, -EINVAL,
                        "%s: %" PRId64 " tokens in all; expected at most max_position_embeddings, "
                        "%" PRId64,
                        dir, n_tokens, g->config.n_position);
    g->n_pages = (n_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
    const struct model_options options = {.backend = place->backend,
                                          .n_threads = place->n_threads,
                                          .n_tokens_max = MIN(n_tokens, (int64_t)CHUNK_TOKENS),
                                          .n_seqs_max = 1,
                                          .dtype = place->dtype == GENERATE_BF16 ? K_BF16 : K_F32,
                                          .n_cache_pages = g->n_pages,
                                          .n_seq_pages = g->n_pages,
                                          .page_tokens = PAGE_TOKENS,
                                          .cache_dtype = place->cache_dtype,
                                          .fast_prefill = place->fast_prefill};
    if (place->dtype == GENERATE_BF16) {
        r = model_new(&g->config, &options, &g->model, err);
        if (r == 0)
            r = load_model(g->model, dir, err);
    } else {
        r = load_mapped(&g->config, &options, dir, &g->files, &g->model, err);
    }
    if (r < 0)
        return r;
    g->n_tokens = n_tokens;
    g->pages = hai_new_array(int32_t, (size_t)g->n_pages);
    for (int64_t i = 0; i < g->n_pages; i++)
        g->pages[i] = (int32_t)i;
    g->space = sample_space_new(g->config.n_vocab);
    *ret = TAKE_PTR(g);
    return 0;
}

struct model *generate_model(struct generate *g) {
    return g->model;
}

const struct model_config *generate_config(const struct generate *g) {
    return &g->config;
}

/* Tokens that go on where the cache ends; at most CHUNK_TOKENS. */
static int forward(struct generate *g, const int32_t *ids, int64_t n, struct k_tensor *ret,
                   struct hai_err *err) {
    const int32_t seq_start[2] = {0, (int32_t)n}, length = (int32_t)(g->length + n);
    const struct model_batch batch = {.n_tokens = n,
                                      .n_seqs = 1,
                                      .ids = ids,
                                      .seq_start = seq_start,
                                      .pages = g->pages,
                                      .n_pages = g->n_pages,
                                      .kv_length = &length};

    int r = model_forward(g->model, &batch, ret, NULL, err);
    if (r == 0)
        g->length += n;
    return r;
}

int generate_logits(struct generate *g, const int32_t *ids, int64_t n,
                    int (*take)(void *userdata, const float *rows, int64_t n_rows,
                                struct hai_err *err),
                    void *userdata, struct hai_err *err) {
    return generate_logits_from(g, ids, n, 0, take, userdata, err);
}

int generate_logits_from(struct generate *g, const int32_t *ids, int64_t n, int64_t n_known,
                         int (*take)(void *userdata, const float *rows, int64_t n_rows,
                                     struct hai_err *err),
                         void *userdata, struct hai_err *err) {
    int r = 0;

    assert(n <= g->n_tokens);
    assert(n_known <= g->length);
    g->length = n_known;
    for (int64_t at = n_known; r == 0 && at < n; at += CHUNK_TOKENS) {
        int64_t n_rows = MIN(n - at, (int64_t)CHUNK_TOKENS);
        struct k_tensor logits;
        r = forward(g, ids + at, n_rows, &logits, err);
        if (r == 0)
            r = take(userdata, logits.data, n_rows, err);
    }
    return r;
}

static bool is_end(const struct generate *g, int32_t id) {
    for (int i = 0; i < g->config.n_eos_tokens; i++)
        if (g->config.eos_tokens[i] == id)
            return true;
    return false;
}

/* Keep the last row of a piece. */
struct last_row {
    float *row;
    int64_t n_vocab;
};

static int keep_last(void *userdata, const float *rows, int64_t n_rows, struct hai_err *err) {
    const struct last_row *x = userdata;

    memcpy(x->row, rows + (n_rows - 1) * x->n_vocab, (size_t)x->n_vocab * sizeof(float));
    return 0;
}

/* One token, by all rules of the request; it goes into the history and to the hooks. Returns 1 if
 * they end the text with it. */
static int choose(struct generate *g, const float *row, const struct generate_request *request,
                  struct sample_history *history, int64_t position, struct sample_result *ret,
                  struct hai_err *err) {
    const struct sample_hooks *hooks = request->hooks;
    const uint64_t *mask = NULL;
    int r = hooks ? hooks->mask(hooks->userdata, &mask, err) : 0;

    if (r == 0)
        r = sample_token(g->space, row, &request->sample, history, mask, position, ret, err);
    if (r == 0)
        sample_history_add(history, ret->id);
    return r == 0 && hooks ? hooks->take(hooks->userdata, ret->id, err) : r;
}

int generate_run(struct generate *g, const struct generate_request *request,
                 int (*take)(void *userdata, const struct sample_result *token), void *userdata,
                 struct hai_err *err) {
    int64_t n_vocab = g->config.n_vocab, position = request->n_prompt;
    _cleanup_(sample_history_freep) struct sample_history *history =
        sample_history_new(request->n_prompt + request->n_tokens_max);
    _cleanup_free_ float *row = hai_new_array(float, (size_t)n_vocab);
    struct last_row last = {row, n_vocab};

    assert(request->n_prompt >= 1);
    assert(request->n_prompt + request->n_tokens_max <= g->n_tokens);
    int r = sample_check(&request->sample, n_vocab, err);
    if (r == 0)
        r = generate_logits(g, request->prompt, request->n_prompt, keep_last, &last, err);
    if (r == 0)
        sample_history_add_prompt(history, request->prompt, request->n_prompt);
    for (int64_t i = 0; r == 0 && i < request->n_tokens_max; i++, position++) {
        struct sample_result token;
        struct k_tensor logits;
        r = choose(g, row, request, history, position, &token, err);
        bool ends = r > 0;
        if (r >= 0)
            r = take(userdata, &token);
        if (r != 0 || ends || (!request->ignore_eos && is_end(g, token.id)) ||
            i + 1 == request->n_tokens_max)
            break;
        r = forward(g, &token.id, 1, &logits, err);
        if (r == 0)
            memcpy(row, logits.data, (size_t)n_vocab * sizeof *row);
    }
    return MIN(r, 0);
}
