/* token_list.h - a growing run of token ids. */
#pragma once
#include "lib/base.h"

struct token_list {
    int32_t *ids; // owned
    size_t n, n_max;
};

void token_list_free(struct token_list *list);
void token_list_add(struct token_list *list, int32_t id);
void token_list_add_n(struct token_list *list, const int32_t *ids, size_t n);
