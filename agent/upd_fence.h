/* upd_fence.h - what hai-upd asks and tells the scheduler: which nodes are lost, which are fenced.
 *
 * Asks once a second for the nodes. The port and the administrator's token are read from the
 * scheduler's state directory each time, so it does not matter who starts first.
 */
#pragma once
#include "lib/loop.h"

struct upd_fence;

enum { UPD_BOOT_ID_BYTES = 32 }; // hexadecimal

/* on_lost is called for every node the scheduler calls lost, at every answer that says so. */
struct upd_fence *upd_fence_new(struct loop *loop, const char *schedd_dir,
                                void (*on_lost)(const char *node, void *data), void *data);
void upd_fence_free(struct upd_fence *fence);

/* That nothing of a node's life is left. The caller's; it outlives the upd_fence. */
struct upd_report {
    const char *node;
    char boot_id[UPD_BOOT_ID_BYTES + 1]; // of the life that ended
    char *evidence;                      // owned
    bool waits;                          // until the scheduler has accepted it
    struct upd_fence *fence;             // where it is sent; the rest is upd_fence's
    int64_t client;
    bool sent;
};

/* Send it. If it gets lost it still waits, and on_lost comes again. */
void upd_fence_report(struct upd_fence *fence, struct upd_report *report);
