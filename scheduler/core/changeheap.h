/* changeheap.h - changes over time, the earliest first.
 *
 * Pure. All are added, then put into order at once, then taken one by one: cheaper than sorting
 * where only the first of them are looked at.
 */
#pragma once
#include "lib/base.h"

/* From at_s on so many more or fewer nodes of a zone could begin to run a job. */
struct change {
    int64_t at_s;
    int zone, n;
};

/* Start from {0}; n 0 empties it. */
struct changeheap {
    struct change *items; // once in order: the earliest first, the others as in a heap
    size_t n, n_max;
};

void changeheap_free(struct changeheap *heap);
void changeheap_add(struct changeheap *heap, int64_t at_s, int zone, int n);
void changeheap_order(struct changeheap *heap);
struct change changeheap_pop(struct changeheap *heap);
