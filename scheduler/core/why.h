/* why.h - the one binding reason why a job is where it is, in a sentence with numbers.
 *
 * Pure. Times are left to the caller, who knows the zone of the reader: at_us says when something
 * happens at the latest, and the sentence stands before it ("... surely gone at", "starts again").
 */
#pragma once
#include "scheduler/core/state.h"

enum { WHY_CODE_MAX = 31, WHY_TEXT_MAX = 511 };

struct why {
    char code[WHY_CODE_MAX + 1];    // e.g. "resources", "behind", "backoff", "node_lease"
    char message[WHY_TEXT_MAX + 1]; // needs 1 node with 2 free GPUs in group default; b1 has 1 free
    char sooner[WHY_TEXT_MAX + 1];  // what would start it sooner; empty: nothing known
    int64_t ahead;                  // job that must start first, 0: none
    int64_t at_us;                  // when this changes by itself at the latest; S_ABSENT: unknown
};

/* Explain a job in any state. Never fails: every job has a reason. */
void why_job(const struct state *state, const struct job *job, struct why *ret);

/* A job as if it were submitted now; what its spec points to stays the caller's. */
void why_draft(const struct state *state, const struct entry_job_spec *spec, struct job *ret);

/* Explain a job as if somebody with this scope submitted it now: 0, or why it would be refused for
 * what it asks for. */
int why_spec(const struct state *state, const struct entry_job_spec *spec, enum scope scope,
             struct why *ret, struct hai_err *err);
