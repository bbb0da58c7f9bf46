/* engine.h - a model that serves many requests at once.
 *
 * Ties the parts together: batcher.h says which tokens run, model.h turns them into logits,
 * sample.h and grammar.h choose, drafts.h or the multi-token module guess ahead. One thread calls
 * it, from its own loop: submit and cancel between steps or in callbacks, then step. What a request
 * gets depends on its ids, its options and its seed alone (batcher.h and sample.h say why); when it
 * gets it depends on everything. With place.fast_prefill the last digits depend on how its
 * prompt was cut into steps too, and so on who else was there and on what was cached.
 *
 * Memory for the model, the cache and the batch is taken by engine_open, for a request by
 * engine_submit; a step takes none.
 */
#pragma once
#include "engine/infer/batcher.h"
#include "engine/infer/generate.h"
#include "engine/infer/grammar.h"
#include "engine/infer/sample.h"

/* How tokens are guessed ahead. */
#define ENGINE_DRAFTS_ALL(P, X)                                                                    \
    X(P, NONE, "none")                                                                             \
    X(P, TEXT, "text") /* from the request's own text (drafts.h) */                                \
    X(P, MTP, "mtp")   /* by the model's multi-token module, one token */
DECLARE_ENUM(engine_drafts, ENGINE_DRAFTS, ENGINE_DRAFTS_ALL);

/* Start from engine_defaults. Sizes at least 1 unless noted. n_requests_max times n_seq_tokens_max,
 * in whole pages, is at most PAGES_ROWS_MAX. */
struct engine_options {
    struct generate_place place;
    const char *path;          // of the kernels; NULL: the best here, see k_ctx_init
    int64_t n_cache_tokens;    // of all requests together; rounded up to pages
    int64_t n_seq_tokens_max;  // prompt and output of one request
    int32_t page_tokens;       // a power of two
    int32_t n_slots;           // requests that run at once
    int32_t n_requests_max;    // running, waiting and ended together
    int32_t n_step_tokens_max; // rows of a step
    int32_t n_chunk_max;       // rows of one prompt in a step
    int32_t n_swap_pages;      // 0: who is put back computes again
    int64_t latency_us;        // of a step, see batcher.h
    enum engine_drafts drafts;
    int32_t n_drafts_max;
    bool prefix_cache;
    bool prefix_file; // it may be saved and loaded: the weights are hashed on opening
};

struct engine_options engine_defaults(void);

struct engine_request {
    uint64_t user;
    int32_t weight, priority;
    uint64_t cache_key;
    bool no_cache;
    const int32_t *ids; // the prompt, copied
    int32_t n_ids;
    int32_t n_new_max;
    int64_t deadline_us;          // on the clock of engine_now_us; 0: none
    struct sample_options sample; // biases are borrowed until the end
    struct grammar *grammar;      // borrowed until the end; NULL: anything
    bool ignore_eos;              // go on after an end token
    /* Each token as it is chosen, the end token too; 1 ends the request with it, and nothing that
     * was guessed beyond it is given or counts. */
    int (*take)(void *userdata, int64_t id, const struct sample_result *token);
    /* Once, when it has ended: nothing of it is left. ending->n_new: the tokens that take got.
     * err: why, if it failed, of itself or with its pass; else empty. */
    void (*end)(void *userdata, const struct batcher_ending *ending, const struct hai_err *err);
    void *userdata;
};

struct engine;

/* Load DIR. With prefix_file, weighthash is taken of it. -ENOTSUP: drafts by a module that the
 * model does not have. -EINVAL: an option out of bounds. */
int engine_open(const char *dir, const struct engine_options *options, struct engine **ret,
                struct hai_err *err);

/* Requests that have not ended are forgotten without a word. */
void engine_free(struct engine *e);
DEFINE_CLEANUP(struct engine *, engine_free)

struct model *engine_model(struct engine *e);
struct batcher *engine_batcher(struct engine *e);
int64_t engine_now_us(void); // CLOCK_MONOTONIC

/* -EINVAL: an id outside the vocabulary, an option out of its range; -E2BIG, -EAGAIN as
 * batcher_submit. */
int engine_submit(struct engine *e, const struct engine_request *request, int64_t *ret_id,
                  struct hai_err *err);

/* It gets no more tokens, and its `end` is called by the next step, or by the one whose callback
 * this is. -ENOENT: it has ended already, or has its last token. */
int engine_cancel(struct engine *e, int64_t id);

/* Write the prefix cache to a file, at most its n_pages_max pages used last, or take one in. Only
 * what the same weights (weighthash.h), rounding, kernel path, type of cache and page size made is
 * taken; then tokens that come from it have the bits that they would have without. Between steps.
 * Both return the pages, or errors as prefix_file.h; -ENOTSUP: the engine has no prefix cache. What
 * a multi-token module cached is in it, too, if there was one at work. */
int engine_cache_save(struct engine *e, const char *path, int32_t n_pages_max, struct hai_err *err);
int engine_cache_load(struct engine *e, const char *path, struct hai_err *err);

/* One step: drafts, plan, forward pass, choice; `take` and `end` of who got something. They may
 * submit and cancel, themselves included, but not step. Returns the number of sequences that ran;
 * 0: nothing to do until something is submitted, and no `end` has submitted anything. A failed pass
 * ends those who were part of it, with its reason, and is returned; so does one of the multi-token
 * module, after the tokens that were chosen before it. */
int engine_step(struct engine *e, struct hai_err *err);
