/* layer.h - the contract of a layer: declared parameters and buffers, forward, backward in halves.
 *
 * A layer names the parameters it reads and every buffer it needs, for the largest batch, before
 * the first step; the model places them (engine/model/plan.h) and binds the views. `forward`
 * leaves in its saved buffers what the backward pass reads. `backward_input` turns dy into dx and
 * leaves the gradients of its products in its gradient buffers; `backward_weight` adds to dw in
 * float32 and may run at any later time, once, as long as those two kinds of buffers are kept.
 * Inference calls the same forward, with a cache.
 */
#pragma once
#include "engine/model/config.h"
#include "kernels/kernels.h"

struct layer;

/* Packed sequences: sequence s is rows seq_start[s] up to seq_start[s+1]. Borrowed. */
struct layer_batch {
    int64_t n_tokens;
    int64_t n_seqs;
    const int32_t *seq_start; // [n_seqs + 1]
    const int32_t *position;  // [n_tokens], of each token in its sequence
    // With a cache: the sequence's keys are rows kv_start up to kv_start + kv_length of it, the new
    // tokens' included and last. NULL without.
    const int32_t *kv_start;  // [n_seqs]
    const int32_t *kv_length; // [n_seqs]
};

/* When the contents of a buffer are needed. */
enum layer_life {
    LAYER_SAVED,   // from forward until backward_weight
    LAYER_GRAD,    // from backward_input until backward_weight
    LAYER_SCRATCH, // within one call
    LAYER_CACHE,   // as long as the key-value cache
    LAYER_LIFE_COUNT,
};

/* One buffer. rows counts for a batch of the largest size; a view of it has the batch's rows. */
struct layer_buffer {
    const char *name;
    enum layer_life life;
    enum k_dtype dtype;
    bool recompute; // could be computed again from other saved buffers
    int64_t rows, columns;
    void *data; // bound by the model
};

/* One parameter: the values and their gradient (data NULL without training). */
struct layer_param {
    const char *name; // published name after the layer's prefix
    struct k_tensor w, dw;
};

enum {
    LAYER_PARAMS_MAX = 12,
    LAYER_BUFFERS_MAX = 32,
};

/* What the largest batch and cache will be; buffers are declared for it. */
struct layer_limits {
    int64_t n_tokens, n_seqs;
    int64_t n_cache_tokens; // 0: no cache
    bool training;
};

/* Tables shared by all layers of a model. */
struct layer_shared {
    struct k_tensor rope_cos, rope_sin; // [n_positions, d_rope / 2]
};

/* Kinds of layers. All functions return 0 or what the operator returned.
 *
 * x, y       [n_tokens, n_dim] the residual stream before and after; both are kept until
 *            backward_weight by the model when training
 * dy, dx     its gradient; the same memory
 */
struct layer_type {
    const char *name;
    void (*declare)(struct layer *l, const struct layer_limits *limits);
    int (*forward)(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                   const struct k_tensor *x, const struct k_tensor *y);
    int (*backward_input)(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                          const struct k_tensor *x, const struct k_tensor *dy);
    int (*backward_weight)(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                           const struct k_tensor *x);
};

struct layer {
    const struct layer_type *type;
    const struct model_config *config;
    const struct layer_shared *shared;
    int number; // in the published names
    struct layer_param params[LAYER_PARAMS_MAX];
    int n_params;
    struct layer_buffer buffers[LAYER_BUFFERS_MAX];
    int n_buffers;
    float balance_scale;  // of layers with experts: of the balance loss; 0: none
    double *balance_loss; // added to, if not NULL
};
