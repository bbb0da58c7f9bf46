/* weightsfile.h - the weights of a new folder: planned tensor by tensor, then written in that order
 * into model.safetensors, or into several files with an index.
 *
 * Who makes a folder (quantize.c, blend.c, export.c, engine/convert) decides which tensors there
 * are and brings their bytes. Names and layout of quantised ones stand here and in source.h, once.
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

/* Plan a tensor that is no parameter's and is taken over as it is. */
void weightsfile_plan_copy(struct weightsfile *w, const struct safetensors_tensor *tensor);

/* The tensors planned from here on lie in DIR/NAME. Before the first: all in one file of that name.
 */
void weightsfile_plan_file(struct weightsfile *w, const char *name);

/* All are planned, in one file: cut it into shards, model-00001-of-00003.safetensors and so on, of
 * at most n_bytes_max bytes of tensors each; a larger tensor has one to itself. Nothing happens
 * where one file is enough. */
void weightsfile_split(struct weightsfile *w, int64_t n_bytes_max);

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

/* Begin in DIR. form: "int8", "int4" or "mixed" for the metadata, NULL: nothing is quantised. */
int weightsfile_begin(struct weightsfile *w, const char *dir, const char *form,
                      struct hai_err *err);

/* The next bytes, cut anywhere but of one file. */
int weightsfile_add(struct weightsfile *w, const void *data, size_t n_bytes, struct hai_err *err);

/* n values in a tensor's type, F32, F16 or BF16: to the nearest, ties to even. False: one is no
 * finite number, or too large for it. */
bool weightsfile_round(enum k_dtype dtype, const float *values, int64_t n, void *ret);

/* All are there: the last file, and model.safetensors.index.json unless model.safetensors is the
 * only one. DIR is the caller's to sync. */
int weightsfile_finish(struct weightsfile *w, struct hai_err *err);
