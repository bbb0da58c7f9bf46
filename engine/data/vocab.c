#include "engine/data/vocab.h"

enum { SLOTS_FIRST = 1024 };

void vocab_free(struct vocab *v) {
    free(v->tokens);
    free(v->slots);
    buf_free(&v->bytes);
    *v = (struct vocab){0};
}

/* Eight bytes at a time, multiplied and folded. Files that choose colliding tokens make their own
 * reading slow, no more. */
uint32_t vocab_hash(const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    uint64_t h = n * 0x9E3779B97F4A7C15u, w;

    for (; n >= sizeof w; p += sizeof w, n -= sizeof w) {
        memcpy(&w, p, sizeof w);
        h = (h ^ w) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    if (n) {
        w = 0;
        memcpy(&w, p, n);
        h = (h ^ w) * 0xD6E8FEB86659FD93u;
    }
    h ^= h >> 29;
    return (uint32_t)(h ^ h >> 32);
}

static struct vocab_slot *slot_of(const struct vocab *v, const void *bytes, size_t n_bytes,
                                  uint32_t hash) {
    for (uint32_t i = hash;; i++) {
        struct vocab_slot *s = &v->slots[i & (v->n_slots - 1)];
        if (s->id < 0 || (s->hash == hash && s->token.n_bytes == n_bytes &&
                          !memcmp(v->bytes.data + s->token.at, bytes, n_bytes)))
            return s;
    }
}

static void index_grow(struct vocab *v) {
    struct vocab_slot *old = v->slots;
    uint32_t n_old = v->n_slots;

    v->n_slots = n_old ? 4 * n_old : SLOTS_FIRST;
    v->slots = hai_new_array(struct vocab_slot, v->n_slots);
    for (uint32_t i = 0; i < v->n_slots; i++)
        v->slots[i].id = -1;
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i].id >= 0) {
            uint32_t at = old[i].hash;
            while (v->slots[at & (v->n_slots - 1)].id >= 0)
                at++;
            v->slots[at & (v->n_slots - 1)] = old[i];
        }
    free(old);
}

int vocab_add(struct vocab *v, int64_t id, const void *bytes, size_t n_bytes) {
    if (id < 0 || id >= VOCAB_MAX || v->bytes.n_bytes + n_bytes >= UINT32_MAX)
        return -ERANGE;
    if (vocab_has(v, id))
        return -EEXIST;
    if (id >= v->n_max) {
        int32_t wanted = MAX(v->n_max * 2, 1024);
        v->n_max = MAX((int32_t)id + 1, wanted);
        v->tokens = hai_realloc_array(v->tokens, (size_t)v->n_max, sizeof *v->tokens);
    }
    for (; v->n <= id; v->n++)
        v->tokens[v->n] = (struct vocab_token){0, VOCAB_NONE};
    v->tokens[id] = (struct vocab_token){(uint32_t)v->bytes.n_bytes, (uint32_t)n_bytes};
    buf_add(&v->bytes, bytes, n_bytes);
    if (2 * (v->n_indexed + 1) > v->n_slots)
        index_grow(v);
    uint32_t hash = vocab_hash(bytes, n_bytes);
    struct vocab_slot *s = slot_of(v, bytes, n_bytes, hash);
    if (s->id < 0) {
        *s = (struct vocab_slot){hash, (int32_t)id, v->tokens[id]};
        v->n_indexed++;
    }
    return 0;
}

int32_t vocab_find(const struct vocab *v, const void *bytes, size_t n_bytes) {
    return vocab_find_hashed(v, vocab_hash(bytes, n_bytes), bytes, n_bytes);
}

void vocab_prefetch(const struct vocab *v, uint32_t hash) {
    if (v->n_slots)
        __builtin_prefetch(&v->slots[hash & (v->n_slots - 1)]);
}

void vocab_prefetch_bytes(const struct vocab *v, uint32_t hash) {
    if (v->n_slots)
        __builtin_prefetch(v->bytes.data + v->slots[hash & (v->n_slots - 1)].token.at);
}

int32_t vocab_find_hashed(const struct vocab *v, uint32_t hash, const void *bytes, size_t n_bytes) {
    return v->n_slots ? slot_of(v, bytes, n_bytes, hash)->id : -1;
}
