#include "kernels/kmath.h"
#include "kernels/ref/ref.h"

void moe_ref_mark_best(const double *value, int64_t first, int64_t count, int64_t n, bool *mark) {
    for (int64_t round = 0; round < n; round++) {
        int64_t best = -1;
        for (int64_t i = first; i < first + count; i++)
            if (!mark[i] && (best < 0 || value[i] > value[best]))
                best = i;
        mark[best] = true;
    }
}

/* Set the choice values of all experts outside the best groups to -inf. */
static void mask_groups(double *choice, int64_t n_experts, int n_groups, int group_best,
                        int group_top) {
    double group_value[REF_EXPERTS_MAX];
    bool kept[REF_EXPERTS_MAX] = {false};
    int64_t size = n_experts / n_groups;

    for (int g = 0; g < n_groups; g++) {
        bool counts[REF_EXPERTS_MAX] = {false};
        moe_ref_mark_best(choice, g * size, size, MIN(size, (int64_t)group_best), counts);
        group_value[g] = 0;
        for (int64_t e = g * size; e < (g + 1) * size; e++)
            group_value[g] += counts[e] ? choice[e] : 0;
    }
    moe_ref_mark_best(group_value, 0, n_groups, group_top, kept);
    for (int64_t e = 0; e < n_experts; e++)
        if (!kept[e / size])
            choice[e] = -__builtin_inf();
}

static void score(const float *logits, int64_t n, enum k_score how, float *scores) {
    double max = (double)logits[0], sum = 0;

    for (int64_t e = 0; e < n; e++)
        max = MAX(max, (double)logits[e]);
    for (int64_t e = 0; e < n && how == K_SCORE_SOFTMAX; e++)
        sum += kmath_exp((double)logits[e] - max);
    for (int64_t e = 0; e < n; e++)
        scores[e] = (float)(how == K_SCORE_SOFTMAX ? kmath_exp((double)logits[e] - max) / sum
                                                   : 1 / (1 + kmath_exp(-(double)logits[e])));
}

int k_ref_router(struct k_ctx *ctx, const struct k_router *a) {
    int64_t n_experts = a->logits.shape[1], n_slots = a->experts.shape[1];
    const float *bias = a->bias.data;

    if (n_experts > REF_EXPERTS_MAX || a->n_groups < 1 || n_experts % a->n_groups ||
        a->group_top < 1 || a->group_best < 1 || a->group_top > a->n_groups ||
        n_slots > n_experts / a->n_groups * a->group_top)
        return -EINVAL;
    for (int64_t t = 0; t < a->logits.shape[0]; t++) {
        float *scores = ref_row(&a->scores, t), *weights = ref_row(&a->weights, t);
        int32_t *experts = (int32_t *)a->experts.data + t * a->experts.stride[0];
        double choice[REF_EXPERTS_MAX], sum = 0;
        bool chosen[REF_EXPERTS_MAX] = {false};
        score(ref_row(&a->logits, t), n_experts, a->score, scores);
        for (int64_t e = 0; e < n_experts; e++)
            choice[e] = (double)scores[e] + (bias ? bias[e] : 0);
        if (a->n_groups > 1)
            mask_groups(choice, n_experts, a->n_groups, a->group_best, a->group_top);
        moe_ref_mark_best(choice, 0, n_experts, n_slots, chosen);
        for (int64_t e = 0, s = 0; e < n_experts; e++)
            if (chosen[e]) {
                experts[s++] = (int32_t)e;
                sum += scores[e];
            }
        for (int64_t s = 0; s < n_slots; s++) {
            double share =
                a->normalise ? scores[experts[s]] / (sum + REF_SUM_MIN) : scores[experts[s]];
            weights[s] = (float)(share * (double)a->scaling);
        }
    }
    return 0;
}

/* Gradient of the slot weights by the scores. */
static void weights_dx(const struct k_router_dx *a, int64_t t, double *dscore) {
    const int32_t *experts = ref_ints(&a->experts) + t * a->experts.stride[0];
    const float *scores = ref_row(&a->scores, t), *dweights = ref_row(&a->dweights, t);
    double sum = REF_SUM_MIN, dot = 0, scaling = (double)a->scaling;

    for (int64_t s = 0; s < a->experts.shape[1]; s++) {
        sum += scores[experts[s]];
        dot += (double)dweights[s] * scores[experts[s]];
    }
    for (int64_t s = 0; s < a->experts.shape[1]; s++)
        dscore[experts[s]] += a->normalise ? scaling * (dweights[s] / sum - dot / (sum * sum))
                                           : scaling * dweights[s];
}

int k_ref_router_dx(struct k_ctx *ctx, const struct k_router_dx *a) {
    int64_t n_experts = a->scores.shape[1], span = 0;
    const int32_t *span_start = a->span_start.data;

    if (n_experts > REF_EXPERTS_MAX || (a->f.data && !span_start))
        return -EINVAL;
    for (int64_t t = 0; t < a->scores.shape[0]; t++) {
        double dscore[REF_EXPERTS_MAX] = {0};
        const float *scores = ref_row(&a->scores, t);
        weights_dx(a, t, dscore);
        if (a->f.data) {
            double sum = REF_SUM_MIN, dot = 0;
            while (t >= span_start[span + 1])
                span++;
            const float *f = ref_row(&a->f, span);
            double n_tokens = span_start[span + 1] - span_start[span];
            for (int64_t e = 0; e < n_experts; e++) {
                sum += scores[e];
                dot += (double)f[e] * scores[e];
            }
            for (int64_t e = 0; e < n_experts; e++)
                dscore[e] += (double)a->balance_scale / n_tokens * (f[e] / sum - dot / (sum * sum));
        }
        double mean = 0; /* of the scores' gradient, under the softmax */
        for (int64_t e = 0; e < n_experts; e++)
            mean += dscore[e] * scores[e];
        for (int64_t e = 0; e < n_experts; e++)
            ref_row(&a->dlogits, t)[e] =
                (float)(a->score == K_SCORE_SOFTMAX
                            ? scores[e] * (dscore[e] - mean)
                            : dscore[e] * scores[e] * (1 - (double)scores[e]));
    }
    return 0;
}

int k_ref_route_sort(struct k_ctx *ctx, const struct k_route_sort *a) {
    int64_t n_experts = a->row_start.shape[0] - 1, n_slots = a->experts.shape[1];
    int64_t n_pairs = a->experts.shape[0] * n_slots;
    int32_t *row_start = a->row_start.data, *row_token = a->row_token.data;
    int32_t *pair_row = a->pair_row.data;
    const int32_t *experts = a->experts.data;

    if (a->row_token.shape[0] != n_pairs || a->experts.stride[0] != n_slots ||
        a->pair_row.stride[0] != n_slots)
        return -EINVAL;
    memset(row_start, 0, (size_t)(n_experts + 1) * sizeof *row_start);
    memset(row_token, 0, (size_t)n_pairs * sizeof *row_token);
    for (int64_t p = 0; p < n_pairs; p++) {
        if (experts[p] < -1 || experts[p] >= n_experts)
            return -EINVAL;
        if (experts[p] >= 0)
            row_start[experts[p] + 1]++;
    }
    for (int64_t e = 0; e < n_experts; e++)
        row_start[e + 1] += row_start[e];
    /* row_start[e] moves to the end of e while rows are given out, then back by one expert. */
    for (int64_t p = 0; p < n_pairs; p++) {
        pair_row[p] = experts[p] >= 0 ? row_start[experts[p]]++ : -1;
        if (pair_row[p] >= 0)
            row_token[pair_row[p]] = (int32_t)(p / n_slots);
    }
    for (int64_t e = n_experts; e > 0; e--)
        row_start[e] = row_start[e - 1];
    row_start[0] = 0;
    return 0;
}

int k_ref_gather(struct k_ctx *ctx, const struct k_gather *a) {
    const int32_t *row_token = a->row_token.data;

    for (int64_t r = 0; r < a->y.shape[0]; r++)
        memcpy(ref_row(&a->y, r), ref_row(&a->x, row_token[r]),
               (size_t)a->y.shape[1] * sizeof(float));
    return 0;
}

int k_ref_combine(struct k_ctx *ctx, const struct k_combine *a) {
    int64_t n_slots = a->pair_row.shape[1];

    for (int64_t t = 0; t < a->y.shape[0]; t++) {
        const int32_t *rows = ref_ints(&a->pair_row) + t * a->pair_row.stride[0];
        float *y = ref_row(&a->y, t);
        for (int64_t i = 0; i < a->y.shape[1]; i++) {
            double sum = y[i];
            for (int64_t s = 0; s < n_slots; s++)
                if (rows[s] >= 0)
                    sum += (a->weights.data ? ref_row(&a->weights, t)[s] : 1.0) *
                           ref_row(&a->x, rows[s])[i];
            y[i] = (float)sum;
        }
    }
    return 0;
}

int k_ref_combine_dx(struct k_ctx *ctx, const struct k_combine_dx *a) {
    for (int64_t t = 0; t < a->dy.shape[0]; t++) {
        const int32_t *rows = ref_ints(&a->pair_row) + t * a->pair_row.stride[0];
        const float *dy = ref_row(&a->dy, t);
        for (int64_t s = 0; s < a->pair_row.shape[1]; s++) {
            ref_row(&a->dweights, t)[s] = 0;
            if (rows[s] < 0)
                continue;
            const float *x = ref_row(&a->x, rows[s]);
            float *dx = ref_row(&a->dx, rows[s]), weight = ref_row(&a->weights, t)[s];
            double dot = 0;
            for (int64_t i = 0; i < a->dy.shape[1]; i++) {
                dot += (double)dy[i] * x[i];
                dx[i] = dy[i] * weight;
            }
            ref_row(&a->dweights, t)[s] = (float)dot;
        }
    }
    return 0;
}
