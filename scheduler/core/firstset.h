/* firstset.h - the first set of nodes for a gang, in a fixed order of sets.
 *
 * Pure. The order: fewest zones, then those of lower numbers; fewest leaves, then those of higher
 * numbers; then nodes of lower numbers. One node: the lowest number, for a job without GPUs of
 * those without any if there are some. It looks at nothing but the set itself, so a set that was
 * the first stays it as long as all of it fits and nothing fits that did not: see backfill.h.
 */
#pragma once
#include "scheduler/core/place.h"

/* fit        nodes to choose from, ascending, enough for the need
 * histogram  room for as many numbers as there are nodes, and one; all 0 between calls
 * scratch    fits the state; receives the nodes in rank order, without GPUs
 */
void firstset_choose(const struct state *state, const struct place_need *need, const int *fit,
                     size_t n_fit, int64_t *histogram, struct place_scratch *scratch);
