/* kernels.h - the operators of the engine, behind one table per backend.
 *
 * An operator is one struct and one function `int k_OP(struct k_ctx *ctx, const struct k_OP *a)`:
 * enqueued in order on ctx->stream, it returns 0, or -EINVAL (shapes, types) or -ENOTSUP before
 * anything has run. `k_OP_workspace` gives the bytes of workspace it needs at those shapes. No
 * operator allocates, locks or reads the environment. `ref` is naive and sums in double: the truth
 * in tests. `cpu` is AVX2, AVX-512 or that with tile registers (AMX), picked when the context is
 * made; what it has no fast form for falls back to `ref` by name, reported once through
 * ctx->on_fallback. `cuda` has memory of its own: tensors, row_start and the like are pointers of
 * the device, made by k_memory_new; what it has no form for is -ENOTSUP, and a call has finished
 * after k_finish.
 *
 * Bits: the sum behind an output element has one order, fixed by the shapes. Work is cut by shape,
 * never by thread count. In `linear` that order is the same at any number of rows, so a token's
 * result does not depend on the rows computed beside it.
 *
 * Tensors and weights: tensor.h; operators of networks other than language models: netops.h.
 * Operands, their types and dimensions stand in operands.def, which the dispatcher checks and the
 * tests read. Memory: tensors are borrowed, the last stride is 1, rows are padded by no one.
 */
#pragma once
#include "kernels/netops.h"
#include "kernels/tensor.h"

enum k_backend {
    K_BACKEND_REF,
    K_BACKEND_CPU,
    K_BACKEND_CUDA, // where it was built: meson option `cuda`
    K_BACKEND_COUNT,
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
    X(linear_heads)                                                                                \
    X(linear_heads_dx)                                                                             \
    X(sum_rows)                                                                                    \
    X(quantize)                                                                                    \
    X(dequantize)                                                                                  \
    X(cache_put)                                                                                   \
    X(rope)                                                                                        \
    X(attention)                                                                                   \
    X(attention_expand)                                                                            \
    X(attention_dx)                                                                                \
    X(swiglu)                                                                                      \
    X(swiglu_dx)                                                                                   \
    X(router)                                                                                      \
    X(router_dx)                                                                                   \
    X(balance)                                                                                     \
    X(route_drop)                                                                                  \
    X(route_sort)                                                                                  \
    X(gather)                                                                                      \
    X(combine)                                                                                     \
    X(combine_dx)                                                                                  \
    X(cross_entropy)                                                                               \
    X(copy)                                                                                        \
    X(sum_heads)                                                                                   \
    X(add)                                                                                         \
    X(sum_squares)                                                                                 \
    X(adamw)                                                                                       \
    X(layernorm)                                                                                   \
    X(layernorm_dx)                                                                                \
    X(layernorm_dw)                                                                                \
    X(activate)                                                                                    \
    X(activate_dx)                                                                                 \
    X(dropout)                                                                                     \
    X(softmax)                                                                                     \
    X(softmax_dx)                                                                                  \
    X(attention_masked)                                                                            \
    X(attention_masked_dx)                                                                         \
    X(unfold)                                                                                      \
    X(fold)                                                                                        \
    X(pooling)                                                                                     \
    X(pooling_dx)                                                                                  \
    X(lstm_cell)                                                                                   \
    X(lstm_cell_dx)                                                                                \
    X(gru_cell)                                                                                    \
    X(gru_cell_dx)                                                                                 \
    X(loss)

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
    void *stream; // NULL on the CPU: a call has finished when it returns; under CUDA a
                  // cudaStream_t, NULL: the device's default one
    struct k_pool *pool;
    void *workspace;
    size_t workspace_bytes;
    const struct k_table *table;
    const char *path; // kernel path, part of a run's numeric identity: "ref", "avx2", "avx512",
                      // "amx", "cuda"
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
    struct k_tensor y;        // [n_tokens, n_dim]
    struct k_tensor ids;      // [n_tokens]; below n_vocab
    const struct k_weight *w; // [1, n_vocab, n_dim]
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

/* Matrix product with weights as Hugging Face files keep them: y = x w^T + bias (or y += ...).
 * With row_start the rows are sorted by group (expert): rows row_start[g] up to row_start[g+1] meet
 * w[g], rows behind the last group's are left alone; without, there is one group.
 *
 * Sums. F32, BF16, F16: one chain of fused multiply-adds over ascending n_in; but path "amx" adds
 * up BF16 as kernels/cpu/product_amx.c says, and there an infinite weight gives NaN. E4M3, E5M2:
 * four such chains from zero within every 128 of n_in, one for each remainder of the input's number
 * by 4 (the order in which packed bytes widen without being moved); then, block after block,
 * remainders in the order 0 2 1 3, total = fma(scale, chain, total). Q8, Q4: x is rounded to 8 bits
 * in groups of 32 (k_quant_row), the products of a group are whole numbers, and total =
 * fma(float(sum), x_scale * w_scale, total) over ascending groups. Totals begin with y or zero. The
 * bias comes last. x in E4M3 or E5M2 has tiles of scales, meets weights of these types only, and
 * then scale is the weight's times the tile's; x in BF16 meets F32 and BF16. A NaN or infinity in x
 * makes its group of Q8 and Q4 NaN. */
struct k_linear {
    struct k_tensor y;         // [n_rows, n_out]
    struct k_tensor x;         // [n_rows, n_in]
    const struct k_weight *w;  // [n_groups, n_out, n_in]
    struct k_tensor row_start; // [n_groups + 1], absent if n_groups is 1
    struct k_tensor bias;      // [n_out], may be absent
    bool accumulate;           // y += instead of y =
    enum k_sum sum;            // not K_SUM_F32: x in 8-bit floats
};

/* Gradient of linear by its input: dx = dy w (or +=). dy in E4M3 or E5M2 has tiles of scales and
 * meets weights of these types, whose blocks are those of linear; dy in BF16 meets F32 and BF16. */
struct k_linear_dx {
    struct k_tensor dx;        // [n_rows, n_in]
    struct k_tensor dy;        // [n_rows, n_out]
    const struct k_weight *w;  // [n_groups, n_out, n_in]
    struct k_tensor row_start; // [n_groups + 1]
    bool accumulate;
    enum k_sum sum; // not K_SUM_F32: dy in 8-bit floats
};

/* Gradient of linear by its weights: dw[g] += dy^T x over the rows of group g, ascending. In E4M3
 * and E5M2 both have scales along tokens. */
struct k_linear_dw {
    struct k_tensor dw;        // [n_groups, n_out, n_in]
    struct k_tensor dy;        // [n_rows, n_out]
    struct k_tensor x;         // [n_rows, n_in]
    struct k_tensor row_start; // [n_groups + 1]
    enum k_sum sum;            // not K_SUM_F32: both in 8-bit floats
};

/* Every head with a matrix of its own: y[t, h] = w[h] x[t, h]. Sums as in linear. */
struct k_linear_heads {
    struct k_tensor y;        // [n_tokens, n_heads, n_out]
    struct k_tensor x;        // [n_tokens, n_heads, n_in]
    const struct k_weight *w; // [n_heads, n_out, n_in]
};

/* The same across: dx[t, h] = dy[t, h] w[h]; a sum is one chain over ascending n_out, the scale of
 * E4M3 and E5M2 taken into its weights first. MLA's absorbed queries are made with it. */
struct k_linear_heads_dx {
    struct k_tensor dx;       // [n_tokens, n_heads, n_in]
    struct k_tensor dy;       // [n_tokens, n_heads, n_out]
    const struct k_weight *w; // [n_heads, n_out, n_in]
};

/* y += sum over rows of x, ascending: the gradient of a bias. */
struct k_sum_rows {
    struct k_tensor y; // [n_dim]
    struct k_tensor x; // [n_rows, n_dim]
};

/* To few bits. y.scale_kind says which numbers share a scale; none: y is BF16, and the rest is left
 * out. scale = max(amax, amax_min) / largest (of E4M3 448, E5M2 57,344, E5M6 65,024), or 1 where
 * that is below float32's normal numbers, rounded up to a power of two if asked; y = x / scale, to
 * the nearest even, saturating. x may have tiles of scales itself: it is made wide first, as
 * dequantize does. Codes and scales are the same bits on every backend. */
struct k_quantize {
    struct k_tensor y;         // [n_rows, n_dim]; of its scale the kind alone is looked at
    struct k_tensor scale;     // as the kind says
    struct k_tensor x;         // [n_rows, n_dim]
    struct k_tensor row_start; // [n_groups + 1], along tokens
    float amax_min;            // 1e-4 in inference, 0 in training
    bool power_of_two;
};

/* y = number times scale, rounded to float32. The same bits on every backend. */
struct k_dequantize {
    struct k_tensor y;         // [n_rows, n_dim]
    struct k_tensor x;         // [n_rows, n_dim]
    struct k_tensor row_start; // [n_groups + 1], along tokens
};

/* Put the rows of new tokens into a key-value cache: cache[row[t]] = x[t], rounded to the cache's
 * type (float16 saturates); a negative row is passed over. Rows are distinct. */
struct k_cache_put {
    struct k_tensor cache; // [n_cache_rows, n_heads, d]
    struct k_tensor x;     // [n_tokens, n_heads, d]
    struct k_tensor row;   // [n_tokens] i32, below n_cache_rows
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
 * Sequence s has queries q_start[s] up to q_start[s+1] and kv_length[s] keys, of which its queries
 * are the last: query i sees kv_length - q_length + i + 1 keys.
 *
 * Without pages the keys of a sequence are the rows of its queries (training: kv_length = its
 * queries). With pages, key p of sequence s is row pages[s, p / page_tokens] * page_tokens +
 * p % page_tokens of the cache. v may be a view of k (multi-head latent attention: one key head,
 * whose first d_value numbers are the value). Cut at absolute positions: a query's bits do not
 * depend on its chunk, on its neighbours in the batch or on which pages it has. */
struct k_attention {
    struct k_tensor y;         // [n_tokens, n_heads, d_value]
    struct k_tensor q;         // [n_tokens, n_heads, d_key]
    struct k_tensor k;         // [n_keys, n_kv_heads, d_key]
    struct k_tensor v;         // [n_keys, n_kv_heads, d_value]
    struct k_tensor lse;       // [n_tokens, n_heads], may be absent: log of the sum of exp(score)
    struct k_tensor q_start;   // [n_seqs + 1], ascending
    struct k_tensor kv_length; // [n_seqs], at least the queries of the sequence
    struct k_tensor pages;     // [n_seqs, n_pages] i32, may be absent
    int64_t page_tokens;       // with pages
    float scale;               // of the scores, before the softmax
};

/* Causal attention over a cache of compressed keys and values, which are expanded on the way: what
 * multi-head latent attention does in training, for many queries of a sequence at once. A cached
 * row is c [n_latent] and r [d_rope]; head h has the key (w_key[h] c, r) and the value w_value[h]
 * c. Sequences, keys and pages as in attention.
 *
 * Files of Q8 and Q4 weights hold the keys' half turned: w_key is [n_heads, n_latent, d_nope] then,
 * its products meet c in float32, while those of w_value round c as linear does. Sums: a key or
 * value as in linear; the rest in no order that is promised, and no bits are shared with attention
 * over the same cache: whoever takes this form for some batches and not for others is not
 * row-invariant. */
struct k_attention_expand {
    struct k_tensor y;              // [n_tokens, n_heads, d_value]
    struct k_tensor q;              // [n_tokens, n_heads, d_nope + d_rope]
    struct k_tensor cache;          // [n_cache_rows, n_latent + d_rope]
    const struct k_weight *w_key;   // [n_heads, d_nope, n_latent], or turned
    const struct k_weight *w_value; // [n_heads, d_value, n_latent]
    struct k_tensor q_start;        // [n_seqs + 1], ascending
    struct k_tensor kv_length;      // [n_seqs], at least the queries of the sequence
    struct k_tensor pages;          // [n_seqs, n_pages] i32
    int64_t page_tokens;
    float scale; // of the scores, before the softmax
    bool turned;
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

enum k_score {
    K_SCORE_SIGMOID, // DeepSeek-V3
    K_SCORE_SOFTMAX, // DeepSeekMoE, DeepSeek-V2
    K_SCORE_COUNT,
};

/* Which experts a token takes: scores = sigmoid or softmax of the logits; the choice is by
 * scores + bias; a group counts with the sum of its group_best best (2 in DeepSeek-V3, 1 in V2),
 * the best group_top groups stay, the others get -inf; of what stays the best n_slots. weight =
 * score without bias, divided by their sum if normalise, times scaling. Ties go to the lower
 * number. Experts ascend in a row. Source: DeepSeek-V2 and V3 reports, sections 2.1.2 ("greedy",
 * "group_limited_greedy", "noaux_tc" in their configurations). */
struct k_router {
    struct k_tensor experts; // [n_tokens, n_slots] i32
    struct k_tensor weights; // [n_tokens, n_slots]
    struct k_tensor scores;  // [n_tokens, n_experts], the backward pass reads it
    struct k_tensor logits;  // [n_tokens, n_experts]
    struct k_tensor bias;    // [n_experts], may be absent
    enum k_score score;
    int n_groups; // divides n_experts; 1: no groups
    int group_best;
    int group_top;
    bool normalise;
    float scaling;
};

/* Gradient of router, and of `balance` if f is there: dlogits is written. The choice is a constant.
 * f as balance left it, balance_scale what it was given, times the gradient of the loss. */
struct k_router_dx {
    struct k_tensor dlogits;    // [n_tokens, n_experts]
    struct k_tensor dweights;   // [n_tokens, n_slots]
    struct k_tensor experts;    // [n_tokens, n_slots]
    struct k_tensor scores;     // [n_tokens, n_experts]
    struct k_tensor f;          // [n_spans, n_experts], may be absent
    struct k_tensor span_start; // [n_spans + 1], absent if f is
    enum k_score score;
    bool normalise;
    float scaling;
    float balance_scale;
};

/* The balance losses of a layer with experts. */
enum k_balance_kind {
    K_BALANCE_EXPERT,
    K_BALANCE_DEVICE,
    K_BALANCE_COMMUNICATION,
    K_BALANCE_COUNT,
};

/* Balance losses. Over each span of T tokens (a sequence, or in the batch form the whole
 * micro-batch), with N experts in D groups of neighbours, K slots, and P_e = mean of score_e / sum
 * of the token's scores:
 *   expert         f_e = N / (K T) * picks of e                   sum over experts of f_e P_e
 *   device         f'_g = mean of the group's f_e                 sum over groups of f'_g P'_g
 *   communication  f''_g = D / (M T) * tokens with a pick in g    sum over groups of f''_g P'_g
 * where P'_g = sum of the group's P_e. Each is multiplied by its alpha and balance_scale and added
 * to its loss. f is a constant to gradients, so all three have that of sum_e f_e P_e with
 * alpha0 f_e + alpha1 f'_g + alpha2 f''_g for f_e (g the group of e): what is left in f.
 *
 * A pick is one of `experts`; with plain, for f_e and f'_g, one of the best n_slots scores without
 * bias and groups. Sources: DeepSeek-V2 report, eq. 23-31 (scores are a softmax, whose sum is 1);
 * plain: DeepSeek-V3 report, eq. 17-20. */
struct k_balance {
    struct k_tensor loss;       // [K_BALANCE_COUNT] f64, added to
    struct k_tensor f;          // [n_spans, n_experts]
    struct k_tensor scores;     // [n_tokens, n_experts]
    struct k_tensor experts;    // [n_tokens, n_slots] i32
    struct k_tensor span_start; // [n_spans + 1] i32
    float alpha[K_BALANCE_COUNT];
    float balance_scale; // weight of a span: of a sequence, 1 / sequences of the whole batch
    int n_groups;        // D, divides n_experts
    int max_groups;      // M, groups that a token may go to
    bool plain;
};

/* Token dropping: of each group of neighbouring experts at most `capacity` pairs (token, slot)
 * stay, those with the highest scores; of equal ones the first. Pairs of whole sequences stay in
 * any case and take their places first. What is dropped is -1 in kept; weights are not normalised
 * again. Source: DeepSeek-V2 report, section 2.2.4. */
struct k_route_drop {
    struct k_tensor kept;      // [n_tokens, n_slots] i32: experts, or -1
    struct k_tensor experts;   // [n_tokens, n_slots] i32
    struct k_tensor scores;    // [n_tokens, n_experts], not negative
    struct k_tensor seq_start; // [n_seqs + 1] i32
    struct k_tensor whole;     // [n_seqs] i32, not 0: nothing of it is dropped; may be absent
    int n_groups;              // divides n_experts
    int64_t capacity;
};

/* Put the pairs (token, slot) in the order (expert, token): row_start of each expert, the token of
 * every row, the row of every pair. An expert of -1 (a dropped pair) gets row -1; as many rows at
 * the end belong to nobody and have token 0. Another expert that is not there is refused; a device,
 * which cannot refuse, takes it for -1. */
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

/* y[t] += sum over slots, ascending, of weights[t, s] * x[pair_row[t, s]]; weights absent: 1. A
 * pair without a row (below 0) adds nothing. */
struct k_combine {
    struct k_tensor y;        // [n_tokens, n_dim]
    struct k_tensor x;        // [n_rows, n_dim]
    struct k_tensor pair_row; // [n_tokens, n_slots]
    struct k_tensor weights;  // [n_tokens, n_slots], may be absent
};

/* Gradient of combine: dx[pair_row[t, s]] = weights[t, s] * dy[t];
 * dweights[t, s] = dy[t] . x[pair_row[t, s]], 0 of a pair without a row. */
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
    const struct k_device *device; // kernels/device.h; NULL: works in the host's memory
    // Copies a weight to the device, or copies it again; NULL: weights are read in place.
    int (*bind)(struct k_ctx *ctx, struct k_weight *w, struct hai_err *err);
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
    size_t offset; // of the tensor, or of the pointer to weights, in the operator's struct
    bool weight;
    const char *dims;   // a letter a dimension; the same letter is the same size, lower case: + 1
    const char *dtypes; // e.g. "F32 BF16"
    bool optional;      // data may be NULL
};

const struct k_operand *k_operands(int *ret_n);
const char *k_op_name(enum k_op op);
const char *k_dtype_name(enum k_dtype dtype);
size_t k_dtype_bytes(enum k_dtype dtype);                       // not for Q4
size_t k_dtype_n_bytes(enum k_dtype dtype, int64_t n_elements); // whole bytes only

/* Scales of a tensor [n_rows, n_dim] whose rows lie in n_groups groups. */
int64_t k_n_scales(enum k_scale kind, int64_t n_rows, int64_t n_dim, int64_t n_groups);

/* A context without workspace or threads. path picks one of the forms of `cpu` ("avx2",
 * "avx512", "amx"), NULL the best one this processor has. -ENOTSUP: backend not built, or path not
 * available here; -ENODEV: no GPU, or one that the kernels were not built for. */
int k_ctx_init(struct k_ctx *ctx, enum k_backend backend, const char *path, struct hai_err *err);

/* "ref", "cpu" or "cuda"; -EINVAL otherwise. */
int k_backend_parse(const char *text, enum k_backend *ret, struct hai_err *err);

/* Memory that operators of this backend work on, zeroed, 64-byte aligned; the host's own where the
 * backend has none. n_bytes above 0. -ENOMEM. For setting up: a step allocates nothing. */
int k_memory_new(struct k_ctx *ctx, size_t n_bytes, void **ret, struct hai_err *err);
void k_memory_free(struct k_ctx *ctx, void *memory); // NULL is accepted

/* Between the host's memory and the backend's, in order with operators. `from` of an upload may be
 * reused on return; a download has finished on return. -EIO: the device has failed. */
int k_upload(struct k_ctx *ctx, void *to, const void *from, size_t n_bytes);
int k_download(struct k_ctx *ctx, void *to, const void *from, size_t n_bytes);

/* Wait until everything enqueued on ctx->stream has run. -EIO: something failed since the last
 * time. */
int k_finish(struct k_ctx *ctx, struct hai_err *err);

/* A point in a stream: what is enqueued on the waiting context's stream afterwards runs after what
 * was enqueued on the recording one's before. */
struct k_event;
int k_event_new(struct k_ctx *ctx, struct k_event **ret, struct hai_err *err);
void k_event_free(struct k_event *event); // NULL is accepted
int k_event_record(struct k_ctx *ctx, struct k_event *event);
int k_event_wait(struct k_ctx *ctx, struct k_event *event);

/* Weights of n_groups * n_parts parts, a group's one after the other; the table of parts is copied,
 * what it points to is not. Part p has as many rows in every group. -EINVAL: parts that do not add
 * up to n_out, a row length the type cannot have (Q8, Q4: multiples of 32), or scales where there
 * should be none or the other way round. */
int k_weight_new(struct k_ctx *ctx, enum k_dtype dtype, int64_t n_groups, int64_t n_out,
                 int64_t n_in, const struct k_weight_part *parts, int n_parts,
                 struct k_weight **ret, struct hai_err *err);
void k_weight_free(struct k_weight *w);
DEFINE_CLEANUP(struct k_weight *, k_weight_free)

/* One matrix, or several behind one another, of F32 or BF16 as the trainer keeps them. */
int k_weight_plain(struct k_ctx *ctx, enum k_dtype dtype, int64_t n_groups, int64_t n_out,
                   int64_t n_in, const void *data, struct k_weight **ret, struct hai_err *err);

/* What it was made from has changed in place: a backend with memory of its own copies it again, in
 * order with operators. */
int k_weight_update(struct k_ctx *ctx, struct k_weight *w, struct hai_err *err);

enum k_dtype k_weight_dtype(const struct k_weight *w);
int64_t k_weight_size(const struct k_weight *w, int dimension); // 0 groups, 1 n_out, 2 n_in
size_t k_weight_bytes(const struct k_weight *w); // read by a product with all of it, scales too

/* Contiguous views. Sizes that are not there are 0. */
struct k_tensor k_tensor_1d(void *data, enum k_dtype dtype, int64_t n0);
struct k_tensor k_tensor_2d(void *data, enum k_dtype dtype, int64_t n0, int64_t n1);
struct k_tensor k_tensor_3d(void *data, enum k_dtype dtype, int64_t n0, int64_t n1, int64_t n2);
int64_t k_tensor_n_elements(const struct k_tensor *t);
