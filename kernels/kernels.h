/* kernels.h - the operators of the engine, behind one table per backend.
 *
 * An operator is one struct and one function `int k_OP(struct k_ctx *ctx, const struct k_OP *a)`:
 * enqueued in order on ctx->stream, it returns 0, or -EINVAL (shapes, types) or -ENOTSUP before
 * anything has run. `k_OP_workspace` gives the bytes of workspace it needs at those shapes. No
 * operator allocates, locks or reads the environment. `ref` is naive and sums in double: the truth
 * in tests. `cpu` is AVX2 or AVX-512, picked when the context is made; what it has no fast form
 * for falls back to `ref` by name, reported once through ctx->on_fallback.
 *
 * Bits: the sum behind an output element has one order, fixed by the shapes. Work is cut by shape,
 * never by thread count. In `linear` an element is one chain of fused multiply-adds over ascending
 * K at any number of rows, so a token's result does not depend on the rows computed beside it.
 *
 * Operands, their types and dimensions stand in operands.def, which the dispatcher checks and the
 * tests read. Memory: tensors are borrowed, the last stride is 1, rows are padded by no one.
 */
#pragma once
#include "lib/base.h"

enum k_backend {
    K_BACKEND_REF,
    K_BACKEND_CPU,
    K_BACKEND_CUDA, // parsed, not built
    K_BACKEND_COUNT,
};

#define K_DTYPES(X) X(F32, 4) X(BF16, 2) X(F64, 8) X(I32, 4)

enum k_dtype {
#define X(name, bytes) K_##name,
    K_DTYPES(X)
#undef X
        K_DTYPE_COUNT,
};

/* How `scale` of a tensor is laid out; only quantised types have one. */
enum k_scale {
    K_SCALE_NONE,
    K_SCALE_COUNT,
};

enum { K_DIMS_MAX = 4 };

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

/* Every operator, in the order of the table. */
#define K_OPS(X)                                                                                   \
    X(embed)                                                                                       \
    X(embed_dw)                                                                                    \
    X(rmsnorm)                                                                                     \
    X(rmsnorm_dx)                                                                                  \
    X(rmsnorm_dw)                                                                                  \
    X(linear)                                                                                      \
    X(linear_dx)                                                                                   \
    X(linear_dw)                                                                                   \
    X(rope)                                                                                        \
    X(attention)                                                                                   \
    X(attention_dx)                                                                                \
    X(swiglu)                                                                                      \
    X(swiglu_dx)                                                                                   \
    X(router)                                                                                      \
    X(router_dx)                                                                                   \
    X(balance)                                                                                     \
    X(route_sort)                                                                                  \
    X(gather)                                                                                      \
    X(combine)                                                                                     \
    X(combine_dx)                                                                                  \
    X(cross_entropy)                                                                               \
    X(copy)                                                                                        \
    X(sum_heads)                                                                                   \
    X(add)                                                                                         \
    X(sum_squares)                                                                                 \
    X(adamw)

enum k_op {
#define X(op) K_OP_##op,
    K_OPS(X)
#undef X
        K_OP_COUNT,
};

struct k_pool;
struct k_table;

/* Where operators run. Made by k_ctx_init; the caller sets workspace afterwards.
 *
 * workspace    bytes for operators to use during one call, 64-byte aligned; may be NULL if no
 *              operator in use needs any. A call that needs more returns -EINVAL.
 * pool         threads of the CPU backends; NULL: the caller's thread alone
 * on_fallback  told once per operator that `backend` has no form of its own; may be NULL
 */
struct k_ctx {
    enum k_backend backend;
    int device;
    void *stream; // NULL on the CPU: a call has finished when it returns
    struct k_pool *pool;
    void *workspace;
    size_t workspace_bytes;
    const struct k_table *table;
    const char *path; // kernel path, part of a run's numeric identity: "ref", "avx2", "avx512"
    void (*on_fallback)(void *userdata, const char *op, const char *path);
    void *userdata;
    uint64_t fallback_told; // bit per operator
    // While measuring, operators check their arguments, raise measured_bytes to the workspace they
    // would need, and do nothing: a pass over the largest shapes finds what to allocate.
    bool measuring;
    size_t measured_bytes;
};

/* Token ids to rows: y[t] = w[ids[t]]; a negative id gives a row of zeros. */
struct k_embed {
    struct k_tensor y;   // [n_tokens, n_dim]
    struct k_tensor ids; // [n_tokens]; below n_vocab
    struct k_tensor w;   // [n_vocab, n_dim]
};

/* dw[ids[t]] += dy[t] in ascending t; negative ids add nothing. */
struct k_embed_dw {
    struct k_tensor dw;  // [n_vocab, n_dim]
    struct k_tensor ids; // [n_tokens]
    struct k_tensor dy;  // [n_tokens, n_dim]
};

/* Root-mean-square norm over the last axis: y = x / sqrt(mean(x^2) + eps) * weight.
 * Sums in one fixed order at any number of rows. y may be x. Source: Zhang and Sennrich, 2019. */
struct k_rmsnorm {
    struct k_tensor y;      // [n_tokens, n_dim]
    struct k_tensor x;      // [n_tokens, n_dim]
    struct k_tensor weight; // [n_dim]
    struct k_tensor scale;  // [n_tokens], may be absent: 1 / sqrt(...), the backward pass reads it
    float eps;              // added inside the root, e.g. 1e-6
};

/* Gradient of rmsnorm by its input, plus `residual`: with g = dy * weight and s = scale,
 * dx = residual + s * (g - x * s^2 * mean(g * x)). dx may be residual or dy. */
struct k_rmsnorm_dx {
    struct k_tensor dx;       // [n_tokens, n_dim]
    struct k_tensor dy;       // [n_tokens, n_dim]
    struct k_tensor x;        // [n_tokens, n_dim]
    struct k_tensor weight;   // [n_dim]
    struct k_tensor scale;    // [n_tokens], as rmsnorm left it
    struct k_tensor residual; // [n_tokens, n_dim], may be absent
};

/* Gradient of rmsnorm by its weight: dw += sum over tokens of dy * x * scale. */
struct k_rmsnorm_dw {
    struct k_tensor dw;    // [n_dim]
    struct k_tensor dy;    // [n_tokens, n_dim]
    struct k_tensor x;     // [n_tokens, n_dim]
    struct k_tensor scale; // [n_tokens]
};

/* Matrix product with weights as Hugging Face files keep them: y = x w^T (or y += x w^T).
 * With row_start the rows are sorted by group (expert): rows row_start[g] up to row_start[g+1] meet
 * w[g]; without, there is one group. */
struct k_linear {
    struct k_tensor y;         // [n_rows, n_out]
    struct k_tensor x;         // [n_rows, n_in]
    struct k_tensor w;         // [n_groups, n_out, n_in]
    struct k_tensor row_start; // [n_groups + 1], absent if n_groups is 1
    bool accumulate;           // y += instead of y =
};

/* Gradient of linear by its input: dx = dy w (or +=). */
struct k_linear_dx {
    struct k_tensor dx;        // [n_rows, n_in]
    struct k_tensor dy;        // [n_rows, n_out]
    struct k_tensor w;         // [n_groups, n_out, n_in]
    struct k_tensor row_start; // [n_groups + 1]
    bool accumulate;
};

/* Gradient of linear by its weights: dw[g] += dy^T x over the rows of group g, ascending. */
struct k_linear_dw {
    struct k_tensor dw;        // [n_groups, n_out, n_in]
    struct k_tensor dy;        // [n_rows, n_out]
    struct k_tensor x;         // [n_rows, n_in]
    struct k_tensor row_start; // [n_groups + 1]
};

/* Rotary embedding in place: pair i of every head turns by the angle of `position`, whose cosine
 * and sine (times the attention factor of YaRN) are row position of the tables.
 * adjacent: pair i is elements (2i, 2i+1), else (i, i + d/2). inverse turns back: the gradient.
 * Source: Su et al., 2021. Tables: kernels/rope.h. */
struct k_rope {
    struct k_tensor x;        // [n_tokens, n_heads, d]
    struct k_tensor cosine;   // [n_positions, d / 2]
    struct k_tensor sine;     // [n_positions, d / 2]
    struct k_tensor position; // [n_tokens], below n_positions
    bool adjacent;
    bool inverse;
};

/* Causal attention over packed sequences; head h reads key head h / (n_heads / n_kv_heads).
 * Sequence s has queries q_start[s] up to q_start[s+1] and keys kv_start[s] up to
 * kv_start[s] + kv_length[s]; its queries are the last ones of its keys, so query i sees
 * kv_length - q_length + i + 1 keys. Training passes q_start and the lengths; a key-value cache
 * its slots. Cut at absolute positions: a query's bits do not depend on its chunk. */
struct k_attention {
    struct k_tensor y;         // [n_tokens, n_heads, d_value]
    struct k_tensor q;         // [n_tokens, n_heads, d_key]
    struct k_tensor k;         // [n_keys, n_kv_heads, d_key]
    struct k_tensor v;         // [n_keys, n_kv_heads, d_value]
    struct k_tensor lse;       // [n_tokens, n_heads], may be absent: log of the sum of exp(score)
    struct k_tensor q_start;   // [n_seqs + 1], ascending
    struct k_tensor kv_start;  // [n_seqs]
    struct k_tensor kv_length; // [n_seqs], at least the queries of the sequence
    float scale;               // of the scores, before the softmax
};

/* Gradients of attention by q, k and v; needs every sequence whole (kv_length = its queries).
 * dq, dk and dv are written, not added to. */
struct k_attention_dx {
    struct k_tensor dq; // [n_tokens, n_heads, d_key]
    struct k_tensor dk; // [n_tokens, n_kv_heads, d_key]
    struct k_tensor dv; // [n_tokens, n_kv_heads, d_value]
    struct k_tensor dy; // [n_tokens, n_heads, d_value]
    struct k_tensor y;  // as attention left it
    struct k_tensor q, k, v;
    struct k_tensor lse;
    struct k_tensor q_start; // [n_seqs + 1]
    float scale;
};

/* y = silu(gate) * up, silu(a) = a / (1 + exp(-a)). Source: Shazeer, 2020. */
struct k_swiglu {
    struct k_tensor y;    // [n_rows, n_dim]
    struct k_tensor gate; // [n_rows, n_dim]
    struct k_tensor up;   // [n_rows, n_dim]
};

struct k_swiglu_dx {
    struct k_tensor dgate; // [n_rows, n_dim]; may be gate
    struct k_tensor dup;   // [n_rows, n_dim]; may be up
    struct k_tensor dy;
    struct k_tensor gate;
    struct k_tensor up;
};

/* Which experts a token takes (DeepSeek-V3, "noaux_tc"): scores = sigmoid(logits); the choice is
 * by scores + bias; a group counts with the sum of its two best, the best group_top groups stay,
 * the others get -inf; of what stays the best n_slots. weight = score without bias, divided by
 * their sum if normalise, times scaling. Ties go to the lower number. Experts ascend in a row. */
struct k_router {
    struct k_tensor experts; // [n_tokens, n_slots] i32
    struct k_tensor weights; // [n_tokens, n_slots]
    struct k_tensor scores;  // [n_tokens, n_experts], the backward pass reads it
    struct k_tensor logits;  // [n_tokens, n_experts]
    struct k_tensor bias;    // [n_experts], may be absent
    int n_groups;            // divides n_experts; 1: no groups
    int group_top;
    bool normalise;
    float scaling;
};

/* Gradient of router, and of `balance` if f is there: dlogits is written. The choice is a constant.
 * balance_scale is what balance was given, times the gradient of the loss. */
struct k_router_dx {
    struct k_tensor dlogits;   // [n_tokens, n_experts]
    struct k_tensor dweights;  // [n_tokens, n_slots]
    struct k_tensor experts;   // [n_tokens, n_slots]
    struct k_tensor scores;    // [n_tokens, n_experts]
    struct k_tensor f;         // [n_seqs, n_experts], may be absent
    struct k_tensor seq_start; // [n_seqs + 1], absent if f is
    bool normalise;
    float scaling;
    float balance_scale;
};

/* Sequence-wise balance loss: for each sequence of T tokens f_e = picks of e * n_experts /
 * (n_top * T) by the plain best n_top of the scores, P_e = mean of score_e / sum of scores;
 * loss += balance_scale * sum over sequences of sum_e f_e P_e. Pass alpha / sequences of the whole
 * batch as balance_scale. Source: DeepSeek-V3 report, eq. 17-20. */
struct k_balance {
    struct k_tensor loss;      // [1] f64, added to
    struct k_tensor f;         // [n_seqs, n_experts]
    struct k_tensor scores;    // [n_tokens, n_experts]
    struct k_tensor seq_start; // [n_seqs + 1]
    int n_top;
    float balance_scale;
};

/* Put the pairs (token, slot) in the order (expert, token): row_start of each expert, the token of
 * every row, the row of every pair. Negative experts are refused. */
struct k_route_sort {
    struct k_tensor row_start; // [n_experts + 1] i32
    struct k_tensor row_token; // [n_tokens * n_slots] i32
    struct k_tensor pair_row;  // [n_tokens, n_slots] i32
    struct k_tensor experts;   // [n_tokens, n_slots] i32
};

/* y[r] = x[row_token[r]]. */
struct k_gather {
    struct k_tensor y;         // [n_rows, n_dim]
    struct k_tensor x;         // [n_tokens, n_dim]
    struct k_tensor row_token; // [n_rows]
};

/* y[t] += sum over slots, ascending, of weights[t, s] * x[pair_row[t, s]]; weights absent: 1. */
struct k_combine {
    struct k_tensor y;        // [n_tokens, n_dim]
    struct k_tensor x;        // [n_rows, n_dim]
    struct k_tensor pair_row; // [n_tokens, n_slots]
    struct k_tensor weights;  // [n_tokens, n_slots], may be absent
};

/* Gradient of combine: dx[pair_row[t, s]] = weights[t, s] * dy[t];
 * dweights[t, s] = dy[t] . x[pair_row[t, s]]. */
struct k_combine_dx {
    struct k_tensor dx;       // [n_rows, n_dim]; may be x
    struct k_tensor dweights; // [n_tokens, n_slots]
    struct k_tensor dy;       // [n_tokens, n_dim]
    struct k_tensor x;        // [n_rows, n_dim]
    struct k_tensor pair_row; // [n_tokens, n_slots]
    struct k_tensor weights;  // [n_tokens, n_slots]
};

/* Cross-entropy of each row with its label, and the gradient in place of the logits:
 * loss += loss_scale * sum over rows of (log sum exp(logits) - logits[label]); with backward,
 * logits = (softmax - onehot) * grad_scale. A row with a negative label counts nothing and gets
 * gradient 0. */
struct k_cross_entropy {
    struct k_tensor loss;   // [1] f64, added to
    struct k_tensor logits; // [n_tokens, n_vocab], overwritten if backward
    struct k_tensor labels; // [n_tokens] i32, below n_vocab
    float loss_scale;       // 1 / counted labels of the whole batch
    float grad_scale;       // the same times the weight of this loss
    bool backward;
};

/* y = x, or y += x; strides of x may be 0 (the same row for every head). */
struct k_copy {
    struct k_tensor y; // [n_rows, n_heads, n_dim]
    struct k_tensor x; // [n_rows, n_heads, n_dim]
    bool accumulate;
};

/* y[t] = sum over heads, ascending, of x[t, h]. */
struct k_sum_heads {
    struct k_tensor y; // [n_rows, n_dim]
    struct k_tensor x; // [n_rows, n_heads, n_dim]
};

/* y = beta * y + alpha * x; x absent: y = beta * y; beta 0 reads no y. */
struct k_add {
    struct k_tensor y; // [n]
    struct k_tensor x; // [n], may be absent
    float alpha;
    float beta;
};

/* sum += of x^2, in double, one fixed order. */
struct k_sum_squares {
    struct k_tensor sum; // [1] f64
    struct k_tensor x;   // [n]
};

/* One step of AdamW with decoupled decay over a flat range; g is multiplied by grad_scale first:
 *   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
 *   w = w - lr decay w - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
 * Source: Loshchilov and Hutter, 2019. */
struct k_adamw {
    struct k_tensor w; // [n]
    struct k_tensor g; // [n], not changed
    struct k_tensor m; // [n]
    struct k_tensor v; // [n]
    float grad_scale;  // 1, or what clipping asks for
    float lr, beta1, beta2, eps, decay;
    int64_t step; // from 1
};

/* A backend: one function per operator, NULL where it has none. */
struct k_table {
    const char *path;
#define X(op) int (*op)(struct k_ctx * ctx, const struct k_##op *a);
    K_OPS(X)
#undef X
#define X(op) size_t (*op##_workspace)(const struct k_ctx *ctx, const struct k_##op *a);
    K_OPS(X)
#undef X
};

#define X(op)                                                                                      \
    int k_##op(struct k_ctx *ctx, const struct k_##op *a);                                         \
    size_t k_##op##_workspace(const struct k_ctx *ctx, const struct k_##op *a);
K_OPS(X)
#undef X

/* One operand of an operator, from operands.def. */
struct k_operand {
    enum k_op op;
    const char *name;
    size_t offset;      // of the tensor in the operator's struct
    const char *dims;   // a letter a dimension; the same letter is the same size, lower case: + 1
    const char *dtypes; // e.g. "F32 BF16"
    bool optional;      // data may be NULL
};

const struct k_operand *k_operands(int *ret_n);
const char *k_op_name(enum k_op op);
const char *k_dtype_name(enum k_dtype dtype);
size_t k_dtype_bytes(enum k_dtype dtype);

/* The nearest bf16, ties to even; NaN stays one. */
uint16_t k_bf16(float x);

/* A context without workspace or threads. path picks one of the forms of `cpu` ("avx2",
 * "avx512"), NULL the best one this processor has. -ENOTSUP: backend not built, or path not
 * available here. */
int k_ctx_init(struct k_ctx *ctx, enum k_backend backend, const char *path, struct hai_err *err);

/* "ref", "cpu" or "cuda"; -EINVAL otherwise. */
int k_backend_parse(const char *text, enum k_backend *ret, struct hai_err *err);

/* Contiguous views. Sizes that are not there are 0. */
struct k_tensor k_tensor_1d(void *data, enum k_dtype dtype, int64_t n0);
struct k_tensor k_tensor_2d(void *data, enum k_dtype dtype, int64_t n0, int64_t n1);
struct k_tensor k_tensor_3d(void *data, enum k_dtype dtype, int64_t n0, int64_t n1, int64_t n2);
int64_t k_tensor_n_elements(const struct k_tensor *t);
