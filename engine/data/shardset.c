#include "engine/data/shardset.h"
#include "lib/digest.h"
#include "lib/fileio.h"

#include <inttypes.h>
#include <stdio.h>

enum { MANIFEST_BYTES_MAX = 64 << 20, DIGEST_TEXT_BYTES = 17, FORMAT_VERSION = 1 };

struct shardset_writer {
    char *dir;
    struct shards_vocabulary vocabulary;
    int64_t n_tokens_max;
    struct shards_writer *file; // NULL between two files
    char *name;                 // of the file that is open
    struct json *list;          // of the files that are done
    int64_t n_files, n_tokens, n_documents;
};

struct shardset_writer *shardset_writer_new(const char *dir,
                                            const struct shards_vocabulary *vocabulary,
                                            int64_t n_tokens_max) {
    struct shardset_writer *w = hai_new(struct shardset_writer);

    assert(n_tokens_max >= 1);
    w->dir = hai_strdup(dir);
    w->vocabulary = *vocabulary;
    w->n_tokens_max = n_tokens_max;
    w->list = json_new_array();
    return w;
}

void shardset_writer_free(struct shardset_writer *w) {
    if (!w)
        return;
    shards_writer_free(w->file);
    json_free(w->list);
    free(w->name);
    free(w->dir);
    free(w);
}

static void add_digest(struct json *object, const char *key, uint64_t digest) {
    char text[DIGEST_TEXT_BYTES];

    snprintf(text, sizeof text, "%016" PRIx64, digest);
    json_add_string(object, key, text);
}

static int open_file(struct shardset_writer *w, struct hai_err *err) {
    if (w->n_files == SHARDSET_FILES_MAX)
        return hai_fail(err, -EFBIG, "%s: more than %d shards; expected larger ones", w->dir,
                        SHARDSET_FILES_MAX);
    free(w->name);
    w->name = hai_asprintf("shard-%05" PRId64 ".hai", w->n_files++);
    _cleanup_free_ char *path = hai_asprintf("%s/%s", w->dir, w->name);
    return shards_writer_new(path, &w->vocabulary, &w->file, err);
}

static int close_file(struct shardset_writer *w, struct hai_err *err) {
    uint64_t digest;
    int r = shards_writer_finish(w->file, &digest, err);

    if (r < 0)
        return r;
    struct json *entry = json_append(w->list, json_new_object());
    json_add_string(entry, "file", w->name);
    json_add_int(entry, "tokens", shards_writer_n_tokens(w->file));
    json_add_int(entry, "documents", shards_writer_n_documents(w->file));
    add_digest(entry, "digest", digest);
    w->n_documents += shards_writer_n_documents(w->file);
    shards_writer_free(TAKE_PTR(w->file));
    return 0;
}

int shardset_writer_add(struct shardset_writer *w, const int32_t *ids, size_t n,
                        struct hai_err *err) {
    int r = w->file || !n ? 0 : open_file(w, err);

    if (r < 0 || !n)
        return r;
    w->n_tokens += (int64_t)n;
    return shards_writer_add(w->file, ids, n, err);
}

int shardset_writer_end_document(struct shardset_writer *w, struct hai_err *err) {
    if (!w->file)
        return 0;
    shards_writer_end_document(w->file);
    return shards_writer_n_tokens(w->file) >= w->n_tokens_max ? close_file(w, err) : 0;
}

int64_t shardset_writer_n_tokens(const struct shardset_writer *w) {
    return w->n_tokens;
}

int64_t shardset_writer_n_files(const struct shardset_writer *w) {
    return w->n_files;
}

int shardset_writer_finish(struct shardset_writer *w, struct json *manifest, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_free_ char *path = hai_asprintf("%s/manifest.json", w->dir);
    int r = w->file ? close_file(w, err) : 0;

    if (r < 0)
        return r;
    json_add_int(manifest, "version", FORMAT_VERSION);
    struct json *vocabulary = json_add(manifest, "vocabulary", json_new_object());
    add_digest(vocabulary, "digest", w->vocabulary.digest);
    json_add_int(vocabulary, "size", w->vocabulary.n);
    json_add_int(manifest, "documents", w->n_documents);
    json_add_int(manifest, "tokens", w->n_tokens);
    json_add(manifest, "shards", TAKE_PTR(w->list));
    json_dump(manifest, 1, &text);
    return fileio_replace(path, text.data, text.n_bytes, 0644, err);
}

struct shardset {
    char *dir;
    struct shard **shards; // [n]
    int64_t *first;        // [n + 1] tokens before each
    size_t n;
    int64_t n_documents;
    uint64_t digest;
};

void shardset_close(struct shardset *s) {
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        shards_close(s->shards[i]);
    free(s->shards);
    free(s->first);
    free(s->dir);
    free(s);
}

/* A member that must be there with that kind; NULL after an error that names it. */
static const struct json *member(const struct json *object, const char *key, enum json_kind kind,
                                 const char *path, struct hai_err *err) {
    const struct json *v = json_get(object, key);

    if (v && json_kind(v) == kind)
        return v;
    hai_fail(err, -EBADMSG, "%s: '%s' is %s; expected %s", path, key,
             v ? json_kind_name(json_kind(v)) : "absent", json_kind_name(kind));
    return NULL;
}

static int check_number(const struct json *entry, const char *key, int64_t found, const char *path,
                        struct hai_err *err) {
    const struct json *v = member(entry, key, JSON_KIND_INT, path, err);

    if (!v)
        return -EBADMSG;
    return json_as_int(v) == found
               ? 0
               : hai_fail(err, -EBADMSG,
                          "%s: '%s' is %" PRId64 "; expected %" PRId64 ", as the shards have", path,
                          key, json_as_int(v), found);
}

/* One shard that the manifest lists: a name without folders, and the file that was written. */
static int open_listed(struct shardset *s, const struct json *entry, bool direct, const char *path,
                       struct hai_err *err) {
    const struct json *name = member(entry, "file", JSON_KIND_STRING, path, err);
    const struct json *digest = name ? member(entry, "digest", JSON_KIND_STRING, path, err) : NULL;
    char found[DIGEST_TEXT_BYTES];

    if (!digest)
        return -EBADMSG;
    if (strchr(json_as_string(name), '/'))
        return hai_fail(err, -EBADMSG, "%s: 'file' is %s; expected a name without /", path,
                        json_as_string(name));
    _cleanup_free_ char *file = hai_asprintf("%s/%s", s->dir, json_as_string(name));
    int r = shards_open(file, direct, &s->shards[s->n], err);
    if (r < 0)
        return r;
    const struct shard *shard = s->shards[s->n++];
    snprintf(found, sizeof found, "%016" PRIx64, shards_digest(shard));
    if (!hai_streq(found, json_as_string(digest)))
        return hai_fail(err, -EBADMSG, "%s: digest is %s; expected %s, as manifest.json has it",
                        file, found, json_as_string(digest));
    r = check_number(entry, "tokens", shards_n_tokens(shard), path, err);
    if (r == 0)
        r = check_number(entry, "documents", shards_n_documents(shard), path, err);
    if (r == 0)
        r = shards_check_vocabulary(shard, shards_vocabulary(s->shards[0]), err);
    s->first[s->n] = s->first[s->n - 1] + shards_n_tokens(shard);
    s->n_documents += shards_n_documents(shard);
    return r;
}

/* The manifest says whose ids they are, for who reads it alone: so it must be true. */
static int check_vocabulary(const struct shardset *s, const struct json *manifest, const char *path,
                            struct hai_err *err) {
    const struct shards_vocabulary *v = shardset_vocabulary(s);
    const struct json *said = member(manifest, "vocabulary", JSON_KIND_OBJECT, path, err);
    const struct json *digest = said ? member(said, "digest", JSON_KIND_STRING, path, err) : NULL;
    char found[DIGEST_TEXT_BYTES];

    if (!digest)
        return -EBADMSG;
    snprintf(found, sizeof found, "%016" PRIx64, v->digest);
    if (!hai_streq(found, json_as_string(digest)))
        return hai_fail(err, -EBADMSG,
                        "%s: 'digest' of the vocabulary is %s; expected %s, as the shards have",
                        path, json_as_string(digest), found);
    return check_number(said, "size", v->n, path, err);
}

static int open_all(struct shardset *s, const struct json *manifest, bool direct, const char *path,
                    struct hai_err *err) {
    const struct json *list = member(manifest, "shards", JSON_KIND_ARRAY, path, err);
    const struct json *version = list ? member(manifest, "version", JSON_KIND_INT, path, err) : 0;
    _cleanup_(buf_free) struct buf digests = {0};
    int r = 0;

    if (!version)
        return -EBADMSG;
    if (json_as_int(version) != FORMAT_VERSION)
        return hai_fail(err, -EMEDIUMTYPE, "%s: 'version' is %" PRId64 "; expected %d", path,
                        json_as_int(version), FORMAT_VERSION);
    if (!json_count(list) || json_count(list) > SHARDSET_FILES_MAX)
        return hai_fail(err, -EBADMSG, "%s: 'shards' has %zu entries; expected 1 to %d", path,
                        json_count(list), SHARDSET_FILES_MAX);
    s->shards = hai_new_array(struct shard *, json_count(list));
    s->first = hai_new_array(int64_t, json_count(list) + 1);
    for (const struct json *v = json_first(list); v && r == 0; v = json_next(v))
        r = open_listed(s, v, direct, path, err);
    if (r == 0)
        r = check_vocabulary(s, manifest, path, err);
    if (r == 0)
        r = check_number(manifest, "tokens", shardset_n_tokens(s), path, err);
    if (r == 0)
        r = check_number(manifest, "documents", s->n_documents, path, err);
    for (size_t i = 0; i < s->n; i++)
        buf_add_u64(&digests, shards_digest(s->shards[i]));
    s->digest = digest_xxh3(digests.data, digests.n_bytes);
    return r;
}

int shardset_open(const char *dir, bool direct, struct shardset **ret, struct hai_err *err) {
    _cleanup_(shardset_closep) struct shardset *s = hai_new(struct shardset);
    _cleanup_free_ char *path = hai_asprintf("%s/manifest.json", dir);
    _cleanup_(json_freep) struct json *manifest = NULL;
    _cleanup_(buf_free) struct buf text = {0};
    int r = fileio_read_file(path, MANIFEST_BYTES_MAX, &text, err);

    s->dir = hai_strdup(dir);
    if (r == 0)
        r = json_parse(text.data, text.n_bytes, path, &manifest, err);
    if (r == 0)
        r = open_all(s, manifest, direct, path, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

const char *shardset_dir(const struct shardset *s) {
    return s->dir;
}

const struct shards_vocabulary *shardset_vocabulary(const struct shardset *s) {
    return shards_vocabulary(s->shards[0]);
}

int64_t shardset_n_tokens(const struct shardset *s) {
    return s->first[s->n];
}

int64_t shardset_n_documents(const struct shardset *s) {
    return s->n_documents;
}

uint64_t shardset_digest(const struct shardset *s) {
    return s->digest;
}

size_t shardset_room(const struct shardset *s, int64_t n) {
    size_t most = 0;

    for (size_t i = 0; i < s->n; i++)
        most = MAX(most, shards_room(s->shards[i], MIN(n, shards_n_tokens(s->shards[i]))));
    return most;
}

static size_t shard_of(const struct shardset *s, int64_t token) {
    size_t low = 0, high = s->n;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (s->first[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void mark_starts(const struct shard *shard, int64_t first, int64_t n, uint8_t *ret) {
    memset(ret, 0, (size_t)n);
    for (int64_t d = shards_document_of(shard, first);
         d < shards_n_documents(shard) && shards_document(shard, d) < first + n; d++)
        if (shards_document(shard, d) >= first)
            ret[shards_document(shard, d) - first] = 1;
}

int shardset_read(const struct shardset *s, int64_t first, int64_t n, void *room, int32_t *ret,
                  uint8_t *ret_starts, struct hai_err *err) {
    int64_t done = 0;

    assert(first >= 0);
    assert(first < shardset_n_tokens(s));
    while (done < n) {
        int64_t at = (first + done) % shardset_n_tokens(s);
        size_t i = shard_of(s, at);
        int64_t piece = MIN(n - done, s->first[i + 1] - at);
        int r = shards_read(s->shards[i], at - s->first[i], piece, room, ret + done, err);
        if (r < 0)
            return r;
        mark_starts(s->shards[i], at - s->first[i], piece, ret_starts + done);
        done += piece;
    }
    return 0;
}
