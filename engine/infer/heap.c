#include "engine/infer/heap.h"

void heap_init(struct heap *h, int32_t n_max) {
    *h = (struct heap){.n_max = n_max};
    h->entries = hai_new_array(struct heap_entry, (size_t)n_max);
    h->at = hai_new_array(int32_t, (size_t)n_max);
    memset(h->at, 0xff, (size_t)n_max * sizeof *h->at);
}

void heap_free(struct heap *h) {
    free(h->entries);
    free(h->at);
    *h = (struct heap){0};
}

const struct heap_entry *heap_top(const struct heap *h) {
    return h->n > 0 ? &h->entries[0] : NULL;
}

static bool less(const struct heap_entry *a, const struct heap_entry *b) {
    if (a->key != b->key)
        return a->key < b->key;
    return a->tie != b->tie ? a->tie < b->tie : a->item < b->item;
}

static void place(struct heap *h, int32_t at, const struct heap_entry *e) {
    h->entries[at] = *e;
    h->at[e->item] = at;
}

/* Let e find its place upwards or downwards from `at`, which is free. */
static void settle(struct heap *h, int32_t at, struct heap_entry e) {
    while (at > 0 && less(&e, &h->entries[(at - 1) / 2])) {
        place(h, at, &h->entries[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child >= h->n)
            break;
        if (child + 1 < h->n && less(&h->entries[child + 1], &h->entries[child]))
            child++;
        if (!less(&h->entries[child], &e))
            break;
        place(h, at, &h->entries[child]);
        at = child;
    }
    place(h, at, &e);
}

void heap_set(struct heap *h, int32_t item, int64_t key, int64_t tie) {
    assert(item >= 0);
    assert(item < h->n_max);
    int32_t at = h->at[item] >= 0 ? h->at[item] : h->n++;
    settle(h, at, (struct heap_entry){key, tie, item});
}

void heap_remove(struct heap *h, int32_t item) {
    int32_t at = h->at[item];

    if (at < 0)
        return;
    h->at[item] = -1;
    struct heap_entry last = h->entries[--h->n];
    if (at < h->n)
        settle(h, at, last);
}
