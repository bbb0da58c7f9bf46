/* snapshot.h - the state at one index, as a file: what a restart begins with.
 *
 * DIR/snapshots/INDEX.snap holds the canonical bytes of the state with a digest, and the id of the
 * store they belong to. A snapshot is written by a child process (snapshot_start), because encoding
 * and fsync would stall the loop; the child sees the state as it was at the fork. The two newest
 * are kept, and with them the log entries from the older one on: a damaged newest one costs time
 * only.
 */
#pragma once
#include "lib/pure/buf.h"
#include "scheduler/store/store.h"
#include <sys/types.h>

enum { SNAPSHOTS_KEPT = 2 };

/* Write one now, durably; removes none. -EFBIG: a restart could not read it. */
int snapshot_write(const struct store *store, int64_t index, const void *data, size_t n_bytes,
                   struct hai_err *err);

/* Fork a child that calls encode, writes the snapshot and ends with status 0, or 1 after a line on
 * stderr. Returns its pid, or -errno. */
pid_t snapshot_start(const struct store *store, int64_t index,
                     void (*encode)(const void *state, struct buf *ret), const void *state);

/* Remove all but the newest SNAPSHOTS_KEPT. Returns the index of the oldest that is kept, so that
 * log entries up to it may go; 0 while there are fewer than SNAPSHOTS_KEPT. */
int64_t snapshot_prune(const struct store *store, struct hai_err *err);

/* Indexes of the snapshots there are, newest first; the caller frees *ret. Returns how many. */
int snapshot_list(const struct store *store, int64_t **ret, struct hai_err *err);

/* Read one. -EBADMSG: damaged, or of another store. */
int snapshot_read(const struct store *store, int64_t index, struct buf *ret, struct hai_err *err);
