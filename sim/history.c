#include "sim/history.h"
#include "lib/limits.h"
#include "lib/programs.h"
#include "lib/timefmt.h"

#include <limits.h>
#include <stdio.h>

enum { PAGE_JOBS = 10000 };

/* A row of the three classes of a trace, for the figures by priority. */
static uint8_t class_of(int64_t level) {
    return level <= 10 ? 0 : level <= 20 ? 1 : 2;
}

static bool has_ended(const char *state) {
    static const char *const ended[] = {"succeeded", "failed", "stopped", "timed_out"};

    for (size_t i = 0; i < ARRAY_SIZE(ended); i++)
        if (!strcmp(state, ended[i]))
            return true;
    return false;
}

static int64_t microseconds(const struct json *seconds) {
    enum json_kind kind = seconds ? json_kind(seconds) : JSON_KIND_NULL;

    if (kind != JSON_KIND_INT && kind != JSON_KIND_REAL)
        return 0;
    double us = json_as_real(seconds) * 1e6;
    return us > 0 && us < (double)DURATION_US_MAX ? (int64_t)us : 0;
}

static int add_job(struct trace *trace, struct map *known, struct history *left_out,
                   const struct json *view, struct hai_err *err) {
    int64_t nodes = json_get_int(view, "nodes", 0), each = json_get_int(view, "gpus_per_node", 0);
    int64_t level = json_get_int(view, "priority", 30);
    struct trace_job job = {.row = (uint32_t)trace->n,
                            .run_us = microseconds(json_get(view, "ran_s"))};

    if (nodes < 1 || nodes > JOB_NODES_MAX || each < 0 || each > NODE_GPUS_MAX || level < 0 ||
        level > 50 ||
        timefmt_iso_parse(json_get_string(view, "submitted_at", ""), &job.submit_us) < 0)
        return hai_fail(err, -EBADMSG, "job %lld is not as hai list prints it",
                        (long long)json_get_int(view, "id", 0));
    if (!each) {
        left_out->n_without_gpus++;
        return 0;
    }
    if (!has_ended(json_get_string(view, "state", "")) || !job.run_us) {
        left_out->n_unended++;
        return 0;
    }
    job.gpus = (int32_t)(nodes * each);
    job.level = (uint8_t)(level + 1);
    job.priority = class_of(level);
    int r = trace_user(trace, known, json_get_string(view, "user", "none"), &job.user, err);
    return r < 0 ? r : trace_add(trace, &job, err);
}

int history_add(struct trace *trace, struct map *known_users, struct history *left_out,
                const struct json *jobs, int64_t *ret_lowest, struct hai_err *err) {
    int n = 0;

    if (json_kind(jobs) != JSON_KIND_ARRAY)
        return hai_fail(err, -EBADMSG, "hai list printed %s; expected a list of jobs",
                        json_kind_name(json_kind(jobs)));
    for (const struct json *view = json_first(jobs); view; view = json_next(view)) {
        int r = add_job(trace, known_users, left_out, view, err);
        if (r < 0)
            return r;
        *ret_lowest = json_get_int(view, "id", 0);
        n++;
    }
    return n;
}

/* A page of jobs with ids below one; 0: the newest. The caller frees *ret. */
static int read_page(const char *hai, const char *since, int64_t below, struct json **ret,
                     struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    char limit[16], before[24];
    char *argv[12] = {(char *)"hai", (char *)"list",    (char *)"-a", (char *)"--json",
                      (char *)"-q",  (char *)"--limit", limit};
    int n = 7;

    (void)snprintf(limit, sizeof limit, "%d", PAGE_JOBS);
    (void)snprintf(before, sizeof before, "%lld", (long long)below);
    if (since) {
        argv[n++] = (char *)"--since";
        argv[n++] = (char *)since;
    }
    if (below) {
        argv[n++] = (char *)"--before";
        argv[n++] = before;
    }
    int r = programs_read(hai, argv, JSON_BYTES_MAX, &text, err);
    if (r > 0)
        return hai_fail(err, -EIO, "hai list ended with exit status %d", r);
    return r < 0 ? r : json_parse(text.data, text.n_bytes, NULL, ret, err);
}

/* Times count from the first submission. */
static void rebase(struct trace *trace) {
    trace_sort(trace);
    int64_t first_us = trace->n ? trace->jobs[0].submit_us : 0;
    for (size_t i = 0; i < trace->n; i++)
        trace->jobs[i].submit_us -= first_us;
}

int history_read(const char *since, struct trace *ret, struct history *ret_left_out,
                 struct hai_err *err) {
    _cleanup_free_ char *hai = programs_find("hai");
    struct map known = {0};
    int64_t below = 0;
    int n = PAGE_JOBS, r = 0;

    if (!hai)
        return hai_fail(err, -ENOENT, "the program hai is neither beside hai-sim nor in PATH");
    ret->name = since ? hai_asprintf("the last %s of this cluster", since)
                      : hai_strdup("this cluster's history");
    while (n == PAGE_JOBS && r >= 0) {
        _cleanup_(json_freep) struct json *jobs = NULL;
        r = read_page(hai, since, below, &jobs, err);
        if (r == 0)
            r = n = history_add(ret, &known, ret_left_out, jobs, &below, err);
    }
    map_free(&known);
    rebase(ret);
    return MIN(r, 0);
}
