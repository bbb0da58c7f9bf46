/* batch_world.h - a fake engine around engine/infer/batcher.h, for its tests.
 *
 * The model is a hash: what the cache holds of a token depends on the request's cache key and on
 * all tokens up to it, as keys and values do, and the next token is a hash of all that, read back
 * through the page table of the plan. So a wrong page, a lost copy, a stale prefix or a bad cut
 * changes the continuation, which world_expect computes without any cache. Every plan is checked
 * for form.
 */
#pragma once
#include "engine/infer/batcher.h"

enum {
    WORLD_VOCABULARY = 1000,
    WORLD_STOP = 7, // the token that ends a text
    WORLD_TOKENS_MAX = 2048,
};

/* A request as the world keeps it. */
struct world_request {
    int64_t id; // 0: not submitted yet
    struct batcher_request ask;
    int32_t *ids; // prompt, then what came
    int32_t n_ids;
    int64_t at_us;     // when it is submitted
    int64_t cancel_us; // 0: never
    bool ended;
    struct batcher_ending ending;
};

struct world_config {
    struct batcher_config batcher;
    int32_t n_pages, page_tokens;
    bool cold;          // no prefix cache
    int32_t draft_bits; // of 256: how often drafts are proposed, and how often they are wrong
    double us[3];       // what steps really take: a step, a row, a key
    uint64_t seed;
};

struct world {
    struct world_config config;
    struct pages *pages;
    struct prefix *prefix;
    struct batcher *batcher;
    uint64_t *cells, *swapped; // [pages * page_tokens]; [swap pages * page_tokens]
    struct world_request *requests;
    int32_t n_requests, n_ended;
    uint64_t random;
    int64_t now_us;
    int64_t n_steps, n_moves[3]; // of each kind
    struct batcher_plan plan;    // the last one
    int64_t step_us;             // of it
    /* Called after every plan, before its step; may be NULL. */
    void (*look)(struct world *w, void *userdata);
    void *userdata;
};

uint64_t world_next(uint64_t *state); // SplitMix64

/* The continuation of a prompt: up to n_max tokens, the stop token included. Returns their number.
 */
int32_t world_expect(uint64_t key, const int32_t *prompt, int32_t n_prompt, int32_t n_max,
                     int32_t *ret);

/* requests [n]: borrowed; their ids have room for prompt and new tokens. */
void world_start(struct world *w, const struct world_config *config, struct world_request *requests,
                 int32_t n);

/* Submit what is due, cancel what is to be cancelled, one plan, its step. False: nothing ran. */
bool world_step(struct world *w);

/* Until all requests have ended. */
void world_run(struct world *w);

/* CHECK that every request that has ended has what it should have; that no page is left over. Ends
 * the world. */
void world_end(struct world *w, const char *name);
