#include "engine/data/shards.h"
#include "lib/digest.h"
#include "lib/fileio.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

enum { NARROW_IDS = 65536, PENDING_BYTES = 1 << 20 };

static_assert(PENDING_BYTES % SHARDS_BLOCK_BYTES == 0, "whole blocks are written");
static_assert(SHARDS_BLOCK_BYTES % SHARDS_ALIGN == 0, "blocks are aligned");

/* Where the parts of a file lie, all from the numbers in its header. */
struct layout {
    uint32_t token_bytes, block_bytes;
    uint64_t n_tokens, n_documents;
    uint64_t tokens_bytes, index_at, sums_at, n_blocks, n_bytes;
};

static uint64_t round_up(uint64_t n, uint64_t step) {
    return (n + step - 1) / step * step;
}

static struct layout layout_of(uint32_t token_bytes, uint32_t block_bytes, uint64_t n_tokens,
                               uint64_t n_documents) {
    struct layout l = {token_bytes, block_bytes, n_tokens, n_documents, 0, 0, 0, 0, 0};

    l.tokens_bytes = n_tokens * token_bytes;
    l.index_at = SHARDS_ALIGN + round_up(l.tokens_bytes, SHARDS_ALIGN);
    l.sums_at = l.index_at + n_documents * sizeof(uint64_t);
    l.n_blocks = round_up(l.tokens_bytes, block_bytes) / block_bytes;
    l.n_bytes = l.sums_at + l.n_blocks * sizeof(uint64_t);
    return l;
}

struct shards_writer {
    char *path, *temporary;
    int fd;
    struct shards_vocabulary vocabulary;
    uint32_t token_bytes;
    int64_t n_tokens, n_documents;
    int64_t document_at; // first token of the open document
    int64_t written;     // bytes of tokens
    struct buf pending;  // tokens not yet written: whole tokens, less than PENDING_BYTES
    struct buf index, sums;
    bool finished;
};

void shards_writer_free(struct shards_writer *w) {
    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    if (!w->finished)
        (void)unlink(w->temporary);
    buf_free(&w->pending);
    buf_free(&w->index);
    buf_free(&w->sums);
    free(w->path);
    free(w->temporary);
    free(w);
}

int shards_writer_new(const char *path, const struct shards_vocabulary *vocabulary,
                      struct shards_writer **ret, struct hai_err *err) {
    assert(vocabulary->n >= 1);
    _cleanup_free_ char *temporary = hai_asprintf("%s.tmp-%d", path, (int)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return hai_fail(err, -errno, "%s: %m", temporary);
    struct shards_writer *w = hai_new(struct shards_writer);
    w->path = hai_strdup(path);
    w->temporary = TAKE_PTR(temporary);
    w->fd = fd;
    w->vocabulary = *vocabulary;
    w->token_bytes = vocabulary->n <= NARROW_IDS ? sizeof(uint16_t) : sizeof(uint32_t);
    *ret = w;
    return 0;
}

/* Write what is pending, which ends at a block unless it is the last, and note its sums. */
static int write_pending(struct shards_writer *w, struct hai_err *err) {
    const uint8_t *data = w->pending.data;
    size_t n = w->pending.n_bytes;

    int r = n ? fileio_write_full(w->fd, data, n, SHARDS_ALIGN + w->written, err) : 0;
    if (r < 0)
        return hai_err_prefix(err, "%s: ", w->path);
    for (size_t at = 0; at < n; at += SHARDS_BLOCK_BYTES)
        buf_add_u64(&w->sums, digest_xxh3(data + at, MIN(n - at, (size_t)SHARDS_BLOCK_BYTES)));
    w->written += (int64_t)n;
    buf_clear(&w->pending);
    return 0;
}

int shards_writer_add(struct shards_writer *w, const int32_t *ids, size_t n, struct hai_err *err) {
    for (size_t i = 0; i < n; i++) {
        assert(ids[i] >= 0);
        assert(ids[i] < w->vocabulary.n);
        uint8_t *at = buf_extend(&w->pending, w->token_bytes);
        for (uint32_t k = 0; k < w->token_bytes; k++)
            at[k] = (uint8_t)((uint32_t)ids[i] >> 8 * k);
        w->n_tokens++;
        int r = w->pending.n_bytes == PENDING_BYTES ? write_pending(w, err) : 0;
        if (r < 0)
            return r;
    }
    if (w->n_tokens > SHARDS_TOKENS_MAX)
        return hai_fail(err, -EFBIG, "%s: more than %" PRId64 " tokens", w->path,
                        SHARDS_TOKENS_MAX);
    return 0;
}

void shards_writer_end_document(struct shards_writer *w) {
    if (w->document_at == w->n_tokens)
        return;
    buf_add_u64(&w->index, (uint64_t)w->document_at);
    w->document_at = w->n_tokens;
    w->n_documents++;
}

int64_t shards_writer_n_tokens(const struct shards_writer *w) {
    return w->n_tokens;
}

int64_t shards_writer_n_documents(const struct shards_writer *w) {
    return w->n_documents;
}

static void put_header(const struct shards_writer *w, const struct layout *l, struct buf *ret) {
    buf_add(ret, SHARDS_MAGIC, strlen(SHARDS_MAGIC));
    buf_add_u32(ret, SHARDS_VERSION);
    buf_add_u32(ret, l->token_bytes);
    buf_add_u64(ret, w->vocabulary.digest);
    buf_add_u32(ret, (uint32_t)w->vocabulary.n);
    buf_add_u32(ret, l->block_bytes);
    buf_add_u64(ret, l->n_tokens);
    buf_add_u64(ret, l->n_documents);
    buf_add_u64(ret, l->n_bytes);
    assert(ret->n_bytes == SHARDS_TABLE_SUMS_AT);
    buf_add_u64(ret, digest_xxh3(w->index.data, w->index.n_bytes));
    buf_add_u64(ret, digest_xxh3(w->sums.data, w->sums.n_bytes));
    assert(ret->n_bytes == SHARDS_HEADER_SUM_AT);
    buf_add_u64(ret, digest_xxh3(ret->data, ret->n_bytes));
    size_t left = SHARDS_ALIGN - ret->n_bytes;
    memset(buf_extend(ret, left), 0, left);
}

static int write_tables(struct shards_writer *w, uint64_t *ret_digest, struct hai_err *err) {
    struct layout l = layout_of(w->token_bytes, SHARDS_BLOCK_BYTES, (uint64_t)w->n_tokens,
                                (uint64_t)w->n_documents);
    _cleanup_(buf_free) struct buf header = {0};

    assert(w->index.n_bytes == l.sums_at - l.index_at);
    assert(w->sums.n_bytes == l.n_bytes - l.sums_at);
    put_header(w, &l, &header);
    *ret_digest = digest_xxh3(header.data, SHARDS_HEADER_SUM_AT);
    // The zeros after the tokens are the hole that this leaves.
    if (ftruncate(w->fd, (off_t)l.n_bytes) < 0)
        return hai_fail(err, -errno, "%m");
    int r = fileio_write_full(w->fd, w->index.data, w->index.n_bytes, (int64_t)l.index_at, err);
    if (r == 0)
        r = fileio_write_full(w->fd, w->sums.data, w->sums.n_bytes, (int64_t)l.sums_at, err);
    if (r == 0)
        r = fileio_write_full(w->fd, header.data, header.n_bytes, 0, err);
    return r;
}

int shards_writer_finish(struct shards_writer *w, uint64_t *ret_digest, struct hai_err *err) {
    assert(!w->finished);
    shards_writer_end_document(w);
    if (w->n_documents > SHARDS_DOCUMENTS_MAX)
        return hai_fail(err, -EFBIG, "%s: more than %d documents", w->path, SHARDS_DOCUMENTS_MAX);
    int r = write_pending(w, err);
    if (r < 0)
        return r;
    r = write_tables(w, ret_digest, err);
    if (r < 0)
        return hai_err_prefix(err, "%s: ", w->path);
    if (fsync(w->fd) < 0 || rename(w->temporary, w->path) < 0)
        return hai_fail(err, -errno, "%s: %m", w->path);
    w->finished = true;
    const char *slash = strrchr(w->path, '/');
    _cleanup_free_ char *dir = slash ? hai_strndup(w->path, (size_t)(slash - w->path) + 1) : NULL;
    return fileio_sync_dir(dir ? dir : ".", err);
}

struct shard {
    char *path;
    int fd;
    int direct_fd; // past the page cache; -1: not wanted, or refused by the file system
    struct layout layout;
    struct shards_vocabulary vocabulary;
    uint64_t digest;
    uint64_t *tables; // index, then sums
};

void shards_close(struct shard *s) {
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    if (s->direct_fd >= 0)
        close(s->direct_fd);
    free(s->tables);
    free(s->path);
    free(s);
}

static int lies(const struct shard *s, const char *field, uint64_t value, const char *expected,
                struct hai_err *err) {
    return hai_fail(err, -EBADMSG, "%s: %s is %" PRIu64 "; expected %s", s->path, field, value,
                    expected);
}

static int lies_number(const struct shard *s, const char *field, uint64_t value, uint64_t expected,
                       struct hai_err *err) {
    char text[24];

    snprintf(text, sizeof text, "%" PRIu64, expected);
    return lies(s, field, value, text, err);
}

static int differs(const struct shard *s, const char *field, uint64_t value, uint64_t expected,
                   struct hai_err *err) {
    return hai_fail(err, -EBADMSG,
                    "%s: checksum of the %s is %016" PRIx64 "; expected %016" PRIx64
                    ": the file is damaged",
                    s->path, field, value, expected);
}

/* What a header says, in its order. */
struct header {
    uint32_t version, token_bytes, n_vocab, block_bytes;
    uint64_t vocabulary, n_tokens, n_documents, n_bytes, index_sum, sums_sum, sum;
};

static void take_header(const uint8_t *bytes, struct header *ret) {
    struct cursor c = {bytes, SHARDS_ALIGN, strlen(SHARDS_MAGIC)};

    int r = cursor_u32(&c, &ret->version);
    r = r < 0 ? r : cursor_u32(&c, &ret->token_bytes);
    r = r < 0 ? r : cursor_u64(&c, &ret->vocabulary);
    r = r < 0 ? r : cursor_u32(&c, &ret->n_vocab);
    r = r < 0 ? r : cursor_u32(&c, &ret->block_bytes);
    r = r < 0 ? r : cursor_u64(&c, &ret->n_tokens);
    r = r < 0 ? r : cursor_u64(&c, &ret->n_documents);
    r = r < 0 ? r : cursor_u64(&c, &ret->n_bytes);
    r = r < 0 ? r : cursor_u64(&c, &ret->index_sum);
    r = r < 0 ? r : cursor_u64(&c, &ret->sums_sum);
    r = r < 0 ? r : cursor_u64(&c, &ret->sum);
    assert(r == 0); // all of it lies in the bytes given
}

/* The sizes it claims are checked before anything is allocated for them. */
static int check_header(struct shard *s, const uint8_t *bytes, const struct header *h,
                        uint64_t file_bytes, struct hai_err *err) {
    uint64_t sum = digest_xxh3(bytes, SHARDS_HEADER_SUM_AT);
    bool narrow = h->n_vocab <= NARROW_IDS;

    if (memcmp(bytes, SHARDS_MAGIC, strlen(SHARDS_MAGIC)) != 0)
        return hai_fail(err, -EBADMSG, "%s: magic is not " SHARDS_MAGIC ": not a shard", s->path);
    if (h->version != SHARDS_VERSION)
        return hai_fail(err, -EMEDIUMTYPE, "%s: version is %u; expected %d", s->path, h->version,
                        SHARDS_VERSION);
    if (h->sum != sum)
        return differs(s, "header", sum, h->sum, err);
    for (size_t i = SHARDS_HEADER_SUM_AT + sizeof sum; i < SHARDS_ALIGN; i++)
        if (bytes[i])
            return lies(s, "a byte after the header", bytes[i], "0", err);
    if (!h->n_vocab || h->n_vocab > INT32_MAX)
        return lies(s, "size of the vocabulary", h->n_vocab, "1 to 2147483647", err);
    if (h->token_bytes != (narrow ? sizeof(uint16_t) : sizeof(uint32_t)))
        return lies(s, "bytes a token", h->token_bytes,
                    narrow ? "2 up to 65536 ids" : "4 above 65536 ids", err);
    if (h->block_bytes < SHARDS_ALIGN || h->block_bytes > SHARDS_BLOCK_BYTES_MAX ||
        (h->block_bytes & (h->block_bytes - 1)))
        return lies(s, "bytes a block", h->block_bytes, "a power of two from 4096 to 16777216",
                    err);
    if (h->n_tokens > (uint64_t)SHARDS_TOKENS_MAX)
        return lies(s, "number of tokens", h->n_tokens, "at most 2^40", err);
    if (h->n_documents > SHARDS_DOCUMENTS_MAX || h->n_documents > h->n_tokens)
        return lies(s, "number of documents", h->n_documents,
                    "at most 2^28 and at most one a token", err);
    if (!h->n_documents != !h->n_tokens)
        return lies(s, "number of documents", h->n_documents, "some, as there are tokens", err);
    s->layout = layout_of(h->token_bytes, h->block_bytes, h->n_tokens, h->n_documents);
    if (h->n_bytes != s->layout.n_bytes)
        return lies_number(s, "bytes of the file", h->n_bytes, s->layout.n_bytes, err);
    if (file_bytes != h->n_bytes)
        return lies_number(s, "length", file_bytes, h->n_bytes, err);
    s->vocabulary = (struct shards_vocabulary){h->vocabulary, (int32_t)h->n_vocab};
    s->digest = sum;
    return 0;
}

static int check_index(const struct shard *s, struct hai_err *err) {
    const struct layout *l = &s->layout;

    for (uint64_t i = 0; i < l->n_documents; i++) {
        if (i == 0 && s->tables[0] != 0)
            return lies(s, "index of document 0", s->tables[0], "0", err);
        if ((i && s->tables[i] <= s->tables[i - 1]) || s->tables[i] >= l->n_tokens)
            return hai_fail(err, -EBADMSG,
                            "%s: index of document %" PRIu64 " is %" PRIu64
                            "; expected more than before it and less than %" PRIu64,
                            s->path, i, s->tables[i], l->n_tokens);
    }
    return 0;
}

/* Through the page cache: the tables are not aligned, and read once. */
static int read_tables(struct shard *s, const struct header *h, struct hai_err *err) {
    const struct layout *l = &s->layout;
    size_t index_bytes = l->sums_at - l->index_at, sums_bytes = l->n_bytes - l->sums_at;

    s->tables = hai_alloc(index_bytes + sums_bytes);
    int r = fileio_read_full(s->fd, s->tables, index_bytes + sums_bytes, (int64_t)l->index_at, err);
    if (r < 0)
        return hai_err_prefix(err, "%s: ", s->path);
    uint64_t sum = digest_xxh3(s->tables, index_bytes);
    if (sum != h->index_sum)
        return differs(s, "index", sum, h->index_sum, err);
    sum = digest_xxh3(s->tables + l->n_documents, sums_bytes);
    if (sum != h->sums_sum)
        return differs(s, "sums", sum, h->sums_sum, err);
    return check_index(s, err);
}

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tables and tokens are read in place");

int shards_open(const char *path, bool direct, struct shard **ret, struct hai_err *err) {
    _cleanup_(shards_closep) struct shard *s = hai_new(struct shard);
    uint8_t bytes[SHARDS_ALIGN];
    struct header header;
    struct stat st;

    s->path = hai_strdup(path);
    s->direct_fd = -1;
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0 || fstat(s->fd, &st) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    if (!S_ISREG(st.st_mode))
        return hai_fail(err, -EINVAL, "%s: expected a file", path);
    if (st.st_size < SHARDS_ALIGN)
        return lies(s, "length", (uint64_t)st.st_size, "at least 4096: not a shard", err);
    int r = fileio_read_full(s->fd, bytes, sizeof bytes, 0, err);
    if (r < 0)
        return hai_err_prefix(err, "%s: ", path);
    take_header(bytes, &header);
    r = check_header(s, bytes, &header, (uint64_t)st.st_size, err);
    if (r == 0)
        r = read_tables(s, &header, err);
    if (r < 0)
        return r;
    if (direct)
        s->direct_fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    *ret = TAKE_PTR(s);
    return 0;
}

int shards_check_vocabulary(const struct shard *s, const struct shards_vocabulary *vocabulary,
                            struct hai_err *err) {
    if (s->vocabulary.digest == vocabulary->digest && s->vocabulary.n == vocabulary->n)
        return 0;
    return hai_fail(err, -EMEDIUMTYPE,
                    "%s: vocabulary is %016" PRIx64 " of %d ids; expected %016" PRIx64 " of %d",
                    s->path, s->vocabulary.digest, s->vocabulary.n, vocabulary->digest,
                    vocabulary->n);
}

const struct shards_vocabulary *shards_vocabulary(const struct shard *s) {
    return &s->vocabulary;
}

int64_t shards_n_tokens(const struct shard *s) {
    return (int64_t)s->layout.n_tokens;
}

int64_t shards_n_documents(const struct shard *s) {
    return (int64_t)s->layout.n_documents;
}

bool shards_is_direct(const struct shard *s) {
    return s->direct_fd >= 0;
}

uint64_t shards_digest(const struct shard *s) {
    return s->digest;
}

int64_t shards_document(const struct shard *s, int64_t i) {
    assert(i >= 0);
    assert(i <= shards_n_documents(s));
    return i == shards_n_documents(s) ? shards_n_tokens(s) : (int64_t)s->tables[i];
}

int64_t shards_document_of(const struct shard *s, int64_t token) {
    int64_t low = 0, high = shards_n_documents(s); // the answer is in [low, high)

    assert(token >= 0);
    assert(token < shards_n_tokens(s));
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (shards_document(s, middle) <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

size_t shards_room(const struct shard *s, int64_t n) {
    return round_up((uint64_t)n * s->layout.token_bytes, s->layout.block_bytes) +
           s->layout.block_bytes;
}

/* Bytes [from, to) of the tokens, from a block's start to a block's end or the last token. Reads
 * are aligned: one of a last, short block goes into what follows it in the file. A file system may
 * take O_DIRECT when a file is opened and refuse it when it is read. */
static int read_blocks(const struct shard *s, uint64_t from, uint64_t to, void *room,
                       struct hai_err *err) {
    uint64_t n = round_up(to - from, SHARDS_ALIGN);
    int fd = s->direct_fd >= 0 ? s->direct_fd : s->fd;

    for (uint64_t done = 0; done < to - from;) {
        off_t at = (off_t)(SHARDS_ALIGN + from + done);
        ssize_t k = pread(fd, (char *)room + done, n - done, at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EINVAL && fd != s->fd) {
            fd = s->fd;
            continue;
        }
        if (k < 0)
            return hai_fail(err, -errno, "%s: %m", s->path);
        if (k == 0)
            return hai_fail(err, -EBADMSG, "%s: ends at %jd; expected %" PRIu64 " bytes", s->path,
                            (intmax_t)at, s->layout.n_bytes);
        done += (uint64_t)k;
    }
    return 0;
}

static int check_blocks(const struct shard *s, uint64_t from, uint64_t to, const void *room,
                        struct hai_err *err) {
    const struct layout *l = &s->layout;

    for (uint64_t at = from; at < to; at += l->block_bytes) {
        uint64_t block = at / l->block_bytes, said = s->tables[l->n_documents + block];
        uint64_t sum =
            digest_xxh3((const char *)room + (at - from), MIN(to - at, (uint64_t)l->block_bytes));
        char name[40];
        snprintf(name, sizeof name, "block %" PRIu64, block);
        if (sum != said)
            return differs(s, name, sum, said, err);
    }
    return 0;
}

int shards_read(const struct shard *s, int64_t first, int64_t n, void *room, int32_t *ret,
                struct hai_err *err) {
    const struct layout *l = &s->layout;

    assert(first >= 0);
    assert(n >= 0);
    assert(first + n <= shards_n_tokens(s));
    assert((uintptr_t)room % SHARDS_ALIGN == 0);
    uint64_t begin = (uint64_t)first * l->token_bytes, end = begin + (uint64_t)n * l->token_bytes;
    uint64_t from = begin / l->block_bytes * l->block_bytes;
    uint64_t to = MIN(round_up(end, l->block_bytes), l->tokens_bytes);
    int r = n ? read_blocks(s, from, to, room, err) : 0;
    if (r == 0 && n)
        r = check_blocks(s, from, to, room, err);
    if (r < 0)
        return r;
    const char *at = (const char *)room + (begin - from);
    for (int64_t i = 0; i < n; i++) {
        uint32_t id = l->token_bytes == sizeof(uint16_t) ? ((const uint16_t *)at)[i]
                                                         : ((const uint32_t *)at)[i];
        if (id >= (uint32_t)s->vocabulary.n)
            return hai_fail(err, -EBADMSG, "%s: token %" PRId64 " is %u; expected less than %d",
                            s->path, first + i, id, s->vocabulary.n);
        ret[i] = (int32_t)id;
    }
    return 0;
}
