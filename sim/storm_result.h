/* storm_result.h - what one asks a storm for, and what came of it (storm.h). */
#pragma once
#include "lib/base.h"

struct storm_result {
    int64_t entries;
    int64_t jobs;
    int64_t placements;
    int64_t rooms;    // times that jobs were suspended for another
    int64_t faults;   // of nodes, agents, ranks and the scheduler
    int64_t retries;  // requests that were made again for want of an answer
    int64_t messages; // between scheduler and agents
    int64_t waited;   // jobs that waited until the bound on waiting applies (starve.h)
    int64_t near;     // and could have had nodes for more than half of a look
    int64_t claims;   // room that was given, and was watched until it was left
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
