/* quantize.h - a model's folder written anew with matrices of 8 or 4 bits, or with plain ones.
 *
 * Quantised: every matrix of a product whose rows are whole groups of 32, the head too; not the
 * embedding (unless asked for) and not the routers, whose choices flip on small errors. kv_b_proj
 * becomes two matrices a head, as the latent attention reads them, if both fit. Other matrices stay
 * as they were, 8-bit floats become bf16. Back: what is quantised or in 8-bit floats becomes bf16.
 * FP8: the matrices that params_is_fp8 names become E4M3 (blocks.h) in a folder as published, so
 * that other engines read it too; others stay plain.
 * Names and layout: engine/model/source.h. The bytes depend on the input alone, memory is that of
 * one tensor.
 */
#pragma once
#include "engine/model/config.h"
#include "kernels/pool.h"
#include "storage/safetensors.h"

enum quantize_type {
    QUANTIZE_INT8,
    QUANTIZE_INT4,
    QUANTIZE_BF16,
    QUANTIZE_FP8,
    QUANTIZE_TYPE_COUNT,
};

/* importance   float32 [n_in] for matrices by published name, of kv_b_proj's halves NAME.values and
 *              NAME.keys [n_heads * n_key_rows]: weights of squared errors (importance.h);
 *              a matrix that is not there has equal ones. NULL: none
 * pool         may be NULL
 * on_progress  told now and then how many bytes of the output are written; may be NULL. A negative
 *              errno from it ends the work: nothing is left, quantize_folder returns it */
struct quantize_options {
    enum quantize_type type;
    bool embedding; // INT8, INT4: the embedding too, as INT8
    bool head;      // INT4: the output matrix as INT8
    const struct safetensors *importance;
    struct k_pool *pool;
    int (*on_progress)(void *userdata, int64_t n_done, int64_t n_all);
    void *userdata;
};

struct quantize_result {
    int64_t n_bytes;             // of the written tensors
    int n_quantized, n_matrices; // how many of the matrices; a tied head that gets one of its own
                                 // counts
};

const char *quantize_type_name(enum quantize_type type); // "int8", "int4", "bf16", "fp8"
int quantize_type_parse(const char *text, enum quantize_type *ret);

/* Read the folder IN, write OUT. -EEXIST: OUT is there; -EINVAL also: a matrix holds what is no
 * finite number, or one too large for float16 scales; FP8 of a folder that says it is FP8. */
int quantize_folder(const char *in, const char *out, const struct quantize_options *options,
                    struct quantize_result *ret, struct hai_err *err);
