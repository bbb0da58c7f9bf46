#include "engine/infer/prefix.h"
#include "lib/digest.h"

/* One place a page; numbers of pages, PREFIX_NONE for none. */
struct node {
    uint64_t key;
    uint32_t hash;                       // of key, parent and ids
    int32_t parent, child, older, newer; // newest child; its siblings
    int32_t chain;                       // next of the same bucket
    int32_t before, after;               // in the order of eviction, if not pinned
    int32_t n_pins;                      // of this node and all below it
    bool present;
};

struct prefix {
    struct pages *pages;
    int32_t page_tokens;
    struct node *nodes; // [pages]
    int32_t *ids;       // [pages, page_tokens]
    int32_t *buckets;   // [bucket_mask + 1]
    int32_t *roots;     // [bucket_mask + 1], newest of the first pages of the keys that fall here
    uint32_t bucket_mask;
    int32_t first, last; // of eviction
    int32_t n_nodes, n_pinned;
    void *hashed; // seed, key, parent, ids: what is hashed
    uint64_t seed;
};

enum { HASHED_WORDS = 3 }; // of 64 bits, before the ids

struct prefix *prefix_new(struct pages *p, uint64_t hash_seed) {
    struct prefix *t = hai_new(struct prefix);
    uint32_t n_pages = (uint32_t)pages_count(p), n_buckets = 16;

    while (n_buckets < n_pages)
        n_buckets *= 2;
    t->pages = p;
    t->page_tokens = pages_tokens(p);
    t->nodes = hai_new_array(struct node, n_pages);
    t->ids = hai_new_array(int32_t, (size_t)n_pages * (size_t)t->page_tokens);
    t->buckets = hai_new_array(int32_t, n_buckets);
    memset(t->buckets, 0xff, n_buckets * sizeof *t->buckets);
    t->roots = hai_new_array(int32_t, n_buckets);
    memset(t->roots, 0xff, n_buckets * sizeof *t->roots);
    t->bucket_mask = n_buckets - 1;
    t->first = t->last = PREFIX_NONE;
    t->hashed =
        hai_alloc(HASHED_WORDS * sizeof(uint64_t) + (size_t)t->page_tokens * sizeof(int32_t));
    t->seed = hash_seed;
    return t;
}

void prefix_free(struct prefix *t) {
    if (!t)
        return;
    for (int32_t i = 0; i < pages_count(t->pages); i++)
        if (t->nodes[i].present)
            (void)pages_drop(t->pages, i);
    free(t->nodes);
    free(t->ids);
    free(t->buckets);
    free(t->roots);
    free(t->hashed);
    free(t);
}

struct pages *prefix_pages(const struct prefix *t) {
    return t->pages;
}

int32_t prefix_n_nodes(const struct prefix *t) {
    return t->n_nodes;
}

int32_t prefix_n_pinned(const struct prefix *t) {
    return t->n_pinned;
}

int32_t prefix_n_evictable(const struct prefix *t) {
    return t->n_nodes - t->n_pinned;
}

static struct node *node_of(const struct prefix *t, int32_t node) {
    assert(node >= 0);
    assert(node < pages_count(t->pages));
    assert(t->nodes[node].present);
    return &t->nodes[node];
}

static size_t ids_bytes(const struct prefix *t) {
    return (size_t)t->page_tokens * sizeof(int32_t);
}

static int32_t *ids_of(const struct prefix *t, int32_t node) {
    return t->ids + (int64_t)node * t->page_tokens;
}

static uint32_t hash_of(const struct prefix *t, uint64_t key, int32_t parent, const int32_t *ids) {
    uint64_t words[HASHED_WORDS] = {t->seed, key, (uint64_t)(int64_t)parent};

    memcpy(t->hashed, words, sizeof words);
    memcpy((char *)t->hashed + sizeof words, ids, ids_bytes(t));
    return (uint32_t)digest_xxh3(t->hashed, sizeof words + ids_bytes(t));
}

static int32_t look_up(const struct prefix *t, uint64_t key, int32_t parent, const int32_t *ids,
                       uint32_t hash) {
    for (int32_t i = t->buckets[hash & t->bucket_mask]; i != PREFIX_NONE; i = t->nodes[i].chain) {
        const struct node *n = &t->nodes[i];
        if (n->hash == hash && n->key == key && n->parent == parent &&
            memcmp(ids_of(t, i), ids, ids_bytes(t)) == 0)
            return i;
    }
    return PREFIX_NONE;
}

int32_t prefix_child(const struct prefix *t, uint64_t key, int32_t node, const int32_t *ids) {
    return look_up(t, key, node, ids, hash_of(t, key, node, ids));
}

/* Where the list of a node's children begins; first pages are children of their key. */
static int32_t *newest_child(const struct prefix *t, uint64_t key, int32_t parent) {
    if (parent != PREFIX_NONE)
        return &node_of(t, parent)->child;
    uint64_t words[2] = {t->seed, key};
    return &t->roots[digest_xxh3(words, sizeof words) & t->bucket_mask];
}

int32_t prefix_part(const struct prefix *t, uint64_t key, int32_t node, const int32_t *ids,
                    int32_t n_ids, int32_t *ret_page) {
    int32_t i = *newest_child(t, key, node), longest = 0;

    assert(n_ids <= t->page_tokens);
    for (int seen = 0; i != PREFIX_NONE && seen < PREFIX_SIBLINGS_MAX && longest < n_ids;
         i = t->nodes[i].older, seen++) {
        const int32_t *theirs = ids_of(t, i);
        int32_t n = 0;
        if (t->nodes[i].key != key)
            continue;
        while (n < n_ids && theirs[n] == ids[n])
            n++;
        if (n <= longest)
            continue;
        longest = n;
        *ret_page = i;
    }
    return longest;
}

void prefix_path(const struct prefix *t, int32_t node, int32_t *ret_pages, int32_t n_pages) {
    for (int32_t i = n_pages; i-- > 0; node = node_of(t, node)->parent)
        ret_pages[i] = node;
    assert(node == PREFIX_NONE);
}

static void order_append(struct prefix *t, int32_t node) {
    t->nodes[node].before = t->last;
    t->nodes[node].after = PREFIX_NONE;
    if (t->last == PREFIX_NONE)
        t->first = node;
    else
        t->nodes[t->last].after = node;
    t->last = node;
}

static void order_prepend(struct prefix *t, int32_t node) {
    t->nodes[node].before = PREFIX_NONE;
    t->nodes[node].after = t->first;
    if (t->first == PREFIX_NONE)
        t->last = node;
    else
        t->nodes[t->first].before = node;
    t->first = node;
}

static void order_remove(struct prefix *t, int32_t node) {
    struct node *n = &t->nodes[node];

    if (n->before == PREFIX_NONE)
        t->first = n->after;
    else
        t->nodes[n->before].after = n->after;
    if (n->after == PREFIX_NONE)
        t->last = n->before;
    else
        t->nodes[n->after].before = n->before;
}

/* Make `page` a node, not yet in the order of eviction. */
static void node_add(struct prefix *t, uint64_t key, int32_t parent, const int32_t *ids,
                     uint32_t hash, int32_t page) {
    struct node *n = &t->nodes[page];
    int32_t *newest = newest_child(t, key, parent), *bucket = &t->buckets[hash & t->bucket_mask];

    assert(!n->present);
    pages_hold(t->pages, page);
    memcpy(ids_of(t, page), ids, ids_bytes(t));
    *n = (struct node){
        .key = key,
        .hash = hash,
        .parent = parent,
        .child = PREFIX_NONE,
        .older = *newest,
        .newer = PREFIX_NONE,
        .chain = *bucket,
        .present = true,
    };
    if (*newest != PREFIX_NONE)
        t->nodes[*newest].newer = page;
    *newest = page;
    *bucket = page;
    t->n_nodes++;
}

int32_t prefix_add(struct prefix *t, uint64_t key, int32_t node, const int32_t *ids, int32_t page) {
    uint32_t hash = hash_of(t, key, node, ids);
    int32_t there = look_up(t, key, node, ids, hash);

    // A node goes before its parent, which therefore must not be in the order itself.
    assert(node == PREFIX_NONE || node_of(t, node)->n_pins > 0);
    assert(node == PREFIX_NONE || t->nodes[node].key == key);
    if (there != PREFIX_NONE)
        return there;
    node_add(t, key, node, ids, hash, page);
    order_append(t, page);
    return page;
}

int32_t prefix_restore(struct prefix *t, uint64_t key, int32_t node, const int32_t *ids,
                       int32_t page) {
    uint32_t hash = hash_of(t, key, node, ids);
    int32_t there = look_up(t, key, node, ids, hash);

    assert(node == PREFIX_NONE || node_of(t, node)->key == key);
    if (there != PREFIX_NONE)
        return there;
    node_add(t, key, node, ids, hash, page);
    order_prepend(t, page);
    return page;
}

static void pin_one(struct prefix *t, int32_t node) {
    if (node_of(t, node)->n_pins++ > 0)
        return;
    order_remove(t, node);
    t->n_pinned++;
}

void prefix_pin(struct prefix *t, int32_t node) {
    for (; node != PREFIX_NONE; node = t->nodes[node].parent)
        pin_one(t, node);
}

void prefix_pin_child(struct prefix *t, int32_t node) {
    int32_t parent = node_of(t, node)->parent;

    assert(parent == PREFIX_NONE || t->nodes[parent].n_pins > 0);
    pin_one(t, node);
}

void prefix_unpin(struct prefix *t, int32_t node) {
    for (; node != PREFIX_NONE; node = t->nodes[node].parent) {
        assert(node_of(t, node)->n_pins > 0);
        if (--t->nodes[node].n_pins > 0)
            continue;
        order_append(t, node);
        t->n_pinned--;
    }
}

void prefix_remove(struct prefix *t, int32_t node) {
    struct node *n = node_of(t, node);
    int32_t *link = &t->buckets[n->hash & t->bucket_mask];

    assert(n->n_pins == 0);
    assert(n->child == PREFIX_NONE);
    while (*link != node)
        link = &t->nodes[*link].chain;
    *link = n->chain;
    if (n->newer == PREFIX_NONE)
        *newest_child(t, n->key, n->parent) = n->older;
    else
        t->nodes[n->newer].older = n->older;
    if (n->older != PREFIX_NONE)
        t->nodes[n->older].newer = n->newer;
    order_remove(t, node);
    n->present = false;
    t->n_nodes--;
    (void)pages_drop(t->pages, node);
}

int32_t prefix_evict(struct prefix *t) {
    int32_t node = t->first;

    if (node != PREFIX_NONE)
        prefix_remove(t, node);
    return node;
}

/* Pinned nodes among siblings and below them, from the newest on, parents first: without recursion,
 * as a path may be very long. */
static int32_t list_pinned(const struct prefix *t, int32_t node, int32_t *ret) {
    int32_t n = 0;

    while (node != PREFIX_NONE) {
        if (t->nodes[node].n_pins > 0) {
            ret[n++] = node;
            if (t->nodes[node].child != PREFIX_NONE) {
                node = t->nodes[node].child;
                continue;
            }
        }
        while (node != PREFIX_NONE && t->nodes[node].older == PREFIX_NONE)
            node = t->nodes[node].parent;
        if (node != PREFIX_NONE)
            node = t->nodes[node].older;
    }
    return n;
}

void prefix_list(const struct prefix *t, int32_t *ret) {
    int32_t n = 0;

    for (uint32_t i = 0; i <= t->bucket_mask; i++)
        n += list_pinned(t, t->roots[i], ret + n);
    assert(n == t->n_pinned);
    for (int32_t i = t->last; i != PREFIX_NONE; i = t->nodes[i].before)
        ret[n++] = i;
    assert(n == t->n_nodes);
}

int32_t prefix_parent(const struct prefix *t, int32_t node) {
    return node_of(t, node)->parent;
}

uint64_t prefix_key(const struct prefix *t, int32_t node) {
    return node_of(t, node)->key;
}

const int32_t *prefix_ids(const struct prefix *t, int32_t node) {
    assert(node_of(t, node));
    return ids_of(t, node);
}

void prefix_check(const struct prefix *t) {
    int32_t n_nodes = 0, n_pinned = 0, n_ordered = 0, n_pages = pages_count(t->pages);
    _cleanup_free_ int32_t *place = hai_new_array(int32_t, (size_t)n_pages + 1);

    for (int32_t i = t->first; i != PREFIX_NONE; i = t->nodes[i].after) {
        assert(t->nodes[i].n_pins == 0);
        place[i] = ++n_ordered;
    }
    for (int32_t i = 0; i < n_pages; i++) {
        const struct node *n = &t->nodes[i];
        if (!n->present)
            continue;
        n_nodes++;
        n_pinned += n->n_pins > 0;
        assert(pages_holders(t->pages, i) > 0);
        assert((n->n_pins == 0) == (place[i] > 0));
        assert(look_up(t, n->key, n->parent, ids_of(t, i), n->hash) == i);
        if (n->parent == PREFIX_NONE)
            continue;
        assert(node_of(t, n->parent)->key == n->key);
        assert(t->nodes[n->parent].n_pins >= n->n_pins);
        assert(t->nodes[n->parent].n_pins > 0 || place[n->parent] > place[i]);
    }
    assert(n_nodes == t->n_nodes);
    assert(n_pinned == t->n_pinned);
    assert(n_ordered == n_nodes - n_pinned);
}
