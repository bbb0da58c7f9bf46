#include "engine/coll/reduce.h"

enum {
    BLOCK_BYTES = 8192, // of one partial sum: a few of them stay in the first cache
    DEPTH_MAX = 20,     // of the tree: a million groups
};

size_t reduce_type_bytes(enum reduce_type type) {
    return type == REDUCE_F32 ? 4 : 8;
}

/* Additions are elementwise, so wider registers give the same bits. */
#define ADD(name, type)                                                                            \
    __attribute__((target_clones("avx512f", "avx2", "default"),                                    \
                   optimize("tree-vectorize"))) static void                                        \
    name(type *ret, const type *a, const type *b, size_t n) {                                      \
        for (size_t i = 0; i < n; i++)                                                             \
            ret[i] = a[i] + b[i];                                                                  \
    }
ADD(add_f32, float)
ADD(add_f64, double)
ADD(add_u64, uint64_t) // i64 in its wrapping form
#undef ADD

static void add(enum reduce_type type, void *ret, const void *a, const void *b, size_t n) {
    if (type == REDUCE_F32)
        add_f32(ret, a, b, n);
    else if (type == REDUCE_F64)
        add_f64(ret, a, b, n);
    else
        add_u64(ret, a, b, n);
}

/* One block: bytes [at, at + n_bytes) of every row. */
static void sequence_block(enum reduce_type type, uint8_t *ret, const void *const *rows, int n_rows,
                           size_t at, size_t n_bytes) {
    size_t n = n_bytes / reduce_type_bytes(type);

    if (n_rows == 1) {
        memmove(ret, (const uint8_t *)rows[0] + at, n_bytes);
        return;
    }
    add(type, ret, (const uint8_t *)rows[0] + at, (const uint8_t *)rows[1] + at, n);
    for (int i = 2; i < n_rows; i++)
        add(type, ret, ret, (const uint8_t *)rows[i] + at, n);
}

void reduce_sequence(enum reduce_type type, void *ret, const void *const *rows, int n_rows,
                     size_t n) {
    size_t n_bytes = n * reduce_type_bytes(type);

    for (size_t at = 0; at < n_bytes; at += BLOCK_BYTES)
        sequence_block(type, (uint8_t *)ret + at, rows, n_rows, at,
                       MIN((size_t)BLOCK_BYTES, n_bytes - at));
}

struct tree {
    enum reduce_type type;
    const void *const *rows;
    const int *group_start;
    size_t at, n_bytes; // of the block
};

static void tree_block(const struct tree *t, uint8_t *ret, int lo, int hi, int depth) {
    uint8_t other[BLOCK_BYTES] __attribute__((aligned(64)));
    int half = 1;

    assert(depth < DEPTH_MAX);
    if (hi - lo == 1) {
        sequence_block(t->type, ret, t->rows + t->group_start[lo],
                       t->group_start[hi] - t->group_start[lo], t->at, t->n_bytes);
        return;
    }
    while (2 * half < hi - lo)
        half *= 2;
    tree_block(t, ret, lo, lo + half, depth + 1);
    tree_block(t, other, lo + half, hi, depth + 1);
    add(t->type, ret, ret, other, t->n_bytes / reduce_type_bytes(t->type));
}

void reduce_tree(enum reduce_type type, void *ret, const void *const *rows, const int *group_start,
                 int n_groups, size_t n) {
    struct tree t = {type, rows, group_start, 0, 0};
    size_t n_bytes = n * reduce_type_bytes(type);

    for (; t.at < n_bytes; t.at += BLOCK_BYTES) {
        t.n_bytes = MIN((size_t)BLOCK_BYTES, n_bytes - t.at);
        tree_block(&t, (uint8_t *)ret + t.at, 0, n_groups, 0);
    }
}
