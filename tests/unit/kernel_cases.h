/* kernel_cases.h - every operator with generated operands, for tests against ref and for
 * bench_kernels.
 *
 * A case fills the operands of one operator with the same numbers for every backend. Sizes 0 to 2
 * are small and awkward, size 3 is for measurements.
 */
#pragma once
#include "kernels/kernels.h"

enum {
    KERNEL_OUTPUTS_MAX = 4,
    KERNEL_SIZES = 3,
    KERNEL_SIZE_BENCH = 3,
};

/* One prepared call: what it writes, what it costs. */
struct kernel_made {
    char *memory;
    size_t n_bytes, n_bytes_max;
    uint64_t seed;
    const struct k_tensor *outputs[KERNEL_OUTPUTS_MAX];
    int n_outputs;
    int (*call)(struct k_ctx *ctx, const void *a);
    void *arg;
    double flops, bytes; // of one call; bytes of all operands, each once
};

struct kernel_bench {
    struct k_ctx ctx;
    struct kernel_made made;
    int number, size;
};

int kernel_cases_count(void);
const char *kernel_cases_name(int i);

/* A context of a path (NULL: ref) with workspace for a case, operands not yet filled. -ENOTSUP: not
 * a path of this processor. */
int kernel_cases_begin(struct kernel_bench *b, const char *path, int n_threads, int number,
                       int size);
int kernel_cases_prepare(struct kernel_bench *b); // fill the operands
int kernel_cases_run(struct kernel_bench *b);     // call the operator; may be repeated
void kernel_cases_end(struct kernel_bench *b);
