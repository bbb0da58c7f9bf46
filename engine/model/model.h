/* model.h - a model in memory: parameters, gradients, buffers, forward, losses, backward.
 *
 * Made once from a configuration and the largest batch; nothing is allocated afterwards. Its
 * matrices either lie in flat buffers laid out by params.h (training, and weights that are rounded
 * on loading), or where mapped files have them, in the files' own types. Opening files is
 * engine/model/load.h, writing them engine/ckpt; schedules and data belong to engine/train; which
 * sequences run, which pages of the cache they have and which tokens come next to engine/infer.
 *
 * A training step:
 *   model_gradients_clear; for each micro-batch model_train (adds gradients);
 *   all-reduce of model_gradients [0, n_trained) and of model_counts; adamw_step; model_bias_update
 * Losses and gradients are divided by counts of the whole batch (all micro-batches and ranks),
 * which the caller passes, so no layout changes them.
 */
#pragma once
#include "engine/model/params.h"
#include "engine/nn/precision.h"

enum { MODEL_THREADS_MAX = 256 };

struct model;

struct model_options {
    enum k_backend backend;
    const char *path;                // kernel path or NULL, see k_ctx_init
    int n_threads;                   // 1: the caller's thread alone; at most MODEL_THREADS_MAX
    int64_t n_tokens_max;            // of one call
    int64_t n_seqs_max;              // of one call
    int64_t n_logits_max;            // rows of logits of one call; 0: n_tokens_max
    bool training;                   // with gradients and saved activations
    struct precision precision;      // of training
    enum k_dtype dtype;              // flat matrices are kept as K_F32 or, without training, K_BF16
    const struct safetensors *files; // matrices stay in these, which outlive the model; NULL: flat
    int64_t n_cache_pages;           // of the key-value cache; 0: none
    int64_t page_tokens;             // of a page
    int64_t n_seq_pages;             // most pages of one sequence
    enum k_dtype cache_dtype;        // K_F32, K_BF16 or K_F16
    // With a cache: many rows of a sequence may be computed in another form than few, whose bits
    // differ. Off: what a token gets does not depend on the batch it is in.
    bool fast_prefill;
};

/* Packed token sequences. ids [n_tokens]; seq_start [n_seqs + 1] from 0 to n_tokens.
 *
 * To learn from, one of two forms, negative where nothing is to be predicted:
 *   labels [n_tokens] as in Hugging Face: the token at that place; row t is scored against
 *   labels[t + 1] of the same sequence (the multi-token module's against labels[t + 2]), so the
 *   last row of a sequence has none;
 *   targets [n_tokens]: what row t is scored against, mtp_targets [n_tokens]: the module's (NULL:
 *   the module is not trained). For sequences that are cut, whose labels go on where inputs end;
 *   the module's inputs go on there too, so it wants next_ids.
 *
 * With a cache: pages [n_seqs, n_pages] are the numbers of each sequence's pages, kv_length
 * [n_seqs] the tokens that it will have with these, which are its last; the rest is there from
 * earlier calls (or was put there by whoever shares pages). A page that is written belongs to one
 * sequence. NULL: no cache, sequences start from position 0. logit_rows [n_logit_rows], ascending:
 * the tokens whose logits are wanted; NULL: all. next_ids [n_tokens]: for the multi-token module,
 * the token after each (-1: none); NULL: as in ids. whole [n_seqs]: not 0 for sequences of which
 * training drops nothing; NULL: none.
 */
struct model_batch {
    int64_t n_tokens, n_seqs;
    const int32_t *ids;
    const int32_t *seq_start;
    const int32_t *labels;
    const int32_t *targets, *mtp_targets;
    const int32_t *pages;
    int64_t n_pages;
    const int32_t *kv_length;
    const int32_t *logit_rows;
    int64_t n_logit_rows;
    const int32_t *next_ids;
    const int32_t *whole;
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
    double balance; // sum over layers, alphas included: of the parts
    double balance_parts[K_BALANCE_COUNT];
};

/* Rules of training beyond the configuration. */
struct model_rules {
    double mtp_weight;    // 0.3 in DeepSeek-V3's first phase; 0: the module is not trained
    double balance_alpha; // of the expert-level loss, usually config.balance_alpha
    double device_alpha;  // of the others, with groups of neighbouring experts for devices
    double communication_alpha;
    int balance_groups; // that divide the experts, whatever the run's layout is; 0: 1
    int max_groups;     // to which a token may go, at most balance_groups; 0: 1
    // Balance losses are means over sequences; or over each micro-batch (the batch form), weighted
    // by its sequences.
    bool balance_micro_batch;
    // A group takes at most this many times its even share of a micro-batch's pairs (token, slot);
    // 0: all of them. Training only.
    double capacity;
};

/* -EINVAL: groups that do not fit the model's experts. */
int model_rules_check(const struct model_config *config, const struct model_rules *rules,
                      struct hai_err *err);

int model_new(const struct model_config *config, const struct model_options *options,
              struct model **ret, struct hai_err *err);
void model_free(struct model *model);
DEFINE_CLEANUP(struct model *, model_free)

const struct model_config *model_config_of(const struct model *model);
const struct params *model_params(const struct model *model);

/* Is there anything that fast_prefill changes? Only latent attention has another form. */
bool model_has_fast_prefill(const struct model_config *config);

struct k_ctx *model_ctx(struct model *model);
float *model_weights(struct model *model);   // params.n_elements; NULL unless all are flat float32
float *model_gradients(struct model *model); // params.n_trained; NULL without training

/* The flat weights have been changed by others than model_init, load_model and adamw_step: under a
 * recipe of few bits, make what products read from them again. -EINVAL: the kernels refused. */
int model_weights_changed(struct model *model);

/* Values of row i of the table, a vector or a matrix, in the type they are kept in; data is NULL
 * for a matrix that stays in a file. */
struct k_tensor model_values(struct model *model, int i);

/* Bytes of all matrices that one token's forward pass reads, routed experts by the chosen ones. */
double model_token_bytes(const struct model *model);

/* Draw all parameters: Philox keyed by seed, counter (parameter's row in the table, element). */
void model_init(struct model *model, uint64_t seed);

/* Logits of the wanted rows. With a cache the tokens' keys are put into it. The view is valid until
 * the next call. -EINVAL: an id outside the vocabulary, positions beyond the model's, pages that
 * there are not. hidden, if not NULL: [n_layers, n_tokens, n_dim], the residual stream after each
 * layer. */
int model_forward(struct model *model, const struct model_batch *batch, struct k_tensor *ret_logits,
                  float *hidden, struct hai_err *err);

/* Logits of the multi-token module for the wanted rows of the last model_forward, which had this
 * batch: a row speaks of the token two places after it, given the one after it. A row without a
 * next token means nothing. Its layers have a cache of their own in the same pages. -ENOTSUP: the
 * model has no such module. */
int model_forward_mtp(struct model *model, const struct model_batch *batch,
                      struct k_tensor *ret_logits, struct hai_err *err);

/* The bytes of a page in all layers' caches, one piece a buffer: for saving, swapping and copying
 * pages. Walk with i from 0 until false. */
bool model_page(struct model *model, int32_t page, int i, void **ret, size_t *ret_n_bytes);

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

/* Picks of every expert since the last clear, dropped ones included, main layers with experts in
 * order, [n_expert_layers, n_experts]; behind them the dropped ones of every layer. The caller sums
 * all n over ranks in place (they are integers). */
int64_t *model_expert_counts(struct model *model, int64_t *ret_n);
void model_expert_counts_clear(struct model *model);

/* Choices of the last forward: experts [n_tokens, n_slots] and weights of expert layer i, counted
 * from the first layer with experts. */
int model_expert_choice(struct model *model, int i, const int32_t **ret_experts,
                        const float **ret_weights);

/* After the optimizer's step: each main layer's bias += gamma * sign(mean count - count). Models
 * without such a bias stay as they are. */
void model_bias_update(struct model *model, double gamma);
