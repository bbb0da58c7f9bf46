/* initial.h - the weights that a run begins with when they are not drawn: `init:` of a training
 * file.
 *
 * A folder in Hugging Face layout (load.h: any float type, 8-bit floats with their scales), a
 * checkpoint of training, or a folder of checkpoints, whose newest complete one it is. Only weights
 * are taken, no moments, no position.
 */
#pragma once
#include "engine/model/model.h"

/* Is there a config.json, or a tokenizer, in a folder in Hugging Face layout? */
bool initial_has_config(const char *path);
bool initial_has_tokenizer(const char *path);

/* Fill the model. -EINVAL: the folder's config.json is of another architecture (rotary scaling and
 * the number of positions may differ), or a tensor is missing, unknown, or has another shape: err
 * names it. Errors of load_model, ckpt_open and ckpt_newest. */
int initial_load(struct model *model, const char *path, struct hai_err *err);
