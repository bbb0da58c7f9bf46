#include "kernels/cpu/cpu.h"

const struct k_table *k_cpu_table(const char *path) {
    return NULL;
}
