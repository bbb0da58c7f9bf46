#include "kernels/cpu/cpu.h"

#include "kernels/cpu/table_body.h"

const struct k_table k_avx2_table = CPU_TABLE("avx2");
