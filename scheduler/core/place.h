/* place.h - on which nodes a gang would run.
 *
 * Pure and reading only. All nodes of a gang or none. One node: one where its GPUs are linked
 * (gpus.h) as far as they can be; of those the one that is left with the fewest free GPUs (jobs
 * without GPUs: nodes without GPUs first, then the most free CPUs). More:
 * the zone where the gang spans the fewest leaves, then leaves the least room in the last of them;
 * within a leaf the fullest nodes. It spans zones only if it may and no zone has room: then the
 * fewest zones, and in these the fewest leaves. Nodes come in rank order (zone, leaf, number), so
 * neighbours in rank order are neighbours in the network and each zone border is crossed once. All
 * ties end at the number.
 */
#pragma once
#include "scheduler/core/gpus.h"
#include "scheduler/core/spare.h"

/* What a gang asks for. */
struct place_need {
    int group;
    uint64_t zones; // set of zone numbers
    int64_t nodes;
    int64_t gpus_per_node;
    int64_t cpus_per_node;
    int64_t memory_per_node_bytes;
    bool cross_zones;
    bool recovers;        // goes on after a fault: may take spares
    int64_t reserve;      // number of the reservation whose nodes these are; 0: of none
    int64_t lasts_us;     // not on nodes that a reservation takes sooner; 0: wherever there is room
    const int64_t *avoid; // nodes taken only if it does not fit without them
    size_t n_avoid;
    bool keeps_apart;        // from jobs of its user and name (apart.h)
    const struct job *self;  // then: which job it is
    const uint64_t *without; // nodes that this search leaves out; NULL: none
};

struct place_need place_need_of(const struct state *state, const struct job *job);

/* Does a reservation that begins at coming_us (0: none does) take the node too soon? */
static inline bool place_too_soon(const struct place_need *need, int64_t coming_us,
                                  int64_t now_us) {
    return need->lasts_us && coming_us && coming_us - now_us < need->lasts_us;
}

struct place_node {
    int node;
    uint32_t gpus; // set
};

/* Room to work in and the answer; start from {0}. */
struct place_scratch {
    struct place_node *nodes; // the answer: as many as the need has, in rank order
    struct place_candidate *candidates;
    int64_t *in_leaf; // candidates by leaf; all zero between calls
    int64_t *take;    // chosen ones by leaf; all zero between calls
    uint64_t *spares; // of this search; NULL: none
    int n_max;
    int n_leaves_max;
};

void place_scratch_free(struct place_scratch *scratch);

/* Find nodes, by looking at every one: room.h is faster where many searches follow each other.
 * Returns 0 with the answer in scratch->nodes, or -ENOSPC. */
int place_find(const struct state *state, const struct place_need *need,
               struct place_scratch *scratch);

/* The steps of a search that room.h shares. Make the scratch fit the cluster; how many candidates
 * to take from each leaf, given how many there are (false: it does not fit; in_zone is used up);
 * into rank order. */
void place_scratch_fit(struct place_scratch *scratch, const struct state *state);
bool place_choose(const struct state *state, int64_t *in_zone, const int64_t *in_leaf, int64_t n,
                  bool may_cross, int64_t *take);
void place_sort(const struct state *state, struct place_node *nodes, size_t n);

/* Are exactly these GPUs and the CPUs and memory of the need free on a node that may take it? That
 * a reservation comes soon is for who chooses to weigh. */
bool place_fits(const struct state *state, const struct place_need *need, int node, uint32_t gpus);

/* Has the node room for one node of the gang now? ret: if not, why, as a short phrase for people
 * ("has 1 free", "is drained"); else empty. */
bool place_node_free(const struct state *state, const struct place_need *need, int node, char *ret,
                     size_t size);

/* Is the node large enough for one node of the gang, and of its zones, when it is idle? */
bool place_large_enough(const struct place_need *need, const struct node *node);

/* Would it start if nothing else ran: on all described nodes (usable false), or on those in
 * service now (true)? */
bool place_could(const struct state *state, const struct place_need *need, bool usable);

/* Until when time alone takes no node from the need: then a reservation comes too near. INT64_MAX:
 * none does. */
int64_t place_same_until_us(const struct state *state, const struct place_need *need);

/* 0 if the cluster as described can run it; else -EINVAL with the reason, code "impossible". */
int place_possible(const struct state *state, const struct place_need *need, struct hai_err *err);

/* The same for a job whose group and zones may not be there. */
int place_job_possible(const struct state *state, const struct job *job, struct hai_err *err);
