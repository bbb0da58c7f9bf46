#include "sim/eventheap.h"

void eventheap_free(struct eventheap *heap) {
    free(heap->items);
    *heap = (struct eventheap){0};
}

static bool before(const struct eventheap_item *a, const struct eventheap_item *b) {
    return a->at_us < b->at_us || (a->at_us == b->at_us && a->seq < b->seq);
}

void eventheap_push(struct eventheap *heap, int64_t at_us, enum happens kind, uint32_t what,
                    int64_t epoch) {
    struct eventheap_item item = {at_us, heap->seq++, epoch, what, (uint8_t)kind};

    if (heap->n == heap->n_max) {
        heap->n_max = MAX(2 * heap->n_max, (size_t)256);
        heap->items = hai_realloc_array(heap->items, heap->n_max, sizeof *heap->items);
    }
    size_t i = heap->n++;
    while (i && before(&item, &heap->items[(i - 1) / 2])) {
        heap->items[i] = heap->items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->items[i] = item;
}

const struct eventheap_item *eventheap_first(const struct eventheap *heap) {
    return heap->n ? &heap->items[0] : NULL;
}

struct eventheap_item eventheap_pop(struct eventheap *heap) {
    assert(heap->n);
    struct eventheap_item top = heap->items[0];
    struct eventheap_item last = heap->items[--heap->n];
    size_t i = 0;

    for (size_t child; (child = 2 * i + 1) < heap->n; i = child) {
        if (child + 1 < heap->n && before(&heap->items[child + 1], &heap->items[child]))
            child++;
        if (!before(&heap->items[child], &last))
            break;
        heap->items[i] = heap->items[child];
    }
    heap->items[i] = last;
    return top;
}
