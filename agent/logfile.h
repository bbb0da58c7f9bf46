/* logfile.h - reads the output of ranks that shims write: ranges by offset over rotated files.
 *
 * RANK.log holds the newest bytes and RANK.log.BASE those before BASE (shim_output.h). Works for
 * running and ended attempts alike. Reading never blocks on a rank.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

/* Bytes from offset on, at most n_bytes_max, appended to ret.
 *
 * ret_offset  of the first byte given: later than asked when the older ones are gone
 * ret_end     offset behind the last byte there is
 *
 * Returns the number of bytes, 0 at the end, or -ENOENT: this rank has no output here.
 */
int64_t logfile_read(const char *log_dir, int64_t job, int64_t attempt, int64_t rank,
                     int64_t offset, size_t n_bytes_max, struct buf *ret, int64_t *ret_offset,
                     int64_t *ret_end);

/* The last bytes, at most n_bytes_max; nothing if there are none. Returns the offset at which they
 * end: all bytes ever written. */
int64_t logfile_tail(const char *log_dir, int64_t job, int64_t attempt, int64_t rank,
                     size_t n_bytes_max, struct buf *ret);

/* The newest attempt of a job with output here, 0 if none. */
int64_t logfile_newest_attempt(const char *log_dir, int64_t job);
