/* cpu.h - the vector backends of x86-64: which there are and which this processor runs.
 *
 * One source (the *_body.h files) is compiled once for each path, with that path's flags.
 */
#pragma once
#include "kernels/kernels.h"

extern const struct k_table k_avx2_table, k_avx512_table;

/* The table of a kernel path ("avx2", "avx512"), or the best one for NULL. NULL if this processor
 * cannot run it, or there is none of that name. */
const struct k_table *k_cpu_table(const char *path);
