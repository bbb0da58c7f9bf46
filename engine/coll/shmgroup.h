/* shmgroup.h - the memory that the ranks of one node share, and waiting for each other in it.
 *
 * One rank (the leader, number 0 of the node) makes it; the others get its descriptor over an
 * abstract Unix socket. Nothing has a name in the file system, so nothing is left behind however
 * the ranks end. Every rank holds a record lock on its own byte: the kernel drops it with the
 * process, which is how the others learn of a death, in any PID namespace, within some 10 ms.
 */
#pragma once
#include "engine/coll/peerlink.h"

enum { SHMGROUP_RANKS_MAX = 64 };

struct shmgroup;

/* What every rank of the node knows of the others, in the order of their ranks. */
struct shmgroup_member {
    int rank;            // global
    const char *address; // of its Unix listener
    const uint8_t *nonce;
};

/* Join members 0 to n-1 as number `me`; payload_bytes are shared. listener is my own. */
int shmgroup_open(const struct shmgroup_member *members, int n, int me,
                  struct peerlink_listener *listener, const struct peerlink_secret *secret,
                  size_t payload_bytes, int64_t deadline_us, struct shmgroup **ret,
                  struct hai_err *err);
void shmgroup_close(struct shmgroup *group);
DEFINE_CLEANUP(struct shmgroup *, shmgroup_close)

/* The shared bytes, page-aligned, zero at first. */
void *shmgroup_payload(const struct shmgroup *group);

/* Wait until all have come here. What any wrote before is seen by all after. -ECONNRESET: a member
 * is gone (err names its rank); so it stays. */
int shmgroup_barrier(struct shmgroup *group, struct hai_err *err);

/* Tell the others that this rank gives up because `rank` is gone. */
void shmgroup_give_up(struct shmgroup *group, int rank);
