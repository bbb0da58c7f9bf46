/* story.h - what a job's events say about its faults: how many, the newest, what it cost.
 *
 * Computed here because events are what the scheduler keeps of them. Showing it is verb_status.c's
 * business.
 */
#pragma once
#include "cli/cli.h"

struct story {
    int64_t n_faults; // attempts that a fault ended
    char *fault;      // the newest as a sentence; NULL: none
    int64_t fault_us; // when it was
    int64_t again_us; // when all ranks ran again; 0: not yet

    /* Running time that was not saved when an attempt ended and another followed. Only an upper
     * bound where no checkpoint was ever recorded: the job may keep its own. */
    int64_t recomputed_us;
    bool has_checkpoints;
};

/* Read the events of a job. The caller frees what ret holds, also after an error. */
int story_read(struct cli *cli, int64_t job, struct story *ret, struct hai_err *err);
void story_free(struct story *story);
