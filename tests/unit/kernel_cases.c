#include "tests/unit/kernel_cases.h"

#include "kernels/pool.h"

enum {
    ARENA_BYTES = 1 << 23, // of one case
    ARENA_BENCH_BYTES = 1 << 27,
};

static int run_rmsnorm(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_rmsnorm);
    int64_t t = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 1024);
    *a = (struct k_rmsnorm){
        .x = f2(s, t, n), .weight = f1(s, n), .y = f2(s, t, n), .scale = f1(s, t), .eps = 1e-6f};
    output(s, &a->y);
    output(s, &a->scale);
    s->call = call_rmsnorm;
    s->arg = a;
    return 0;
}

static int run_rmsnorm_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_rmsnorm_dx);
    int64_t t = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 1024);
    *a = (struct k_rmsnorm_dx){.dy = f2(s, t, n),
                               .x = f2(s, t, n),
                               .weight = f1(s, n),
                               .scale = f1(s, t),
                               .dx = f2(s, t, n)};
    if (size > 0)
        a->residual = f2(s, t, n);
    output(s, &a->dx);
    s->call = call_rmsnorm_dx;
    s->arg = a;
    return 0;
}

static int run_rmsnorm_dw(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_rmsnorm_dw);
    int64_t t = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 1024);
    *a = (struct k_rmsnorm_dw){
        .dy = f2(s, t, n), .x = f2(s, t, n), .scale = f1(s, t), .dw = f1(s, n)};
    output(s, &a->dw);
    s->call = call_rmsnorm_dw;
    s->arg = a;
    return 0;
}

static int run_rope_of(struct k_ctx *ctx, struct kernel_made *s, int size, bool adjacent,
                       bool inverse) {
    KEEP(struct k_rope);
    int64_t t = pick(size, 1, 5, 33, 1024), h = pick(size, 1, 3, 4, 16);
    int64_t half = pick(size, 1, 5, 32, 32);
    *a = (struct k_rope){.x = f3(s, t, h, 2 * half),
                         .cosine = f2(s, 50, half),
                         .sine = f2(s, 50, half),
                         .position = ints(s, t, 50, false),
                         .adjacent = adjacent,
                         .inverse = inverse};
    output(s, &a->x);
    s->call = call_rope;
    s->arg = a;
    return 0;
}

static int run_rope(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_rope_of(ctx, s, size, false, size == 1);
}

static int run_rope_adjacent(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_rope_of(ctx, s, size, true, size == 1);
}

static int run_swiglu(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_swiglu);
    int64_t r = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 1024);
    *a = (struct k_swiglu){.gate = f2(s, r, n), .up = f2(s, r, n), .y = f2(s, r, n)};
    output(s, &a->y);
    s->call = call_swiglu;
    s->arg = a;
    return 0;
}

static int run_swiglu_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_swiglu_dx);
    int64_t r = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 1024);
    *a = (struct k_swiglu_dx){.dy = f2(s, r, n),
                              .gate = f2(s, r, n),
                              .up = f2(s, r, n),
                              .dgate = f2(s, r, n),
                              .dup = f2(s, r, n)};
    output(s, &a->dgate);
    output(s, &a->dup);
    s->call = call_swiglu_dx;
    s->arg = a;
    return 0;
}

static int run_cross_entropy(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_cross_entropy);
    int64_t t = pick(size, 1, 5, 33, 512), n = pick(size, 3, 40, 129, 4096);
    *a = (struct k_cross_entropy){.loss = numbers(s, K_F64, 1, 2, 0, 0),
                                  .logits = f2(s, t, n),
                                  .labels = ints(s, t, n, false),
                                  .loss_scale = 0.25f,
                                  .grad_scale = 0.5f,
                                  .backward = size != 1};
    a->loss.shape[0] = 1;
    *(double *)a->loss.data = 1;
    if (size > 0)
        ((int32_t *)a->labels.data)[2] = -100;
    output(s, &a->loss);
    if (a->backward)
        output(s, &a->logits);
    s->call = call_cross_entropy;
    s->arg = a;
    return 0;
}

static int run_embed(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_embed);
    int64_t t = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 512);
    *a = (struct k_embed){.ids = ints(s, t, 20, false),
                          .w = weights(ctx, s, size == 1 ? K_BF16 : K_F32, 1, 20, n, false),
                          .y = f2(s, t, n)};
    ((int32_t *)a->ids.data)[0] = -1;
    output(s, &a->y);
    s->call = call_embed;
    s->arg = a;
    return 0;
}

static int run_embed_dw(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_embed_dw);
    int64_t t = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 512);
    *a = (struct k_embed_dw){.ids = ints(s, t, 20, false), .dw = f2(s, 20, n), .dy = f2(s, t, n)};
    ((int32_t *)a->ids.data)[0] = -1;
    output(s, &a->dw);
    s->call = call_embed_dw;
    s->arg = a;
    return 0;
}

static int run_router_of(struct k_ctx *ctx, struct kernel_made *s, int size, enum k_score score) {
    KEEP(struct k_router);
    int64_t t = pick(size, 1, 5, 33, 1024), e = pick(size, 4, 8, 16, 64), k = 2 + size;
    *a = (struct k_router){.logits = f2(s, t, e),
                           .scores = f2(s, t, e),
                           .weights = f2(s, t, k),
                           .experts = k_tensor_2d(take(s, (size_t)(t * k) * 4), K_I32, t, k),
                           .score = score,
                           .n_groups = size ? 4 : 1,
                           .group_best = score == K_SCORE_SIGMOID ? 2 : 1,
                           .group_top = size ? 3 : 1,
                           .normalise = size != 1,
                           .scaling = 2.5f};
    if (score == K_SCORE_SIGMOID)
        a->bias = f1(s, e);
    output(s, &a->weights);
    output(s, &a->scores);
    output(s, &a->experts);
    s->call = call_router;
    s->arg = a;
    return 0;
}

static int run_router(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_router_of(ctx, s, size, K_SCORE_SIGMOID);
}

static int run_router_softmax(struct k_ctx *ctx, struct kernel_made *s, int size) {
    return run_router_of(ctx, s, size, K_SCORE_SOFTMAX);
}

/* Distinct ascending experts a token, and scores between 0 and 1. */
static struct k_tensor some_experts(struct kernel_made *s, int64_t t, int64_t e, int64_t k) {
    struct k_tensor experts = k_tensor_2d(take(s, (size_t)(t * k) * 4), K_I32, t, k);

    for (int64_t i = 0; i < t * k; i++)
        ((int32_t *)experts.data)[i] = (int32_t)((i % k) * (e / k) + i / k % (e / k));
    return experts;
}

static struct k_tensor some_scores(struct kernel_made *s, int64_t t, int64_t e) {
    struct k_tensor scores = f2(s, t, e);

    for (int64_t i = 0; i < t * e; i++) {
        float x = ((float *)scores.data)[i];
        ((float *)scores.data)[i] = 0.05f + 0.9f * x * x / (1 + x * x);
    }
    return scores;
}

static int run_router_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_router_dx);
    int64_t t = pick(size, 1, 5, 33, 1024), e = pick(size, 4, 8, 16, 64), k = 2;
    *a = (struct k_router_dx){.dlogits = f2(s, t, e),
                              .dweights = f2(s, t, k),
                              .experts = some_experts(s, t, e, k),
                              .scores = some_scores(s, t, e),
                              .normalise = size != 1,
                              .scaling = 2.5f,
                              .balance_scale = 0.1f};
    if (size) {
        a->f = f2(s, 2, e);
        a->span_start = ints(s, 3, t, true);
    }
    output(s, &a->dlogits);
    s->call = call_router_dx;
    s->arg = a;
    return 0;
}

static int run_balance(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_balance);
    int64_t t = pick(size, 2, 5, 33, 1024), e = pick(size, 4, 8, 16, 64);
    *a = (struct k_balance){
        .loss = numbers(s, K_F64, 1, K_BALANCE_COUNT, 0, 0),
        .f = f2(s, 2, e),
        .scores = some_scores(s, t, e),
        .experts = some_experts(s, t, e, 2),
        .span_start = ints(s, 3, t, true),
        .alpha = {1, 0.5f, 0.25f},
        .balance_scale = 0.1f,
        .n_groups = size ? 4 : 1,
        .max_groups = size ? 2 : 1,
        .plain = size == 1
    };
    for (int i = 0; i < K_BALANCE_COUNT; i++)
        ((double *)a->loss.data)[i] = 1;
    output(s, &a->loss);
    output(s, &a->f);
    s->call = call_balance;
    s->arg = a;
    return 0;
}

static int run_route_drop(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_route_drop);
    int64_t t = pick(size, 1, 5, 33, 1024), e = pick(size, 4, 8, 16, 64), k = 2;
    *a = (struct k_route_drop){.kept = k_tensor_2d(take(s, (size_t)(t * k) * 4), K_I32, t, k),
                               .experts = some_experts(s, t, e, k),
                               .scores = some_scores(s, t, e),
                               .seq_start = ints(s, 3, t, true),
                               .n_groups = 4,
                               .capacity = (t * k + 3) / 4};
    if (size)
        a->whole = ints(s, 2, 2, false);
    output(s, &a->kept);
    s->call = call_route_drop;
    s->arg = a;
    return 0;
}

/* At size 1 some of n experts or rows become -1: dropped pairs. */
static void drop_some(struct k_tensor *t, int64_t n, int size) {
    for (int64_t i = 1; size == 1 && i < n; i += 3)
        ((int32_t *)t->data)[i] = -1;
}

static int run_route_sort(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_route_sort);
    int64_t t = pick(size, 1, 5, 33, 1024), e = pick(size, 4, 8, 16, 64), k = 2;
    *a = (struct k_route_sort){.row_start = ints(s, e + 1, 1, false),
                               .row_token = ints(s, t * k, 1, false),
                               .pair_row = some_experts(s, t, e, k),
                               .experts = some_experts(s, t, e, k)};
    drop_some(&a->experts, t * k, size);
    output(s, &a->row_start);
    output(s, &a->row_token);
    output(s, &a->pair_row);
    s->call = call_route_sort;
    s->arg = a;
    return 0;
}

static int run_gather(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_gather);
    int64_t t = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 512);
    *a = (struct k_gather){
        .y = f2(s, 2 * t, n), .x = f2(s, t, n), .row_token = ints(s, 2 * t, t, false)};
    output(s, &a->y);
    s->call = call_gather;
    s->arg = a;
    return 0;
}

static int run_combine(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_combine);
    int64_t t = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 512), k = 2;
    *a = (struct k_combine){.x = f2(s, t * k, n), .y = f2(s, t, n), .weights = f2(s, t, k)};
    a->pair_row = ints(s, t * k, t * k, false);
    a->pair_row = k_tensor_2d(a->pair_row.data, K_I32, t, k);
    drop_some(&a->pair_row, t * k, size);
    output(s, &a->y);
    s->call = call_combine;
    s->arg = a;
    return 0;
}

static int run_combine_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_combine_dx);
    int64_t t = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 512), k = 2;
    *a = (struct k_combine_dx){.x = f2(s, t * k, n),
                               .dx = f2(s, t * k, n),
                               .dy = f2(s, t, n),
                               .weights = f2(s, t, k),
                               .dweights = f2(s, t, k)};
    a->pair_row = k_tensor_2d(take(s, (size_t)(t * k) * 4), K_I32, t, k);
    for (int64_t i = 0; i < t * k; i++) /* every row once, out of order */
        ((int32_t *)a->pair_row.data)[i] = (int32_t)(t * k - 1 - i);
    drop_some(&a->pair_row, t * k, size);
    output(s, &a->dx);
    output(s, &a->dweights);
    s->call = call_combine_dx;
    s->arg = a;
    return 0;
}

static int run_copy(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_copy);
    int64_t r = pick(size, 1, 5, 33, 1024), h = 3, n = pick(size, 3, 40, 129, 512);
    *a = (struct k_copy){.y = f3(s, r, h, n), .x = f3(s, r, 1, n), .accumulate = size == 1};
    a->x.shape[1] = h;
    a->x.stride[1] = 0;
    output(s, &a->y);
    s->call = call_copy;
    s->arg = a;
    return 0;
}

static int run_sum_heads(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_sum_heads);
    int64_t r = pick(size, 1, 5, 33, 1024), n = pick(size, 3, 40, 129, 512);
    *a = (struct k_sum_heads){.y = f2(s, r, n), .x = f3(s, r, 4, n)};
    output(s, &a->y);
    s->call = call_sum_heads;
    s->arg = a;
    return 0;
}

static int run_add(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_add);
    int64_t n = pick(size, 3, 40, 129, 1 << 22);
    *a = (struct k_add){.y = f1(s, n), .x = f1(s, n), .alpha = 0.5f, .beta = size == 1 ? 0 : 2};
    if (size == 2)
        a->x.data = NULL;
    output(s, &a->y);
    s->call = call_add;
    s->arg = a;
    return 0;
}

static int run_sum_squares(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_sum_squares);
    *a = (struct k_sum_squares){.sum = numbers(s, K_F64, 1, 2, 0, 0),
                                .x = f1(s, pick(size, 3, 40, 129, 1 << 22))};
    a->sum.shape[0] = 1;
    *(double *)a->sum.data = 1;
    output(s, &a->sum);
    s->call = call_sum_squares;
    s->arg = a;
    return 0;
}

static int run_adamw(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_adamw);
    int64_t n = pick(size, 3, 40, 129, 1 << 20);
    *a = (struct k_adamw){.w = f1(s, n),
                          .g = f1(s, n),
                          .m = f1(s, n),
                          .v = f1(s, n),
                          .grad_scale = 0.5f,
                          .lr = 1e-3f,
                          .beta1 = 0.9f,
                          .beta2 = 0.95f,
                          .eps = 1e-8f,
                          .decay = 0.1f,
                          .step = 1 + size};
    for (int64_t i = 0; i < n; i++)
        ((float *)a->v.data)[i] *= ((float *)a->v.data)[i];
    output(s, &a->w);
    output(s, &a->m);
    output(s, &a->v);
    s->call = call_adamw;
    s->arg = a;
    return 0;
}

static const struct kernel_case cases[] = {
    {"rmsnorm",        run_rmsnorm       },
    {"rmsnorm_dx",     run_rmsnorm_dx    },
    {"rmsnorm_dw",     run_rmsnorm_dw    },
    {"rope",           run_rope          },
    {"rope_adjacent",  run_rope_adjacent },
    {"swiglu",         run_swiglu        },
    {"swiglu_dx",      run_swiglu_dx     },
    {"cross_entropy",  run_cross_entropy },
    {"embed",          run_embed         },
    {"embed_dw",       run_embed_dw      },
    {"router",         run_router        },
    {"router_softmax", run_router_softmax},
    {"router_dx",      run_router_dx     },
    {"balance",        run_balance       },
    {"route_drop",     run_route_drop    },
    {"route_sort",     run_route_sort    },
    {"gather",         run_gather        },
    {"combine",        run_combine       },
    {"combine_dx",     run_combine_dx    },
    {"copy",           run_copy          },
    {"sum_heads",      run_sum_heads     },
    {"add",            run_add           },
    {"sum_squares",    run_sum_squares   },
    {"adamw",          run_adamw         },
};

int kernel_cases_count(void) {
    return kernel_products_count + (int)ARRAY_SIZE(cases) + kernel_plain_count;
}

static const struct kernel_case *find(int i) {
    if (i < kernel_products_count)
        return &kernel_products[i];
    i -= kernel_products_count;
    return i < (int)ARRAY_SIZE(cases) ? &cases[i] : &kernel_plain[i - (int)ARRAY_SIZE(cases)];
}

const char *kernel_cases_name(int i) {
    return find(i)->name;
}

int kernel_cases_prepare(struct kernel_bench *b) {
    b->made.n_bytes = 0;
    b->made.n_outputs = 0;
    drop_weights(&b->made);
    b->made.bytes = b->made.flops = 0;
    return find(b->number)->prepare(&b->ctx, &b->made, b->size);
}

int kernel_cases_run(struct kernel_bench *b) {
    return b->made.call(&b->ctx, b->made.arg);
}

int kernel_cases_begin(struct kernel_bench *b, const char *path, int n_threads, int number,
                       int size) {
    *b = (struct kernel_bench){.made = {.seed = 7}, .number = number, .size = size};
    int r = k_ctx_init(&b->ctx, path ? K_BACKEND_CPU : K_BACKEND_REF, path, NULL);
    if (r < 0)
        return r;
    if (n_threads > 1) {
        r = pool_new(n_threads, &b->ctx.pool, NULL);
        if (r < 0)
            return r;
    }
    b->made.n_bytes_max = size == KERNEL_SIZE_BENCH ? ARENA_BENCH_BYTES : ARENA_BYTES;
    b->made.memory = hai_alloc(b->made.n_bytes_max);
    b->ctx.measuring = true;
    r = kernel_cases_prepare(b);
    r = r < 0 ? r : kernel_cases_run(b);
    b->ctx.measuring = false;
    b->ctx.workspace_bytes = b->ctx.measured_bytes;
    b->ctx.workspace = aligned_alloc(64, b->ctx.workspace_bytes + 64 - b->ctx.workspace_bytes % 64);
    return r;
}

void kernel_cases_end(struct kernel_bench *b) {
    pool_free(b->ctx.pool);
    drop_weights(&b->made);
    free(b->made.memory);
    free(b->ctx.workspace);
}
