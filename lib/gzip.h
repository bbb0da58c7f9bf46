/* gzip.h - read gzip files, as manual pages are kept. zlib behind it. */
#pragma once
#include "lib/pure/buf.h"

/* Does the file begin with gzip's two bytes? */
bool gzip_is(const void *data, size_t n_bytes);

/* Append the unpacked content of one or more gzip members. -EBADMSG: damaged or cut short; -EFBIG:
 * it would be longer than n_bytes_max. Trailing bytes that are no member are ignored, as gzip does.
 */
int gzip_unpack(const void *data, size_t n_bytes, size_t n_bytes_max, struct buf *ret,
                struct hai_err *err);
