/* weightsfile.h - the model.safetensors of a new folder: planned tensor by tensor, then written in
 * that order.
 *
 * Who makes a folder (quantize.c, engine/convert) decides which tensors there are and brings their
 * bytes. Names and layout of quantised ones stand here and in source.h, once.
 */
#pragma once
#include "engine/model/params.h"
#include "kernels/kernels.h"
#include "storage/safetensors.h"

struct weightsfile;

/* n_max: the most tensors. on_progress: told how many bytes are written; may be NULL. A negative
 * errno from it ends the writing, weightsfile_add returns it. */
struct weightsfile *
weightsfile_new(size_t n_max, int (*on_progress)(void *userdata, int64_t n_done, int64_t n_all),
                void *userdata);
void weightsfile_free(struct weightsfile *w);
DEFINE_CLEANUP(struct weightsfile *, weightsfile_free)

/* Plan a tensor of a parameter: its values as a float type, in its shape. Types of more bytes come
 * before those of fewer, and quantised ones first, so that everything is aligned without holes. */
void weightsfile_plan(struct weightsfile *w, const struct param *p, enum k_dtype dtype);

/* The scales of one in 8-bit floats, NAME_scale_inv. */
void weightsfile_plan_scales(struct weightsfile *w, const struct param *p);

/* The two of a quantised matrix, codes and scales. part: "", or ".keys" and ".values" of one with
 * n_heads matrices; n_heads 0: one matrix. */
void weightsfile_plan_quant(struct weightsfile *w, const struct param *p, const char *part,
                            enum k_dtype dtype, int64_t n_heads, int64_t n_out, int64_t n_in);

/* Bytes of planned tensor i, and of all. */
size_t weightsfile_bytes(const struct weightsfile *w, size_t i);
int64_t weightsfile_all_bytes(const struct weightsfile *w);
size_t weightsfile_count(const struct weightsfile *w);

/* Begin DIR/model.safetensors. form: "int8", "int4" or "mixed" for its metadata, NULL: nothing is
 * quantised. */
int weightsfile_begin(struct weightsfile *w, const char *dir, const char *form,
                      struct hai_err *err);
int weightsfile_add(struct weightsfile *w, const void *data, size_t n_bytes, struct hai_err *err);
int weightsfile_finish(struct weightsfile *w, struct hai_err *err);
