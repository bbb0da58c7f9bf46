/* figures.h - what a replay came to: every figure once, as a table, as JSON, side by side.
 *
 * Means and quantiles are over the jobs that ended; a quantile is the smallest value that at least
 * this share of them does not exceed. wait: first start - submission; delay: completion time - run
 * time; slowdown: completion time / max(run time, 10 min), at least 1. The shares of use are over
 * the time until the last submission. Fairness is Jain's index of the users' mean slowdowns (Jain,
 * Chiu, Hawe, 1984): 1 is equal. The ledger is over all of the time and sums to the capacity.
 */
#pragma once
#include "lib/pure/buf.h"
#include "sim/eta.h"

enum figure_form {
    FIGURE_COUNT_OF, // a number
    FIGURE_TIME,     // microseconds
    FIGURE_SHARE,    // millionths, shown in percent
    FIGURE_RATIO,    // millionths
    FIGURE_GPU_TIME, // GPUs x microseconds
};

/* X(name, form, words); the name in JSON, where times and GPU times end in _s. The words of group_
 * head those that follow. */
#define FIGURES(X)                                                                                 \
    X(group_jobs, COUNT_OF, "jobs")                                                                \
    X(jobs, COUNT_OF, "in the trace")                                                              \
    X(completed, COUNT_OF, "completed")                                                            \
    X(stopped, COUNT_OF, "stopped at their time limit")                                            \
    X(refused, COUNT_OF, "refused: the cluster can never run them")                                \
    X(unfinished, COUNT_OF, "still waiting when nothing more could happen")                        \
    X(load, RATIO, "load: GPU time asked / there until the last submission")                       \
    X(makespan, TIME, "until the last job ended")                                                  \
    X(group_wait, COUNT_OF, "waiting for the first start")                                         \
    X(wait_mean, TIME, "mean")                                                                     \
    X(wait_p50, TIME, "p50")                                                                       \
    X(wait_p90, TIME, "p90")                                                                       \
    X(wait_p99, TIME, "p99")                                                                       \
    X(group_jct, COUNT_OF, "from submission to end")                                               \
    X(jct_mean, TIME, "mean")                                                                      \
    X(jct_p50, TIME, "p50")                                                                        \
    X(jct_p90, TIME, "p90")                                                                        \
    X(jct_p99, TIME, "p99")                                                                        \
    X(slowdown_mean, RATIO, "slowdown, mean")                                                      \
    X(slowdown_p99, RATIO, "slowdown, p99")                                                        \
    X(fairness, RATIO, "fairness over users (Jain, slowdown)")                                     \
    X(group_delay, COUNT_OF, "mean delay: that time less the run time")                            \
    X(delay_1gpu, TIME, "1 GPU")                                                                   \
    X(delay_2to7, TIME, "2 to 7 GPUs")                                                             \
    X(delay_8, TIME, "8 GPUs")                                                                     \
    X(delay_9to64, TIME, "9 to 64 GPUs")                                                           \
    X(delay_gt64, TIME, "over 64 GPUs")                                                            \
    X(delay_big_p90, TIME, "over 8 GPUs, p90")                                                     \
    X(delay_prio_high, TIME, "high priority")                                                      \
    X(delay_prio_norm, TIME, "normal priority")                                                    \
    X(delay_prio_low, TIME, "low priority")                                                        \
    X(group_use, COUNT_OF, "GPUs until the last submission")                                       \
    X(util, SHARE, "busy")                                                                         \
    X(util_demand, SHARE, "busy while there was demand")                                           \
    X(idle_wait_frac, SHARE, "idle although a waiting job needs no more")                          \
    X(idle_wait_feasible_frac, SHARE, "of that: such a job could have been placed")                \
    X(fragmentation_frac, SHARE, "and the rest: fragmentation")                                    \
    X(group_interruptions, COUNT_OF, "interruptions")                                              \
    X(suspensions, COUNT_OF, "suspensions")                                                        \
    X(node_failures, COUNT_OF, "node failures")                                                    \
    X(job_kills, COUNT_OF, "jobs hit by them")                                                     \
    X(lost_work_frac, SHARE, "run time lost to roll-back and restart")                             \
    X(group_place, COUNT_OF, "jobs on several nodes")                                              \
    X(multinode_starts, COUNT_OF, "starts")                                                        \
    X(leaf_ratio, RATIO, "leaves used / fewest possible")                                          \
    X(min_leaf_share, SHARE, "starts on the fewest leaves")                                        \
    X(cross_zone_share, SHARE, "starts across zones")                                              \
    X(cross_pair_frac, SHARE, "pairs of nodes across zones")                                       \
    X(cross_zone_max, COUNT_OF, "most jobs across zones at once")                                  \
    X(group_ledger, COUNT_OF, "where the GPU time went, until the last job ended")                 \
    X(ledger_productive, GPU_TIME, "productive")                                                   \
    X(ledger_recomputed, GPU_TIME, "lost to failures")                                             \
    X(ledger_overhead, GPU_TIME, "saving and loading at interruptions")                            \
    X(ledger_startup, GPU_TIME, "starting and stopping")                                           \
    X(ledger_idle_demand, GPU_TIME, "idle with demand")                                            \
    X(ledger_idle, GPU_TIME, "idle without demand")                                                \
    X(ledger_unhealthy, GPU_TIME, "out of service")                                                \
    X(ledger_capacity, GPU_TIME, "capacity")                                                       \
    X(group_eta, COUNT_OF, "starts foreseen at the submission, of jobs that wait (--eta)")         \
    X(eta_waited, COUNT_OF, "submissions that do not start at once")                               \
    X(eta_jobs, COUNT_OF, "of these asked about and started later")                                \
    X(eta_error_p50, TIME, "forecast and real start differ by, p50")                               \
    X(eta_error_p90, TIME, "p90")                                                                  \
    X(eta_within, SHARE, "waits within a factor of 2")                                             \
    X(eta_by_p90, SHARE, "started by the forecast's 9 of 10")                                      \
    X(eta_now_error_p50, TIME, "answer \"now\" differs by, p50")                                   \
    X(eta_now_error_p90, TIME, "p90")                                                              \
    X(eta_now_within, SHARE, "waits within a factor of 2")                                         \
    X(eta_waits_error_p50, TIME, "demand that waits ahead / GPUs differs by, p50")                 \
    X(eta_waits_error_p90, TIME, "p90")                                                            \
    X(eta_waits_within, SHARE, "waits within a factor of 2")                                       \
    X(eta_order_error_p50, TIME, "and what runs and is before it differs by, p50")                 \
    X(eta_order_error_p90, TIME, "p90")                                                            \
    X(eta_order_within, SHARE, "waits within a factor of 2")                                       \
    X(eta_runs_error_p50, TIME, "and all else that runs differs by, p50")                          \
    X(eta_runs_error_p90, TIME, "p90")                                                             \
    X(eta_runs_within, SHARE, "waits within a factor of 2")                                        \
    X(group_external, COUNT_OF, "demand from outside (jobs.external_percent)")                     \
    X(external_jobs, COUNT_OF, "jobs")                                                             \
    X(external_demand, SHARE, "its part of the GPU time asked")                                    \
    X(delay_external, TIME, "mean delay of these jobs")                                            \
    X(delay_internal, TIME, "of all others'")                                                      \
    X(group_core, COUNT_OF, "the scheduler's core")                                                \
    X(entries, COUNT_OF, "log entries")                                                            \
    X(proposals, COUNT_OF, "decisions")

#define FIGURE_NUMBER_(name, form, words) FIGURE_##name,
enum { FIGURES(FIGURE_NUMBER_) FIGURE_COUNT };

/* One replay. trace and config name it, for people. */
struct figures {
    const char *trace, *config;
    int64_t n_nodes, n_gpus;
    bool eta;      // forecasts were asked for: only then their figures are shown
    bool external; // there are external users: likewise
    fixed_wide values[FIGURE_COUNT];
};

/* Work them out. trace: the one that was replayed; eta: NULL, or what was asked. */
void figures_of(const struct tally *tally, const struct trace *trace, const struct eta *eta,
                struct figures *ret);

/* Append n replays side by side, two with their ratio, as a table for people or as JSON: one
 * object, or an array of several. */
void figures_table(const struct figures *runs, size_t n, struct buf *ret);
void figures_json(const struct figures *runs, size_t n, struct buf *ret);

/* Waits of the jobs that ended, ascending, for their distribution. The caller frees *ret. */
size_t figures_waits(const struct tally *tally, const struct trace *trace, int64_t **ret);
