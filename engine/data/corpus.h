/* corpus.h - training text as one run of tokens, tokenised once and mapped from then on.
 *
 * Every document is begin token (if there is one), its tokens, end token. The result lies in a file
 * of the folder given, named by what it was made of, so all ranks that see the folder share it and
 * a restart finds it. Its digest goes into checkpoints: a run goes on with the same data or not at
 * all.
 */
#pragma once
#include "engine/data/tokenizer.h"

struct corpus;

struct corpus_source {
    char **paths; // files, folders, patterns (textfiles.h)
    size_t n_paths;
    int64_t n_bytes_max; // stop before the document that would go over; 0: no limit
};

/* Find or make the tokens in dir (created if needed). Ranks may call at the same time: one makes
 * them, the others wait. */
int corpus_open(const struct corpus_source *source, struct tokenizer *tokenizer, const char *dir,
                struct corpus **ret, struct hai_err *err);
void corpus_free(struct corpus *corpus);
DEFINE_CLEANUP(struct corpus *, corpus_free)

int64_t corpus_n_tokens(const struct corpus *corpus);
int64_t corpus_n_documents(const struct corpus *corpus);
uint64_t corpus_digest(const struct corpus *corpus); // XXH3-64 of the tokens

/* n_window tokens of sample `index` (sampler.h). */
void corpus_sample(const struct corpus *corpus, uint64_t seed, int64_t index, int64_t n_window,
                   int32_t *ret);
