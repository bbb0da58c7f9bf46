/* masked.h - what the masks of k_attention_masked hide: one fact for every backend.
 */
#pragma once
#include "kernels/kernels.h"
#include <math.h>

/* Do the sizes that operands.def cannot say fit? */
static inline bool masked_is_whole(const struct k_attention_masked *a) {
    int64_t n = a->n_seqs, n_heads = a->q.shape[1], n_masks = a->mask.shape[0];

    if (n < 1 || a->q.shape[0] % n || a->k.shape[0] % n ||
        (a->kv_length.data && a->kv_length.shape[0] != n))
        return false;
    return !a->mask.data ||
           (a->mask.shape[1] == a->q.shape[0] / n && a->mask.shape[2] == a->k.shape[0] / n &&
            (n_masks == 1 || n_masks == n || n_masks == n * n_heads));
}

/* Keys from here on are hidden from query i of sequence s. */
static inline int64_t masked_end(const struct k_attention_masked *a, int64_t s, int64_t i) {
    int64_t end = a->k.shape[0] / a->n_seqs;

    if (a->kv_length.data)
        end = MIN(end, (int64_t)((const int32_t *)a->kv_length.data)[s]);
    return MAX(a->causal ? MIN(end, i + 1) : end, (int64_t)0);
}

/* The mask's row for query i of head h of sequence s, NULL: no mask. Its type is the mask's. */
static inline const void *masked_row(const struct k_attention_masked *a, int64_t s, int64_t h,
                                     int64_t i) {
    int64_t n_masks = a->mask.shape[0];
    int64_t number = n_masks == 1 ? 0 : n_masks == a->n_seqs ? s : s * a->q.shape[1] + h;

    return a->mask.data ? (const char *)a->mask.data +
                              (number * a->mask.stride[0] + i * a->mask.stride[1]) * 4
                        : NULL;
}

/* What the mask adds to the score of key j. */
static inline float masked_add(const struct k_attention_masked *a, int64_t s, int64_t h, int64_t i,
                               int64_t j) {
    const void *row = masked_row(a, s, h, i);

    if (!row)
        return 0;
    if (a->mask.dtype == K_F32)
        return ((const float *)row)[j];
    return ((const int32_t *)row)[j] ? -INFINITY : 0;
}
