#include "kernels/cpu/cpu.h"

const struct k_table *k_cpu_table(const char *path) {
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("f16c");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");

    if (avx512 && (!path || strcmp(path, k_avx512_table.path) == 0))
        return &k_avx512_table;
    if (avx2 && (!path || strcmp(path, k_avx2_table.path) == 0))
        return &k_avx2_table;
    return NULL;
}
