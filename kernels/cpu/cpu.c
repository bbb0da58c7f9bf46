#include "kernels/cpu/cpu.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    // Linux: asm/prctl.h and asm/fpu/types.h, which not every system has.
    REQUEST_PERMISSION = 0x1023,
    TILE_DATA = 18,
};

/* Tile registers and all that product_amx.c is compiled for. The kernel saves eight kilobytes more
 * for a thread that uses them, and so lets only those processes do it that have asked. */
static bool have_tiles(void) {
    unsigned a, b, c, d;

    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & bit_AMX_BF16) && (d & bit_AMX_TILE) &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

const struct k_table *k_cpu_table(const char *path) {
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("f16c");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");

    if (avx512 && (!path || strcmp(path, k_amx_table.path) == 0) && have_tiles())
        return &k_amx_table;
    if (avx512 && (!path || strcmp(path, k_avx512_table.path) == 0))
        return &k_avx512_table;
    if (avx2 && (!path || strcmp(path, k_avx2_table.path) == 0))
        return &k_avx2_table;
    return NULL;
}
