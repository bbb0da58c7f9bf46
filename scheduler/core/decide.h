/* decide.h - what should happen next: proposals from the state.
 *
 * Pure and reading only. Proposals are appended as entries of principal "system:hai"; apply checks
 * them again, so a decision made on a state that has moved on is harmless. Replay never decides.
 *
 * Order: tier, then job id, over all groups (order.h). In strict order a job that does not fit
 * blocks those behind it in its group, so that a large job is not starved by small ones; except
 * those that can pass without delaying it (backfill.h), and where it could not start even if
 * everything that runs ended (its nodes are drained or lost): such a job blocks nobody.
 */
#pragma once
#include "scheduler/core/state.h"

struct decide_proposal {
    enum entry_kind kind;
    struct buf payload;
};

struct decide_list {
    struct decide_proposal *items;
    size_t n, n_max;
};

void decide_list_clear(struct decide_list *list); // keeps the memory
void decide_list_free(struct decide_list *list);

/* Memory of earlier decisions, so that a turn in which nothing was freed costs nothing. Belongs to
 * one state; throw it away when another state takes its place. */
struct decide;
struct decide *decide_new(void);
void decide_free(struct decide *d);
DEFINE_CLEANUP(struct decide *, decide_free)

enum { DECIDE_PROPOSALS_MAX = 256 };

/* Propose what can be done now; ret is added to. At most DECIDE_PROPOSALS_MAX: call again after
 * these were applied. Returns the number of proposals, 0: nothing to do until an entry changes
 * something. */
size_t decide_run(struct decide *d, const struct state *state, struct decide_list *ret);

/* The last run proposed nothing, but had no time for all who may ask others for room: let what is
 * urgent go first, then run again, whether an entry has come or not. */
bool decide_unfinished(const struct decide *d);
