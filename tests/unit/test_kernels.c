/* Every operator of every CPU path against ref over generated shapes, with one tolerance. Bits are
 * compared between one and three threads; between rows in lots of many sizes: test_rows.c. Times of
 * the same cases: tests/bench/bench_kernels.c. */
#include "kernels/formats.h"
#include "kernels/kmath.h"
#include "kernels/philox.h"
#include "kernels/pool.h"
#include "kernels/weight.h"
#include "tests/unit/kernel_cases.h"
#include "tests/unit/test.h"

#include <math.h>

/* |a - b| <= tolerance * (|b| + rms of b). */
static const double tolerance = 3e-5;

static double value(const struct k_tensor *t, int64_t i) {
    switch (t->dtype) {
    case K_F64:
        return ((const double *)t->data)[i];
    case K_I32:
        return ((const int32_t *)t->data)[i];
    case K_BF16:
    case K_F16:
        return ((const uint16_t *)t->data)[i]; /* bits: they are to be the same */
    case K_E4M3:
    case K_E5M2:
        return ((const uint8_t *)t->data)[i];
    case K_E5M6:
        return k_e5m6_get(t->data, i);
    default:
        return (double)((const float *)t->data)[i];
    }
}

static void compare(const char *name, const char *path, int size, const struct k_tensor *got,
                    const struct k_tensor *want) {
    int64_t n = k_tensor_n_elements(want);
    double square = 0, worst = 0;

    for (int64_t i = 0; i < n; i++)
        square += value(want, i) * value(want, i);
    double rms = sqrt(square / (double)n);
    for (int64_t i = 0; i < n; i++) {
        double d = fabs(value(got, i) - value(want, i)) / (fabs(value(want, i)) + rms + 1e-30);
        worst = isnan(worst) || d <= worst ? worst : d; // once NaN, it stays
    }
    bool exact = want->dtype != K_F32 && want->dtype != K_F64;
    CHECK(worst <= (exact ? 0 : tolerance), "%s %s size %d: off by %.3g", path, name, size, worst);
}

static const char *const paths[] = {"avx2", "avx512", "amx"};

/* Prepare and run a case; false if the path does not run here. */
static bool begin(struct kernel_bench *b, const char *path, int n_threads, int number, int size) {
    int r = kernel_cases_begin(b, path, n_threads, number, size);

    if (r == -ENOTSUP)
        return false;
    CHECK_EQ(r, 0, "%s %s", path ? path : "ref", kernel_cases_name(number));
    CHECK_EQ(kernel_cases_prepare(b), 0, "%s", kernel_cases_name(number));
    CHECK_EQ(kernel_cases_run(b), 0, "%s %s", path ? path : "ref", kernel_cases_name(number));
    return true;
}

TEST(against_ref)
{
    for (int c = 0; c < kernel_cases_count(); c++)
        for (int size = 0; size < KERNEL_SIZES; size++) {
            struct kernel_bench ref, b;
            begin(&ref, NULL, 1, c, size);
            for (size_t p = 0; p < ARRAY_SIZE(paths); p++) {
                if (!begin(&b, paths[p], 1, c, size))
                    continue;
                for (int i = 0; i < ref.made.n_outputs; i++)
                    compare(kernel_cases_name(c), paths[p], size, b.made.outputs[i],
                            ref.made.outputs[i]);
                kernel_cases_end(&b);
            }
            kernel_cases_end(&ref);
        }
}

TEST(bits_do_not_depend_on_threads)
{
    for (int c = 0; c < kernel_cases_count(); c++) {
        struct kernel_bench one, three;
        if (!begin(&one, "avx2", 1, c, 2))
            SKIP("no AVX2");
        begin(&three, "avx2", 3, c, 2);
        for (int i = 0; i < one.made.n_outputs; i++) {
            const struct k_tensor *t = one.made.outputs[i];
            CHECK(memcmp(t->data, three.made.outputs[i]->data,
                         k_dtype_n_bytes(t->dtype, k_tensor_n_elements(t))) == 0,
                  "%s output %d", kernel_cases_name(c), i);
        }
        kernel_cases_end(&one);
        kernel_cases_end(&three);
    }
}

/* Rows [first, first + n) of a product, its y of all rows. */
static void run_rows(struct k_ctx *ctx, const struct k_linear *all, int64_t first, int64_t n) {
    struct k_linear a = *all;

    a.x.shape[0] = a.y.shape[0] = n;
    a.x.data = (float *)all->x.data + first * all->x.stride[0];
    a.y.data = (float *)all->y.data + first * all->y.stride[0];
    ctx->workspace_bytes = k_linear_workspace(ctx, &a);
    ctx->workspace = aligned_alloc(64, (ctx->workspace_bytes + 64) / 64 * 64);
    CHECK_EQ(k_linear(ctx, &a), 0, "");
    free(ctx->workspace);
}

/* A damaged weight of one output, or input of one row, gives NaN there and nowhere else. */
static void check_damage(const char *path, enum k_dtype dtype, int64_t rows) {
    enum { N_IN = 320, N_OUT = 40, OUTPUT = 21, ROW = 2 };
    struct kernel_made s = {.seed = 7, .n_bytes_max = 2 << 20};
    struct k_ctx ctx;
    bool quant = dtype == K_Q8 || dtype == K_Q4;

    if (k_ctx_init(&ctx, path ? K_BACKEND_CPU : K_BACKEND_REF, path, NULL) < 0)
        return;
    s.memory = hai_alloc(s.n_bytes_max);
    struct k_linear a = {.x = f2(&s, rows, N_IN),
                         .w = weights(&ctx, &s, dtype, 1, N_OUT, N_IN, false),
                         .y = f2(&s, rows, N_OUT)};
    if (quant)
        ((float *)a.x.data)[ROW * N_IN + 77] = NAN;
    else
        ((uint8_t *)(uintptr_t)a.w->parts[0].data)[OUTPUT * N_IN + 300] = 0xff;
    run_rows(&ctx, &a, 0, rows);
    for (int64_t i = 0; i < rows * N_OUT; i++)
        CHECK((isnan(((float *)a.y.data)[i]) != 0) ==
                  (quant ? i / N_OUT == ROW : i % N_OUT == OUTPUT),
              "%s %s, %lld rows: y[%lld]", ctx.path, k_dtype_name(dtype), (long long)rows,
              (long long)i);
    drop_weights(&s);
    free(s.memory);
}

TEST(a_damaged_weight_is_seen)
{
    static const enum k_dtype dtypes[] = {K_E4M3, K_E5M2, K_Q8, K_Q4};
    static const int64_t rows[] = {3, 8, 37};

    for (size_t d = 0; d < ARRAY_SIZE(dtypes); d++)
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
            check_damage(NULL, dtypes[d], rows[i]);
            for (size_t p = 0; p < ARRAY_SIZE(paths); p++)
                check_damage(paths[p], dtypes[d], rows[i]);
        }
}

enum {
    LONG_KEYS = 1300,
    LONG_PAGE = 16,
    LONG_PAGES = LONG_KEYS / LONG_PAGE + 1,
    LONG_HEADS = 6,
    LONG_D = 64,
};

/* Queries [from, to) of a long sequence in pages, of which the last keys were just put there. */
static void attend_part(struct k_ctx *ctx, const struct k_attention *all, int64_t from, int64_t to,
                        float *y) {
    int32_t start[] = {0, (int32_t)(to - from)}, length = (int32_t)to;
    struct k_attention a = *all;

    a.q.data = (float *)a.q.data + from * a.q.stride[0];
    a.y.data = y;
    a.q.shape[0] = a.y.shape[0] = to - from;
    a.q_start = k_tensor_1d(start, K_I32, 2);
    a.kv_length = k_tensor_1d(&length, K_I32, 1);
    CHECK(k_attention_workspace(ctx, &a) <= ctx->workspace_bytes, "%s", ctx->path);
    CHECK_EQ(k_attention(ctx, &a), 0, "");
}

static void check_chunks(struct k_ctx *ctx, const struct k_attention *all) {
    static float whole[LONG_KEYS * LONG_HEADS * LONG_D], part[LONG_KEYS * LONG_HEADS * LONG_D];
    static const int64_t sizes[] = {1, 2, 7, 64, 513};

    attend_part(ctx, all, 0, LONG_KEYS, whole);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        for (int64_t from = 0; from < LONG_KEYS; from += MAX(sizes[i], (int64_t)97)) {
            int64_t to = MIN(from + sizes[i], (int64_t)LONG_KEYS), row = all->y.stride[0];
            attend_part(ctx, all, from, to, part);
            CHECK(memcmp(part, whole + from * row, (size_t)((to - from) * row) * sizeof(float)) ==
                      0,
                  "%s: queries %lld to %lld of %d threads", ctx->path, (long long)from,
                  (long long)to, pool_n_threads(ctx->pool));
        }
}

/* Queries of LONG_HEADS heads with keys of a type and half as long values in the same rows. */
static void check_long(enum k_dtype dtype, int64_t n_kv_heads, int64_t d) {
    static float q[LONG_KEYS * LONG_HEADS * LONG_D];
    static float k[2 * LONG_PAGES * LONG_PAGE * LONG_HEADS * LONG_D];
    int32_t pages[LONG_PAGES];
    struct k_attention a = {
        .q = k_tensor_3d(q, K_F32, LONG_KEYS, LONG_HEADS, d),
        .y = k_tensor_3d(q, K_F32, LONG_KEYS, LONG_HEADS, d / 2),
        .k = k_tensor_3d(k, dtype, 2 * LONG_PAGES * LONG_PAGE, n_kv_heads, d),
        .kv_length = k_tensor_1d(pages, K_I32, 1),
        .pages = k_tensor_2d(pages, K_I32, 1, LONG_PAGES),
        .page_tokens = LONG_PAGE,
        .scale = 0.2f,
    };

    a.v = a.k;
    a.v.data = (char *)k + (size_t)(d / 2) * (dtype == K_F32 ? 4 : 2);
    a.v.shape[2] = d / 2;
    for (int64_t i = 0; i < (int64_t)ARRAY_SIZE(q); i++)
        q[i] = (float)((i * 7919 + i / 13) % 1024) / 512 - 1;
    for (int64_t i = 0; i < a.k.shape[0] * n_kv_heads * d; i++) {
        float x = (float)((i * 104729 + i / 7) % 2048) / 512 - 2;
        if (dtype == K_F32)
            k[i] = x;
        else
            ((uint16_t *)k)[i] = dtype == K_F16 ? k_to_f16(x) : k_to_bf16(x);
    }
    for (int i = 0; i < LONG_PAGES; i++)
        pages[i] = (i * 37 + 11) % (2 * LONG_PAGES);
    for (size_t p = 0; p < ARRAY_SIZE(paths); p++)
        for (int n_threads = TEST_SANITIZED ? 3 : 1; n_threads <= 3; n_threads += 2) {
            struct k_ctx ctx;
            if (k_ctx_init(&ctx, K_BACKEND_CPU, paths[p], NULL) < 0)
                continue;
            if (n_threads > 1)
                CHECK_EQ(pool_new(n_threads, &ctx.pool, NULL), 0, "");
            ctx.workspace_bytes = (k_attention_workspace(&ctx, &a) + 63) / 64 * 64;
            ctx.workspace = aligned_alloc(64, ctx.workspace_bytes);
            check_chunks(&ctx, &a);
            free(ctx.workspace);
            pool_free(ctx.pool);
        }
}

/* A query's bits are the same alone, where its keys are split over threads and its heads taken
 * together, and among others. */
TEST(attention_bits_do_not_depend_on_chunks)
{
    check_long(K_F16, 2, 40);
    check_long(K_F16, 6, 64);
    check_long(K_BF16, 6, 32);
    check_long(K_F32, 3, 64);
}

TEST(refusals)
{
    float x[8] = {0};
    struct k_ctx ctx;
    struct hai_err err = {0};
    _cleanup_(k_weight_freep) struct k_weight *w = NULL;
    struct k_linear a = {.x = k_tensor_2d(x, K_F32, 2, 2), .y = k_tensor_2d(x + 4, K_F32, 2, 2)};

    int r = k_ctx_init(&ctx, K_BACKEND_CUDA, NULL, &err); // 0: built, and there is a GPU
    CHECK(r == 0 || (r == -ENOTSUP && strcmp(err.text, "backend cuda: not built") == 0) ||
              (r == -ENODEV && strncmp(err.text, "backend cuda: no", 16) == 0),
          "%d %s", r, err.text);
    CHECK_EQ(k_ctx_init(&ctx, K_BACKEND_CPU, "neon", &err), -ENOTSUP, "");
    CHECK_EQ(k_ctx_init(&ctx, K_BACKEND_REF, NULL, &err), 0, "");
    CHECK_EQ(k_weight_plain(&ctx, K_F32, 1, 2, 2, x, &w, &err), 0, "");
    a.w = w;
    CHECK_EQ(k_linear(&ctx, &a), 0, "");
    a.y.shape[1] = 3;
    CHECK_EQ(k_linear(&ctx, &a), -EINVAL, "wrong width");
    a.y.shape[1] = 2;
    a.x.dtype = K_F16;
    CHECK_EQ(k_linear(&ctx, &a), -EINVAL, "wrong type");
    a.x.dtype = K_F32;
    a.w = NULL;
    CHECK_EQ(k_linear(&ctx, &a), -EINVAL, "no weights");
}

/* What operands of few bits need beside what operands.def says. */
TEST(refusals_of_few_bits)
{
    static const char *const all[] = {NULL, "avx2", "avx512"};
    float x[256] = {0}, scale[256];
    const struct k_weight_part part = {.data = x, .scale = scale, .n_out = 2};
    _cleanup_(k_weight_freep) struct k_weight *narrow = NULL, *wide = NULL;
    struct k_ctx ctx;

    for (size_t p = 0; p < ARRAY_SIZE(all); p++) {
        if (k_ctx_init(&ctx, all[p] ? K_BACKEND_CPU : K_BACKEND_REF, all[p], NULL) < 0)
            continue;
        static char room[1 << 23] __attribute__((aligned(64)));
        ctx.workspace = room;
        ctx.workspace_bytes = sizeof room;
        k_weight_free(TAKE_PTR(narrow));
        k_weight_free(TAKE_PTR(wide));
        CHECK_EQ(k_weight_new(&ctx, K_E4M3, 1, 2, 4, &part, 1, &narrow, NULL), 0, "");
        CHECK_EQ(k_weight_plain(&ctx, K_F32, 1, 2, 4, x, &wide, NULL), 0, "");
        struct k_linear a = {
            .y = k_tensor_2d(x + 100, K_F32, 3, 2), .x = k_tensor_2d(x, K_E4M3, 3, 4), .w = narrow};
        CHECK_EQ(k_linear(&ctx, &a), -EINVAL, "%s: no scales", ctx.path);
        a.x.scale = scale;
        a.x.scale_kind = K_SCALE_TOKENS;
        CHECK_EQ(k_linear(&ctx, &a), -EINVAL, "%s: scales of another kind", ctx.path);
        a.x.scale_kind = K_SCALE_TILES;
        CHECK_EQ(k_linear(&ctx, &a), 0, "%s", ctx.path);
        a.w = wide;
        CHECK_EQ(k_linear(&ctx, &a), -EINVAL, "%s: weights in float32", ctx.path);
        a.x = k_tensor_2d(x, K_F32, 3, 4);
        a.sum = K_SUM_HOPPER14;
        CHECK_EQ(k_linear(&ctx, &a), -EINVAL, "%s: Hopper's sums of float32", ctx.path);
        struct k_quantize q = {.x = a.x,
                               .y = k_tensor_2d(x + 50, K_E5M6, 3, 4),
                               .scale = k_tensor_2d(scale, K_F32, 1, 3)};
        CHECK_EQ(k_quantize(&ctx, &q), -EINVAL, "%s: no kind of scales", ctx.path);
        q.y.scale_kind = K_SCALE_TILES;
        CHECK_EQ(k_quantize(&ctx, &q), 0, "%s", ctx.path);
        q.y.stride[0] = 5;
        CHECK_EQ(k_quantize(&ctx, &q), -EINVAL, "%s: half a byte between rows", ctx.path);
        q.y.stride[0] = 4;
        q.scale.shape[1] = 4;
        CHECK_EQ(k_quantize(&ctx, &q), -EINVAL, "%s: too many scales", ctx.path);
    }
}

TEST(weights_that_do_not_fit)
{
    float x[64] = {0};
    struct k_weight *w = NULL;
    struct k_ctx ctx;
    const struct k_weight_part part = {.data = x, .n_out = 2}, scaled = {x, x, 2, 0};
    const struct k_weight_part uneven[2] = {
        {.data = x, .n_out = 2},
        {.data = x, .n_out = 3}
    };
    const struct {
        enum k_dtype dtype;
        int64_t n_groups, n_out, n_in;
        const struct k_weight_part *parts;
        int r;
    } cases[] = {
        {K_F32,  1, 2, 4,  &part,   0      },
        {K_F32,  1, 3, 4,  &part,   -EINVAL}, // rows missing
        {K_F32,  1, 2, 4,  &scaled, -EINVAL},
        {K_E4M3, 1, 2, 4,  &part,   -EINVAL}, // no scales
        {K_E4M3, 1, 2, 4,  &scaled, 0      },
        {K_Q8,   1, 2, 32, &scaled, 0      },
        {K_Q8,   1, 2, 33, &scaled, -EINVAL},
        {K_I32,  1, 2, 4,  &part,   -EINVAL},
        {K_E5M6, 1, 2, 4,  &scaled, -EINVAL},
        {K_F32,  2, 2, 4,  uneven,  -EINVAL},
    };

    CHECK_EQ(k_ctx_init(&ctx, K_BACKEND_REF, NULL, NULL), 0, "");
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        CHECK_EQ(k_weight_new(&ctx, cases[i].dtype, cases[i].n_groups, cases[i].n_out,
                              cases[i].n_in, cases[i].parts, 1, &w, NULL),
                 cases[i].r, "%zu", i);
        if (cases[i].r == 0)
            k_weight_free(w);
    }
}

static void count_fallback(void *userdata, const char *op, const char *path) {
    *(int *)userdata += strcmp(op, "embed") == 0 && path[0] == 'a';
}

TEST(fallback_is_told_once)
{
    float w[4] = {1, 2, 3, 4}, y[2] = {0};
    int32_t id = 1;
    int n_told = 0;
    struct k_ctx ctx;
    struct k_embed a = {.y = k_tensor_2d(y, K_F32, 1, 2), .ids = k_tensor_1d(&id, K_I32, 1)};
    _cleanup_(k_weight_freep) struct k_weight *weight = NULL;

    if (k_ctx_init(&ctx, K_BACKEND_CPU, NULL, NULL) < 0 || strcmp(ctx.path, "ref") == 0)
        SKIP("no vector path on this processor");
    CHECK_EQ(k_weight_plain(&ctx, K_F32, 1, 2, 2, w, &weight, NULL), 0, "");
    a.w = weight;
    ctx.on_fallback = count_fallback;
    ctx.userdata = &n_told;
    CHECK_EQ(k_embed(&ctx, &a), 0, "");
    CHECK_EQ(k_embed(&ctx, &a), 0, "");
    CHECK_EQ(n_told, 1, "");
    CHECK(y[0] == 3 && y[1] == 4, "");
}

/* One damaged key: no row that sees it may come out as a plausible number. */
static void check_damaged_key(struct k_ctx *ctx, int64_t n, int64_t damaged) {
    enum { D = 8, N_MAX = 40 };
    float q[N_MAX * D], k[N_MAX * D], v[N_MAX * D], y[N_MAX * D];
    int32_t start[] = {0, (int32_t)n}, length = (int32_t)n;
    struct k_attention a = {.y = k_tensor_3d(y, K_F32, n, 1, D),
                            .q = k_tensor_3d(q, K_F32, n, 1, D),
                            .k = k_tensor_3d(k, K_F32, n, 1, D),
                            .v = k_tensor_3d(v, K_F32, n, 1, D),
                            .q_start = k_tensor_1d(start, K_I32, 2),
                            .kv_length = k_tensor_1d(&length, K_I32, 1),
                            .scale = 1};

    for (int64_t i = 0; i < n * D; i++)
        q[i] = k[i] = v[i] = (float)(i % 5) * 0.25f;
    k[damaged * D] = NAN;
    _cleanup_free_ void *work = hai_alloc(k_attention_workspace(ctx, &a) + 64);
    ctx->workspace = (void *)(((uintptr_t)work + 63) & ~(uintptr_t)63);
    ctx->workspace_bytes = k_attention_workspace(ctx, &a);
    CHECK_EQ(k_attention(ctx, &a), 0, "");
    for (int64_t i = 0; i < n; i++)
        CHECK(isnan(y[i * D]) == (i >= damaged), "%s: row %lld of %lld, key %lld: %g", ctx->path,
              (long long)i, (long long)n, (long long)damaged, (double)y[i * D]);
}

TEST(a_nan_stays_one)
{
    for (size_t p = 0; p <= ARRAY_SIZE(paths); p++) {
        struct k_ctx ctx;
        bool ref = p == ARRAY_SIZE(paths);
        if (k_ctx_init(&ctx, ref ? K_BACKEND_REF : K_BACKEND_CPU, ref ? NULL : paths[p], NULL) < 0)
            continue;
        check_damaged_key(&ctx, 1, 0);
        check_damaged_key(&ctx, 37, 0);
        check_damaged_key(&ctx, 37, 20);
        check_damaged_key(&ctx, 40, 39);
    }
}

enum { DAMAGED_KEYS = 70, DAMAGED_HEADS = 4, DAMAGED_D = 20 };

/* A damaged value of one key: rows before it keep their bits, those from it on show it. */
static void check_damaged_value(struct k_ctx *ctx, struct k_attention *a, uint16_t *v,
                                int64_t damaged, uint16_t bits, int64_t n) {
    static float whole[DAMAGED_KEYS * DAMAGED_HEADS * DAMAGED_D];
    int64_t row = DAMAGED_HEADS * DAMAGED_D;
    int64_t page = ((const int32_t *)a->pages.data)[damaged / a->page_tokens];
    int64_t at = (page * a->page_tokens + damaged % a->page_tokens) * a->v.stride[0] + 3;
    const float *y = a->y.data;
    int32_t start[] = {0, (int32_t)n}, length = DAMAGED_KEYS;
    uint16_t kept = v[at];

    a->q_start = k_tensor_1d(start, K_I32, 2);
    a->kv_length = k_tensor_1d(&length, K_I32, 1);
    a->q.shape[0] = a->y.shape[0] = n;
    CHECK_EQ(k_attention(ctx, a), 0, "");
    memcpy(whole, y, (size_t)(n * row) * sizeof *y);
    v[at] = bits;
    CHECK_EQ(k_attention(ctx, a), 0, "");
    v[at] = kept;
    for (int64_t i = 0; i < n * row; i++)
        if (DAMAGED_KEYS - n + i / row < damaged || i % DAMAGED_D != 3 || i % row >= row / 2)
            CHECK(memcmp(&y[i], &whole[i], sizeof *y) == 0, "%s: value 0x%x of key %lld: y[%lld]",
                  ctx->path, bits, (long long)damaged, (long long)i);
        else
            CHECK(!isfinite(y[i]), "%s: value 0x%x of key %lld: y[%lld]", ctx->path, bits,
                  (long long)damaged, (long long)i);
}

/* Keys of a later query are not there for the ones before, whatever their values. */
TEST(a_damaged_value_stays_behind)
{
    static float q[DAMAGED_KEYS * DAMAGED_HEADS * DAMAGED_D], y[ARRAY_SIZE(q)];
    static uint16_t k[(DAMAGED_KEYS + 10) * 2 * DAMAGED_D], v[ARRAY_SIZE(k)];
    static const int64_t keys[] = {0, 1, 37, 63, 64, 69}, queries[] = {DAMAGED_KEYS, 9, 1};
    static const uint16_t bits[] = {0x7e00, 0x7c00, 0xfc00}; // NaN, infinite
    int32_t pages[] = {3, 1, 0, 2};
    struct k_attention a = {
        .q = k_tensor_3d(q, K_F32, DAMAGED_KEYS, DAMAGED_HEADS, DAMAGED_D),
        .y = k_tensor_3d(y, K_F32, DAMAGED_KEYS, DAMAGED_HEADS, DAMAGED_D),
        .k = k_tensor_3d(k, K_F16, DAMAGED_KEYS + 10, 2, DAMAGED_D),
        .v = k_tensor_3d(v, K_F16, DAMAGED_KEYS + 10, 2, DAMAGED_D),
        .pages = k_tensor_2d(pages, K_I32, 1, ARRAY_SIZE(pages)),
        .page_tokens = 20,
        .scale = 0.25f,
    };

    for (size_t i = 0; i < ARRAY_SIZE(q); i++)
        q[i] = (float)((i * 7919 + i / 13) % 1024) / 512 - 1;
    for (size_t i = 0; i < ARRAY_SIZE(k); i++)
        k[i] = v[i] = k_to_f16((float)((i * 104729 + i / 7) % 2048) / 512 - 2);
    for (size_t p = 0; p <= ARRAY_SIZE(paths); p++)
        for (size_t i = 0; i < ARRAY_SIZE(keys) * ARRAY_SIZE(bits) * ARRAY_SIZE(queries); i++) {
            struct k_ctx ctx;
            bool ref = p == ARRAY_SIZE(paths);
            if (k_ctx_init(&ctx, ref ? K_BACKEND_REF : K_BACKEND_CPU, ref ? NULL : paths[p], NULL) <
                0)
                continue;
            ctx.workspace_bytes = (k_attention_workspace(&ctx, &a) + 63) / 64 * 64;
            ctx.workspace = aligned_alloc(64, ctx.workspace_bytes + 64);
            check_damaged_value(&ctx, &a, v, keys[i % ARRAY_SIZE(keys)],
                                bits[i / ARRAY_SIZE(keys) % ARRAY_SIZE(bits)],
                                queries[i / ARRAY_SIZE(keys) / ARRAY_SIZE(bits)]);
            free(ctx.workspace);
        }
}

/* A group of activations below 2^-100 counts as zero, on every path. */
TEST(tiny_activations_are_zero)
{
    enum { N = 64, ROWS = 9, N_OUT = 20 };
    static const float sizes[] = {0x1p-101f, -0x1p-120f, 0x1p-140f, 0x1p-99f};
    static const enum k_dtype dtypes[] = {K_Q8, K_Q4};

    for (size_t i = 0; i < 3 * ARRAY_SIZE(sizes) * ARRAY_SIZE(dtypes); i++) {
        struct kernel_made s = {.seed = 7, .n_bytes_max = 1 << 20};
        size_t p = i / ARRAY_SIZE(sizes) / ARRAY_SIZE(dtypes);
        float size = sizes[i % ARRAY_SIZE(sizes)];
        struct k_ctx ctx;
        bool ref = p == ARRAY_SIZE(paths);
        if (k_ctx_init(&ctx, ref ? K_BACKEND_REF : K_BACKEND_CPU, ref ? NULL : paths[p], NULL) < 0)
            continue;
        s.memory = hai_alloc(s.n_bytes_max);
        struct k_linear a = {
            .x = f2(&s, ROWS, N),
            .w = weights(&ctx, &s, dtypes[i / ARRAY_SIZE(sizes) % 2], 1, N_OUT, N, false),
            .y = f2(&s, ROWS, N_OUT)};
        for (int k = 0; k < ROWS * N; k++)
            ((float *)a.x.data)[k] = size;
        run_rows(&ctx, &a, 0, ROWS);
        for (int k = 0; k < ROWS * N_OUT; k++)
            CHECK((((float *)a.y.data)[k] != 0) == (size == 0x1p-99f), "%s %g: %g", ctx.path,
                  (double)size, (double)((float *)a.y.data)[k]);
        drop_weights(&s);
        free(s.memory);
    }
}

/* Of one row of x a number that is none, too large or too small changes that row alone, and as in
 * ref. */
static void check_odd_input(const char *path, float odd, int64_t rows) {
    enum { N_IN = 75, N_OUT = 20, ROW = 1 };
    struct kernel_made s = {.seed = 7, .n_bytes_max = 1 << 20};
    struct k_ctx ref, ctx;

    if (k_ctx_init(&ctx, K_BACKEND_CPU, path, NULL) < 0)
        return;
    CHECK_EQ(k_ctx_init(&ref, K_BACKEND_REF, NULL, NULL), 0, "");
    s.memory = hai_alloc(s.n_bytes_max);
    struct k_linear a = {.x = f2(&s, rows, N_IN),
                         .w = weights(&ctx, &s, K_BF16, 1, N_OUT, N_IN, false),
                         .y = f2(&s, rows, N_OUT)};
    struct k_linear want = a;
    want.y = f2(&s, rows, N_OUT);
    ((float *)a.x.data)[ROW * N_IN + 70] = odd;
    run_rows(&ctx, &a, 0, rows);
    run_rows(&ref, &want, 0, rows);
    for (int64_t i = 0; i < rows * N_OUT; i++) {
        double y = value(&a.y, i), wanted = value(&want.y, i);
        CHECK(isfinite(wanted) ? fabs(y - wanted) <= tolerance * (fabs(wanted) + 10)
                               : isnan(y) == isnan(wanted) && (isnan(y) || y == wanted),
              "%s, x %g, %lld rows: y[%lld] is %g, not %g", path, (double)odd, (long long)rows,
              (long long)i, y, wanted);
    }
    drop_weights(&s);
    free(s.memory);
}

TEST(odd_inputs)
{
    static const uint32_t bits[] = {0x7f800000, 0xff800000, 0x7f800001, 0x7fc00000, 0xffffffff,
                                    0x7f7fffff, 0x00000001, 0x80000000, 0x0b800001};
    static const int64_t rows[] = {2, 8, 37};

    for (size_t p = 0; p < ARRAY_SIZE(paths); p++)
        for (size_t i = 0; i < ARRAY_SIZE(bits) * ARRAY_SIZE(rows); i++) {
            float odd;
            memcpy(&odd, &bits[i % ARRAY_SIZE(bits)], sizeof odd);
            check_odd_input(paths[p], odd, rows[i / ARRAY_SIZE(bits)]);
        }
}

/* Scores that are all zero in float32: no gradient, and no division by their sum. */
TEST(vanished_scores)
{
    enum { E = 4, K = 2 };
    float logits[E] = {-200, -201, -202, -203}, scores[E], weights[K], f[E], dlogits[E];
    float dweights[K] = {1, -1};
    int32_t experts[K], start[2] = {0, 1};
    double loss[K_BALANCE_COUNT] = {0};
    struct k_ctx ctx;
    struct k_tensor seq = k_tensor_1d(start, K_I32, 2), s = k_tensor_2d(scores, K_F32, 1, E);
    struct k_tensor x = k_tensor_2d(experts, K_I32, 1, K);

    CHECK_EQ(k_ctx_init(&ctx, K_BACKEND_REF, NULL, NULL), 0, "");
    CHECK_EQ(k_router(&ctx, &(struct k_router){.experts = x,
                                               .weights = k_tensor_2d(weights, K_F32, 1, K),
                                               .scores = s,
                                               .logits = k_tensor_2d(logits, K_F32, 1, E),
                                               .n_groups = 1,
                                               .group_best = 2,
                                               .group_top = 1,
                                               .normalise = true,
                                               .scaling = 1}),
             0, "");
    CHECK_EQ(k_balance(&ctx,
                       &(struct k_balance){
                           .loss = k_tensor_1d(loss, K_F64, K_BALANCE_COUNT),
                           .f = k_tensor_2d(f, K_F32, 1, E),
                           .scores = s,
                           .experts = x,
                           .span_start = seq,
                           .alpha = {1, 1, 1},
                           .n_groups = 2,
                           .max_groups = 1,
                           .balance_scale = 1
    }),
             0, "");
    CHECK_EQ(k_router_dx(&ctx, &(struct k_router_dx){.dlogits = k_tensor_2d(dlogits, K_F32, 1, E),
                                                     .dweights = k_tensor_2d(dweights, K_F32, 1, K),
                                                     .experts = x,
                                                     .scores = s,
                                                     .f = k_tensor_2d(f, K_F32, 1, E),
                                                     .span_start = seq,
                                                     .normalise = true,
                                                     .scaling = 1,
                                                     .balance_scale = 1}),
             0, "");
    CHECK(loss[0] == 0 && loss[1] == 0 && loss[2] == 0, "%g %g %g", loss[0], loss[1], loss[2]);
    for (int e = 0; e < E; e++)
        CHECK(dlogits[e] == 0, "expert %d: %g", e, (double)dlogits[e]);
}

TEST(workspace_too_small)
{
    float x[8] = {0};
    struct k_ctx ctx;
    struct k_linear a = {.x = k_tensor_2d(x, K_F32, 2, 2), .y = k_tensor_2d(x + 4, K_F32, 2, 2)};
    _cleanup_(k_weight_freep) struct k_weight *w = NULL;

    if (k_ctx_init(&ctx, K_BACKEND_CPU, NULL, NULL) < 0 || strcmp(ctx.path, "ref") == 0)
        SKIP("no vector path on this processor");
    CHECK_EQ(k_weight_plain(&ctx, K_F32, 1, 2, 2, x, &w, NULL), 0, "");
    a.w = w;
    CHECK(k_linear_workspace(&ctx, &a) > 0, "");
    CHECK_EQ(k_linear(&ctx, &a), -EINVAL, "");
}

TEST(kmath_against_libm)
{
    for (int i = -2000; i <= 2000; i++) {
        double x = i * 0.3531, s, c;
        CHECK(fabs(kmath_exp(x) / exp(x) - 1) < 5e-16 || exp(x) == 0 || isinf(exp(x)), "exp %g", x);
        kmath_sincos(x * 40, &s, &c);
        CHECK(fabs(s - sin(x * 40)) < 4e-16, "sin %g", x * 40);
        CHECK(fabs(c - cos(x * 40)) < 4e-16, "cos %g", x * 40);
        if (i > 0)
            CHECK(fabs(kmath_log(x) - log(x)) <= 4e-16 * fmax(1, fabs(log(x))), "log %g", x);
        CHECK(fabs(kmath_tanh(x / 100) - tanh(x / 100)) <= 5e-16 * fabs(tanh(x / 100)), "tanh %g",
              x / 100);
        CHECK(fabs(kmath_erf(x / 100) - erf(x / 100)) <= 2e-15 * fabs(erf(x / 100)), "erf %g",
              x / 100);
    }
    CHECK(isnan(kmath_tanh(NAN)) && isnan(kmath_erf(NAN)), "");
    CHECK(kmath_tanh(1e300) == 1 && kmath_erf(-1e300) == -1, "");
    CHECK(kmath_exp(-1000) == 0, "");
    CHECK(isinf(kmath_exp(710)), "");
    CHECK(isnan(kmath_exp(NAN)), "");
    CHECK(fabs(kmath_exp(-744) / 5e-324 - 2) < 1, "subnormal");
}

/* Known answers of the reference implementation (Random123, kat_vectors). */
TEST(philox_known_answers)
{
    static const struct {
        uint32_t counter[4];
        uint64_t key;
        uint32_t words[4];
    } known[] = {
        {{0, 0, 0, 0},                                     0,     {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u},                             ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         0x299f31d0a4093822ull,                                   {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        struct philox_counter counter;
        uint32_t words[4];
        memcpy(counter.word, known[i].counter, sizeof counter.word);
        philox_words(known[i].key, &counter, words);
        for (int k = 0; k < 4; k++)
            CHECK_EQ(words[k], known[i].words[k], "%zu", i);
    }
}
