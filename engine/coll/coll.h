/* coll.h - collectives of a run's ranks: sums, broadcast, barrier, with bits that do not depend on
 * where the ranks are.
 *
 * Inside a node through shared memory, between nodes over TCP. The order of additions is the run's
 * reduction shape alone: ranks of a group in ascending order, then a binary tree over the groups
 * (docs/ARCHITECTURE.md, "Bits"). How ranks lie on nodes decides only who computes which slice and
 * what travels: a group that lies on one node is added up there and travels once.
 *
 * Every rank calls the same functions in the same order with the same sizes. After an error the
 * only thing left is coll_close: a dead peer is -ECONNRESET on every rank within a moment.
 */
#pragma once
#include "engine/coll/rendezvous.h"

enum { COLL_NODES_MAX = 128 };

struct coll;

/* Join the others. A world of one needs no rendezvous and costs nothing. */
int coll_open(const struct rendezvous *meet, struct coll **ret, struct hai_err *err);
void coll_close(struct coll *coll);
DEFINE_CLEANUP(struct coll *, coll_close)

int coll_rank(const struct coll *coll);
int coll_world(const struct coll *coll);
int coll_nodes(const struct coll *coll);

/* Ranks in a group of the reduction shape. At first: the ranks of a node, where all nodes have
 * equally many, numbered side by side; else 1. A resumed run sets what its checkpoint says. */
int coll_group_ranks(const struct coll *coll);
void coll_set_group_ranks(struct coll *coll, int n);

/* Add up over all ranks, in place; all get the same bits. */
int coll_sum_f32(struct coll *coll, float *data, size_t n, struct hai_err *err);
int coll_sum_f64(struct coll *coll, double *data, size_t n, struct hai_err *err);
int coll_sum_i64(struct coll *coll, int64_t *data, size_t n, struct hai_err *err);

/* Rank root's bytes to all. */
int coll_broadcast(struct coll *coll, void *data, size_t n_bytes, int root, struct hai_err *err);

/* No rank comes out before all have come in. */
int coll_barrier(struct coll *coll, struct hai_err *err);
