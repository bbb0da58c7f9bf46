#include "kernels/peak.h"
#include "kernels/pool.h"

#include <time.h>

enum { PEAK_STEPS = 1 << 20 };

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#ifdef __x86_64__
__attribute__((target("avx2,fma"))) static void fma_256(void) {
    for (int i = 0; i < PEAK_STEPS * 2; i++)
        __asm__ volatile(
            "vfmadd231ps %%ymm0, %%ymm0, %%ymm1\n\tvfmadd231ps %%ymm0, %%ymm0, %%ymm2\n\t"
            "vfmadd231ps %%ymm0, %%ymm0, %%ymm3\n\tvfmadd231ps %%ymm0, %%ymm0, %%ymm4\n\t"
            "vfmadd231ps %%ymm0, %%ymm0, %%ymm5\n\tvfmadd231ps %%ymm0, %%ymm0, %%ymm6\n\t"
            "vfmadd231ps %%ymm0, %%ymm0, %%ymm7\n\tvfmadd231ps %%ymm0, %%ymm0, %%ymm8" ::
                : "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8");
}

__attribute__((target("avx512f"))) static void fma_512(void) {
    for (int i = 0; i < PEAK_STEPS; i++)
        __asm__ volatile(
            "vfmadd231ps %%zmm0, %%zmm0, %%zmm1\n\tvfmadd231ps %%zmm0, %%zmm0, %%zmm2\n\t"
            "vfmadd231ps %%zmm0, %%zmm0, %%zmm3\n\tvfmadd231ps %%zmm0, %%zmm0, %%zmm4\n\t"
            "vfmadd231ps %%zmm0, %%zmm0, %%zmm5\n\tvfmadd231ps %%zmm0, %%zmm0, %%zmm6\n\t"
            "vfmadd231ps %%zmm0, %%zmm0, %%zmm7\n\tvfmadd231ps %%zmm0, %%zmm0, %%zmm8" ::
                : "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8");
}

__attribute__((target("avx512vnni"))) static void dot_512(void) {
    for (int i = 0; i < PEAK_STEPS; i++)
        __asm__ volatile("vpdpbusd %%zmm0, %%zmm0, %%zmm1\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm2\n\t"
                         "vpdpbusd %%zmm0, %%zmm0, %%zmm3\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm4\n\t"
                         "vpdpbusd %%zmm0, %%zmm0, %%zmm5\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm6\n\t"
                         "vpdpbusd %%zmm0, %%zmm0, %%zmm7\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm8\n\t"
                         "vpdpbusd %%zmm0, %%zmm0, %%zmm9\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm10" ::
                             : "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                               "xmm9", "xmm10");
}

/* The widest 8-bit products there are; without VNNI the peak of float32 stands for them. */
static bool has_dot(void) {
    return __builtin_cpu_supports("avx512vnni");
}

static void peak_piece(void *arg, int64_t piece, int thread) {
    bool dot = *(const bool *)arg;

    if (dot)
        dot_512();
    else if (__builtin_cpu_supports("avx512f"))
        fma_512();
    else
        fma_256();
}

double k_peak(struct k_pool *pool, int n_threads, bool dot) {
    int64_t pieces = n_threads * 4;
    double start = now_s();

    dot = dot && has_dot();
    pool_run(pool, pieces, peak_piece, &dot);
    return (double)pieces * PEAK_STEPS * (dot ? 10.0 * 128 : 8.0 * 32) / (now_s() - start);
}
#else
double k_peak(struct k_pool *pool, int n_threads, bool dot) {
    return 0;
}
#endif
