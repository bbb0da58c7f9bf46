#include "engine/infer/pages.h"

struct pages {
    int32_t n, n_tokens, n_unused;
    int32_t *holders; // [n]
    int32_t *unused;  // [n], the first n_unused: a stack
};

int pages_new(int64_t n_pages, int64_t page_tokens, struct pages **ret, struct hai_err *err) {
    assert(ret);
    if (page_tokens < 1 || page_tokens > PAGES_TOKENS_MAX || (page_tokens & (page_tokens - 1)) != 0)
        return hai_fail(err, -EINVAL, "%lld tokens a page: a power of two, from 1 to %d",
                        (long long)page_tokens, PAGES_TOKENS_MAX);
    if (n_pages < 0 || n_pages > PAGES_ROWS_MAX / page_tokens)
        return hai_fail(err, -EINVAL, "%lld pages of %lld tokens: at most %d tokens together",
                        (long long)n_pages, (long long)page_tokens, PAGES_ROWS_MAX);
    struct pages *p = hai_new(struct pages);
    p->n = p->n_unused = (int32_t)n_pages;
    p->n_tokens = (int32_t)page_tokens;
    p->holders = hai_new_array(int32_t, (size_t)n_pages);
    p->unused = hai_new_array(int32_t, (size_t)n_pages);
    // Low numbers on top.
    for (int32_t i = 0; i < p->n; i++)
        p->unused[i] = p->n - 1 - i;
    *ret = p;
    return 0;
}

void pages_free(struct pages *p) {
    if (!p)
        return;
    free(p->holders);
    free(p->unused);
    free(p);
}

int32_t pages_count(const struct pages *p) {
    return p->n;
}

int32_t pages_tokens(const struct pages *p) {
    return p->n_tokens;
}

int32_t pages_n_unused(const struct pages *p) {
    return p->n_unused;
}

int32_t pages_holders(const struct pages *p, int32_t page) {
    assert(page >= 0);
    assert(page < p->n);
    return p->holders[page];
}

int32_t pages_take(struct pages *p) {
    if (p->n_unused == 0)
        return -ENOSPC;
    int32_t page = p->unused[--p->n_unused];
    assert(p->holders[page] == 0);
    p->holders[page] = 1;
    return page;
}

void pages_hold(struct pages *p, int32_t page) {
    assert(pages_holders(p, page) > 0);
    assert(p->holders[page] < PAGES_HOLDERS_MAX);
    p->holders[page]++;
}

bool pages_drop(struct pages *p, int32_t page) {
    assert(pages_holders(p, page) > 0);
    if (--p->holders[page] > 0)
        return false;
    p->unused[p->n_unused++] = page;
    return true;
}
