/* The cases of products with weights and of attention. */
#include "tests/unit/kernel_made.h"

/* Where the rows of each group begin; at size 1 the last rows belong to nobody. */
static struct k_tensor group_starts(struct kernel_made *s, int64_t n_groups, int64_t n_rows,
                                    int size) {
    return ints(s, n_groups + 1, size == 1 ? n_rows - 7 : n_rows, true);
}

static int run_linear_of(struct k_ctx *ctx, struct kernel_made *s, int size, enum k_dtype dtype,
                         int64_t n_groups, bool accumulate) {
    KEEP(struct k_linear);
    bool quant = dtype == K_Q8 || dtype == K_Q4;
    int64_t m = pick(size, 3, 37, 130, 512), n = pick(size, 5, 48, 530, 768);
    int64_t k = quant ? pick(size, 32, 96, 320, 256) : pick(size, 7, 33, 300, 256);
    *a = (struct k_linear){.x = f2(s, m, k),
                           .w = weights(ctx, s, dtype, n_groups, n, k, size == 2),
                           .y = f2(s, m, n),
                           .accumulate = accumulate};
    if (n_groups > 1)
        a->row_start = group_starts(s, n_groups, m, size);
    if (size == 1)
        a->bias = f1(s, n);
    output(s, &a->y);
    s->flops = 2.0 * (double)(m * n * k);
    s->call = call_linear;
    s->arg = a;
    return 0;
}

#define RUN_LINEAR(name, dtype, n_groups, accumulate)                                              \
    static int run_linear##name(struct k_ctx *ctx, struct kernel_made *s, int size) {              \
        return run_linear_of(ctx, s, size, dtype, n_groups, accumulate);                           \
    }
RUN_LINEAR(, K_F32, 1, false)
RUN_LINEAR(_bf16, K_BF16, 1, true)
RUN_LINEAR(_f16, K_F16, 1, false)
RUN_LINEAR(_e4m3, K_E4M3, 1, false)
RUN_LINEAR(_e5m2, K_E5M2, 1, true)
RUN_LINEAR(_q8, K_Q8, 1, false)
RUN_LINEAR(_q4, K_Q4, 1, true)
RUN_LINEAR(_grouped, K_F32, 4, false)
RUN_LINEAR(_grouped_e4m3, K_E4M3, 4, false)
RUN_LINEAR(_grouped_q4, K_Q4, 4, false)

/* More inputs and outputs than a path takes at once. */
static int run_linear_long(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_linear);
    int64_t m = pick(size, 1, 18, 45, 512), n = pick(size, 33, 300, 70, 2048);
    int64_t k = pick(size, 513, 576, 1100, 2048);
    *a = (struct k_linear){
        .x = f2(s, m, k), .w = weights(ctx, s, K_BF16, 1, n, k, size == 2), .y = f2(s, m, n)};
    output(s, &a->y);
    s->flops = 2.0 * (double)(m * n * k);
    s->call = call_linear;
    s->arg = a;
    return 0;
}

/* A tensor rounded to few bits, with the scales of a kind; row_start: NULL but along tokens. */
static struct k_tensor rounded(struct k_ctx *ctx, struct kernel_made *s, struct k_tensor x,
                               enum k_dtype dtype, enum k_scale kind,
                               const struct k_tensor *row_start) {
    int64_t n_rows = x.shape[0], n = x.shape[1], width = (n + 1) / 2 * 2;
    int64_t n_groups = row_start && row_start->data ? row_start->shape[0] - 1 : 1;
    int64_t n_scales = k_n_scales(kind, n_rows, n, n_groups);
    int64_t columns = kind == K_SCALE_TILES ? n_rows : kind == K_SCALE_TOKENS ? n : (n + 127) / 128;
    struct k_quantize q = {.x = x};

    if (kind != K_SCALE_NONE)
        q.scale = k_tensor_2d(take(s, (size_t)n_scales * sizeof(float)), K_F32, n_scales / columns,
                              columns);
    if (row_start)
        q.row_start = *row_start;
    q.y = k_tensor_2d(take(s, k_dtype_n_bytes(dtype, n_rows * width)), dtype, n_rows, n);
    q.y.stride[0] = dtype == K_E5M6 ? width : n;
    q.y.scale_kind = kind;
    int r = k_quantize(ctx, &q);
    assert(r == 0);
    (void)r;
    q.y.scale = q.scale.data;
    return q.y;
}

/* x in few bits too. */
static int run_linear_narrow(struct k_ctx *ctx, struct kernel_made *s, int size, enum k_dtype x,
                             enum k_dtype w) {
    KEEP(struct k_linear);
    int64_t m = pick(size, 3, 37, 130, 512), n = pick(size, 5, 48, 530, 768);
    int64_t k = pick(size, 7, 33, 300, 256);
    *a = (struct k_linear){
        .x = rounded(ctx, s, f2(s, m, k), x, x == K_BF16 ? K_SCALE_NONE : K_SCALE_TILES, NULL),
        .w = weights(ctx, s, w, 1, n, k, size == 2),
        .y = f2(s, m, n)};
    output(s, &a->y);
    s->flops = 2.0 * (double)(m * n * k);
    s->call = call_linear;
    s->arg = a;
    return 0;
}

static int run_linear_e4m3_x(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_narrow(ctx, s, size, K_E4M3, K_E4M3);
}

static int run_linear_e5m2_x(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_narrow(ctx, s, size, K_E5M2, K_E5M2);
}

static int run_linear_bf16_x(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_narrow(ctx, s, size, K_BF16, K_BF16);
}

static int run_linear_heads_of(struct k_ctx *ctx, struct kernel_made *s, int size,
                               enum k_dtype dtype) {
    KEEP(struct k_linear_heads);
    int64_t t = pick(size, 1, 5, 70, 64), h = pick(size, 1, 3, 4, 16);
    int64_t n = pick(size, 5, 24, 130, 128), k = pick(size, 32, 32, 160, 512);
    *a = (struct k_linear_heads){
        .x = f3(s, t, h, k), .w = weights(ctx, s, dtype, h, n, k, false), .y = f3(s, t, h, n)};
    output(s, &a->y);
    s->flops = 2.0 * (double)(t * h * n * k);
    s->call = call_linear_heads;
    s->arg = a;
    return 0;
}

static int run_linear_heads(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_heads_of(ctx, s, size, K_BF16);
}

static int run_linear_heads_e4m3(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_heads_of(ctx, s, size, K_E4M3);
}

static int run_linear_heads_q8(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_heads_of(ctx, s, size, K_Q8);
}

static int run_linear_heads_dx_of(struct k_ctx *ctx, struct kernel_made *s, int size,
                                  enum k_dtype dtype) {
    KEEP(struct k_linear_heads_dx);
    int64_t t = pick(size, 1, 5, 70, 64), h = pick(size, 1, 3, 4, 16);
    int64_t n = pick(size, 5, 24, 130, 128), k = pick(size, 7, 33, 300, 512);
    *a = (struct k_linear_heads_dx){
        .dy = f3(s, t, h, n), .w = weights(ctx, s, dtype, h, n, k, false), .dx = f3(s, t, h, k)};
    output(s, &a->dx);
    s->flops = 2.0 * (double)(t * h * n * k);
    s->call = call_linear_heads_dx;
    s->arg = a;
    return 0;
}

static int run_linear_heads_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_heads_dx_of(ctx, s, size, K_BF16);
}

static int run_linear_heads_dx_e4m3(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_heads_dx_of(ctx, s, size, K_E4M3);
}

static int run_sum_rows(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_sum_rows);
    int64_t r = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 512);
    *a = (struct k_sum_rows){.y = f1(s, n), .x = f2(s, r, n)};
    output(s, &a->y);
    s->call = call_sum_rows;
    s->arg = a;
    return 0;
}

/* x of one type to y of another; along tokens in three groups. */
static int run_quantize_of(struct k_ctx *ctx, struct kernel_made *s, int size, enum k_dtype x,
                           enum k_dtype y, enum k_scale kind) {
    KEEP(struct k_quantize);
    int64_t r = pick(size, 1, 5, 333, 1024), n = pick(size, 3, 128, 300, 512);
    int64_t width = y == K_E5M6 ? (n + 1) / 2 * 2 : n, n_groups = kind == K_SCALE_TOKENS ? 3 : 1;
    int64_t n_scales = k_n_scales(kind, r, n, n_groups);
    int64_t columns = kind == K_SCALE_TILES ? r : kind == K_SCALE_TOKENS ? n : (n + 127) / 128;
    *a = (struct k_quantize){
        .x = f2(s, r, n), .power_of_two = size == 1, .amax_min = size ? 1e-4f : 0};
    for (int64_t i = 0; i < r * n; i++) /* of many magnitudes, some tiles zero */
        ((float *)a->x.data)[i] *= i / 700 % 5 ? (i % 31 ? 1 : 1e-6f) : 0;
    if (x != K_F32)
        a->x = rounded(ctx, s, a->x, x, K_SCALE_TILES, NULL);
    a->y = k_tensor_2d(take(s, k_dtype_n_bytes(y, r * width)), y, r, n);
    memset(a->y.data, 0, k_dtype_n_bytes(y, r * width));
    a->y.stride[0] = width;
    a->y.scale_kind = kind;
    if (n_groups > 1)
        a->row_start = ints(s, n_groups + 1, r, true);
    output(s, &a->y);
    if (kind != K_SCALE_NONE) {
        a->scale = k_tensor_2d(take(s, (size_t)n_scales * sizeof(float)), K_F32, n_scales / columns,
                               columns);
        memset(a->scale.data, 0, (size_t)n_scales * sizeof(float));
        output(s, &a->scale);
    }
    s->call = call_quantize;
    s->arg = a;
    return 0;
}

#define RUN_QUANTIZE(name, x, y, kind)                                                             \
    static int run_quantize##name(struct k_ctx *ctx, struct kernel_made *s, int size) {            \
        return run_quantize_of(ctx, s, size, x, y, kind);                                          \
    }
RUN_QUANTIZE(, K_F32, K_E4M3, K_SCALE_TILES)
RUN_QUANTIZE(_blocks, K_F32, K_E5M2, K_SCALE_BLOCKS)
RUN_QUANTIZE(_tokens, K_F32, K_E4M3, K_SCALE_TOKENS)
RUN_QUANTIZE(_e5m6, K_F32, K_E5M6, K_SCALE_TILES)
RUN_QUANTIZE(_bf16, K_F32, K_BF16, K_SCALE_NONE)
RUN_QUANTIZE(_turned, K_E4M3, K_E5M2, K_SCALE_TOKENS)
RUN_QUANTIZE(_e5m6_turned, K_E5M6, K_E4M3, K_SCALE_TOKENS)

static int run_dequantize_of(struct k_ctx *ctx, struct kernel_made *s, int size, enum k_dtype x,
                             enum k_scale kind) {
    KEEP(struct k_dequantize);
    int64_t r = pick(size, 1, 5, 333, 1024), n = pick(size, 3, 128, 300, 512);
    *a = (struct k_dequantize){.y = f2(s, r, n)};
    if (kind == K_SCALE_TOKENS)
        a->row_start = ints(s, 4, r, true);
    a->x = rounded(ctx, s, f2(s, r, n), x, kind, &a->row_start);
    output(s, &a->y);
    s->call = call_dequantize;
    s->arg = a;
    return 0;
}

static int run_dequantize(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_dequantize_of(ctx, s, size, K_E5M6, K_SCALE_TILES);
}

static int run_dequantize_tokens(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_dequantize_of(ctx, s, size, K_E4M3, K_SCALE_TOKENS);
}

static int run_dequantize_blocks(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_dequantize_of(ctx, s, size, K_E5M2, K_SCALE_BLOCKS);
}

static int run_dequantize_bf16(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_dequantize_of(ctx, s, size, K_BF16, K_SCALE_NONE);
}

/* A cache of some type, as numbers. */
static struct k_tensor cache_of(struct kernel_made *s, enum k_dtype dtype, int64_t n, int64_t h,
                                int64_t d) {
    struct k_tensor wide = f3(s, n, h, d);

    return k_tensor_3d((void *)(uintptr_t)weight_part(s, dtype, n, h * d).data, dtype, n, h,
                       wide.shape[2]);
}

static int run_cache_put_of(struct k_ctx *ctx, struct kernel_made *s, int size,
                            enum k_dtype dtype) {
    KEEP(struct k_cache_put);
    int64_t t = pick(size, 1, 5, 33, 1024), h = pick(size, 1, 2, 3, 8),
            d = pick(size, 3, 16, 40, 64);
    *a = (struct k_cache_put){
        .cache = cache_of(s, dtype, 2 * t, h, d), .x = f3(s, t, h, d), .row = ints(s, t, 1, false)};
    for (int64_t i = 0; i < t; i++)
        ((int32_t *)a->row.data)[i] = (int32_t)(i % 7 == 3 ? -1 : 2 * t - 1 - 2 * i);
    output(s, &a->cache);
    s->call = call_cache_put;
    s->arg = a;
    return 0;
}

static int run_cache_put(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_cache_put_of(ctx, s, size, K_F32);
}

static int run_cache_put_f16(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_cache_put_of(ctx, s, size, K_F16);
}

static int run_linear_dx_of(struct k_ctx *ctx, struct kernel_made *s, int size, int64_t n_groups,
                            bool accumulate) {
    KEEP(struct k_linear_dx);
    int64_t m = pick(size, 3, 37, 130, 512), n = pick(size, 5, 48, 530, 768);
    int64_t k = pick(size, 7, 33, 300, 256);
    *a = (struct k_linear_dx){.dy = f2(s, m, n), .dx = f2(s, m, k), .accumulate = accumulate};
    a->w = weights(ctx, s, K_F32, n_groups, n, k, size == 2);
    if (n_groups > 1)
        a->row_start = group_starts(s, n_groups, m, size);
    output(s, &a->dx);
    s->flops = 2.0 * (double)(m * n * k);
    s->call = call_linear_dx;
    s->arg = a;
    return 0;
}

static int run_linear_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_dx_of(ctx, s, size, 1, true);
}

static int run_linear_dx_grouped(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_dx_of(ctx, s, size, 4, false);
}

static int run_linear_dw_of(struct k_ctx *ctx, struct kernel_made *s, int size, int64_t n_groups) {
    KEEP(struct k_linear_dw);
    int64_t m = pick(size, 3, 37, 130, 512), n = pick(size, 5, 48, 530, 768);
    int64_t k = pick(size, 7, 33, 300, 256);
    *a = (struct k_linear_dw){.dy = f2(s, m, n), .x = f2(s, m, k), .dw = f3(s, n_groups, n, k)};
    if (n_groups > 1)
        a->row_start = group_starts(s, n_groups, m, size);
    output(s, &a->dw);
    s->flops = 2.0 * (double)(m * n * k);
    s->call = call_linear_dw;
    s->arg = a;
    return 0;
}

static int run_linear_dw(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_dw_of(ctx, s, size, 1);
}

static int run_linear_dw_grouped(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_dw_of(ctx, s, size, 4);
}

/* Gradients in few bits; in groups the weights' rows are cut where no block ends. */
static int run_linear_dx_narrow(struct k_ctx *ctx, struct kernel_made *s, int size, enum k_dtype dy,
                                enum k_dtype w, int64_t n_groups) {
    KEEP(struct k_linear_dx);
    int64_t m = pick(size, 3, 37, 130, 512), n = pick(size, 5, 48, 530, 768);
    int64_t k = pick(size, 7, 33, 300, 256);
    *a = (struct k_linear_dx){
        .dy = rounded(ctx, s, f2(s, m, n), dy, dy == K_BF16 ? K_SCALE_NONE : K_SCALE_TILES, NULL),
        .dx = f2(s, m, k),
        .w = weights(ctx, s, w, n_groups, n, k, size == 2)};
    if (n_groups > 1)
        a->row_start = ints(s, n_groups + 1, m, true);
    output(s, &a->dx);
    s->flops = 2.0 * (double)(m * n * k);
    s->call = call_linear_dx;
    s->arg = a;
    return 0;
}

static int run_linear_dx_e4m3(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_dx_narrow(ctx, s, size, K_E4M3, K_E4M3, 4);
}

static int run_linear_dx_e5m2(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_dx_narrow(ctx, s, size, K_E5M2, K_E4M3, 1);
}

static int run_linear_dx_bf16(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_dx_narrow(ctx, s, size, K_BF16, K_BF16, 1);
}

static int run_linear_dw_narrow(struct k_ctx *ctx, struct kernel_made *s, int size, enum k_dtype dy,
                                enum k_dtype x, int64_t n_groups) {
    KEEP(struct k_linear_dw);
    int64_t m = pick(size, 3, 37, 330, 512), n = pick(size, 5, 48, 130, 768);
    int64_t k = pick(size, 7, 33, 300, 256);
    enum k_scale kind = x == K_BF16 ? K_SCALE_NONE : K_SCALE_TOKENS;
    *a = (struct k_linear_dw){.dw = f3(s, n_groups, n, k)};
    if (n_groups > 1)
        a->row_start = ints(s, n_groups + 1, m, true);
    a->dy = rounded(ctx, s, f2(s, m, n), dy, kind, &a->row_start);
    a->x = rounded(ctx, s, f2(s, m, k), x, kind, &a->row_start);
    output(s, &a->dw);
    s->flops = 2.0 * (double)(m * n * k);
    s->call = call_linear_dw;
    s->arg = a;
    return 0;
}

static int run_linear_dw_e4m3(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_dw_narrow(ctx, s, size, K_E4M3, K_E4M3, 3);
}

static int run_linear_dw_e5m2(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_dw_narrow(ctx, s, size, K_E5M2, K_E4M3, 1);
}

static int run_linear_dw_bf16(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_linear_dw_narrow(ctx, s, size, K_BF16, K_BF16, 1);
}

/* The sequences' pages in turn, the last ones first. */
static struct k_tensor pages_of(struct kernel_made *s, int64_t n_seqs, int64_t n_pages) {
    struct k_tensor pages = ints(s, n_seqs * n_pages, 1, false);

    for (int64_t i = 0; i < n_seqs * n_pages; i++)
        ((int32_t *)pages.data)[i] = (int32_t)(n_seqs * (n_pages - 1 - i % n_pages) + i / n_pages);
    return k_tensor_2d(pages.data, K_I32, n_seqs, n_pages);
}

/* Sequences alone, or the second one behind 20 older keys in pages of a cache. */
static int run_attention_of(struct k_ctx *ctx, struct kernel_made *s, int size, bool paged,
                            enum k_dtype dtype, bool latent) {
    KEEP(struct k_attention);
    int64_t t = pick(size, 4, 66, 150, 512), h = pick(size, 2, 4, 6, 8), kv = latent ? 1 : h / 2;
    int64_t d = pick(size, 4, 24, 32, 32), v = pick(size, 4, 16, 32, 32), n_seqs = 2;
    int64_t page = pick(size, 3, 16, 32, 64), n_pages = (t + 20 + page - 1) / page;
    int64_t n_keys = paged ? n_seqs * n_pages * page : t;
    *a = (struct k_attention){.q = f3(s, t, h, d),
                              .k = cache_of(s, dtype, n_keys, kv, d),
                              .v = cache_of(s, dtype, n_keys, kv, v),
                              .y = f3(s, t, h, v),
                              .lse = f2(s, t, h),
                              .q_start = ints(s, n_seqs + 1, t, true),
                              .kv_length = ints(s, n_seqs, 1, false),
                              .scale = 0.3f};
    const int32_t *q_start = a->q_start.data;
    for (int64_t i = 0; i < n_seqs; i++)
        ((int32_t *)a->kv_length.data)[i] =
            (int32_t)(q_start[i + 1] - q_start[i] + (paged ? 20 * i : 0));
    if (paged) {
        a->pages = pages_of(s, n_seqs, n_pages);
        a->page_tokens = page;
    }
    if (latent) {
        a->v = a->k;
        a->v.shape[2] = v;
    }
    output(s, &a->y);
    output(s, &a->lse);
    s->flops = 2.0 * (double)(t * t / n_seqs / 2 * h * (d + v));
    s->call = call_attention;
    s->arg = a;
    return 0;
}

static int run_attention(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_attention_of(ctx, s, size, false, K_F32, false);
}

static int run_attention_paged(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_attention_of(ctx, s, size, true, K_F32, false);
}

static int run_attention_f16(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_attention_of(ctx, s, size, true, K_F16, false);
}

static int run_attention_latent(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_attention_of(ctx, s, size, true, K_BF16, true);
}

/* Two sequences over compressed keys, the second one behind older ones. */
static int run_expand_of(struct k_ctx *ctx, struct kernel_made *s, int size, enum k_dtype cache,
                         enum k_dtype dtype, bool turned) {
    KEEP(struct k_attention_expand);
    int64_t t = pick(size, 4, 66, 600, 512), h = pick(size, 1, 3, 2, 16), n_seqs = 2;
    int64_t nope = pick(size, 32, 32, 64, 128), rope = pick(size, 2, 12, 16, 64);
    int64_t latent = pick(size, 32, 96, 160, 512), v = pick(size, 5, 24, 33, 128);
    int64_t older = pick(size, 3, 20, 300, 4096), page = pick(size, 3, 16, 32, 64);
    int64_t n_pages = (t + older + page - 1) / page;
    *a = (struct k_attention_expand){
        .q = f3(s, t, h, nope + rope),
        .w_key = weights(ctx, s, dtype, h, turned ? latent : nope, turned ? nope : latent, false),
        .w_value = weights(ctx, s, dtype, h, v, latent, size == 2),
        .y = f3(s, t, h, v),
        .q_start = ints(s, n_seqs + 1, t, true),
        .kv_length = ints(s, n_seqs, 1, false),
        .pages = pages_of(s, n_seqs, n_pages),
        .page_tokens = page,
        .scale = 0.03f,
        .turned = turned};
    const int32_t *q_start = a->q_start.data;
    for (int64_t i = 0; i < n_seqs; i++)
        ((int32_t *)a->kv_length.data)[i] = (int32_t)(q_start[i + 1] - q_start[i] + older * i);
    struct k_tensor rows = cache_of(s, cache, n_seqs * n_pages * page, 1, latent + rope);
    a->cache = k_tensor_2d(rows.data, cache, rows.shape[0], rows.shape[2]);
    output(s, &a->y);
    int64_t keys = t / n_seqs * (t / n_seqs + older);
    s->flops =
        2.0 * (double)h * (double)(keys * (nope + rope + v) + (t + older) * latent * (nope + v));
    s->call = call_attention_expand;
    s->arg = a;
    return 0;
}

static int run_attention_expand(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_expand_of(ctx, s, size, K_F32, K_BF16, false);
}

static int run_attention_expand_e4m3(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_expand_of(ctx, s, size, K_BF16, K_E4M3, false);
}

static int run_attention_expand_q8(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_expand_of(ctx, s, size, K_F16, K_Q8, true);
}

static int run_attention_expand_q4(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_expand_of(ctx, s, size, K_F32, K_Q4, true);
}

static int run_attention_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_attention_dx);
    struct k_attention *f = take(s, sizeof *f);
    int64_t t = pick(size, 4, 66, 150, 512), h = pick(size, 2, 4, 6, 8), kv = h / 2;
    int64_t d = pick(size, 4, 24, 32, 32), v = pick(size, 4, 16, 32, 32), n_seqs = 2;
    *f = (struct k_attention){.q = f3(s, t, h, d),
                              .k = f3(s, t, kv, d),
                              .v = f3(s, t, kv, v),
                              .y = f3(s, t, h, v),
                              .lse = f2(s, t, h),
                              .q_start = ints(s, n_seqs + 1, t, true),
                              .kv_length = ints(s, n_seqs, 1, false),
                              .scale = 0.3f};
    const int32_t *q_start = f->q_start.data;
    for (int64_t i = 0; i < n_seqs; i++)
        ((int32_t *)f->kv_length.data)[i] = q_start[i + 1] - q_start[i];
    int r = k_attention(ctx, f);
    if (r < 0)
        return r;
    *a = (struct k_attention_dx){.dq = f3(s, t, h, d),
                                 .dk = f3(s, t, kv, d),
                                 .dv = f3(s, t, kv, v),
                                 .dy = f3(s, t, h, v),
                                 .y = f->y,
                                 .q = f->q,
                                 .k = f->k,
                                 .v = f->v,
                                 .lse = f->lse,
                                 .q_start = f->q_start,
                                 .scale = 0.3f};
    output(s, &a->dq);
    output(s, &a->dk);
    output(s, &a->dv);
    s->flops = 2.0 * (double)(t * t / n_seqs / 2 * h * (4 * d + 3 * v));
    s->call = call_attention_dx;
    s->arg = a;
    return 0;
}

const struct kernel_case kernel_products[] = {
    {"linear",                run_linear               },
    {"linear_bf16",           run_linear_bf16          },
    {"linear_f16",            run_linear_f16           },
    {"linear_e4m3",           run_linear_e4m3          },
    {"linear_e5m2",           run_linear_e5m2          },
    {"linear_q8",             run_linear_q8            },
    {"linear_q4",             run_linear_q4            },
    {"linear_long",           run_linear_long          },
    {"linear_e4m3_x",         run_linear_e4m3_x        },
    {"linear_e5m2_x",         run_linear_e5m2_x        },
    {"linear_bf16_x",         run_linear_bf16_x        },
    {"linear_grouped",        run_linear_grouped       },
    {"linear_grouped_e4m3",   run_linear_grouped_e4m3  },
    {"linear_grouped_q4",     run_linear_grouped_q4    },
    {"linear_heads",          run_linear_heads         },
    {"linear_heads_e4m3",     run_linear_heads_e4m3    },
    {"linear_heads_q8",       run_linear_heads_q8      },
    {"linear_heads_dx",       run_linear_heads_dx      },
    {"linear_heads_dx_e4m3",  run_linear_heads_dx_e4m3 },
    {"quantize",              run_quantize             },
    {"quantize_blocks",       run_quantize_blocks      },
    {"quantize_tokens",       run_quantize_tokens      },
    {"quantize_e5m6",         run_quantize_e5m6        },
    {"quantize_bf16",         run_quantize_bf16        },
    {"quantize_turned",       run_quantize_turned      },
    {"quantize_e5m6_turned",  run_quantize_e5m6_turned },
    {"dequantize",            run_dequantize           },
    {"dequantize_tokens",     run_dequantize_tokens    },
    {"dequantize_blocks",     run_dequantize_blocks    },
    {"dequantize_bf16",       run_dequantize_bf16      },
    {"cache_put",             run_cache_put            },
    {"cache_put_f16",         run_cache_put_f16        },
    {"linear_dx",             run_linear_dx            },
    {"linear_dx_grouped",     run_linear_dx_grouped    },
    {"linear_dx_e4m3",        run_linear_dx_e4m3       },
    {"linear_dx_e5m2",        run_linear_dx_e5m2       },
    {"linear_dx_bf16",        run_linear_dx_bf16       },
    {"linear_dw",             run_linear_dw            },
    {"linear_dw_grouped",     run_linear_dw_grouped    },
    {"linear_dw_e4m3",        run_linear_dw_e4m3       },
    {"linear_dw_e5m2",        run_linear_dw_e5m2       },
    {"linear_dw_bf16",        run_linear_dw_bf16       },
    {"attention",             run_attention            },
    {"attention_paged",       run_attention_paged      },
    {"attention_f16",         run_attention_f16        },
    {"attention_latent",      run_attention_latent     },
    {"attention_expand",      run_attention_expand     },
    {"attention_expand_e4m3", run_attention_expand_e4m3},
    {"attention_expand_q8",   run_attention_expand_q8  },
    {"attention_expand_q4",   run_attention_expand_q4  },
    {"attention_dx",          run_attention_dx         },
    {"sum_rows",              run_sum_rows             },
};

const int kernel_products_count = ARRAY_SIZE(kernel_products);
