/* attempts.h - the attempts of this node: starts and adopts their shims, carries out what the core
 * decides, and tells it what happened.
 */
#pragma once
#include "agent/agentd.h"

/* Find the shims of an agent before us; the core is told when all have answered. */
int attempts_adopt(struct agentd *a, struct hai_err *err);

/* A new desired set is in a->desired. */
void attempts_desired(struct agentd *a);

/* Do what the core wants done. At the end of a turn. */
void attempts_act(struct agentd *a);

/* a->lease_until_us has moved. */
void attempts_lease(struct agentd *a, int64_t lease_us);

struct attempt *attempts_find(struct agentd *a, const struct reconcile_key *key);

/* The newest of a job that is here; attempt 0: any. NULL if none. */
struct attempt *attempts_find_job(struct agentd *a, int64_t job, int64_t attempt);

/* The ranks of the attempt run on, only our memory of it is given back. */
void attempts_free(struct agentd *a);
void attempts_free_wants(struct agentd *a);
