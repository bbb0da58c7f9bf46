/* api_find.h - which job a request means, wherever it is: in the state or in the store.
 *
 * JOB is an id, the name of the caller's newest job of that name, or `last`. Failures are answered.
 */
#pragma once
#include "scheduler/api_call.h"

/* The id of a job: 0 or -ENOENT. */
int api_find_job(struct api_call *call, const char *text, int64_t *ret);

/* The same, without an answer. */
int api_find_id(struct api_call *call, const char *text, int64_t *ret);

/* How a job ended, or -ENOENT: it has not, or nobody knows. */
int api_find_ended(struct api_call *call, int64_t id);

/* A copy of a job's record, for schema_free(state_job_schema(), ret). */
int api_find_record(struct api_call *call, int64_t id, struct state_job *ret);

/* The view of a job: 0 or -ENOENT. */
int api_find_view(struct api_call *call, int64_t id, bool ranks, struct job_view *ret);
