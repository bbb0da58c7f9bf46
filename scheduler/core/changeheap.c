#include "scheduler/core/changeheap.h"

void changeheap_free(struct changeheap *heap) {
    free(heap->items);
    *heap = (struct changeheap){0};
}

void changeheap_add(struct changeheap *heap, int64_t at_s, int zone, int n) {
    if (heap->n == heap->n_max) {
        heap->n_max = MAX(2 * heap->n_max, (size_t)256);
        heap->items = hai_realloc_array(heap->items, heap->n_max, sizeof *heap->items);
    }
    heap->items[heap->n++] = (struct change){at_s, zone, n};
}

static void sift_down(struct changeheap *heap, size_t at) {
    struct change *items = heap->items, item = items[at];

    for (size_t child; (child = 2 * at + 1) < heap->n; at = child) {
        if (child + 1 < heap->n && items[child + 1].at_s < items[child].at_s)
            child++;
        if (items[child].at_s >= item.at_s)
            break;
        items[at] = items[child];
    }
    items[at] = item;
}

void changeheap_order(struct changeheap *heap) {
    for (size_t i = heap->n / 2; i-- > 0;)
        sift_down(heap, i);
}

struct change changeheap_pop(struct changeheap *heap) {
    struct change first = heap->items[0];

    assert(heap->n);
    heap->items[0] = heap->items[--heap->n];
    if (heap->n)
        sift_down(heap, 0);
    return first;
}
