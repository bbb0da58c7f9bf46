/* blend.h - a model's folder whose weights are a weighted sum of those of others (hai-merge).
 *
 * y = sum of share * x over the models, for every number: added in double in the order given and
 * rounded once to float32, then to the type of the file, so that shares whose sum is 1 leave what
 * all models agree on as it is, bit for bit. Means and task vectors are both of this form:
 * Wortsman and others, Model soups, 2022; Ilharco and others, Editing models with task arithmetic,
 * 2023. DeepSeek-V2.5 was made from two models so.
 *
 * The first model gives config.json, tokenizer, shards with their index, and types. Matrices are
 * F32, F16 or BF16; what is tied is computed once. The bytes depend on the inputs alone, memory is
 * a few megabytes.
 */
#pragma once
#include "kernels/kernels.h"
#include "kernels/pool.h"

enum { BLEND_MODELS_MAX = 64 };

struct blend_model {
    const char *dir;
    double share;
};

/* dtype        K_F32, K_BF16 or K_F16 for all tensors but the routers' bias, which stays as it is;
 *              K_DTYPE_COUNT: those of the first model
 * pool         may be NULL
 * on_progress  told how many bytes of the output are written; may be NULL. A negative errno from it
 *              ends the work: nothing is left, blend_folders returns it */
struct blend_options {
    enum k_dtype dtype;
    struct k_pool *pool;
    int (*on_progress)(void *userdata, int64_t n_done, int64_t n_all);
    void *userdata;
};

struct blend_result {
    int64_t n_bytes; // of the written tensors
    int n_tensors;
};

/* Weights, positive, to shares whose sum is 1. */
void blend_mean(struct blend_model *models, int n_models);

/* base + sum of weight * (x - base): the first becomes the base's share; those of the others are
 * their weights, of any sign. */
void blend_add(struct blend_model *models, int n_models);

/* -EEXIST: OUT is there; -EINVAL also: other architectures or shapes, shared tensors that differ, a
 * sum that is not finite or too large for the type; -ENOENT: a tensor is missing; -ENOTSUP: one is
 * quantised or in 8-bit floats. err names folder and tensor. */
int blend_folders(const char *out, const struct blend_model *models, int n_models,
                  const struct blend_options *options, struct blend_result *ret,
                  struct hai_err *err);
