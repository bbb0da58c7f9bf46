/* cpu.h - the vector backends of x86-64: which there are and which this processor runs.
 *
 * One source (the *_body.h files) is compiled once for each width of vectors, with that path's
 * flags. "amx" is "avx512" with other products of BF16 weights (product_amx.c).
 */
#pragma once
#include "kernels/kernels.h"

extern const struct k_table k_avx2_table, k_avx512_table, k_amx_table;

/* The table of a kernel path ("avx2", "avx512", "amx"), or the best one for NULL ("amx" only by its
 * name). NULL if this processor cannot run it, or there is none of that name. Whoever gets "amx"
 * has asked the kernel for the tile registers, for the whole process. */
const struct k_table *k_cpu_table(const char *path);
