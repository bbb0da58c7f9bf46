/* engine_client.h - requests to an engine, and what came of them, for its tests. */
#pragma once
#include "engine/infer/engine.h"
#include "tests/unit/test.h"

enum { CLIENT_PROMPT_MAX = 70, CLIENT_NEW_TOKENS = 20 };

/* One request, and what came out of it. The fields up to `userdata` are the test's to set. */
struct client {
    int32_t prompt[CLIENT_PROMPT_MAX];
    int32_t n_prompt;
    int stop_at; // take says at this token that it is the last
    void (*at_token)(struct client *c, void *userdata); // in take, with the token in place
    void (*at_end)(struct client *c, void *userdata);   // in end
    void *userdata;
    int64_t id;
    int32_t ids[CLIENT_NEW_TOKENS];
    double logprobs[CLIENT_NEW_TOKENS];
    int n;
    bool done; // it has said stop, or was cancelled: no more tokens may come
    bool ended;
    enum batcher_end end;
    char why[HAI_ERR_TEXT_BYTES];
};

/* A way to run requests. */
struct client_way {
    const char *name;
    int32_t n_slots, n_chunk, n_step;
    int64_t n_cache_tokens;
    int32_t n_swap_pages;
    enum engine_drafts drafts;
    bool prefix_cache, twice;
    int n_threads;
    const char *path;
    bool fast_prefill;
    enum k_dtype cache_dtype;
};

/* Prompts of every length, half of them beginning like another. */
void client_prompts(struct client *clients, int n);

/* Request i of the tests: its user, level, length and rules follow from i. Of every second one the
 * answer has few different tokens, so that it can be guessed. */
struct engine_request client_request(struct client *c, int i);

/* Submit client_request(c, i), which must not be refused. */
void client_submit(struct engine *e, struct client *c, int i);

/* Submit clients `from` to `to` and step until nothing is left to do. */
void client_run(struct engine *e, struct client *clients, int from, int to);

/* Step until nothing is left to do. */
void client_steps(struct engine *e);

/* Pages of 16 tokens, sequences of up to 128. */
struct engine *client_engine(const char *dir, const struct client_way *way);

/* All its tokens came, and they are those of want. */
void client_compare(const struct client *got, const struct client *want, const char *dir,
                    const char *way, int i);
