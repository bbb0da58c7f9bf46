#include "engine/data/bpe.h"

#include <stdalign.h>

enum {
    WORD_BYTES_MAX = 30,    // of remembered words
    CACHE_WORDS = 1 << 14,  // a newer word takes the place of an older one
    CACHE_WORD_TOKENS = 8,  // words of more tokens are not remembered
    SHORT_WORD_BYTES = 48,  // up to here the lowest rank is searched for, beyond it waits in a heap
    MERGES_FIRST = 1 << 12, // places of the table
    FILTER_BITS = 1 << 21,
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

/* What two bytes become; rank INT32_MAX: nothing. */
struct byte_pair {
    int32_t merged, rank;
};

/* Most pairs that occur are no merge, and the table is larger than the caches: a bit for the hash
 * of each merge turns nearly all of those away. Pairs of bytes, one in three for Chinese, have a
 * table of their own. */
struct bpe {
    int32_t bytes[256];
    struct merge *merges; // hash table, at most half full
    size_t n_merges, n_merges_max;
    uint64_t *filter;
    struct byte_pair *byte_pairs; // 256 x 256; NULL until the first word
    const struct vocab *whole;    // NULL: words are merged from bytes
    const uint8_t *not_whole;     // by id: no word becomes it
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
    bpe->filter = hai_new_array(uint64_t, FILTER_BITS / 64);
    return bpe;
}

void bpe_free(struct bpe *bpe) {
    if (!bpe)
        return;
    free(bpe->merges);
    free(bpe->filter);
    free(bpe->byte_pairs);
    free(bpe->words);
    free(bpe->symbols);
    free(bpe->heap);
    free(bpe);
}

void bpe_set_byte(struct bpe *bpe, uint8_t byte, int32_t id) {
    bpe->bytes[byte] = id;
}

void bpe_set_whole_words(struct bpe *bpe, const struct vocab *vocab, const uint8_t *except) {
    bpe->whole = vocab;
    bpe->not_whole = except;
}

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static inline size_t pair_hash(uint64_t pair) {
    return (size_t)((pair ^ pair >> 32) * 0x9E3779B97F4A7C15u >> 24);
}

/* The bits above those that the table goes by, at any size it has. */
static inline size_t filter_bit(size_t hash) {
    return hash >> 19 & (FILTER_BITS - 1);
}

/* The place of a pair: where it is, or the free one where it would go. */
static inline struct merge *merge_place(const struct bpe *bpe, uint64_t pair) {
    for (size_t i = pair_hash(pair);; i++) {
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

void bpe_prefetch_merge(const struct bpe *bpe, int32_t left, int32_t right) {
    if (bpe->n_merges_max)
        __builtin_prefetch(&bpe->merges[pair_hash(pair_of(left, right)) & (bpe->n_merges_max - 1)],
                           1);
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
    size_t bit = filter_bit(pair_hash(m->pair));
    bpe->filter[bit / 64] |= UINT64_C(1) << bit % 64;
    bpe->n_merges++;
}

/* What two tokens become. */
static inline struct byte_pair merge_of(const struct bpe *bpe, int32_t left, int32_t right) {
    static const struct byte_pair none = {-1, INT32_MAX};
    uint64_t pair = pair_of(left, right);
    size_t bit = filter_bit(pair_hash(pair));

    if (!(bpe->filter[bit / 64] >> bit % 64 & 1))
        return none;
    const struct merge *m = merge_place(bpe, pair);
    return m->pair == NO_PAIR ? none : (struct byte_pair){m->merged, m->rank};
}

static void byte_pairs_make(struct bpe *bpe) {
    if (!bpe->n_merges_max)
        merges_grow(bpe);
    bpe->byte_pairs = hai_new_array(struct byte_pair, 1 << 16);
    for (int i = 0; i < 1 << 16; i++)
        bpe->byte_pairs[i] = merge_of(bpe, bpe->bytes[i >> 8], bpe->bytes[i & 0xFF]);
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

static void push_merge(struct bpe *bpe, int32_t at, struct byte_pair m) {
    const struct symbol *s = &bpe->symbols[at];

    if (m.rank < INT32_MAX)
        heap_push(bpe, (struct candidate){m.rank, at, s->id, bpe->symbols[s->after].id, m.merged});
}

static void consider(struct bpe *bpe, int32_t at) {
    if (at < 0 || bpe->symbols[at].after < 0)
        return;
    const struct symbol *s = &bpe->symbols[at];
    push_merge(bpe, at, merge_of(bpe, s->id, bpe->symbols[s->after].id));
}

static void merge_long(struct bpe *bpe, const uint8_t *word, size_t n_bytes,
                       struct token_list *ret) {
    if (bpe->n_symbols_max < n_bytes) {
        bpe->n_symbols_max = MAX(n_bytes, 2 * bpe->n_symbols_max);
        bpe->symbols = hai_realloc_array(bpe->symbols, bpe->n_symbols_max, sizeof *bpe->symbols);
    }
    struct symbol *s = bpe->symbols;
    size_t n = n_bytes;
    for (size_t i = 0; i < n; i++)
        s[i] = (struct symbol){bpe->bytes[word[i]], (int32_t)i - 1, (int32_t)i + 1};
    s[n - 1].after = -1;
    bpe->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++)
        push_merge(bpe, (int32_t)i, bpe->byte_pairs[word[i] << 8 | word[i + 1]]);
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
    size_t n = n_bytes;

    for (size_t i = 0; i < n; i++)
        ids[i] = bpe->bytes[word[i]];
    for (size_t i = 0; i + 1 < n; i++) {
        struct byte_pair m = bpe->byte_pairs[word[i] << 8 | word[i + 1]];
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
            struct byte_pair m = merge_of(bpe, ids[i], ids[i + 1]);
            merged[i] = m.merged;
            ranks[i] = m.rank;
        }
    }
    token_list_add_n(ret, ids, n);
}

/* A word of bytes that all have a token. */
static void merge_known(struct bpe *bpe, const uint8_t *word, size_t n_bytes,
                        struct token_list *ret) {
    if (n_bytes <= SHORT_WORD_BYTES)
        merge_short(bpe, word, n_bytes, ret);
    else
        merge_long(bpe, word, n_bytes, ret);
}

static void merge_word(struct bpe *bpe, const uint8_t *word, size_t n_bytes,
                       struct token_list *ret) {
    int32_t id = bpe->whole ? vocab_find(bpe->whole, word, n_bytes) : -1;
    size_t n_known = 0;

    if (id >= 0 && !bpe->not_whole[id]) {
        token_list_add(ret, id);
        return;
    }
    if (!bpe->byte_pairs)
        byte_pairs_make(bpe);
    while (n_known < n_bytes && bpe->bytes[word[n_known]] >= 0)
        n_known++;
    if (n_known == n_bytes) {
        merge_known(bpe, word, n_bytes, ret);
        return;
    }
    // Bytes without a token are dropped; only text that is no UTF-8 has them.
    _cleanup_free_ uint8_t *known = hai_alloc(n_bytes);
    n_known = 0;
    for (size_t i = 0; i < n_bytes; i++)
        if (bpe->bytes[word[i]] >= 0)
            known[n_known++] = word[i];
    merge_known(bpe, known, n_known, ret);
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
