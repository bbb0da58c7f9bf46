/* seeds.h - `hai sim --fuzz`: the scheduler's core through a range of seeded storms of faults. */
#pragma once
#include "lib/base.h"

/* Read "A..B" or "A". -EINVAL. */
int seeds_parse(const char *text, uint64_t *ret_first, uint64_t *ret_last);

/* Print which of a failing seed's faults it takes to make it fail. Returns how many failed: 0 or 1.
 */
int seeds_minimise(uint64_t seed, int n_steps);

/* Run them; prints a line for each that fails, then the totals. Returns how many failed. */
int seeds_run(uint64_t first, uint64_t last, int n_steps);
