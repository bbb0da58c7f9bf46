/* usage.h - GPU time added up: what the store has of it, what waits to be written, and what runs.
 *
 * Sums are exact. Costs are at today's prices: the cluster file's, whatever they were before.
 */
#pragma once
#include "scheduler/context.h"
#include "scheduler/store/query.h"

/* One value of what GPU time is added up by. key "": of jobs that name none. */
struct usage_sum {
    char *key;
    int64_t gpu_us[LEDGER_JOB_CLASSES];
    int64_t all_us;
    double cost; // of what has a price; NAN: nothing has
};

/* The cluster over the same days, whoever was asked for. */
struct usage_cluster {
    int64_t gpu_us[LEDGER_COUNT];
    int64_t capacity_us, classes_us, of_jobs_us;
    bool agrees; // capacity with the classes, and each class of jobs with the rows of all jobs
};

struct usage {
    struct usage_sum *sums; // days in order; otherwise the most GPU time first
    size_t n_sums;
    struct usage_sum total;
    struct usage_cluster cluster; // if neither user nor group was asked for
};

/* What the store does not have yet, up to now_us if that is before the end of query->last, with
 * what else the sums are made from: whoever has it and a view of the store at the same moment
 * (rows_hold) needs nothing of the scheduler. The limit is left to the caller, who frees. */
void usage_gather(const struct schedd *s, const struct query_usage *query, int64_t now_us,
                  struct usage_task *ret);

/* All of it added up; the caller frees. */
int usage_collect(struct store *store, const struct usage_task *task, struct usage *ret,
                  struct hai_err *err);
void usage_free(struct usage *usage);

/* As people get it; release with schema_free. */
void usage_fill(const struct usage_task *task, const struct usage *usage, struct usage_view *ret);

/* The same by job: what people call each. What the task does not have is looked up in the store. */
void usage_label_jobs(struct store *store, const struct usage_task *task, struct usage_view *view);
