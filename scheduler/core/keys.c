#include "scheduler/core/keys.h"

static struct key *at(const struct keys *keys, uint64_t number) {
    return &keys->ring[number & (keys->n_max - 1)];
}

/* Key hashes are outputs of a strong hash, so their first 8 bytes serve as they are. Of two keys
 * that agree in them the older is forgotten. */
static int64_t hash_of(const uint8_t *hash) {
    int64_t h;

    memcpy(&h, hash, sizeof h);
    return h;
}

void keys_free(struct keys *keys) {
    free(keys->ring);
    map_free(&keys->by_hash);
    *keys = (struct keys){0};
}

const struct key *keys_find(const struct keys *keys, const uint8_t *hash) {
    uintptr_t number = (uintptr_t)map_get(&keys->by_hash, hash_of(hash));

    if (!number || memcmp(at(keys, number - 1)->hash, hash, KEY_HASH_BYTES) != 0)
        return NULL;
    return at(keys, number - 1);
}

static void drop_oldest(struct keys *keys) {
    int64_t h = hash_of(at(keys, keys->first)->hash);

    if ((uintptr_t)map_get(&keys->by_hash, h) == keys->first + 1)
        map_remove(&keys->by_hash, h);
    keys->first++;
    keys->n--;
}

static void grow(struct keys *keys) {
    struct keys old = *keys;

    keys->n_max = MAX(2 * old.n_max, (size_t)64);
    keys->ring = hai_new_array(struct key, keys->n_max);
    for (uint64_t i = old.first; i < old.first + old.n; i++)
        *at(keys, i) = *at(&old, i);
    free(old.ring);
}

void keys_add(struct keys *keys, const struct key *key) {
    if (keys->n == IDEMPOTENCY_KEYS_MAX)
        drop_oldest(keys);
    if (keys->n == keys->n_max)
        grow(keys);
    uint64_t number = keys->first + keys->n++;
    *at(keys, number) = *key;
    map_put(&keys->by_hash, hash_of(key->hash), (void *)(uintptr_t)(number + 1));
}

void keys_expire(struct keys *keys, int64_t now_us) {
    while (keys->n && at(keys, keys->first)->time_us + KEYS_KEPT_US <= now_us)
        drop_oldest(keys);
}

void keys_encode(const struct keys *keys, struct buf *ret) {
    buf_add_varint(ret, keys->n);
    for (uint64_t i = keys->first; i < keys->first + keys->n; i++) {
        const struct key *key = at(keys, i);
        buf_add(ret, key->hash, sizeof key->hash);
        buf_add(ret, key->digest, sizeof key->digest);
        buf_add_u64(ret, (uint64_t)key->job);
        buf_add_u64(ret, (uint64_t)key->time_us);
    }
}

int keys_decode(struct keys *keys, const uint8_t *data, size_t n_bytes) {
    struct cursor c = {data, n_bytes, 0};
    uint64_t n;

    if (cursor_varint(&c, &n) < 0 || n > IDEMPOTENCY_KEYS_MAX)
        return -EBADMSG;
    for (uint64_t i = 0; i < n; i++) {
        struct key key;
        const uint8_t *hash, *digest;
        uint64_t job, time_us;
        if (cursor_bytes(&c, KEY_HASH_BYTES, &hash) < 0 ||
            cursor_bytes(&c, KEY_HASH_BYTES, &digest) < 0 || cursor_u64(&c, &job) < 0 ||
            cursor_u64(&c, &time_us) < 0)
            return -EBADMSG;
        memcpy(key.hash, hash, KEY_HASH_BYTES);
        memcpy(key.digest, digest, KEY_HASH_BYTES);
        key.job = (int64_t)job;
        key.time_us = (int64_t)time_us;
        keys_add(keys, &key);
    }
    return cursor_left(&c) ? -EBADMSG : 0;
}
