#include "engine/infer/batcher_impl.h"

static int64_t promised_of(const struct request *r) {
    return MAX(r->pages_goal - r->n_pages, 0) + r->borrowed;
}

int64_t batcher_cache_available(const struct batcher *b) {
    int64_t n = pages_n_unused(b->pages);

    if (b->prefix)
        n += prefix_n_evictable(b->prefix);
    // A borrowed page does not become unused when the prefix cache lets go of it.
    return n - b->n_borrowed - b->n_promised;
}

static int32_t take_page(struct batcher *b) {
    int32_t page = pages_take(b->pages);

    while (page < 0 && b->prefix && prefix_evict(b->prefix) != PREFIX_NONE)
        page = pages_take(b->pages);
    return page;
}

static void move_add(struct batcher *b, enum batcher_move_kind kind, int32_t from, int32_t to,
                     int32_t n_tokens) {
    assert(b->n_moves < b->n_moves_max);
    b->moves[b->n_moves++] = (struct batcher_move){kind, from, to, n_tokens};
}

static void table_set(struct batcher *b, struct request *r, int32_t at, int32_t page) {
    batcher_table(b, r)[at] = page;
    r->table_from = MIN(r->table_from, at);
}

/* The page that the next token goes into is the request's own. False: no page for the copy. */
static bool own_next(struct batcher *b, struct request *r) {
    int32_t at = batcher_page_of(b, r->n_cached), old;

    if (!r->borrowed)
        return true;
    old = batcher_table(b, r)[at];
    while (pages_holders(b->pages, old) > 1) {
        int32_t page = take_page(b);
        // What took the last one out of the prefix cache may have left this one to us alone.
        if (page < 0 && pages_holders(b->pages, old) > 1)
            return false;
        if (page < 0)
            break;
        move_add(b, BATCHER_COPY, old, page, batcher_offset(b, r->n_cached));
        r->preempted_in = b->n_plans;
        (void)pages_drop(b->pages, old);
        table_set(b, r, at, page);
        break;
    }
    b->n_promised -= r->borrowed;
    b->n_borrowed -= r->borrowed;
    r->borrowed = false;
    return true;
}

int32_t batcher_cache_reach(struct batcher *b, struct request *r, int32_t n_tokens) {
    if (!own_next(b, r))
        return r->n_cached;
    while ((int64_t)r->n_pages * b->page_tokens < n_tokens) {
        int32_t page = take_page(b);
        if (page < 0)
            break;
        b->n_promised -= promised_of(r);
        table_set(b, r, r->n_pages++, page);
        b->n_promised += promised_of(r);
    }
    return (int32_t)MIN((int64_t)r->n_pages * b->page_tokens, (int64_t)n_tokens);
}

/* The first page that is not in the prefix cache. */
static int32_t next_block(const struct batcher *b, const struct request *r) {
    return r->tree_block == NONE ? r->first_block : b->block_next[r->tree_block];
}

/* What the prefix cache has of a request's ids, the last one apart, which must run for its logits.
 * Blocks are kept so that the walk need not begin again. */
struct found {
    int32_t node, n_pages, last_block;
    int32_t part_page, n_part;
};

static struct found find_prefix(const struct batcher *b, const struct request *r) {
    struct found f = {.node = PREFIX_NONE, .last_block = NONE, .part_page = PREFIX_NONE};
    int32_t block = r->first_block, n_left = r->n_ids - 1, n = b->page_tokens;

    if (!b->prefix || r->no_cache)
        return f;
    for (; n_left >= n; n_left -= n) {
        int32_t next = prefix_child(b->prefix, r->key, f.node, batcher_block(b, block));
        if (next == PREFIX_NONE)
            break;
        f.node = next;
        f.n_pages++;
        f.last_block = block;
        block = b->block_next[block];
    }
    f.n_part = prefix_part(b->prefix, r->key, f.node, batcher_block(b, block), MIN(n_left, n),
                           &f.part_page);
    return f;
}

/* List what was found; node is pinned already. */
static void use_prefix(struct batcher *b, struct request *r, const struct found *f) {
    int32_t *table = batcher_table(b, r);

    r->node = f->node;
    r->n_in_tree = r->n_pages = f->n_pages;
    r->tree_block = f->last_block;
    r->n_cached = f->n_pages * b->page_tokens;
    if (f->n_pages > 0)
        prefix_path(b->prefix, f->node, table, f->n_pages);
    for (int32_t i = 0; i < f->n_pages; i++)
        pages_hold(b->pages, table[i]);
    if (f->n_part == 0 || r->n_swap > f->n_pages)
        return;
    pages_hold(b->pages, f->part_page);
    table[r->n_pages++] = f->part_page;
    r->n_cached += f->n_part;
    r->borrowed = true;
    b->n_borrowed++;
}

/* Move swapped pages in, those apart that the prefix cache still has. */
static void swap_in(struct batcher *b, struct request *r) {
    int32_t from = r->swap_first;
    bool moved = false;

    for (int32_t i = 0; i < r->n_swap; i++, from = b->swap_next[from]) {
        int32_t n_tokens = MIN(r->n_swap_tokens - i * b->page_tokens, b->page_tokens);
        if (i < r->n_pages)
            continue;
        int32_t page = take_page(b);
        assert(page >= 0);
        move_add(b, BATCHER_IN, from, page, n_tokens);
        table_set(b, r, r->n_pages++, page);
        r->n_cached = r->n_swap_tokens;
        r->preempted_in = b->n_plans;
        moved = true;
    }
    b->counts.n_swapped_in += moved;
    batcher_cache_release_swap(b, r);
}

static void find_cached_block(struct batcher *b, struct request *r) {
    int32_t at = batcher_page_of(b, r->n_cached);

    r->cached_block = r->tree_block == NONE ? r->first_block : r->tree_block;
    at -= MAX(r->n_in_tree - 1, 0);
    while (at-- > 0)
        r->cached_block = b->block_next[r->cached_block];
}

bool batcher_cache_admit(struct batcher *b, struct request *r, bool alone, int64_t *ret_lacking) {
    int32_t goal = batcher_pages(b, r->n_ids);
    struct found f = find_prefix(b, r);

    if (b->prefix)
        prefix_pin(b->prefix, f.node);
    // Beside others, leave them a page each to grow into, or a part of the cache if they are many.
    int64_t spare = MIN(b->counts.n_resident, pages_count(b->pages) / 16);
    int64_t lacking = goal - f.n_pages + (f.n_part > 0) + spare - batcher_cache_available(b);
    if (!alone && lacking > 0) {
        if (b->prefix)
            prefix_unpin(b->prefix, f.node);
        *ret_lacking = lacking;
        return false;
    }
    r->slot = b->free_slots[--b->n_free_slots];
    b->slots[r->slot] = batcher_index(b, r);
    r->table_from = 0;
    r->borrowed = false;
    use_prefix(b, r, &f);
    if (r->n_swap > 0)
        swap_in(b, r);
    r->pages_goal = goal;
    b->n_promised += promised_of(r);
    b->sum_ids += r->n_ids;
    b->counts.n_resident++;
    b->n_resident[r->level]++;
    find_cached_block(b, r);
    r->state = REQUEST_RESIDENT;
    return true;
}

bool batcher_cache_same_next(const struct batcher *b, const struct request *r,
                             const struct request *q) {
    int64_t end = (int64_t)(r->n_in_tree + 1) * b->page_tokens;

    if (r->key != q->key || r->node != q->node || end >= r->n_ids || end >= q->n_ids)
        return false;
    if (r->n_in_tree != batcher_page_of(b, r->n_cached))
        return false;
    return memcmp(batcher_block(b, next_block(b, r)), batcher_block(b, next_block(b, q)),
                  (size_t)b->page_tokens * sizeof(int32_t)) == 0;
}

void batcher_cache_catch_up(struct batcher *b, struct request *r) {
    int32_t before = r->n_cached;

    // What came from the swap space lies beyond its pages in the tree.
    if (!b->prefix || r->no_cache || r->n_in_tree != batcher_page_of(b, r->n_cached))
        return;
    while ((int64_t)(r->n_in_tree + 1) * b->page_tokens < r->n_ids) {
        int32_t block = next_block(b, r);
        int32_t node = prefix_child(b->prefix, r->key, r->node, batcher_block(b, block));
        if (node == PREFIX_NONE)
            break;
        b->n_promised -= promised_of(r);
        b->n_borrowed -= r->borrowed;
        r->borrowed = false;
        while (r->n_pages > r->n_in_tree)
            (void)pages_drop(b->pages, batcher_table(b, r)[--r->n_pages]);
        pages_hold(b->pages, node);
        table_set(b, r, r->n_pages++, node);
        b->n_promised += promised_of(r);
        prefix_pin_child(b->prefix, node);
        r->node = node;
        r->tree_block = block;
        r->cached_block = b->block_next[block];
        r->n_cached = ++r->n_in_tree * b->page_tokens;
    }
    b->counts.n_hit_tokens += r->n_cached - before;
}

void batcher_cache_release(struct batcher *b, struct request *r) {
    const int32_t *table = batcher_table(b, r);

    b->n_promised -= promised_of(r);
    b->n_borrowed -= r->borrowed;
    b->sum_ids -= r->n_ids;
    b->counts.n_resident--;
    b->n_resident[r->level]--;
    for (int32_t i = 0; i < r->n_pages; i++)
        (void)pages_drop(b->pages, table[i]);
    if (b->prefix)
        prefix_unpin(b->prefix, r->node);
    r->node = r->tree_block = NONE;
    r->n_pages = r->n_in_tree = r->n_cached = r->pages_goal = r->n_drafts = 0;
    r->borrowed = false;
    b->slots[r->slot] = NONE;
    b->free_slots[b->n_free_slots++] = r->slot;
    r->slot = NONE;
}

void batcher_cache_release_swap(struct batcher *b, struct request *r) {
    for (int32_t i = r->swap_first; r->n_swap > 0; r->n_swap--) {
        int32_t next = b->swap_next[i];
        (void)pages_drop(b->swap, i);
        i = next;
    }
    b->counts.n_swapped -= r->n_swap_tokens > 0;
    r->swap_first = NONE;
    r->n_swap_tokens = 0;
}

void batcher_cache_swap_out(struct batcher *b, struct request *r) {
    int32_t n = batcher_pages(b, r->n_cached), *link = &r->swap_first;
    double again_us = b->cost.us[1] * r->n_cached + b->cost.us[2] * stepcost_keys(0, r->n_cached);

    if (n == 0 || r->borrowed || n > pages_n_unused(b->swap))
        return;
    if (2 * n * b->config.us_swap_page >= again_us)
        return;
    for (int32_t i = 0; i < n; i++, link = &b->swap_next[*link]) {
        int32_t n_tokens = MIN(r->n_cached - i * b->page_tokens, b->page_tokens);
        *link = pages_take(b->swap);
        assert(*link >= 0);
        move_add(b, BATCHER_OUT, batcher_table(b, r)[i], *link, n_tokens);
    }
    r->n_swap = n;
    r->n_swap_tokens = r->n_cached;
    b->counts.n_swapped++;
    b->counts.n_swapped_out++;
}

static void add_to_tree(struct batcher *b, struct request *r) {
    while ((int64_t)(r->n_in_tree + 1) * b->page_tokens <= r->n_cached) {
        int32_t *page = &batcher_table(b, r)[r->n_in_tree];
        int32_t block = next_block(b, r);
        int32_t node = prefix_add(b->prefix, r->key, r->node, batcher_block(b, block), *page);
        if (node != *page) {
            // Somebody computed the same meanwhile: one page is enough.
            pages_hold(b->pages, node);
            (void)pages_drop(b->pages, *page);
            table_set(b, r, r->n_in_tree, node);
        }
        prefix_pin_child(b->prefix, node);
        r->node = node;
        r->tree_block = block;
        r->n_in_tree++;
    }
}

void batcher_cache_advance(struct batcher *b, struct request *r, int32_t n) {
    int32_t at = batcher_page_of(b, r->n_cached);

    r->n_cached += n;
    assert(r->n_cached <= r->n_ids);
    for (; at < batcher_page_of(b, r->n_cached) && r->n_cached < r->n_ids; at++)
        r->cached_block = b->block_next[r->cached_block];
    if (b->prefix && !r->no_cache)
        add_to_tree(b, r);
}

void batcher_cache_cut(struct batcher *b, struct request *r) {
    int32_t n = batcher_pages(b, r->n_cached);

    b->n_promised -= promised_of(r);
    while (r->n_pages > n)
        (void)pages_drop(b->pages, batcher_table(b, r)[--r->n_pages]);
    b->n_promised += promised_of(r);
}
