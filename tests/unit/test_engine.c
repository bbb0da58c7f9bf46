/* What a request gets does not depend on who else is there: alone, in batches, in chunks of every
 * size, from a cold and a warm cache, put back and taken up again, with guesses, on two threads.
 * What callbacks may do is tested in test_engine_calls.c. */
#include "tests/unit/engine_client.h"

#include <unistd.h>

enum { REQUESTS = 24 };

/* The ways to run them. */
static const struct client_way ways[] = {
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

/* It went the way that it was meant to go. */
static void check_counts(struct engine *e, const struct client_way *way) {
    struct batcher_counts counts;

    batcher_count(engine_batcher(e), &counts);
    if (way->n_cache_tokens <= 256)
        CHECK(counts.n_preempted > 0, "%s: nobody was put back", way->name);
    if (way->n_swap_pages)
        CHECK(counts.n_swapped_out > 0 && counts.n_swapped_in > 0, "%s: %lld out, %lld in",
              way->name, (long long)counts.n_swapped_out, (long long)counts.n_swapped_in);
    if (way->twice)
        CHECK(counts.n_hit_tokens > 0, "%s: no hits", way->name);
    // Right ones and wrong ones.
    if (way->drafts != ENGINE_DRAFTS_NONE)
        CHECK(counts.n_accepted > 0 && counts.n_accepted < counts.n_drafted,
              "%s: %lld of %lld guesses", way->name, (long long)counts.n_accepted,
              (long long)counts.n_drafted);
    batcher_check(engine_batcher(e));
}

static void check_ways(const char *name, bool mtp, const char *path) {
    struct client_way alone = {"alone", 1, 512, 512, 128, 0, ENGINE_DRAFTS_NONE, false, false, 1};
    _cleanup_free_ char *dir = hai_asprintf("tests/fixtures/models/%s", name);
    _cleanup_free_ struct client *want = hai_new_array(struct client, REQUESTS);
    _cleanup_free_ struct client *got = hai_new_array(struct client, REQUESTS);

    alone.path = path;
    struct engine *e = client_engine(dir, &alone);
    client_prompts(want, REQUESTS);
    for (int i = 0; i < REQUESTS; i++)
        client_run(e, want, i, i + 1);
    engine_free(e);
    for (size_t w = 0; w < ARRAY_SIZE(ways); w++) {
        struct client_way way = ways[w];
        if (way.drafts == ENGINE_DRAFTS_MTP && !mtp)
            continue;
        way.path = path;
        e = client_engine(dir, &way);
        for (int round = 0; round <= way.twice; round++) {
            client_prompts(got, REQUESTS);
            client_run(e, got, 0, REQUESTS);
            for (int i = 0; i < REQUESTS; i++)
                client_compare(&got[i], &want[i], name, way.name, i);
        }
        check_counts(e, &way);
        engine_free(e);
    }
}

TEST(llama)
{ check_ways("llama_gqa", false, NULL); }

TEST(qwen2)
{ check_ways("qwen2", false, NULL); }

TEST(moe)
{ check_ways("deepseek_moe", false, NULL); }

TEST(latent)
{ check_ways("dsv2_lite", false, NULL); }

TEST(v3_with_guesses)
{ check_ways("dsv3", true, NULL); }

/* The tests above run on the best path of this processor. Also on the others that it has. */
static void check_path(const char *path) {
    struct k_ctx best, ctx;

    CHECK_EQ(k_ctx_init(&best, K_BACKEND_CPU, NULL, NULL), 0, "");
    if (k_ctx_init(&ctx, K_BACKEND_CPU, path, NULL) < 0)
        SKIP("not a kernel path of this processor");
    if (hai_streq(best.path, path))
        SKIP("the path of the tests before");
    check_ways("llama_gqa", false, path);
}

TEST(avx2)
{ check_path("avx2"); }

TEST(avx512)
{ check_path("avx512"); }

TEST(amx)
{ check_path("amx"); }

/* From a cache that was saved and loaded come the bits that a cold and a warm one give; another
 * model, type of cache or page size does not get it. */
static void check_loaded(const char *name) {
    static const struct client_way way = {"loaded",           8,    64,   64, 4096, 0,
                                          ENGINE_DRAFTS_NONE, true, true, 2};
    _cleanup_free_ char *dir = hai_asprintf("tests/fixtures/models/%s", name);
    _cleanup_free_ struct client *want = hai_new_array(struct client, REQUESTS);
    _cleanup_free_ struct client *got = hai_new_array(struct client, REQUESTS);
    char path[] = "/tmp/hai-engine-XXXXXX";
    struct batcher_counts counts;
    struct hai_err err = {0};
    struct engine *e = client_engine(dir, &way);

    close(mkstemp(path));
    client_prompts(want, REQUESTS);
    client_run(e, want, 0, REQUESTS);
    int n_saved = engine_cache_save(e, path, INT32_MAX, &err);
    CHECK(n_saved > REQUESTS, "%d pages: %s", n_saved, err.text);
    engine_free(e);

    e = client_engine(dir, &way);
    CHECK_EQ(engine_cache_load(e, path, &err), n_saved, "%s", err.text);
    client_prompts(got, REQUESTS);
    client_run(e, got, 0, REQUESTS);
    for (int i = 0; i < REQUESTS; i++)
        client_compare(&got[i], &want[i], name, "loaded", i);
    batcher_count(engine_batcher(e), &counts);
    CHECK(counts.n_hit_tokens > 16 * REQUESTS, "%lld hits", (long long)counts.n_hit_tokens);
    engine_free(e);

    struct engine_options options = engine_defaults();
    options.n_seq_tokens_max = 128;
    options.prefix_file = true;
    for (int k = 0; k < 3; k++) {
        options.page_tokens = k == 0 ? 32 : 16;
        options.place.cache_dtype = k == 1 ? K_F16 : K_F32;
        options.place.dtype = k == 2 ? GENERATE_BF16 : GENERATE_F32;
        CHECK_EQ(engine_open(dir, &options, &e, &err), 0, "%s", err.text);
        CHECK_EQ(engine_cache_load(e, path, &err), -EMEDIUMTYPE, "%d: %s", k, err.text);
        engine_free(e);
    }
    e = client_engine("tests/fixtures/models/llama_mha", &way);
    CHECK_EQ(engine_cache_load(e, path, &err), -EMEDIUMTYPE, "another model: %s", err.text);
    engine_free(e);
    unlink(path);
}

TEST(cache_from_file)
{ check_loaded("llama_gqa"); }

TEST(latent_cache_from_file)
{ check_loaded("dsv3"); }

/* With fast_prefill who has a long prompt gets other last digits, and nobody else: not those whose
 * rows are in a batch with such a prompt, whatever its form. */
TEST(fast_prefill)
{
    enum { LONG = 48 }; // rows of a prompt from which on latent attention expands (engine/nn/mla.c)
    static const char dir[] = "tests/fixtures/models/dsv3";
    struct client_way way = {"fast", 1,     512, 512,  4096, 0, ENGINE_DRAFTS_NONE,
                             false,  false, 1,   NULL, false};
    _cleanup_free_ struct client *want = hai_new_array(struct client, REQUESTS);
    _cleanup_free_ struct client *got = hai_new_array(struct client, REQUESTS);
    int n_long = 0, n_other = 0;

    for (int fast = 0; fast < 2; fast++) {
        way.fast_prefill = fast;
        way.n_slots = fast ? 16 : 1;
        struct engine *e = client_engine(dir, &way);
        client_prompts(fast ? got : want, REQUESTS);
        client_run(e, fast ? got : want, 0, REQUESTS);
        engine_free(e);
    }
    for (int i = 0; i < REQUESTS; i++) {
        if (want[i].n_prompt < LONG) {
            client_compare(&got[i], &want[i], dir, "fast", i);
            continue;
        }
        n_long++;
        n_other += got[i].logprobs[0] != want[i].logprobs[0];
        CHECK_EQ(got[i].ids[0], want[i].ids[0], "request %d", i);
        CHECK(got[i].logprobs[0] - want[i].logprobs[0] < 1e-4 &&
                  want[i].logprobs[0] - got[i].logprobs[0] < 1e-4,
              "request %d: %.17g, expected about %.17g", i, got[i].logprobs[0],
              want[i].logprobs[0]);
    }
    CHECK(n_long > 2 && n_long < REQUESTS - 2 && n_other > 0, "%d long, %d other", n_long, n_other);
}

/* Keys and values in 16 bits: other last digits than in float32, the same ones in every way. bound:
 * of the difference; 0: none, a router that stands between two experts takes the other one. */
static void check_cache_dtype(const char *dir, enum k_dtype dtype, double bound) {
    const struct client_way alone = {.name = "alone",
                                     .n_slots = 1,
                                     .n_chunk = 512,
                                     .n_step = 512,
                                     .n_cache_tokens = 128,
                                     .n_threads = 1,
                                     .cache_dtype = dtype};
    _cleanup_free_ struct client *plain = hai_new_array(struct client, REQUESTS);
    _cleanup_free_ struct client *want = hai_new_array(struct client, REQUESTS);
    _cleanup_free_ struct client *got = hai_new_array(struct client, REQUESTS);
    struct client_way way = alone;
    double largest = 0;

    for (int wide = 0; wide < 2; wide++) {
        way.cache_dtype = wide ? K_F32 : dtype;
        struct engine *e = client_engine(dir, &way);
        client_prompts(wide ? plain : want, REQUESTS);
        for (int i = 0; i < REQUESTS; i++)
            client_run(e, wide ? plain : want, i, i + 1);
        engine_free(e);
    }
    for (int i = 0; i < REQUESTS; i++) {
        double off = want[i].logprobs[0] - plain[i].logprobs[0];
        largest = MAX(largest, off < 0 ? -off : off);
    }
    CHECK(largest > 0 && (bound == 0 || largest < bound), "%s: %g", dir, largest);
    way = (struct client_way){"in 16 bits", 16,   7, 64,   256,   32,   ENGINE_DRAFTS_TEXT,
                              true,         true, 2, NULL, false, dtype};
    struct engine *e = client_engine(dir, &way);
    for (int round = 0; round < 2; round++) {
        client_prompts(got, REQUESTS);
        client_run(e, got, 0, REQUESTS);
        for (int i = 0; i < REQUESTS; i++)
            client_compare(&got[i], &want[i], dir, way.name, i);
    }
    engine_free(e);
}

TEST(caches_of_16_bits)
{
    check_cache_dtype("tests/fixtures/models/llama_gqa", K_F16, 0.01);
    check_cache_dtype("tests/fixtures/models/llama_gqa", K_BF16, 0.08);
    check_cache_dtype("tests/fixtures/models/dsv3", K_F16, 0);
    check_cache_dtype("tests/fixtures/models/dsv3", K_BF16, 0);
}

/* What was cached with fast_prefill is not taken without, nor the other way round; where the model
 * has no other form it is the same. */
static void check_modes_apart(const char *dir, bool apart) {
    struct client_way way = {"modes", 8,     512, 512,  4096, 0, ENGINE_DRAFTS_NONE,
                             true,    false, 1,   NULL, false};
    _cleanup_free_ struct client *clients = hai_new_array(struct client, REQUESTS);

    for (int mode = 0; mode < 2; mode++) {
        char path[] = "/tmp/hai-engine-XXXXXX";
        struct hai_err err = {0};
        close(mkstemp(path));
        way.fast_prefill = mode;
        struct engine *e = client_engine(dir, &way);
        client_prompts(clients, REQUESTS);
        client_run(e, clients, 0, REQUESTS);
        int n_saved = engine_cache_save(e, path, INT32_MAX, &err);
        CHECK(n_saved > 0, "%d: %s", n_saved, err.text);
        engine_free(e);
        for (int as = 0; as < 2; as++) {
            way.fast_prefill = as;
            e = client_engine(dir, &way);
            int r = engine_cache_load(e, path, &err);
            CHECK_EQ(r, apart && as != mode ? -EMEDIUMTYPE : n_saved, "%s", err.text);
            CHECK(r >= 0 || strstr(err.text, "fast-prefill"), "%s", err.text);
            engine_free(e);
        }
        unlink(path);
    }
}

TEST(caches_of_modes_apart)
{
    check_modes_apart("tests/fixtures/models/dsv3", true);
    check_modes_apart("tests/fixtures/models/llama_gqa", false);
}

/* Whose the cache is was settled when the weights were read: what lies in the folder now may be
 * another model. */
TEST(cache_of_what_was_loaded)
{
    static const struct client_way way = {"one", 1,     64, 64, 128, 0, ENGINE_DRAFTS_NONE,
                                          true,  false, 1};
    static const char *const files[] = {"config.json", "model.safetensors"};
    char dir[] = "/tmp/hai-engine-XXXXXX", *links[ARRAY_SIZE(files)];
    _cleanup_free_ char *saved = NULL;
    struct hai_err err = {0};

    CHECK(mkdtemp(dir), "%m");
    saved = hai_asprintf("%s/saved", dir);
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        _cleanup_free_ char *file = hai_asprintf("tests/fixtures/models/llama_mha/%s", files[i]);
        _cleanup_free_ char *real = realpath(file, NULL);
        links[i] = hai_asprintf("%s/%s", dir, files[i]);
        CHECK(real && symlink(real, links[i]) == 0, "%s: %m", file);
    }
    struct engine *e = client_engine(dir, &way);
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        CHECK_EQ(unlink(links[i]), 0, "");
        free(links[i]);
    }
    CHECK_EQ(engine_cache_save(e, saved, 1, &err), 0, "%s", err.text);
    engine_free(e);
    e = client_engine("tests/fixtures/models/llama_mha", &way);
    CHECK_EQ(engine_cache_load(e, saved, &err), 0, "%s", err.text);
    engine_free(e);
    unlink(saved);
    rmdir(dir);
}

TEST(no_cache_no_file)
{
    static const struct client_way way = {"one", 1,     64, 64, 128, 0, ENGINE_DRAFTS_NONE,
                                          false, false, 1};
    struct engine *e = client_engine("tests/fixtures/models/llama_mha", &way);
    struct hai_err err = {0};

    CHECK_EQ(engine_cache_save(e, "/tmp/hai-none", 1, &err), -ENOTSUP, "");
    CHECK_EQ(engine_cache_load(e, "/tmp/hai-none", &err), -ENOTSUP, "");
    engine_free(e);
}

/* A repeating text is guessed right, and takes fewer steps. */
TEST(guesses_save_steps)
{
    static const struct client_way plain = {"plain", 1,     64, 64, 128, 0, ENGINE_DRAFTS_NONE,
                                            false,   false, 1};
    static const struct client_way by_text = {"text", 1,     64, 64, 128, 0, ENGINE_DRAFTS_TEXT,
                                              false,  false, 1};
    const struct client_way *kinds[2] = {&plain, &by_text};
    struct batcher_counts counts[2];
    struct client *c = hai_new_array(struct client, 2);

    for (int k = 0; k < 2; k++) {
        struct engine *e = client_engine("tests/fixtures/models/llama_mha", kinds[k]);
        struct engine_request request;
        struct hai_err err = {0};
        c[k].n_prompt = 60;
        for (int i = 0; i < 60; i++)
            c[k].prompt[i] = i % 4 + 10;
        request = client_request(&c[k], 0);
        request.n_new_max = CLIENT_NEW_TOKENS;
        CHECK_EQ(engine_submit(e, &request, &c[k].id, &err), 0, "%s", err.text);
        client_steps(e);
        batcher_count(engine_batcher(e), &counts[k]);
        engine_free(e);
    }
    CHECK(memcmp(c[0].ids, c[1].ids, sizeof c[0].ids) == 0, "");
    CHECK(counts[1].n_steps < counts[0].n_steps, "%lld steps, %lld without guesses",
          (long long)counts[1].n_steps, (long long)counts[0].n_steps);
    CHECK(counts[1].n_accepted > 0, "");
    free(c);
}

TEST(refusals_and_cancelling)
{
    static const struct client_way way = {"one", 1,     64, 64, 128, 0, ENGINE_DRAFTS_NONE,
                                          false, false, 1};
    struct engine *e = client_engine("tests/fixtures/models/llama_mha", &way);
    struct client c[2] = {
        {.prompt = {1, 2, 600}, .n_prompt = 3},
        {.prompt = {4, 5, 6},   .n_prompt = 3}
    };
    struct engine_request request = client_request(&c[0], 5);
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
    client_submit(e, &c[1], 5);
    CHECK_EQ(engine_step(e, &err), 1, "");
    CHECK_EQ(engine_cancel(e, c[1].id), 0, "");
    CHECK_EQ(engine_cancel(e, c[1].id), -ENOENT, "");
    CHECK_EQ(engine_step(e, &err), 0, "");
    CHECK(c[1].ended && c[1].end == BATCHER_END_CANCELLED && c[1].n == 1, "");
    engine_free(e);
}

/* Sizes whose products would not fit are refused by their names. */
TEST(options_too_large)
{
    static const struct {
        int32_t n_requests_max;
        int64_t n_seq_tokens_max;
        int32_t page_tokens;
        const char *text;
    } cases[] = {
        {1 << 20,   128, 4096, "n_requests_max is 1048576 and n_seq_tokens_max 128: together "},
        {INT32_MAX, 128, 1024, "n_requests_max is 2147483647: from 1 to "                     },
        {0,         128, 16,   "n_requests_max is 0: from 1 to "                              },
        {1,         1,   16,   "n_seq_tokens_max is 1: from 2 to "                            },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct engine_options options = engine_defaults();
        struct engine *e = NULL;
        struct hai_err err = {0};
        options.n_requests_max = cases[i].n_requests_max;
        options.n_seq_tokens_max = cases[i].n_seq_tokens_max;
        options.page_tokens = cases[i].page_tokens;
        CHECK_EQ(engine_open("tests/fixtures/models/llama_mha", &options, &e, &err), -EINVAL, "%zu",
                 i);
        CHECK(strncmp(err.text, cases[i].text, strlen(cases[i].text)) == 0, "%s", err.text);
        engine_free(e);
    }
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
    static const struct client_way way = {"text", 2,     64, 64, 256, 0, ENGINE_DRAFTS_TEXT,
                                          false,  false, 1};
    struct grammar_token tokens[VOCAB];
    char bytes[VOCAB], text[CLIENT_NEW_TOKENS + 1] = "";
    const int32_t end_id = 1;
    _cleanup_(grammar_freep) struct grammar *g = NULL;
    struct hai_err err = {0};
    struct client c = {
        .prompt = {4, 5, 6},
          .n_prompt = 3
    };

    for (int32_t i = 0; i < VOCAB; i++)
        tokens[i] = (struct grammar_token){&bytes[i], (uint32_t)text_of(i, &bytes[i])};
    _cleanup_(grammar_vocab_freep) struct grammar_vocab *vocab =
        grammar_vocab_new(tokens, VOCAB, &end_id, 1);
    CHECK_EQ(grammar_new(vocab, schema, sizeof schema - 1, &(struct grammar_options){0}, &g, &err),
             0, "%s", err.text);
    struct engine *e = client_engine("tests/fixtures/models/llama_mha", &way);
    struct engine_request request = client_request(&c, 0);
    request.grammar = g;
    request.n_new_max = CLIENT_NEW_TOKENS;
    request.ignore_eos = false;
    CHECK_EQ(engine_submit(e, &request, &c.id, &err), 0, "%s", err.text);
    client_steps(e);
    for (int i = 0; i < c.n; i++)
        if (c.ids[i] != end_id)
            (void)text_of(c.ids[i], &text[strlen(text)]);
    _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);
    CHECK(c.ended, "");
    CHECK(c.n > 0 && grammar_match_text(m, text, strlen(text)) == 0, "%s", text);
    engine_free(e);
}
