#include "engine/data/bpe.h"

#include <stdalign.h>

enum {
    WORD_BYTES_MAX = 30,    // of remembered words
    CACHE_WORDS = 1 << 14,  // a newer word takes the place of an older one
    CACHE_WORD_TOKENS = 8,  // words of more tokens are not remembered
    SHORT_WORD_BYTES = 48,  // up to here the lowest rank is searched for, beyond it waits in a heap
    MERGES_FIRST = 1 << 12, // places of the table
};

#define NO_PAIR UINT64_MAX

struct merge {
    uint64_t pair; // NO_PAIR: free
    int32_t merged, rank;
};

/* One cache line. */
struct word {
    alignas(64) uint8_t n_bytes; // 0: free
    uint8_t n_tokens;
    uint8_t bytes[WORD_BYTES_MAX];
    int32_t tokens[CACHE_WORD_TOKENS];
};

/* A token of the word being merged, linked to its neighbours; id -1: swallowed by the left one. */
struct symbol {
    int32_t id;
    int32_t before, after; // -1: none
};

/* A merge that could be done at a symbol; out of date once that or its neighbour has changed. */
struct candidate {
    int32_t rank, at;
    int32_t left, right, merged;
};

struct bpe {
    int32_t bytes[256];
    struct merge *merges; // hash table, at most half full
    size_t n_merges, n_merges_max;
    const struct vocab *whole; // NULL: words are merged from bytes
    struct word *words;
    struct symbol *symbols;
    size_t n_symbols_max;
    struct candidate *heap;
    size_t n_heap, n_heap_max;
};

struct bpe *bpe_new(void) {
    struct bpe *bpe = hai_new(struct bpe);

    bpe->words = aligned_alloc(alignof(struct word), CACHE_WORDS * sizeof *bpe->words);
    if (!bpe->words)
        abort();
    memset(bpe->words, 0, CACHE_WORDS * sizeof *bpe->words);
    return bpe;
}

void bpe_free(struct bpe *bpe) {
    if (!bpe)
        return;
    free(bpe->merges);
    free(bpe->words);
    free(bpe->symbols);
    free(bpe->heap);
    free(bpe);
}

void bpe_set_byte(struct bpe *bpe, uint8_t byte, int32_t id) {
    bpe->bytes[byte] = id;
}

void bpe_set_whole_words(struct bpe *bpe, const struct vocab *vocab) {
    bpe->whole = vocab;
}

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The place of a pair: where it is, or the free one where it would go. */
static inline struct merge *merge_place(const struct bpe *bpe, uint64_t pair) {
    size_t i = (size_t)((pair ^ pair >> 32) * 0x9E3779B97F4A7C15u >> 24);

    for (;; i++) {
        struct merge *m = &bpe->merges[i & (bpe->n_merges_max - 1)];
        if (m->pair == NO_PAIR || m->pair == pair)
            return m;
    }
}

static void merges_grow(struct bpe *bpe) {
    struct merge *old = bpe->merges;
    size_t n_old = bpe->n_merges_max;

    bpe->n_merges_max = n_old ? 4 * n_old : MERGES_FIRST;
    bpe->merges = hai_new_array(struct merge, bpe->n_merges_max);
    for (size_t i = 0; i < bpe->n_merges_max; i++)
        bpe->merges[i].pair = NO_PAIR;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].pair != NO_PAIR)
            *merge_place(bpe, old[i].pair) = old[i];
    free(old);
}

void bpe_add_merge(struct bpe *bpe, int32_t left, int32_t right, int32_t merged, int32_t rank) {
    assert(left >= 0);
    assert(right >= 0);
    if (2 * (bpe->n_merges + 1) > bpe->n_merges_max)
        merges_grow(bpe);
    struct merge *m = merge_place(bpe, pair_of(left, right));
    if (m->pair != NO_PAIR)
        return;
    *m = (struct merge){pair_of(left, right), merged, rank};
    bpe->n_merges++;
}

/* The merge of two tokens, or one of rank INT32_MAX. */
static inline struct merge merge_of(const struct bpe *bpe, int32_t left, int32_t right) {
    static const struct merge none = {NO_PAIR, -1, INT32_MAX};
    const struct merge *m = merge_place(bpe, pair_of(left, right));

    return m->pair == NO_PAIR ? none : *m;
}

static bool goes_before(const struct candidate *a, const struct candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(struct bpe *bpe, struct candidate c) {
    if (bpe->n_heap == bpe->n_heap_max) {
        bpe->n_heap_max = MAX((size_t)64, 2 * bpe->n_heap_max);
        bpe->heap = hai_realloc_array(bpe->heap, bpe->n_heap_max, sizeof *bpe->heap);
    }
    size_t i = bpe->n_heap++;
    for (; i && goes_before(&c, &bpe->heap[(i - 1) / 2]); i = (i - 1) / 2)
        bpe->heap[i] = bpe->heap[(i - 1) / 2];
    bpe->heap[i] = c;
}

static struct candidate heap_pop(struct bpe *bpe) {
    struct candidate first = bpe->heap[0], last = bpe->heap[--bpe->n_heap];
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= bpe->n_heap)
            break;
        if (child + 1 < bpe->n_heap && goes_before(&bpe->heap[child + 1], &bpe->heap[child]))
            child++;
        if (!goes_before(&bpe->heap[child], &last))
            break;
        bpe->heap[i] = bpe->heap[child];
        i = child;
    }
    bpe->heap[i] = last;
    return first;
}

static void consider(struct bpe *bpe, int32_t at) {
    if (at < 0 || bpe->symbols[at].after < 0)
        return;
    int32_t left = bpe->symbols[at].id, right = bpe->symbols[bpe->symbols[at].after].id;
    struct merge m = merge_of(bpe, left, right);
    if (m.rank < INT32_MAX)
        heap_push(bpe, (struct candidate){m.rank, at, left, right, m.merged});
}

static void merge_long(struct bpe *bpe, const uint8_t *word, size_t n_bytes,
                       struct token_list *ret) {
    if (bpe->n_symbols_max < n_bytes) {
        bpe->n_symbols_max = MAX(n_bytes, 2 * bpe->n_symbols_max);
        bpe->symbols = hai_realloc_array(bpe->symbols, bpe->n_symbols_max, sizeof *bpe->symbols);
    }
    struct symbol *s = bpe->symbols;
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++)
        if (bpe->bytes[word[i]] >= 0) {
            s[n] = (struct symbol){bpe->bytes[word[i]], (int32_t)n - 1, (int32_t)n + 1};
            n++;
        }
    if (!n)
        return;
    s[n - 1].after = -1;
    bpe->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++)
        consider(bpe, (int32_t)i);
    while (bpe->n_heap) {
        struct candidate c = heap_pop(bpe);
        int32_t after = s[c.at].after;
        if (s[c.at].id != c.left || after < 0 || s[after].id != c.right)
            continue;
        s[c.at].id = c.merged;
        s[c.at].after = s[after].after;
        s[after].id = -1;
        if (s[after].after >= 0)
            s[s[after].after].before = c.at;
        consider(bpe, s[c.at].before);
        consider(bpe, c.at);
    }
    for (int32_t i = 0; i >= 0; i = s[i].after)
        token_list_add(ret, s[i].id);
}

/* The same for a few bytes: neighbours in arrays, the lowest rank by looking at all. */
static void merge_short(const struct bpe *bpe, const uint8_t *word, size_t n_bytes,
                        struct token_list *ret) {
    int32_t ids[SHORT_WORD_BYTES], merged[SHORT_WORD_BYTES], ranks[SHORT_WORD_BYTES];
    size_t n = 0;

    for (size_t i = 0; i < n_bytes; i++)
        if (bpe->bytes[word[i]] >= 0)
            ids[n++] = bpe->bytes[word[i]];
    for (size_t i = 0; i + 1 < n; i++) {
        struct merge m = merge_of(bpe, ids[i], ids[i + 1]);
        merged[i] = m.merged;
        ranks[i] = m.rank;
    }
    while (n > 1) {
        size_t at = 0;
        for (size_t i = 1; i + 1 < n; i++)
            at = ranks[i] < ranks[at] ? i : at;
        if (ranks[at] == INT32_MAX)
            break;
        ids[at] = merged[at];
        n--;
        for (size_t i = at + 1; i < n; i++) {
            ids[i] = ids[i + 1];
            merged[i - 1] = merged[i];
            ranks[i - 1] = ranks[i];
        }
        for (size_t i = at ? at - 1 : 0; i <= at && i + 1 < n; i++) {
            struct merge m = merge_of(bpe, ids[i], ids[i + 1]);
            merged[i] = m.merged;
            ranks[i] = m.rank;
        }
    }
    token_list_add_n(ret, ids, n);
}

static void merge_word(struct bpe *bpe, const uint8_t *word, size_t n_bytes,
                       struct token_list *ret) {
    int32_t id = bpe->whole ? vocab_find(bpe->whole, word, n_bytes) : -1;

    if (!bpe->n_merges_max)
        merges_grow(bpe);
    if (id >= 0)
        token_list_add(ret, id);
    else if (n_bytes <= SHORT_WORD_BYTES)
        merge_short(bpe, word, n_bytes, ret);
    else
        merge_long(bpe, word, n_bytes, ret);
}

static struct word *word_place(struct bpe *bpe, const uint8_t *word, size_t n_bytes) {
    uint64_t h = n_bytes, w;

    for (; n_bytes > sizeof w; word += sizeof w, n_bytes -= sizeof w) {
        memcpy(&w, word, sizeof w);
        h = (h ^ w) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
    }
    w = 0;
    for (size_t i = 0; i < n_bytes; i++)
        w = w << 8 | word[i];
    h = (h ^ w) * 0x9E3779B97F4A7C15u;
    return &bpe->words[(h ^ h >> 32) % CACHE_WORDS];
}

void bpe_encode(struct bpe *bpe, const uint8_t *word, size_t n_bytes, struct token_list *ret) {
    if (!n_bytes)
        return;
    assert(n_bytes < INT32_MAX);
    if (n_bytes > WORD_BYTES_MAX) {
        merge_word(bpe, word, n_bytes, ret);
        return;
    }
    struct word *w = word_place(bpe, word, n_bytes);
    if (w->n_bytes == n_bytes && !memcmp(w->bytes, word, n_bytes)) {
        token_list_add_n(ret, w->tokens, w->n_tokens);
        return;
    }
    size_t first = ret->n;
    merge_word(bpe, word, n_bytes, ret);
    if (ret->n - first > CACHE_WORD_TOKENS)
        return;
    w->n_bytes = (uint8_t)n_bytes;
    w->n_tokens = (uint8_t)(ret->n - first);
    memcpy(w->bytes, word, n_bytes);
    memcpy(w->tokens, ret->ids + first, (ret->n - first) * sizeof *ret->ids);
}
