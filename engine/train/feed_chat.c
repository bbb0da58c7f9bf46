#include "engine/data/conversation.h"
#include "engine/data/sampler.h"
#include "engine/data/textfiles.h"
#include "engine/train/feed.h"
#include "kernels/philox.h"
#include "lib/digest.h"

#include <inttypes.h>

/* Conversation i has tokens start[i] up to start[i + 1]. */
struct feed_chat {
    struct feed base;
    struct conversation all; // one after another
    int64_t *start;
    int64_t n, n_max;
    int64_t n_long; // cut to seq, or left out as nothing counted was left
    bool cut;
    uint64_t key; // of the order
    // The epoch that was looked at last: its samples are first_index and on, sample k of it has
    // places bounds[k] up to bounds[k + 1] of its order.
    int64_t epoch, first_index, n_samples;
    int64_t *bounds;
};

static int64_t length_of(const struct feed_chat *c, int64_t i) {
    return c->start[i + 1] - c->start[i];
}

static bool counts_from(const struct feed_chat *c, int64_t from) {
    for (size_t i = (size_t)from; i < c->all.ids.n; i++)
        if (c->all.counts.data[i] && (int64_t)i > from) // nothing predicts the first token
            return true;
    return false;
}

/* The conversation just read is kept, cut, or left out. */
static int add(struct feed_chat *c, struct hai_err *err) {
    int64_t from = c->n ? c->start[c->n] : 0, n = (int64_t)c->all.ids.n - from;

    if (n > c->base.seq && !c->cut)
        return hai_fail(err, -E2BIG,
                        "%" PRId64 " tokens; expected at most seq, %" PRId64
                        " ('data.long: cut' keeps the first of them)",
                        n, c->base.seq);
    if (n > c->base.seq) {
        c->n_long++;
        c->all.ids.n = (size_t)(from + c->base.seq);
        c->all.counts.n_bytes = c->all.ids.n;
    }
    if (!counts_from(c, from)) {
        c->all.ids.n = c->all.counts.n_bytes = (size_t)from;
        return 0;
    }
    if (c->n + 2 > c->n_max) {
        c->n_max = MAX(INT64_C(1024), 2 * c->n_max);
        c->start = hai_realloc_array(c->start, (size_t)c->n_max, sizeof *c->start);
        c->start[0] = 0;
    }
    c->start[++c->n] = (int64_t)c->all.ids.n;
    return 0;
}

static bool is_blank(const char *line, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r", line[i]))
            return false;
    return true;
}

static int read_file(struct feed_chat *c, const char *path, const struct chat *chat,
                     struct tokenizer *t, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    int64_t number = 1;
    size_t n = 0;
    int r = textfiles_read(path, &text, err);

    if (r <= 0)
        return r;
    for (size_t at = 0; at < text.n_bytes; at += n + 1, number++) {
        const char *line = (const char *)text.data + at;
        const char *end = memchr(line, '\n', text.n_bytes - at);
        n = end ? (size_t)(end - line) : text.n_bytes - at;
        if (is_blank(line, n))
            continue;
        r = conversation_read(line, n, chat, t, &c->all, err);
        if (r == 0)
            r = add(c, err);
        if (r < 0) {
            hai_err_prefix(err, "%s:%" PRId64 ": ", path, number);
            return r;
        }
    }
    return 0;
}

static int read_all(struct feed_chat *c, const struct feed_chat_spec *spec, struct tokenizer *t,
                    struct hai_err *err) {
    _cleanup_(textfiles_free) struct textfiles files = {0};
    _cleanup_(chat_freep) struct chat *chat = NULL;
    int r = chat_open(spec->model, t, spec->form, &chat, err);

    for (size_t i = 0; r == 0 && i < spec->source.n_paths; i++)
        r = textfiles_find(spec->source.paths[i], &files, err);
    for (size_t i = 0; r == 0 && i < files.n; i++)
        r = read_file(c, files.paths[i], chat, t, err);
    if (r == 0 && !c->n)
        r = hai_fail(err, -ENODATA, "data: no conversations in %zu files", files.n);
    return r;
}

/* Cut an epoch's order into samples: each takes conversations as they come while they fit. */
static void pack(struct feed_chat *c, int64_t epoch, int64_t first_index) {
    int64_t used = 0;

    c->epoch = epoch;
    c->first_index = first_index;
    c->n_samples = 0;
    for (int64_t place = 0; place < c->n; place++) {
        int64_t n = length_of(c, sampler_permute(c->key, epoch, place, c->n));
        if (!place || used + n > c->base.seq) {
            c->bounds[c->n_samples++] = place;
            used = 0;
        }
        used += n;
    }
    c->bounds[c->n_samples] = c->n;
}

/* Make the epoch of a sample the one at hand. How many samples an epoch has follows from its order,
 * so those before it are gone through. */
static void find_epoch(struct feed_chat *c, int64_t index) {
    if (index < c->first_index)
        pack(c, 0, 0);
    while (index >= c->first_index + c->n_samples)
        pack(c, c->epoch + 1, c->first_index + c->n_samples);
}

static int chat_read(struct feed *f, int64_t index, const struct feed_sample *ret,
                     struct hai_err *err) {
    struct feed_chat *c = (struct feed_chat *)f;
    int32_t at = 0, n_seqs = 0;

    find_epoch(c, index);
    const int64_t *bound = &c->bounds[index - c->first_index];
    for (int64_t place = bound[0]; place < bound[1]; place++) {
        int64_t i = sampler_permute(c->key, c->epoch, place, c->n), n = length_of(c, i);
        ret->seq_start[n_seqs++] = at;
        for (int64_t k = c->start[i]; k < c->start[i + 1]; k++, at++) {
            ret->ids[at] = c->all.ids.ids[k];
            ret->labels[at] = c->all.counts.data[k] ? ret->ids[at] : -1;
        }
        assert(n > 0);
    }
    ret->seq_start[n_seqs] = at;
    *ret->n_seqs = n_seqs;
    return 0;
}

static uint64_t digest(const struct feed *f, int64_t n_samples) {
    (void)n_samples; // all of them are
    const struct feed_chat *c = (const struct feed_chat *)f;
    _cleanup_(buf_free) struct buf b = {0};

    buf_add_u64(&b, digest_xxh3(c->all.ids.ids, c->all.ids.n * sizeof *c->all.ids.ids));
    buf_add_u64(&b, digest_xxh3(c->all.counts.data, c->all.counts.n_bytes));
    buf_add_u64(&b, digest_xxh3(c->start, (size_t)(c->n + 1) * sizeof *c->start));
    buf_add_u64(&b, (uint64_t)f->seq);
    buf_add_u64(&b, f->seed);
    return digest_xxh3(b.data, b.n_bytes);
}

static struct feed_size size(const struct feed *f) {
    const struct feed_chat *c = (const struct feed_chat *)f;

    return (struct feed_size){(int64_t)c->all.ids.n, c->n};
}

static void chat_close(struct feed *f) {
    struct feed_chat *c = (struct feed_chat *)f;

    conversation_free(&c->all);
    free(c->start);
    free(c->bounds);
    free(c);
}

static const struct feed_type chat_feed = {
    .name = "chat", .read = chat_read, .digest = digest, .size = size, .close = chat_close};

int feed_chat_open(const struct feed_chat_spec *spec, struct tokenizer *tokenizer,
                   struct feed **ret, struct hai_err *err) {
    struct feed_chat *c = hai_new(struct feed_chat);
    _cleanup_(feed_closep) struct feed *feed = &c->base;
    struct philox_counter at = philox_at(PHILOX_SHUFFLE, 0, 0, 0);
    uint32_t words[4];

    c->base = (struct feed){.type = &chat_feed,
                            .seq = spec->seq,
                            .window = spec->seq,
                            .n_seqs_max = spec->seq,
                            .seed = spec->seed};
    c->cut = spec->cut;
    philox_words(spec->seed, &at, words);
    c->key = (uint64_t)words[0] << 32 | words[1];
    int r = read_all(c, spec, tokenizer, err);
    if (r < 0)
        return r;
    c->bounds = hai_new_array(int64_t, (size_t)c->n + 1);
    pack(c, 0, 0);
    *ret = TAKE_PTR(feed);
    return 0;
}
