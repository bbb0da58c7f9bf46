/* model_impl.h - the inside of struct model: for model.c, model_bind.c and model_step.c, and
 * for importance.c, which watches its operators.
 */
#pragma once
#include "engine/model/model.h"
#include "engine/nn/layer.h"

struct plan;

/* The multi-token module's own activations and gradients, [n_tokens, n_dim] unless noted. */
struct model_mtp {
    float *embedded, *embedded_scale;
    float *joined; // [n_tokens, 2 n_dim]: norm of the embedding, norm of the hidden state
    float *hidden_scale;
    float *stream[3]; // after eh_proj, attention, experts
    float *normed, *normed_scale;
    float *joined_grad, *embedded_grad, *normed_grad;
    int32_t *ids; // of the next position, -1 at the end of a sequence
};

/* Sums of losses: cross-entropy, multi-token, and each kind of balance. */
enum {
    MODEL_SUM_CE,
    MODEL_SUM_MTP,
    MODEL_SUM_BALANCE,
    MODEL_SUM_COUNT = MODEL_SUM_BALANCE + K_BALANCE_COUNT,
};

/* What products read of a matrix in training, where it is not the float32 values themselves. */
struct model_working {
    enum k_dtype dtype;
    void *data;   // NULL: the float32 values
    float *scale; // of 8-bit floats, blocks
};

struct model {
    struct model_config config;
    struct model_options options;
    struct params *params;
    struct k_ctx ctx;
    void *memory; // everything below, one allocation; workspace_memory is the operators'
    void *workspace_memory;
    float *weights; // flat from element first_weight on, see params.h
    int64_t first_weight;
    uint16_t *matrices; // elements before first_weight as bf16; NULL if first_weight is 0
    float *gradients;
    struct model_working *working;               // of every row of params
    struct k_weight *embedding, *head, *eh_proj; // eh_proj: NULL without a multi-token module
    struct layer *layers; // attention and feed-forward in turn; the multi-token module's two last
    int n_layers;         // of them in the main model
    int n_layers_all;
    bool cache_only; // the files have weights in a form that the forward pass without a cache lacks
    struct layer_shared shared;
    float *
        *stream; // residual stream before layer i, n_layers + 1; two places in turn if not training
    float *normed, *normed_scale; // of the final norm
    float *logits;                // [n_tokens_max, n_vocab]
    float *stream_grad[2];
    float *normed_grad;
    struct model_mtp mtp;
    int32_t *seq_start, *position, *kv_length, *pages, *cache_row, *logit_rows, *targets;
    float *wanted;          // [n_logits_max, n_dim]: rows of the last norm whose logits are wanted
    int64_t *expert_counts; // [n_expert_layers, n_experts] picks, then [n_expert_layers] dropped
    int n_expert_layers;    // of the main model
    int32_t micro_batch[2]; // its bounds as one span of tokens
    double loss_sums[MODEL_SUM_COUNT]; // where operators add
};

/* Check a batch, fill positions and key ranges. */
int model_batch_begin(struct model *m, const struct model_batch *batch, struct layer_batch *ret,
                      struct hai_err *err);

/* Embedding, all main layers, final norm. hidden as in model_forward. */
int model_run(struct model *m, const struct model_batch *batch, const struct layer_batch *lb,
              float *hidden);

/* What enters the multi-token module's layers, of n rows: norms of embedding and hidden state,
 * joined and projected. */
int model_mtp_join(struct model *m, int64_t n);

/* The multi-token module up to its last norm, after model_run. */
int model_run_mtp(struct model *m, const struct model_batch *batch, const struct layer_batch *lb);

/* logits = normed head^T for n rows. */
int model_head(struct model *m, float *normed, int64_t n);

/* Working weights: their places, walked with the rest of the plan. */
void model_place_working(struct model *m, struct plan *plan);

/* Make the weights of all products from the flat buffers or the files. */
int model_bind(struct model *m, struct hai_err *err);

/* normed_grad = gradient of the head by normed, whose logits' gradients lie in logits; and of its
 * weights, added. */
int model_head_backward(struct model *m, float *normed, float *normed_grad, int64_t n);

/* A parameter by published name: values or gradients, as one matrix or vector. */
struct k_tensor model_param(struct model *m, const char *name, bool gradient);

/* The same for a name of the multi-token module, after "model.layers.N.". */
struct k_tensor model_mtp_param(struct model *m, const char *name, bool gradient);

/* [n, n_dim] */
struct k_tensor model_rows(const struct model *m, float *data, int64_t n);
