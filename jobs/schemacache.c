#include "jobs/schemacache.h"

struct entry {
    char *text;
    size_t n_bytes;
    struct grammar *grammar;
    int n_users;
    uint64_t used; // when it was taken last
};

struct schemacache {
    struct grammar_vocab *vocab;
    struct entry entries[SCHEMACACHE_MAX];
    uint64_t clock;
};

struct schemacache *schemacache_new(struct grammar_vocab *vocab) {
    struct schemacache *c = hai_new(struct schemacache);

    c->vocab = vocab;
    return c;
}

static void entry_clear(struct entry *x) {
    grammar_free(x->grammar);
    free(x->text);
    *x = (struct entry){0};
}

void schemacache_free(struct schemacache *c) {
    if (!c)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(c->entries); i++)
        entry_clear(&c->entries[i]);
    grammar_vocab_free(c->vocab);
    free(c);
}

int schemacache_take(struct schemacache *c, const char *schema, size_t n_bytes,
                     struct grammar **ret, struct hai_err *err) {
    struct entry *at = NULL;

    for (struct entry *x = c->entries; x < c->entries + SCHEMACACHE_MAX; x++) {
        if (x->grammar && x->n_bytes == n_bytes && memcmp(x->text, schema, n_bytes) == 0) {
            at = x;
            break;
        }
        if (!x->n_users && (!at || x->used < at->used))
            at = x; // the one to give up, if it is not there
    }
    if (!at)
        return hai_fail(err, -EAGAIN, "%d schemas are in use", SCHEMACACHE_MAX);
    if (!at->grammar || at->n_bytes != n_bytes || memcmp(at->text, schema, n_bytes) != 0) {
        struct grammar *g;
        int r = grammar_new(c->vocab, schema, n_bytes, NULL, &g, err);
        if (r < 0)
            return r;
        entry_clear(at);
        *at = (struct entry){hai_strndup(schema, n_bytes), n_bytes, g, 0, 0};
    }
    at->n_users++;
    at->used = ++c->clock;
    *ret = at->grammar;
    return 0;
}

void schemacache_drop(struct schemacache *c, const struct grammar *g) {
    for (size_t i = 0; i < ARRAY_SIZE(c->entries); i++)
        if (c->entries[i].grammar == g)
            c->entries[i].n_users--;
}
