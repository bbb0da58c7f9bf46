/* bench-cuda - times of the CUDA operators at shapes of real models.
 *
 * Bytes are those of all operands, each once, beside a copy on the device measured in the same run;
 * TFLOP/s of products stand beside cuBLAS's bf16 product of the same shape, if its library is found
 * (two bytes an operand there; ours takes float32 rows). Median of REPETITIONS samples, each of
 * enough calls to last SAMPLE_S. Prints rows of a Markdown table. Exit status 77: no GPU.
 */
#include "kernels/formats.h"
#include "tests/unit/kernel_made.h"

#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

enum {
    REPETITIONS = 5,
    WORKSPACE_BYTES = 1 << 26,
    COPY_BYTES = 1 << 30,
};

static const double SAMPLE_S = 0.01;

struct bench {
    struct k_ctx ctx;
    double copy_gb_s;
    void *blas, *product; // cublasGemmEx
    void *library;
};

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Seconds of n calls. */
static double sample(struct bench *b, int (*call)(struct k_ctx *, const void *), const void *arg,
                     int n) {
    double start = now_s();

    for (int i = 0; i < n; i++)
        if (call(&b->ctx, arg) < 0)
            return -1;
    if (k_finish(&b->ctx, NULL) < 0)
        return -1;
    return now_s() - start;
}

/* Seconds of one call; below 0: it failed. */
static double measure(struct bench *b, int (*call)(struct k_ctx *, const void *), const void *arg) {
    double times[REPETITIONS], once = sample(b, call, arg, 1);

    if (once < 0)
        return once;
    once = sample(b, call, arg, 3) / 3;
    int n = (int)(SAMPLE_S / (once > 1e-7 ? once : 1e-7)) + 1;
    n = MIN(n, 2000);
    for (int i = 0; i < REPETITIONS; i++)
        times[i] = sample(b, call, arg, n) / n;
    qsort(times, REPETITIONS, sizeof *times, ascending);
    return times[REPETITIONS / 2];
}

static void row(struct bench *b, const char *name, double s, double bytes, double flops,
                double peer_s) {
    if (s < 0) {
        printf("| %s | failed | | | | |\n", name);
        return;
    }
    printf("| %s | %.1f | %.0f | %.0f %% |", name, 1e6 * s, 1e-9 * bytes / s,
           100 * 1e-9 * bytes / s / b->copy_gb_s);
    if (flops > 0)
        printf(" %.1f |", 1e-12 * flops / s);
    else
        printf(" |");
    if (peer_s > 0)
        printf(" %.1f us, %.0f TFLOP/s |\n", 1e6 * peer_s, 1e-12 * flops / peer_s);
    else
        printf(" |\n");
    fflush(stdout);
}

/* Memory of the device with bell-shaped numbers, repeated every 1 MiB. */
static struct k_tensor device_numbers(struct bench *b, int n_dims, int64_t n0, int64_t n1,
                                      int64_t n2, enum k_dtype dtype) {
    enum { REPEAT = 1 << 20 };
    static float values[REPEAT / 4];
    struct k_tensor t = n_dims == 1   ? k_tensor_1d(NULL, dtype, n0)
                        : n_dims == 2 ? k_tensor_2d(NULL, dtype, n0, n1)
                                      : k_tensor_3d(NULL, dtype, n0, n1, n2);
    size_t n_bytes = (size_t)k_tensor_n_elements(&t) * k_dtype_bytes(dtype);

    if (values[0] == 0) {
        struct kernel_made made = {.memory = (char *)values, .n_bytes_max = REPEAT, .seed = 3};
        (void)numbers(&made, K_F32, 1, REPEAT / 4, 0, 0);
    }
    static uint16_t halves[REPEAT / 2];
    for (int i = 0; dtype != K_F32 && i < REPEAT / 2; i++)
        halves[i] = dtype == K_F16 ? k_to_f16(values[i / 2]) : k_to_bf16(values[i / 2]);
    if (k_memory_new(&b->ctx, n_bytes, &t.data, NULL) < 0) {
        fprintf(stderr, "bench-cuda: out of memory\n");
        exit(1);
    }
    for (size_t at = 0; at < n_bytes; at += REPEAT)
        (void)k_upload(&b->ctx, (char *)t.data + at, dtype == K_F32 ? (void *)values : halves,
                       MIN(n_bytes - at, (size_t)REPEAT));
    return t;
}

static struct k_tensor device_ints(struct bench *b, int64_t n, int32_t first, int32_t step,
                                   int32_t modulo) {
    struct k_tensor t = k_tensor_1d(NULL, K_I32, n);
    _cleanup_free_ int32_t *values = hai_new_array(int32_t, (size_t)n);

    for (int64_t i = 0; i < n; i++)
        values[i] = (int32_t)((first + step * i) % modulo);
    if (k_memory_new(&b->ctx, (size_t)n * 4, &t.data, NULL) < 0 ||
        k_upload(&b->ctx, t.data, values, (size_t)n * 4) < 0)
        exit(1);
    return t;
}

static void drop(struct bench *b, struct k_tensor t) {
    k_memory_free(&b->ctx, t.data);
}

/* Weights of zeros but for a few: speed does not depend on values. */
static struct k_weight *device_weights(struct bench *b, enum k_dtype dtype, int64_t n_groups,
                                       int64_t n_out, int64_t n_in) {
    bool quant = dtype == K_Q8 || dtype == K_Q4, eight = dtype == K_E4M3 || dtype == K_E5M2;
    size_t n_bytes =
        quant ? k_quant_bytes(dtype, n_out, n_in) : k_dtype_n_bytes(dtype, n_out * n_in);
    _cleanup_free_ uint8_t *data = hai_alloc(n_bytes);
    _cleanup_free_ float *scale = hai_alloc((size_t)(n_out * n_in / 8));
    struct k_weight_part parts[64];
    struct k_weight *w = NULL;

    assert(n_groups <= 64);
    for (size_t i = 0; i < n_bytes; i++)
        data[i] = i % 4 == 3 ? 0x3c : (uint8_t)(i * 37 & 0x3f);
    for (int64_t g = 0; g < n_groups; g++)
        parts[g] = (struct k_weight_part){
            .data = data, .scale = quant || eight ? scale : NULL, .n_out = n_out};
    if (k_weight_new(&b->ctx, dtype, n_groups, n_out, n_in, parts, 1, &w, NULL) < 0)
        exit(1);
    return w;
}

typedef int (*gemm)(void *handle, int trans_a, int trans_b, int m, int n, int k, const void *alpha,
                    const void *a, int type_a, int lda, const void *b, int type_b, int ldb,
                    const void *beta, void *c, int type_c, int ldc, int compute, int algorithm);

struct peer {
    struct bench *b;
    const void *w, *x;
    void *y;
    int rows, n_out, n_in;
};

/* Values of cudaDataType and cublasComputeType_t: bf16 14, float32 0, sums in float32 68. */
static int call_peer(struct k_ctx *ctx, const void *arg) {
    const struct peer *p = arg;
    const float one = 1, zero = 0;
    gemm product = (gemm)p->b->product;

    return product(p->b->blas, 1, 0, p->n_out, p->rows, p->n_in, &one, p->w, 14, p->n_in, p->x, 14,
                   p->n_in, &zero, p->y, 0, p->n_out, 68, -1) == 0
               ? 0
               : -EIO;
}

static double measure_peer(struct bench *b, int rows, int n_out, int n_in) {
    struct peer p = {.b = b, .rows = rows, .n_out = n_out, .n_in = n_in};

    if (!b->product)
        return -1;
    struct k_tensor w = device_numbers(b, 2, n_out, n_in, 0, K_BF16);
    struct k_tensor x = device_numbers(b, 2, rows, n_in, 0, K_BF16);
    struct k_tensor y = device_numbers(b, 2, rows, n_out, 0, K_F32);
    p.w = w.data, p.x = x.data, p.y = y.data;
    double s = measure(b, call_peer, &p);
    drop(b, w);
    drop(b, x);
    drop(b, y);
    return s;
}

static void open_peer(struct bench *b) {
    int (*create)(void **);

    b->library = dlopen("libcublas.so.13", RTLD_NOW);
    if (!b->library)
        b->library = dlopen("libcublas.so", RTLD_NOW);
    if (!b->library)
        return;
    *(void **)&create = dlsym(b->library, "cublasCreate_v2");
    if (create && create(&b->blas) == 0)
        b->product = dlsym(b->library, "cublasGemmEx");
}

static void bench_linear(struct bench *b, enum k_dtype dtype, int rows, int n_out, int n_in) {
    char name[96];
    struct k_weight *w = device_weights(b, dtype, 1, n_out, n_in);
    struct k_linear a = {.x = device_numbers(b, 2, rows, n_in, 0, K_F32),
                         .y = device_numbers(b, 2, rows, n_out, 0, K_F32),
                         .w = w};
    double bytes = (double)k_weight_bytes(w) + 4.0 * rows * (n_in + n_out);

    snprintf(name, sizeof name, "linear %s, %d rows, %d x %d", k_dtype_name(dtype), rows, n_out,
             n_in);
    double s = measure(b, call_linear, &a);
    row(b, name, s, bytes, 2.0 * rows * n_out * n_in,
        dtype == K_BF16 ? measure_peer(b, rows, n_out, n_in) : -1);
    drop(b, a.x);
    drop(b, a.y);
    k_weight_free(w);
}

/* Experts with as many rows each. */
static void bench_grouped(struct bench *b, int rows, int n_groups, int n_out, int n_in) {
    char name[96];
    struct k_weight *w = device_weights(b, K_BF16, n_groups, n_out, n_in);
    struct k_linear a = {.x = device_numbers(b, 2, rows, n_in, 0, K_F32),
                         .y = device_numbers(b, 2, rows, n_out, 0, K_F32),
                         .row_start = device_ints(b, n_groups + 1, 0, rows / n_groups, INT32_MAX),
                         .w = w};

    snprintf(name, sizeof name, "linear BF16, %d rows of %d experts, %d x %d", rows, n_groups,
             n_out, n_in);
    row(b, name, measure(b, call_linear, &a),
        (double)k_weight_bytes(w) + 4.0 * rows * (n_in + n_out), 2.0 * rows * n_out * n_in, -1);
    drop(b, a.x);
    drop(b, a.y);
    drop(b, a.row_start);
    k_weight_free(w);
}

static void bench_attention(struct bench *b, int n_seqs, int queries, int keys) {
    enum { H = 32, KV = 8, DIM = 128, PAGE_TOKENS = 64 };
    char name[96];
    int n_pages = (keys + PAGE_TOKENS - 1) / PAGE_TOKENS;
    int64_t t = (int64_t)n_seqs * queries, rows = (int64_t)n_seqs * n_pages * PAGE_TOKENS;
    struct k_attention a = {
        .q = device_numbers(b, 3, t, H, DIM, K_F32),
        .y = device_numbers(b, 3, t, H, DIM, K_F32),
        .k = device_numbers(b, 3, rows, KV, DIM, K_F16),
        .v = device_numbers(b, 3, rows, KV, DIM, K_F16),
        .q_start = device_ints(b, n_seqs + 1, 0, queries, INT32_MAX),
        .kv_length = device_ints(b, n_seqs, keys, 0, INT32_MAX),
        .pages = device_ints(b, (int64_t)n_seqs * n_pages, 0, 1, INT32_MAX),
        .page_tokens = PAGE_TOKENS,
        .scale = 0.088f,
    };
    a.pages = k_tensor_2d(a.pages.data, K_I32, n_seqs, n_pages);
    double seen = (double)t * (keys - (queries - 1) / 2.0);
    double bytes = 2.0 * 2 * (double)rows * KV * DIM + 2.0 * 4 * (double)t * H * DIM;

    snprintf(name, sizeof name, "attention F16 paged, %d x %d queries, %d keys, 32/8 heads of 128",
             n_seqs, queries, keys);
    row(b, name, measure(b, call_attention, &a), bytes, 4.0 * seen * H * DIM, -1);
    drop(b, a.q);
    drop(b, a.y);
    drop(b, a.k);
    drop(b, a.v);
    drop(b, a.q_start);
    drop(b, a.kv_length);
    drop(b, a.pages);
}

static void bench_rows(struct bench *b, int t) {
    enum { DIM = 4096, HIDDEN = 14336, H = 32, E = 256, SLOTS = 8 };
    char name[96];
    double n = (double)t;
    struct k_tensor x = device_numbers(b, 2, t, HIDDEN, 0, K_F32);
    struct k_tensor y = device_numbers(b, 2, t, HIDDEN, 0, K_F32);
    struct k_tensor z = device_numbers(b, 2, t, HIDDEN, 0, K_F32);
    struct k_tensor weight = device_numbers(b, 1, DIM, 0, 0, K_F32);
    struct k_tensor cosine = device_numbers(b, 2, 4096, 64, 0, K_F32);
    struct k_tensor position = device_ints(b, t, 0, 1, 4096);
    struct k_tensor experts = device_ints(b, (int64_t)t * SLOTS, 0, 1, E);
    struct k_tensor pair = device_ints(b, (int64_t)t * SLOTS, 0, 1, t * SLOTS);
    struct k_tensor token = device_ints(b, (int64_t)t * SLOTS, 0, 1, t);
    struct k_tensor start = device_ints(b, E + 1, 0, 0, 1);
    struct k_tensor wide = device_numbers(b, 2, (int64_t)t * SLOTS, DIM, 0, K_F32);
    struct k_tensor cache = device_numbers(b, 3, 2 * t, 8, 128, K_F16);

#define ROW(op, bytes, ...)                                                                        \
    do {                                                                                           \
        struct k_##op arg = {__VA_ARGS__};                                                         \
        snprintf(name, sizeof name, #op ", %d rows", t);                                           \
        row(b, name, measure(b, call_##op, &arg), bytes, 0, -1);                                   \
    } while (0)
    ROW(rmsnorm, 8.0 * n * DIM, .x = k_tensor_2d(x.data, K_F32, t, DIM),
        .y = k_tensor_2d(y.data, K_F32, t, DIM), .weight = weight, .eps = 1e-6f);
    ROW(rope, 8.0 * n * DIM, .x = k_tensor_3d(x.data, K_F32, t, H, 128), .cosine = cosine,
        .sine = cosine, .position = position);
    ROW(swiglu, 12.0 * n * HIDDEN, .gate = x, .up = y, .y = z);
    ROW(copy, 8.0 * n * DIM, .x = k_tensor_3d(x.data, K_F32, t, H, 128),
        .y = k_tensor_3d(y.data, K_F32, t, H, 128));
    ROW(cache_put, 6.0 * n * 1024, .cache = cache, .x = k_tensor_3d(x.data, K_F32, t, 8, 128),
        .row = position);
    ROW(quantize, 5.0 * n * DIM, .x = k_tensor_2d(x.data, K_F32, t, DIM),
        .y = k_tensor_2d(y.data, K_E4M3, t, DIM),
        .scale = k_tensor_2d(z.data, K_F32, DIM / 128, t));
    ROW(router, 4.0 * n * (2 * E + 2 * SLOTS), .logits = k_tensor_2d(x.data, K_F32, t, E),
        .scores = k_tensor_2d(y.data, K_F32, t, E), .weights = k_tensor_2d(z.data, K_F32, t, SLOTS),
        .experts = k_tensor_2d(token.data, K_I32, t, SLOTS), .n_groups = 8, .group_best = 2,
        .group_top = 4, .normalise = true, .scaling = 1);
    ROW(route_sort, 4.0 * n * 3 * SLOTS, .row_start = start, .row_token = token,
        .pair_row = k_tensor_2d(pair.data, K_I32, t, SLOTS),
        .experts = k_tensor_2d(experts.data, K_I32, t, SLOTS));
    ROW(gather, 4.0 * n * DIM * (1 + SLOTS), .x = k_tensor_2d(x.data, K_F32, t, DIM), .y = wide,
        .row_token = token);
    ROW(combine, 4.0 * n * DIM * (2 + SLOTS), .x = wide, .y = k_tensor_2d(y.data, K_F32, t, DIM),
        .pair_row = k_tensor_2d(pair.data, K_I32, t, SLOTS),
        .weights = k_tensor_2d(z.data, K_F32, t, SLOTS));
#undef ROW
    const struct k_tensor all[] = {x,       y,    z,     weight, cosine, position,
                                   experts, pair, token, start,  wide,   cache};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        drop(b, all[i]);
}

static void bench_copy(struct bench *b) {
    struct k_copy a = {.x = device_numbers(b, 3, COPY_BYTES / 4 / 4096, 1, 4096, K_F32),
                       .y = device_numbers(b, 3, COPY_BYTES / 4 / 4096, 1, 4096, K_F32)};

    double s = measure(b, call_copy, &a);
    b->copy_gb_s = 2e-9 * COPY_BYTES / s;
    row(b, "copy of 1 GiB (the measure)", s, 2.0 * COPY_BYTES, 0, -1);
    drop(b, a.x);
    drop(b, a.y);
}

int main(void) {
    static const enum k_dtype dtypes[] = {K_BF16, K_F16, K_F32, K_E4M3, K_E5M2, K_Q8, K_Q4};
    struct bench b = {0};
    struct hai_err err = {0};

    if (k_ctx_init(&b.ctx, K_BACKEND_CUDA, NULL, &err) < 0) {
        printf("skipped: %s\n", err.text);
        return 77;
    }
    if (k_memory_new(&b.ctx, WORKSPACE_BYTES, &b.ctx.workspace, &err) < 0) {
        fprintf(stderr, "bench-cuda: %s\n", err.text);
        return 1;
    }
    b.ctx.workspace_bytes = WORKSPACE_BYTES;
    open_peer(&b);
    printf(
        "| operator | us | GB/s | of copy | TFLOP/s | cuBLAS bf16 |\n|---|---|---|---|---|---|\n");
    bench_copy(&b);
    for (size_t i = 0; i < ARRAY_SIZE(dtypes); i++)
        bench_linear(&b, dtypes[i], 1, 4096, 4096);
    bench_linear(&b, K_BF16, 1, 14336, 4096);
    bench_linear(&b, K_BF16, 8, 4096, 4096);
    bench_linear(&b, K_BF16, 32, 4096, 4096);
    for (size_t i = 0; i < ARRAY_SIZE(dtypes); i++)
        bench_linear(&b, dtypes[i], 4096, 4096, 4096);
    bench_grouped(&b, 64, 64, 2048, 4096);
    bench_grouped(&b, 8192, 64, 2048, 4096);
    bench_attention(&b, 1, 1, 8192);
    bench_attention(&b, 32, 1, 4096);
    bench_attention(&b, 1, 1024, 1024);
    bench_rows(&b, 1);
    bench_rows(&b, 4096);
    return 0;
}
