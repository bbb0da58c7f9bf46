/* peak.h - what the processor could do: the yardstick of benches and of a run's utilisation. */
#pragma once
#include "lib/base.h"

struct k_pool;

/* Operations a second (two for each product) of n_threads threads: of 8-bit dot products if dot is
 * set and the processor has them, else of fused multiply-adds in float32. About 20 ms. pool NULL:
 * this thread alone. 0: no x86, not known. */
double k_peak(struct k_pool *pool, int n_threads, bool dot);
