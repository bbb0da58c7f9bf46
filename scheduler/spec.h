/* spec.h - from a job as submitted to what the core decides from.
 *
 * The same checks whoever submits: the API is the border, the command's own checks are a courtesy.
 */
#pragma once
#include "scheduler/core/entry.h"
#include "wire/messages.h"

struct state_user;

/* Fill an entry for a submission; release it with schema_free(entry_job_submit_schema(), ret).
 *
 * user       who submits; without a uid in the account map nothing can run: refused
 * team       who pays where the spec names nobody
 * key        Idempotency-Key or NULL
 * -EINVAL and -ERANGE name the field; code "unsupported" for what a later version will do.
 */
int spec_to_entry(const struct job_spec *spec, const struct state_user *user, const char *team,
                  const char *key, struct entry_job_submit *ret, struct hai_err *err);

/* A priority in words. `auto` (and NULL): ret_auto is 1 and ret where it begins, else ret_auto is
 * absent. -ERANGE for what is none of PRIORITIES. */
int spec_priority(const char *text, int64_t *ret, int64_t *ret_auto, struct hai_err *err);

/* A body that names a kind which there will be later is not wrong but early: make the
 * error of the decoder say so. Other errors stay as they are. */
void spec_name_unsupported(struct hai_err *err);
