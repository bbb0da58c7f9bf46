/* Samples of a run: of shards, and as micro-batches of a rank. */
#include "engine/data/shardset.h"
#include "engine/train/share.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <stdio.h>

/* A folder of shards: token i of the source is base + i % 100, in documents of 1, 2, 3, ... */
static void write_source(const char *dir, const struct tokenizer *t, int32_t base, int n_tokens) {
    const struct shards_vocabulary vocabulary = {tokenizer_digest(t), tokenizer_n_vocab(t)};
    struct shardset_writer *w = shardset_writer_new(dir, &vocabulary, 500);
    struct json *manifest = json_new_object();
    struct hai_err err = {0};
    int left = 1, length = 1;

    CHECK_EQ(fileio_mkdir_p(dir, 0755, &err), 0);
    for (int i = 0; i < n_tokens; i++) {
        int32_t id = base + i % 100;
        CHECK_EQ(shardset_writer_add(w, &id, 1, &err), 0, "%s", err.text);
        if (--left == 0) {
            CHECK_EQ(shardset_writer_end_document(w, &err), 0, "%s", err.text);
            left = ++length;
        }
    }
    CHECK_EQ(shardset_writer_finish(w, manifest, &err), 0, "%s", err.text);
    json_free(manifest);
    shardset_writer_free(w);
}

enum { SEQ = 16 };

struct world {
    char dir[32];
    char *dirs[2];
    struct sourceconf_source sources[2], later[1];
    struct sourceconf_stage stages[2];
    struct tokenizer *tokenizer;
    struct feed_shards_spec spec;
};

static void world_new(struct world *w) {
    *w = (struct world){.dir = "/tmp/hai-test-XXXXXX", .tokenizer = tokenizer_new_bytes()};
    CHECK(mkdtemp(w->dir));
    for (int i = 0; i < 2; i++) {
        w->dirs[i] = hai_asprintf("%s/%d", w->dir, i);
        w->sources[i] = (struct sourceconf_source){w->dirs[i], NULL, 1 + 2 * i};
        write_source(w->dirs[i], w->tokenizer, 100 * i, 2000);
    }
    w->stages[0] = (struct sourceconf_stage){0, 0, w->sources, 2};
    w->later[0] = (struct sourceconf_source){w->dirs[1], w->dirs[0], 1};
    w->stages[1] = (struct sourceconf_stage){0, 0.25, w->later, 1};
    w->spec = (struct feed_shards_spec){
        .sources = {w->stages, 1},
          .seq = SEQ, .n_ahead = 2, .n_read_ahead = 3, .seed = 5
    };
}

static void world_free(struct world *w) {
    CHECK_EQ(fileio_remove_tree(w->dir, NULL), 0);
    free(w->dirs[0]);
    free(w->dirs[1]);
    tokenizer_free(w->tokenizer);
}

static struct feed *open_feed(const struct world *w) {
    struct feed *feed = NULL;
    struct hai_err err = {0};

    CHECK_EQ(feed_shards_open(&w->spec, w->tokenizer, &feed, &err), 0, "%s", err.text);
    return feed;
}

/* Every window is a run of its source; sequences are documents, or there is one. */
TEST(samples_of_shards)
{
    int32_t ids[SEQ + 2], labels[SEQ + 2], starts[SEQ + 3], n_seqs;
    const struct feed_sample sample = {ids, labels, starts, &n_seqs};
    struct hai_err err = {0};
    struct world w;
    int from[2] = {0}, cuts = 0;

    world_new(&w);
    for (int within = 0; within < 2; within++) {
        w.spec.within = within;
        _cleanup_(feed_closep) struct feed *feed = open_feed(&w);
        CHECK_EQ(feed->window, SEQ + 2);
        CHECK_EQ(feed->n_seqs_max, within ? SEQ : 1);
        CHECK_EQ(feed_size(feed).n_tokens, 4000);
        for (int64_t i = 0; i < 400; i++) {
            if (i % 3)
                feed_expect(feed, i + 1);
            CHECK_EQ(feed_read(feed, i, &sample, &err), 0, "%s", err.text);
            from[ids[0] / 100]++;
            for (int k = 0; k < SEQ + 2; k++) {
                CHECK_EQ(ids[k], ids[0] / 100 * 100 + (ids[0] + k) % 100);
                CHECK_EQ(labels[k], ids[k]);
            }
            CHECK_EQ(starts[0], 0);
            CHECK_EQ(starts[n_seqs], SEQ + 2);
            CHECK(within || n_seqs == 1, "%d", n_seqs);
            cuts += n_seqs > 1;
        }
        _cleanup_(buf_free) struct buf text = {0};
        _cleanup_free_ char *wanted =
            hai_asprintf("%s %.1f %% (%d), %s %.1f %% (%d)", w.dirs[0], from[0] / 4.0, from[0],
                         w.dirs[1], from[1] / 4.0, from[1]);
        feed_tell_shares(feed, 0, 400, &text);
        CHECK_STR(buf_cstr(&text), wanted);
        CHECK(from[0] > 60 && from[0] < 140, "%d", from[0]);
        from[0] = from[1] = 0;
    }
    CHECK(cuts > 10, "%d", cuts);
    world_free(&w);
}

/* The windows of a source, in order of samples from `from` up to `to`. */
static int list_windows(struct feed *feed, int64_t from, int64_t to, int source, int *ret) {
    int32_t ids[SEQ + 2], labels[SEQ + 2], starts[SEQ + 3], n_seqs;
    const struct feed_sample sample = {ids, labels, starts, &n_seqs};
    struct hai_err err = {0};
    int n = 0;

    for (int64_t i = from; i < to; i++) {
        CHECK_EQ(feed_read(feed, i, &sample, &err), 0, "%s", err.text);
        if (ids[0] / 100 == source)
            ret[n++] = ids[0] * 1000 + ids[SEQ];
    }
    return n;
}

/* A stage ends with its tokens; the next has other weights, with a part of a source rewritten, and
 * goes on with each folder where it was left. Only what has begun tells data apart. */
TEST(stages)
{
    enum { ENDS = 120, ALL = 400 };
    struct world w;
    int whole[ALL], first[ALL], second[ALL];

    world_new(&w);
    struct feed *one = open_feed(&w);
    w.stages[0].tokens = ENDS * SEQ - 3;
    w.spec.sources.n = 2;
    struct feed *two = open_feed(&w);
    w.stages[1].fim = 0.5;
    struct feed *other = open_feed(&w);
    int n_first = list_windows(two, 0, ENDS, 1, first);
    CHECK_EQ(list_windows(one, 0, ENDS, 1, whole), n_first);
    CHECK(!memcmp(first, whole, (size_t)n_first * sizeof *whole));
    int n_second = list_windows(two, ENDS, ALL, 1, second);
    CHECK(n_second > 180 && n_second < 240, "a quarter of 280 is the other folder's: %d", n_second);
    CHECK(n_first > 70 && n_first < 110, "%d", n_first);
    for (int64_t i = 0; i < ENDS; i++)
        CHECK_EQ(list_windows(two, i, i + 1, 0, second), list_windows(one, i, i + 1, 0, whole));
    CHECK(feed_digest(one, 0) == feed_digest(two, 0));
    CHECK(feed_digest(one, ENDS) == feed_digest(two, ENDS));
    CHECK(feed_digest(one, ENDS + 1) != feed_digest(two, ENDS + 1));
    CHECK(feed_digest(two, ENDS) == feed_digest(other, ENDS));
    CHECK(feed_digest(two, ENDS + 1) != feed_digest(other, ENDS + 1));
    CHECK_EQ(feed_size(two).n_tokens, 4000);
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_free_ char *part =
        hai_asprintf("%s %.1f %% (%d)", w.dirs[1], (n_first + n_second) / 4.0, n_first + n_second);
    feed_tell_shares(two, 0, ALL, &text);
    CHECK(strstr(buf_cstr(&text), part), "%s: %s", buf_cstr(&text), part);
    feed_close(one);
    feed_close(two);
    feed_close(other);
    world_free(&w);
}

TEST(a_folder_twice)
{
    struct feed *feed = NULL;
    struct hai_err err = {0};
    struct world w;

    world_new(&w);
    w.sources[0].middle = w.dirs[1];
    w.stages[0].fim = 0.1;
    CHECK_EQ(feed_shards_open(&w.spec, w.tokenizer, &feed, &err), -EINVAL);
    CHECK(strstr(err.text, "/1: a source twice; expected each folder once"), "%s", err.text);
    world_free(&w);
}

TEST(shards_of_another_tokenizer)
{
    _cleanup_(tokenizer_freep) struct tokenizer *other = NULL;
    struct hai_err err = {0};
    struct feed *feed = NULL;
    struct world w;

    world_new(&w);
    CHECK_EQ(tokenizer_read("tests/fixtures/tokenizer/tiny", &other, &err), 0, "%s", err.text);
    CHECK_EQ(feed_shards_open(&w.spec, other, &feed, &err), -EMEDIUMTYPE);
    CHECK(strstr(err.text, "its vocabulary of 258 ids is another one"), "%s", err.text);
    world_free(&w);
}

/* Sample i has tokens 10 i + 0, 1, 2, ...; sequences of two, three, ... tokens from number i on. */
static int counted_read(struct feed *f, int64_t index, const struct feed_sample *ret,
                        struct hai_err *err) {
    int32_t n = 0;

    for (int32_t k = 0; k < f->window; k++) {
        ret->ids[k] = (int32_t)index * 10 + k;
        ret->labels[k] = k % 5 == 4 ? -100 : ret->ids[k];
    }
    for (int32_t at = 0; at < f->window; at += 1 + n)
        ret->seq_start[n++] = at;
    ret->seq_start[n] = (int32_t)f->window;
    *ret->n_seqs = n;
    return index < 90 ? 0 : hai_fail(err, -EIO, "sample %d", (int)index);
}

static const struct feed_type counted = {.name = "counted", .read = counted_read};

/* Windows of 8 + 2 tokens in sequences of 2, 3, 4 and 1 (which has no input). */
TEST(windows_become_inputs_and_targets)
{
    static const int32_t starts[] = {0, 2, 5, 8}, rows[] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const int32_t next[] = {1, -1, 3, 4, -1, 6, 7, 8};
    static const int32_t targets[] = {1, -1, 3, -1, -1, 6, 7, 8};
    static const int32_t mtp_targets[] = {-1, -1, -1, -1, -1, 7, 8, -1};
    struct feed feed = {.type = &counted, .seq = 8, .window = 10, .n_seqs_max = 4};
    struct hai_err err = {0};
    _cleanup_(share_freep) struct share *s = share_new(&feed, 5, 2);

    CHECK_EQ(share_n_seqs_max(&feed, 2), 8);
    CHECK_EQ(share_read(s, &feed, 3, 5, &err), 0);
    CHECK_EQ(share_n_batches(s), 3);
    for (int64_t b = 0; b < 3; b++) {
        struct model_batch batch = share_batch(s, b);
        int64_t n = b < 2 ? 2 : 1;
        CHECK_EQ(batch.n_tokens, 8 * n);
        CHECK_EQ(batch.n_seqs, 3 * n);
        CHECK(!batch.labels);
        for (int64_t i = 0; i < 8 * n; i++) {
            int32_t base = (int32_t)(3 + 2 * b + i / 8) * 10;
            CHECK_EQ(batch.ids[i], base + rows[i % 8]);
            CHECK_EQ(batch.next_ids[i], next[i % 8] < 0 ? -1 : base + next[i % 8]);
            CHECK_EQ(batch.targets[i] < 0 ? -1 : batch.targets[i],
                     targets[i % 8] < 0 ? -1 : base + targets[i % 8]);
            CHECK_EQ(batch.mtp_targets[i] < 0 ? -1 : batch.mtp_targets[i],
                     mtp_targets[i % 8] < 0 ? -1 : base + mtp_targets[i % 8]);
        }
        for (int64_t k = 0; k <= 3 * n; k++)
            CHECK_EQ(batch.seq_start[k], k < 3 * n ? k / 3 * 8 + starts[k % 3] : 8 * n);
    }
    CHECK_EQ(share_read(s, &feed, 3, 0, &err), 0);
    CHECK_EQ(share_n_batches(s), 0);
    CHECK_EQ(share_read(s, &feed, 88, 3, &err), -EIO);
    CHECK_STR(err.text, "sample 90");
}
