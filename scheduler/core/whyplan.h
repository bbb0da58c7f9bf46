/* whyplan.h - strict order: what a waiting job is told about planned starts.
 *
 * Pure and reading only. Apart from why.h because plans are made for all jobs before it: too dear
 * for lists, cheap enough for one who asks.
 */
#pragma once
#include "scheduler/core/backfill.h"
#include "scheduler/core/why.h"

/* Say more than why_job did: when the job is planned to start and on how many nodes (code
 * "planned"); or whom it may not pass, when that one starts, and with which time limit it might
 * ("would_delay"). The sentence ends before the time, ret->at_us. Else ret stays as it is. */
void whyplan_explain(const struct state *state, const struct job *job, struct why *ret);

/* Plan all that decide would, up to one job (NULL: all), for people who ask; room is as above.
 * WHYPLAN_STARTS: that job starts now, in scratch. _PLANNED: it is the last of the plans. _BEHIND:
 * *ret_ahead blocks its group, as nobody knows when that job starts. _WAITS: it has no plan, and no
 * room beside those that there are; _NEVER: not on the nodes in service. */
enum whyplan_verdict {
    WHYPLAN_STARTS,
    WHYPLAN_PLANNED,
    WHYPLAN_BEHIND,
    WHYPLAN_WAITS,
    WHYPLAN_NEVER,
};
enum whyplan_verdict whyplan_lead(struct backfill *b, const struct state *state, struct room *room,
                                  const struct job *until, struct place_scratch *scratch,
                                  const struct job **ret_ahead);
