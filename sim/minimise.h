/* minimise.h - which of a failing seed's faults does it take?
 *
 * Pure. Faults are left out in halves, quarters and so on, as long as the seed still fails, in
 * whatever way; what remains cannot lose one more of them.
 */
#pragma once
#include "sim/storm.h"

/* Returns 0: the seed does not fail; else why it still does (-EINVAL, err), with *ret_n faults, of
 * which ret_skip tells the superfluous ones; the caller frees it. */
int minimise(uint64_t seed, int n_steps, bool **ret_skip, size_t *ret_n, struct hai_err *err);
