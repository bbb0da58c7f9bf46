/* linesource.h - a text file line by line, however long the file: memory holds one line.
 *
 * Files packed with gzip are unpacked as a whole, up to TEXTFILES_BYTES_MAX.
 */
#pragma once
#include "lib/pure/buf.h"

struct linesource;

int linesource_open(const char *path, struct linesource **ret, struct hai_err *err);
void linesource_close(struct linesource *s);
DEFINE_CLEANUP(struct linesource *, linesource_close)

/* The next line without its line feed, valid until the next call. Returns 1, or 0 at the end.
 * -EFBIG: longer than n_bytes_max; err names file and line, as with all errors. */
int linesource_next(struct linesource *s, size_t n_bytes_max, const char **ret, size_t *ret_bytes,
                    struct hai_err *err);

/* Number of the line returned last, from 1; bytes of the file that were read so far. */
int64_t linesource_number(const struct linesource *s);
int64_t linesource_bytes(const struct linesource *s);
