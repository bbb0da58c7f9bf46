/* safetensors.h - files of named tensors as Hugging Face publishes them: read by mapping, write.
 *
 * A file is an 8-byte little-endian header length, a JSON header {name: {dtype, shape,
 * data_offsets}}, and the tensors' raw little-endian bytes without holes or overlaps. What a header
 * claims is checked against the file before anything is used; a header that lies is refused with
 * the file and tensor named. What the tensors mean is the model's business (engine/model). Source
 * of the format and its limits: the README of github.com/huggingface/safetensors.
 */
#pragma once
#include "lib/base.h"

/* name in the files, bytes an element */
#define SAFETENSORS_DTYPES(X)                                                                      \
    X(BOOL, 1)                                                                                     \
    X(U8, 1)                                                                                       \
    X(I8, 1)                                                                                       \
    X(F8_E4M3, 1)                                                                                  \
    X(F8_E5M2, 1)                                                                                  \
    X(I16, 2)                                                                                      \
    X(U16, 2)                                                                                      \
    X(F16, 2)                                                                                      \
    X(BF16, 2)                                                                                     \
    X(I32, 4)                                                                                      \
    X(U32, 4)                                                                                      \
    X(F32, 4)                                                                                      \
    X(I64, 8)                                                                                      \
    X(U64, 8)                                                                                      \
    X(F64, 8)

enum safetensors_dtype {
#define X(name, n_bytes) SAFETENSORS_##name,
    SAFETENSORS_DTYPES(X)
#undef X
        SAFETENSORS_DTYPE_COUNT,
};

enum {
    SAFETENSORS_DIMS_MAX = 8,
    SAFETENSORS_NAME_BYTES_MAX = 1024,
    SAFETENSORS_HEADER_BYTES_MAX = 100000000, // the reference reader's limit
    SAFETENSORS_FILES_MAX = 4096,
};

struct safetensors_tensor {
    const char *name;
    enum safetensors_dtype dtype;
    int n_dims; // 0: a single number
    int64_t shape[SAFETENSORS_DIMS_MAX];
    const void *data; // row-major, aligned to its element size
    size_t n_bytes;
    int file; // number of the file it lies in, for safetensors_path; ignored when writing
};

struct safetensors;

/* The name of a type ("BF16"), and its bytes an element. */
const char *safetensors_dtype_name(enum safetensors_dtype dtype);
size_t safetensors_dtype_bytes(enum safetensors_dtype dtype);

/* Open a file; or a directory with model.safetensors.index.json (all shards it names are opened) or
 * model.safetensors. Everything is checked here: later calls cannot fail. The data stays mapped,
 * read-only, until safetensors_free; a file that another program cuts short meanwhile gives SIGBUS.
 *
 * Errors: -ENOENT and other errno values of open; -EBADMSG for a file that is cut short, is not
 * safetensors, or lies about itself; -EFBIG above a limit. err names file and tensor.
 */
int safetensors_open(const char *path, struct safetensors **ret, struct hai_err *err);
void safetensors_free(struct safetensors *s);

/* Begin to read all files into memory in the background, in the order of their names and from front
 * to back (fileahead.h); safetensors_free stops it. */
void safetensors_read_ahead(struct safetensors *s);
DEFINE_CLEANUP(struct safetensors *, safetensors_free)

/* All tensors in ascending order of names. Of a sharded model, those that the index lists. */
size_t safetensors_count(const struct safetensors *s);
const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t i);

/* NULL if there is none of that name. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name);

/* The tensor of that name and shape, or an error for a person: -ENOENT absent, -EINVAL another
 * shape (file, tensor, both shapes). The type is the caller's to check. */
int safetensors_get(const struct safetensors *s, const char *name, int n_dims, const int64_t *shape,
                    const struct safetensors_tensor **ret, struct hai_err *err);

/* The file a tensor lies in, for messages. */
const char *safetensors_path(const struct safetensors *s, const struct safetensors_tensor *t);

/* A value of the first file's __metadata__; NULL if absent. */
const char *safetensors_metadata(const struct safetensors *s, const char *key);

/* Write a file of tensors, in the order given, durably: under a temporary name in the same folder,
 * fsync, rename. The folder itself is the caller's to sync. Data begins at a multiple of 64 bytes.
 *
 * metadata  pairs key, value, key, value, ..., NULL; may be NULL
 */
int safetensors_write(const char *path, const struct safetensors_tensor *tensors, size_t n_tensors,
                      const char *const *metadata, struct hai_err *err);

/* The same piece by piece, for files larger than memory. The tensors (data is not read) say what
 * will come: their bytes in that order, cut anywhere, until all are there; then finish makes the
 * file visible. A writer freed before that leaves nothing behind. */
struct safetensors_writer;

int safetensors_writer_new(const char *path, const struct safetensors_tensor *tensors,
                           size_t n_tensors, const char *const *metadata,
                           struct safetensors_writer **ret, struct hai_err *err);
int safetensors_writer_add(struct safetensors_writer *w, const void *data, size_t n_bytes,
                           struct hai_err *err);
int safetensors_writer_finish(struct safetensors_writer *w, struct hai_err *err);
void safetensors_writer_free(struct safetensors_writer *w);
DEFINE_CLEANUP(struct safetensors_writer *, safetensors_writer_free)

/* Check the bytes of a whole file as safetensors_open does (fuzz target; no file needed). */
int safetensors_check(const void *bytes, size_t n_bytes, struct hai_err *err);
