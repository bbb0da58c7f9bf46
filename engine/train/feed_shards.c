#include "engine/data/packahead.h"
#include "engine/train/feed.h"
#include "lib/digest.h"

/* Samples from `first` up to `end` are drawn from its sources. */
struct stage {
    int64_t first, end;
    int n_sources;
    int *numbers; // of its sources, from 0, among all folders
};

struct feed_shards {
    struct feed base;
    bool within;
    struct stage *stages;
    struct packing **packings; // of the stages
    int n_stages;
    struct packahead *ahead;
    const char **dirs; // all folders, each once; their names are the specification's
    int64_t *draws;    // of each, where the next stage goes on
    int n_dirs;
};

static int stage_of(const struct feed_shards *s, int64_t index) {
    int k = 0;

    while (index >= s->stages[k].end)
        k++;
    return k;
}

static int shards_read_sample(struct feed *f, int64_t index, const struct feed_sample *ret,
                              struct hai_err *err) {
    const struct feed_shards *s = (const struct feed_shards *)f;
    int stage = stage_of(s, index);
    struct packahead_sample sample;
    int r = packahead_take(s->ahead, stage, index - s->stages[stage].first, &sample, err);

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
    const struct feed_shards *s = (const struct feed_shards *)f;
    int stage = stage_of(s, index);

    (void)packahead_expect(s->ahead, stage, index - s->stages[stage].first);
}

/* Of the stages that have begun, with where they begin: what comes later may be changed. */
static uint64_t digest(const struct feed *f, int64_t n_samples) {
    const struct feed_shards *s = (const struct feed_shards *)f;
    _cleanup_(buf_free) struct buf b = {0};

    buf_add_u64(&b, s->within);
    for (int k = 0; k < s->n_stages && (!k || s->stages[k].first < n_samples); k++) {
        buf_add_u64(&b, (uint64_t)s->stages[k].first);
        buf_add_u64(&b, packing_digest(s->packings[k]));
    }
    return digest_xxh3(b.data, b.n_bytes);
}

static struct feed_size size(const struct feed *f) {
    const struct feed_shards *s = (const struct feed_shards *)f;
    _cleanup_free_ bool *seen = hai_new_array(bool, (size_t)s->n_dirs);
    struct feed_size all = {0};

    for (int k = 0; k < s->n_stages; k++)
        for (int i = 0; i < s->stages[k].n_sources; i++) {
            const struct shardset *set = packing_source(s->packings[k], i);
            bool *known = &seen[s->stages[k].numbers[i]];
            all.n_tokens += *known ? 0 : shardset_n_tokens(set);
            all.n_documents += *known ? 0 : shardset_n_documents(set);
            *known = true;
        }
    return all;
}

/* Add what each folder gives to the samples of a stage from `from` up to `to`. */
static void count(const struct feed_shards *s, int k, int64_t from, int64_t to, int64_t *ret) {
    const struct stage *stage = &s->stages[k];
    _cleanup_free_ int64_t *counts = hai_new_array(int64_t, (size_t)stage->n_sources);

    packing_count(s->packings[k], from - stage->first, to - stage->first, counts);
    for (int i = 0; i < stage->n_sources; i++)
        ret[stage->numbers[i]] += counts[i];
}

static void tell_shares(const struct feed *f, int64_t from, int64_t to, struct buf *ret) {
    const struct feed_shards *s = (const struct feed_shards *)f;
    _cleanup_free_ int64_t *counts = hai_new_array(int64_t, (size_t)s->n_dirs);

    for (int k = 0; k < s->n_stages; k++) {
        int64_t first = MAX(from, s->stages[k].first), end = MIN(to, s->stages[k].end);
        if (first < end)
            count(s, k, first, end, counts);
    }
    for (int i = 0; i < s->n_dirs; i++)
        buf_printf(ret, "%s%s %.1f %% (%jd)", i ? ", " : "", s->dirs[i],
                   100.0 * (double)counts[i] / (double)(to - from), (intmax_t)counts[i]);
}

static void shards_feed_close(struct feed *f) {
    struct feed_shards *s = (struct feed_shards *)f;

    packahead_free(s->ahead);
    for (int k = 0; k < s->n_stages; k++) {
        packing_close(s->packings[k]);
        free(s->stages[k].numbers);
    }
    free(s->packings);
    free(s->stages);
    free(s->dirs);
    free(s->draws);
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

/* The number of a folder, a new one if it was not seen before. */
static int number_of(struct feed_shards *s, const char *dir) {
    for (int i = 0; i < s->n_dirs; i++)
        if (hai_streq(s->dirs[i], dir))
            return i;
    s->dirs[s->n_dirs] = dir;
    return s->n_dirs++;
}

/* Folders and weights of a stage: a source with a middle is two of them. */
static int list_sources(struct feed_shards *s, const struct sourceconf_stage *from, int *numbers,
                        struct packing_source *ret) {
    int n = 0;

    for (int i = 0; i < from->n_sources; i++) {
        const struct sourceconf_source *source = &from->sources[i];
        double fim = source->middle ? from->fim : 0;
        if (fim < 1) {
            numbers[n] = number_of(s, source->path);
            ret[n++] = (struct packing_source){source->path, source->weight * (1 - fim), 0, 0};
        }
        if (fim > 0) {
            numbers[n] = number_of(s, source->middle);
            ret[n++] = (struct packing_source){source->middle, source->weight * fim, 0, 0};
        }
    }
    for (int i = 0; i < n; i++) {
        ret[i].number = numbers[i] + 1;
        ret[i].first_draw = s->draws[numbers[i]];
    }
    return n;
}

/* A folder has one order: twice in a stage, it would be drawn alike. */
static int check_once(const struct feed_shards *s, const struct stage *stage, struct hai_err *err) {
    for (int i = 0; i < stage->n_sources; i++)
        for (int j = 0; j < i; j++)
            if (stage->numbers[i] == stage->numbers[j])
                return hai_fail(err, -EINVAL,
                                "%s: a source twice; expected each folder once in a stage",
                                s->dirs[stage->numbers[i]]);
    return 0;
}

/* A folder goes on in a stage behind what those before it drew. */
static int open_stage(struct feed_shards *s, const struct feed_shards_spec *spec,
                      const struct shards_vocabulary *vocabulary, struct hai_err *err) {
    const struct sourceconf_stage *from = &spec->sources.stages[s->n_stages];
    struct stage *stage = &s->stages[s->n_stages];
    size_t n_max = 2 * (size_t)from->n_sources;
    _cleanup_free_ struct packing_source *sources = hai_new_array(struct packing_source, n_max);

    stage->numbers = hai_new_array(int, n_max);
    stage->n_sources = list_sources(s, from, stage->numbers, sources);
    stage->first = s->n_stages ? stage[-1].end : 0;
    stage->end =
        from->tokens ? stage->first + (from->tokens + spec->seq - 1) / spec->seq : INT64_MAX;
    const struct packing_spec packing = {
        .sources = sources,
        .n_sources = stage->n_sources,
        .vocabulary = vocabulary,
        .seed = spec->seed,
        .stride = spec->seq,
        .n_window = spec->seq + spec->n_ahead,
        .direct = true,
    };
    int r = check_once(s, stage, err);
    if (r == 0)
        r = packing_open(&packing, &s->packings[s->n_stages], err);
    s->n_stages++;
    for (int i = 0; r == 0 && from->tokens && i < stage->n_sources; i++)
        s->draws[stage->numbers[i]] =
            packing_next_draw(s->packings[s->n_stages - 1], i, stage->end - stage->first);
    return r;
}

int feed_shards_open(const struct feed_shards_spec *spec, const struct tokenizer *tokenizer,
                     struct feed **ret, struct hai_err *err) {
    const struct shards_vocabulary vocabulary = {tokenizer_digest(tokenizer),
                                                 tokenizer_n_vocab(tokenizer)};
    struct feed_shards *s = hai_new(struct feed_shards);
    _cleanup_(feed_closep) struct feed *feed = &s->base;
    size_t n_dirs = 0, n_stages = (size_t)spec->sources.n;
    int r = 0;

    for (size_t k = 0; k < n_stages; k++)
        n_dirs += 2 * (size_t)spec->sources.stages[k].n_sources;
    s->base = (struct feed){.type = &shards_feed,
                            .seq = spec->seq,
                            .window = spec->seq + spec->n_ahead,
                            .n_seqs_max = spec->within ? spec->seq : 1,
                            .seed = spec->seed};
    s->within = spec->within;
    s->stages = hai_new_array(struct stage, n_stages);
    s->packings = hai_new_array(struct packing *, n_stages);
    s->dirs = hai_new_array(const char *, n_dirs);
    s->draws = hai_new_array(int64_t, n_dirs);
    while (r == 0 && s->n_stages < spec->sources.n)
        r = open_stage(s, spec, &vocabulary, err);
    if (r == 0)
        r = packahead_new(s->packings, s->n_stages, (int)spec->n_read_ahead, &s->ahead, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(feed);
    return 0;
}
