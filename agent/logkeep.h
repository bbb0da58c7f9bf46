/* logkeep.h - drops output of ranks that is too old, or too much: the retention of DESIGN
 * section 4.
 *
 * An attempt's output goes as a whole, and never while the attempt lives: its shim holds a lock on
 * the file LOGKEEP_LIVE in its folder as long as there is something to write or to ask for. The
 * lock tells it to every agent that shares the directory, as those of `hai up` do.
 */
#pragma once
#include "lib/base.h"

#define LOGKEEP_LIVE ".live" // in an attempt's folder

struct logkeep {
    const char *log_dir;
    int64_t age_us;    // since the last byte
    int64_t bytes_max; // of all output in log_dir
    int64_t young_us;  // output younger than this is left alone: its shim may just be starting
    // Attempts that are known to live, lock or no lock (a shim of an earlier version).
    bool (*is_live)(int64_t job, int64_t attempt, void *data);
    void *data;
};

/* Drop what is beyond the limits, oldest first. Blocks on the disk, so not in a daemon's loop.
 * Returns the number of attempts dropped, 0 as well while somebody else does the same. What could
 * not be dropped is told on stderr. */
int logkeep_sweep(const struct logkeep *keep, int64_t now_us);
