#include "scheduler/core/desired.h"

static size_t alloc_on(const struct job *job, int node) {
    size_t i = 0;

    while (job->r.allocs.items[i].node != node)
        i++;
    return i;
}

size_t desired_node(const struct state *state, int node, struct desired_part **ret) {
    const struct node *at = state->nodes[node];
    struct desired_part *parts = hai_new_array(struct desired_part, at->n_jobs);

    for (size_t i = 0; i < at->n_jobs; i++) {
        const struct job *job = state_job_find(state, at->jobs[i]);
        size_t alloc = alloc_on(job, node);
        int64_t first = (int64_t)alloc * job->r.spec.ranks_per_node;
        parts[i] = (struct desired_part){
            .job = job,
            .phase = job->r.phase,
            .kill_at_us = job->r.kill_at_us,
            .node_rank = (int)alloc,
            .n_nodes = (int)job->r.allocs.n,
            .first_rank = first,
            .n_ranks = job->r.spec.ranks_per_node,
            .world_size = (int64_t)job->r.ranks.n,
            .gpus = (uint32_t)job->r.allocs.items[alloc].gpus,
            .cpus = job->cpus_per_node,
            .memory_bytes = job->r.spec.memory_per_node_bytes,
            .master_node = (int)job->r.allocs.items[0].node,
            .ranks = &job->r.ranks.items[first],
        };
    }
    *ret = parts;
    return at->n_jobs;
}
