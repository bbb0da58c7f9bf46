/* source.h - where files of a model in Hugging Face layout have the values of a parameter.
 *
 * A matrix in 8-bit floats has its scales in a second tensor, NAME_scale_inv, one for 128 x 128
 * values. Both are checked here: type, shape, and that scales are there if and only if the type
 * needs them.
 */
#pragma once
#include "engine/model/params.h"
#include "kernels/kernels.h"
#include "storage/safetensors.h"

struct source {
    enum k_dtype dtype; // F32, BF16, F16, E4M3 or E5M2
    const void *data;   // of the published shape, rows packed; in the mapped file
    const void *scale;  // float32 [ceil(n_out / 128), ceil(n_in / 128)] of 8-bit floats, else NULL
};

/* -ENOENT: not there; -EINVAL: another shape; -ENOTSUP: a type that no product reads. */
int source_find(const struct safetensors *files, const struct param *p, struct source *ret,
                struct hai_err *err);

/* Is this the name of some parameter's scales? If so, the length of the parameter's name. */
bool source_is_scale(const char *name, size_t *ret_n);

/* n values from `first` on, as float32, scales applied. n_in: length of a row. */
void source_read(const struct source *source, int64_t n_in, int64_t first, int64_t n, float *ret);
