/* Whatever bytes a shard holds: opened and read, or refused with a reason, never a crash; and what
 * is accepted is consistent. Checksums are put right in a second try, or hardly any change would
 * come past them. */
#include "engine/data/shards.h"
#include "lib/digest.h"
#include "lib/fileio.h"

#include <stdio.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

enum { TOKENS_MAX = 1 << 16 };

static uint64_t number(const uint8_t *data, size_t at, size_t n) {
    uint64_t v = 0;

    memcpy(&v, data + at, n);
    return v;
}

static void put(uint8_t *data, size_t at, uint64_t v) {
    memcpy(data + at, &v, sizeof v);
}

/* Sums of the blocks, of index and sums, and of the header, as far as its numbers make sense. */
static void seal(uint8_t *data, size_t n_bytes) {
    if (n_bytes < SHARDS_ALIGN)
        return;
    uint64_t token_bytes = number(data, 12, 4), block = number(data, 28, 4);
    uint64_t tokens = number(data, 32, 8) * token_bytes, documents = number(data, 40, 8);
    uint64_t index = (SHARDS_ALIGN + tokens + SHARDS_ALIGN - 1) / SHARDS_ALIGN * SHARDS_ALIGN;
    uint64_t sums = index + documents * 8;

    if (block && tokens < n_bytes && documents < n_bytes && sums < n_bytes) {
        uint64_t n = (tokens + block - 1) / block;
        for (uint64_t i = 0; i < n && sums + 8 * i + 8 <= n_bytes; i++) {
            uint64_t length = tokens - i * block < block ? tokens - i * block : block;
            put(data, sums + 8 * i, digest_xxh3(data + SHARDS_ALIGN + i * block, length));
        }
        put(data, SHARDS_TABLE_SUMS_AT, digest_xxh3(data + index, documents * 8));
        put(data, SHARDS_TABLE_SUMS_AT + 8, digest_xxh3(data + sums, n_bytes - sums));
    }
    put(data, SHARDS_HEADER_SUM_AT, digest_xxh3(data, SHARDS_HEADER_SUM_AT));
}

static void load(const uint8_t *data, size_t n_bytes) {
    char path[32];
    struct hai_err err = {0};
    _cleanup_(shards_closep) struct shard *s = NULL;
    _cleanup_(closep) int fd = memfd_create("shard", MFD_CLOEXEC);

    assert(fd >= 0);
    int r = fileio_write_full(fd, data, n_bytes, 0, &err);
    assert(r == 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    r = shards_open(path, n_bytes & 1, &s, &err);
    assert(r >= 0 || err.text[0]);
    if (r < 0)
        return;
    int64_t n = MIN(shards_n_tokens(s), (int64_t)TOKENS_MAX), at = 0;
    for (int64_t i = 0; i < shards_n_documents(s); i++) {
        assert(shards_document(s, i) == at);
        at = shards_document(s, i + 1);
        assert(at > shards_document(s, i));
        assert(shards_document_of(s, at - 1) == i);
    }
    assert(at == shards_n_tokens(s));
    _cleanup_free_ void *room = aligned_alloc(SHARDS_ALIGN, shards_room(s, n));
    _cleanup_free_ int32_t *ids = hai_new_array(int32_t, (size_t)n);
    assert(room);
    r = shards_read(s, shards_n_tokens(s) - n, n, room, ids, &err);
    assert(r >= 0 || err.text[0]);
    for (int64_t i = 0; i < n && r == 0; i++)
        assert(ids[i] >= 0 && ids[i] < shards_vocabulary(s)->n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_free_ uint8_t *changed = hai_alloc(n_bytes);

    if (n_bytes > 1 << 20)
        return 0;
    memcpy(changed, data, n_bytes);
    load(data, n_bytes);
    seal(changed, n_bytes);
    load(changed, n_bytes);
    return 0;
}
