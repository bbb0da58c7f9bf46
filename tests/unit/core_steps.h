/* core_steps.h - short steps for the unit tests of the scheduler's core.
 *
 * Header only; every test program uses some of them. Each appends one entry and returns what
 * apply_entry returned.
 */
#pragma once
#include "sim/rng.h"
#include "sim/world.h"
#include "tests/unit/test.h"
#include <stdio.h>

#define S(us) (INT64_C(1000000) * (us))

_unused_ static struct job *job_at(struct world *w, int64_t id) {
    return state_job_find(w->state, id);
}

_unused_ static enum job_state state_of(struct world *w, int64_t id) {
    return job_at(w, id)->r.state;
}

/* A cluster of zones x nodes, 2 GPUs and 8 CPUs each. */
_unused_ static void small_cluster(struct world *w, int n_zones, int nodes_per_zone) {
    struct world_cluster cluster = {.n_zones = n_zones,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = nodes_per_zone,
                                    .gpus = 2,
                                    .cpus = 8,
                                    .fence = true};

    world_init(w);
    world_cluster(w, &cluster);
}

/* One zone, in which jobs share time; 4 CPUs for each GPU. */
_unused_ static void sharing_cluster(struct world *w, int leaves, int nodes_per_leaf, int gpus,
                                     int64_t min_run_s) {
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = leaves,
                                    .nodes_per_leaf = nodes_per_leaf,
                                    .gpus = gpus,
                                    .cpus = 4 * gpus,
                                    .fence = true,
                                    .min_run_us = S(min_run_s)};

    world_init(w);
    world_cluster(w, &cluster);
}

_unused_ static int64_t submit(struct world *w, int64_t nodes, int64_t gpus, int64_t ranks) {
    struct entry_job_spec spec = world_spec();

    spec.nodes = nodes;
    spec.gpus_per_node = gpus;
    spec.ranks_per_node = ranks;
    return world_submit(w, &spec);
}

_unused_ static const char *node_of(struct world *w, int64_t id, size_t alloc) {
    return w->state->nodes[job_at(w, id)->r.allocs.items[alloc].node]->r.name;
}

_unused_ static int started(struct world *w, int64_t id, const char *node) {
    struct entry_ranks_started in = {id, job_at(w, id)->r.epoch, (char *)node};
    char principal[PRINCIPAL_MAX + 1];

    (void)snprintf(principal, sizeof principal, "node:%s", node);
    return world_append(w, principal, ENTRY_RANKS_STARTED, &in);
}

_unused_ static void all_started(struct world *w, int64_t id) {
    for (size_t i = 0; i < job_at(w, id)->r.allocs.n; i++)
        CHECK_EQ(started(w, id, node_of(w, id, i)), 0);
}

_unused_ static int ended(struct world *w, int64_t id, int64_t rank, int64_t code, int64_t signal,
                          enum exit_cause cause) {
    struct entry_rank_exited in = {id, job_at(w, id)->r.epoch, rank, code, signal, cause, NULL};

    return world_append(w, "system:hai", ENTRY_RANK_EXITED, &in);
}

/* All ranks that have not ended do: as they should, or as they were told. */
_unused_ static void all_end(struct world *w, int64_t id, int64_t signal, enum exit_cause cause) {
    for (size_t i = 0; i < job_at(w, id)->r.ranks.n; i++)
        if (job_at(w, id)->r.ranks.items[i].state != RANK_STATE_EXITED)
            CHECK_EQ(ended(w, id, (int64_t)i, 0, signal, cause), 0);
}

_unused_ static void all_succeed(struct world *w, int64_t id) {
    all_end(w, id, 0, EXIT_CAUSE_SELF);
}

_unused_ static void all_left(struct world *w, int64_t id) {
    all_end(w, id, 15, EXIT_CAUSE_ORDER);
}

_unused_ static int stop(struct world *w, const char *principal, int64_t id, bool force) {
    struct entry_job_stop in = {id, force, NULL};

    return world_append(w, principal, ENTRY_JOB_STOP, &in);
}

_unused_ static int suspend(struct world *w, int64_t id) {
    struct entry_job_suspend in = {id};

    return world_append(w, "submit:alice", ENTRY_JOB_SUSPEND, &in);
}

_unused_ static int resume(struct world *w, int64_t id) {
    struct entry_job_resume in = {id};

    return world_append(w, "submit:alice", ENTRY_JOB_RESUME, &in);
}

_unused_ static int node_lost(struct world *w, const char *node, int64_t last_grant_us) {
    struct entry_node_lost in = {(char *)node, last_grant_us, (char *)"silent for 10 s"};

    return world_append(w, "system:hai", ENTRY_NODE_LOST, &in);
}

_unused_ static int node_fenced(struct world *w, const char *node) {
    struct entry_node_fenced in = {(char *)node, (char *)"hai-upd", NULL};

    return world_append(w, "operate:upd", ENTRY_NODE_FENCED, &in);
}

_unused_ static int node_up(struct world *w, const char *node, const char *boot_id) {
    struct entry_node_up in = {(char *)node, (char *)"10.0.0.9", (char *)boot_id, NULL};

    return world_append(w, "system:hai", ENTRY_NODE_UP, &in);
}

_unused_ static int drain(struct world *w, const char *node, bool out) {
    struct entry_node_drain in = {(char *)node, (char *)"test"};
    struct entry_node_undrain back = {(char *)node};

    return out ? world_append(w, "operate:root", ENTRY_NODE_DRAIN, &in)
               : world_append(w, "operate:root", ENTRY_NODE_UNDRAIN, &back);
}

/* A random node goes out of service or comes back. */
_unused_ static void change_a_node(struct world *w, struct rng *rng) {
    const struct node *node = w->state->nodes[rng_below(rng, w->state->n_nodes)];

    if (node->r.drained)
        CHECK_EQ(drain(w, node->r.name, false), 0);
    else if (rng_once_in(rng, 2))
        CHECK_EQ(drain(w, node->r.name, true), 0);
    else if (node->r.state == NODE_STATE_UP)
        CHECK_EQ(node_lost(w, node->r.name, S_ABSENT), 0);
    else
        CHECK_EQ(node_up(w, node->r.name, node->r.boot_id), 0);
}

/* The state's encoding is what a snapshot of it and a replay of its log encode to. */
_unused_ static void check_same(struct world *w) {
    _cleanup_(buf_free) struct buf live = {0};
    _cleanup_(buf_free) struct buf again = {0};
    _cleanup_(buf_free) struct buf replayed = {0};
    _cleanup_(state_freep) struct state *copy = NULL;
    struct hai_err err = {0};

    state_encode(w->state, &live);
    CHECK_EQ(state_decode(live.data, live.n_bytes, &copy, &err), 0, "%s", err.text);
    if (!copy)
        return;
    state_encode(copy, &again);
    CHECK(live.n_bytes == again.n_bytes && !memcmp(live.data, again.data, live.n_bytes));
    _cleanup_(state_freep) struct state *other = world_replay(w->log, w->n_log);
    state_encode(other, &replayed);
    CHECK(live.n_bytes == replayed.n_bytes && !memcmp(live.data, replayed.data, live.n_bytes));
}
