#include "engine/data/added.h"

void added_free(struct added *a) {
    for (size_t i = 0; i < a->n; i++)
        free(a->list[i].text);
    free(a->list);
    free(a->order);
    *a = (struct added){0};
}

static int by_bytes(const void *a, const void *b, void *list) {
    const struct added_token *x = (const struct added_token *)list + *(const uint32_t *)a;
    const struct added_token *y = (const struct added_token *)list + *(const uint32_t *)b;

    if (x->normalized != y->normalized)
        return x->normalized ? 1 : -1;
    int c = memcmp(x->text, y->text, MIN(x->n_bytes, y->n_bytes));
    if (c || x->n_bytes == y->n_bytes)
        return c ? c : x->id - y->id;
    return x->n_bytes < y->n_bytes ? -1 : 1;
}

void added_sort(struct added *a) {
    uint32_t at = 0;

    a->order = hai_new_array(uint32_t, a->n);
    for (uint32_t i = 0; i < a->n; i++)
        a->order[i] = i;
    if (a->n)
        qsort_r(a->order, a->n, sizeof *a->order, by_bytes, a->list);
    for (int pass = 0; pass < 2; pass++)
        for (int byte = 0; byte <= 256; byte++) {
            for (; at < a->n; at++) {
                const struct added_token *t = &a->list[a->order[at]];
                if (t->normalized != pass || (byte < 256 && (uint8_t)t->text[0] >= byte))
                    break;
            }
            a->first[pass][byte] = at;
        }
}

static bool is_one_character(const struct added_token *t) {
    for (size_t i = 1; i < t->n_bytes; i++)
        if (((uint8_t)t->text[i] & 0xC0) != 0x80)
            return false;
    return true;
}

static bool is_thought(const struct added_token *t) {
    return hai_streq(t->text, "<think>") || hai_streq(t->text, "</think>");
}

static bool is_allowed(const struct added_token *t, const uint8_t *marks) {
    for (size_t i = 0; marks && i < t->n_bytes; i++)
        if (marks[i] != ADDED_BY_PROGRAM && (t->special || !is_one_character(t)) &&
            !(marks[i] == ADDED_BY_MODEL && is_thought(t)))
            return false;
    return true;
}

/* Tokens with a common start stand together, shorter ones first: step through the bytes of the
 * text, keeping the part of the list that agrees so far. */
const struct added_token *added_at(const struct added *a, int pass, const char *text,
                                   size_t n_bytes, const uint8_t *marks) {
    const struct added_token *best = NULL;
    uint32_t low = a->first[pass][(uint8_t)text[0]];
    uint32_t high = a->first[pass][(uint8_t)text[0] + 1];

    for (size_t at = 1; low < high; at++) {
        const struct added_token *t = &a->list[a->order[low]];
        if (t->n_bytes == at) {
            if (is_allowed(t, marks))
                best = t;
            low++;
            at--; // another of the same text may follow
            continue;
        }
        if (at == n_bytes)
            break;
        while (low < high && (uint8_t)a->list[a->order[low]].text[at] < (uint8_t)text[at])
            low++;
        while (low < high && (uint8_t)a->list[a->order[high - 1]].text[at] > (uint8_t)text[at])
            high--;
    }
    return best;
}
