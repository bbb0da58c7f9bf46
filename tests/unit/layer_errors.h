/* layer_errors.h - what a recipe of few bits does to each layer by itself, against float32.
 */
#pragma once
#include "engine/model/model.h"

/* Relative errors, norm of the difference over norm, of what a layer adds to the residual stream
 * forward (y) and backward (dx), and of the gradients of its matrices (dw). */
struct layer_error {
    const char *layer; // "attn", ...
    double y, dx, dw;
};

/* Both models have weights drawn from the same seed; every layer gets the residual stream that the
 * float32 model has there on random tokens, and a random gradient. ret: [2 * config->n_layers], in
 * order, attention and feed-forward in turn. */
int layer_errors(const struct model_config *config, const struct model_options *options,
                 const struct precision *precision, struct layer_error *ret, struct hai_err *err);
