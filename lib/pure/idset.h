/* idset.h - an ordered set of small whole numbers (node numbers, ranks).
 *
 * Pure. A bitmap: memory is one bit for each number up to the largest. Numbers are 0 to IDSET_MAX.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

enum { IDSET_MAX = (1 << 24) - 1 };

struct idset {
    uint64_t *words;
    uint32_t n_words;
    uint32_t n; // numbers in the set
};

void idset_free(struct idset *s);
void idset_clear(struct idset *s);          // keeps the memory
bool idset_add(struct idset *s, int id);    // false: was there
bool idset_remove(struct idset *s, int id); // false: was not there
bool idset_has(const struct idset *s, int id);
static inline int idset_count(const struct idset *s) {
    return (int)s->n;
}

/* The smallest member >= from, or -1. Walk:
 *     for (int id = idset_next(s, 0); id >= 0; id = idset_next(s, id + 1)) */
int idset_next(const struct idset *s, int from);

void idset_copy(struct idset *dst, const struct idset *src);
void idset_union(struct idset *dst, const struct idset *src);
void idset_intersect(struct idset *dst, const struct idset *src);
void idset_subtract(struct idset *dst, const struct idset *src);
bool idset_equal(const struct idset *a, const struct idset *b);

/* `0-3,7`; nothing for the empty set. */
void idset_print(const struct idset *s, struct buf *ret);

/* Read that form, each number 0 to max, into an empty set. -EINVAL: bad form, -ERANGE: a number
 * above max, or a range that falls. */
int idset_parse(struct idset *s, const char *text, int max);
