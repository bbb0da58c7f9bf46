/* weight.h - the inside of struct k_weight, for the backends. */
#pragma once
#include "kernels/kernels.h"

struct k_weight {
    enum k_dtype dtype;
    int64_t n_groups, n_out, n_in;
    int n_parts;
    struct k_weight_part *parts; // [n_groups * n_parts]; part p has as many rows in every group
    // Of a backend with memory of its own: its copy, and a table like parts that points into it and
    // lies there too. Rows of 8-bit floats are then counted from their first block.
    const struct k_device *device;
    void *copy;
    struct k_weight_part *copy_parts;
};

/* Bytes of a part's values, and of those scales that its rows need. */
size_t k_weight_part_bytes(const struct k_weight *w, const struct k_weight_part *part,
                           size_t *ret_scale_bytes);

/* The part that holds row `out` of a group, and the row's number in it. */
const struct k_weight_part *k_weight_find(const struct k_weight *w, int64_t group, int64_t out,
                                          int64_t *ret_row);

/* Row `out` as numbers, scales of 8-bit floats left out. dtype: not Q8 or Q4. */
const void *k_weight_row(const struct k_weight *w, const struct k_weight_part *part, int64_t row);

/* The scale of the block of 128 x 128 that [row, column] of a part lies in; E4M3 and E5M2. */
float k_weight_block(const struct k_weight *w, const struct k_weight_part *part, int64_t row,
                     int64_t column);
