/* vocab.h - the tokens of a vocabulary: bytes by id, id by bytes.
 *
 * All bytes lie in one block and the index is one table, since a vocabulary has 10^5 tokens and is
 * read at every start of a program.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

enum { VOCAB_MAX = 1 << 20 };

struct vocab_token {
    uint32_t at;      // of its bytes, from 0
    uint32_t n_bytes; // VOCAB_NONE: no such id
};

#define VOCAB_NONE UINT32_MAX

/* With place and length of the bytes, so that a look-up misses the caches twice, not three times.
 */
struct vocab_slot {
    uint32_t hash;
    int32_t id; // -1: free
    struct vocab_token token;
};

/* Start from {0}. */
struct vocab {
    struct vocab_token *tokens;
    int32_t n, n_max; // ids are below n
    struct buf bytes;
    struct vocab_slot *slots; // open addressing, at most half full
    uint32_t n_slots, n_indexed;
};

void vocab_free(struct vocab *v);

/* Give an id its bytes and enter them in the index, where an earlier token with the same bytes
 * stays. -EEXIST: the id has bytes. -ERANGE: it is not below VOCAB_MAX. */
int vocab_add(struct vocab *v, int64_t id, const void *bytes, size_t n_bytes);

/* The id of a token; -1: none. */
int32_t vocab_find(const struct vocab *v, const void *bytes, size_t n_bytes);

/* The same in steps, for many look-ups at once: the memory of each is on its way while the others
 * are worked on. */
uint32_t vocab_hash(const void *bytes, size_t n_bytes);
void vocab_prefetch(const struct vocab *v, uint32_t hash);
void vocab_prefetch_bytes(const struct vocab *v, uint32_t hash);
int32_t vocab_find_hashed(const struct vocab *v, uint32_t hash, const void *bytes, size_t n_bytes);

static inline bool vocab_has(const struct vocab *v, int64_t id) {
    return id >= 0 && id < v->n && v->tokens[id].n_bytes != VOCAB_NONE;
}

/* Has this id these bytes? */
static inline bool vocab_is(const struct vocab *v, int32_t id, const void *bytes, size_t n_bytes) {
    return vocab_has(v, id) && v->tokens[id].n_bytes == n_bytes &&
           !memcmp(v->bytes.data + v->tokens[id].at, bytes, n_bytes);
}
