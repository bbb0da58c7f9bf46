/* history.h - the live cluster's own past as a trace: what `hai sim --history` replays.
 *
 * Jobs come from `hai list -a --json`, page by page, so whatever reaches the scheduler from here
 * reaches its history too. Only jobs that have ended and ran on GPUs are of use; what they were
 * submitted with stays: user, priority, GPUs, and the time they ran on them.
 */
#pragma once
#include "lib/json.h"
#include "sim/trace.h"

struct history {
    size_t n_without_gpus;
    size_t n_unended; // or that never ran
};

/* Jobs that ended within the last `since` (a duration such as 30d, NULL: all). Start from {0};
 * trace_free also after errors. -EIO: hai could not list them (it has said why); -EBADMSG: not what
 * hai list prints. */
int history_read(const char *since, struct trace *ret, struct history *ret_left_out,
                 struct hai_err *err);

/* One page: the array that hai list --json prints, newest first. Submission times are since 1970.
 * Returns how many jobs the page has, with the lowest id, or -EBADMSG, -EFBIG, -E2BIG. */
int history_add(struct trace *trace, struct map *known_users, struct history *left_out,
                const struct json *jobs, int64_t *ret_lowest, struct hai_err *err);
