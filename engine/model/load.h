/* load.h - the weights of a model from a folder in Hugging Face layout.
 *
 * Reads model.safetensors, or the shards that model.safetensors.index.json names. Matrices either
 * stay in the mapped files, or all values are widened or rounded to the type the model keeps them
 * in, the scales of 8-bit floats applied. Every parameter must be there with its
 * shape; a tensor that the model does not have is refused by name, apart from the ones known to
 * carry nothing (rotary_emb.inv_freq).
 */
#pragma once
#include "engine/model/model.h"
#include "storage/safetensors.h"

/* Fill a model that keeps its weights in memory. */
int load_model(struct model *model, const char *dir, struct hai_err *err);

/* Make a model whose matrices stay in the files of DIR, which begin to be read; they are freed
 * after the model. */
int load_mapped(const struct model_config *config, const struct model_options *options,
                const char *dir, struct safetensors **ret_files, struct model **ret,
                struct hai_err *err);

/* -EINVAL: a tensor of the files belongs to no parameter. */
int load_check_names(const struct params *params, const struct safetensors *files,
                     struct hai_err *err);

/* Files repeat shared tensors (the multi-token module's embedding and head). The model keeps one,
 * so a copy p that says something else than its owner cannot be followed: -EINVAL. */
int load_check_copy(const struct safetensors *files, const struct param *p,
                    const struct param *owner, struct hai_err *err);
