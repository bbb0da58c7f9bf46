/* cpu.h - the vector backends of x86-64: which there are and which this processor runs.
 */
#pragma once
#include "kernels/kernels.h"

/* The table of a kernel path ("avx2", "avx512"), or the best one for NULL. NULL if this processor
 * cannot run it, or there is none of that name. */
const struct k_table *k_cpu_table(const char *path);
