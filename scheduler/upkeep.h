/* upkeep.h - what the scheduler does when it has time: outstanding rows, snapshots, old entries.
 *
 * Each step is short; snapshots are written by a child. Rows that are older than their retention
 * go: ended jobs, events and audit rows after 400 days, last output after 14.
 */
#pragma once
#include "scheduler/context.h"

struct upkeep;

struct upkeep *upkeep_new(struct schedd *s);
void upkeep_free(struct upkeep *upkeep); // waits for a snapshot's child
DEFINE_CLEANUP(struct upkeep *, upkeep_free)

/* After a batch: look again soon. */
void upkeep_on_applied(struct upkeep *upkeep);
