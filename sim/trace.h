/* trace.h - job traces: what was submitted when, how large it was and how long it ran.
 *
 * A .csv or .csv.gz file with the columns submit_s, gpus, duration_s and, where there are, user or
 * queue (whose it is), prio (0 low, 1 normal, 2 high), est_s (the run time that its user would have
 * asked for). Others are ignored. Times are seconds from the start of the window.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/map.h"

#define TRACE_PRIORITIES(X) X("low") X("normal") X("high")
enum {
    TRACE_PRIORITY_COUNT = 3,
    TRACE_JOBS_MAX = 20000000,
};

struct trace_job {
    int64_t submit_us;   // from the start of the window
    int64_t run_us;      // on all of its GPUs
    int64_t estimate_us; // 0: none
    int32_t gpus;
    uint32_t row; // in the file, from 0: breaks ties
    uint16_t user;
    uint8_t priority; // 0 to TRACE_PRIORITY_COUNT - 1
    uint8_t level;    // of the core, plus one; 0: what the description says for `priority`
    bool external;    // demand from outside
};

/* Jobs by submission, then row. */
struct trace {
    char *name; // of the file, without folders and endings
    struct trace_job *jobs;
    size_t n, n_max;
    char **users;
    size_t n_users;
};

/* Read a file ("-": standard input), or a text that was read. Start from {0}; trace_free also after
 * errors. -EBADMSG, -EINVAL, -ERANGE with file:line:column in err->where; -EFBIG. */
int trace_read(const char *path, struct trace *ret, struct hai_err *err);
int trace_parse(const void *data, size_t n_bytes, const char *file, struct trace *ret,
                struct hai_err *err);
void trace_free(struct trace *trace);

/* Make a trace by hand: its users by name (known: of this trace, map_free it at the end), its jobs,
 * and their order once all are there. -EFBIG, -E2BIG: too many. */
int trace_user(struct trace *trace, struct map *known, const char *name, uint16_t *ret,
               struct hai_err *err);
int trace_add(struct trace *trace, const struct trace_job *job, struct hai_err *err);
void trace_sort(struct trace *trace);

/* The time of the last submission; 0 for an empty trace. */
int64_t trace_last_us(const struct trace *trace);

/* Keep what was submitted from one time on and before another, counted from the first. */
void trace_window(struct trace *trace, int64_t from_us, int64_t to_us);

/* Multiply submission times, a factor in millionths. */
void trace_stretch(struct trace *trace, int64_t factor);

/* Make jobs external that together ask for this part of the GPU time. They are drawn by their rows,
 * so they are of all sizes and times, and two descriptions have the same ones; one with which it
 * would be more stays. */
void trace_choose_external(struct trace *trace, int64_t gpus_per_node, int64_t percent);

/* The GPUs that a job takes: whole nodes above the size of one. */
int64_t trace_gpus(const struct trace_job *job, int64_t gpus_per_node);

/* What it asks of a cluster, in millionths: GPU time (whole nodes for jobs above one) / (last
 * submission x GPUs). 0 where that is not defined. */
int64_t trace_load(const struct trace *trace, int64_t gpus_per_node, int64_t n_gpus);

/* Stretch so that it asks for this load (millionths, not 0). -EINVAL: the trace has no length or
 * asks for nothing. */
int trace_stretch_to(struct trace *trace, int64_t gpus_per_node, int64_t n_gpus, int64_t load,
                     struct hai_err *err);
