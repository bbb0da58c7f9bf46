/* export.h - a checkpoint of training written as a model's folder in Hugging Face layout
 * (hai-export).
 *
 * A run writes its last state itself (trainer.h); this is for any checkpoint, any float type, files
 * cut at a limit, and the averaged weights. Optimizer state is left out. The checkpoint does not
 * say what model it is of: config.json comes from outside, and every tensor is held against it.
 * Memory is a few megabytes.
 */
#pragma once
#include "engine/ckpt/ckpt.h"
#include "kernels/kernels.h"

/* model        folder of the config.json, or the file; torch_dtype in it is set,
 * quantization_config left out. Other files of a folder that say nothing about weights are taken
 * over tokenizer    "bytes" or a folder (tokenizer.h), over what the model's has; NULL: that alone
 * dtype        K_F32, K_BF16 or K_F16, of all tensors but the routers' bias, which stays F32
 * ema          the averaged weights; what has no average (the routers' bias) as it is
 * shard_bytes  the most in a file
 * on_progress  as in quantize.h */
struct export_options {
    const char *model, *tokenizer;
    enum k_dtype dtype;
    bool ema;
    int64_t shard_bytes;
    int (*on_progress)(void *userdata, int64_t n_done, int64_t n_all);
    void *userdata;
};

struct export_result {
    int64_t step;
    int64_t n_bytes; // of the written tensors
    int n_tensors;
};

/* ckpt: one checkpoint's folder, or the folder of a run's checkpoints, whose newest complete one it
 * is. Values come from the master weights, if it has them.
 *
 * -EEXIST: OUT is there; -EINVAL also: the checkpoint is of another model, a value is not finite or
 * too large for the type; -ENODATA: no averaged weights; errors of ckpt_open. */
int export_ckpt(const char *ckpt, const char *out, const struct export_options *options,
                struct export_result *ret, struct hai_err *err);
