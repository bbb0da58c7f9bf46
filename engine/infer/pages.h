/* pages.h - which pages of the paged key-value cache are in use, and by how many.
 *
 * The cache is cut into pages of page_tokens tokens (kernels' layout: [n_pages, page_tokens, ...],
 * one page number for all layers). A sequence lists its pages in a page table; the token at
 * position p lies in row `page * page_tokens + p % page_tokens` of every layer's cache. Pages are
 * counted by reference, so sequences and the prefix cache may share them; who wants to write into a
 * page must be its only holder. The same allocator counts the pages of the swap space.
 *
 * Pure bookkeeping: the pages' bytes are elsewhere. Everything is allocated by pages_new; the calls
 * after it take constant time. The page given out is the one freed last, so the same calls give the
 * same numbers. One thread at a time.
 */
#pragma once
#include "lib/base.h"

enum {
    PAGES_TOKENS_MAX = 1024,      // tokens of one page, a power of two
    PAGES_ROWS_MAX = INT32_MAX,   // pages times tokens: rows are 32-bit
    PAGES_HOLDERS_MAX = INT32_MAX // of one page
};

struct pages;

/* n_pages   at least 1; 0 is allowed too and gives an allocator that is always empty
 * Returns 0, or -EINVAL: a size out of bounds or no power of two, more than PAGES_ROWS_MAX rows. */
int pages_new(int64_t n_pages, int64_t page_tokens, struct pages **ret, struct hai_err *err);
void pages_free(struct pages *p);
DEFINE_CLEANUP(struct pages *, pages_free)

int32_t pages_count(const struct pages *p);                 // all of them
int32_t pages_tokens(const struct pages *p);                // of one page
int32_t pages_n_unused(const struct pages *p);              // without a holder
int32_t pages_holders(const struct pages *p, int32_t page); // 0: unused

/* An unused page, now held once; -ENOSPC if there is none. */
int32_t pages_take(struct pages *p);

/* One holder more, of a page that has one. */
void pages_hold(struct pages *p, int32_t page);

/* One holder less. True: that was the last one, the page is unused now. */
bool pages_drop(struct pages *p, int32_t page);

/* Pages that hold n_tokens tokens. */
static inline int64_t pages_needed(int64_t n_tokens, int64_t page_tokens) {
    return (n_tokens + page_tokens - 1) / page_tokens;
}
