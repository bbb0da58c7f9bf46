/* joining.h - how the ranks of a run come together: the node's agent, the collectives, and the one
 * checkpoint that all of them resume from.
 */
#pragma once
#include "engine/ckpt/ckpt.h"
#include "engine/coll/coll.h"
#include "rank/rank.h"

/* Under hai by the agents, by hand as the environment says (rendezvous.h); *ret_rank is NULL then.
 * What has been opened is given back on failure too, to be closed. */
int joining_open(struct rank **ret_rank, struct coll **ret_coll, struct hai_err *err);

/* Rank 0 looks for the newest checkpoint in dir (ckpt_newest, on_skip); all open the same. -ENOENT
 * on every rank: there is none. -ESTALE: this rank sees another one there than rank 0. */
int joining_checkpoint(struct coll *coll, const char *dir,
                       void (*on_skip)(void *userdata, const char *path, const char *reason),
                       void *userdata, struct ckpt **ret, struct hai_err *err);
