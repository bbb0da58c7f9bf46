#include "engine/data/token_list.h"

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

static void reserve(struct token_list *list, size_t n) {
    if (list->n_max - list->n >= n)
        return;
    list->n_max = MAX(2 * list->n_max, list->n + n + 64);
    list->ids = hai_realloc_array(list->ids, list->n_max, sizeof *list->ids);
}

void token_list_add(struct token_list *list, int32_t id) {
    reserve(list, 1);
    list->ids[list->n++] = id;
}

void token_list_add_n(struct token_list *list, const int32_t *ids, size_t n) {
    reserve(list, n);
    if (n)
        memcpy(list->ids + list->n, ids, n * sizeof *ids);
    list->n += n;
}
