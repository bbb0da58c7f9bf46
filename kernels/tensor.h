/* tensor.h - what operators work on: types of elements, scales, views of memory, weights.
 *
 * Included by kernels.h, which is what users of the operators include.
 */
#pragma once
#include "lib/base.h"

/* Name and bits of an element. E4M3, E5M2 and E5M6: formats.h. Q8 and Q4: weights alone, in groups
 * of 32 with a float16 scale each, laid out as quant.h says. */
#define K_DTYPES(X)                                                                                \
    X(F32, 32)                                                                                     \
    X(BF16, 16)                                                                                    \
    X(F64, 64)                                                                                     \
    X(I32, 32)                                                                                     \
    X(F16, 16)                                                                                     \
    X(E4M3, 8)                                                                                     \
    X(E5M2, 8)                                                                                     \
    X(E5M6, 12)                                                                                    \
    X(Q8, 8)                                                                                       \
    X(Q4, 4)

enum k_dtype {
#define X(name, bits) K_##name,
    K_DTYPES(X)
#undef X
        K_DTYPE_COUNT,
};

/* Which elements of a tensor [n_rows, n_dim] share a scale, and how scales (float32) are laid out;
 * only E4M3, E5M2 and E5M6 have any. Rows of K_SCALE_TOKENS are counted from the first of their
 * group (row_start of the operator; without, there is one): row r of group g, which begins at row
 * s, has those of row s / 128 + g + (r - s) / 128. */
enum k_scale {
    K_SCALE_NONE,
    K_SCALE_TILES,  // [ceil(n_dim / 128), n_rows]: 128 elements of a row
    K_SCALE_TOKENS, // [n_rows / 128 + n_groups, n_dim]: 128 rows of a column
    K_SCALE_BLOCKS, // [ceil(n_rows / 128), ceil(n_dim / 128)]: 128 rows of 128 columns
    K_SCALE_COUNT,
};

/* How products of two tensors in 8-bit floats are added up. Hopper's tensor cores take products 32
 * at a time, shift them and the running sum to the largest exponent among them, cut each to 14 bits
 * towards zero, and add those exactly. Promoted, the running sum begins anew wherever a scale
 * changes, at the latest after 128, and goes times the scales into a float32 total; else the scales
 * are multiplied into the products and one sum runs through. Source: DeepSeek-V3, section 3.5.2. */
enum k_sum {
    K_SUM_F32, // as the operator says
    K_SUM_HOPPER14,
    K_SUM_HOPPER14_PROMOTED,
    K_SUM_COUNT,
};

enum {
    K_DIMS_MAX = 4,
    K_BLOCK =
        128, // elements that share a scale in E4M3 and E5M2: a tile of a row, a side of a block
};

/* A view of memory that someone else owns. Strides count elements; the last one is 1. A stride of 0
 * in another dimension repeats the data (inputs only). */
struct k_tensor {
    void *data;
    enum k_dtype dtype;
    int n_dims;
    int64_t shape[K_DIMS_MAX];
    int64_t stride[K_DIMS_MAX];
    const void *scale;
    enum k_scale scale_kind;
};

/* The weights of a linear product: n_groups (experts, heads, or one) matrices [n_out, n_in], made
 * from what lies in mapped files or in the trainer's memory, which must stay there. The CPU reads
 * it in place; a backend with memory of its own keeps a copy. Opaque: kernels/weight.h. */
struct k_weight;

/* Some rows of a group. A group is its parts stacked along n_out (q, k, v; gate, up), each where it
 * lies. */
struct k_weight_part {
    const void *data;  // [n_out, n_in], rows packed; Q8, Q4: panels
    const void *scale; // E4M3, E5M2: float32 [ceil(rows / 128), ceil(n_in / 128)] of the whole
                       // tensor that the rows are cut from; Q8, Q4: of the panels; else NULL
    int64_t n_out;     // Q8, Q4: rows behind it up to a multiple of 16 are there and zero
    int64_t first_row; // E4M3, E5M2: of that tensor
};
