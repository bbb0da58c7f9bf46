/* elements.h - makes the elements of arrays when they can run, and ends arrays with their last one.
 *
 * Pure. Only apply*.c include it. An array is looked at after an entry that touched it: as many
 * elements are made as its cap lets run, at most ARRAY_AHEAD before they start. An element that was
 * made and has not ended keeps its place under the cap, suspended or not.
 */
#pragma once
#include "scheduler/core/mutate.h"

/* Look at the arrays that were touched. Returns whether there were any. */
bool elements_settle(struct mutate *c);

/* The id of an entry may be that of an element which is no job yet: make it, if the principal may
 * change the array. 0, or -EACCES. */
int elements_need(struct mutate *c, int64_t id);
