/* apply.h - the one way to change the state: apply one committed entry.
 *
 * Pure. Called for every entry in index order, live and in replay, always after the commit. A
 * refusal (negative result) changes nothing but index, term and time. Before an entry, everything
 * that its time makes due happens: time limits, kills, restarts, leases that ran out.
 *
 * Who may: jobs are changed by their user, or by operate and above; nodes by operate; accounts and
 * cluster by admin; placements by system; reports by system or the node itself. Which requests a
 * token's scope may make at all is the shell's business.
 */
#pragma once
#include "scheduler/core/effects.h"

/* The answer to whoever asked.
 *
 * id        job_submit, token_create: the id; else the job that the entry was about
 * repeated  job_submit: the same key and body came before, id is the first's; nothing new
 * changed   the entry changed something (a second stop does not)
 * err       why it was refused; code is a word of UX.md's errors: not_found, denied, ended,
 *           conflict, stale, impossible, unknown_group, unknown_zone, out_of_range, too_many, ...
 */
struct apply_reply {
    int64_t id;
    bool repeated;
    bool changed;
    struct hai_err err;
};

/* Apply an entry. ret is always set; fx may be NULL. Returns 0, or why it was refused:
 * -EBADMSG payload, -EACCES not allowed, -ENOENT no such thing, -EEXIST conflict (409), -ESTALE old
 * epoch or changed meanwhile, -EINVAL and -ERANGE impossible wishes, -E2BIG a limit. */
int apply_entry(struct state *state, const struct entry *entry, struct effects *fx,
                struct apply_reply *ret);
