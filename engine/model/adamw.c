#include "engine/model/adamw.h"

#include "kernels/kmath.h"

int adamw_norm(struct model *model, double *ret) {
    double sum = 0;
    struct k_sum_squares a = {
        .sum = k_tensor_1d(&sum, K_F64, 1),
        .x = k_tensor_1d(model_gradients(model), K_F32, model_params(model)->n_trained),
    };

    int r = k_sum_squares(model_ctx(model), &a);
    if (r < 0)
        return r;
    *ret = kmath_sqrt(sum);
    return 0;
}

int adamw_step(struct model *model, const struct adamw_rule *rule, int64_t step, double norm,
               float *exp_avg, float *exp_avg_sq) {
    const struct params *params = model_params(model);
    const int64_t start[] = {0, params->n_decayed, params->n_trained};
    double scale = rule->clip_norm > 0 ? MIN(1.0, rule->clip_norm / (norm + 1e-6)) : 1;

    assert(step >= 1);
    for (int i = 0; i < 2; i++) {
        int64_t at = start[i], n = start[i + 1] - at;
        struct k_adamw a = {
            .w = k_tensor_1d(model_weights(model) + at, K_F32, n),
            .g = k_tensor_1d(model_gradients(model) + at, K_F32, n),
            .m = k_tensor_1d(exp_avg + at, K_F32, n),
            .v = k_tensor_1d(exp_avg_sq + at, K_F32, n),
            .grad_scale = (float)scale,
            .lr = (float)rule->lr,
            .beta1 = (float)rule->beta1,
            .beta2 = (float)rule->beta2,
            .eps = (float)rule->eps,
            .decay = i == 0 ? (float)rule->decay : 0,
            .step = step,
        };
        int r = k_adamw(model_ctx(model), &a);
        if (r < 0)
            return r;
    }
    return model_weights_changed(model);
}
