#include "lib/pure/idset.h"

void idset_free(struct idset *s) {
    free(s->words);
    *s = (struct idset){0};
}

void idset_clear(struct idset *s) {
    if (s->n_words)
        memset(s->words, 0, s->n_words * sizeof *s->words);
    s->n = 0;
}

static void grow(struct idset *s, uint32_t n_words) {
    if (n_words <= s->n_words)
        return;
    n_words = MAX(n_words, s->n_words * 2);
    s->words = hai_realloc_array(s->words, n_words, sizeof *s->words);
    memset(s->words + s->n_words, 0, (n_words - s->n_words) * sizeof *s->words);
    s->n_words = n_words;
}

bool idset_add(struct idset *s, int id) {
    assert(id >= 0);
    assert(id <= IDSET_MAX);
    grow(s, (uint32_t)id / 64 + 1);
    uint64_t bit = UINT64_C(1) << (id % 64);
    bool added = !(s->words[id / 64] & bit);
    s->words[id / 64] |= bit;
    s->n += added;
    return added;
}

bool idset_remove(struct idset *s, int id) {
    if (!idset_has(s, id))
        return false;
    s->words[id / 64] &= ~(UINT64_C(1) << (id % 64));
    s->n--;
    return true;
}

bool idset_has(const struct idset *s, int id) {
    if (id < 0 || (uint32_t)id / 64 >= s->n_words)
        return false;
    return s->words[id / 64] >> (id % 64) & 1;
}

int idset_next(const struct idset *s, int from) {
    assert(from >= 0);
    uint32_t at = (uint32_t)from / 64;
    if (at >= s->n_words)
        return -1;
    uint64_t word = s->words[at] & (~UINT64_C(0) << (from % 64));
    while (!word && ++at < s->n_words)
        word = s->words[at];
    return word ? (int)(at * 64) + __builtin_ctzll(word) : -1;
}

static void recount(struct idset *s) {
    s->n = 0;
    for (uint32_t i = 0; i < s->n_words; i++)
        s->n += (uint32_t)__builtin_popcountll(s->words[i]);
}

static uint64_t word_of(const struct idset *s, uint32_t i) {
    return i < s->n_words ? s->words[i] : 0;
}

void idset_copy(struct idset *dst, const struct idset *src) {
    idset_clear(dst);
    idset_union(dst, src);
}

void idset_union(struct idset *dst, const struct idset *src) {
    grow(dst, src->n_words);
    for (uint32_t i = 0; i < src->n_words; i++)
        dst->words[i] |= src->words[i];
    recount(dst);
}

void idset_intersect(struct idset *dst, const struct idset *src) {
    for (uint32_t i = 0; i < dst->n_words; i++)
        dst->words[i] &= word_of(src, i);
    recount(dst);
}

void idset_subtract(struct idset *dst, const struct idset *src) {
    for (uint32_t i = 0; i < dst->n_words; i++)
        dst->words[i] &= ~word_of(src, i);
    recount(dst);
}

bool idset_equal(const struct idset *a, const struct idset *b) {
    uint32_t n = MAX(a->n_words, b->n_words);

    for (uint32_t i = 0; i < n; i++)
        if (word_of(a, i) != word_of(b, i))
            return false;
    return true;
}

void idset_print(const struct idset *s, struct buf *ret) {
    const char *separator = "";

    for (int id = idset_next(s, 0); id >= 0; id = idset_next(s, id)) {
        int last = id;
        while (idset_has(s, last + 1))
            last++;
        buf_printf(ret, last > id ? "%s%d-%d" : "%s%d", separator, id, last);
        separator = ",";
        id = last + 1;
    }
}

static int number(const char **at, int max, int *ret) {
    int64_t value = 0;
    const char *start = *at;

    for (; **at >= '0' && **at <= '9'; (*at)++) {
        value = value * 10 + (**at - '0');
        if (value > max)
            return -ERANGE;
    }
    *ret = (int)value;
    return *at == start ? -EINVAL : 0;
}

int idset_parse(struct idset *s, const char *text, int max) {
    assert(s->n == 0);
    assert(max <= IDSET_MAX);
    if (!*text)
        return 0;
    for (;;) {
        int first;
        int last;
        int r = number(&text, max, &first);
        last = first;
        if (r == 0 && *text == '-') {
            text++;
            r = number(&text, max, &last);
        }
        if (r == 0 && last < first)
            r = -ERANGE;
        if (r == 0 && *text && *text != ',')
            r = -EINVAL;
        if (r < 0) {
            idset_clear(s);
            return r;
        }
        for (int id = first; id <= last; id++)
            idset_add(s, id);
        if (!*text++)
            return 0;
    }
}
