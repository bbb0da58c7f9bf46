#include "jobs/benchrun.h"
#include "engine/model/load.h"
#include "jobs/benchfirst.h"
#include "lib/fileio.h"
#include "lib/programs.h"

#include <stdio.h>

enum { CHUNK_TOKENS = 512, PAGE_TOKENS = 64 };

struct bench {
    const struct benchrun_options *o;
    struct progress *progress;
    struct safetensors *files;
    struct model *model;
    struct sample_space *space;
    int32_t *pages, *ids;
    int64_t n_pages, n_tokens; // of the cache
};

static void bench_free(struct bench *b) {
    model_free(b->model);
    safetensors_free(b->files);
    sample_space_free(b->space);
    free(b->pages);
    free(b->ids);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static struct benchrun_spread spread(double *values, int n) {
    if (!n)
        return (struct benchrun_spread){0};
    qsort(values, (size_t)n, sizeof *values, compare);
    double median = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    return (struct benchrun_spread){n, median, values[0], values[n - 1]};
}

static int32_t some_id(const struct benchrun_options *o, int64_t n_vocab, int64_t i) {
    return (int32_t)((uint64_t)(i + 1) * UINT64_C(0x9e3779b97f4a7c15) % (uint64_t)n_vocab);
}

/* Numbers between 0.25 and 1 of both signs, in the cache's type, in every page. */
static void fill_cache(struct bench *b) {
    uint64_t state = 1;
    void *piece;
    size_t n_bytes;

    for (int32_t page = 0; page < b->n_pages; page++)
        for (int i = 0; model_page(b->model, page, i, &piece, &n_bytes); i++)
            for (size_t k = 0; k + 4 <= n_bytes; k += 4) {
                state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
                uint32_t draw = (uint32_t)(state >> 32), bits;
                if (b->o->engine.place.cache_dtype == K_F32)
                    bits = 0x3f000000 ^ (draw & 0x80ffffff);
                else if (b->o->engine.place.cache_dtype == K_BF16)
                    bits = 0x3f003f00 ^ (draw & 0x80ff80ff);
                else
                    bits = 0x38003800 ^ (draw & 0x87ff87ff);
                memcpy((char *)piece + k, &bits, 4);
            }
}

static int load(struct bench *b, struct benchrun_result *ret, struct hai_err *err) {
    const struct benchrun_options *o = b->o;
    int64_t n_new = MAX(o->n_prefill, o->n_decode);

    for (int i = 0; i < o->n_contexts; i++)
        b->n_tokens = MAX(b->n_tokens, o->contexts[i] + n_new);
    int r = config_read(o->model, &ret->config, err);
    if (r < 0)
        return r;
    if (b->n_tokens > ret->config.n_position)
        return hai_fail(err, -EINVAL,
                        "%s: %lld tokens with the context; expected at most "
                        "max_position_embeddings, %lld",
                        o->model, (long long)b->n_tokens, (long long)ret->config.n_position);
    b->n_pages = (b->n_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
    const struct model_options options = {.backend = o->engine.place.backend,
                                          .n_threads = o->engine.place.n_threads,
                                          .n_tokens_max = MIN(o->n_prefill, (int64_t)CHUNK_TOKENS),
                                          .n_seqs_max = 1,
                                          .n_logits_max = 1,
                                          .dtype = o->engine.place.dtype == GENERATE_BF16 ? K_BF16
                                                                                          : K_F32,
                                          .n_cache_pages = b->n_pages,
                                          .n_seq_pages = b->n_pages,
                                          .page_tokens = PAGE_TOKENS,
                                          .cache_dtype = o->engine.place.cache_dtype,
                                          .fast_prefill = o->engine.place.fast_prefill};
    if (o->engine.place.dtype == GENERATE_BF16) {
        r = model_new(&ret->config, &options, &b->model, err);
        if (r == 0)
            r = load_model(b->model, o->model, err);
    } else {
        r = load_mapped(&ret->config, &options, o->model, &b->files, &b->model, err);
    }
    if (r < 0)
        return r;
    b->space = sample_space_new(ret->config.n_vocab);
    b->pages = hai_new_array(int32_t, (size_t)b->n_pages);
    for (int32_t i = 0; i < b->n_pages; i++)
        b->pages[i] = i;
    b->ids = hai_new_array(int32_t, (size_t)n_new);
    for (int64_t i = 0; i < n_new; i++)
        b->ids[i] = some_id(o, ret->config.n_vocab, i);
    fill_cache(b);
    ret->token_bytes = model_token_bytes(b->model);
    ret->n_params = (double)model_params(b->model)->n_counted;
    (void)snprintf(ret->kernel_path, sizeof ret->kernel_path, "%s", model_ctx(b->model)->path);
    return 0;
}

/* n tokens behind `at`, and with the last piece the likeliest next one. */
static int forward(struct bench *b, const int32_t *ids, int64_t n, int64_t at, bool last,
                   int32_t *ret_id, struct hai_err *err) {
    const struct sample_options greedy = sample_defaults();
    const int32_t seq_start[2] = {0, (int32_t)n}, length = (int32_t)(at + n);
    const int32_t row = (int32_t)n - 1;
    const struct model_batch batch = {.n_tokens = n,
                                      .n_seqs = 1,
                                      .ids = ids,
                                      .seq_start = seq_start,
                                      .pages = b->pages,
                                      .n_pages = b->n_pages,
                                      .kv_length = &length,
                                      .logit_rows = &row,
                                      .n_logit_rows = last};
    struct sample_result token;
    struct k_tensor logits;

    int r = model_forward(b->model, &batch, &logits, NULL, err);
    if (r < 0 || !last)
        return r;
    r = sample_token(b->space, logits.data, &greedy, NULL, NULL, at + n, &token, err);
    *ret_id = token.id;
    return r;
}

static int prefill(struct bench *b, int64_t context, double *ret_per_s, struct hai_err *err) {
    int64_t start_us = engine_now_us(), n = b->o->n_prefill;
    int32_t id;
    int r = 0;

    for (int64_t done = 0, n_rows; r == 0 && done < n; done += n_rows) {
        n_rows = MIN(n - done, (int64_t)CHUNK_TOKENS);
        r = forward(b, b->ids + done, n_rows, context + done, done + n_rows == n, &id, err);
    }
    *ret_per_s = (double)n * 1e6 / (double)MAX(engine_now_us() - start_us, (int64_t)1);
    return r;
}

static int decode(struct bench *b, int64_t context, double *ret_per_s, struct hai_err *err) {
    int64_t start_us = engine_now_us(), n = b->o->n_decode;
    int32_t id = b->ids[0];
    int r = 0;

    for (int64_t i = 0; r == 0 && i < n; i++)
        r = forward(b, &id, 1, context + i, true, &id, err);
    *ret_per_s = (double)n * 1e6 / (double)MAX(engine_now_us() - start_us, (int64_t)1);
    return r;
}

static int measure(struct bench *b, struct benchrun_result *ret, struct hai_err *err) {
    const struct benchrun_options *o = b->o;
    double prefills[BENCHRUN_REPEATS_MAX], decodes[BENCHRUN_REPEATS_MAX];

    for (int i = 0; i < o->n_contexts; i++) {
        for (int k = -1; k < o->n_repeats; k++) { // -1 is to warm up
            progress_say(b->progress, "context %lld: %d of %d", (long long)o->contexts[i],
                         MAX(k, 0), o->n_repeats);
            int r = prefill(b, o->contexts[i], &prefills[MAX(k, 0)], err);
            if (r == 0)
                r = decode(b, o->contexts[i], &decodes[MAX(k, 0)], err);
            if (r < 0)
                return r;
        }
        ret->prefill[i] = spread(prefills, o->n_repeats);
        ret->decode[i] = spread(decodes, o->n_repeats);
    }
    return 0;
}

/* One of many requests. */
struct client {
    int64_t start_us, last_us;
    int64_t n;
    double first_s;
    double *gaps; // [n_decode - 1]
    bool failed;
};

static int take(void *userdata, int64_t id, const struct sample_result *token) {
    struct client *c = userdata;
    int64_t now_us = engine_now_us();

    if (c->n)
        c->gaps[c->n - 1] = (double)(now_us - c->last_us) / 1e6;
    else
        c->first_s = (double)(now_us - c->start_us) / 1e6;
    c->n++;
    c->last_us = now_us;
    return 0;
}

static void end(void *userdata, const struct batcher_ending *ending, const struct hai_err *err) {
    struct client *c = userdata;

    c->failed = ending->end != BATCHER_END_LENGTH;
}

/* All requests once. */
static int serve(struct engine *e, const struct bench *b, struct client *clients, int64_t n_vocab,
                 double *ret_per_s, struct hai_err *err) {
    const struct benchrun_options *o = b->o;
    _cleanup_free_ int32_t *ids = hai_new_array(int32_t, (size_t)o->n_prefill);
    int64_t start_us = engine_now_us(), id;
    int r;

    for (int i = 0; i < o->n_requests; i++) {
        for (int64_t k = 0; k < o->n_prefill; k++)
            ids[k] = some_id(o, n_vocab, i * o->n_prefill + k);
        clients[i].n = 0;
        clients[i].start_us = start_us;
        const struct engine_request request = {.weight = 1,
                                               .ids = ids,
                                               .n_ids = (int32_t)o->n_prefill,
                                               .n_new_max = (int32_t)o->n_decode,
                                               .sample = sample_defaults(),
                                               .ignore_eos = true,
                                               .take = take,
                                               .end = end,
                                               .userdata = &clients[i]};
        r = engine_submit(e, &request, &id, err);
        if (r < 0)
            return r;
    }
    while ((r = engine_step(e, err)) > 0)
        ;
    *ret_per_s = (double)o->n_requests * (double)o->n_decode * 1e6 /
                 (double)MAX(engine_now_us() - start_us, (int64_t)1);
    for (int i = 0; i < o->n_requests && r == 0; i++)
        if (clients[i].failed)
            r = hai_fail(err, -EIO, "request %d did not end as it should", i);
    return r;
}

static int requests(struct bench *b, struct benchrun_result *ret, struct hai_err *err) {
    const struct benchrun_options *o = b->o;
    _cleanup_(engine_freep) struct engine *e = NULL;
    struct engine_options options = o->engine;
    size_t n = (size_t)o->n_requests, n_gaps = (size_t)o->n_decode - 1;
    _cleanup_free_ struct client *clients = hai_new_array(struct client, n);
    _cleanup_free_ double *gaps = hai_new_array(double, n *n_gaps + 1);
    _cleanup_free_ double *firsts = hai_new_array(double, n);
    double rates[BENCHRUN_REPEATS_MAX];

    options.prefix_cache = false;
    options.n_requests_max = o->n_requests;
    options.n_seq_tokens_max = o->n_prefill + o->n_decode;
    int r = engine_open(o->model, &options, &e, err);
    for (size_t i = 0; i < n; i++)
        clients[i].gaps = gaps + i * n_gaps;
    for (int k = -1; r == 0 && k < o->n_repeats; k++) {
        progress_say(b->progress, "%d requests: %d of %d", o->n_requests, MAX(k, 0), o->n_repeats);
        r = serve(e, b, clients, ret->config.n_vocab, &rates[MAX(k, 0)], err);
    }
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++)
        firsts[i] = clients[i].first_s;
    ret->requests = spread(rates, o->n_repeats);
    ret->first_s = spread(firsts, (int)n); // of the last repetition
    ret->gap_s = spread(gaps, (int)(n * n_gaps));
    return 0;
}

static int first(struct bench *b, struct benchrun_result *ret, struct hai_err *err) {
    const struct benchrun_options *o = b->o;
    _cleanup_free_ char *program = programs_find("hai-generate");
    _cleanup_free_ char *threads = hai_asprintf("%d", o->engine.place.n_threads);
    _cleanup_(buf_free) struct buf ids = {0};
    double cold_s[BENCHRUN_REPEATS_MAX], warm_s[BENCHRUN_REPEATS_MAX], left = 0;
    int n_cold = 0, r = 0;

    if (!program)
        return hai_fail(err, -ENOENT, "hai-generate is not there; --no-first does without");
    for (int i = 0; i < BENCHRUN_FIRST_TOKENS; i++)
        buf_printf(&ids, "%d ", some_id(o, ret->config.n_vocab, i));
    char *const argv[] = {program,
                          "--model",
                          (char *)o->model,
                          "--token-ids",
                          (char *)buf_cstr(&ids),
                          "--max-tokens",
                          "1",
                          "--logprobs",
                          "0",
                          "--threads",
                          threads,
                          "--dtype",
                          o->engine.place.dtype == GENERATE_BF16 ? "bf16" : "f32",
                          NULL};
    for (int k = 0; r == 0 && k < o->n_repeats; k++) {
        progress_say(b->progress, "first token: %d of %d", k, o->n_repeats);
        r = benchfirst_forget(o->model, &left, err);
        if (r == 0)
            r = benchfirst_run(argv, &cold_s[n_cold], err);
        n_cold += left < 0.01;
        if (r == 0)
            r = benchfirst_run(argv, &warm_s[k], err);
    }
    if (r < 0)
        return r;
    ret->cold_s = spread(cold_s, n_cold);
    ret->warm_s = spread(warm_s, o->n_repeats);
    ret->no_cold = n_cold ? NULL : "the kernel keeps the files in memory";
    return 0;
}

/* "VmHWM:    1234 kB" */
static int64_t status_bytes(const struct buf *status, const char *name) {
    const char *at = strstr((const char *)status->data, name);

    return at ? strtoll(at + strlen(name), NULL, 10) * 1024 : 0;
}

static void read_memory(struct benchrun_result *ret) {
    _cleanup_(buf_free) struct buf status = {0};
    struct hai_err ignored = {0};

    if (fileio_read_file("/proc/self/status", 1 << 16, &status, &ignored) < 0)
        return;
    (void)buf_cstr(&status);
    ret->peak_rss_bytes = MAX(ret->peak_rss_bytes, status_bytes(&status, "VmHWM:"));
    ret->peak_private_bytes = MAX(ret->peak_private_bytes, status_bytes(&status, "RssAnon:"));
}

static int count_weights(const char *dir, struct benchrun_result *ret, struct hai_err *err) {
    _cleanup_(safetensors_freep) struct safetensors *files = NULL;
    int r = safetensors_open(dir, &files, err);

    for (size_t i = 0; r == 0 && i < safetensors_count(files); i++)
        ret->weight_bytes += (int64_t)safetensors_at(files, i)->n_bytes;
    return r;
}

int benchrun_all(const struct benchrun_options *o, struct progress *progress,
                 struct benchrun_result *ret, struct hai_err *err) {
    _cleanup_(bench_free) struct bench b = {.o = o, .progress = progress};
    int r;

    *ret = (struct benchrun_result){0};
    r = config_read(o->model, &ret->config, err);
    if (r == 0)
        r = count_weights(o->model, ret, err);
    if (r == 0 && o->first)
        r = first(&b, ret, err);
    if (r == 0)
        r = load(&b, ret, err);
    if (r == 0)
        r = measure(&b, ret, err);
    read_memory(ret);
    if (r < 0 || !o->n_requests)
        return r;
    model_free(b.model);
    b.model = NULL;
    r = requests(&b, ret, err);
    read_memory(ret);
    return r;
}
