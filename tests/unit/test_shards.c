#include "engine/data/shards.h"
#include "engine/data/shardset.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <sys/stat.h>

/* Token i of a stream, of a vocabulary. */
static int32_t token(int64_t i, int32_t n_vocab) {
    return (int32_t)((uint64_t)(i + 1) * 0x9E3779B97F4A7C15u >> 33) % n_vocab;
}

/* Documents of the lengths given, numbered through from token `first` on. */
static void write_file(const char *path, int32_t n_vocab, const int64_t *lengths, size_t n,
                       uint64_t *ret_digest) {
    _cleanup_(shards_writer_freep) struct shards_writer *w = NULL;
    const struct shards_vocabulary vocabulary = {77, n_vocab};
    struct hai_err err = {0};
    int64_t at = 0;

    (void)unlink(path);
    CHECK_EQ(shards_writer_new(path, &vocabulary, &w, &err), 0, "%s", err.text);
    for (size_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < lengths[i]; k++) {
            int32_t id = token(at++, n_vocab);
            CHECK_EQ(shards_writer_add(w, &id, 1, &err), 0, "%s", err.text);
        }
        shards_writer_end_document(w);
        shards_writer_end_document(w); // nothing happens
    }
    CHECK(access(path, F_OK) < 0);
    CHECK_EQ(shards_writer_finish(w, ret_digest, &err), 0, "%s", err.text);
}

static void check_reads(const struct shard *s, int64_t first, int64_t n) {
    _cleanup_free_ void *room = aligned_alloc(SHARDS_ALIGN, shards_room(s, n));
    _cleanup_free_ int32_t *ids = hai_new_array(int32_t, (size_t)n);
    struct hai_err err = {0};
    int64_t bad = 0;

    CHECK_EQ(shards_read(s, first, n, room, ids, &err), 0, "%s", err.text);
    for (int64_t i = 0; i < n; i++)
        bad += ids[i] != token(first + i, shards_vocabulary(s)->n);
    CHECK_EQ(bad, 0, "%d tokens from %d", (int)n, (int)first);
}

/* Every token comes back from every place, with and without the page cache; block ends and the
 * piece of a writer's buffer among them. */
TEST(what_is_written_is_read)
{
    static const int32_t vocabularies[] = {1, 300, 65536, 65537, 129280};
    static const int64_t lengths[] = {1, 5, 70000, 1, 600000, 123};
    char dir[] = "/tmp/hai-test-XXXXXX";
    struct hai_err err = {0};

    CHECK(mkdtemp(dir));
    _cleanup_free_ char *path = hai_asprintf("%s/a.hai", dir);
    for (size_t v = 0; v < ARRAY_SIZE(vocabularies); v++)
        for (int direct = 0; direct < 2; direct++) {
            _cleanup_(shards_closep) struct shard *s = NULL;
            uint64_t digest = 0;
            write_file(path, vocabularies[v], lengths, ARRAY_SIZE(lengths), &digest);
            CHECK_EQ(shards_open(path, direct, &s, &err), 0, "%s", err.text);
            if (!s)
                return;
            int64_t n = shards_n_tokens(s), at = 0;
            CHECK_EQ(n, 670130);
            CHECK_EQ(shards_n_documents(s), ARRAY_SIZE(lengths));
            CHECK(shards_digest(s) == digest);
            CHECK_EQ(shards_vocabulary(s)->n, vocabularies[v]);
            for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
                CHECK_EQ(shards_document(s, (int64_t)i), at);
                CHECK_EQ(shards_document_of(s, at), i);
                CHECK_EQ(shards_document_of(s, at + lengths[i] - 1), i);
                at += lengths[i];
            }
            CHECK_EQ(shards_document(s, ARRAY_SIZE(lengths)), n);
            check_reads(s, 0, n);
            check_reads(s, n - 1, 1);
            check_reads(s, 32767, 2);
            check_reads(s, 16383, 40000);
            check_reads(s, 524287, 3);
            check_reads(s, 5, 0);
        }
    fileio_remove_tree(dir, NULL);
}

/* An unfinished file leaves nothing; one without documents can be read. */
TEST(unfinished_and_empty)
{
    char dir[] = "/tmp/hai-test-XXXXXX";
    struct hai_err err = {0};
    struct shards_writer *w = NULL;
    struct shard *s = NULL;
    uint64_t digest;

    CHECK(mkdtemp(dir));
    _cleanup_free_ char *path = hai_asprintf("%s/a.hai", dir);
    const struct shards_vocabulary vocabulary = {1, 10};
    CHECK_EQ(shards_writer_new(path, &vocabulary, &w, &err), 0);
    CHECK_EQ(shards_writer_add(w, (int32_t[]){1, 2}, 2, &err), 0);
    shards_writer_free(w);
    CHECK_EQ(rmdir(dir), 0, "something is left");
    CHECK(mkdir(dir, 0755) == 0);
    write_file(path, 10, NULL, 0, &digest);
    CHECK_EQ(shards_open(path, true, &s, &err), 0, "%s", err.text);
    CHECK_EQ(shards_n_tokens(s), 0);
    CHECK_EQ(shards_document(s, 0), 0);
    shards_close(s);
    CHECK_EQ(shards_open(dir, true, &s, &err), -EINVAL);
    fileio_remove_tree(dir, NULL);
}

/* Change a byte run of a file; seal: put the sums of tables and header right, as a liar would. */
static void change(const char *path, int64_t at, const void *bytes, size_t n, bool seal) {
    _cleanup_(closep) int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t header[SHARDS_HEADER_SUM_AT];
    struct hai_err err = {0};
    struct stat st;

    CHECK(fstat(fd, &st) == 0);
    CHECK_EQ(fileio_write_full(fd, bytes, n, at < 0 ? st.st_size + at : at, &err), 0);
    if (!seal)
        return;
    CHECK_EQ(fileio_read_full(fd, header, sizeof header, 0, &err), 0);
    uint64_t sum = digest_xxh3(header, sizeof header);
    CHECK_EQ(fileio_write_full(fd, &sum, sizeof sum, SHARDS_HEADER_SUM_AT, &err), 0);
}

static const int64_t small[] = {10, 20, 30};

static const struct {
    int64_t at; // negative: from the end
    uint64_t value;
    size_t n;
    bool seal;
    int r;
    const char *says;
} lies[] = {
    {0,    'X',        1, true,  -EBADMSG,     "magic is not HAISHARD: not a shard"                   },
    {8,    2,          4, true,  -EMEDIUMTYPE, "version is 2; expected 1"                             },
    {12,   3,          4, true,  -EBADMSG,     "bytes a token is 3; expected 2 up to 65536 ids"       },
    {12,   4,          4, true,  -EBADMSG,     "bytes a token is 4; expected 2 up to 65536 ids"       },
    {24,   0,          4, true,  -EBADMSG,     "size of the vocabulary is 0; expected 1 to 2147483647"},
    {24,   70000,      4, true,  -EBADMSG,     "bytes a token is 2; expected 4 above 65536 ids"       },
    {28,   5000,       4, true,  -EBADMSG,     "bytes a block is 5000; expected a power of two"       },
    {28,   1 << 25,    4, true,  -EBADMSG,     "bytes a block is 33554432; expected a power of two"   },
    {32,   UINT64_MAX, 8, true,  -EBADMSG,     "number of tokens is 18446744073709551615; expected at"},
    {32,   61,         8, true,  -EBADMSG,     0                                                      },
    {32,   6000,       8, true,  -EBADMSG,     "bytes of the file is"                                 },
    {40,   1 << 30,    8, true,  -EBADMSG,     "number of documents is 1073741824; expected"          },
    {40,   0,          8, true,  -EBADMSG,     "number of documents is 0; expected some"              },
    {40,   4,          8, true,  -EBADMSG,     "bytes of the file is"                                 },
    {48,   1,          8, true,  -EBADMSG,     "bytes of the file is 1; expected 8224"                },
    {16,   5,          1, false, -EBADMSG,     "checksum of the header is"                            },
    {80,   1,          1, false, -EBADMSG,     "a byte after the header is 1; expected 0"             },
    {4095, 1,          1, false, -EBADMSG,     "a byte after the header is 1; expected 0"             },
    {-32,  1,          1, false, -EBADMSG,     "checksum of the index is"                             },
    {-1,   1,          1, false, -EBADMSG,     "checksum of the sums is"                              },
};

/* A header that lies is refused with file, field, value and what was expected. */
TEST(lies_are_refused)
{
    char dir[] = "/tmp/hai-test-XXXXXX";
    uint64_t digest;

    CHECK(mkdtemp(dir));
    _cleanup_free_ char *path = hai_asprintf("%s/a.hai", dir);
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        struct hai_err err = {0};
        struct shard *s = NULL;
        write_file(path, 300, small, ARRAY_SIZE(small), &digest);
        change(path, lies[i].at, &lies[i].value, lies[i].n, lies[i].seal);
        int r = shards_open(path, false, &s, &err);
        if (!lies[i].says) { // the padding hides it: the block's sum does not
            int32_t ids[61];
            _cleanup_free_ void *room = aligned_alloc(SHARDS_ALIGN, shards_room(s, 61));
            CHECK_EQ(r, 0, "%s", err.text);
            r = shards_read(s, 0, 61, room, ids, &err);
            CHECK_EQ(r, lies[i].r);
            shards_close(s);
            continue;
        }
        CHECK_EQ(r, lies[i].r, "case %zu: %s", i, err.text);
        CHECK(strstr(err.text, lies[i].says), "case %zu: %s", i, err.text);
        CHECK(strstr(err.text, path), "%s", err.text);
        shards_close(s);
    }
    fileio_remove_tree(dir, NULL);
}

/* Any byte of a file flipped, or any length cut, is noticed: when it is opened or when it is read.
 * The zeros between tokens and index are the only bytes that nobody reads. */
TEST(damage_is_noticed)
{
    static const int64_t lengths[] = {3000, 3000};
    char dir[] = "/tmp/hai-test-XXXXXX";
    uint64_t digest;
    int32_t ids[6000];

    CHECK(mkdtemp(dir));
    _cleanup_free_ char *path = hai_asprintf("%s/a.hai", dir);
    write_file(path, 300, lengths, 2, &digest);
    _cleanup_(buf_free) struct buf whole = {0};
    CHECK_EQ(fileio_read_file(path, 1 << 20, &whole, NULL), 0);
    for (size_t at = 0; at < whole.n_bytes; at += at < 90 || at > 16380 ? 1 : 97) {
        struct shard *s = NULL;
        struct hai_err err = {0};
        uint8_t flipped = (uint8_t)(whole.data[at] ^ 4);
        bool is_gap = at >= 4096 + 12000 && at < 4096 + 12288;
        change(path, (int64_t)at, &flipped, 1, false);
        int r = shards_open(path, at & 1, &s, &err);
        if (r == 0) {
            _cleanup_free_ void *room = aligned_alloc(SHARDS_ALIGN, shards_room(s, 6000));
            r = shards_read(s, 0, 6000, room, ids, &err);
            shards_close(s);
        }
        CHECK(is_gap ? r == 0 : r == -EBADMSG || r == -EMEDIUMTYPE, "byte %zu: %d", at, r);
        change(path, (int64_t)at, whole.data + at, 1, false);
    }
    for (size_t n = 0; n < whole.n_bytes; n += 211) {
        struct shard *s = NULL;
        struct hai_err err = {0};
        CHECK(truncate(path, (off_t)n) == 0);
        CHECK_EQ(shards_open(path, false, &s, &err), -EBADMSG, "%zu bytes", n);
        CHECK_EQ(fileio_replace(path, whole.data, whole.n_bytes, 0644, NULL), 0);
    }
    // Cut while it is open.
    struct shard *s = NULL;
    struct hai_err err = {0};
    CHECK_EQ(shards_open(path, false, &s, &err), 0);
    CHECK(truncate(path, 5000) == 0);
    _cleanup_free_ void *room = aligned_alloc(SHARDS_ALIGN, shards_room(s, 6000));
    CHECK_EQ(shards_read(s, 0, 6000, room, ids, &err), -EBADMSG);
    CHECK(strstr(err.text, "ends at 5000; expected"), "%s", err.text);
    shards_close(s);
    fileio_remove_tree(dir, NULL);
}

/* A set of many small shards reads as one run, round its end. */
TEST(a_set_is_one_run)
{
    char dir[] = "/tmp/hai-test-XXXXXX";
    const struct shards_vocabulary vocabulary = {5, 70000};
    struct hai_err err = {0};
    struct shardset *set = NULL;
    int64_t n = 0, bad = 0;

    CHECK(mkdtemp(dir));
    struct shardset_writer *w = shardset_writer_new(dir, &vocabulary, 100);
    for (int64_t d = 0; d < 60; d++) {
        for (int64_t k = 0; k < 1 + d; k++) {
            int32_t id = token(n++, vocabulary.n);
            CHECK_EQ(shardset_writer_add(w, &id, 1, &err), 0, "%s", err.text);
        }
        CHECK_EQ(shardset_writer_end_document(w, &err), 0);
    }
    CHECK_EQ(shardset_open(dir, true, &set, &err), -ENOENT);
    struct json *manifest = json_new_object();
    CHECK_EQ(shardset_writer_finish(w, manifest, &err), 0, "%s", err.text);
    json_free(manifest);
    CHECK(shardset_writer_n_files(w) > 10);
    shardset_writer_free(w);
    CHECK_EQ(shardset_open(dir, true, &set, &err), 0, "%s", err.text);
    CHECK_EQ(shardset_n_tokens(set), n);
    CHECK_EQ(shardset_n_documents(set), 60);
    int64_t many = 2 * n + 7;
    _cleanup_free_ void *room = aligned_alloc(SHARDS_ALIGN, shardset_room(set, many));
    _cleanup_free_ int32_t *ids = hai_new_array(int32_t, (size_t)many);
    _cleanup_free_ uint8_t *starts = hai_alloc((size_t)many);
    for (int64_t first = 0; first < n; first += 13) {
        CHECK_EQ(shardset_read(set, first, many, room, ids, starts, &err), 0, "%s", err.text);
        int64_t n_starts = 0;
        for (int64_t i = 0; i < many; i++) {
            int64_t at = (first + i) % n, d = 0;
            while ((d + 1) * (d + 2) / 2 <= at)
                d++;
            bad += ids[i] != token(at, vocabulary.n);
            bad += starts[i] != (d * (d + 1) / 2 == at);
            n_starts += starts[i];
        }
        CHECK(n_starts >= 120);
    }
    CHECK_EQ(bad, 0);
    shardset_close(set);
    fileio_remove_tree(dir, NULL);
}

static const struct {
    const char *from, *to;
    int r;
    const char *says;
} manifests[] = {
    {"\"version\": 1",    "\"version\": 2",         -EMEDIUMTYPE, "'version' is 2; expected 1"          },
    {"\"file\": \"shard", "\"file\": \"/hard",      -EBADMSG,     "'file' is /hard-00000.hai; expected" },
    {"\"digest\": \"",    "\"digset\": \"",         -EBADMSG,     "'digest' is absent; expected text"   },
    {"\"tokens\": 60",    "\"tokens\": 61",         -EBADMSG,     "'tokens' is 61; expected 60"         },
    {"\"documents\": 3",  "\"documents\": 4",       -EBADMSG,     "'documents' is 4; expected 3"        },
    {"shard-00000",       "shard-00009",            -ENOENT,      "shard-00009.hai"                     },
    {"\"shards\": [",     "\"shards\": 1,\"x\": [", -EBADMSG,     "'shards' is a whole number; expected"},
};

TEST(manifests_that_lie)
{
    char dir[] = "/tmp/hai-test-XXXXXX";
    const struct shards_vocabulary vocabulary = {5, 10};

    CHECK(mkdtemp(dir));
    _cleanup_free_ char *path = hai_asprintf("%s/manifest.json", dir);
    struct shardset_writer *w = shardset_writer_new(dir, &vocabulary, 1000);
    for (int d = 0; d < 3; d++) {
        for (int k = 0; k < 20; k++)
            CHECK_EQ(shardset_writer_add(w, (int32_t[]){k % 10}, 1, NULL), 0);
        CHECK_EQ(shardset_writer_end_document(w, NULL), 0);
    }
    struct json *manifest = json_new_object();
    CHECK_EQ(shardset_writer_finish(w, manifest, NULL), 0);
    json_free(manifest);
    shardset_writer_free(w);
    _cleanup_(buf_free) struct buf whole = {0};
    CHECK_EQ(fileio_read_file(path, 1 << 20, &whole, NULL), 0);
    const char *text = buf_cstr(&whole);
    for (size_t i = 0; i < ARRAY_SIZE(manifests); i++) {
        const char *at = strstr(text, manifests[i].from);
        struct hai_err err = {0};
        struct shardset *set = NULL;
        CHECK(at, "%s", manifests[i].from);
        if (!at)
            continue;
        _cleanup_free_ char *changed = hai_asprintf(
            "%.*s%s%s", (int)(at - text), text, manifests[i].to, at + strlen(manifests[i].from));
        CHECK_EQ(fileio_replace(path, changed, strlen(changed), 0644, NULL), 0);
        CHECK_EQ(shardset_open(dir, false, &set, &err), manifests[i].r, "%s", err.text);
        CHECK(strstr(err.text, manifests[i].says), "%zu: %s", i, err.text);
        shardset_close(set);
    }
    fileio_remove_tree(dir, NULL);
}
