/* core.h - the scheduler's core in one include: the shell and the simulator start here.
 *
 * One turn of the shell (docs/ARCHITECTURE.md, "One path for every change"):
 *
 *     append the inputs and the proposals of the last turn; commit
 *     for each entry in order:  apply_entry(state, entry, fx, &reply)     answer the caller
 *     decide_run(decide, state, &proposals)                               for the next turn
 *     project fx->jobs, fx->nodes, fx->events to rows of the next transaction
 *     for each node of fx->nodes: if revision grew, desired_node() to its agent
 *     effects_clear(fx); sleep until input or state_next_wakeup(), then append a tick
 */
#pragma once
#include "scheduler/core/apply.h"
#include "scheduler/core/decide.h"
#include "scheduler/core/desired.h"
#include "scheduler/core/effects.h"
#include "scheduler/core/entry.h"
#include "scheduler/core/state.h"
#include "scheduler/core/why.h"
