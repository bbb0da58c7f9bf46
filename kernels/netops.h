/* netops.h - operators of networks other than language models: norms, curves of activations,
 * dropout, masks, windows, recurrent cells, losses. engine/net builds layers of them.
 *
 * What holds for all operators stands in kernels.h, which includes this and is what their users
 * include.
 */
#pragma once
#include "kernels/tensor.h"

/* Layer norm over the last axis: y = (x - mean) * scale * weight + bias, scale = 1 /
 * sqrt(mean((x - mean)^2) + eps). y may be x. Source: Ba, Kiros and Hinton, 2016. */
struct k_layernorm {
    struct k_tensor y;      // [n_rows, n_dim]
    struct k_tensor x;      // [n_rows, n_dim]
    struct k_tensor weight; // [n_dim]
    struct k_tensor bias;   // [n_dim], may be absent
    struct k_tensor mean;   // [n_rows]; the backward pass reads it
    struct k_tensor scale;  // [n_rows], likewise
    float eps;              // e.g. 1e-5
};

/* Gradient of layernorm by its input: with g = dy * weight and n = (x - mean) * scale,
 * dx = scale * (g - mean(g) - n * mean(g * n)). dx may be dy. */
struct k_layernorm_dx {
    struct k_tensor dx;     // [n_rows, n_dim]
    struct k_tensor dy;     // [n_rows, n_dim]
    struct k_tensor x;      // [n_rows, n_dim]
    struct k_tensor weight; // [n_dim]
    struct k_tensor mean;   // [n_rows], as layernorm left it
    struct k_tensor scale;  // [n_rows], as layernorm left it
};

/* Gradient of layernorm by its weight: dw += sum over rows of dy * (x - mean) * scale. That by its
 * bias is sum_rows of dy. */
struct k_layernorm_dw {
    struct k_tensor dw;    // [n_dim]
    struct k_tensor dy;    // [n_rows, n_dim]
    struct k_tensor x;     // [n_rows, n_dim]
    struct k_tensor mean;  // [n_rows]
    struct k_tensor scale; // [n_rows]
};

/* Curves of activations, of a number x. GELU: x * normal distribution(x) = x / 2 * (1 + erf(x /
 * sqrt 2)); GELU_TANH: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), both Hendrycks and
 * Gimpel, 2016. SILU: x * sigmoid(x). RELU: x above 0, else 0, with slope 0 at 0. */
#define K_CURVES(X)                                                                                \
    X(RELU, "relu")                                                                                \
    X(TANH, "tanh")                                                                                \
    X(SIGMOID, "sigmoid")                                                                          \
    X(SILU, "silu")                                                                                \
    X(GELU, "gelu")                                                                                \
    X(GELU_TANH, "gelu_tanh")

enum k_curve {
#define X(name, text) K_CURVE_##name,
    K_CURVES(X)
#undef X
        K_CURVE_COUNT,
};

/* y = curve(x). y may be x. */
struct k_activate {
    struct k_tensor y; // [n]
    struct k_tensor x; // [n]
    enum k_curve curve;
};

/* dx = dy * the curve's slope at x. dx may be dy or x. */
struct k_activate_dx {
    struct k_tensor dx; // [n]
    struct k_tensor dy; // [n]
    struct k_tensor x;  // [n]
    enum k_curve curve;
};

/* Dropout, and its gradient with dy for x: y = x / (1 - rate) where an element is kept, else 0.
 * Element i is number first + i of its layer's output over the whole batch; it is kept if word
 * (number % 4) of Philox(key; PHILOX_DROPOUT, step, layer, number / 4) is rate * 2^32 or more: the
 * same ones in every layout, at any number of threads and after a restart. -EINVAL: rate is not in
 * [0, 1), or a number is not below 2^34. y may be x. Source: Srivastava et al., 2014. */
struct k_dropout {
    struct k_tensor y; // [n]
    struct k_tensor x; // [n]
    uint64_t key;      // seed of the run
    uint32_t step;
    uint32_t layer;
    int64_t first;
    float rate;
};

/* y = exp(x) / sum of exp(x) over the last axis. y may be x. */
struct k_softmax {
    struct k_tensor y; // [n_rows, n_dim]
    struct k_tensor x; // [n_rows, n_dim]
};

/* dx = y * (dy - sum of dy * y). dx may be dy. */
struct k_softmax_dx {
    struct k_tensor dx; // [n_rows, n_dim]
    struct k_tensor dy; // [n_rows, n_dim]
    struct k_tensor y;  // [n_rows, n_dim], as softmax left it
};

/* Attention over n_seqs sequences of equal length with masks: y = softmax(q k^T * scale + mask) v,
 * every head by itself. Of a sequence, query i and key j: hidden if causal and j > i, if j is not
 * below kv_length of the sequence (padding), or if an I32 mask is not 0 there; an F32 mask is added
 * to the score and may be -infinity. Mask: one for all, one a sequence or one a sequence and head.
 * A query that sees no key gives zeros, and passes no gradient on. What is hidden must be finite
 * all the same. Source: Vaswani et al., 2017. */
struct k_attention_masked {
    struct k_tensor y;         // [n_seqs * n_queries, n_heads, d_value]
    struct k_tensor q;         // [n_seqs * n_queries, n_heads, d_key]
    struct k_tensor k;         // [n_seqs * n_keys, n_heads, d_key]
    struct k_tensor v;         // [n_seqs * n_keys, n_heads, d_value]
    struct k_tensor lse;       // [n_seqs * n_queries, n_heads]: log of the sum of exp(score)
    struct k_tensor mask;      // [1, n_seqs or n_seqs * n_heads; n_queries; n_keys], may be absent
    struct k_tensor kv_length; // [n_seqs], may be absent
    int64_t n_seqs;
    float scale;
    bool causal;
};

/* Gradients of attention_masked by q, k and v: written, not added to. */
struct k_attention_masked_dx {
    struct k_tensor dq; // [n_seqs * n_queries, n_heads, d_key]
    struct k_tensor dk; // [n_seqs * n_keys, n_heads, d_key]
    struct k_tensor dv; // [n_seqs * n_keys, n_heads, d_value]
    struct k_tensor dy; // [n_seqs * n_queries, n_heads, d_value]
    struct k_attention_masked of;
};

/* A window that moves over rows (y) and columns (x) of pictures; sizes above 0, pads 0 or more. A
 * sequence is a picture of height 1. How often it fits: kernels/window.h. */
struct k_window {
    int64_t height, width;
    int64_t step_y, step_x;
    int64_t pad_y, pad_x;       // places beyond each edge
    int64_t spread_y, spread_x; // places from one of its elements to the next; 1: side by side
};

/* The windows of pictures as rows, for a convolution as a product with weights [n_out, n_channels,
 * height, width]: y[(picture, place), (channel, window row, window column)] = x there, 0 beyond the
 * edges. */
struct k_unfold {
    struct k_tensor y; // [n_pictures * places down * places across, n_channels * window]
    struct k_tensor x; // [n_pictures, height, width, n_channels]
    struct k_window window;
};

/* The adjoint of unfold: x = the sum of all elements of y that came from it, in ascending order. */
struct k_fold {
    struct k_tensor x; // [n_pictures, height, width, n_channels]
    struct k_tensor y; // [n_pictures * places down * places across, n_channels * window]
    struct k_window window;
};

/* Maximum or mean of every window and channel. The mean counts zeros beyond the edges; the maximum
 * does not see them (pads are at most half a window), takes the first of equals, and a NaN. */
struct k_pooling {
    struct k_tensor y;    // [n_pictures, places down, places across, n_channels]
    struct k_tensor x;    // [n_pictures, height, width, n_channels]
    struct k_tensor from; // as y: row * width + column of the maximum; absent for means
    struct k_window window;
    bool mean;
};

struct k_pooling_dx {
    struct k_tensor dx;   // [n_pictures, height, width, n_channels]
    struct k_tensor dy;   // [n_pictures, places down, places across, n_channels]
    struct k_tensor from; // as pooling left it; absent for means
    struct k_window window;
    bool mean;
};

/* One step of a long short-term memory, gates in the order i f g o:
 *   c = sigmoid(f) c_before + sigmoid(i) tanh(g),  h = sigmoid(o) tanh(c)
 * gates comes in as W x + U h_before + biases and leaves with the curves applied, as the backward
 * pass reads it. Source: Hochreiter and Schmidhuber, 1997; forget gate: Gers et al., 2000. */
struct k_lstm_cell {
    struct k_tensor h;        // [n_rows, n_dim]
    struct k_tensor c;        // [n_rows, n_dim]
    struct k_tensor gates;    // [n_rows, 4 n_dim]
    struct k_tensor c_before; // [n_rows, n_dim], may be absent: zeros
};

/* dc comes in as the gradient by c from the next step (zeros at the last one) and leaves as that by
 * c_before. */
struct k_lstm_cell_dx {
    struct k_tensor dgates;   // [n_rows, 4 n_dim], by what came in
    struct k_tensor dc;       // [n_rows, n_dim]
    struct k_tensor dh;       // [n_rows, n_dim]
    struct k_tensor gates;    // [n_rows, 4 n_dim], as lstm_cell left it
    struct k_tensor c;        // [n_rows, n_dim]
    struct k_tensor c_before; // [n_rows, n_dim], may be absent: zeros
};

/* One step of a gated recurrent unit, gates in the order r z n, of input (W x + bias) and state
 * (U h_before + bias):
 *   r = sigmoid(input_r + state_r),  z = sigmoid(input_z + state_z)
 *   n = tanh(input_n + r state_n),  h = (1 - z) n + z h_before
 * input leaves as (r, z, n), as the backward pass reads it. Source: Cho et al., 2014, with the
 * reset gate behind the product. */
struct k_gru_cell {
    struct k_tensor h;        // [n_rows, n_dim]
    struct k_tensor input;    // [n_rows, 3 n_dim]
    struct k_tensor state;    // [n_rows, 3 n_dim]
    struct k_tensor h_before; // [n_rows, n_dim], may be absent: zeros
};

/* dh_before is the part that does not go through state. */
struct k_gru_cell_dx {
    struct k_tensor dinput;    // [n_rows, 3 n_dim]
    struct k_tensor dstate;    // [n_rows, 3 n_dim]
    struct k_tensor dh_before; // [n_rows, n_dim]; may be dh
    struct k_tensor dh;        // [n_rows, n_dim]
    struct k_tensor gates;     // [n_rows, 3 n_dim], as gru_cell left input
    struct k_tensor state;     // [n_rows, 3 n_dim]
    struct k_tensor h_before;  // [n_rows, n_dim], may be absent: zeros
};

/* Losses of a number x and its target t. SQUARE: (x - t)^2. BINARY: -t log x - (1 - t) log(1 - x),
 * logs at least -100, x in [0, 1]; its slope is (x - t) / max(x (1 - x), 1e-12). BINARY_LOGIT: the
 * same of sigmoid(x), = max(x, 0) - x t + log(1 + exp(-|x|)), with the slope sigmoid(x) - t. */
#define K_LOSSES(X)                                                                                \
    X(SQUARE, "square")                                                                            \
    X(BINARY, "binary")                                                                            \
    X(BINARY_LOGIT, "binary_logit")

enum k_loss_kind {
#define X(name, text) K_LOSS_##name,
    K_LOSSES(X)
#undef X
        K_LOSS_COUNT,
};

/* loss += loss_scale * sum of losses, in double, one fixed order; dx = grad_scale * slope. */
struct k_loss {
    struct k_tensor loss;   // [1] f64, added to
    struct k_tensor dx;     // [n], may be absent or x
    struct k_tensor x;      // [n]
    struct k_tensor target; // [n]
    enum k_loss_kind kind;
    float loss_scale; // 1 / elements of the whole batch: a mean
    float grad_scale; // the same times the weight of this loss
};
