/* convert.h - a GGUF file written as a model's folder in Hugging Face layout.
 *
 * Values are kept: float types as they are, Q8_0 and Q4_0 as our 8 and 4 bits (the same groups of
 * 32 with the same scales and codes) where all matrices of a product have that type, and as float32
 * elsewhere, as a kv_b_proj that is not in halves; routers and vectors are float32. Other types are
 * refused. Memory is that of one tensor.
 */
#pragma once
#include "lib/base.h"

struct convert_options {
    bool no_tokenizer; // leave it out; else one that the file carries in an unknown form is refused
    // May be NULL; a negative errno from it ends the work: nothing is left, convert_gguf returns
    // it.
    int (*on_progress)(void *userdata, int64_t n_done, int64_t n_all);
    void *userdata;
};

struct convert_result {
    int64_t n_bytes; // of the written tensors
    int n_quantized, n_matrices;
};

/* Errors: gguf_open's, ggufconfig_model's, ggufwords_tokenizer's; -ENOTSUP: a tensor of a type that
 * is not read; -EEXIST: OUT is there. */
int convert_gguf(const char *in, const char *out, const struct convert_options *options,
                 struct convert_result *ret, struct hai_err *err);
