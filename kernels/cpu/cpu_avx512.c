#include "kernels/cpu/cpu.h"

#include "kernels/cpu/table_body.h"

const struct k_table k_avx512_table = CPU_TABLE("avx512");
