/* source.h - where files of a model in Hugging Face layout have the values of a parameter.
 *
 * A matrix in 8-bit floats has its scales in a second tensor, NAME_scale_inv, one for 128 x 128
 * values. A matrix in whole numbers (written by engine/model/quantize.h, laid out as
 * kernels/quant.h says, docs/formats.md) is U8 NAME.q8 or NAME.q4 with float16 NAME.scale. One that
 * is cut in heads (kv_b_proj) may be two of them: NAME.keys, transposed in each head, and
 * NAME.values. All that is checked here: type, shape, and that scales are there if and only if the
 * type needs them.
 */
#pragma once
#include "engine/model/params.h"
#include "kernels/kernels.h"
#include "storage/safetensors.h"

struct source {
    enum k_dtype dtype; // F32, BF16, F16, E4M3, E5M2; Q8 or Q4
    const void *data;   // of the published shape, rows packed; in the mapped file. Q8, Q4: panels
    const void *scale;  // float32 [ceil(n_out / 128), ceil(n_in / 128)] of 8-bit floats; of panels;
                        // else NULL
    int64_t n_in;       // length of a row; of a vector: its own
    // A matrix in two halves: data and scale are the values'. Else keys is NULL.
    const void *keys, *keys_scale;
    int64_t n_heads, n_key_rows, n_value_rows; // of a head
};

/* The key of __metadata__ that holds the layout's version in quantised files. */
#define SOURCE_LAYOUT_KEY "hai_quant_layout"

/* -ENOENT: not there; -EINVAL: another shape, or there twice; -ENOTSUP: a type that no product
 * reads, or another layout of quantised values. */
int source_find(const struct safetensors *files, const struct param *p, struct source *ret,
                struct hai_err *err);

/* Is a parameter there in whole numbers? */
bool source_is_quantized(const struct safetensors *files, const struct param *p);

/* Is this the name of a part of some parameter: its scales, its quantised values? If so, the length
 * of the parameter's name. */
bool source_is_part(const char *name, size_t *ret_n);

/* n values from `first` on, as float32, scales applied. */
void source_read(const struct source *source, int64_t first, int64_t n, float *ret);

/* Of a matrix in halves, what products read of a head: keys [n_in, n_key_rows], transposed, and
 * values [n_value_rows, n_in]. */
struct k_weight_part source_keys(const struct source *source, int64_t head);
struct k_weight_part source_values(const struct source *source, int64_t head);

/* Bytes of the quantised values of a matrix in files, and of its scales: multiples of 64, so that
 * everything in a file is aligned. */
int64_t source_data_bytes(enum k_dtype dtype, int64_t n_out, int64_t n_in);
int64_t source_scale_bytes(int64_t n_out, int64_t n_in);
