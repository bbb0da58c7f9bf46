/* apply_quota.h - entries that change quotas, and what follows when charge is given back.
 *
 * Pure. Only apply.c and apply_cluster.c include it.
 */
#pragma once
#include "scheduler/core/mutate.h"

int apply_quota_set(struct mutate *c, const struct entry_quota_set *in);

/* At the end of an entry: jobs whose turn has come are within quota, or rise to a higher level. */
void apply_quota_settle(struct mutate *c);

/* A user became external or is so no more. */
void apply_quota_user(struct mutate *c, const char *user);
