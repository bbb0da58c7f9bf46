/* tally.h - what is counted while a trace is replayed.
 *
 * Pure: fed by replay.c, read by figures.c and chart.c. Amounts over time are sums of GPUs x
 * microseconds, exact; between two calls of tally_to nothing changes.
 */
#pragma once
#include "sim/fixed.h"
#include "sim/trace.h"

/* How a job of the trace ended. */
enum outcome {
    OUTCOME_UNFINISHED, // it still waited when nothing more could happen
    OUTCOME_REFUSED,    // the cluster can never run it
    OUTCOME_COMPLETED,
    OUTCOME_STOPPED, // at its time limit
    OUTCOME_COUNT,
};

/* What became of a job of the trace. */
struct tally_job {
    int64_t start_us; // first start, -1: none
    int64_t end_us;
    int64_t kept_us; // run time that counted, costs of interruptions included
    int64_t lost_us; // run time that a failure undid
    int64_t cost_us; // run time that interruptions added
    int64_t idle_us; // time with GPUs while no rank worked: starting and stopping
    uint8_t outcome;
};

/* Over a span of time, in GPUs x microseconds. */
struct tally_span {
    int64_t length_us;
    fixed_wide busy, down;
    fixed_wide demand;              // busy and waiting GPUs, at most the capacity
    fixed_wide idle;                // neither busy nor down
    fixed_wide idle_wanted;         // of idle: no waiting job is larger than all idle GPUs
    fixed_wide idle_wanted_fitting; // of that: such a job could be placed, zones apart
};

/* A piece of the time line; all pieces have the same length. */
struct tally_piece {
    int64_t busy, down, waiting; // GPUs x microseconds
    int64_t queue;               // jobs x microseconds
};

enum { TALLY_PIECES = 1024 };

struct tally {
    /* the cluster; fixed */
    int64_t n_nodes, gpus_per_node, n_gpus;
    int64_t *fewest; // [n_nodes + 1] leaves that this many nodes need at least
    int64_t last_us; // last submission: where the first span ends

    /* now */
    int64_t now_us;
    int64_t busy, down;
    int64_t waiting_gpus, waiting_jobs;
    int32_t *held;      // [n_nodes] GPUs in use, of a node in service
    bool *out;          // [n_nodes] out of service
    int64_t *n_free;    // [gpus_per_node + 1] nodes in service by free GPUs
    int64_t *small;     // [gpus_per_node + 1] waiting jobs of one node, by GPUs
    int64_t *large;     // [n_nodes + 1] waiting jobs of whole nodes, by nodes
    int64_t large_from; // no waiting job has fewer nodes

    /* so far */
    struct tally_span submitting; // until the last submission
    struct tally_span whole;
    struct tally_piece pieces[TALLY_PIECES];
    int64_t piece_us;
    struct tally_job *jobs; // [n_jobs]
    size_t n_jobs;
    int64_t suspensions, failures, kills;
    int64_t gangs; // starts of jobs on several nodes
    int64_t gangs_fewest, gangs_across;
    fixed_wide leaf_ratio, pairs_across; // sums of millionths over gangs
    int64_t across_max;                  // most at once
    int64_t entries, decisions;
};

/* leaf_nodes: nodes of each leaf. */
void tally_init(struct tally *t, const struct trace *trace, int64_t gpus_per_node, int64_t n_nodes,
                const int64_t *leaf_nodes, size_t n_leaves);
void tally_free(struct tally *t);

/* Let time pass. */
void tally_to(struct tally *t, int64_t now_us);

/* A node holds this many GPUs, or is out of service. */
void tally_node(struct tally *t, int64_t node, int64_t held, bool out);

/* A job begins (by 1) or ceases (by -1) to wait. */
void tally_wait(struct tally *t, const struct trace_job *job, int by);

/* A gang started on this many nodes, on so many leaves, nodes_in[z] of them in zone z; n_across
 * gangs now span zones. */
void tally_gang(struct tally *t, int64_t n_nodes, int64_t n_leaves, const int64_t *nodes_in,
                size_t n_zones, int64_t n_across);
