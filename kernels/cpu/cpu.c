#include "kernels/cpu/cpu.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    // Linux: asm/prctl.h and asm/fpu/types.h, which not every system has.
    REQUEST_PERMISSION = 0x1023,
    TILE_DATA = 18,
    // CPUID leaf 7, edx: compilers' names for them differ.
    HAS_AMX_BF16 = 1 << 22,
    HAS_AMX_TILE = 1 << 24,
};

/* Tile registers and all that product_amx.c is compiled for. The kernel saves eight kilobytes more
 * for a thread that uses them, and so lets only those processes do it that have asked. */
static bool have_tiles(void) {
    unsigned a, b, c, d;

    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & HAS_AMX_BF16) && (d & HAS_AMX_TILE) &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* CPUID leaf 1; clang's __builtin_cpu_supports does not know its name before version 16. */
static bool has_f16c(void) {
    unsigned a, b, c, d;

    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

const struct k_table *k_cpu_table(const char *path) {
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");

    if (avx512 && path && strcmp(path, k_amx_table.path) == 0 && have_tiles())
        return &k_amx_table;
    if (avx512 && (!path || strcmp(path, k_avx512_table.path) == 0))
        return &k_avx512_table;
    if (avx2 && (!path || strcmp(path, k_avx2_table.path) == 0))
        return &k_avx2_table;
    return NULL;
}
