/* storm.h - one seeded run of the scheduler's core among simulated nodes and everything that can
 * go wrong, with the invariants checked all along.
 *
 * Submissions, stops, suspensions; ranks that end well and badly; nodes cut off, crashed, fenced,
 * drained; agents killed, and the scheduler between commits and before one; callers without an
 * answer, who ask again; messages late, repeated and out of order. At the end
 * the faults cease, and every job must end or wait for a person.
 */
#pragma once
#include "lib/pure/buf.h"

struct storm_result {
    int64_t entries;
    int64_t jobs;
    int64_t placements;
    int64_t rooms;    // times that jobs were suspended for another
    int64_t faults;   // of nodes, agents, ranks and the scheduler
    int64_t retries;  // requests that were made again for want of an answer
    int64_t messages; // between scheduler and agents
    int64_t n_met;    // faults whose time came, those that were left out included
    uint64_t digest;  // of the final state
};

/* Faults are numbered as they come. skip: leave these out, and all that
 * have no place in it, NULL: none; on_fault: hear of the others, each with
 * the time since the start and its node, NULL: none. */
struct storm_options {
    const bool *skip;
    size_t n_skip;
    void (*on_fault)(void *userdata, int64_t number, int64_t at_us, const char *what,
                     const char *node);
    void *userdata;
};

/* Run a seed. ret_log: receives the log as world_save writes it, NULL: not wanted. Returns 0, or
 * -EINVAL with what was violated, the seed and the number of entries until then. */
int storm_run(uint64_t seed, int n_steps, struct storm_result *ret, struct buf *ret_log,
              struct hai_err *err);
int storm_run_as(uint64_t seed, int n_steps, const struct storm_options *options,
                 struct storm_result *ret, struct buf *ret_log, struct hai_err *err);
