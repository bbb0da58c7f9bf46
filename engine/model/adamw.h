/* adamw.h - the optimizer's step over a model's flat buffers: norm, clipping, AdamW.
 *
 * Moments are float32 buffers of params.n_trained elements laid out like the weights; the caller
 * owns them (engine/train keeps, checkpoints and shards them).
 */
#pragma once
#include "engine/model/model.h"

struct adamw_rule {
    double lr;
    double beta1, beta2; // e.g. 0.9, 0.95
    double eps;          // e.g. 1e-8
    double decay;        // decoupled, on tensors of two or more dimensions
    double clip_norm;    // 0: no clipping; g * min(1, clip_norm / (norm + 1e-6))
};

/* Flat buffers of n elements, of which the first n_decayed have weight decay. */
struct adamw_range {
    struct k_ctx *ctx;
    float *weights, *gradients, *exp_avg, *exp_avg_sq;
    int64_t n_decayed, n;
};

/* As below, for whoever has no model. */
int adamw_range_norm(const struct adamw_range *range, double *ret);
int adamw_range_step(const struct adamw_range *range, const struct adamw_rule *rule, int64_t step,
                     double norm);

/* Norm of all gradients (after the all-reduce). One fixed order: bits depend on the model alone. */
int adamw_norm(struct model *model, double *ret);

/* One step, numbered from 1; norm as adamw_norm gave it. */
int adamw_step(struct model *model, const struct adamw_rule *rule, int64_t step, double norm,
               float *exp_avg, float *exp_avg_sq);
