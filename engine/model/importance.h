/* importance.h - how much each input of a model's matrices matters, measured while it runs.
 *
 * The rounding errors of a column are multiplied by what the column meets, so the squared error of
 * a product is near the sum of those of the weights, each times the mean square of its input.
 * Between importance_begin and importance_end the products of a model's layers and head add up the
 * squares of their inputs. Source of the idea: Frantar and others, GPTQ, 2022, the diagonal of
 * their Hessian.
 *
 * The file is safetensors: float32 [n_in] under the published name of each matrix; of kv_b_proj
 * NAME.keys [n_heads * n_key_rows] and NAME.values [kv_lora_rank], as the latent attention reads
 * it. A hundredth of the mean is added, so that no input counts nothing. Matrices that met no token
 * (an expert without any, the multi-token module) are left out.
 */
#pragma once
#include "engine/model/model.h"

struct importance;

/* One at a time for a model, which must outlive it. */
struct importance *importance_begin(struct model *model);
void importance_free(struct importance *x); // ends it too
DEFINE_CLEANUP(struct importance *, importance_free)

/* Durably, under that name. */
int importance_write(const struct importance *x, const char *path, struct hai_err *err);
