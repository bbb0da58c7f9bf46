/* upd_fence.h - what hai-upd asks and tells the scheduler: which nodes are lost, which are fenced.
 *
 * Asks once a second for the nodes. The port and the administrator's token are read from the
 * scheduler's state directory each time, so it does not matter who starts first.
 */
#pragma once
#include "lib/loop.h"

struct upd_fence;

/* on_lost is called for every node the scheduler calls lost, at every answer that says so. */
struct upd_fence *upd_fence_new(struct loop *loop, const char *schedd_dir,
                                void (*on_lost)(const char *node, void *data), void *data);
void upd_fence_free(struct upd_fence *fence);

/* Tell that nothing of a node's life boot_id is left. If that gets lost, on_lost comes again. */
void upd_fence_report(struct upd_fence *fence, const char *node, const char *boot_id,
                      const char *evidence);
