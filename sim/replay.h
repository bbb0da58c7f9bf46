/* replay.h - a job trace through the scheduler's core, on a described cluster.
 *
 * The core is the one that hai-schedd links, driven by entries as there; decisions are its own. The
 * nodes are simple: they do what they are told after fixed delays, and fail as described. For
 * agents with a network of their own see agents.h.
 *
 * Time of the trace is exact; entries that belong to one instant are 1 us apart, as in a log.
 */
#pragma once
#include "sim/eta.h"
#include "sim/simconf.h"

/* Called now and then with the number of jobs that have ended. */
typedef void replay_progress(void *userdata, size_t n_ended);

/* Replay a trace. ret: for tally_free, also after errors. progress and eta may be NULL. -EINVAL: a
 * loss names nothing of the cluster; -E2BIG: the core takes no more jobs. */
int replay_run(const struct simconf *conf, const struct trace *trace, replay_progress *progress,
               void *userdata, struct eta *eta, struct tally *ret, struct hai_err *err);
