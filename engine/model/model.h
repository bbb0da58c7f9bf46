/* model.h - a model in memory: parameters, gradients, buffers, forward, losses, backward.
 *
 * Made once from a configuration and the largest batch; nothing is allocated afterwards. Values are
 * float32 in flat buffers laid out by params.h. Reading and writing files is engine/model/load.h
 * and engine/ckpt; schedules and data belong to engine/train; sampling to engine/infer.
 *
 * A training step:
 *   model_gradients_clear; for each micro-batch model_train (adds gradients);
 *   all-reduce of model_gradients [0, n_trained) and of model_counts; adamw_step; model_bias_update
 * Losses and gradients are divided by counts of the whole batch (all micro-batches and ranks),
 * which the caller passes, so no layout changes them.
 */
#pragma once
#include "engine/model/params.h"
#include "kernels/kernels.h"

enum { MODEL_THREADS_MAX = 256 };

struct model;

struct model_options {
    enum k_backend backend;
    const char *path;       // kernel path or NULL, see k_ctx_init
    int n_threads;          // 1: the caller's thread alone; at most MODEL_THREADS_MAX
    int64_t n_tokens_max;   // of one call
    int64_t n_seqs_max;     // of one call
    bool training;          // with gradients and saved activations
    enum k_dtype dtype;     // matrices are kept as K_F32 or, without training, K_BF16
    int64_t n_cache_slots;  // sequences the key-value cache holds; 0: none
    int64_t n_cache_tokens; // of each slot
};

/* Packed token sequences. ids [n_tokens]; seq_start [n_seqs + 1] from 0 to n_tokens.
 * labels [n_tokens] as in Hugging Face: the token at that place, negative where it is not to be
 * predicted; row t is scored against labels[t + 1] of the same sequence (the multi-token module's
 * against labels[t + 2]). NULL without training.
 * slots [n_seqs]: with a cache, where each sequence goes on; NULL: start from position 0 without.
 */
struct model_batch {
    int64_t n_tokens, n_seqs;
    const int32_t *ids;
    const int32_t *seq_start;
    const int32_t *labels;
    const int32_t *slots;
};

/* Labels that a batch counts. Sum over all micro-batches and ranks before model_train. */
struct model_counts {
    int64_t labels;     // of the next token
    int64_t mtp_labels; // of the token after, 0 without a multi-token module
    int64_t seqs;
};

struct model_losses {
    double total;   // what gradients are of
    double ce;      // mean over the counted labels
    double mtp;     // mean over its counted labels, before mtp_weight
    double balance; // sum over layers, alpha included
};

/* Rules of training beyond the configuration. */
struct model_rules {
    double mtp_weight;    // 0.3 in DeepSeek-V3's first phase; 0: the module is not trained
    double balance_alpha; // usually config.balance_alpha
};

int model_new(const struct model_config *config, const struct model_options *options,
              struct model **ret, struct hai_err *err);
void model_free(struct model *model);
DEFINE_CLEANUP(struct model *, model_free)

const struct model_config *model_config_of(const struct model *model);
const struct params *model_params(const struct model *model);
struct k_ctx *model_ctx(struct model *model);
float *model_weights(struct model *model);   // params.n_elements; NULL if matrices are bf16
float *model_gradients(struct model *model); // params.n_trained; NULL without training

/* Values of row i of the table, a vector or a matrix, in the type they are kept in. */
struct k_tensor model_values(struct model *model, int i);

/* Draw all parameters: Philox keyed by seed, counter (parameter's row in the table, element). */
void model_init(struct model *model, uint64_t seed);

/* Logits of every token. With slots the tokens go on where those sequences are and are added to the
 * cache; -ENOSPC if a slot is full. The view is valid until the next call. -EINVAL: an id outside
 * the vocabulary, positions beyond the model's. hidden, if not NULL: [n_layers, n_tokens, n_dim],
 * the residual stream after each layer. */
int model_forward(struct model *model, const struct model_batch *batch, struct k_tensor *ret_logits,
                  float *hidden, struct hai_err *err);

/* Logits of the multi-token module for the rows of the last model_forward, which had this batch and
 * no cache: a row speaks of the token two places after it. A sequence's last row has no next token
 * to go by and means nothing. -ENOTSUP: the model has no such module. */
int model_forward_mtp(struct model *model, const struct model_batch *batch,
                      struct k_tensor *ret_logits, struct hai_err *err);

/* Empty a slot of the cache, or cut it to its first n_tokens. */
void model_cache_cut(struct model *model, int64_t slot, int64_t n_tokens);
int64_t model_cache_length(const struct model *model, int64_t slot);

/* What a batch counts. */
void model_count(const struct model *model, const struct model_batch *batch,
                 struct model_counts *ret);

void model_gradients_clear(struct model *model);

/* Forward and backward of one micro-batch: adds to the gradients and to the expert counts. total is
 * the sum of model_count over the whole batch. losses: this micro-batch's share, so that the shares
 * of all micro-batches and ranks add up to the loss of the step. */
int model_train(struct model *model, const struct model_batch *batch,
                const struct model_counts *total, const struct model_rules *rules,
                struct model_losses *ret, struct hai_err *err);

/* Forward only: the same losses without gradients. */
int model_evaluate(struct model *model, const struct model_batch *batch,
                   const struct model_counts *total, const struct model_rules *rules,
                   struct model_losses *ret, struct hai_err *err);

/* Picks of every expert since the last clear, main layers with experts in order,
 * [n_expert_layers, n_experts]. The caller sums them over ranks in place (they are integers). */
int64_t *model_expert_counts(struct model *model, int64_t *ret_n);
void model_expert_counts_clear(struct model *model);

/* Choices of the last forward: experts [n_tokens, n_slots] and weights of expert layer i, counted
 * from the first layer with experts. */
int model_expert_choice(struct model *model, int i, const int32_t **ret_experts,
                        const float **ret_weights);

/* After the optimizer's step: each main layer's bias += gamma * sign(mean count - count). */
void model_bias_update(struct model *model, double gamma);
