/* fileio.h - files: whole reads and writes, atomic replacement, directories, locks.
 *
 * What must survive a power loss is written through fileio_replace, which synchronises the file and
 * its directory. Large direct I/O is storage/'s business. Errors name the path.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"
#include <sys/types.h>
#include <unistd.h>

static inline void closep(int *fd) {
    if (*fd >= 0)
        close(*fd);
}

enum { FILEIO_HERE = -1 }; // as an offset: at the descriptor's own position (pipes, sockets)

/* Read or write exactly n_bytes at an offset, going on after short counts and signals. Returns 0.
 * -ENODATA: the file ends before. Not for non-blocking descriptors. */
int fileio_read_full(int fd, void *data, size_t n_bytes, int64_t offset, struct hai_err *err);
int fileio_write_full(int fd, const void *data, size_t n_bytes, int64_t offset,
                      struct hai_err *err);

/* Append a whole file, also one without a size as in /proc. -EFBIG: longer than n_bytes_max (ret
 * is then as before). path "-" is standard input. */
int fileio_read_file(const char *path, size_t n_bytes_max, struct buf *ret, struct hai_err *err);

/* Append all that comes from a descriptor until its end; name is for errors. -EFBIG as above. */
int fileio_read_end(int fd, const char *name, size_t n_bytes_max, struct buf *ret,
                    struct hai_err *err);

/* Put a file in place at once and durably: temporary file beside it, fsync, rename, fsync of the
 * directory. After a crash either the old or the new content is there. mode is set exactly, not
 * masked by the umask. */
int fileio_replace(const char *path, const void *data, size_t n_bytes, mode_t mode,
                   struct hai_err *err);

/* Create a directory and its parents; existing ones are left as they are. -ENOTDIR: something else
 * is in the way. */
int fileio_mkdir_p(const char *path, mode_t mode, struct hai_err *err);

/* The same, and they are there after a power loss: the parent of each that was made is synced, and
 * of the deepest that was there, whose maker may have been killed. */
int fileio_mkdir_durable(const char *path, mode_t mode, struct hai_err *err);

/* fsync of a directory, so that names made or removed in it are durable. */
int fileio_sync_dir(const char *path, struct hai_err *err);

/* Remove a file or a whole tree; 0 if there is none. Symbolic links are removed, not followed, and
 * a directory exchanged for a link meanwhile is not followed either. Goes on after failures and
 * reports the first. */
int fileio_remove_tree(const char *path, struct hai_err *err);

/* Take the exclusive lock on a file, made if needed (mode 0600), without waiting. The lock ends
 * when the descriptor and its copies in children are closed. -EBUSY: another process has it. */
int fileio_lock(const char *path, int *ret, struct hai_err *err);
