#include "engine/data/corpus.h"
#include "engine/data/sampler.h"
#include "engine/data/textfiles.h"
#include "lib/fileio.h"
#include "lib/gzip.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* gzip of "hello\n", made by gzip -n. */
static const char hello_gz[] =
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\xe7\x02"
    "\x00\x20\x30\x3a\x36\x06\x00\x00\x00";

TEST(gzip)
{
    _cleanup_(buf_free) struct buf b = {0}, twice = {0};
    struct hai_err err = {0};
    size_t n = sizeof hello_gz - 1;

    CHECK(gzip_is(hello_gz, n));
    CHECK(!gzip_is("x", 1));
    buf_add(&twice, hello_gz, n);
    buf_add(&twice, hello_gz, n);
    CHECK_EQ(gzip_unpack(twice.data, twice.n_bytes, 100, &b, &err), 0, "%s", err.text);
    CHECK_STR(buf_cstr(&b), "hello\nhello\n");
    CHECK_EQ(gzip_unpack(twice.data, twice.n_bytes, 5, &b, &err), -EFBIG);
    for (size_t i = 0; i < n; i++)
        CHECK_EQ(gzip_unpack(hello_gz, i, 100, &b, &err), -EBADMSG, "%zu", i);
}

/* Every window of an epoch once, whatever the number of windows; another epoch in another order. */
TEST(an_epoch_visits_every_window_once)
{
    static const int64_t counts[] = {1, 2, 3, 7, 64, 1000, 4097};

    for (size_t k = 0; k < ARRAY_SIZE(counts); k++) {
        int64_t n = counts[k], window = 10, n_tokens = (n + 1) * window + 3;
        int64_t n_same = 0;
        _cleanup_free_ int *seen = hai_new_array(int, (size_t)n);
        CHECK_EQ(sampler_epoch(n_tokens, window), n);
        for (int64_t epoch = 0; epoch < 2; epoch++)
            for (int64_t i = 0; i < n; i++) {
                int64_t at = sampler_start(7, epoch * n + i, n_tokens, window);
                CHECK(at >= 0 && at + window <= n_tokens, "%d", (int)at);
                seen[at / window -
                     (at % window < sampler_start(7, epoch * n, n_tokens, window) % window)]++;
                n_same += epoch && at / window == sampler_start(7, i, n_tokens, window) / window;
            }
        for (int64_t i = 0; i < n; i++)
            CHECK_EQ(seen[i], 2, "window %d of %d", (int)i, (int)n);
        CHECK(n < 64 || n_same < n / 8, "%d of %d at the same place", (int)n_same, (int)n);
    }
    CHECK(sampler_start(1, 0, 100000, 10) != sampler_start(2, 0, 100000, 10));
    CHECK_EQ(sampler_start(1, 5, 10, 10), 0);
}

static void scratch_file(const char *dir, const char *name, const void *data, size_t n) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);
    struct hai_err err = {0};

    CHECK_EQ(fileio_replace(path, data, n, 0644, &err), 0, "%s", err.text);
}

TEST(documents_become_tokens)
{
    char dir[] = "/tmp/hai-test-XXXXXX";
    struct hai_err err = {0};
    struct corpus *c = NULL;
    int32_t ids[9];

    CHECK(mkdtemp(dir));
    _cleanup_free_ char *sub = hai_asprintf("%s/text/sub", dir);
    _cleanup_free_ char *text = hai_asprintf("%s/text", dir);
    _cleanup_free_ char *link = hai_asprintf("%s/text/link", dir);
    _cleanup_free_ char *pattern = hai_asprintf("%s/text/s*", dir);
    _cleanup_free_ char *cache = hai_asprintf("%s/cache", dir);
    _cleanup_free_ char *nothing = hai_asprintf("%s/nothing*", dir);
    CHECK_EQ(fileio_mkdir_p(sub, 0755, &err), 0);
    scratch_file(text, "b.gz", hello_gz, sizeof hello_gz - 1);
    scratch_file(text, "a", "ab", 2);
    scratch_file(text, "binary", "a\0b", 3);
    scratch_file(sub, "c", "x\xff", 2);
    CHECK_EQ(symlink("a", link), 0);

    _cleanup_(tokenizer_freep) struct tokenizer *t = tokenizer_new_bytes();
    struct corpus_source source = {&text, 1, 0};
    static const int32_t expected[] = {256, 'a', 'b',  257, 256, 'h', 'e',  'l',
                                       'l', 'o', '\n', 257, 256, 'x', 0xff, 257};
    for (int i = 0; i < 2; i++) { // made, then found
        CHECK_EQ(corpus_open(&source, t, cache, &c, &err), 0, "%s", err.text);
        if (!c)
            return;
        CHECK_EQ(corpus_n_tokens(c), 16);
        CHECK_EQ(corpus_n_documents(c), 3);
        for (int64_t k = 0; k < 6; k++) {
            corpus_sample(c, 3, k, 4, ids);
            int64_t at = sampler_start(3, k, 16, 4);
            CHECK(!memcmp(ids, expected + at, 16));
        }
        corpus_free(TAKE_PTR(c));
    }
    source.n_bytes_max = 8;
    CHECK_EQ(corpus_open(&source, t, cache, &c, &err), 0, "%s", err.text);
    CHECK_EQ(corpus_n_tokens(c), 12);
    corpus_free(TAKE_PTR(c));
    source = (struct corpus_source){&pattern, 1, 0};
    CHECK_EQ(corpus_open(&source, t, cache, &c, &err), 0, "%s", err.text);
    CHECK_EQ(corpus_n_tokens(c), 4);
    corpus_free(TAKE_PTR(c));
    source.paths = &nothing;
    CHECK_EQ(corpus_open(&source, t, cache, &c, &err), -ENOENT);
    CHECK(strstr(err.text, "nothing*"), "%s", err.text);
    fileio_remove_tree(dir, NULL);
}

/* Eight processes at once: one makes the tokens, all see the same. */
TEST(ranks_share_one_file)
{
    char dir[] = "/tmp/hai-test-XXXXXX", *paths[] = {"tests/fixtures/README.md", "lib/*.c"};
    int status;

    CHECK(mkdtemp(dir));
    for (int i = 0; i < 8; i++)
        if (fork() == 0) {
            _cleanup_(tokenizer_freep) struct tokenizer *t = tokenizer_new_bytes();
            struct corpus_source source = {paths, 2, 0};
            struct corpus *c = NULL;
            struct hai_err err = {0};
            int r = corpus_open(&source, t, dir, &c, &err);
            uint64_t digest = r < 0 ? 0 : corpus_digest(c);
            corpus_free(c);
            _exit(r < 0 ? 255 : (int)(1 + digest % 200));
        }
    int first = -1;
    while (wait(&status) > 0) {
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) < 255 && WEXITSTATUS(status) > 0);
        first = first < 0 ? WEXITSTATUS(status) : first;
        CHECK_EQ(WEXITSTATUS(status), first);
    }
    fileio_remove_tree(dir, NULL);
}
