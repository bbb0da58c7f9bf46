/* layer.h - the contract of a layer: declared parameters and buffers, forward, backward in halves.
 *
 * A layer names the parameters it reads and every buffer it needs, for the largest batch, before
 * the first step; the model places them (engine/model/plan.h) and binds the views. `forward`
 * leaves in its saved buffers what the backward pass reads. `backward_input` turns dy into dx and
 * leaves the gradients of its products in its gradient buffers; `backward_weight` adds to dw in
 * float32 and may run at any later time, once, as long as those two kinds of buffers are kept.
 * Inference calls the same forward, with a cache.
 *
 * Under a recipe of few bits (precision.h) what is kept of a saved buffer is a narrower copy of it:
 * layer_keep makes it when the buffer is filled, layer_recall gets the buffer back from it.
 * Products take the copy, rounded again where it has another form than they want. Layers say what a
 * buffer is, not what it is kept as.
 */
#pragma once
#include "engine/model/config.h"
#include "engine/nn/precision.h"

struct layer;

/* Packed sequences: sequence s is rows seq_start[s] up to seq_start[s+1]. Borrowed. With pages its
 * keys are in the layer's cache, the new tokens' included and last, as k_attention says; without,
 * they are those of its rows. */
struct layer_batch {
    struct k_tensor seq_start; // [n_seqs + 1] i32
    struct k_tensor position;  // [n_tokens] i32, of each token in its sequence
    struct k_tensor kv_length; // [n_seqs] i32
    struct k_tensor pages;     // [n_seqs, n_pages] i32; data NULL: no cache
    struct k_tensor cache_row; // [n_tokens] i32: where in the cache a new token goes
    int64_t page_tokens;
    int64_t n_tokens, n_seqs;
};

/* When the contents of a buffer are needed. */
enum layer_life {
    LAYER_SAVED,   // from forward until backward_weight
    LAYER_GRAD,    // from backward_input until backward_weight
    LAYER_SCRATCH, // within one call
    LAYER_KEPT,    // until the layer's next forward, also without training
    LAYER_CACHE,   // as long as the key-value cache
    LAYER_LIFE_COUNT,
};

/* One buffer. rows counts for a batch of the largest size; a view of it has the batch's rows. */
struct layer_buffer {
    const char *name;
    enum layer_life life;
    enum k_dtype dtype;
    int64_t rows, columns;
    void *data; // bound by the model
    // Of what layer_add_saved declares: the copy that is kept, if it has another type than F32.
    enum k_dtype kept;
    bool power_of_two; // its scales, and those of what is made of it for products
    void *kept_data;
    float *kept_scale; // tiles
};

/* One parameter, or several that lie side by side and are read by one product. n_groups 0: a vector
 * of n_out; else [n_groups, n_out, n_in]. Bound by the model; dw.data is NULL without training. */
struct layer_param {
    const char *name; // published name of the first tensor after "model.layers.N."
    int64_t n_groups, n_out, n_in;
    int64_t first_row, group_rows; // a head's share of a tensor: group g is its rows from
                                   // g * group_rows + first_row on; group_rows 0: everything
    bool turned;                   // the share transposed, [n_in of the tensor, rows]
    int row_start;      // of experts: the buffer that says where each group's rows begin; else -1
    bool dispatched;    // its output's gradient is sent to experts: scales are powers of two
    struct k_weight *w; // of a matrix; NULL where quantised files hold it in another form
    struct k_tensor vector; // of a vector, float32
    struct k_tensor dw;
};

enum {
    LAYER_PARAMS_MAX = 16,
    LAYER_BUFFERS_MAX = 32,
};

/* What the largest batch and cache will be; buffers are declared for it. */
struct layer_limits {
    int64_t n_tokens, n_seqs;
    int64_t n_cache_rows; // pages times tokens of a page; 0: no cache
    enum k_dtype cache_dtype;
};

/* What all layers of a model share. */
struct layer_shared {
    struct k_tensor rope_cos, rope_sin; // [n_positions, d_rope / 2]
    struct precision precision;         // f32 without training
    bool fast_prefill;                  // with a cache: forms may depend on the number of rows
};

/* Kinds of layers. All functions return 0 or what the operator returned.
 *
 * x, y    [n_tokens, n_dim] the residual stream before and after; other memory
 * dy, dx  its gradient after and before; other memory. When training the caller keeps x and dy
 *         until backward_weight.
 */
struct layer_type {
    const char *name;
    void (*declare)(struct layer *l, const struct layer_limits *limits);
    int (*forward)(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                   const struct k_tensor *x, const struct k_tensor *y);
    int (*backward_input)(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                          const struct k_tensor *x, const struct k_tensor *dy,
                          const struct k_tensor *dx);
    int (*backward_weight)(struct k_ctx *ctx, struct layer *l, const struct layer_batch *batch,
                           const struct k_tensor *x, const struct k_tensor *dy);
};

extern const struct layer_type attn_layer; // norm, grouped-query attention, residual (attn.c)
extern const struct layer_type mla_layer;  // norm, multi-head latent attention, residual (mla.c)
extern const struct layer_type mlp_layer;  // norm, SwiGLU, residual (mlp.c)
extern const struct layer_type moe_layer;  // norm, shared and routed experts, residual (moe.c)

/* Training's rules for layers with experts; all zero: nothing is balanced or dropped. */
struct layer_routing {
    double *balance_loss;         // [K_BALANCE_COUNT], added to
    float alpha[K_BALANCE_COUNT]; // of balance losses; kernels.h says what they are
    float balance_scale;          // weight of each span; 0: no balance losses
    struct k_tensor span_start;   // [n_spans + 1] i32: what balance losses are taken over
    int n_groups;                 // devices as losses and dropping see them, not the run's ranks
    int max_groups;               // to which a token may go
    int64_t capacity;             // pairs (token, slot) that a group takes; 0: nothing is dropped
    struct k_tensor whole;        // [n_seqs] i32, not 0: nothing of it is dropped; may be absent
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
    int operands;                 // the first of the buffers that layer_add_operands declared
    struct layer_routing routing; // set by the model before a forward pass
};

/* Declare a parameter or a buffer; the numbers given back count from 0 in order of the calls. */
int layer_add_param(struct layer *l, const char *name, int64_t n_groups, int64_t n_out,
                    int64_t n_in);
/* A matrix of every head: n_out rows from first_row on of each group_rows rows of a tensor that is
 * declared as a whole too. */
int layer_add_heads(struct layer *l, const char *name, int64_t n_heads, int64_t n_out, int64_t n_in,
                    int64_t first_row, int64_t group_rows);
/* The same transposed, as quantised files hold it: n_in rows of the tensor become the columns.
 * Bound only where they do, and then nothing else of that tensor's first rows is. */
int layer_add_heads_turned(struct layer *l, const char *name, int64_t n_heads, int64_t n_out,
                           int64_t n_in, int64_t group_rows);
int layer_add_buffer(struct layer *l, const char *name, enum layer_life life, enum k_dtype dtype,
                     int64_t rows, int64_t columns);

/* Views of a buffer's first n_rows rows: whole rows, a run of columns, or columns cut in heads. */
struct k_tensor layer_rows(const struct layer *l, int buffer, int64_t n_rows);
struct k_tensor layer_columns(const struct layer *l, int buffer, int64_t n_rows, int64_t first,
                              int64_t n_columns);
struct k_tensor layer_heads(const struct layer *l, int buffer, int64_t n_rows, int64_t first,
                            int64_t n_heads, int64_t head_stride, int64_t d);
struct k_tensor layer_vector(const struct layer *l, int buffer, int64_t n); // the first n elements

/* A buffer that is needed until backward_weight, as the recipe keeps it. In fewer bits it is itself
 * scratch: of each call that reads it. */
void layer_add_saved(struct layer *l, const char *name, enum precision_role role, int64_t rows,
                     int64_t columns);

/* What products need for themselves, behind all other buffers. */
void layer_add_operands(struct layer *l, const struct layer_limits *limits);

/* The first n rows of a buffer of layer_add_saved have been filled: make the copy that is kept. In
 * BF16 the buffer is rounded too, as the backward pass will have it. */
int layer_keep(struct k_ctx *ctx, const struct layer *l, int buffer, int64_t n);

/* Fill the first n rows from the copy. */
int layer_recall(struct k_ctx *ctx, const struct layer *l, int buffer, int64_t n);

/* Is the buffer itself still there in the backward pass? What is neither there nor kept is computed
 * again by the layer. */
bool layer_is_saved(const struct layer *l, int buffer);

/* Products of as many rows of buffer number x (of layer_add_saved) as y has with the layer's
 * parameter number `param`; bias: number of a vector, -1: none. Weights that stay float32 under a
 * recipe of few bits meet the buffer itself, which is to be filled, also for dw. */
int layer_linear_bias(struct k_ctx *ctx, const struct layer *l, int param, int bias, int x,
                      struct k_tensor y);
int layer_linear(struct k_ctx *ctx, const struct layer *l, int param, int x, struct k_tensor y,
                 bool accumulate);
int layer_linear_dx(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor dy,
                    struct k_tensor dx, bool accumulate);
int layer_linear_dw(struct k_ctx *ctx, const struct layer *l, int param, int x, struct k_tensor dy);
int layer_norm(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor x,
               struct k_tensor y, struct k_tensor scale, double eps);

/* dx = residual + gradient of the norm by its input; residual may be NULL. dw of its weight. */
int layer_norm_dx(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor dy,
                  struct k_tensor x, struct k_tensor scale, const struct k_tensor *residual,
                  struct k_tensor dx);
int layer_norm_dw(struct k_ctx *ctx, const struct layer *l, int param, struct k_tensor dy,
                  struct k_tensor x, struct k_tensor scale);

/* y = x, before the layer's own product is added. */
int layer_residual(struct k_ctx *ctx, const struct k_tensor *x, const struct k_tensor *y);

/* The first d of every row of a cache buffer, cut in heads. */
struct k_tensor layer_cache(const struct layer *l, int buffer, int64_t n_heads, int64_t head_stride,
                            int64_t d);

/* Put the batch's new keys or values [n_tokens, n_heads, d] where the batch says. */
int layer_cache_put(struct k_ctx *ctx, const struct layer_batch *batch, struct k_tensor rows,
                    struct k_tensor cache);

/* Return the first failure of a run of operators. */
#define LAYER_TRY(call)                                                                            \
    do {                                                                                           \
        int layer_r_ = (call);                                                                     \
        if (layer_r_ < 0)                                                                          \
            return layer_r_;                                                                       \
    } while (0)
