/* textfiles.h - the documents behind a list of paths: files, folders, patterns.
 *
 * Folders are searched through; patterns are the shell's (`*`, `?`, `[...]`, `{a,b}`). Symbolic
 * links inside folders are passed over, so that a manual page with five names is read once. The
 * order is that of the paths given, and by name within each: the same on every machine.
 */
#pragma once
#include "lib/pure/buf.h"

struct textfiles {
    char **paths; // owned
    size_t n, n_max;
};

enum { TEXTFILES_BYTES_MAX = 256 << 20 }; // of one document, unpacked

void textfiles_free(struct textfiles *files);

/* Append what a pattern names, files and folders as they are. -ENOENT: nothing. */
int textfiles_match(const char *path, struct textfiles *ret, struct hai_err *err);

/* Append the files behind one path. -ENOENT: there is none. */
int textfiles_find(const char *path, struct textfiles *ret, struct hai_err *err);

/* Read one document into ret, which is cleared first; gzip is unpacked. Returns 1, or 0 for a file
 * that is no text (it has a zero byte near its start). */
int textfiles_read(const char *path, struct buf *ret, struct hai_err *err);
