#include "sim/agenda.h"

static bool before(const struct agenda_event *a, const struct agenda_event *b) {
    return a->at_us < b->at_us || (a->at_us == b->at_us && a->seq < b->seq);
}

void agenda_add(struct agenda *agenda, int64_t at_us, enum agenda_kind kind, int node, int64_t what,
                void *data) {
    struct agenda_event event = {at_us, agenda->seq++, what, data, node, kind};

    if (agenda->n == agenda->n_max) {
        agenda->n_max = MAX(2 * agenda->n_max, (size_t)256);
        agenda->items = hai_realloc_array(agenda->items, agenda->n_max, sizeof *agenda->items);
    }
    size_t i = agenda->n++;
    while (i && before(&event, &agenda->items[(i - 1) / 2])) {
        agenda->items[i] = agenda->items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    agenda->items[i] = event;
}

struct agenda_event agenda_take(struct agenda *agenda) {
    assert(agenda->n);
    struct agenda_event top = agenda->items[0];
    struct agenda_event last = agenda->items[--agenda->n];
    size_t i = 0;

    for (size_t child; (child = 2 * i + 1) < agenda->n; i = child) {
        if (child + 1 < agenda->n && before(&agenda->items[child + 1], &agenda->items[child]))
            child++;
        if (!before(&agenda->items[child], &last))
            break;
        agenda->items[i] = agenda->items[child];
    }
    agenda->items[i] = last;
    return top;
}
