#include "kernels/ref/ref.h"

/* What a span of tokens comes to. */
struct span {
    double picks[REF_EXPERTS_MAX]; // of every expert
    double mean[REF_EXPERTS_MAX];  // P_e
    double sent[REF_EXPERTS_MAX];  // tokens that every group gets
};

static const int32_t *experts_of(const struct k_tensor *experts, int64_t t) {
    return ref_ints(experts) + t * experts->stride[0];
}

static void add_picks(const struct k_balance *a, int64_t t, const double *scores, double *picks) {
    int64_t n_experts = a->scores.shape[1], n_slots = a->experts.shape[1];
    bool best[REF_EXPERTS_MAX] = {false};

    if (a->plain)
        moe_ref_mark_best(scores, 0, n_experts, n_slots, best);
    for (int64_t s = 0; !a->plain && s < n_slots; s++)
        best[experts_of(&a->experts, t)[s]] = true;
    for (int64_t e = 0; e < n_experts; e++)
        picks[e] += best[e];
}

/* Experts of a row ascend, so those of a group are neighbours. */
static void add_sent(const struct k_balance *a, int64_t t, double *sent) {
    const int32_t *experts = experts_of(&a->experts, t);
    int32_t size = (int32_t)(a->scores.shape[1] / a->n_groups);

    for (int64_t s = 0; s < a->experts.shape[1]; s++)
        if (s == 0 || experts[s] / size != experts[s - 1] / size)
            sent[experts[s] / size]++;
}

static void add_token(const struct k_balance *a, int64_t t, double n_tokens, struct span *span) {
    double scores[REF_EXPERTS_MAX], sum = REF_SUM_MIN;

    for (int64_t e = 0; e < a->scores.shape[1]; e++)
        sum += scores[e] = (double)ref_row(&a->scores, t)[e];
    for (int64_t e = 0; e < a->scores.shape[1]; e++)
        span->mean[e] += scores[e] / sum / n_tokens;
    add_picks(a, t, scores, span->picks);
    add_sent(a, t, span->sent);
}

/* Losses of one group of experts, without alphas, added; its part of f. */
static void add_group(const struct k_balance *a, int g, double n_tokens, const struct span *span,
                      float *f, double loss[K_BALANCE_COUNT]) {
    int64_t n_experts = a->scores.shape[1], size = n_experts / a->n_groups;
    double even = (double)n_experts / ((double)a->experts.shape[1] * n_tokens);
    double picks = 0, mean = 0;
    double sent = a->n_groups / (a->max_groups * n_tokens) * span->sent[g];

    for (int64_t e = g * size; e < (g + 1) * size; e++) {
        picks += span->picks[e];
        mean += span->mean[e];
        loss[K_BALANCE_EXPERT] += even * span->picks[e] * span->mean[e];
    }
    picks *= even / (double)size;
    loss[K_BALANCE_DEVICE] += picks * mean;
    loss[K_BALANCE_COMMUNICATION] += sent * mean;
    for (int64_t e = g * size; e < (g + 1) * size; e++)
        f[e] = (float)((double)a->alpha[K_BALANCE_EXPERT] * even * span->picks[e] +
                       (double)a->alpha[K_BALANCE_DEVICE] * picks +
                       (double)a->alpha[K_BALANCE_COMMUNICATION] * sent);
}

int k_ref_balance(struct k_ctx *ctx, const struct k_balance *a) {
    const int32_t *span_start = a->span_start.data;
    int64_t n_experts = a->scores.shape[1];
    double loss[K_BALANCE_COUNT] = {0};

    if (n_experts > REF_EXPERTS_MAX || a->experts.shape[1] > n_experts || a->n_groups < 1 ||
        n_experts % a->n_groups || a->max_groups < 1 || a->loss.shape[0] != K_BALANCE_COUNT)
        return -EINVAL;
    for (int64_t s = 0; s < a->f.shape[0]; s++) {
        struct span span = {0};
        double n_tokens = span_start[s + 1] - span_start[s];
        for (int64_t t = span_start[s]; t < span_start[s + 1]; t++)
            add_token(a, t, n_tokens, &span);
        for (int g = 0; n_tokens > 0 && g < a->n_groups; g++)
            add_group(a, g, n_tokens, &span, ref_row(&a->f, s), loss);
    }
    for (int i = 0; i < K_BALANCE_COUNT; i++)
        ((double *)a->loss.data)[i] += loss[i] * (double)a->alpha[i] * (double)a->balance_scale;
    return 0;
}

/* Pair p of token p / n_slots: its group, and its score as bits, which are ordered as the floats
 * are because those are not negative. */
static int32_t group_of(const struct k_route_drop *a, int64_t p) {
    return ref_ints(&a->experts)[p] / (int32_t)(a->scores.shape[1] / a->n_groups);
}

static uint32_t score_bits(const struct k_route_drop *a, int64_t p) {
    uint32_t bits;

    memcpy(&bits, ref_row(&a->scores, p / a->experts.shape[1]) + ref_ints(&a->experts)[p],
           sizeof bits);
    return bits;
}

/* Sequence s as pairs [first, end). */
static bool is_whole(const struct k_route_drop *a, int64_t s, int64_t *ret_first,
                     int64_t *ret_end) {
    *ret_first = ref_ints(&a->seq_start)[s] * a->experts.shape[1];
    *ret_end = ref_ints(&a->seq_start)[s + 1] * a->experts.shape[1];
    return a->whole.data && ref_ints(&a->whole)[s];
}

/* Add to n[group] the pairs that may be dropped and have at least the group's score `least`. */
static void count_from(const struct k_route_drop *a, const uint32_t *least, int64_t *n) {
    int64_t p, end;

    for (int64_t s = 0; s < a->seq_start.shape[0] - 1; s++)
        if (!is_whole(a, s, &p, &end))
            for (; p < end; p++)
                n[group_of(a, p)] += score_bits(a, p) >= least[group_of(a, p)];
}

/* The score of the last pair that has room in each group, bit by bit from the top; 0: all have. */
static void find_last(const struct k_route_drop *a, const int64_t *room, uint32_t *ret_last) {
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        uint32_t tried[REF_EXPERTS_MAX];
        int64_t n[REF_EXPERTS_MAX] = {0};
        for (int g = 0; g < a->n_groups; g++)
            tried[g] = ret_last[g] | bit;
        count_from(a, tried, n);
        for (int g = 0; g < a->n_groups; g++)
            if (n[g] >= room[g])
                ret_last[g] = tried[g];
    }
}

/* Keep what is better than the last, and of its equals the first ones. */
static void keep_best(const struct k_route_drop *a, const uint32_t *last, int64_t *room) {
    uint32_t above[REF_EXPERTS_MAX];
    int64_t better[REF_EXPERTS_MAX] = {0}, p, end;
    int32_t *kept = a->kept.data;

    for (int g = 0; g < a->n_groups; g++)
        above[g] = last[g] + 1;
    count_from(a, above, better);
    for (int g = 0; g < a->n_groups; g++)
        room[g] -= better[g];
    for (int64_t s = 0; s < a->seq_start.shape[0] - 1; s++)
        if (!is_whole(a, s, &p, &end))
            for (; p < end; p++) {
                int32_t g = group_of(a, p);
                bool equal = score_bits(a, p) == last[g];
                if (score_bits(a, p) < last[g] || (equal && room[g] <= 0))
                    kept[p] = -1;
                room[g] -= equal;
            }
}

int k_ref_route_drop(struct k_ctx *ctx, const struct k_route_drop *a) {
    int64_t n_experts = a->scores.shape[1], n_slots = a->experts.shape[1];
    int64_t room[REF_EXPERTS_MAX], p, end;
    uint32_t last[REF_EXPERTS_MAX] = {0};

    if (n_experts > REF_EXPERTS_MAX || a->n_groups < 1 || n_experts % a->n_groups ||
        a->capacity < 0 || a->experts.stride[0] != n_slots || a->kept.stride[0] != n_slots)
        return -EINVAL;
    for (int g = 0; g < a->n_groups; g++)
        room[g] = a->capacity;
    for (int64_t s = 0; s < a->seq_start.shape[0] - 1; s++)
        if (is_whole(a, s, &p, &end))
            for (; p < end; p++)
                room[group_of(a, p)]--;
    memcpy(a->kept.data, a->experts.data, (size_t)(a->experts.shape[0] * n_slots) * 4);
    find_last(a, room, last);
    keep_best(a, last, room);
    return 0;
}
