/* folder.h - a new folder in Hugging Face layout: there whole or not at all.
 *
 * It is filled under another name beside its own that nobody else has, synchronised, and renamed.
 * Who is killed meanwhile leaves that one behind, PATH.tmpXXXXXX. Files that say nothing
 * about weights (tokenizer, generation settings, licence) are taken over from the model it is made
 * from.
 */
#pragma once
#include "kernels/kernels.h"
#include "lib/pure/buf.h"

struct folder;

/* Could a folder be made there? For asking before long work. -EEXIST: path is there and not an
 * empty folder; -EACCES, -ENOTDIR, -EROFS...: the folder that would hold it takes no new files. */
int folder_check(const char *path, struct hai_err *err);

/* Errors as of folder_check. */
int folder_new(const char *path, struct folder **ret, struct hai_err *err);

/* Where its files are to be written until folder_finish. */
const char *folder_dir(const struct folder *folder);

/* Copy the regular files of `from` apart from weights, indexes of weights and config.json. */
int folder_take_over(struct folder *folder, const char *from, struct hai_err *err);

/* Make it visible, durably. */
int folder_finish(struct folder *folder, struct hai_err *err);
void folder_free(struct folder *folder); // an unfinished one is removed
DEFINE_CLEANUP(struct folder *, folder_free)

/* The text of `from`/config.json, or of the file `from`, and its path. */
int folder_read_config(const char *from, char **ret_path, struct buf *ret, struct hai_err *err);

/* That text with a field put in place of all those named in `drop` (NULL at
 * the end). field: `"name": value`, or NULL. */
int folder_config(const char *from, const char *const *drop, const char *field, struct buf *ret,
                  struct hai_err *err);

/* The field that says a plain folder's type: `"torch_dtype": "bfloat16"`. F32, F16 or BF16. */
const char *folder_dtype_field(enum k_dtype dtype);
