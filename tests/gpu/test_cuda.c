/* Every operator that CUDA has against ref, over the cases of tests/unit, with their tolerance; and
 * bits of rows alone against rows together. A case is prepared on the host; its memory is copied to
 * the device as a whole, with the pointers of its operands moved there. */
#include "kernels/weight.h"
#include "tests/unit/kernel_cases.h"
#include "tests/unit/test.h"

#include <math.h>

/* |a - b| <= tolerance * (|b| + rms of b). */
static const double tolerance = 3e-5;

enum { OPERATOR_BYTES_MAX = 1024 };

static const size_t operator_bytes[] = {
#define X(op) sizeof(struct k_##op),
    K_OPS(X)
#undef X
};

/* Operators that CUDA does not have, those of training, and cases of others that training has. */
static const char *const missing[] = {
    "embed_dw",     "rmsnorm_dx",  "rmsnorm_dw", "linear_dx",  "linear_dw",
    "attention_dx", "swiglu_dx",   "balance",    "router_dx",  "route_drop",
    "combine_dx",   "sum_squares", "adamw",      "dequantize",
};
static const char *const missing_cases[] = {
    "linear_e5m2_x", "linear_bf16_x", "quantize_blocks", "quantize_tokens",
    "quantize_e5m6", "quantize_bf16", "quantize_turned", "quantize_e5m6_turned",
};

/* One prepared case on the device. */
struct moved {
    char *memory; // of the device, as long as the host's
    char arg[OPERATOR_BYTES_MAX];
    struct k_weight *weight;
};

/* The operator that a case is named after: the longest name it begins with. */
static enum k_op operator_of(const char *name) {
    enum k_op best = K_OP_COUNT;
    size_t longest = 0;

    for (int op = 0; op < K_OP_COUNT; op++) {
        size_t n = strlen(k_op_name((enum k_op)op));
        if (n > longest && strncmp(name, k_op_name((enum k_op)op), n) == 0 &&
            (name[n] == 0 || name[n] == '_')) {
            best = (enum k_op)op;
            longest = n;
        }
    }
    assert(best < K_OP_COUNT);
    return best;
}

static bool is_missing(const char *name, enum k_op op) {
    for (size_t i = 0; i < ARRAY_SIZE(missing); i++)
        if (hai_streq(missing[i], k_op_name(op)))
            return true;
    for (size_t i = 0; i < ARRAY_SIZE(missing_cases); i++)
        if (hai_streq(missing_cases[i], name))
            return true;
    return false;
}

static const void *shift(const struct kernel_made *made, const struct moved *m, const void *p) {
    uintptr_t at = (uintptr_t)p - (uintptr_t)made->memory;

    return p && at < made->n_bytes ? m->memory + at : p;
}

static int move_operands(struct k_ctx *ctx, const struct kernel_made *made, enum k_op op,
                         struct moved *m) {
    int n_operands;
    const struct k_operand *operands = k_operands(&n_operands);

    memcpy(m->arg, made->arg, operator_bytes[op]);
    for (int i = 0; i < n_operands; i++) {
        void *at = m->arg + operands[i].offset;
        if (operands[i].op != op)
            continue;
        if (!operands[i].weight) {
            struct k_tensor *t = at;
            t->data = (void *)(uintptr_t)shift(made, m, t->data);
            t->scale = shift(made, m, t->scale);
            continue;
        }
        const struct k_weight *w = *(struct k_weight **)at;
        int r = k_weight_new(ctx, w->dtype, w->n_groups, w->n_out, w->n_in, w->parts, w->n_parts,
                             &m->weight, NULL);
        if (r < 0)
            return r;
        *(struct k_weight **)at = m->weight;
    }
    return 0;
}

static int move_case(struct k_ctx *ctx, const struct kernel_bench *b, enum k_op op,
                     struct moved *m) {
    *m = (struct moved){0};
    assert(operator_bytes[op] <= sizeof m->arg);
    int r = k_memory_new(ctx, b->made.n_bytes, (void **)&m->memory, NULL);
    r = r < 0 ? r : k_upload(ctx, m->memory, b->made.memory, b->made.n_bytes);
    return r < 0 ? r : move_operands(ctx, &b->made, op, m);
}

static void drop_case(struct k_ctx *ctx, struct moved *m) {
    k_memory_free(ctx, m->memory);
    k_weight_free(m->weight);
}

/* Call with the workspace it asks for, and wait. */
static int call(struct k_ctx *ctx, const struct kernel_made *made, const void *arg) {
    ctx->measuring = true;
    ctx->measured_bytes = 0;
    int r = made->call(ctx, arg);
    ctx->measuring = false;
    if (r < 0)
        return r;
    ctx->workspace_bytes = ctx->measured_bytes;
    r = k_memory_new(ctx, ctx->measured_bytes + 64, &ctx->workspace, NULL);
    r = r < 0 ? r : made->call(ctx, arg);
    int finished = k_finish(ctx, NULL);
    k_memory_free(ctx, ctx->workspace);
    ctx->workspace = NULL;
    return r < 0 ? r : finished;
}

static double value(const struct k_tensor *t, const void *data, int64_t i) {
    switch (t->dtype) {
    case K_F64:
        return ((const double *)data)[i];
    case K_I32:
        return ((const int32_t *)data)[i];
    case K_BF16:
    case K_F16:
        return ((const uint16_t *)data)[i]; /* bits: they are to be the same */
    case K_E4M3:
        return ((const uint8_t *)data)[i];
    default:
        return (double)((const float *)data)[i];
    }
}

static void compare(const char *name, int size, const struct k_tensor *want, const void *got) {
    int64_t n = k_tensor_n_elements(want);
    double square = 0, worst = 0;

    for (int64_t i = 0; i < n; i++)
        square += value(want, want->data, i) * value(want, want->data, i);
    double rms = sqrt(square / (double)n);
    for (int64_t i = 0; i < n; i++) {
        double b = value(want, want->data, i);
        double d = fabs(value(want, got, i) - b) / (fabs(b) + rms + 1e-30);
        worst = isnan(worst) || d <= worst ? worst : d; // once NaN, it stays
    }
    bool exact = want->dtype != K_F32 && want->dtype != K_F64;
    CHECK(worst <= (exact ? 0 : tolerance), "%s size %d: off by %.3g", name, size, worst);
}

static void check_case(struct k_ctx *ctx, int number, int size) {
    const char *name = kernel_cases_name(number);
    enum k_op op = operator_of(name);
    struct kernel_bench b;
    struct moved m = {0};

    CHECK_EQ(kernel_cases_begin(&b, NULL, 1, number, size), 0, "%s", name);
    CHECK_EQ(kernel_cases_prepare(&b), 0, "%s", name);
    CHECK_EQ(move_case(ctx, &b, op, &m), 0, "%s", name);
    int r = call(ctx, &b.made, m.arg);
    CHECK_EQ(r, is_missing(name, op) ? -ENOTSUP : 0, "%s size %d", name, size);
    if (r == 0) {
        _cleanup_free_ char *got = hai_alloc(b.made.n_bytes);
        CHECK_EQ(k_download(ctx, got, m.memory, b.made.n_bytes), 0, "%s", name);
        CHECK_EQ(kernel_cases_run(&b), 0, "%s", name);
        for (int i = 0; i < b.made.n_outputs; i++)
            compare(name, size, b.made.outputs[i],
                    got + ((char *)b.made.outputs[i]->data - b.made.memory));
    }
    drop_case(ctx, &m);
    kernel_cases_end(&b);
}

/* False, and the test skipped, without a GPU. */
static bool open_device(struct k_ctx *ctx) {
    struct hai_err err = {0};

    int r = k_ctx_init(ctx, K_BACKEND_CUDA, NULL, &err);
    if (r < 0)
        test_skip(err.text);
    return r == 0;
}

TEST(against_ref)
{
    struct k_ctx ctx;

    if (!open_device(&ctx))
        return;
    for (int c = 0; c < kernel_cases_count(); c++)
        for (int size = 0; size < KERNEL_SIZES; size++)
            check_case(&ctx, c, size);
}

enum {
    ROWS = 130,
    N_OUT = 200,
    N_IN = 1184, // more than one unit of every kind in a segment, the last one short
    PRODUCT_BYTES = 1 << 24,
};

/* A product on the device of rows [first, first + n), from memory at x, with the bytes of y. */
static void product_of(struct k_ctx *ctx, const struct kernel_made *made, const struct moved *m,
                       int64_t first, int64_t n, float *ret) {
    struct k_linear a;

    memcpy(&a, m->arg, sizeof a);
    a.x.data = (float *)a.x.data + first * N_IN;
    a.x.shape[0] = a.y.shape[0] = n;
    CHECK_EQ(call(ctx, made, &a), 0, "");
    CHECK_EQ(k_download(ctx, ret, a.y.data, (size_t)(n * N_OUT) * sizeof *ret), 0, "");
}

/* Large and aligned products against ref, and any number of rows against all of them. */
static void check_product(struct k_ctx *ctx, enum k_dtype dtype) {
    static const int64_t numbers_of_rows[] = {1, 7, 33, 65};
    static float all[ROWS * N_OUT], some[ROWS * N_OUT];
    struct k_ctx ref;
    struct kernel_made made = {.seed = 5, .n_bytes_max = PRODUCT_BYTES, .call = call_linear};
    struct moved m = {0};

    CHECK_EQ(k_ctx_init(&ref, K_BACKEND_REF, NULL, NULL), 0, "");
    made.memory = hai_alloc(PRODUCT_BYTES);
    struct k_linear *a = take(&made, sizeof *a);
    *a = (struct k_linear){.x = f2(&made, ROWS, N_IN),
                           .w = weights(&ref, &made, dtype, 1, N_OUT, N_IN, true),
                           .y = f2(&made, ROWS, N_OUT)};
    made.arg = a;
    const struct kernel_bench b = {.made = made};
    CHECK_EQ(move_case(ctx, &b, K_OP_linear, &m), 0, "");
    product_of(ctx, &made, &m, 0, ROWS, all);
    CHECK_EQ(k_linear(&ref, a), 0, "");
    compare(k_dtype_name(dtype), ROWS, &a->y, all);
    for (size_t i = 0; i < ARRAY_SIZE(numbers_of_rows); i++)
        for (int64_t n = numbers_of_rows[i], first = 0; first + n <= ROWS; first += n + 20) {
            product_of(ctx, &made, &m, first, n, some);
            CHECK(memcmp(some, all + first * N_OUT, (size_t)(n * N_OUT) * sizeof *some) == 0,
                  "%s: %lld rows from %lld have other bits", k_dtype_name(dtype), (long long)n,
                  (long long)first);
        }
    drop_case(ctx, &m);
    drop_weights(&made);
    free(made.memory);
}

TEST(bits_of_products_do_not_depend_on_rows)
{
    static const enum k_dtype dtypes[] = {K_F32, K_BF16, K_F16, K_E4M3, K_E5M2, K_Q8, K_Q4};
    struct k_ctx ctx;

    if (!open_device(&ctx))
        return;
    for (size_t i = 0; i < ARRAY_SIZE(dtypes); i++)
        check_product(&ctx, dtypes[i]);
}

/* A group of activations below 2^-100 counts as zero, as on the CPU. */
TEST(tiny_activations_are_zero)
{
    static const enum k_dtype dtypes[] = {K_Q8, K_Q4};
    static const float sizes[] = {0x1p-101f, -0x1p-120f, 0x1p-99f};
    static float y[ROWS * N_OUT];
    struct k_ctx ctx, ref;

    if (!open_device(&ctx))
        return;
    CHECK_EQ(k_ctx_init(&ref, K_BACKEND_REF, NULL, NULL), 0, "");
    for (size_t i = 0; i < ARRAY_SIZE(dtypes) * ARRAY_SIZE(sizes); i++) {
        struct kernel_made made = {.seed = 5, .n_bytes_max = PRODUCT_BYTES, .call = call_linear};
        float size = sizes[i % ARRAY_SIZE(sizes)];
        struct moved m = {0};
        made.memory = hai_alloc(PRODUCT_BYTES);
        struct k_linear *a = take(&made, sizeof *a);
        *a = (struct k_linear){
            .x = f2(&made, ROWS, N_IN),
            .w = weights(&ref, &made, dtypes[i / ARRAY_SIZE(sizes)], 1, N_OUT, N_IN, true),
            .y = f2(&made, ROWS, N_OUT)};
        for (int k = 0; k < ROWS * N_IN; k++)
            ((float *)a->x.data)[k] = size;
        made.arg = a;
        const struct kernel_bench b = {.made = made};
        CHECK_EQ(move_case(&ctx, &b, K_OP_linear, &m), 0, "");
        product_of(&ctx, &made, &m, 0, ROWS, y);
        for (int k = 0; k < ROWS * N_OUT; k++)
            CHECK((y[k] != 0) == (size == 0x1p-99f), "%g: y[%d] is %g", (double)size, k,
                  (double)y[k]);
        drop_case(&ctx, &m);
        drop_weights(&made);
        free(made.memory);
    }
}

enum {
    KEYS = 1300,
    HEADS = 4,
    D = 32,
    PAGE = 16,
    PAGES = (KEYS + PAGE - 1) / PAGE,
};

/* The last n queries of one sequence of KEYS keys. */
static void attend_last(struct k_ctx *ctx, const struct kernel_made *made, const struct moved *m,
                        int64_t n, float *ret) {
    const int32_t q_start[] = {0, (int32_t)n};
    struct k_attention a;

    memcpy(&a, m->arg, sizeof a);
    a.q.data = (float *)a.q.data + (KEYS - n) * HEADS * D;
    a.q.shape[0] = a.y.shape[0] = n;
    CHECK_EQ(k_upload(ctx, a.q_start.data, q_start, sizeof q_start), 0, "");
    CHECK_EQ(call(ctx, made, &a), 0, "");
    CHECK_EQ(k_download(ctx, ret, a.y.data, (size_t)(n * HEADS * D) * sizeof *ret), 0, "");
}

/* A query has the same bits in a long chunk, in a short one whose keys are spread over blocks, and
 * alone. */
TEST(bits_of_attention_do_not_depend_on_chunks)
{
    static const int64_t numbers_of_queries[] = {1, 3, 200, 400};
    struct k_ctx ctx, ref;
    struct kernel_made made = {.seed = 5, .n_bytes_max = PRODUCT_BYTES, .call = call_attention};
    struct moved m = {0};

    if (!open_device(&ctx))
        return;
    CHECK_EQ(k_ctx_init(&ref, K_BACKEND_REF, NULL, NULL), 0, "");
    made.memory = hai_alloc(PRODUCT_BYTES);
    struct k_attention *a = take(&made, sizeof *a);
    *a = (struct k_attention){.q = f3(&made, KEYS, HEADS, D),
                              .k = f3(&made, PAGES * PAGE, 2, D),
                              .v = f3(&made, PAGES * PAGE, 2, D),
                              .y = f3(&made, KEYS, HEADS, D),
                              .q_start = ints(&made, 2, KEYS, true),
                              .kv_length = ints(&made, 1, 1, false),
                              .pages = ints(&made, PAGES, 1, false),
                              .page_tokens = PAGE,
                              .scale = 0.3f};
    ((int32_t *)a->kv_length.data)[0] = KEYS;
    for (int i = 0; i < PAGES; i++)
        ((int32_t *)a->pages.data)[i] = i * 37 % PAGES;
    a->pages = k_tensor_2d(a->pages.data, K_I32, 1, PAGES);
    made.arg = a;
    const struct kernel_bench b = {.made = made};
    CHECK_EQ(move_case(&ctx, &b, K_OP_attention, &m), 0, "");
    _cleanup_free_ float *all = hai_new_array(float, KEYS *HEADS *D);
    _cleanup_free_ float *some = hai_new_array(float, KEYS *HEADS *D);
    attend_last(&ctx, &made, &m, KEYS, all);
    CHECK_EQ(k_attention(&ref, a), 0, "");
    compare("attention of many keys", KEYS, &a->y, all);
    for (size_t i = 0; i < ARRAY_SIZE(numbers_of_queries); i++) {
        int64_t n = numbers_of_queries[i];
        attend_last(&ctx, &made, &m, n, some);
        CHECK(memcmp(some, all + (KEYS - n) * HEADS * D, (size_t)(n * HEADS * D) * sizeof *some) ==
                  0,
              "the last %lld queries have other bits", (long long)n);
    }
    drop_case(&ctx, &m);
    free(made.memory);
}

TEST(memory_and_events)
{
    struct k_ctx ctx;
    struct k_event *event = NULL;
    void *memory = NULL;
    char text[] = "abc", back[4] = {1, 1, 1, 1};

    for (int cuda = 0; cuda < 2; cuda++) {
        if (k_ctx_init(&ctx, cuda ? K_BACKEND_CUDA : K_BACKEND_REF, NULL, NULL) < 0)
            continue;
        CHECK_EQ(k_memory_new(&ctx, sizeof text, &memory, NULL), 0, "");
        CHECK_EQ(k_event_new(&ctx, &event, NULL), 0, "");
        CHECK_EQ(k_download(&ctx, back, memory, sizeof back), 0, "");
        CHECK(back[0] == 0 && back[3] == 0, "not zeroed");
        CHECK_EQ(k_upload(&ctx, memory, text, sizeof text), 0, "");
        CHECK_EQ(k_event_record(&ctx, event), 0, "");
        CHECK_EQ(k_event_wait(&ctx, event), 0, "");
        CHECK_EQ(k_download(&ctx, back, memory, sizeof back), 0, "");
        CHECK_STR(back, "abc", "");
        CHECK_EQ(k_finish(&ctx, NULL), 0, "");
        k_event_free(event);
        k_memory_free(&ctx, memory);
    }
}
