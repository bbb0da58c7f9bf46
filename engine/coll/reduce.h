/* reduce.h - the order in which the ranks' numbers are added, apart from who adds and where.
 *
 * A sum is made of terms: numbers of one rank, or of a whole group that was added up before. Terms
 * of a group are added in ascending order, then the groups by a binary tree over their numbers:
 * T(lo, hi) = T(lo, mid) + T(mid, hi), mid - lo the largest power of two below hi - lo.
 */
#pragma once
#include "lib/base.h"

enum reduce_type {
    REDUCE_F32,
    REDUCE_F64,
    REDUCE_I64,
    REDUCE_TYPE_COUNT,
};

size_t reduce_type_bytes(enum reduce_type type);

/* ret[i] = rows[0][i] + rows[1][i] + ...; ret may be rows[0]. */
void reduce_sequence(enum reduce_type type, void *ret, const void *const *rows, int n_rows,
                     size_t n);

/* Group g is terms group_start[g] up to group_start[g + 1]; rows [n terms]. ret may not overlap
 * them. */
void reduce_tree(enum reduce_type type, void *ret, const void *const *rows, const int *group_start,
                 int n_groups, size_t n);
