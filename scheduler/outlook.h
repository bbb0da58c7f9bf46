/* outlook.h - when waiting jobs will start, as the API tells it.
 *
 * Keeps the newest forecast (scheduler/core/forecast.h) of all that waits. A small one is made when
 * somebody asks; a large one by a child that sees the state as it was at the fork, at most one at a
 * time, so the answer may be a few seconds old or not there yet. Nothing of it is state.
 */
#pragma once
#include "scheduler/context.h"

struct outlook_job {
    int64_t id;
    int64_t p50_us; // the median of its start
    int64_t p90_us; // in 9 of 10 cases by then; S_ABSENT: not foreseen
    int64_t after;  // the job that ends or gives way last of those in its place; 0: none
};

struct outlook;

struct outlook *outlook_new(struct schedd *s);
void outlook_free(struct outlook *outlook);

/* When the job starts; NULL: it waits for nothing that is foreseen, or that is not known (yet).
 * ret_index: the log index it was computed at. Valid until the loop goes on. */
const struct outlook_job *outlook_of(struct outlook *outlook, const struct job *job,
                                     int64_t *ret_index);

/* Of a job that is not submitted, at once; false: not foreseen, or too much waits for that. */
bool outlook_draft(struct outlook *outlook, const struct entry_job_spec *spec,
                   struct outlook_job *ret);
