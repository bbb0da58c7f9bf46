/* bench_linear - products with weights of every type against the limits of this machine.
 *
 * The matrices are those of a Coder-1.3B in turn, as many of each as make BYTES_MIN in the type, so
 * that no cache holds them. Per type and number of rows: bytes of weights a second and their share
 * of the read bandwidth, products a second and their share of the peak (fused multiply-adds in
 * float32; 8-bit dot products for Q8 and Q4). The limits are measured before and after each
 * sample, in the same process and threads, because other programs share the machine: a share is the
 * median over the samples of rate / limit beside it.
 *
 * usage: bench-linear [THREADS [TYPE [ROWS]]]
 */
#include "kernels/kernels.h"
#include "kernels/peak.h"
#include "kernels/pool.h"
#include "kernels/quant.h"
#include "tests/bench/machine.h"

#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

enum {
    SAMPLES = 7,
    N_SHAPES = 4,
};

static const struct shape {
    int64_t n_out, n_in;
    int share; // matrices of this shape of every SHARES
} shapes[N_SHAPES] = {
    {2048,  2048, 8},
    {5504,  2048, 4},
    {2048,  5504, 2},
    {32256, 2048, 1},
};

static const double BYTES_MIN = 1.1e9;

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, ascending);
    return values[n / 2];
}

struct bench {
    struct k_ctx ctx;
    int n_threads;
    struct machine_memory memory; // of all weights
    struct k_weight *weights[512];
    int n_weights;
    float *x, *y;
};

static size_t matrix_bytes(enum k_dtype dtype, const struct shape *s, size_t *ret_scales) {
    if (dtype == K_Q8 || dtype == K_Q4) {
        *ret_scales = k_quant_scale_bytes(s->n_out, s->n_in);
        return k_quant_bytes(dtype, s->n_out, s->n_in);
    }
    *ret_scales = dtype == K_E4M3 || dtype == K_E5M2
                      ? (size_t)((s->n_out + 127) / 128 * ((s->n_in + 127) / 128)) * sizeof(float)
                      : 0;
    return k_dtype_n_bytes(dtype, s->n_out * s->n_in);
}

/* Codes of ordinary size in any of the types; scales of 1. */
static void fill(enum k_dtype dtype, char *data, size_t n_bytes, char *scale, size_t scale_bytes) {
    uint64_t state = n_bytes;
    uint64_t keep = dtype == K_F32    ? 0xbfffffff00000000ull >> 32 | 0xbfffffff00000000ull
                    : dtype == K_E4M3 ? 0xb7b7b7b7b7b7b7b7ull
                    : dtype == K_Q8 || dtype == K_Q4 ? ~0ull
                                                     : 0xbfffbfffbfffbfffull;

    for (size_t i = 0; i + 8 <= n_bytes; i += 8) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t bits = (state ^ state >> 29) & keep;
        if (dtype == K_F32)
            bits = (bits & 0x807fffff807fffffull) | 0x3f0000003f000000ull;
        else if (dtype == K_BF16)
            bits = (bits & 0x807f807f807f807full) | 0x3f003f003f003f00ull;
        memcpy(data + i, &bits, sizeof bits);
    }
    for (size_t i = 0; i < scale_bytes; i += 4) {
        const uint16_t halves[2] = {0x2000, 0x2000};
        const float one = 1;
        if (dtype == K_Q8 || dtype == K_Q4)
            memcpy(scale + i, halves, 4);
        else
            memcpy(scale + i, &one, 4);
    }
}

/* All matrices of a type; 4 KiB pages as of a mapped file. */
static int make_weights(struct bench *b, enum k_dtype dtype) {
    size_t round = 0, scales, at = 0;

    for (int i = 0; i < N_SHAPES; i++)
        for (int k = 0; k < shapes[i].share; k++) {
            round += matrix_bytes(dtype, &shapes[i], &scales);
            round += (scales + 63) / 64 * 64;
        }
    int rounds = (int)(BYTES_MIN / (double)round) + 1;
    b->memory.n_bytes = round * (size_t)rounds;
    b->memory.data =
        mmap(NULL, b->memory.n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->memory.data == MAP_FAILED)
        return -errno;
    (void)madvise(b->memory.data, b->memory.n_bytes, MADV_NOHUGEPAGE);
    b->n_weights = 0;
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < N_SHAPES; i++)
            for (int k = 0; k < shapes[i].share; k++) {
                size_t n = matrix_bytes(dtype, &shapes[i], &scales);
                char *data = b->memory.data + at, *scale = data + n;
                at += n + (scales + 63) / 64 * 64;
                fill(dtype, data, n, scale, scales);
                struct k_weight_part part = {
                    .data = data, .scale = scales ? scale : NULL, .n_out = shapes[i].n_out};
                assert(b->n_weights < 512);
                int e = k_weight_new(&b->ctx, dtype, 1, shapes[i].n_out, shapes[i].n_in, &part, 1,
                                     &b->weights[b->n_weights++], NULL);
                if (e < 0)
                    return e;
            }
    return 0;
}

static void drop(struct bench *b) {
    while (b->n_weights > 0)
        k_weight_free(b->weights[--b->n_weights]);
    munmap(b->memory.data, b->memory.n_bytes);
}

static struct k_linear product(struct bench *b, int i, int64_t rows) {
    int64_t n_out = k_weight_size(b->weights[i], 1), n_in = k_weight_size(b->weights[i], 2);

    return (struct k_linear){.y = k_tensor_2d(b->y, K_F32, rows, n_out),
                             .x = k_tensor_2d(b->x, K_F32, rows, n_in),
                             .w = b->weights[i]};
}

/* Seconds, bytes and operations of products with matrices from *at on that take about 0.1 s. */
static void sample(struct bench *b, int64_t rows, int *at, double *ret_s, double *ret_bytes,
                   double *ret_ops) {
    double start = now_s();

    *ret_bytes = *ret_ops = 0;
    do {
        struct k_linear a = product(b, *at, rows);
        int r = k_linear(&b->ctx, &a);
        assert(r == 0);
        (void)r;
        *ret_bytes += (double)k_weight_bytes(b->weights[*at]);
        *ret_ops += 2.0 * (double)(rows * a.y.shape[1] * a.x.shape[1]);
        *at = (*at + 1) % b->n_weights;
    } while (now_s() - start < (rows > 8 ? 0.3 : 0.08));
    *ret_s = now_s() - start;
}

static void measure(struct bench *b, enum k_dtype dtype, int64_t rows) {
    bool dot = dtype == K_Q8 || dtype == K_Q4;
    double rate[SAMPLES], ops[SAMPLES], of_read[SAMPLES], of_peak[SAMPLES];
    double s, bytes, n_ops;
    int at = 0;

    sample(b, rows, &at, &s, &bytes, &n_ops);
    for (int i = 0; i < SAMPLES; i++) {
        double read = machine_read(b->ctx.pool, &b->memory),
               peak = k_peak(b->ctx.pool, b->n_threads, dot);
        sample(b, rows, &at, &s, &bytes, &n_ops);
        read = MAX(read, machine_read(b->ctx.pool, &b->memory));
        peak = MAX(peak, k_peak(b->ctx.pool, b->n_threads, dot));
        rate[i] = bytes / s;
        ops[i] = n_ops / s;
        of_read[i] = rate[i] / read;
        of_peak[i] = ops[i] / peak;
    }
    double spread = 0;
    for (int i = 0; i < SAMPLES; i++)
        spread = MAX(spread, ops[i]);
    double mid = median(ops, SAMPLES);
    printf("| %s | %lld | %d | %.1f | %.0f %% | %.0f | %.0f %% | %.0f %% |\n", k_dtype_name(dtype),
           (long long)rows, b->n_threads, 1e-9 * median(rate, SAMPLES),
           100 * median(of_read, SAMPLES), 1e-9 * mid, 100 * median(of_peak, SAMPLES),
           100 * (spread / mid - 1));
    fflush(stdout);
}

static int run(int n_threads, const char *type, int64_t only_rows) {
    static const enum k_dtype types[] = {K_BF16, K_E4M3, K_E5M2, K_Q8, K_Q4, K_F16, K_F32};
    static const int64_t rows[] = {1, 8, 512};
    struct bench b = {.n_threads = n_threads};
    int r = k_ctx_init(&b.ctx, K_BACKEND_CPU, getenv("KERNEL_PATH"), NULL);

    if (r >= 0 && n_threads > 1)
        r = pool_new(n_threads, &b.ctx.pool, NULL);
    if (r < 0)
        return r;
    b.x = aligned_alloc(64, 512 * 5504 * sizeof(float));
    b.y = aligned_alloc(64, (size_t)512 * 32256 * sizeof(float));
    for (int64_t i = 0; i < 512 * 5504; i++)
        b.x[i] = (float)(i * 7919 % 2003 - 1001) * 1e-3f;
    memset(b.y, 0, (size_t)512 * 32256 * sizeof(float));
    for (size_t t = 0; r >= 0 && t < ARRAY_SIZE(types); t++) {
        if (type && strcmp(type, k_dtype_name(types[t])) != 0)
            continue;
        r = make_weights(&b, types[t]);
        b.ctx.measuring = true;
        for (int i = 0; r >= 0 && i < b.n_weights; i++)
            for (size_t k = 0; k < ARRAY_SIZE(rows); k++) {
                struct k_linear a = product(&b, i, rows[k]);
                (void)k_linear(&b.ctx, &a);
            }
        b.ctx.measuring = false;
        b.ctx.workspace_bytes = (b.ctx.measured_bytes + 63) / 64 * 64;
        b.ctx.workspace = aligned_alloc(64, b.ctx.workspace_bytes);
        for (size_t k = 0; r >= 0 && k < ARRAY_SIZE(rows); k++)
            if (only_rows == 0 || only_rows == rows[k])
                measure(&b, types[t], rows[k]);
        free(b.ctx.workspace);
        drop(&b);
    }
    pool_free(b.ctx.pool);
    free(b.x);
    free(b.y);
    return r;
}

int main(int argc, char **argv) {
    const char *type = argc > 2 ? argv[2] : NULL;
    int64_t rows = argc > 3 ? atoi(argv[3]) : 0;
    int r = 0;

    printf("| weights | rows | threads | GB/s | of read | GOP/s | of peak | fastest |\n"
           "|---|---|---|---|---|---|---|---|\n");
    for (int n = 1; r >= 0 && n <= 2; n++)
        if (argc < 2 || atoi(argv[1]) == n || atoi(argv[1]) == 0)
            r = run(n, type, rows);
    if (r < 0)
        fprintf(stderr, "bench-linear: %s\n", strerror(-r));
    return r < 0;
}
