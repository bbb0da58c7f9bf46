/* storm.h - one seeded run of the scheduler's core among simulated nodes and everything that can
 * go wrong, with the invariants checked all along.
 *
 * Submissions, stops, suspensions; ranks that end well and badly; nodes cut off, crashed, fenced,
 * drained; agents killed, and the scheduler between commits and before one; callers without an
 * answer, who ask again; messages late, repeated and out of order. At the end
 * the faults cease, and every job must end or wait for a person.
 */
#pragma once
#include "lib/pure/buf.h"
#include "sim/storm_result.h"

/* Run a seed. ret_log: receives the log as world_save writes it, NULL: not wanted. Returns 0, or
 * -EINVAL with what was violated, the seed and the number of entries until then. */
int storm_run(uint64_t seed, int n_steps, struct storm_result *ret, struct buf *ret_log,
              struct hai_err *err);
int storm_run_as(uint64_t seed, int n_steps, const struct storm_options *options,
                 struct storm_result *ret, struct buf *ret_log, struct hai_err *err);
