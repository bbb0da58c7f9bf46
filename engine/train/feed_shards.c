#include "engine/data/packahead.h"
#include "engine/train/feed.h"

struct feed_shards {
    struct feed base;
    struct packing *packing;
    struct packahead *ahead;
    int n_sources;
    bool within;
};

static int shards_read_sample(struct feed *f, int64_t index, const struct feed_sample *ret,
                              struct hai_err *err) {
    const struct feed_shards *s = (const struct feed_shards *)f;
    struct packahead_sample sample;
    int r = packahead_take(s->ahead, 0, index, &sample, err);

    if (r < 0)
        return r;
    memcpy(ret->ids, sample.ids, (size_t)f->window * sizeof *ret->ids);
    memcpy(ret->labels, sample.ids, (size_t)f->window * sizeof *ret->labels);
    *ret->n_seqs = s->within ? sample.n_seqs : 1;
    if (s->within)
        memcpy(ret->seq_start, sample.seq_start,
               (size_t)(sample.n_seqs + 1) * sizeof *ret->seq_start);
    ret->seq_start[0] = 0;
    ret->seq_start[*ret->n_seqs] = (int32_t)f->window;
    return 0;
}

static void expect(struct feed *f, int64_t index) {
    (void)packahead_expect(((struct feed_shards *)f)->ahead, 0, index);
}

static uint64_t digest(const struct feed *f) {
    const struct feed_shards *s = (const struct feed_shards *)f;

    return packing_digest(s->packing) + s->within;
}

static struct feed_size size(const struct feed *f) {
    const struct feed_shards *s = (const struct feed_shards *)f;
    struct feed_size all = {0};

    for (int i = 0; i < s->n_sources; i++) {
        all.n_tokens += shardset_n_tokens(packing_source(s->packing, i));
        all.n_documents += shardset_n_documents(packing_source(s->packing, i));
    }
    return all;
}

static void tell_shares(const struct feed *f, int64_t from, int64_t to, struct buf *ret) {
    const struct feed_shards *s = (const struct feed_shards *)f;
    _cleanup_free_ int64_t *counts = hai_new_array(int64_t, (size_t)s->n_sources);

    packing_count(s->packing, from, to, counts);
    for (int i = 0; i < s->n_sources; i++)
        buf_printf(ret, "%s%s %.1f %% (%jd)", i ? ", " : "",
                   shardset_dir(packing_source(s->packing, i)),
                   100.0 * (double)counts[i] / (double)(to - from), (intmax_t)counts[i]);
}

static void shards_feed_close(struct feed *f) {
    struct feed_shards *s = (struct feed_shards *)f;

    packahead_free(s->ahead);
    packing_close(s->packing);
    free(s);
}

static const struct feed_type shards_feed = {
    .name = "shards",
    .read = shards_read_sample,
    .digest = digest,
    .size = size,
    .close = shards_feed_close,
    .expect = expect,
    .tell_shares = tell_shares,
};

int feed_shards_open(const struct feed_shards_spec *spec, const struct tokenizer *tokenizer,
                     struct feed **ret, struct hai_err *err) {
    const struct shards_vocabulary vocabulary = {tokenizer_digest(tokenizer),
                                                 tokenizer_n_vocab(tokenizer)};
    const struct packing_spec packing = {
        .sources = spec->sources,
        .n_sources = spec->n_sources,
        .vocabulary = &vocabulary,
        .seed = spec->seed,
        .stride = spec->seq,
        .n_window = spec->seq + spec->n_ahead,
        .direct = true,
    };
    struct feed_shards *s = hai_new(struct feed_shards);
    _cleanup_(feed_closep) struct feed *feed = &s->base;

    s->base = (struct feed){.type = &shards_feed,
                            .seq = spec->seq,
                            .window = packing.n_window,
                            .n_seqs_max = spec->within ? spec->seq : 1,
                            .seed = spec->seed};
    s->n_sources = spec->n_sources;
    s->within = spec->within;
    int r = packing_open(&packing, &s->packing, err);
    if (r == 0)
        r = packahead_new(&s->packing, 1, (int)spec->n_read_ahead, &s->ahead, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(feed);
    return 0;
}
