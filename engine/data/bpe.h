/* bpe.h - byte-pair merging of one word: the bytes' tokens, then the merge of lowest rank first.
 *
 * Splitting text into words and reading vocabularies is tokenizer.h's business.
 * Source: Sennrich and others, 2016; order of merges as in Hugging Face's tokenizers: lowest rank,
 * then leftmost.
 */
#pragma once
#include "engine/data/token_list.h"
#include "engine/data/vocab.h"

struct bpe;

struct bpe *bpe_new(void);
void bpe_free(struct bpe *bpe);
DEFINE_CLEANUP(struct bpe *, bpe_free)

/* The token of a single byte; -1: it has none and is dropped. All 256 are set before the first
 * bpe_encode. */
void bpe_set_byte(struct bpe *bpe, uint8_t byte, int32_t id);

/* A word that is a token of this vocabulary becomes that token, merges or not ("ignore_merges").
 *
 * except  by id, not 0: no word becomes it. Added tokens are among the vocabulary and found by
 *         added.h alone, which looks at who wrote them
 *
 * Both must outlive bpe. */
void bpe_set_whole_words(struct bpe *bpe, const struct vocab *vocab, const uint8_t *except);

/* left followed by right becomes merged; lower ranks go first. A pair given twice keeps the first.
 * Ids and ranks are below VOCAB_MAX. */
void bpe_add_merge(struct bpe *bpe, int32_t left, int32_t right, int32_t merged, int32_t rank);

/* A merge of this pair will soon be added. */
void bpe_prefetch_merge(const struct bpe *bpe, int32_t left, int32_t right);

/* Append the tokens of one word. Time is n log n; short words are remembered. */
void bpe_encode(struct bpe *bpe, const uint8_t *word, size_t n_bytes, struct token_list *ret);
