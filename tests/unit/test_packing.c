#include "engine/data/packahead.h"
#include "engine/data/sampler.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdio.h>

enum { VOCABULARY = 100000 };

static const struct shards_vocabulary vocabulary = {3, VOCABULARY};

/* A source whose token i is base + i, in documents of 1, 2, 3, ... tokens, shards of 500. */
static void write_source(const char *dir, int32_t base, int64_t n_tokens) {
    struct hai_err err = {0};
    struct shardset_writer *w = shardset_writer_new(dir, &vocabulary, 500);
    struct json *manifest = json_new_object();
    int64_t left = 1, length = 1;

    CHECK_EQ(fileio_mkdir_p(dir, 0755, &err), 0);
    for (int64_t i = 0; i < n_tokens; i++) {
        int32_t id = base + (int32_t)i;
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

struct world {
    char dir[32];
    char *dirs[3];
    struct packing_source sources[3];
    struct packing_spec spec;
};

static const int64_t sizes[] = {1000, 3217, 64};

static void world_new(struct world *w) {
    static const double weights[] = {5, 2.5, 1};

    *w = (struct world){.dir = "/tmp/hai-test-XXXXXX"};
    CHECK(mkdtemp(w->dir));
    for (int i = 0; i < 3; i++) {
        w->dirs[i] = hai_asprintf("%s/%d", w->dir, i);
        write_source(w->dirs[i], i * 10000, sizes[i]);
        w->sources[i] = (struct packing_source){w->dirs[i], weights[i], 0, 0};
    }
    w->spec = (struct packing_spec){
        .sources = w->sources, .n_sources = 3, .seed = 4, .stride = 16, .n_window = 17};
}

static void world_free(struct world *w) {
    fileio_remove_tree(w->dir, NULL);
    for (int i = 0; i < 3; i++)
        free(w->dirs[i]);
}

static struct packing *open_packing(const struct packing_spec *spec) {
    struct packing *p = NULL;
    struct hai_err err = {0};

    CHECK_EQ(packing_open(spec, &p, &err), 0, "%s", err.text);
    return p;
}

/* Each draw of each source comes once; every token of a source is an input in each of its epochs,
 * less than a window of them twice. */
TEST(every_token_is_accounted_for)
{
    struct world w;

    world_new(&w);
    struct packing *p = open_packing(&w.spec);
    int64_t n_draws[3] = {0};
    uint8_t *inputs[3];
    const int64_t epochs = 2;
    for (int s = 0; s < 3; s++) {
        CHECK_EQ(packing_epoch(p, s), (sizes[s] + 15) / 16);
        inputs[s] = hai_alloc((size_t)(sizes[s] * epochs));
    }
    // A cycle deals out draws in an order of its own: those of the first epochs are all in it.
    for (int64_t i = 0; i < PACKING_CYCLE; i++) {
        struct packing_place at = packing_find(p, i);
        n_draws[at.source]++;
        CHECK_EQ(at.epoch, at.draw / packing_epoch(p, at.source));
        for (int64_t k = 0; k < 16 && at.epoch < epochs; k++)
            inputs[at.source][at.epoch * sizes[at.source] + (at.first + k) % sizes[at.source]]++;
    }
    for (int s = 0; s < 3; s++) {
        int64_t n_twice = 0, n_missing = 0;
        for (int64_t i = 0; i < sizes[s] * epochs; i++) {
            n_missing += inputs[s][i] == 0;
            n_twice += inputs[s][i] > 1;
        }
        CHECK_EQ(n_missing, 0, "source %d", s);
        CHECK_EQ(n_twice, epochs * (packing_epoch(p, s) * 16 - sizes[s]), "source %d", s);
        CHECK_EQ(n_draws[s], (int64_t)(packing_share(p, s) * PACKING_CYCLE));
        free(inputs[s]);
    }
    packing_close(p);
    world_free(&w);
}

/* Shares are weights, to one sample of a cycle; counts are those of the samples found one by one.
 */
TEST(shares_are_realised)
{
    static const int64_t ranges[][2] = {
        {0,     0     },
        {0,     1     },
        {5,     2000  },
        {65000, 67000 },
        {0,     131072},
        {60000, 200000},
        {65536, 131072}
    };
    struct world w;

    world_new(&w);
    struct packing *p = open_packing(&w.spec);
    for (int s = 0; s < 3; s++) {
        double off = packing_share(p, s) - w.sources[s].weight / 8.5;
        CHECK(off < 1.0 / PACKING_CYCLE && off > -1.0 / PACKING_CYCLE, "%g", off);
    }
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        int64_t found[3] = {0}, counted[3];
        for (int64_t k = ranges[i][0]; k < ranges[i][1]; k++)
            found[packing_find(p, k).source]++;
        packing_count(p, ranges[i][0], ranges[i][1], counted);
        for (int s = 0; s < 3; s++)
            CHECK_EQ(counted[s], found[s], "range %zu, source %d", i, s);
    }
    packing_close(p);
    world_free(&w);
}

/* Ids and sequences of samples, with and without the page cache, against what was written. */
TEST(samples_hold_what_was_written)
{
    struct world w;
    int32_t ids[17], starts[18];
    struct hai_err err = {0};
    int n;

    world_new(&w);
    for (int direct = 0; direct < 2; direct++) {
        w.spec.direct = direct;
        struct packing *p = open_packing(&w.spec);
        _cleanup_free_ void *room = aligned_alloc(SHARDS_ALIGN, packing_room(p));
        for (int64_t i = 0; i < 3000; i++) {
            struct packing_place at = packing_find(p, i);
            int64_t size = sizes[at.source], bad = 0;
            CHECK_EQ(packing_read(p, i, room, ids, starts, &n, &err), 0, "%s", err.text);
            CHECK(n >= 1 && starts[0] == 0 && starts[n] == 17, "%d", n);
            for (int64_t k = 0, s = 0; k < 17; k++) {
                int64_t token = (at.first + k) % size, d = 0;
                bad += ids[k] != at.source * 10000 + token;
                while (d * (d + 1) / 2 < token)
                    d++;
                bool is_start = k == 0 || d * (d + 1) / 2 == token;
                bad += is_start != (s < n && starts[s] == k);
                s += is_start;
            }
            CHECK_EQ(bad, 0, "sample %d", (int)i);
        }
        packing_close(p);
    }
    world_free(&w);
}

/* A packing that goes on where another ended draws nothing again, and leaves out less than a
 * cycle's draws; the order of the source is the same. */
TEST(another_packing_goes_on)
{
    enum { SAMPLES = 1000 };
    _cleanup_free_ uint8_t *seen = hai_new_array(uint8_t, 2 * PACKING_CYCLE);
    struct world w;

    world_new(&w);
    struct packing *p = open_packing(&w.spec);
    w.spec.n_sources = 1;
    w.sources[0] = w.sources[1];
    w.sources[0].number = 2;
    w.sources[0].first_draw = packing_next_draw(p, 1, SAMPLES);
    struct packing *next = open_packing(&w.spec);
    int64_t bound = packing_next_draw(p, 1, 1), n = 0;
    CHECK_EQ(packing_next_draw(p, 1, 0), 0);
    CHECK_EQ(packing_next_draw(p, 1, PACKING_CYCLE), bound);
    CHECK_EQ(packing_next_draw(p, 1, PACKING_CYCLE + 1), 2 * bound);
    for (int64_t i = 0; i < 2 * SAMPLES; i++) {
        struct packing_place at = packing_find(i < SAMPLES ? p : next, i % SAMPLES);
        if (i < SAMPLES && at.source != 1)
            continue;
        CHECK(i < SAMPLES ? at.draw < bound : at.draw >= bound);
        CHECK_EQ(seen[at.draw]++, 0, "draw %d", (int)at.draw);
        n++;
    }
    CHECK(n > SAMPLES + SAMPLES / 4);
    // The same draw is the same window in both.
    for (int64_t i = 0; i < 2 * PACKING_CYCLE; i++) {
        struct packing_place a = packing_find(p, i), b;
        if (a.source != 1 || a.draw < bound)
            continue;
        for (int64_t k = 0; k < PACKING_CYCLE; k += 997) {
            b = packing_find(next, k);
            if (b.draw == a.draw)
                CHECK_EQ(a.first, b.first);
        }
        if (i > PACKING_CYCLE + 2000)
            break;
    }
    packing_close(p);
    packing_close(next);
    world_free(&w);
}

/* Any world size cuts a batch so that each sample comes once, shares differing by one at most. */
TEST(every_rank_has_its_own)
{
    static const int worlds[] = {1, 2, 3, 5, 8, 13};

    for (size_t w = 0; w < ARRAY_SIZE(worlds); w++)
        for (int64_t batch = 1; batch < 30; batch++) {
            int64_t next = 0;
            for (int rank = 0; rank < worlds[w]; rank++) {
                struct sampler_share share = sampler_share(batch, rank, worlds[w]);
                CHECK_EQ(share.first, next, "%d of %d", rank, worlds[w]);
                CHECK(share.n == batch / worlds[w] ||
                      (share.n == batch / worlds[w] + 1 && rank < batch % worlds[w]));
                next += share.n;
            }
            CHECK_EQ(next, batch, "%d ranks", worlds[w]);
        }
}

static void check_taken(struct packahead *a, struct packing *const *packings, int which,
                        int64_t index) {
    _cleanup_free_ void *room = aligned_alloc(SHARDS_ALIGN, packing_room(packings[which]));
    int64_t n_window = packing_n_window(packings[which]);
    int32_t ids[33], starts[34];
    struct hai_err err = {0};
    struct packahead_sample sample;
    int n;

    CHECK_EQ(packahead_take(a, which, index, &sample, &err), 0, "%s", err.text);
    CHECK_EQ(packing_read(packings[which], index, room, ids, starts, &n, &err), 0);
    CHECK_EQ(sample.n_seqs, n);
    CHECK(!memcmp(sample.ids, ids, (size_t)n_window * sizeof *ids));
    CHECK(!memcmp(sample.seq_start, starts, (size_t)(n + 1) * sizeof *starts));
}

/* What comes through the thread is what is read without it: expected in order, not expected at all,
 * expected and left out, from two packings in turn. */
TEST(reading_ahead_changes_nothing)
{
    struct world w;
    struct hai_err err = {0};

    world_new(&w);
    w.spec.direct = true;
    struct packing *packings[2] = {open_packing(&w.spec)};
    w.spec.stride = 32;
    w.spec.n_window = 33;
    packings[1] = open_packing(&w.spec);
    for (int n_ahead = 1; n_ahead < 40; n_ahead += 13) {
        struct packahead *a = NULL;
        CHECK_EQ(packahead_new(packings, 2, n_ahead, &a, &err), 0, "%s", err.text);
        int64_t next = 0; // to be expected
        for (int64_t i = 0; i < 200; i++) {
            int which = (int)(i / 50 % 2);
            next = MAX(next, i);
            while (i % 50 < 40 && next / 50 == i / 50 && packahead_expect(a, which, next))
                next++;
            check_taken(a, packings, which, i);
            if (i % 7)
                continue;
            check_taken(a, packings, 1, 1000 + i); // what was expected does not come
            next = i + 1;
        }
        CHECK(packahead_n_waits(a) <= 400);
        packahead_free(a);
    }
    packing_close(packings[0]);
    packing_close(packings[1]);
    world_free(&w);
}

/* A damaged block is an error for who asks for its sample, not for the ones before it; mended, the
 * same sample comes. */
TEST(reading_ahead_reports_damage)
{
    struct world w;
    struct hai_err err = {0};
    struct packahead *a = NULL;
    struct packahead_sample sample;
    uint8_t byte, flipped;

    world_new(&w);
    w.spec.n_sources = 1;
    struct packing *p = open_packing(&w.spec);
    _cleanup_free_ char *path = hai_asprintf("%s/shard-00001.hai", w.dirs[0]);
    _cleanup_(closep) int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQ(pread(fd, &byte, 1, SHARDS_ALIGN + 8), 1);
    flipped = byte ^ 1;
    CHECK_EQ(pwrite(fd, &flipped, 1, SHARDS_ALIGN + 8), 1);
    CHECK_EQ(packahead_new(&p, 1, 4, &a, &err), 0);
    int64_t i = 0, expected = 0;
    for (int r = 0; r == 0 && i < 70; i += r == 0) {
        while (packahead_expect(a, 0, expected))
            expected++;
        r = packahead_take(a, 0, i, &sample, &err);
    }
    CHECK(i < 70);
    CHECK(strstr(err.text, "shard-00001.hai: checksum of the block 0 is"), "%s", err.text);
    CHECK_EQ(packahead_take(a, 0, i, &sample, &err), -EBADMSG);
    CHECK_EQ(pwrite(fd, &byte, 1, SHARDS_ALIGN + 8), 1);
    check_taken(a, &p, 0, i);
    packahead_free(a);
    packing_close(p);
    world_free(&w);
}

static const struct {
    double weights[3];
    int64_t n_window;
    int r;
    const char *says;
} bad[] = {
    {{1, 0, 1},   17, -EINVAL, "/1: weight is 0; expected a number above 0"        },
    {{1, -3, 1},  17, -EINVAL, "/1: weight is -3; expected a number above 0"       },
    {{1e9, 1, 1}, 17, -EINVAL, "/1: weight is 1 of 1e+09; expected at least one of"},
    {{1, 1, 1},   99, -EINVAL, "/2: 64 tokens; expected at least 99, one sample"   },
};

TEST(specs_that_cannot_be)
{
    struct world w;
    struct packing *p = NULL;

    world_new(&w);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct hai_err err = {0};
        for (int s = 0; s < 3; s++)
            w.sources[s].weight = bad[i].weights[s];
        w.spec.n_window = bad[i].n_window;
        CHECK_EQ(packing_open(&w.spec, &p, &err), bad[i].r);
        CHECK(strstr(err.text, bad[i].says), "%s", err.text);
    }
    struct hai_err err = {0};
    w.spec.vocabulary = &(struct shards_vocabulary){3, 7};
    CHECK_EQ(packing_open(&w.spec, &p, &err), -EMEDIUMTYPE, "%s", err.text);
    world_free(&w);
}

/* Seed, weights and files tell data apart. */
TEST(digests)
{
    struct world w;

    world_new(&w);
    struct packing *p = open_packing(&w.spec), *same = open_packing(&w.spec);
    w.spec.seed++;
    struct packing *seeded = open_packing(&w.spec);
    w.spec.seed--;
    w.sources[1].weight = 3;
    struct packing *weighed = open_packing(&w.spec);
    CHECK(packing_digest(p) == packing_digest(same));
    CHECK(packing_digest(p) != packing_digest(seeded));
    CHECK(packing_digest(p) != packing_digest(weighed));
    packing_close(p);
    packing_close(same);
    packing_close(seeded);
    packing_close(weighed);
    world_free(&w);
}
