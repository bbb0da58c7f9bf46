/* submitter.h - jobs on their way to the scheduler: one by one, or in batches sent ahead of the
 * answers, each with its idempotency key.
 */
#pragma once
#include "cli/cli.h"
#include "wire/messages.h"

/* Submit one job and give the job_submitted. A connection that breaks is opened again and the same
 * key sent again, so that it is one job whatever happens. */
int submitter_one(struct cli *cli, const struct job_spec *spec, bool dry_run, struct json **ret,
                  struct hai_err *err);

/* Many: add jobs, then finish. Results come in order through `result` as job_submitted objects,
 * which stay the submitter's. */
struct submitter;
struct submitter *submitter_new(struct cli *cli,
                                void (*result)(void *context, const struct json *submitted),
                                void *context);
void submitter_free(struct submitter *submitter);
DEFINE_CLEANUP(struct submitter *, submitter_free)
int submitter_add(struct submitter *submitter, const struct job_spec *spec, struct hai_err *err);
int submitter_finish(struct submitter *submitter, struct hai_err *err);
