/* fence.h - ending lost nodes for sure with the cluster file's command.
 *
 * The command runs in a child, `$1` is the node; exit status 0 means that nothing of the node runs
 * any more. It is repeated while the node stays lost, also by a scheduler that starts later.
 * `fence: hai-upd` names no command: there somebody else ends nodes and reports it
 * (POST /api/v1/nodes/NODE/fenced).
 */
#pragma once
#include "scheduler/context.h"

struct fence;

struct fence *fence_new(struct schedd *s);
void fence_free(struct fence *fence);
DEFINE_CLEANUP(struct fence *, fence_free)

/* After a batch: fence what was lost in it. */
void fence_on_applied(struct fence *fence, const struct effects *fx);
