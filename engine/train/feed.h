/* feed.h - the samples of a run: tokens, labels, where sequences begin, by global index alone.
 *
 * A kind of data is a feed_type, made by a function of its own (feed_corpus.c, ...). Sample `index`
 * is the same for every rank, in any layout, after any restart: the index of the next sample is all
 * the position that a run has. Which samples a rank takes is the trainer's business, what becomes
 * of them share.h's.
 */
#pragma once
#include "engine/data/corpus.h"
#include "engine/train/sourceconf.h"

struct feed;

/* One sample, in memory of the caller. Its first seq tokens are inputs, the others only labels of
 * those before them. window is that of the feed: seq or more. */
struct feed_sample {
    int32_t *ids;    // [window]
    int32_t *labels; // [window], as model_batch.labels: negative where nothing is to be predicted
    int32_t *seq_start; // [window + 1], of which the n_seqs + 1 first are set: from 0 up to the
                        // tokens that there are: window, or less
    int32_t *n_seqs;    // one, 1 or more
};

struct feed_size {
    int64_t n_tokens, n_documents;
};

struct feed_type {
    const char *name;
    int (*read)(struct feed *feed, int64_t index, const struct feed_sample *ret,
                struct hai_err *err);
    uint64_t (*digest)(const struct feed *feed, int64_t n_samples);
    struct feed_size (*size)(const struct feed *feed);
    void (*close)(struct feed *feed);
    // NULL: nothing can be done ahead, there is one source.
    void (*expect)(struct feed *feed, int64_t index);
    void (*tell_shares)(const struct feed *feed, int64_t from, int64_t to, struct buf *ret);
};

/* Head of every kind's own struct. */
struct feed {
    const struct feed_type *type;
    int64_t seq;        // inputs of a sample
    int64_t window;     // its tokens
    int64_t n_seqs_max; // sequences of one sample
    uint64_t seed;      // key of the order
};

/* Text that is tokenised at the start, one sequence a sample, every token a label (corpus.h).
 * -EINVAL: it has less than seq tokens; and the errors of corpus_open. */
int feed_corpus_open(const struct corpus_source *source, struct tokenizer *tokenizer,
                     const char *dir, int64_t seq, uint64_t seed, struct feed **ret,
                     struct hai_err *err);

/* Folders of shards with weights (packing.h), packed, every token a label. What the specification
 * points to is borrowed. */
struct feed_shards_spec {
    struct sourceconf sources; // one stage after the other, the last without end
    bool within;               // a sequence a document; else one a sample
    int64_t seq;               // inputs
    int64_t n_ahead;           // tokens behind them, for labels: 1, or 2 for a multi-token module
    int64_t n_read_ahead;      // samples
    uint64_t seed;
};

/* Errors as of packing_open. -EMEDIUMTYPE: shards of another tokenizer. */
int feed_shards_open(const struct feed_shards_spec *spec, const struct tokenizer *tokenizer,
                     struct feed **ret, struct hai_err *err);

/* Conversations, a line of JSON each (conversation.h), as many of them in a sample as fit: a
 * sequence each, answers are labels. An epoch has every conversation once, in an order of its own.
 * Tokens are made at the start and kept in memory, 5 bytes each. */
struct feed_chat_spec {
    struct corpus_source source; // n_bytes_max is not looked at
    const char *model, *form;    // as chat_open wants them
    int64_t seq;
    bool cut; // longer ones: keep the first seq tokens, or nothing where no label is among them
    uint64_t seed;
};

/* -E2BIG: one is longer than seq, and they are not to be cut; -ENODATA: there are none; errors of
 * chat_open, and of conversation_read with file and line. */
int feed_chat_open(const struct feed_chat_spec *spec, struct tokenizer *tokenizer,
                   struct feed **ret, struct hai_err *err);

int feed_read(struct feed *feed, int64_t index, const struct feed_sample *ret, struct hai_err *err);

/* That sample will be read, after those named before: it may be fetched meanwhile. */
void feed_expect(struct feed *feed, int64_t index);

/* Tells data apart, for checkpoints: what the first n_samples are of. INT64_MAX: all. */
uint64_t feed_digest(const struct feed *feed, int64_t n_samples);
struct feed_size feed_size(const struct feed *feed);

/* Append how many of the samples from `from` up to `to` came from which source: "web 70.1 % (701),
 * code 29.9 % (299)". Nothing where there is one source. */
void feed_tell_shares(const struct feed *feed, int64_t from, int64_t to, struct buf *ret);
void feed_close(struct feed *feed);
DEFINE_CLEANUP(struct feed *, feed_close)
