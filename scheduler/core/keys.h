/* keys.h - idempotency keys: (user, key) -> job, for 24 hours and at most IDEMPOTENCY_KEYS_MAX.
 *
 * Pure. 48 bytes a key and its share of a hash table. The oldest is dropped first.
 */
#pragma once
#include "lib/limits.h"
#include "lib/pure/buf.h"
#include "lib/pure/map.h"

#define KEYS_KEPT_US (INT64_C(1000000) * IDEMPOTENCY_KEEP_S)

struct key {
    uint8_t hash[KEY_HASH_BYTES];
    uint8_t digest[KEY_HASH_BYTES]; // of the request's body
    int64_t job;
    int64_t time_us;
};

struct keys {
    struct key *ring; // oldest at `first`
    size_t n_max;     // a power of two
    uint64_t first;   // number of the oldest; number modulo n_max is the place
    size_t n;
    struct map by_hash; // first 8 bytes of the hash; number of the key + 1
};

void keys_free(struct keys *keys);

/* The key with this hash, NULL if there is none. */
const struct key *keys_find(const struct keys *keys, const uint8_t *hash);

/* Add a key that is not there; times must not go back. Drops the oldest above IDEMPOTENCY_KEYS_MAX.
 */
void keys_add(struct keys *keys, const struct key *key);

/* Drop what is older than KEYS_KEPT_US. */
void keys_expire(struct keys *keys, int64_t now_us);

/* Append all keys, oldest first; read them back into an empty struct. 0 or -EBADMSG. */
void keys_encode(const struct keys *keys, struct buf *ret);
int keys_decode(struct keys *keys, const uint8_t *data, size_t n_bytes);
