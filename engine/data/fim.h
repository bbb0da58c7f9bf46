/* fim.h - documents rewritten so that a model learns to fill in the middle.
 *
 * Form PSM of DeepSeek-Coder (arXiv 2401.14196, 3.1.2): begin, prefix, hole, suffix, end, middle.
 * Whether a document is rewritten, and where it is cut, follows from seed and number of the
 * document alone. The parts are tokenised apart, as they come when the model is used
 * (chat_encode_middle).
 */
#pragma once
#include "engine/data/tokenizer.h"

struct fim {
    int32_t begin, hole, end; // tokens
    double rate;              // share of the documents, 0 to 1
    uint64_t seed;
};

/* Names of the three tokens in DeepSeek's tokenizers. */
extern const char *const fim_names[3];

/* The tokens by their names, rate and seed left as they are. -ENOTSUP: the tokenizer has no such.
 */
int fim_find(const struct tokenizer *t, const char *const names[3], struct fim *ret,
             struct hai_err *err);

/* Is the document rewritten, and where do prefix and middle end? Two bytes of the text are drawn
 * uniformly, its end included, and moved on to where a character begins. */
bool fim_cut(const struct fim *fim, int64_t document, const char *text, size_t n_bytes,
             size_t ret[2]);

/* Append the document in PSM form. special: special tokens written in the text are recognised. */
int fim_encode(const struct fim *fim, struct tokenizer *t, const char *text, size_t n_bytes,
               const size_t cuts[2], bool special, struct token_list *ret, struct hai_err *err);

/* Append the ids of a text that others wrote: special tokens in it are text, unless `special`. */
int fim_encode_text(struct tokenizer *t, const char *text, size_t n_bytes, bool special,
                    struct token_list *ret, struct hai_err *err);
