#include "tests/unit/engine_client.h"

static int take(void *userdata, int64_t id, const struct sample_result *token) {
    struct client *c = userdata;

    CHECK(!c->done && !c->ended, "a token after the last");
    CHECK_EQ(id, c->id, "another's token");
    CHECK(c->n < CLIENT_NEW_TOKENS, "too many tokens");
    if (c->n < CLIENT_NEW_TOKENS) {
        c->ids[c->n] = token->id;
        c->logprobs[c->n++] = token->logprob;
    }
    if (c->at_token)
        c->at_token(c, c->userdata);
    c->done |= c->n == c->stop_at;
    return c->n == c->stop_at;
}

static void ended(void *userdata, const struct batcher_ending *ending, const struct hai_err *err) {
    struct client *c = userdata;

    CHECK(!c->ended, "ended twice");
    CHECK_EQ(ending->n_new, c->n, "tokens");
    CHECK_EQ(err->text[0] != 0, ending->end == BATCHER_END_FAILED, "%s", err->text);
    c->ended = true;
    c->end = ending->end;
    (void)snprintf(c->why, sizeof c->why, "%s", err->text);
    if (c->at_end)
        c->at_end(c, c->userdata);
}

void client_prompts(struct client *clients, int n) {
    for (int i = 0; i < n; i++) {
        struct client *c = &clients[i];
        *c = (struct client){.n_prompt = 1 + i * 41 % CLIENT_PROMPT_MAX};
        for (int k = 0; k < c->n_prompt; k++)
            c->prompt[k] = (int32_t)((k < 33 && i % 2 ? 7 : i * 131) + k * k * 37 + k * 11) % 500;
    }
}

struct engine_request client_request(struct client *c, int i) {
    static const struct sample_bias few[] = {
        {10, 20},
        {20, 20},
        {30, 20}
    };
    struct engine_request request = {.user = (uint64_t)(i % 3),
                                     .weight = 1,
                                     .priority = i % 4,
                                     .ids = c->prompt,
                                     .n_ids = c->n_prompt,
                                     .n_new_max = 1 + i * 7 % CLIENT_NEW_TOKENS,
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
    if (i % 2 == 0) {
        request.sample.biases = few;
        request.sample.n_biases = ARRAY_SIZE(few);
    }
    return request;
}

void client_submit(struct engine *e, struct client *c, int i) {
    struct engine_request request = client_request(c, i);
    struct hai_err err = {0};

    CHECK_EQ(engine_submit(e, &request, &c->id, &err), 0, "%s", err.text);
}

void client_steps(struct engine *e) {
    struct hai_err err = {0};
    int n;

    while ((n = engine_step(e, &err)) > 0)
        ;
    CHECK_EQ(n, 0, "%s", err.text);
}

void client_run(struct engine *e, struct client *clients, int from, int to) {
    for (int i = from; i < to; i++)
        client_submit(e, &clients[i], i);
    client_steps(e);
}

struct engine *client_engine(const char *dir, const struct client_way *way) {
    struct engine_options options = engine_defaults();
    struct engine *e = NULL;
    struct hai_err err = {0};

    options.path = way->path;
    options.page_tokens = 16;
    options.n_seq_tokens_max = 128;
    options.n_slots = way->n_slots;
    options.n_chunk_max = way->n_chunk;
    options.n_step_tokens_max = way->n_step;
    options.n_cache_tokens = way->n_cache_tokens;
    options.n_swap_pages = way->n_swap_pages;
    options.drafts = way->drafts;
    options.prefix_cache = way->prefix_cache;
    options.prefix_file = way->prefix_cache;
    options.place.n_threads = way->n_threads;
    options.place.fast_prefill = way->fast_prefill;
    options.place.cache_dtype = way->cache_dtype;
    options.latency_us = INT64_C(3600000000); // who runs with whom does not depend on the machine
    CHECK_EQ(engine_open(dir, &options, &e, &err), 0, "%s", err.text);
    return e;
}

void client_compare(const struct client *got, const struct client *want, const char *dir,
                    const char *way, int i) {
    CHECK(got->ended && got->end == BATCHER_END_LENGTH, "%s %s: request %d: %s", dir, way, i,
          got->why);
    CHECK_EQ(got->n, want->n, "%s %s: request %d", dir, way, i);
    for (int k = 0; k < want->n; k++)
        CHECK(got->ids[k] == want->ids[k] && got->logprobs[k] == want->logprobs[k],
              "%s %s: request %d token %d: %d (%.17g), expected %d (%.17g)", dir, way, i, k,
              got->ids[k], got->logprobs[k], want->ids[k], want->logprobs[k]);
}
