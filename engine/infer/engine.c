#include "engine/infer/engine.h"
#include "engine/infer/drafts.h"
#include "engine/infer/prefix_file.h"
#include "engine/model/load.h"
#include "engine/model/weighthash.h"

#include <stdio.h>
#include <time.h>

DEFINE_ENUM(engine_drafts, ENGINE_DRAFTS, ENGINE_DRAFTS_ALL);

/* A request from submission to its end. */
struct seq {
    int64_t id;
    struct engine_request request; // ids is NULL
    int32_t *ids;                  // prompt and output
    int64_t n_ids;
    struct sample_history *history;
    struct grammar_match *match; // NULL without a grammar
    int32_t guess;               // of the multi-token module, -1: none
    bool ended;                  // by a token, or cancelled: nothing more is given to it
    int failed;
    struct hai_err err;
    struct seq *next; // of the same bucket
};

struct engine {
    struct engine_options options;
    struct model_config config;
    struct safetensors *files; // NULL: the matrices are in the model
    struct model *model;
    struct pages *pages;
    struct prefix *prefix; // NULL: none
    struct batcher *batcher;
    struct sample_space *space;
    struct seq **buckets; // [n_buckets], by id
    size_t n_buckets;     // a power of two
    uint64_t *mask;       // of the token to come
    char *swap;           // pages that were put back
    size_t page_bytes;    // over all layers
    int32_t *tables;      // [n_slots, n_table]
    int32_t *next_ids, *mtp_rows;
    struct batcher_result *results;            // [n_slots]
    struct sample_result *tokens;              // [n_drafts_max + 1]
    struct seq *current;                       // whose tokens are being chosen
    int64_t told_us;                           // spent in callbacks of the step
    uint8_t weights_hash[DIGEST_SHA256_BYTES]; // of what was loaded; with prefix_file
};

struct engine_options engine_defaults(void) {
    return (struct engine_options){
        .place = {.backend = K_BACKEND_CPU, .n_threads = 1},
        .n_cache_tokens = 8192,
        .n_seq_tokens_max = 4096,
        .page_tokens = 64,
        .n_slots = 32,
        .n_requests_max = 1024,
        .n_step_tokens_max = 512,
        .n_chunk_max = 512,
        .latency_us = 200000,
        .drafts = ENGINE_DRAFTS_NONE,
        .n_drafts_max = 4,
        .prefix_cache = true,
    };
}

int64_t engine_now_us(void) {
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void seq_free(struct seq *s) {
    if (!s)
        return;
    sample_history_free(s->history);
    grammar_match_free(s->match);
    free(s->ids);
    free(s);
}
DEFINE_CLEANUP(struct seq *, seq_free)

void engine_free(struct engine *e) {
    if (!e)
        return;
    for (size_t i = 0; i < e->n_buckets; i++)
        for (struct seq *s = e->buckets[i], *next; s; s = next) {
            next = s->next;
            seq_free(s);
        }
    batcher_free(e->batcher);
    prefix_free(e->prefix);
    pages_free(e->pages);
    sample_space_free(e->space);
    model_free(e->model);
    safetensors_free(e->files);
    free(e->buckets);
    free(e->mask);
    free(e->swap);
    free(e->tables);
    free(e->next_ids);
    free(e->mtp_rows);
    free(e->results);
    free(e->tokens);
    free(e);
}

static struct seq **place_of(struct engine *e, int64_t id) {
    struct seq **at =
        &e->buckets[(uint64_t)id * UINT64_C(0x9e3779b97f4a7c15) >> 32 & (e->n_buckets - 1)];

    while (*at && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

static struct seq *find(struct engine *e, int64_t id) {
    struct seq *s = *place_of(e, id);

    assert(s);
    return s;
}

static int load(struct engine *e, const char *dir, struct hai_err *err) {
    const struct engine_options *o = &e->options;
    int64_t n_table = pages_needed(o->n_seq_tokens_max, o->page_tokens);
    const struct model_options options = {
        .backend = o->place.backend,
        .path = o->path,
        .n_threads = o->place.n_threads,
        .n_tokens_max = o->n_step_tokens_max,
        .n_seqs_max = o->n_slots,
        .n_logits_max =
            MIN((int64_t)o->n_slots * (o->n_drafts_max + 1), (int64_t)o->n_step_tokens_max),
        .dtype = o->place.dtype == GENERATE_BF16 ? K_BF16 : K_F32,
        .n_cache_pages = pages_count(e->pages),
        .page_tokens = o->page_tokens,
        .n_seq_pages = n_table,
        .cache_dtype = o->place.cache_dtype,
        .fast_prefill = o->place.fast_prefill,
    };

    if (o->place.dtype != GENERATE_BF16)
        return load_mapped(&e->config, &options, dir, &e->files, &e->model, err);
    int r = model_new(&e->config, &options, &e->model, err);
    return r < 0 ? r : load_model(e->model, dir, err);
}

/* Ids of all requests that there can be, each as long as can be, in whole pages. */
static int64_t ids_of_all(const struct engine_options *o) {
    return (int64_t)o->n_requests_max * o->page_tokens *
           pages_needed(o->n_seq_tokens_max, o->page_tokens);
}

static int check_options(struct engine *e, const char *dir, struct hai_err *err) {
    struct engine_options *o = &e->options;

    if (o->n_seq_tokens_max > e->config.n_position)
        o->n_seq_tokens_max = e->config.n_position;
    if (o->drafts == ENGINE_DRAFTS_MTP && !e->config.n_mtp)
        return hai_fail(err, -ENOTSUP, "%s: the model has no multi-token module", dir);
    if (o->drafts == ENGINE_DRAFTS_NONE)
        o->n_drafts_max = 0;
    if (o->drafts == ENGINE_DRAFTS_MTP)
        o->n_drafts_max = 1;
    if (o->page_tokens < 1 || o->n_cache_tokens < 1 || o->n_slots < 1)
        return hai_fail(err, -EINVAL, "a cache of %lld tokens in pages of %d for %d requests",
                        (long long)o->n_cache_tokens, o->page_tokens, o->n_slots);
    if (o->n_requests_max < 1 || o->n_requests_max > BATCHER_REQUESTS_MAX)
        return hai_fail(err, -EINVAL, "n_requests_max is %d: from 1 to %d", o->n_requests_max,
                        BATCHER_REQUESTS_MAX);
    if (o->n_seq_tokens_max < 2 || o->n_seq_tokens_max > BATCHER_TOKENS_MAX)
        return hai_fail(err, -EINVAL, "n_seq_tokens_max is %lld: from 2 to %d",
                        (long long)o->n_seq_tokens_max, BATCHER_TOKENS_MAX);
    if (ids_of_all(o) > PAGES_ROWS_MAX)
        return hai_fail(err, -EINVAL,
                        "n_requests_max is %d and n_seq_tokens_max %lld: together %lld tokens in "
                        "whole pages, at most %d",
                        o->n_requests_max, (long long)o->n_seq_tokens_max, (long long)ids_of_all(o),
                        PAGES_ROWS_MAX);
    return 0;
}

/* Copying a page of all layers, at about 4 GB/s: what decides between swapping and computing again,
 * which the batcher learns. */
static double page_us(const struct engine *e) {
    const struct model_config *c = &e->config;
    int64_t columns = c->n_kv_heads * (config_d_key(c) + config_d_value(c));

    if (c->latent_attention)
        columns = c->kv_lora + c->d_rope;
    int64_t n = columns * (c->n_layers + c->n_mtp) * e->options.page_tokens;
    return 1 + (double)k_dtype_n_bytes(e->options.place.cache_dtype, n) / 4000;
}

static int make_batcher(struct engine *e, struct hai_err *err) {
    const struct engine_options *o = &e->options;
    double us_row = config_flops_per_token(&e->config) / 1e5; // at 100 GFLOP/s; it will learn
    const struct batcher_config config = {
        .n_slots = o->n_slots,
        .n_requests_max = o->n_requests_max,
        .n_step_tokens_max = o->n_step_tokens_max,
        .n_chunk_max = o->n_chunk_max,
        .n_drafts_max = o->n_drafts_max,
        .n_seq_tokens_max = (int32_t)o->n_seq_tokens_max,
        .n_ids_max = ids_of_all(o),
        .n_swap_pages = o->n_swap_pages,
        .latency_us = o->latency_us,
        .age_us = 10 * 1000000,
        .us_step = 100,
        .us_row = MAX(us_row, 0.1),
        .us_key = 0.01,
        .us_swap_page = page_us(e),
    };

    if (o->prefix_cache)
        e->prefix = prefix_new(e->pages, UINT64_C(0x5bd1e995a7c3f21d));
    return batcher_new(&config, e->pages, e->prefix, &e->batcher, err);
}

static void take_memory(struct engine *e) {
    const struct engine_options *o = &e->options;
    size_t n_table = (size_t)pages_needed(o->n_seq_tokens_max, o->page_tokens), n_bytes;
    void *piece;

    for (int i = 0; model_page(e->model, 0, i, &piece, &n_bytes); i++)
        e->page_bytes += n_bytes;
    e->n_buckets = 16;
    while (e->n_buckets < (size_t)o->n_requests_max)
        e->n_buckets *= 2;
    e->buckets = hai_new_array(struct seq *, e->n_buckets);
    e->mask = hai_new_array(uint64_t, (size_t)(e->config.n_vocab + 63) / 64);
    e->swap = hai_alloc((size_t)o->n_swap_pages * e->page_bytes + 1);
    e->tables = hai_new_array(int32_t, (size_t)o->n_slots * n_table);
    e->next_ids = hai_new_array(int32_t, (size_t)o->n_step_tokens_max);
    e->mtp_rows = hai_new_array(int32_t, (size_t)o->n_slots);
    e->results = hai_new_array(struct batcher_result, (size_t)o->n_slots);
    e->tokens = hai_new_array(struct sample_result, (size_t)o->n_drafts_max + 1);
    e->space = sample_space_new(e->config.n_vocab);
}

int engine_open(const char *dir, const struct engine_options *options, struct engine **ret,
                struct hai_err *err) {
    _cleanup_(engine_freep) struct engine *e = hai_new(struct engine);

    e->options = *options;
    int r = config_read(dir, &e->config, err);
    if (r == 0)
        r = check_options(e, dir, err);
    if (r == 0)
        r = pages_new(pages_needed(e->options.n_cache_tokens, e->options.page_tokens),
                      e->options.page_tokens, &e->pages, err);
    if (r == 0)
        r = make_batcher(e, err);
    if (r == 0)
        r = load(e, dir, err);
    // Now, while the files are those that were loaded: later others may lie there.
    if (r == 0 && e->options.prefix_file)
        r = weighthash(dir, e->weights_hash, err);
    if (r < 0)
        return r;
    take_memory(e);
    *ret = TAKE_PTR(e);
    return 0;
}

struct model *engine_model(struct engine *e) {
    return e->model;
}

struct batcher *engine_batcher(struct engine *e) {
    return e->batcher;
}

static int check_request(const struct engine *e, const struct engine_request *request,
                         struct hai_err *err) {
    for (int32_t i = 0; i < request->n_ids; i++)
        if (request->ids[i] < 0 || request->ids[i] >= e->config.n_vocab)
            return hai_fail(err, -EINVAL, "token id %d; the vocabulary has %lld", request->ids[i],
                            (long long)e->config.n_vocab);
    return sample_check(&request->sample, e->config.n_vocab, err);
}

int engine_submit(struct engine *e, const struct engine_request *request, int64_t *ret_id,
                  struct hai_err *err) {
    _cleanup_(seq_freep) struct seq *s = hai_new(struct seq);
    const struct batcher_request wanted = {.user = request->user,
                                           .weight = request->weight,
                                           .priority = request->priority,
                                           .cache_key = request->cache_key,
                                           .no_cache = request->no_cache,
                                           .ids = request->ids,
                                           .n_ids = request->n_ids,
                                           .n_new_max = request->n_new_max,
                                           .deadline_us = request->deadline_us};

    int r = check_request(e, request, err);
    if (r == 0)
        r = batcher_submit(e->batcher, &wanted, engine_now_us(), &s->id, err);
    if (r < 0)
        return r;
    size_t n = (size_t)request->n_ids + (size_t)request->n_new_max;
    s->request = *request;
    s->request.ids = NULL;
    s->ids = hai_new_array(int32_t, n);
    memcpy(s->ids, request->ids, (size_t)request->n_ids * sizeof *s->ids);
    s->n_ids = request->n_ids;
    s->guess = -1;
    s->history = sample_history_new((int64_t)n);
    sample_history_add_prompt(s->history, request->ids, request->n_ids);
    if (request->grammar)
        s->match = grammar_match_new(request->grammar);
    *ret_id = s->id;
    *place_of(e, s->id) = s;
    TAKE_PTR(s);
    return 0;
}

int engine_cancel(struct engine *e, int64_t id) {
    struct seq *s = *place_of(e, id);

    // In a callback: one that has its last token ends by that.
    if (!s || s->ended)
        return -ENOENT;
    int r = batcher_cancel(e->batcher, id, engine_now_us());
    s->ended = r == 0;
    return r;
}

/* Guesses for everybody who decodes. Who does not is told so by the batcher, and passed over. */
static void propose(struct engine *e) {
    int32_t guesses[BATCHER_DRAFTS_MAX];

    for (size_t i = 0; i < e->n_buckets && e->options.n_drafts_max; i++)
        for (struct seq *s = e->buckets[i]; s; s = s->next) {
            int n = 0;
            if (s->n_ids == sample_history_count(s->history))
                continue;
            if (e->options.drafts == ENGINE_DRAFTS_TEXT)
                n = drafts_lookup(s->ids, s->n_ids, e->options.n_drafts_max, guesses);
            else if (s->guess >= 0)
                guesses[n++] = s->guess;
            if (n)
                (void)batcher_drafts(e->batcher, s->id, guesses, n);
        }
}

/* A page's bytes between the caches of all layers and one piece of memory. */
static void copy_page(struct engine *e, int32_t page, char *memory, bool out) {
    size_t n_bytes;
    void *piece;

    for (int i = 0; model_page(e->model, page, i, &piece, &n_bytes); i++, memory += n_bytes)
        memcpy(out ? memory : piece, out ? piece : memory, n_bytes);
}

static void move_pages(struct engine *e, const struct batcher_plan *plan) {
    for (int32_t k = 0; k < plan->n_moves; k++) {
        const struct batcher_move *m = &plan->moves[k];
        size_t n_bytes, unused;
        void *from, *to;
        if (m->kind == BATCHER_OUT)
            copy_page(e, m->from, e->swap + (size_t)m->to * e->page_bytes, true);
        else if (m->kind == BATCHER_IN)
            copy_page(e, m->to, e->swap + (size_t)m->from * e->page_bytes, false);
        else
            for (int i = 0; model_page(e->model, m->from, i, &from, &n_bytes); i++) {
                (void)model_page(e->model, m->to, i, &to, &unused);
                memcpy(to, from, n_bytes);
            }
    }
}

/* Whose cache it is. Rounded weights are other weights, and --fast-prefill is another kernel path:
 * what it cached has other bits. */
static int cache_owner(struct engine *e, struct prefix_file_owner *ret, struct hai_err *err) {
    struct {
        uint8_t weights[DIGEST_SHA256_BYTES];
        uint32_t dtype;
    } what = {.dtype = e->options.place.dtype};

    _Static_assert(sizeof ret->weights_hash == DIGEST_SHA256_BYTES, "a SHA-256");
    if (!e->prefix || !e->options.prefix_file)
        return hai_fail(err, -ENOTSUP, "the engine has no prefix cache that may lie in a file");
    memcpy(what.weights, e->weights_hash, sizeof what.weights);
    *ret = (struct prefix_file_owner){.cache_dtype = e->options.place.cache_dtype,
                                      .page_bytes = (int64_t)e->page_bytes};
    digest_sha256(&what, sizeof what, ret->weights_hash);
    bool fast = e->options.place.fast_prefill && model_has_fast_prefill(&e->config);
    (void)snprintf(ret->kernel_path, sizeof ret->kernel_path, "%s%s", model_ctx(e->model)->path,
                   fast ? " fast-prefill" : "");
    return 0;
}

static int get_page(void *userdata, int32_t page, void *ret, struct hai_err *err) {
    copy_page(userdata, page, ret, true);
    return 0;
}

static int put_page(void *userdata, int32_t page, const void *bytes, struct hai_err *err) {
    struct engine *e = userdata;
    const char *from = bytes;
    size_t n_bytes;
    void *piece;

    for (int i = 0; model_page(e->model, page, i, &piece, &n_bytes); i++, from += n_bytes)
        memcpy(piece, from, n_bytes);
    return 0;
}

int engine_cache_save(struct engine *e, const char *path, int32_t n_pages_max,
                      struct hai_err *err) {
    const struct prefix_file_bytes bytes = {get_page, put_page, e};
    struct prefix_file_owner owner;
    int r = cache_owner(e, &owner, err);

    return r < 0 ? r : prefix_file_save(e->prefix, path, &owner, n_pages_max, &bytes, err);
}

int engine_cache_load(struct engine *e, const char *path, struct hai_err *err) {
    const struct prefix_file_bytes bytes = {get_page, put_page, e};
    struct prefix_file_owner owner;
    int r = cache_owner(e, &owner, err);

    return r < 0 ? r : prefix_file_load(e->prefix, path, &owner, &bytes, err);
}

static bool is_end(const struct engine *e, int32_t id) {
    for (int i = 0; i < e->config.n_eos_tokens; i++)
        if (e->config.eos_tokens[i] == id)
            return true;
    return false;
}

/* sample_verify asks for the mask of the token to come, and tells what was taken. */
static int hook_mask(void *userdata, const uint64_t **ret, struct hai_err *err) {
    struct engine *e = userdata;

    if (!e->current->match)
        return 0;
    grammar_match_mask(e->current->match, e->mask);
    *ret = e->mask;
    return 0;
}

static int hook_take(void *userdata, int32_t id, struct hai_err *err) {
    struct engine *e = userdata;
    struct seq *s = e->current;
    bool ends = is_end(e, id) && !s->request.ignore_eos;

    if (s->match && grammar_match_token(s->match, id) < 0)
        return hai_fail(err, -EBADMSG, "token %d is not of the grammar", id);
    s->ids[s->n_ids++] = id;
    return ends || (s->match && grammar_match_closed(s->match));
}

/* Give n tokens to their request, until it has enough or is cancelled. Returns how many. */
static int give(struct engine *e, struct seq *s, int n) {
    int64_t start_us = engine_now_us();
    int k = 0;

    while (k < n && !s->ended) {
        s->n_ids++;
        if (s->request.take(s->request.userdata, s->id, &e->tokens[k++]))
            s->ended = true;
    }
    e->told_us += engine_now_us() - start_us;
    return k;
}

/* The tokens of one sequence, from the rows of its logits on. What counts is what was given:
 * guesses may have been right beyond the token that was enough. */
static void choose(struct engine *e, const struct batcher_seq *planned, const int32_t *drafts,
                   const float *rows, struct batcher_result *ret) {
    struct seq *s = e->current = find(e, planned->id);
    const struct sample_hooks hooks = {hook_mask, hook_take, e};
    int64_t n_before = s->n_ids;

    *ret = (struct batcher_result){.stop = true};
    if (s->ended) // another's callback has cancelled it
        return;
    int n = sample_verify(e->space, rows, drafts, planned->n_drafts, &s->request.sample, s->history,
                          &hooks, s->n_ids, e->tokens, &s->err);
    s->n_ids = n_before;
    if (n < 0) {
        s->failed = n;
        *ret = (struct batcher_result){.failed = true};
        return;
    }
    bool ended = s->match && grammar_match_closed(s->match);
    ended |= is_end(e, e->tokens[n - 1].id) && !s->request.ignore_eos;
    int k = give(e, s, n);
    s->ended |= ended && k == n;
    *ret = (struct batcher_result){
        .token = e->tokens[k - 1].id, .n_accepted = k - 1, .stop = s->ended};
}

/* The multi-token module on the same rows: a guess for everybody who goes on. */
static int guess(struct engine *e, const struct batcher_plan *plan, struct model_batch *batch,
                 struct hai_err *err) {
    struct k_tensor logits;
    int n = 0;

    memcpy(e->next_ids, plan->next_ids, (size_t)plan->n_tokens * sizeof *e->next_ids);
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const struct batcher_seq *planned = &plan->seqs[i];
        if (!planned->n_logits || e->results[i].stop || e->results[i].failed)
            continue;
        int32_t row = plan->seq_start[i + 1] - planned->n_logits + e->results[i].n_accepted;
        e->next_ids[row] = e->results[i].token;
        e->mtp_rows[n++] = row;
    }
    batch->next_ids = e->next_ids;
    batch->logit_rows = e->mtp_rows;
    batch->n_logit_rows = n;
    int r = model_forward_mtp(e->model, batch, &logits, err);
    for (int32_t i = 0, k = 0; i < plan->n_seqs && r == 0; i++) {
        const struct batcher_seq *planned = &plan->seqs[i];
        if (!planned->n_logits || e->results[i].stop || e->results[i].failed)
            continue;
        struct seq *s = find(e, planned->id);
        struct sample_result token;
        struct hai_err ignored = {0};
        const float *row = (const float *)logits.data + k++ * logits.stride[0];
        s->guess = sample_token(e->space, row, &s->request.sample, s->history, NULL, s->n_ids,
                                &token, &ignored) < 0
                       ? -1
                       : token.id;
    }
    return r;
}

/* The pass, and the choice of tokens. What it returns in ret_batch serves the multi-token module.
 */
static int run(struct engine *e, const struct batcher_plan *plan, struct model_batch *ret_batch,
               struct hai_err *err) {
    struct model_batch batch = {.n_tokens = plan->n_tokens,
                                .n_seqs = plan->n_seqs,
                                .ids = plan->ids,
                                .seq_start = plan->seq_start,
                                .pages = e->tables,
                                .n_pages = plan->n_pages,
                                .kv_length = plan->kv_length,
                                .logit_rows = plan->logit_row,
                                .n_logit_rows = plan->n_logits};
    struct k_tensor logits;
    int64_t row = 0;

    move_pages(e, plan);
    batcher_tables(e->batcher, e->tables);
    int r = model_forward(e->model, &batch, &logits, NULL, err);
    if (r < 0)
        return r;
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const struct batcher_seq *planned = &plan->seqs[i];
        if (!planned->n_logits)
            continue;
        choose(e, planned, plan->ids + plan->seq_start[i + 1] - planned->n_drafts,
               (const float *)logits.data + row * logits.stride[0], &e->results[i]);
        row += planned->n_logits;
    }
    *ret_batch = batch;
    return 0;
}

/* Say who has ended, and forget them. why: of a pass that failed. Returns how many. */
static int tell_ends(struct engine *e, const struct hai_err *why) {
    struct batcher_ending ending;
    int n = 0;

    for (; batcher_next_end(e->batcher, &ending); n++) {
        struct seq **at = place_of(e, ending.id);
        _cleanup_(seq_freep) struct seq *s = *at;
        bool by_pass = ending.end == BATCHER_END_FAILED && !s->failed;
        *at = s->next;
        // One that was cancelled in a callback has tokens that the batcher did not come to count.
        ending.n_new = (int32_t)(s->n_ids - s->request.n_ids);
        s->request.end(s->request.userdata, &ending, by_pass ? why : &s->err);
    }
    return n;
}

/* Run a plan and tell the batcher what came of it. */
static int run_plan(struct engine *e, const struct batcher_plan *plan, int64_t start_us,
                    struct hai_err *err) {
    struct model_batch batch;

    e->told_us = 0;
    int r = run(e, plan, &batch, err);
    if (r < 0) {
        batcher_done_failed(e->batcher, engine_now_us());
        return r;
    }
    if (e->options.drafts == ENGINE_DRAFTS_MTP)
        r = guess(e, plan, &batch, err);
    int64_t now_us = engine_now_us();
    // The latency budget learns what passes take, not what those do who get the tokens.
    batcher_done(e->batcher, e->results, now_us, now_us - start_us - e->told_us);
    // Its tokens are given, and count; but those who were part of a failed pass end.
    for (int32_t i = 0; i < plan->n_seqs && r < 0; i++)
        (void)batcher_fail(e->batcher, plan->seqs[i].id, now_us);
    return r;
}

int engine_step(struct engine *e, struct hai_err *err) {
    struct batcher_plan plan;
    struct hai_err why = {0};
    int64_t start_us;
    int n;

    propose(e);
    // Whoever is told of an end may submit what runs now.
    do {
        start_us = engine_now_us();
        n = batcher_plan(e->batcher, start_us, &plan);
    } while (n == 0 && tell_ends(e, &why) > 0);
    if (n == 0)
        return 0;
    int r = run_plan(e, &plan, start_us, &why);
    (void)tell_ends(e, &why);
    if (r < 0 && err)
        *err = why;
    return r < 0 ? r : n;
}
