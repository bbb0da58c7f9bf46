#include "kernels/kmath.h"
#include "kernels/ref/ref.h"

enum { OUT_COLUMNS = 128 }; // summed at once; scores are computed again for each

/* One call, and how many numbers of which kind a head and a cached row have. */
struct expand {
    const struct k_attention_expand *a;
    int64_t d_nope, d_rope, d_value, n_latent;
    double *keys, *values; // of one head of one sequence
};

static bool is_quant(const struct k_weight *w) {
    return w->dtype == K_Q8 || w->dtype == K_Q4;
}

static int64_t keys_max(const struct k_attention_expand *a) {
    return a->pages.shape[1] * a->page_tokens;
}

size_t k_ref_attention_expand_workspace(const struct k_ctx *ctx,
                                        const struct k_attention_expand *a) {
    return (size_t)(keys_max(a) * (a->q.shape[2] + a->y.shape[2])) * sizeof(double);
}

static int find_sizes(const struct k_attention_expand *a, struct expand *ret) {
    int64_t n_key_out = k_weight_size(a->w_key, 1), n_key_in = k_weight_size(a->w_key, 2);

    *ret = (struct expand){
        .a = a,
        .d_nope = a->turned ? n_key_in : n_key_out,
        .d_value = a->y.shape[2],
        .n_latent = a->w_value->n_in,
    };
    ret->d_rope = a->q.shape[2] - ret->d_nope;
    return (a->turned ? n_key_out : n_key_in) != ret->n_latent || ret->d_rope < 0 ||
                   a->cache.shape[1] != ret->n_latent + ret->d_rope || a->page_tokens < 1
               ? -EINVAL
               : 0;
}

static double element(const struct k_attention_expand *a, int64_t row, int64_t i) {
    const char *at = a->cache.data;

    return ref_number(a->cache.dtype,
                      at + k_dtype_n_bytes(a->cache.dtype, row * a->cache.stride[0]), i);
}

/* Number i of a head's turned key: c as it is. */
static double product_turned(const struct expand *e, int64_t row, int64_t h, int64_t i) {
    double sum = 0;

    for (int64_t k = 0; k < e->n_latent; k++)
        sum += element(e->a, row, k) * ref_weight(e->a->w_key, h, k, i);
    return sum;
}

/* Number i of w[h] c, with c rounded to 8 bits where linear does so. */
static double product(const struct expand *e, const struct k_weight *w, int64_t row, int64_t h,
                      int64_t i) {
    double sum = 0;

    for (int64_t k = 0; k < e->n_latent && !is_quant(w); k++)
        sum += element(e->a, row, k) * ref_weight(w, h, i, k);
    for (int64_t k = 0; k < e->n_latent && is_quant(w); k += K_QUANT_GROUP) {
        float x[K_QUANT_GROUP], scale;
        int8_t q[K_QUANT_GROUP];
        double part = 0;
        for (int64_t j = 0; j < K_QUANT_GROUP; j++)
            x[j] = (float)element(e->a, row, k + j);
        k_quant_row(x, K_QUANT_GROUP, q, &scale);
        for (int64_t j = 0; j < K_QUANT_GROUP; j++)
            part += q[j] * ref_weight(w, h, i, k + j);
        sum += part * (double)scale;
    }
    return sum;
}

/* Keys and values of one head of one sequence. */
static void expand_head(const struct expand *e, int64_t s, int64_t h, int64_t n_keys) {
    const struct k_attention_expand *a = e->a;
    int64_t d_key = e->d_nope + e->d_rope;

    for (int64_t p = 0; p < n_keys; p++) {
        int64_t page = ref_ints(&a->pages)[s * a->pages.stride[0] + p / a->page_tokens];
        int64_t row = page * a->page_tokens + p % a->page_tokens;
        for (int64_t i = 0; i < e->d_nope; i++)
            e->keys[p * d_key + i] =
                a->turned ? product_turned(e, row, h, i) : product(e, a->w_key, row, h, i);
        for (int64_t i = 0; i < e->d_rope; i++)
            e->keys[p * d_key + e->d_nope + i] = element(a, row, e->n_latent + i);
        for (int64_t i = 0; i < e->d_value; i++)
            e->values[p * e->d_value + i] = product(e, a->w_value, row, h, i);
    }
}

static double score(const struct expand *e, const float *q, int64_t p) {
    int64_t d_key = e->d_nope + e->d_rope;
    double sum = 0;

    for (int64_t i = 0; i < d_key; i++)
        sum += (double)q[i] * e->keys[p * d_key + i];
    return sum * (double)e->a->scale;
}

static void attend(const struct expand *e, int64_t t, int64_t h, int64_t n_keys) {
    const float *q = ref_row2(&e->a->q, t, h);
    double max = -__builtin_inf(), sum = 0;

    for (int64_t p = 0; p < n_keys; p++)
        max = MAX(max, score(e, q, p));
    for (int64_t p = 0; p < n_keys; p++)
        sum += kmath_exp(score(e, q, p) - max);
    for (int64_t first = 0; first < e->d_value; first += OUT_COLUMNS) {
        int64_t n = MIN(e->d_value - first, (int64_t)OUT_COLUMNS);
        double out[OUT_COLUMNS] = {0};
        for (int64_t p = 0; p < n_keys; p++) {
            double weight = kmath_exp(score(e, q, p) - max) / sum;
            for (int64_t i = 0; i < n; i++)
                out[i] += weight * e->values[p * e->d_value + first + i];
        }
        for (int64_t i = 0; i < n; i++)
            ref_row2(&e->a->y, t, h)[first + i] = (float)out[i];
    }
}

int k_ref_attention_expand(struct k_ctx *ctx, const struct k_attention_expand *a) {
    const int32_t *q_start = a->q_start.data, *kv_length = a->kv_length.data;
    struct expand e;
    int r = find_sizes(a, &e);

    if (r < 0)
        return r;
    e.keys = ctx->workspace;
    e.values = e.keys + keys_max(a) * a->q.shape[2];
    for (int64_t s = 0; s < a->kv_length.shape[0]; s++)
        for (int64_t h = 0; h < a->q.shape[1] && q_start[s] < q_start[s + 1]; h++) {
            expand_head(&e, s, h, kv_length[s]);
            for (int64_t t = q_start[s]; t < q_start[s + 1]; t++)
                attend(&e, t, h, kv_length[s] - (q_start[s + 1] - 1 - t));
        }
    return 0;
}
