/* moe.h - what the rest of the engine reads of a layer with experts.
 */
#pragma once
#include "engine/nn/layer.h"

/* Experts [n_tokens, n_slots], ascending, and their weights of the last forward pass. */
void moe_choice(const struct layer *l, const int32_t **ret_experts, const float **ret_weights);

/* Add the picks of every expert in the last forward pass, of n_tokens, and how many of them were
 * dropped afterwards. */
void moe_counts_add(const struct layer *l, int64_t n_tokens, int64_t *picks, int64_t *dropped);

/* The router's correction bias, [n_experts]. */
float *moe_bias(const struct layer *l);
