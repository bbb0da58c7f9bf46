/* load.h - the weights of a model from a folder in Hugging Face layout.
 *
 * Reads model.safetensors, or the shards that model.safetensors.index.json names. Values are
 * widened or rounded to the type the model keeps them in. Every parameter must be there with its
 * shape; a tensor that the model does not have is refused by name, apart from the ones known to
 * carry nothing (rotary_emb.inv_freq).
 */
#pragma once
#include "engine/model/model.h"

int load_model(struct model *model, const char *dir, struct hai_err *err);
