/* plan.h - where a model's buffers lie: everything is placed once, before the first step.
 *
 * A plan is walked twice with the same calls, first to add up the bytes, then to hand out places
 * in the memory allocated for them. Buffers whose lives do not meet share places: what a layer
 * keeps between forward and backward is its own when training and shared by all layers otherwise;
 * gradients within a layer and scratch are always shared. Finer planning by lifetime and across
 * micro-batches comes with the schedules that need it.
 */
#pragma once
#include "engine/nn/layer.h"

struct plan {
    char *base; // NULL in the first walk
    size_t n_bytes;
};

/* The next n_bytes, 64-byte aligned; NULL in the first walk. */
void *plan_take(struct plan *plan, size_t n_bytes);

/* n floats; n 32-bit integers. */
float *plan_floats(struct plan *plan, int64_t n);
int32_t *plan_ints(struct plan *plan, int64_t n);

/* Places of all buffers of all layers. */
void plan_layers(struct plan *plan, struct layer *layers, int n, bool training);
