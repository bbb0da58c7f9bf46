/* map.h - hash maps from a number or a text to a pointer, walked in an order that hashing does not
 * decide.
 *
 * Pure. Items are walked in the order in which their keys were added (a key removed and added again
 * is the newest); map_sort puts them in ascending order of keys. One map uses either number or text
 * keys, never both. Texts are copied; values are not owned.
 */
#pragma once
#include "lib/base.h"

struct map_item {
    int64_t number; // the key of number maps
    char *text;     // the key of text maps, owned by the map
    void *value;
    uint64_t hash;
    bool live; // false: removed, waits for the next compaction
};

/* Start from {0}. */
struct map {
    struct map_item *items; // in order, removed ones included
    uint32_t n_items;
    uint32_t n_items_max;
    uint32_t n; // live ones
    uint32_t n_slots;
    uint32_t *slots; // open addressing: index into items + 1, 0 for empty
};

void map_free(struct map *m); // keys and tables; values stay
static inline size_t map_count(const struct map *m) {
    return m->n;
}

/* The value, or NULL. */
void *map_get(const struct map *m, int64_t key);
void *map_get_text(const struct map *m, const char *key);

/* Set a value; returns the one it replaces, or NULL. value must not be NULL. */
void *map_put(struct map *m, int64_t key, void *value);
void *map_put_text(struct map *m, const char *key, void *value);

/* Take a value out; NULL if there is none. */
void *map_remove(struct map *m, int64_t key);
void *map_remove_text(struct map *m, const char *key);

/* Walk: size_t at = 0; for (item; (item = map_next(m, &at));). The map may lose items meanwhile,
 * but not gain any. */
struct map_item *map_next(const struct map *m, size_t *at);

/* Put the items in ascending order of keys (texts by byte values). */
void map_sort(struct map *m);
