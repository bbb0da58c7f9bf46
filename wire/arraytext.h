/* arraytext.h - how people write the elements of an array: `0-99%8`, `1,3,7-9`, `0-90:10`.
 *
 * ITEM[,ITEM]...[%CAP], an item is N, N-M or N-M:STEP. Indices ascend, 0 to ARRAY_INDEX_MAX, at
 * most ARRAY_MAX of them; at most CAP run at once.
 */
#pragma once
#include "lib/base.h"
#include "lib/limits.h"

struct arraytext_range {
    int64_t first, last, step;
};

struct arraytext {
    struct arraytext_range ranges[ARRAY_RANGES_MAX];
    size_t n_ranges;
    int64_t n;   // elements
    int64_t cap; // 0: none
};

/* 0, or -EINVAL: it is no such text. */
int arraytext_parse(const char *text, struct arraytext *ret);
