/* prefix_file.h - the prefix cache as a file: saved, checked, loaded again.
 *
 * A cache is only of use to the model, kernel path and cache type that made it: the file says whose
 * it is, and is refused, with the reason, if that differs or if anything in it is not as it should
 * be. A refused file is no failure of the program, which starts with a cold cache instead. The
 * checksums (XXH3) find damage, they do not resist an attacker: the file belongs into a directory
 * that only the server's user can write. Numbers are little-endian:
 *
 *   header  PREFIX_FILE_HEADER_BYTES: magic, u32 version, u32 page_tokens, weights hash, kernel
 *           path (zero-padded), u32 cache dtype, u32 n_nodes, u64 page_bytes, u64 bytes of the
 *           file, u64 zero, u64 XXH3 of the index, u64 XXH3 of the header up to here
 *   index   a record a node: u32 number of the parent's record, below its own (0xffffffff: none),
 *           u64 key, u64 XXH3 of the page, page_tokens times i32 ids, none negative
 *   pages   page_bytes each, in order of the index, from the next multiple of PREFIX_FILE_ALIGN on
 *
 * Records come most recently used first, parents before children.
 */
#pragma once
#include "engine/infer/prefix.h"

enum {
    PREFIX_FILE_VERSION = 1,
    PREFIX_FILE_HASH_BYTES = 32,
    PREFIX_FILE_PATH_BYTES = 32, // of a kernel path's name, terminating zero included
    PREFIX_FILE_HEADER_BYTES = 128,
    PREFIX_FILE_INDEX_SUM_AT = 112, // where the two checksums lie in the header
    PREFIX_FILE_HEADER_SUM_AT = 120,
    PREFIX_FILE_RECORD_BYTES = 20, // without its ids
    PREFIX_FILE_ALIGN = 4096,
};
#define PREFIX_FILE_MAGIC "HAIPREFX"
#define PREFIX_FILE_PAGE_BYTES_MAX (INT64_C(1) << 30)

/* Whose cache it is; all of it must agree. */
struct prefix_file_owner {
    uint8_t weights_hash[PREFIX_FILE_HASH_BYTES]; // of the model's weights and configuration
    char kernel_path[PREFIX_FILE_PATH_BYTES];     // as the kernels name it: "ref", "avx512", ...,
                                                  // and behind it " fast-prefill" with that option
    uint32_t cache_dtype;                         // enum k_dtype
    int64_t page_bytes; // of one page over all layers, 1 to PREFIX_FILE_PAGE_BYTES_MAX
};

/* How the bytes of a page are fetched and put back; a negative answer ends the call with it. */
struct prefix_file_bytes {
    int (*get)(void *userdata, int32_t page, void *ret, struct hai_err *err);
    int (*put)(void *userdata, int32_t page, const void *bytes, struct hai_err *err);
    void *userdata;
};

/* Write the tree, at most its n_pages_max pages used last, to a file that replaces `path` only when
 * it is complete and durable. Allocates. Returns the pages written. */
int prefix_file_save(const struct prefix *t, const char *path,
                     const struct prefix_file_owner *owner, int32_t n_pages_max,
                     const struct prefix_file_bytes *bytes, struct hai_err *err);

/* Add the nodes of a file to the tree, as long as unused pages last; what the tree has already is
 * kept. Allocates. Returns the pages loaded.
 * -EBADMSG: the file lies or is damaged; -EMEDIUMTYPE: it is whole, but of another version, model,
 * kernel path, type or shape; -ENOENT and the like: it cannot be read. After a failure the tree and
 * the pages' holders are as they were; bytes of pages that are unused may have been written. */
int prefix_file_load(struct prefix *t, const char *path, const struct prefix_file_owner *owner,
                     const struct prefix_file_bytes *bytes, struct hai_err *err);
