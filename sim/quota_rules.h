/* quota_rules.h - what must hold of quotas, reckoned from the jobs alone.
 *
 * Pure. Nothing that the core derives is trusted: the limits of a job are looked for again among
 * all records, and what is charged is added up from the records of the jobs.
 */
#pragma once
#include "scheduler/core/state.h"

/* 0, or -EINVAL: sums differ from the accounts, a job is over quota although its turn has come, or
 * one that is over asks others to give way. */
int quota_rules(const struct state *state, struct hai_err *err);

/* Would a state that was just read charge a job? Its own record says who is. */
bool quota_rules_settled(struct state *state);

/* No account goes further beyond its limit; it may be beyond since that was lowered. Start from
 * {0}; look after every entry, and forget where entries are undone. */
struct quota_rules_seen {
    struct map seen; // what was charged when it was looked last
};
int quota_rules_watch(struct quota_rules_seen *watch, const struct state *state,
                      struct hai_err *err);
void quota_rules_forget(struct quota_rules_seen *watch);
