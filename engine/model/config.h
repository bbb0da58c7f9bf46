/* config.h - the shape of a model, from a config.json in Hugging Face form.
 *
 * Everything about a model that loading, training, inference and sharding need stands in one plain
 * struct. Every field of the file is either honoured or refused by name: a field that is not known,
 * or known with a value this engine would not follow, is an error and never a silent difference.
 */
#pragma once
#include "lib/base.h"

enum model_kind {
    MODEL_LLAMA,       // model_type "llama": dense, grouped queries
    MODEL_QWEN2,       // "qwen2": the same with biases on q, k, v
    MODEL_DEEPSEEK,    // "deepseek": grouped queries, experts behind a softmax gate
    MODEL_DEEPSEEK_V2, // "deepseek_v2": latent attention, experts behind a softmax gate
    MODEL_DEEPSEEK_V3, // "deepseek_v3": the same behind a sigmoid gate, multi-token module, FP8
    MODEL_KIND_COUNT,
};

/* What differs between the kinds is said by fields, not by asking for the kind: an engine that
 * reads `latent_attention` serves the next model that has it. */

enum model_rope {
    MODEL_ROPE_PLAIN,
    MODEL_ROPE_LINEAR, // positions divided by factor
    MODEL_ROPE_LLAMA3, // three frequency bands
    MODEL_ROPE_YARN,
    MODEL_ROPE_COUNT,
};

/* Rotary embedding; fields of the other kinds of scaling are 0. */
struct model_rope_config {
    enum model_rope kind;
    double theta;
    double factor;
    int64_t original_position; // llama3, yarn
    double low_freq_factor;    // llama3
    double high_freq_factor;   // llama3
    double beta_fast;          // yarn
    double beta_slow;          // yarn
    double mscale;             // yarn
    double mscale_all_dim;     // yarn
    bool adjacent;             // pairs (2i, 2i+1), else (i, i + d/2)
};

struct model_config {
    enum model_kind kind;
    int64_t n_vocab;
    int64_t n_dim;        // hidden_size
    int64_t n_dim_ffn;    // intermediate_size
    int64_t n_layers;     // without the multi-token module
    int64_t n_heads;      //
    int64_t n_kv_heads;   // llama; n_heads under latent attention
    int64_t d_head;       // llama: of q, k and v
    int64_t n_position;   // max_position_embeddings
    double norm_eps;      //
    double init_std;      // initializer_range, 0.02 if absent
    bool tied_embeddings; // the head is the embedding
    int64_t bos_token;    // -1: none
    int64_t eos_tokens[8];
    int n_eos_tokens;
    bool attention_bias; // q, k and v have one
    struct model_rope_config rope;
    bool fp8;              // matrices of layers are E4M3 with 128 x 128 blocks of scales
    bool fp8_power_of_two; // scales are powers of two ("ue8m0"), and so are those of activations

    // Latent attention; 0 elsewhere
    bool latent_attention;
    int64_t q_lora; // 0: queries are not compressed
    int64_t kv_lora;
    int64_t d_nope; // of a head of q and k, not rotated
    int64_t d_rope; // of a head of q and k, rotated; one for all heads of k
    int64_t d_value;

    // Experts; 0 elsewhere
    int64_t n_experts;
    int64_t n_shared_experts;
    int64_t n_expert_slots; // num_experts_per_tok
    int64_t n_dim_expert;   // moe_intermediate_size
    int64_t n_dense_layers; // first_k_dense_replace
    int64_t n_expert_groups;
    int64_t n_expert_groups_top;
    bool limit_groups;    // V2's topk_method is group_limited_greedy
    int64_t group_best;   // experts whose scores make a group's
    bool softmax_scores;  // else sigmoid
    bool router_bias;     // e_score_correction_bias
    bool normalise_slots; // norm_topk_prob
    double routed_scaling;
    double balance_alpha; // aux_loss_alpha: the sequence-wise balance loss
    int64_t n_mtp;        // num_nextn_predict_layers, 0 or 1
};

/* Parse the text of a config.json; name is used in errors (a path). -EBADMSG: not JSON, NaN and
 * numbers out of range included; -EINVAL: a field is missing, unknown, or out of bounds; -ENOTSUP:
 * an architecture or an option this engine does not have. Nothing is owned by the result. */
int config_parse(const char *text, size_t n_bytes, const char *name, struct model_config *ret,
                 struct hai_err *err);

/* The same from DIR/config.json. */
int config_read(const char *dir, struct model_config *ret, struct hai_err *err);

/* Are two configurations of one architecture, so that weights of one mean the same in the other?
 * They may differ in max_position_embeddings, ids of special tokens, initializer_range,
 * aux_loss_alpha, and in being FP8. -EINVAL names the field and both values; the names stand for
 * the two. */
int config_check_same(const struct model_config *config, const struct model_config *other,
                      const char *name, const char *other_name, struct hai_err *err);

/* Does this layer (from 0; n_layers is the multi-token module) have experts? */
bool config_layer_has_experts(const struct model_config *config, int64_t layer);

/* Width of one head of q and k, and of v. */
int64_t config_d_key(const struct model_config *config);
int64_t config_d_value(const struct model_config *config);

/* What attention multiplies its scores with: 1/sqrt(d_key), times YaRN's (0.1 mscale_all_dim
 * ln(factor) + 1)^2. Source: DeepSeek-V3, inference/model.py. */
double config_attention_scale(const struct model_config *config);

/* What cosines and sines are multiplied with: the quotient of YaRN's two mscale factors; else 1. */
double config_rope_amplitude(const struct model_config *config);

/* Floating point operations of one token's forward pass without attention scores; times three for a
 * training step. */
double config_flops_per_token(const struct model_config *config);
