/* desired.h - which ranks a node must run: what the shell sends to its agent.
 *
 * Pure. The set is identified by the node's revision (node->r.revision): an agent that has heard of
 * revision R ignores older ones. An attempt is in the set from its placement until its ranks on the
 * node are surely gone; ranks already reported to have ended are in `ranks` with RANK_STATE_EXITED,
 * and are not to be started again. What is not in the set must not run.
 */
#pragma once
#include "scheduler/core/state.h"

/* The part of one gang that a node runs. Pointers go into the state: valid until the next apply. */
struct desired_part {
    const struct job *job; // r.id, r.attempt, r.epoch, r.spec, r.ckpt_*, r.master_port
    enum desired_phase phase;
    int64_t kill_at_us; // phase term: SIGKILL at this log time; else S_ABSENT
    int node_rank;      // 0 ... n_nodes - 1
    int n_nodes;
    int64_t first_rank;
    int64_t n_ranks;
    int64_t world_size;
    uint32_t gpus; // set of this node's GPUs
    int64_t cpus;
    int64_t memory_bytes;           // 0: no limit
    int master_node;                // number of the node of rank 0
    const struct state_rank *ranks; // [n_ranks]
};

/* The set of one node. The caller frees *ret with free(). Returns the number of parts. */
size_t desired_node(const struct state *state, int node, struct desired_part **ret);
