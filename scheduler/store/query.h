/* query.h - reading what the scheduler's memory no longer holds: ended jobs, events, last output.
 *
 * Every query is bounded by an index and a limit, so none stalls the loop.
 */
#pragma once
#include "lib/pure/buf.h"
#include "scheduler/store/rows.h"

enum { QUERY_ROWS_MAX = 1000 };

/* Which ended jobs; newest first. NULL and 0: any. below: ids less than this one. */
struct query_jobs {
    const char *user;
    const char *name;
    uint32_t states;  // a bit for each job_state wanted
    int64_t since_us; // ended at or after
    int64_t below;    // 0: no bound
    int64_t limit;    // 1 ... QUERY_ROWS_MAX
};

/* All queries until the store is closed see the tables as they are now. */
int query_view(struct store *store, struct hai_err *err);

/* Rows are valid during the call. */
typedef void (*query_job_fn)(void *data, const struct rows_job *job);
typedef void (*query_event_fn)(void *data, const struct rows_event *event);

/* Each returns how many rows it gave to fn, or a negative error. */
int query_jobs(struct store *store, const struct query_jobs *query, query_job_fn fn, void *data,
               struct hai_err *err);
int query_job(struct store *store, int64_t id, query_job_fn fn, void *data, struct hai_err *err);

/* Events with an index above since, oldest first, of one job or (0) of all. All events of the last
 * entry that comes within the limit are given. */
int query_events(struct store *store, int64_t job, int64_t since, int64_t limit, query_event_fn fn,
                 void *data, struct hai_err *err);

/* The newest events before an index (0: no bound) of all, newest first. */
int query_events_newest(struct store *store, int64_t before, int64_t limit, query_event_fn fn,
                        void *data, struct hai_err *err);

/* By what GPU time is added up. */
#define QUERY_BY(P, X)                                                                             \
    X(P, STAGE, "stage")                                                                           \
    X(P, USER, "user")                                                                             \
    X(P, TEAM, "team")                                                                             \
    X(P, GROUP, "group")                                                                           \
    X(P, JOB, "job")                                                                               \
    X(P, DAY, "day")
DECLARE_ENUM(query_by, QUERY_BY, QUERY_BY);

/* Which rows of GPU time: of days from first to last; user, group: NULL: of all. */
struct query_usage {
    int64_t first, last;
    const char *user, *group;
    enum query_by by;
};

/* GPU time of a day, a group and one value of `by` (key "": none was given); job: of one. Days
 * are added up no further, because the sum of many may not fit into 64 bits. Returns how many sums
 * were given, or a negative error. */
typedef void (*query_usage_fn)(void *data, const struct usage_row *sum, const char *key);
int query_usage(struct store *store, const struct query_usage *query, query_usage_fn fn, void *data,
                struct hai_err *err);

/* GPU time of the cluster on days from first to last; class: a word of ledger_class, or capacity.
 */
typedef void (*query_ledger_fn)(void *data, int64_t day, const char *class, int64_t gpu_us);
int query_ledger(struct store *store, int64_t first, int64_t last, query_ledger_fn fn, void *data,
                 struct hai_err *err);

/* The stored tail of a rank's output is appended to data. */
struct query_tail {
    struct buf data;
    int64_t attempt;
    int64_t total; // bytes of the whole output, at least those of the tail
};

/* attempt 0: the newest stored. -ENOENT: none. data is the caller's, to be freed in any case. */
int query_tail(struct store *store, int64_t job, int64_t attempt, int64_t rank,
               struct query_tail *ret, struct hai_err *err);

/* The node of an attempt's part, for free(). -ENOENT: not known (any more). */
int query_place(struct store *store, int64_t job, int64_t attempt, int64_t node_rank, char **ret,
                struct hai_err *err);
