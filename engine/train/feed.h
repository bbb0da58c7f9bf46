/* feed.h - the samples of a run: tokens, labels, where sequences begin, by global index alone.
 *
 * A kind of data is a feed_type, made by a function of its own (feed_corpus.c, ...). Sample `index`
 * is the same for every rank, in any layout, after any restart: the index of the next sample is all
 * the position that a run has. Which samples a rank takes is the trainer's business.
 */
#pragma once
#include "engine/data/corpus.h"

struct feed;

/* One row of a batch, in memory of the caller. seq is that of the feed. */
struct feed_sample {
    int32_t *ids;       // [seq]
    int32_t *labels;    // [seq], as model_batch.labels: negative where nothing is to be predicted
    int32_t *seq_start; // [seq + 1], of which the n_seqs + 1 first are set: from 0 up to seq
    int32_t *n_seqs;    // one, 1 or more
};

struct feed_size {
    int64_t n_tokens, n_documents;
};

struct feed_type {
    const char *name;
    int (*read)(struct feed *feed, int64_t index, const struct feed_sample *ret,
                struct hai_err *err);
    uint64_t (*digest)(const struct feed *feed);
    struct feed_size (*size)(const struct feed *feed);
    void (*close)(struct feed *feed);
};

/* Head of every kind's own struct. */
struct feed {
    const struct feed_type *type;
    int64_t seq;   // tokens of a sample
    uint64_t seed; // key of the order
};

/* Text that is tokenised at the start, one sequence a sample, every token a label (corpus.h).
 * -EINVAL: it has less than seq tokens; and the errors of corpus_open. */
int feed_corpus_open(const struct corpus_source *source, struct tokenizer *tokenizer,
                     const char *dir, int64_t seq, uint64_t seed, struct feed **ret,
                     struct hai_err *err);

int feed_read(struct feed *feed, int64_t index, const struct feed_sample *ret, struct hai_err *err);
uint64_t feed_digest(const struct feed *feed); // tells data apart, for checkpoints
struct feed_size feed_size(const struct feed *feed);
void feed_close(struct feed *feed);
DEFINE_CLEANUP(struct feed *, feed_close)
