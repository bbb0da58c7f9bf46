/* projection.h - from what a batch did to the rows that people query.
 *
 * The same entries give the same rows, live and in a replay.
 */
#pragma once
#include "scheduler/core/effects.h"
#include "scheduler/store/rows.h"

/* Collect rows for the events and the ended jobs among the effects. */
void projection_add(struct rows *rows, const struct state *state, const struct effects *fx);
