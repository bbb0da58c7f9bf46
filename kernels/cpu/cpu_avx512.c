#include "kernels/cpu/cpu.h"

#include "kernels/cpu/table_body.h"

const struct k_table k_avx512_table = CPU_TABLE("avx512");
const struct k_table k_amx_table = CPU_TABLE("amx"); /* product_in_tiles says where they differ */
