#include "lib/pure/arena.h"

enum {
    BLOCK_BYTES_MIN = 4 << 10,
    BLOCK_BYTES_MAX = 1 << 20,
    ALIGN = 16,
};

struct arena_block {
    struct arena_block *next;
    size_t used;
    size_t n_bytes;
    size_t unused_; // keeps data aligned
    uint8_t data[];
};

_Static_assert(sizeof(struct arena_block) % ALIGN == 0, "data must be aligned");

/* Blocks double, so that their number stays small; larger wishes get a block of their own size. */
static void block_add(struct arena *a, size_t n_bytes) {
    size_t size =
        a->blocks ? MIN(a->blocks->n_bytes * 2, (size_t)BLOCK_BYTES_MAX) : (size_t)BLOCK_BYTES_MIN;
    struct arena_block *block;

    size = MAX(size, n_bytes);
    assert(size < SIZE_MAX - sizeof *block);
    block = hai_alloc(sizeof *block + size);
    block->n_bytes = size;
    block->next = a->blocks;
    a->blocks = block;
}

void *arena_alloc(struct arena *a, size_t n_bytes) {
    assert(n_bytes < SIZE_MAX / 2);
    size_t size = (n_bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (!a->blocks || a->blocks->n_bytes - a->blocks->used < size)
        block_add(a, size);
    void *at = a->blocks->data + a->blocks->used;
    a->blocks->used += size;
    a->n_bytes += size;
    return at;
}

void *arena_alloc_array(struct arena *a, size_t n, size_t size) {
    size_t n_bytes;

    bool overflow = __builtin_mul_overflow(n, size, &n_bytes);
    assert(!overflow);
    return arena_alloc(a, n_bytes);
}

char *arena_strndup(struct arena *a, const char *s, size_t n_bytes) {
    size_t n = strnlen(s, n_bytes);
    char *copy = arena_alloc(a, n + 1);

    memcpy(copy, s, n);
    return copy;
}

char *arena_strdup(struct arena *a, const char *s) {
    return s ? arena_strndup(a, s, SIZE_MAX) : NULL;
}

void arena_clear(struct arena *a) {
    struct arena_block *kept = a->blocks;

    if (!kept)
        return;
    a->blocks = kept->next;
    arena_free(a);
    memset(kept->data, 0, kept->used);
    kept->used = 0;
    kept->next = NULL;
    a->blocks = kept;
}

void arena_free(struct arena *a) {
    struct arena_block *next;

    for (struct arena_block *block = a->blocks; block; block = next) {
        next = block->next;
        free(block);
    }
    *a = (struct arena){0};
}
