/* A row's bits depend neither on the rows computed beside it, nor on threads, nor on the group's
 * other rows: products of every kind, all rows at once against lots of many sizes. */
#include "kernels/pool.h"
#include "tests/unit/kernel_made.h"
#include "tests/unit/test.h"

enum {
    ROWS = 530, // more than a piece of any kernel
    GROUPS = 5,
    ARENA_BYTES = 24 << 20,
};

enum kind { LINEAR, LINEAR_DX, HEADS, HEADS_DX };

static const struct row_case {
    enum kind kind;
    enum k_dtype dtype;
    int64_t n_groups, n_out, n_in;
    bool narrow_x; // x is E4M3 too
    bool accumulate;
} cases[] = {
    {LINEAR,    K_F32,  1,      83,  301, false, false},
    {LINEAR,    K_F32,  1,      83,  64,  false, true },
    {LINEAR,    K_BF16, 1,      83,  301, false, true },
    {LINEAR,    K_BF16, 1,      83,  512, false, false},
    {LINEAR,    K_BF16, 1,      300, 604, false, false},
    {LINEAR,    K_F16,  1,      83,  301, false, false},
    {LINEAR,    K_F16,  1,      83,  33,  false, true },
    {LINEAR,    K_E4M3, 1,      83,  301, false, false},
    {LINEAR,    K_E4M3, 1,      83,  512, false, true },
    {LINEAR,    K_E4M3, 1,      83,  5,   false, false},
    {LINEAR,    K_E4M3, 1,      150, 384, true,  false},
    {LINEAR,    K_E4M3, 1,      83,  301, true,  true },
    {LINEAR,    K_E5M2, 1,      83,  301, false, true },
    {LINEAR,    K_E5M2, 1,      83,  384, false, false},
    {LINEAR,    K_Q8,   1,      83,  352, false, false},
    {LINEAR,    K_Q8,   1,      83,  32,  false, true },
    {LINEAR,    K_Q4,   1,      83,  352, false, true },
    {LINEAR,    K_Q4,   1,      83,  512, false, false},
    {LINEAR,    K_F32,  GROUPS, 40,  77,  false, false},
    {LINEAR,    K_BF16, GROUPS, 40,  160, false, true },
    {LINEAR,    K_E4M3, GROUPS, 40,  301, false, false},
    {LINEAR,    K_E4M3, GROUPS, 40,  256, true,  false},
    {LINEAR,    K_E5M2, GROUPS, 40,  130, false, true },
    {LINEAR,    K_Q8,   GROUPS, 40,  96,  false, false},
    {LINEAR,    K_Q4,   GROUPS, 40,  320, false, false},
    {LINEAR_DX, K_F32,  1,      83,  65,  false, false},
    {LINEAR_DX, K_F32,  GROUPS, 40,  77,  false, true },
    {HEADS,     K_F32,  3,      24,  40,  false, false},
    {HEADS,     K_BF16, 3,      24,  133, false, false},
    {HEADS,     K_E4M3, 3,      24,  160, false, false},
    {HEADS,     K_Q8,   3,      24,  64,  false, false},
    {HEADS_DX,  K_F32,  3,      24,  40,  false, false},
    {HEADS_DX,  K_BF16, 3,      24,  133, false, false},
    {HEADS_DX,  K_F16,  3,      24,  33,  false, false},
    {HEADS_DX,  K_E4M3, 3,      140, 300, false, false},
    {HEADS_DX,  K_E5M2, 3,      24,  70,  false, false},
};

/* The operands of a case. */
struct rows {
    const struct row_case *c;
    int64_t x_columns, y_columns; // of all heads
    const struct k_weight *w;
    const char *x;        // float32 or E4M3
    const float *x_scale; // [tiles, ROWS]
    struct k_tensor bias;
    float *y;
};

/* Uneven groups, one of them empty, one of few rows. */
static const int32_t group_start[GROUPS + 1] = {0, 3, 3, 20, 270, ROWS};

static int linear_rows(struct k_ctx *ctx, const struct rows *p, int64_t first, int64_t n) {
    int64_t n_tiles = (p->c->n_in + K_BLOCK - 1) / K_BLOCK, size = p->c->narrow_x ? 1 : 4;
    int32_t start[GROUPS + 1];
    static float scales[ROWS * 4];
    struct k_tensor y = k_tensor_2d(p->y, K_F32, n, p->y_columns);
    struct k_tensor x = k_tensor_2d((void *)(uintptr_t)(p->x + first * p->x_columns * size),
                                    p->c->narrow_x ? K_E4M3 : K_F32, n, p->x_columns);
    struct k_tensor row_start = k_tensor_1d(p->c->n_groups > 1 ? start : NULL, K_I32, GROUPS + 1);

    for (int g = 0; g <= GROUPS; g++)
        start[g] = (int32_t)MIN(MAX(group_start[g] - first, (int64_t)0), n);
    if (p->c->kind == LINEAR_DX) {
        const struct k_linear_dx a = {
            .dx = y, .dy = x, .w = p->w, .row_start = row_start, .accumulate = p->c->accumulate};
        return k_linear_dx(ctx, &a);
    }
    for (int64_t i = 0; p->c->narrow_x && i < n_tiles * n; i++)
        scales[i] = p->x_scale[i / n * ROWS + first + i % n];
    if (p->c->narrow_x) {
        x.scale = scales;
        x.scale_kind = K_SCALE_TILES;
    }
    const struct k_linear a = {.y = y,
                               .x = x,
                               .w = p->w,
                               .row_start = row_start,
                               .bias = p->bias,
                               .accumulate = p->c->accumulate};
    return k_linear(ctx, &a);
}

static int heads_rows(struct k_ctx *ctx, const struct rows *p, int64_t first, int64_t n) {
    int64_t h = p->c->n_groups;
    struct k_tensor y = k_tensor_3d(p->y, K_F32, n, h, p->y_columns / h);
    struct k_tensor x =
        k_tensor_3d((void *)(uintptr_t)((const float *)(const void *)p->x + first * p->x_columns),
                    K_F32, n, h, p->x_columns / h);

    if (p->c->kind == HEADS)
        return k_linear_heads(ctx, &(struct k_linear_heads){.y = y, .x = x, .w = p->w});
    return k_linear_heads_dx(ctx, &(struct k_linear_heads_dx){.dx = y, .dy = x, .w = p->w});
}

static int call(struct k_ctx *ctx, const struct rows *p, int64_t first, int64_t n) {
    return p->c->kind == LINEAR || p->c->kind == LINEAR_DX ? linear_rows(ctx, p, first, n)
                                                           : heads_rows(ctx, p, first, n);
}

/* Rows [first, first + n) into y, which begins with numbers that depend on the row alone. */
static void run(struct k_ctx *ctx, const struct rows *p, int64_t first, int64_t n) {
    for (int64_t i = 0; i < n * p->y_columns; i++)
        p->y[i] = (float)((first * p->y_columns + i) % 13) - 6;
    ctx->measuring = true;
    ctx->measured_bytes = 0;
    CHECK_EQ(call(ctx, p, first, n), 0, "");
    ctx->measuring = false;
    ctx->workspace_bytes = ctx->measured_bytes;
    ctx->workspace = aligned_alloc(64, (ctx->measured_bytes + 127) / 64 * 64);
    CHECK_EQ(call(ctx, p, first, n), 0, "");
    free(ctx->workspace);
}

/* y of all rows that are run, by one thread, is put in ret; by two it is compared with that. */
static void check_lots(struct k_ctx *ctx, const struct rows *p, size_t number, float *ret) {
    static const int64_t lots[] = {1, 2, 3, 5, 8, 9, 17, 130};
    int64_t all = ctx->backend == K_BACKEND_REF ? 30 : ROWS; // ref is slow

    run(ctx, p, 0, all);
    if (pool_n_threads(ctx->pool) == 1)
        memcpy(ret, p->y, (size_t)(all * p->y_columns) * sizeof *ret);
    CHECK(memcmp(p->y, ret, (size_t)(all * p->y_columns) * sizeof *ret) == 0,
          "%s, case %zu (%s): two threads", ctx->path, number, k_dtype_name(p->c->dtype));
    for (size_t i = 0; i < ARRAY_SIZE(lots); i++) {
        const int64_t firsts[] = {0, 1, 19, 269, ROWS - lots[i]};
        for (size_t k = 0; k < ARRAY_SIZE(firsts) && firsts[k] + lots[i] <= all; k++) {
            run(ctx, p, firsts[k], lots[i]);
            CHECK(memcmp(p->y, ret + firsts[k] * p->y_columns,
                         (size_t)(lots[i] * p->y_columns) * sizeof *ret) == 0,
                  "%s, %d threads, case %zu (%s): %lld rows from %lld on", ctx->path,
                  pool_n_threads(ctx->pool), number, k_dtype_name(p->c->dtype), (long long)lots[i],
                  (long long)firsts[k]);
        }
    }
}

static void make(struct k_ctx *ref, const struct row_case *c, struct kernel_made *s,
                 struct rows *ret) {
    bool across = c->kind == LINEAR_DX || c->kind == HEADS_DX;
    int64_t heads = c->kind == HEADS || c->kind == HEADS_DX ? c->n_groups : 1;
    int64_t n_tiles = (c->n_in + K_BLOCK - 1) / K_BLOCK;

    s->memory = hai_alloc(ARENA_BYTES);
    *ret = (struct rows){.c = c,
                         .x_columns = heads * (across ? c->n_out : c->n_in),
                         .y_columns = heads * (across ? c->n_in : c->n_out),
                         .w = weights(ref, s, c->dtype, c->n_groups, c->n_out, c->n_in, true)};
    struct k_tensor x = f2(s, ROWS, ret->x_columns);
    ret->x = x.data;
    ret->y = f2(s, ROWS, ret->y_columns).data;
    if (c->kind == LINEAR && !c->narrow_x)
        ret->bias = f1(s, c->n_out);
    if (!c->narrow_x)
        return;
    struct k_quantize q = {
        .y = k_tensor_2d(take(s, (size_t)(ROWS * c->n_in)), K_E4M3, ROWS, c->n_in),
        .scale = f2(s, n_tiles, ROWS),
        .x = x,
        .amax_min = 1e-4f};
    q.y.scale_kind = K_SCALE_TILES;
    CHECK_EQ(k_quantize(ref, &q), 0, "");
    ret->x = q.y.data;
    ret->x_scale = q.scale.data;
}

/* The vector paths add in the same order, so their bits are the same too; "amx" does but where it
 * has tile registers for. */
TEST(bits_of_products_do_not_depend_on_rows)
{
    static const char *const paths[] = {NULL, "avx2", "avx512", "amx"};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct kernel_made s = {.seed = 7, .n_bytes_max = ARENA_BYTES};
        struct k_ctx ctx;
        struct rows p;
        CHECK_EQ(k_ctx_init(&ctx, K_BACKEND_REF, NULL, NULL), 0, "");
        make(&ctx, &cases[i], &s, &p);
        size_t n_bytes = (size_t)(ROWS * p.y_columns) * sizeof(float);
        _cleanup_free_ float *one = hai_alloc(n_bytes), *other = hai_alloc(n_bytes);
        bool have_one = false;
        for (size_t k = 0; k < ARRAY_SIZE(paths); k++) {
            float *y = k < 2 ? one : other;
            bool same = k > 1 && (k < 3 || cases[i].dtype != K_BF16 || cases[i].kind == HEADS_DX);
            if (k_ctx_init(&ctx, paths[k] ? K_BACKEND_CPU : K_BACKEND_REF, paths[k], NULL) < 0)
                continue;
            check_lots(&ctx, &p, i, y);
            CHECK_EQ(pool_new(2, &ctx.pool, NULL), 0, "");
            check_lots(&ctx, &p, i, y);
            pool_free(ctx.pool);
            CHECK(!same || !have_one || memcmp(one, other, n_bytes) == 0,
                  "case %zu (%s): avx2 and %s differ", i, k_dtype_name(cases[i].dtype), paths[k]);
            have_one = have_one || k == 1;
        }
        drop_weights(&s);
        free(s.memory);
    }
}
