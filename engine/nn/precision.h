/* precision.h - what a training run computes in: the types of weights, of what products take, and
 * of what is kept between forward and backward.
 *
 *   f32   everything float32
 *   bf16  products take BF16 weights and operands and add up in float32; what is kept is BF16
 *   fp8   products of the layers take 8-bit floats: activations and gradients in tiles of 128,
 *         weights in blocks of 128 x 128. Embedding, head and the multi-token module's projection
 *         are BF16. Source: DeepSeek-V3, section 3.3.
 *
 * In all of them master weights, gradients of weights, moments, the residual stream, norms, routers
 * and the attention's inside are float32. The recipe is part of a run's numeric identity.
 */
#pragma once
#include "kernels/kernels.h"

#define PRECISIONS(X)                                                                              \
    X(F32, "f32")                                                                                  \
    X(BF16, "bf16")                                                                                \
    X(FP8, "fp8")

/* Of weights and activations; and of gradients. */
#define PRECISION_FORMATS(X)                                                                       \
    X(E4M3, "e4m3", K_E4M3, K_E4M3)                                                                \
    X(E5M2, "e5m2", K_E5M2, K_E5M2)                                                                \
    X(HYBRID, "hybrid", K_E4M3, K_E5M2)

/* How products in 8-bit floats are added up. */
#define PRECISION_SUMS(X)                                                                          \
    X("fp32", K_SUM_F32)                                                                           \
    X("hopper14", K_SUM_HOPPER14)                                                                  \
    X("hopper14_promoted", K_SUM_HOPPER14_PROMOTED)

enum precision_kind {
#define X(name, text) PRECISION_##name,
    PRECISIONS(X)
#undef X
        PRECISION_COUNT,
};

enum precision_format {
#define X(name, text, forward, gradient) PRECISION_FORMAT_##name,
    PRECISION_FORMATS(X)
#undef X
        PRECISION_FORMAT_COUNT,
};

/* All zero: f32. format and sum matter under fp8 alone. */
struct precision {
    enum precision_kind kind;
    enum precision_format format;
    enum k_sum sum;
};

/* What is kept of a buffer from forward to backward depends on what it is. */
enum precision_role {
    PRECISION_INPUT,      // of products: as they take it
    PRECISION_DISPATCHED, // the same of tokens sent to experts: scales are powers of two
    PRECISION_CORE,       // operands and results beside products, attention's q, k, v: BF16
    PRECISION_ATTENDED,   // what attention gives, read by the product after it and by attention's
                          // own backward pass: E5M6, scales are powers of two
    PRECISION_GATE_UP,    // SwiGLU's input: as products would take it
    PRECISION_ACTIVATED,  // SwiGLU's output: not kept, computed again
    PRECISION_ROLE_COUNT,
};

/* K_F32: as it is; K_DTYPE_COUNT: not at all. */
enum k_dtype precision_kept(const struct precision *p, enum precision_role role);
bool precision_power_of_two(enum precision_role role);

/* What a product takes with weights of a type other than F32: on the way forward, and back. */
enum k_dtype precision_gradient(const struct precision *p, enum k_dtype weight);

/* Working weights of a matrix: may_fp8 as params_is_fp8 says. */
enum k_dtype precision_weight(const struct precision *p, bool may_fp8);

/* Value of a word, -EINVAL if it is none: f32, bf16, fp8; e4m3, e5m2, hybrid; fp32, hopper14,
 * hopper14_promoted. */
int precision_parse(const char *text);
int precision_format_parse(const char *text);
int precision_sum_parse(const char *text);

enum { PRECISION_NAME_BYTES = 48 };

/* Of the numeric identity: "f32", "bf16", "fp8 hybrid", "fp8 e4m3 hopper14". */
void precision_name(const struct precision *p, char ret[PRECISION_NAME_BYTES]);
