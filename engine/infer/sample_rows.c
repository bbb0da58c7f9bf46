#include "engine/infer/sample_rows.h"
#include "kernels/kmath.h"

#include <math.h>

enum {
    LANES = 16, // floats side by side
    WEIGH = 8,  // weights side by side
    WEIGH_PIECE = 512,
};

/* The compiler cuts these to the registers of each target. */
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef float floats_8 __attribute__((vector_size(32)));
typedef int32_t ints_8 __attribute__((vector_size(32)));
typedef float floats_4 __attribute__((vector_size(16)));
typedef int32_t ints_4 __attribute__((vector_size(16)));
typedef double doubles __attribute__((vector_size(8 * WEIGH)));
typedef uint64_t quads __attribute__((vector_size(8 * WEIGH)));
typedef int64_t flags __attribute__((vector_size(8 * WEIGH)));

/* kmath_exp's series after its first coefficient. */
static const double coefficients[] = {
    1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
    1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};

#define ROW_TARGET
#define ROW(name) CONCAT(plain_, name)
#include "engine/infer/sample_rows_body.h"
#undef ROW_TARGET
#undef ROW

#ifdef __x86_64__
#define ROW_TARGET __attribute__((target("avx2")))
#define ROW(name) CONCAT(avx2_, name)
#include "engine/infer/sample_rows_body.h"
#undef ROW_TARGET
#undef ROW

#define ROW_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
#define ROW(name) CONCAT(avx512_, name)
#include "engine/infer/sample_rows_body.h"
#undef ROW_TARGET
#undef ROW
#endif

static const struct sample_rows paths[] = {
    {"plain",  plain_block_maxima,  plain_weigh,  plain_sum },
#ifdef __x86_64__
    {"avx2",   avx2_block_maxima,   avx2_weigh,   avx2_sum  },
    {"avx512", avx512_block_maxima, avx512_weigh, avx512_sum},
#endif
};

static bool can_run(size_t path) {
#ifdef __x86_64__
    if (path == 1)
        return __builtin_cpu_supports("avx2");
    if (path == 2)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
    return path == 0;
}

const struct sample_rows *sample_rows_at(int i) {
    for (size_t path = 0; path < ARRAY_SIZE(paths); path++)
        if (can_run(path) && i-- == 0)
            return &paths[path];
    return NULL;
}

const struct sample_rows *sample_rows_best(void) {
    const struct sample_rows *best = &paths[0];

    for (size_t path = 1; path < ARRAY_SIZE(paths); path++)
        if (can_run(path))
            best = &paths[path];
    return best;
}
