/* bench_kernels - time, GFLOP/s and GB/s of every operator on every path of this machine.
 *
 * One thread; median of REPETITIONS samples, each of enough calls to last SAMPLE_S; spread is from
 * the fastest to the slowest sample. Operands stay in cache as far as they fit: the shapes are a
 * training step's of a small model.
 */
#include "tests/unit/kernel_cases.h"

#include <stdio.h>
#include <time.h>

enum { REPETITIONS = 7 };

static const double SAMPLE_S = 0.01;

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Seconds of one call, from calls that last at least SAMPLE_S together. */
static double sample(struct kernel_bench *b) {
    double start = now_s(), end;
    int n = 0;

    do {
        (void)kernel_cases_run(b);
        n++;
        end = now_s();
    } while (end - start < SAMPLE_S);
    return (end - start) / n;
}

static void measure(const char *path, int number) {
    double times[REPETITIONS];
    struct kernel_bench b;

    if (kernel_cases_begin(&b, path, 1, number, KERNEL_SIZE_BENCH) < 0 ||
        kernel_cases_prepare(&b) < 0)
        return;
    (void)sample(&b);
    for (int i = 0; i < REPETITIONS; i++)
        times[i] = sample(&b);
    qsort(times, REPETITIONS, sizeof *times, ascending);
    double t = times[REPETITIONS / 2];
    printf("%-18s %-7s %10.1f us %8.1f GFLOP/s %7.1f GB/s  spread %3.0f %%\n",
           kernel_cases_name(number), path, 1e6 * t, 1e-9 * b.made.flops / t,
           1e-9 * b.made.bytes / t, 100 * (times[REPETITIONS - 1] - times[0]) / t);
    kernel_cases_end(&b);
}

int main(int argc, char **argv) {
    static const char *const paths[] = {"avx2", "avx512", "amx"};

    for (int c = 0; c < kernel_cases_count(); c++)
        for (size_t p = 0; p < ARRAY_SIZE(paths); p++)
            if (argc < 2 || strcmp(argv[1], kernel_cases_name(c)) == 0)
                measure(paths[p], c);
    return 0;
}
