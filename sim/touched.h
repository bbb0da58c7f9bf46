/* touched.h - what must be true after every entry, as far as the entry can have changed it.
 *
 * invariants.h looks at everything and is asked now and then; this is asked each time. Of the
 * state: all gangs that hold nodes, and their GPUs. Of the nodes: whether what really runs of the
 * jobs that the batch touched is what the scheduler believes, and whether GPUs were given anew that
 * something still uses.
 */
#pragma once
#include "sim/shims.h"
#include "sim/world.h"

/* Each returns 0, or -EINVAL and says in err what is wrong. */
int touched_check(const struct world *w, const struct shims *shims, struct hai_err *err);

/* Of one shim: nothing of it runs that the scheduler takes for ended. */
int touched_belief(const struct state *state, const struct shim *shim, struct hai_err *err);
