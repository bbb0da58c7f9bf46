/* storm.h - one seeded run of the whole control plane: the scheduler's core, the agents' core on 10
 * to 40 nodes, callers, and everything that can go wrong between and in them.
 *
 * Events by true time (agenda.h); nobody in it knows that. Messages are late, lost, repeated and
 * overtaken one by one (network.h); the clocks of nodes and scheduler are wrong up to the cluster's
 * bound, and the scheduler's is set by an hour now and then (drift.h); agents lose what they had
 * not synced (journal.h); nodes, agents, shims, ranks and the scheduler break at all moments that
 * matter (faults.h). What must hold is checked as touched.h, shims.h, clients.h, invariants.h and
 * naive.h say, how often docs/testing.md. At the end the faults cease, and every job must end or
 * wait for a person.
 */
#pragma once
#include "lib/pure/buf.h"
#include "sim/storm_result.h"

/* Run a seed, until the log has 5 entries a step and then to the end. ret_log: receives the log as
 * world_save writes it, NULL: not wanted. Returns 0, or -EINVAL with what was violated, the seed
 * and the number of entries until then. */
int storm_run(uint64_t seed, int n_steps, struct storm_result *ret, struct buf *ret_log,
              struct hai_err *err);
int storm_run_as(uint64_t seed, int n_steps, const struct storm_options *options,
                 struct storm_result *ret, struct buf *ret_log, struct hai_err *err);
