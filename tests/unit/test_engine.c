/* What a request gets does not depend on who else is there: alone, in batches, in chunks of every
 * size, from a cold and a warm cache, put back and taken up again, with guesses, on two threads. */
#include "engine/infer/engine.h"
#include "tests/unit/test.h"

#include <unistd.h>

enum {
    REQUESTS = 24,
    PROMPT_MAX = 70,
    NEW_TOKENS = 20,
};

/* One request, and what came out of it. */
struct client {
    int32_t prompt[PROMPT_MAX];
    int32_t n_prompt;
    int32_t ids[NEW_TOKENS];
    double logprobs[NEW_TOKENS];
    int n;
    bool ended;
    enum batcher_end end;
    char why[HAI_ERR_TEXT_BYTES];
};

static int take(void *userdata, int64_t id, const struct sample_result *token) {
    struct client *c = userdata;

    CHECK(c->n < NEW_TOKENS, "too many tokens");
    if (c->n < NEW_TOKENS) {
        c->ids[c->n] = token->id;
        c->logprobs[c->n++] = token->logprob;
    }
    return 0;
}

static void ended(void *userdata, const struct batcher_ending *ending, const struct hai_err *err) {
    struct client *c = userdata;

    CHECK(!c->ended, "ended twice");
    c->ended = true;
    c->end = ending->end;
    (void)snprintf(c->why, sizeof c->why, "%s", err->text);
}

/* Prompts of every length, half of them beginning like another. */
static void make_prompts(struct client *clients) {
    for (int i = 0; i < REQUESTS; i++) {
        struct client *c = &clients[i];
        *c = (struct client){.n_prompt = 1 + i * 41 % PROMPT_MAX};
        for (int k = 0; k < c->n_prompt; k++)
            c->prompt[k] = (int32_t)((k < 33 && i % 2 ? 7 : i * 131) + k * k * 37 + k * 11) % 500;
    }
}

static struct engine_request request_of(struct client *c, int i) {
    struct engine_request request = {.user = (uint64_t)(i % 3),
                                     .weight = 1,
                                     .priority = i % 4,
                                     .ids = c->prompt,
                                     .n_ids = c->n_prompt,
                                     .n_new_max = 1 + i * 7 % NEW_TOKENS,
                                     .sample = sample_defaults(),
                                     .ignore_eos = true,
                                     .take = take,
                                     .end = ended,
                                     .userdata = c};

    request.sample.n_logprobs = 0;
    request.sample.seed = (uint64_t)i;
    if (i % 3 == 1) {
        request.sample.temperature = 0.9;
        request.sample.top_p = 0.95;
    }
    if (i % 3 == 2)
        request.sample.frequency_penalty = 0.5;
    return request;
}

static void run_all(struct engine *e, struct client *clients, int from, int to) {
    struct hai_err err = {0};
    int64_t id;
    int n;

    for (int i = from; i < to; i++) {
        struct engine_request request = request_of(&clients[i], i);
        CHECK_EQ(engine_submit(e, &request, &id, &err), 0, "%s", err.text);
    }
    while ((n = engine_step(e, &err)) > 0)
        ;
    CHECK_EQ(n, 0, "%s", err.text);
}

/* The ways to run them. */
static const struct way {
    const char *name;
    int32_t n_slots, n_chunk, n_step;
    int64_t n_cache_tokens;
    int32_t n_swap_pages;
    enum engine_drafts drafts;
    bool prefix_cache, twice;
    int n_threads;
} ways[] = {
    {"batched",         16, 512, 512, 4096, 0,  ENGINE_DRAFTS_NONE, false, false, 1},
    {"in chunks of 1",  16, 1,   16,  4096, 0,  ENGINE_DRAFTS_NONE, false, false, 1},
    {"in chunks of 7",  8,  7,   64,  4096, 0,  ENGINE_DRAFTS_NONE, true,  false, 1},
    {"in chunks of 64", 8,  64,  64,  4096, 0,  ENGINE_DRAFTS_NONE, true,  false, 2},
    {"twice",           16, 512, 512, 4096, 0,  ENGINE_DRAFTS_NONE, true,  true,  1},
    {"put back",        16, 64,  128, 144,  0,  ENGINE_DRAFTS_NONE, true,  false, 1},
    {"swapped out",     16, 64,  128, 256,  32, ENGINE_DRAFTS_NONE, false, false, 1},
    {"guessed by text", 16, 64,  128, 4096, 0,  ENGINE_DRAFTS_TEXT, true,  true,  1},
    {"guessed, short",  16, 64,  128, 144,  0,  ENGINE_DRAFTS_TEXT, true,  false, 2},
    {"guessed by MTP",  16, 64,  128, 4096, 0,  ENGINE_DRAFTS_MTP,  true,  true,  1},
};

static struct engine *open_engine(const char *dir, const struct way *way) {
    struct engine_options options = engine_defaults();
    struct engine *e = NULL;
    struct hai_err err = {0};

    options.page_tokens = 16;
    options.n_seq_tokens_max = 128;
    options.n_slots = way->n_slots;
    options.n_chunk_max = way->n_chunk;
    options.n_step_tokens_max = way->n_step;
    options.n_cache_tokens = way->n_cache_tokens;
    options.n_swap_pages = way->n_swap_pages;
    options.drafts = way->drafts;
    options.prefix_cache = way->prefix_cache;
    options.place.n_threads = way->n_threads;
    options.latency_us = 1000000;
    CHECK_EQ(engine_open(dir, &options, &e, &err), 0, "%s", err.text);
    return e;
}

static void compare(const struct client *got, const struct client *want, const char *dir,
                    const char *way, int i) {
    CHECK(got->ended && got->end == BATCHER_END_LENGTH, "%s %s: request %d: %s", dir, way, i,
          got->why);
    CHECK_EQ(got->n, want->n, "%s %s: request %d", dir, way, i);
    for (int k = 0; k < want->n; k++)
        CHECK(got->ids[k] == want->ids[k] && got->logprobs[k] == want->logprobs[k],
              "%s %s: request %d token %d: %d (%.17g), expected %d (%.17g)", dir, way, i, k,
              got->ids[k], got->logprobs[k], want->ids[k], want->logprobs[k]);
}

static void check_ways(const char *name, bool mtp) {
    static const struct way alone = {"alone", 1,     512, 512, 128, 0, ENGINE_DRAFTS_NONE,
                                     false,   false, 1};
    _cleanup_free_ char *dir = hai_asprintf("tests/fixtures/models/%s", name);
    _cleanup_free_ struct client *want = hai_new_array(struct client, REQUESTS);
    _cleanup_free_ struct client *got = hai_new_array(struct client, REQUESTS);
    struct batcher_counts counts;
    struct engine *e = open_engine(dir, &alone);

    make_prompts(want);
    for (int i = 0; i < REQUESTS; i++)
        run_all(e, want, i, i + 1);
    engine_free(e);
    for (size_t w = 0; w < ARRAY_SIZE(ways); w++) {
        if (ways[w].drafts == ENGINE_DRAFTS_MTP && !mtp)
            continue;
        e = open_engine(dir, &ways[w]);
        for (int round = 0; round <= ways[w].twice; round++) {
            make_prompts(got);
            run_all(e, got, 0, REQUESTS);
            for (int i = 0; i < REQUESTS; i++)
                compare(&got[i], &want[i], name, ways[w].name, i);
        }
        batcher_count(engine_batcher(e), &counts);
        CHECK(ways[w].n_cache_tokens > 256 || counts.n_preempted > 0, "%s: nobody was put back",
              ways[w].name);
        CHECK(!ways[w].twice || counts.n_hit_tokens > 0, "%s: no hits", ways[w].name);
        CHECK(ways[w].drafts != ENGINE_DRAFTS_MTP || counts.n_drafted > 0, "%s: no guesses",
              ways[w].name);
        engine_free(e);
    }
}

TEST(llama)
{ check_ways("llama_gqa", false); }

TEST(qwen2)
{ check_ways("qwen2", false); }

TEST(moe)
{ check_ways("deepseek_moe", false); }

TEST(latent)
{ check_ways("dsv2_lite", false); }

TEST(v3_with_guesses)
{ check_ways("dsv3", true); }

/* From a cache that was saved and loaded come the bits that a cold and a warm one give; another
 * model, type of cache or page size does not get it. */
static void check_loaded(const char *name) {
    static const struct way way = {"loaded", 8, 64, 64, 4096, 0, ENGINE_DRAFTS_NONE, true, true, 2};
    _cleanup_free_ char *dir = hai_asprintf("tests/fixtures/models/%s", name);
    _cleanup_free_ struct client *want = hai_new_array(struct client, REQUESTS);
    _cleanup_free_ struct client *got = hai_new_array(struct client, REQUESTS);
    char path[] = "/tmp/hai-engine-XXXXXX";
    struct batcher_counts counts;
    struct hai_err err = {0};
    struct engine *e = open_engine(dir, &way);

    close(mkstemp(path));
    make_prompts(want);
    run_all(e, want, 0, REQUESTS);
    int n_saved = engine_cache_save(e, path, INT32_MAX, &err);
    CHECK(n_saved > REQUESTS, "%d pages: %s", n_saved, err.text);
    engine_free(e);

    e = open_engine(dir, &way);
    CHECK_EQ(engine_cache_load(e, path, &err), n_saved, "%s", err.text);
    make_prompts(got);
    run_all(e, got, 0, REQUESTS);
    for (int i = 0; i < REQUESTS; i++)
        compare(&got[i], &want[i], name, "loaded", i);
    batcher_count(engine_batcher(e), &counts);
    CHECK(counts.n_hit_tokens > 16 * REQUESTS, "%lld hits", (long long)counts.n_hit_tokens);
    engine_free(e);

    struct engine_options options = engine_defaults();
    options.n_seq_tokens_max = 128;
    for (int k = 0; k < 3; k++) {
        options.page_tokens = k == 0 ? 32 : 16;
        options.cache_dtype = k == 1 ? K_F16 : K_F32;
        options.place.dtype = k == 2 ? GENERATE_BF16 : GENERATE_F32;
        CHECK_EQ(engine_open(dir, &options, &e, &err), 0, "%s", err.text);
        CHECK_EQ(engine_cache_load(e, path, &err), -EMEDIUMTYPE, "%d: %s", k, err.text);
        engine_free(e);
    }
    e = open_engine("tests/fixtures/models/llama_mha", &way);
    CHECK_EQ(engine_cache_load(e, path, &err), -EMEDIUMTYPE, "another model: %s", err.text);
    engine_free(e);
    unlink(path);
}

TEST(cache_from_file)
{ check_loaded("llama_gqa"); }

TEST(latent_cache_from_file)
{ check_loaded("dsv3"); }

TEST(no_cache_no_file)
{
    static const struct way way = {"one", 1, 64, 64, 128, 0, ENGINE_DRAFTS_NONE, false, false, 1};
    struct engine *e = open_engine("tests/fixtures/models/llama_mha", &way);
    struct hai_err err = {0};

    CHECK_EQ(engine_cache_save(e, "/tmp/hai-none", 1, &err), -ENOTSUP, "");
    CHECK_EQ(engine_cache_load(e, "/tmp/hai-none", &err), -ENOTSUP, "");
    engine_free(e);
}

/* A repeating text is guessed right, and takes fewer steps. */
TEST(guesses_save_steps)
{
    static const struct way plain = {"plain", 1,     64, 64, 128, 0, ENGINE_DRAFTS_NONE,
                                     false,   false, 1};
    static const struct way by_text = {"text", 1,     64, 64, 128, 0, ENGINE_DRAFTS_TEXT,
                                       false,  false, 1};
    const struct way *kinds[2] = {&plain, &by_text};
    struct batcher_counts counts[2];
    struct client *c = hai_new_array(struct client, 2);

    for (int k = 0; k < 2; k++) {
        struct engine *e = open_engine("tests/fixtures/models/llama_mha", kinds[k]);
        struct engine_request request;
        struct hai_err err = {0};
        int64_t id;
        c[k].n_prompt = 60;
        for (int i = 0; i < 60; i++)
            c[k].prompt[i] = i % 4 + 10;
        request = request_of(&c[k], 0);
        request.n_new_max = NEW_TOKENS;
        CHECK_EQ(engine_submit(e, &request, &id, &err), 0, "%s", err.text);
        while (engine_step(e, &err) > 0)
            ;
        batcher_count(engine_batcher(e), &counts[k]);
        engine_free(e);
    }
    CHECK(memcmp(c[0].ids, c[1].ids, sizeof c[0].ids) == 0, "");
    CHECK(counts[1].n_steps <= counts[0].n_steps, "%lld steps, %lld without guesses",
          (long long)counts[1].n_steps, (long long)counts[0].n_steps);
    free(c);
}

TEST(refusals_and_cancelling)
{
    static const struct way way = {"one", 1, 64, 64, 128, 0, ENGINE_DRAFTS_NONE, false, false, 1};
    struct engine *e = open_engine("tests/fixtures/models/llama_mha", &way);
    struct client c[2] = {
        {.prompt = {1, 2, 600}, .n_prompt = 3},
        {.prompt = {4, 5, 6},   .n_prompt = 3}
    };
    struct engine_request request = request_of(&c[0], 5);
    struct hai_err err = {0};
    int64_t id;

    CHECK_EQ(engine_submit(e, &request, &id, &err), -EINVAL, "");
    CHECK_STR(err.text, "token id 600; the vocabulary has 512", "");
    request.n_ids = 2;
    request.sample.top_p = 0;
    CHECK_EQ(engine_submit(e, &request, &id, &err), -EINVAL, "top_p of 0");
    request.sample.top_p = 1;
    request.n_new_max = 1000;
    CHECK_EQ(engine_submit(e, &request, &id, &err), -E2BIG, "longer than ever");
    request = request_of(&c[1], 5);
    CHECK_EQ(engine_submit(e, &request, &id, &err), 0, "%s", err.text);
    CHECK_EQ(engine_step(e, &err), 1, "");
    CHECK_EQ(engine_cancel(e, id), 0, "");
    CHECK_EQ(engine_cancel(e, id), -ENOENT, "");
    CHECK_EQ(engine_step(e, &err), 0, "");
    CHECK(c[1].ended && c[1].end == BATCHER_END_CANCELLED && c[1].n == 1, "");
    engine_free(e);
}

static int text_of(int32_t id, char *ret) {
    ret[0] = (char)(id % 96 + 32);
    return 1;
}

/* Under a schema everything that comes out is of it, also with guesses. */
TEST(grammar)
{
    enum { VOCAB = 512 };
    static const char schema[] = "{\"type\": \"array\", \"items\": {\"type\": \"integer\"}, "
                                 "\"maxItems\": 3}";
    static const struct way way = {"text", 2, 64, 64, 256, 0, ENGINE_DRAFTS_TEXT, false, false, 1};
    struct grammar_token tokens[VOCAB];
    char bytes[VOCAB], text[NEW_TOKENS + 1] = "";
    const int32_t end_id = 1;
    _cleanup_(grammar_freep) struct grammar *g = NULL;
    struct hai_err err = {0};
    struct client c = {
        .prompt = {4, 5, 6},
          .n_prompt = 3
    };
    int64_t id;

    for (int32_t i = 0; i < VOCAB; i++)
        tokens[i] = (struct grammar_token){&bytes[i], (uint32_t)text_of(i, &bytes[i])};
    _cleanup_(grammar_vocab_freep) struct grammar_vocab *vocab =
        grammar_vocab_new(tokens, VOCAB, &end_id, 1);
    CHECK_EQ(grammar_new(vocab, schema, sizeof schema - 1, &(struct grammar_options){0}, &g, &err),
             0, "%s", err.text);
    struct engine *e = open_engine("tests/fixtures/models/llama_mha", &way);
    struct engine_request request = request_of(&c, 0);
    request.grammar = g;
    request.n_new_max = NEW_TOKENS;
    request.ignore_eos = false;
    CHECK_EQ(engine_submit(e, &request, &id, &err), 0, "%s", err.text);
    while (engine_step(e, &err) > 0)
        ;
    for (int i = 0; i < c.n; i++)
        if (c.ids[i] != end_id)
            (void)text_of(c.ids[i], &text[strlen(text)]);
    _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);
    CHECK(c.ended, "");
    CHECK(c.n > 0 && grammar_match_text(m, text, strlen(text)) == 0, "%s", text);
    engine_free(e);
}
