/* ggufmodel.h - what a GGUF file says about a model: its configuration in Hugging Face form, and
 * where the values of each parameter are.
 *
 * Architectures llama, qwen2, deepseek and deepseek2, as llama.cpp's converter names and lays out
 * their tensors: rows of q and k permuted for llama and deepseek, experts stacked, kv_b_proj whole
 * or in two halves. A key or tensor that is not known is refused by name: it might change what the
 * model computes.
 */
#pragma once
#include "engine/model/params.h"
#include "lib/pure/buf.h"
#include "storage/gguf.h"

/* Rows of a parameter in a tensor of the file. */
struct ggufmodel_place {
    const struct gguf_tensor *tensor; // of kv_b_proj in halves: the values, [n_in, rows, n_heads]
    const struct gguf_tensor *keys;   // its keys, [n_key_rows, n_in, n_heads]; else NULL
    int64_t first_row;                // of an expert in a stack
    int64_t d_head;                   // rows of a head are permuted; 0: they are not
};

/* Where a parameter is. -ENOENT; -EINVAL: another shape. */
int ggufmodel_find(const struct gguf *g, const struct model_config *config, const struct param *p,
                   struct ggufmodel_place *ret, struct hai_err *err);

/* -EINVAL: a tensor of the file is read for no parameter. */
int ggufmodel_check_names(const struct gguf *g, const struct model_config *config,
                          const struct params *params, struct hai_err *err);

/* The row of the tensor that holds row `row` of the parameter; not of keys. */
int64_t ggufmodel_row(const struct ggufmodel_place *place, int64_t row);

/* One row of a tensor as float32: types F32, F16, BF16, F64, Q8_0 and Q4_0. false: another type. */
bool ggufmodel_read_row(const struct gguf_tensor *t, int64_t row, float *ret);
