/* gguf.h - files in GGUF, versions 2 and 3, as llama.cpp's users publish models: read by mapping.
 *
 * Magic and version, counts, metadata (key, type, value), tensors (name, dimensions with the
 * shortest stride first, type, offset), padding, data. What a header claims is checked against the
 * file before anything is used; one that lies is refused with the file and tensor or key named.
 * What the tensors mean is engine/convert/ggufmodel.h's business. Source of the format:
 * docs/gguf.md of github.com/ggml-org/ggml.
 */
#pragma once
#include "lib/base.h"

/* Types of tensors: name, number in files, elements and bytes of a block. */
#define GGUF_TYPES(X)                                                                              \
    X(F32, 0, 1, 4)                                                                                \
    X(F16, 1, 1, 2)                                                                                \
    X(Q4_0, 2, 32, 18)                                                                             \
    X(Q4_1, 3, 32, 20)                                                                             \
    X(Q5_0, 6, 32, 22)                                                                             \
    X(Q5_1, 7, 32, 24)                                                                             \
    X(Q8_0, 8, 32, 34)                                                                             \
    X(Q8_1, 9, 32, 36)                                                                             \
    X(Q2_K, 10, 256, 84)                                                                           \
    X(Q3_K, 11, 256, 110)                                                                          \
    X(Q4_K, 12, 256, 144)                                                                          \
    X(Q5_K, 13, 256, 176)                                                                          \
    X(Q6_K, 14, 256, 210)                                                                          \
    X(Q8_K, 15, 256, 292)                                                                          \
    X(I8, 24, 1, 1)                                                                                \
    X(I16, 25, 1, 2)                                                                               \
    X(I32, 26, 1, 4)                                                                               \
    X(I64, 27, 1, 8)                                                                               \
    X(F64, 28, 1, 8)                                                                               \
    X(BF16, 30, 1, 2)

enum gguf_type {
#define X(name, number, n_elements, n_bytes) GGUF_##name,
    GGUF_TYPES(X)
#undef X
        GGUF_TYPE_COUNT,
};

enum {
    GGUF_DIMS_MAX = 4,
    GGUF_KEYS_MAX = 1 << 14,
    GGUF_TENSORS_MAX = 1 << 17,
    GGUF_NAME_BYTES_MAX = 512,
    GGUF_ITEMS_MAX = 1 << 24, // of an array
};

enum gguf_kind {
    GGUF_UINT, // of any width
    GGUF_INT,
    GGUF_FLOAT,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_KIND_COUNT,
};

/* A value of the metadata, or an item of an array. Texts are not zero-terminated and may hold any
 * bytes. */
struct gguf_value {
    const char *key; // owned by the file; NULL for an item
    enum gguf_kind kind;
    uint64_t number; // UINT, BOOL; INT: two's complement
    double real;     // FLOAT
    bool narrow;     // FLOAT: 32 bits
    const char *text;
    size_t n_bytes; // STRING
    // ARRAY: n items, read with gguf_next from `items`
    uint32_t item_type;
    uint64_t n;
    const uint8_t *items;
};

struct gguf_tensor {
    const char *name;
    enum gguf_type type;
    int n_dims;
    int64_t shape[GGUF_DIMS_MAX]; // shape[0]: along a row; 1 from n_dims on
    const uint8_t *data;
    size_t n_bytes;
};

struct gguf;

/* -EBADMSG: cut short, no GGUF, or it lies about itself; -ENOTSUP: a version or type of tensors
 * that is not known; -EFBIG: above a limit. Mapped, read-only, until gguf_free. */
int gguf_open(const char *path, struct gguf **ret, struct hai_err *err);
void gguf_free(struct gguf *g);
DEFINE_CLEANUP(struct gguf *, gguf_free)

/* Check the bytes of a whole file in the same way; they stay the caller's. */
int gguf_open_bytes(const void *bytes, size_t n_bytes, struct gguf **ret, struct hai_err *err);

const char *gguf_path(const struct gguf *g);

size_t gguf_n_values(const struct gguf *g);
const struct gguf_value *gguf_value_at(const struct gguf *g, size_t i);
const struct gguf_value *gguf_find(const struct gguf *g, const char *key); // NULL: absent

/* The next item of an array; *at is array->items at first. They were all checked. */
struct gguf_value gguf_next(const struct gguf_value *array, const uint8_t **at);

size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name);

const char *gguf_type_name(enum gguf_type type);

/* Elements and bytes of a block of a type. */
int64_t gguf_block_elements(enum gguf_type type);
size_t gguf_block_bytes(enum gguf_type type);
