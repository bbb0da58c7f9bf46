/* apply_job.h - entries by which people change jobs, and placements.
 *
 * Pure. Each function applies one kind: 0, or a refusal told in c->reply->err. A payload may be
 * taken apart: what is moved out of it is set to zero.
 */
#pragma once
#include "scheduler/core/mutate.h"

int apply_job_submit(struct mutate *c, struct entry_job_submit *in);
int apply_job_stop(struct mutate *c, const struct entry_job_stop *in);
int apply_job_suspend(struct mutate *c, const struct entry_job_suspend *in);
int apply_job_resume(struct mutate *c, const struct entry_job_resume *in);
int apply_job_set(struct mutate *c, const struct entry_job_set *in);
int apply_job_place(struct mutate *c, const struct entry_place *in);

/* A job's timer is due. */
void apply_job_due(struct mutate *c, struct job *job);
