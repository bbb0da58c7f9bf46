/* drafts.h - what may come next, guessed from the text itself.
 *
 * Text repeats itself: code, quotations, lists. If the last few tokens have occurred before, what
 * followed them then is proposed now. A wrong guess costs the rows that check it, never a wrong
 * token (sample.h, "Speculation"). Source: Saxena, Prompt Lookup Decoding, 2023.
 */
#pragma once
#include "lib/base.h"

enum {
    DRAFTS_SUFFIX_MAX = 4, // tokens that must agree: this many, or as few as the next
    DRAFTS_SUFFIX_MIN = 2,
    DRAFTS_WINDOW = 8192, // of the newest ids are looked at
};

/* Propose up to n_max tokens that follow ids [n]: those behind the newest earlier occurrence of the
 * longest suffix that has one. Returns how many. */
int drafts_lookup(const int32_t *ids, int64_t n, int n_max, int32_t *ret);
