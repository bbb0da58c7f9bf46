#include "engine/train/feed.h"

#include <inttypes.h>

struct feed_corpus {
    struct feed base;
    struct corpus *corpus;
};

static int corpus_read(struct feed *f, int64_t index, const struct feed_sample *ret,
                       struct hai_err *err) {
    const struct feed_corpus *c = (const struct feed_corpus *)f;

    corpus_sample(c->corpus, f->seed, index, f->seq, ret->ids);
    memcpy(ret->labels, ret->ids, (size_t)f->seq * sizeof *ret->ids);
    ret->seq_start[0] = 0;
    ret->seq_start[1] = (int32_t)f->seq;
    *ret->n_seqs = 1;
    return 0;
}

static uint64_t digest(const struct feed *f, int64_t n_samples) {
    (void)n_samples; // all of them are
    return corpus_digest(((const struct feed_corpus *)f)->corpus);
}

static struct feed_size size(const struct feed *f) {
    const struct feed_corpus *c = (const struct feed_corpus *)f;

    return (struct feed_size){corpus_n_tokens(c->corpus), corpus_n_documents(c->corpus)};
}

static void corpus_close(struct feed *f) {
    corpus_free(((struct feed_corpus *)f)->corpus);
    free(f);
}

static const struct feed_type corpus_feed = {
    .name = "corpus", .read = corpus_read, .digest = digest, .size = size, .close = corpus_close};

int feed_corpus_open(const struct corpus_source *source, struct tokenizer *tokenizer,
                     const char *dir, int64_t seq, uint64_t seed, struct feed **ret,
                     struct hai_err *err) {
    _cleanup_(corpus_freep) struct corpus *corpus = NULL;
    int r = corpus_open(source, tokenizer, dir, &corpus, err);

    if (r < 0)
        return r;
    if (corpus_n_tokens(corpus) < seq)
        return hai_fail(err, -EINVAL,
                        "data has %" PRId64 " tokens; expected at least seq, %" PRId64,
                        corpus_n_tokens(corpus), seq);
    struct feed_corpus *c = hai_new(struct feed_corpus);
    c->base = (struct feed){
        .type = &corpus_feed, .seq = seq, .window = seq, .n_seqs_max = 1, .seed = seed};
    c->corpus = TAKE_PTR(corpus);
    *ret = &c->base;
    return 0;
}
