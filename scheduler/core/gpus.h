/* gpus.h - which GPUs of a node a job gets.
 *
 * Pure. GPUs may be linked in islands (NVLink bridges join pairs; `nvlink: 2` in the cluster file):
 * island k are GPUs k * size ... (k + 1) * size - 1. A job gets the fewest islands, and of those
 * that do the ones that are broken into already, so that whole ones stay whole for others.
 */
#pragma once
#include "scheduler/core/state.h"

/* n GPUs of a set with at least so many. size: GPUs of an island; S_ABSENT: none are linked, then
 * the lowest ones. */
uint32_t gpus_choose(uint32_t set, int64_t n, int64_t size);

/* How bad a choice is, 0: it could not be better. GPUS_APART for each island more than the fewest,
 * and 1 for each that was whole and is no longer. */
enum { GPUS_APART = NODE_GPUS_MAX + 1 };
int gpus_cost(uint32_t set, uint32_t chosen, int64_t size);
