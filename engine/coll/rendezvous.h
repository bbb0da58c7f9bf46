/* rendezvous.h - how the ranks of one attempt exchange their addresses, once, at the start.
 *
 * Under hai the agents do it (rank/rank.h). Ranks started by hand, with the variables that PyTorch
 * users know (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), meet at rank 0's port.
 */
#pragma once
#include "engine/coll/peerlink.h"

enum {
    RENDEZVOUS_WORLD_MAX = 65536,
    RENDEZVOUS_VALUE_BYTES = 512, // of one rank, terminating zero included
};

/* Who I am among the ranks. Texts are borrowed from the environment. */
struct rendezvous {
    int rank, world;
    const char *node;        // ranks of the same text share memory
    const char *master_host; // NULL if world is 1
    const char *master_port;
    struct peerlink_secret secret;
    int64_t timeout_s; // for everyone to come
    // Another way to exchange the values than rank 0's port; NULL: that one.
    int (*allgather)(void *userdata, const char *value, char (*ret)[RENDEZVOUS_VALUE_BYTES],
                     struct hai_err *err);
    void *userdata;
};

/* From the environment. Without WORLD_SIZE: a world of one. The node is NODE_RANK, else the same
 * for all. -EINVAL: a variable is missing or no number in its bounds (err names it). */
int rendezvous_from_env(struct rendezvous *ret, struct hai_err *err);

/* Give my value (below RENDEZVOUS_VALUE_BYTES), get everyone's: ret [world]. */
int rendezvous_allgather(const struct rendezvous *meet, const char *value,
                         char (*ret)[RENDEZVOUS_VALUE_BYTES], struct hai_err *err);
