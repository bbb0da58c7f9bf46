/* invariants.h - what must be true after every entry and at every moment on the nodes.
 *
 * Each check returns 0, or -EINVAL and says in err what is wrong.
 */
#pragma once
#include "sim/shims.h"
#include "sim/world.h"

/* Of the state alone: GPUs held once, sums of free and held, attempts and queues in order. */
int invariants_state(const struct state *state, struct hai_err *err);

/* Every job has a reason for being where it is. */
int invariants_explained(const struct state *state, struct hai_err *err);

/* Of what really runs: no GPU under two attempts, nothing that the scheduler takes for ended. That
 * no rank runs in two places is looked at as it starts (shims.h). */
int invariants_nodes(const struct state *state, const struct shims *shims, struct hai_err *err);

/* The state's bytes are those of its snapshot read back, and of a replay of the log; and, audit,
 * the ledger of the log is right (audit.h). */
int invariants_replay(const struct world *w, bool audit, struct hai_err *err);
