/* generate.h - run a model from a folder: logits of a text, and its continuation token by token.
 *
 * One sequence at a time, with a key-value cache. A token's bits depend on the model, the kernel
 * path and the tokens before it; not on how the prompt was cut into pieces, nor on threads. Serving
 * many sequences at once is engine.h's.
 */
#pragma once
#include "engine/infer/sample.h"
#include "engine/model/model.h"

enum generate_dtype {
    GENERATE_F32,  // weights as in the file, widened
    GENERATE_BF16, // weights rounded to bf16 first; arithmetic stays float32
};

struct generate_place {
    enum k_backend backend;
    enum generate_dtype dtype;
    enum k_dtype cache_dtype; // of keys and values: K_F32, K_F16 or K_BF16
    int n_threads;
    bool fast_prefill; // see model.h; then bits do depend on how a prompt was cut
};

struct generate;

/* Load DIR. n_tokens: the most that a prompt and its continuation have; -EINVAL if the model cannot
 * hold so many. */
int generate_open(const char *dir, const struct generate_place *place, int64_t n_tokens,
                  struct generate **ret, struct hai_err *err);
void generate_free(struct generate *g);
DEFINE_CLEANUP(struct generate *, generate_free)

const struct model_config *generate_config(const struct generate *g);
struct model *generate_model(struct generate *g); // its own

/* Logits of every token: rows are handed over in pieces, ascending, [n_rows, n_vocab] each.
 * -EINVAL: an id outside the vocabulary. */
int generate_logits(struct generate *g, const int32_t *ids, int64_t n,
                    int (*take)(void *userdata, const float *rows, int64_t n_rows,
                                struct hai_err *err),
                    void *userdata, struct hai_err *err);

/* The same where the first n_known ids are those of the last call, and need not be computed again:
 * rows from n_known on. */
int generate_logits_from(struct generate *g, const int32_t *ids, int64_t n, int64_t n_known,
                         int (*take)(void *userdata, const float *rows, int64_t n_rows,
                                     struct hai_err *err),
                         void *userdata, struct hai_err *err);

struct generate_request {
    const int32_t *prompt;
    int64_t n_prompt; // at least 1
    int64_t n_tokens_max;
    struct sample_options sample;
    const struct sample_hooks *hooks; // NULL: no masks, and only end tokens end the text
    bool ignore_eos;                  // go on after an end token
};

/* Continue the prompt; take gets each token as it is chosen, the end token too. It ends the run
 * with 1 (no failure) or a negative value. -EINVAL: an option of request->sample is out of range.
 */
int generate_run(struct generate *g, const struct generate_request *request,
                 int (*take)(void *userdata, const struct sample_result *token), void *userdata,
                 struct hai_err *err);
