/* apply_job.h - entries by which people change jobs, and placements.
 *
 * Pure. Each function applies one kind: 0, or a refusal told in c->reply->err. A payload may be
 * taken apart: what is moved out of it is set to zero.
 */
#pragma once
#include "scheduler/core/change.h"

int apply_job_submit(struct change *c, struct entry_job_submit *in);
int apply_job_stop(struct change *c, const struct entry_job_stop *in);
int apply_job_suspend(struct change *c, const struct entry_job_suspend *in);
int apply_job_resume(struct change *c, const struct entry_job_resume *in);
int apply_job_set(struct change *c, const struct entry_job_set *in);
int apply_job_place(struct change *c, const struct entry_place *in);

/* A job's timer is due. */
void apply_job_due(struct change *c, struct job *job);
