/* entry_log.h - the log of entries as an interface: append a batch, learn when it is committed.
 *
 * The scheduler sees only this. Back end now: a table in SQLite (log_sqlite.h). Later: Raft over
 * the same tables, where an append is committed when a majority has it; so appends are
 * asynchronous even where SQLite answers before entry_log_append returns.
 */
#pragma once
#include "scheduler/core/entry.h"

struct entry_log;

/* A batch is committed (r == 0: it survives power loss) or was not written (r < 0: nothing of it
 * is there, and its indexes are free again). Called once for each append, in order; perhaps before
 * entry_log_append returns. err is valid during the call. */
typedef void (*entry_log_done_fn)(void *data, int r, const struct hai_err *err);

/* Read entries; the entry and what it points to are valid during the call. A negative result ends
 * the reading and is returned. */
typedef int (*entry_log_read_fn)(void *data, const struct entry *entry, struct hai_err *err);

/* A back end fills this in as the first member of its own struct. */
struct entry_log {
    const struct entry_log_ops *ops;
};

struct entry_log_ops {
    void (*append)(struct entry_log *log, const struct entry *entries, size_t n,
                   entry_log_done_fn done, void *data);
    int64_t (*committed)(const struct entry_log *log);
    int64_t (*first)(const struct entry_log *log);
    int (*read)(struct entry_log *log, int64_t from, entry_log_read_fn fn, void *data,
                struct hai_err *err);
    int (*truncate_before)(struct entry_log *log, int64_t index, int64_t n_max,
                           struct hai_err *err);
};

/* Append entries whose indexes follow the last one that was appended. The entries may go once this
 * returns. */
static inline void entry_log_append(struct entry_log *log, const struct entry *entries, size_t n,
                                    entry_log_done_fn done, void *data) {
    log->ops->append(log, entries, n, done, data);
}

/* Index of the newest committed entry, 0 if there is none. */
static inline int64_t entry_log_committed(const struct entry_log *log) {
    return log->ops->committed(log);
}

/* Index of the oldest entry still there; committed + 1 if there is none. */
static inline int64_t entry_log_first(const struct entry_log *log) {
    return log->ops->first(log);
}

/* Give fn the committed entries from an index on, in order. Returns 0, what fn returned, -ENODATA
 * if `from` was dropped already, -EBADMSG where an entry is missing. */
static inline int entry_log_read(struct entry_log *log, int64_t from, entry_log_read_fn fn,
                                 void *data, struct hai_err *err) {
    return log->ops->read(log, from, fn, data, err);
}

/* Drop the oldest entries below an index, at most n_max of them in this call, so that nobody waits
 * long; never the newest. Returns how many were dropped. */
static inline int entry_log_truncate_before(struct entry_log *log, int64_t index, int64_t n_max,
                                            struct hai_err *err) {
    return log->ops->truncate_before(log, index, n_max, err);
}
