/* conditions.h - what a submission waits for, as far as the shell must look it up.
 *
 * Names become ids, as of now: apply knows better what was submitted since (eligible.h). Jobs that
 * the state keeps no more are known by how they ended. A delay becomes a time of the log's clock.
 */
#pragma once
#include "scheduler/api_call.h"
#include "wire/messages.h"

/* Fill after, singleton and not_before of an entry's job. 0, -ENOENT or -EINVAL. */
int conditions_fill(struct api_call *call, const struct job_spec *spec, struct entry_job_spec *job,
                    struct hai_err *err);
