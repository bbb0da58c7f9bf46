#include "engine/data/corpus.h"
#include "engine/data/sampler.h"
#include "engine/data/textfiles.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "storage/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

enum { FORMAT = 1 }; // of the file; a change makes new files

struct corpus {
    struct safetensors *file;
    const struct safetensors_tensor *tokens; // U16, or I32 for large vocabularies
    int64_t n_documents;
    uint64_t digest;
};

void corpus_free(struct corpus *c) {
    if (!c)
        return;
    safetensors_free(c->file);
    free(c);
}

/* A number for what the tokens are made of. Sizes and times stand for the content of the files:
 * reading them all at every start would take longer than training's first step. */
static int name_source(const struct corpus_source *source, const struct tokenizer *tokenizer,
                       const struct textfiles *files, uint64_t *ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf b = {0};

    buf_add_u64(&b, FORMAT);
    buf_add_u64(&b, tokenizer_digest(tokenizer));
    buf_add_u64(&b, (uint64_t)source->n_bytes_max);
    for (size_t i = 0; i < files->n; i++) {
        struct stat st;
        if (stat(files->paths[i], &st) < 0)
            return hai_fail(err, -errno, "%s: %m", files->paths[i]);
        buf_add(&b, files->paths[i], strlen(files->paths[i]) + 1);
        buf_add_u64(&b, (uint64_t)st.st_size);
        buf_add_u64(&b, (uint64_t)st.st_mtim.tv_sec);
        buf_add_u64(&b, (uint64_t)st.st_mtim.tv_nsec);
    }
    *ret = digest_xxh3(b.data, b.n_bytes);
    return 0;
}

static int tokenise(const struct corpus_source *source, struct tokenizer *tokenizer,
                    const struct textfiles *files, struct token_list *ret, int64_t *ret_documents,
                    struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    int64_t n_bytes = 0, n_documents = 0;

    for (size_t i = 0; i < files->n; i++) {
        int r = textfiles_read(files->paths[i], &text, err);
        if (r < 0)
            return r;
        if (!r)
            continue;
        n_bytes += (int64_t)text.n_bytes;
        if (source->n_bytes_max && n_bytes > source->n_bytes_max)
            break;
        if (tokenizer_begin(tokenizer) >= 0)
            token_list_add(ret, tokenizer_begin(tokenizer));
        r = tokenizer_encode(tokenizer, (const char *)text.data, text.n_bytes, ret, err);
        if (r < 0) {
            hai_err_prefix(err, "%s: ", files->paths[i]);
            return r;
        }
        if (tokenizer_end(tokenizer) >= 0)
            token_list_add(ret, tokenizer_end(tokenizer));
        n_documents++;
    }
    *ret_documents = n_documents;
    return ret->n ? 0 : hai_fail(err, -ENODATA, "data: no text in %zu files", files->n);
}

static int write_tokens(const char *path, const struct tokenizer *tokenizer,
                        const struct token_list *tokens, int64_t n_documents, struct hai_err *err) {
    bool narrow = tokenizer_n_vocab(tokenizer) <= 65536;
    size_t n_bytes = tokens->n * (narrow ? sizeof(uint16_t) : sizeof(int32_t));
    _cleanup_free_ uint16_t *packed = narrow ? hai_alloc(n_bytes) : NULL;
    char digest[20], documents[24];

    for (size_t i = 0; narrow && i < tokens->n; i++)
        packed[i] = (uint16_t)tokens->ids[i];
    const void *data = narrow ? (const void *)packed : tokens->ids;
    const struct safetensors_tensor tensor = {.name = "tokens",
                                              .dtype = narrow ? SAFETENSORS_U16 : SAFETENSORS_I32,
                                              .n_dims = 1,
                                              .shape = {(int64_t)tokens->n},
                                              .data = data,
                                              .n_bytes = n_bytes};
    snprintf(digest, sizeof digest, "%016" PRIx64, digest_xxh3(data, n_bytes));
    snprintf(documents, sizeof documents, "%" PRId64, n_documents);
    const char *const metadata[] = {"digest", digest, "documents", documents, NULL};
    return safetensors_write(path, &tensor, 1, metadata, err);
}

static int map_tokens(const char *path, struct corpus **ret, struct hai_err *err) {
    _cleanup_(corpus_freep) struct corpus *c = hai_new(struct corpus);
    int r = safetensors_open(path, &c->file, err);

    if (r < 0)
        return r;
    c->tokens = safetensors_find(c->file, "tokens");
    const char *digest = safetensors_metadata(c->file, "digest");
    const char *documents = safetensors_metadata(c->file, "documents");
    if (!c->tokens || !digest || !documents ||
        (c->tokens->dtype != SAFETENSORS_U16 && c->tokens->dtype != SAFETENSORS_I32))
        return hai_fail(err, -EBADMSG, "%s: not a file of tokens", path);
    c->digest = strtoull(digest, NULL, 16);
    c->n_documents = strtoll(documents, NULL, 10);
    if (digest_xxh3(c->tokens->data, c->tokens->n_bytes) != c->digest)
        return hai_fail(err, -EBADMSG, "%s: its tokens are damaged (checksum); remove it", path);
    *ret = TAKE_PTR(c);
    return 0;
}

/* Whoever holds it dies or finishes; then it is ours. */
static int wait_lock(const char *path, int *ret, struct hai_err *err) {
    for (;;) {
        int r = fileio_lock(path, ret, err);
        if (r != -EBUSY)
            return r;
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
}

int corpus_open(const struct corpus_source *source, struct tokenizer *tokenizer, const char *dir,
                struct corpus **ret, struct hai_err *err) {
    _cleanup_(textfiles_free) struct textfiles files = {0};
    _cleanup_(token_list_free) struct token_list tokens = {0};
    _cleanup_(closep) int lock = -1;
    int64_t n_documents;
    uint64_t name = 0;
    int r = fileio_mkdir_p(dir, 0777, err);

    for (size_t i = 0; r == 0 && i < source->n_paths; i++)
        r = textfiles_find(source->paths[i], &files, err);
    if (r == 0)
        r = name_source(source, tokenizer, &files, &name, err);
    if (r < 0)
        return r;
    _cleanup_free_ char *path = hai_asprintf("%s/tokens-%016" PRIx64 ".safetensors", dir, name);
    _cleanup_free_ char *lock_path = hai_asprintf("%s/lock", dir);
    if (access(path, F_OK) < 0) {
        r = wait_lock(lock_path, &lock, err);
        if (r == 0 && access(path, F_OK) < 0) {
            r = tokenise(source, tokenizer, &files, &tokens, &n_documents, err);
            if (r == 0)
                r = write_tokens(path, tokenizer, &tokens, n_documents, err);
        }
    }
    return r < 0 ? r : map_tokens(path, ret, err);
}

int64_t corpus_n_tokens(const struct corpus *c) {
    return c->tokens->shape[0];
}

int64_t corpus_n_documents(const struct corpus *c) {
    return c->n_documents;
}

uint64_t corpus_digest(const struct corpus *c) {
    return c->digest;
}

void corpus_sample(const struct corpus *c, uint64_t seed, int64_t index, int64_t n_window,
                   int32_t *ret) {
    int64_t start = sampler_start(seed, index, corpus_n_tokens(c), n_window);

    if (c->tokens->dtype == SAFETENSORS_U16)
        for (int64_t i = 0; i < n_window; i++)
            ret[i] = ((const uint16_t *)c->tokens->data)[start + i];
    else
        memcpy(ret, (const int32_t *)c->tokens->data + start, (size_t)n_window * sizeof *ret);
}
