/* kernel_cases.h - every operator with generated operands, for tests against ref and for
 * bench_kernels.
 *
 * A case fills the operands of one operator with the same numbers for every backend. Sizes 0 to 2
 * are small and awkward, size 3 is for measurements.
 */
#pragma once
#include "tests/unit/kernel_made.h"

enum {
    KERNEL_SIZES = 3,
    KERNEL_SIZE_BENCH = 3,
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
