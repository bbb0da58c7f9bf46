/* masking.h - node names in answers to external users.
 *
 * They see node-1, node-2, ... in the order of the job's allocation, and `a node` for any other.
 * What hai itself says is masked: names in their fields and words in sentences. Job files and what
 * ranks print are the user's own; ranks know where they run (HAI_NODE, MASTER_ADDR), else they
 * could not find each other.
 */
#pragma once
#include "lib/pure/buf.h"
#include "scheduler/core/state.h"

/* Is the caller an external user without the right to operate? */
bool masking_needed(const struct state *state, const char *user, enum scope scope);

/* Mask one JSON text of hai's in place: an answer, or one element of a list, which may be too long
 * to be read as a whole. -EFBIG, -EBADMSG: it cannot be read; the text is as it was. */
int masking_apply(const struct state *state, struct buf *text, struct hai_err *err);
