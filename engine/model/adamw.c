#include "engine/model/adamw.h"

#include "kernels/kmath.h"

static struct adamw_range range_of(struct model *model, float *exp_avg, float *exp_avg_sq) {
    const struct params *params = model_params(model);

    return (struct adamw_range){.ctx = model_ctx(model),
                                .weights = model_weights(model),
                                .gradients = model_gradients(model),
                                .exp_avg = exp_avg,
                                .exp_avg_sq = exp_avg_sq,
                                .n_decayed = params->n_decayed,
                                .n = params->n_trained};
}

int adamw_range_norm(const struct adamw_range *range, double *ret) {
    double sum = 0;
    struct k_sum_squares a = {
        .sum = k_tensor_1d(&sum, K_F64, 1),
        .x = k_tensor_1d(range->gradients, K_F32, range->n),
    };

    int r = k_sum_squares(range->ctx, &a);
    if (r < 0)
        return r;
    *ret = kmath_sqrt(sum);
    return 0;
}

int adamw_range_step(const struct adamw_range *range, const struct adamw_rule *rule, int64_t step,
                     double norm) {
    const int64_t start[] = {0, range->n_decayed, range->n};
    double scale = rule->clip_norm > 0 ? MIN(1.0, rule->clip_norm / (norm + 1e-6)) : 1;

    assert(step >= 1);
    for (int i = 0; i < 2; i++) {
        int64_t at = start[i], n = start[i + 1] - at;
        struct k_adamw a = {
            .w = k_tensor_1d(range->weights + at, K_F32, n),
            .g = k_tensor_1d(range->gradients + at, K_F32, n),
            .m = k_tensor_1d(range->exp_avg + at, K_F32, n),
            .v = k_tensor_1d(range->exp_avg_sq + at, K_F32, n),
            .grad_scale = (float)scale,
            .lr = (float)rule->lr,
            .beta1 = (float)rule->beta1,
            .beta2 = (float)rule->beta2,
            .eps = (float)rule->eps,
            .decay = i == 0 ? (float)rule->decay : 0,
            .step = step,
        };
        int r = k_adamw(range->ctx, &a);
        if (r < 0)
            return r;
    }
    return 0;
}

int adamw_norm(struct model *model, double *ret) {
    struct adamw_range range = range_of(model, NULL, NULL);

    return adamw_range_norm(&range, ret);
}

int adamw_step(struct model *model, const struct adamw_rule *rule, int64_t step, double norm,
               float *exp_avg, float *exp_avg_sq) {
    struct adamw_range range = range_of(model, exp_avg, exp_avg_sq);

    int r = adamw_range_step(&range, rule, step, norm);

    return r < 0 ? r : model_weights_changed(model);
}
