#include "lib/pure/map.h"

enum { SLOTS_MIN = 16 };

static uint64_t mix(uint64_t x) { // the finisher of splitmix64
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint64_t hash_text(const char *text) {
    uint64_t hash = 0xcbf29ce484222325;

    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 0x100000001b3;
    return mix(hash);
}

void map_free(struct map *m) {
    for (uint32_t i = 0; i < m->n_items; i++)
        free(m->items[i].text);
    free(m->items);
    free(m->slots);
    *m = (struct map){0};
}

static bool item_is(const struct map_item *item, uint64_t hash, int64_t number, const char *text) {
    if (!item->live || item->hash != hash || item->number != number)
        return false;
    return hai_streq(item->text, text);
}

static struct map_item *find(const struct map *m, uint64_t hash, int64_t number, const char *text) {
    if (m->n_slots == 0)
        return NULL;
    uint32_t mask = m->n_slots - 1;
    for (uint32_t at = (uint32_t)hash & mask; m->slots[at]; at = (at + 1) & mask) {
        struct map_item *item = &m->items[m->slots[at] - 1];
        if (item_is(item, hash, number, text))
            return item;
    }
    return NULL;
}

static void slot_set(struct map *m, uint32_t i) {
    uint32_t mask = m->n_slots - 1;
    uint32_t at = (uint32_t)m->items[i].hash & mask;

    while (m->slots[at])
        at = (at + 1) & mask;
    m->slots[at] = i + 1;
}

static void compact(struct map *m) {
    uint32_t n = 0;

    for (uint32_t i = 0; i < m->n_items; i++)
        if (m->items[i].live)
            m->items[n++] = m->items[i];
    m->n_items = n;
}

static void reindex(struct map *m) {
    memset(m->slots, 0, m->n_slots * sizeof *m->slots);
    for (uint32_t i = 0; i < m->n_items; i++)
        slot_set(m, i);
}

/* Make room for one more item: slots stay at most half full, removed items included, so that a
 * search ends soon. */
static void reserve(struct map *m) {
    if (m->n_items < m->n_items_max)
        return;
    compact(m);
    if (m->n >= m->n_items_max / 2) {
        assert(m->n_slots <= UINT32_MAX / 4);
        m->n_slots = m->n_slots ? m->n_slots * 2 : SLOTS_MIN;
        m->n_items_max = m->n_slots / 2;
        m->items = hai_realloc_array(m->items, m->n_items_max, sizeof *m->items);
        m->slots = hai_realloc_array(m->slots, m->n_slots, sizeof *m->slots);
    }
    reindex(m);
}

static void *put(struct map *m, uint64_t hash, int64_t number, const char *text, void *value) {
    struct map_item *item = find(m, hash, number, text);

    assert(value);
    if (item) {
        void *old = item->value;
        item->value = value;
        return old;
    }
    reserve(m);
    m->items[m->n_items] = (struct map_item){
        .number = number, .text = hai_strdup(text), .value = value, .hash = hash, .live = true};
    slot_set(m, m->n_items++);
    m->n++;
    return NULL;
}

static void *take(struct map *m, struct map_item *item) {
    if (!item)
        return NULL;
    item->live = false;
    free(TAKE_PTR(item->text));
    m->n--;
    return TAKE_PTR(item->value);
}

void *map_get(const struct map *m, int64_t key) {
    struct map_item *item = find(m, mix((uint64_t)key), key, NULL);
    return item ? item->value : NULL;
}

void *map_get_text(const struct map *m, const char *key) {
    struct map_item *item = find(m, hash_text(key), 0, key);
    return item ? item->value : NULL;
}

void *map_put(struct map *m, int64_t key, void *value) {
    return put(m, mix((uint64_t)key), key, NULL, value);
}

void *map_put_text(struct map *m, const char *key, void *value) {
    return put(m, hash_text(key), 0, key, value);
}

void *map_remove(struct map *m, int64_t key) {
    return take(m, find(m, mix((uint64_t)key), key, NULL));
}

void *map_remove_text(struct map *m, const char *key) {
    return take(m, find(m, hash_text(key), 0, key));
}

struct map_item *map_next(const struct map *m, size_t *at) {
    while (*at < m->n_items) {
        struct map_item *item = &m->items[(*at)++];
        if (item->live)
            return item;
    }
    return NULL;
}

static int compare(const void *a, const void *b) {
    const struct map_item *x = a;
    const struct map_item *y = b;

    if (x->text)
        return strcmp(x->text, y->text);
    return (x->number > y->number) - (x->number < y->number);
}

void map_sort(struct map *m) {
    compact(m);
    if (m->n_items == 0)
        return;
    qsort(m->items, m->n_items, sizeof *m->items, compare);
    reindex(m);
}
