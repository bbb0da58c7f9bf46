/* heap.h - the least of some numbered items, of which each has a key; all memory from the start.
 *
 * Pure. Least is the smallest key, of equals the smallest tie, of equals the smallest number.
 */
#pragma once
#include "lib/base.h"

struct heap_entry {
    int64_t key, tie;
    int32_t item;
};

/* Start from {0} with heap_init. */
struct heap {
    struct heap_entry *entries; // [n_max]
    int32_t *at;                // [n_max], place of each item, -1: not in the heap
    int32_t n, n_max;
};

void heap_init(struct heap *h, int32_t n_max); // items 0 to n_max - 1
void heap_free(struct heap *h);

static inline bool heap_has(const struct heap *h, int32_t item) {
    return h->at[item] >= 0;
}

/* The least entry; NULL if there is none. */
const struct heap_entry *heap_top(const struct heap *h);

/* Put an item in, or change its key. */
void heap_set(struct heap *h, int32_t item, int64_t key, int64_t tie);

/* Take an item out; nothing happens if it is not in. */
void heap_remove(struct heap *h, int32_t item);
