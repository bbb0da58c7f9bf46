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
#include "scheduler/core/reply.h"

/* Apply an entry. ret is always set; fx may be NULL. Returns 0, or why it was refused:
 * -EBADMSG payload, -EACCES not allowed, -ENOENT no such thing, -EEXIST conflict (409), -ESTALE old
 * epoch or changed meanwhile, -EINVAL and -ERANGE impossible wishes, -E2BIG a limit. */
int apply_entry(struct state *state, const struct entry *entry, struct effects *fx,
                struct apply_reply *ret);
