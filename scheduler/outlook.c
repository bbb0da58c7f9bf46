#include "scheduler/outlook.h"

#include "lib/fileio.h"
#include "lib/log.h"
#include "lib/programs.h"
#include "lib/pure/map.h"
#include "lib/timefmt.h"
#include "scheduler/core/array.h"
#include "scheduler/core/forecast.h"
#include "scheduler/core/why.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum {
    SMALL = 8 * 1000,           // open jobs times nodes: some ten milliseconds
    FRESH_US = 1000 * 1000,     // an answer that has the job is given for so long
    CHILD_US = 5 * 1000 * 1000, // from one child to the next
};

struct outlook {
    struct schedd *s;
    struct outlook_job *jobs;
    size_t n;
    struct map by_id; // position + 1
    int64_t index;    // log index it was computed at; -1: nothing yet
    int64_t next_job; // who has this id or a later one came since
    int64_t made_us;  // CLOCK_MONOTONIC
    struct loop_source *child;
    pid_t child_pid;  // 0: none
    int64_t child_us; // CLOCK_MONOTONIC: its start, or that of the last one
    int child_fd;     // what the child writes
    int64_t child_index, child_next_job;
};

struct outlook *outlook_new(struct schedd *s) {
    struct outlook *outlook = hai_new(struct outlook);

    outlook->s = s;
    outlook->index = -1;
    outlook->child_fd = -1;
    outlook->child_us = -CHILD_US;
    return outlook;
}

static void forget_child(struct outlook *o) {
    loop_source_free(o->child);
    o->child = NULL;
    o->child_pid = 0;
    if (o->child_fd >= 0)
        close(o->child_fd);
    o->child_fd = -1;
}

void outlook_free(struct outlook *o) {
    if (!o)
        return;
    if (o->child_pid) {
        kill(o->child_pid, SIGKILL);
        waitpid(o->child_pid, NULL, 0);
    }
    forget_child(o);
    map_free(&o->by_id);
    free(o->jobs);
    free(o);
}

static int64_t known_us(int64_t start_us) {
    return start_us == INT64_MAX ? S_ABSENT : start_us;
}

/* The caller frees. */
static struct outlook_job *compute(const struct state *state, int64_t now_us, int64_t only,
                                   const struct job *extra, size_t *ret_n) {
    _cleanup_free_ struct forecast_job *all = NULL;
    size_t n = forecast_run(state, now_us, only, extra, &all);
    struct outlook_job *jobs = hai_new_array(struct outlook_job, MAX(n, (size_t)1));

    for (size_t i = 0; i < n; i++)
        jobs[i] = (struct outlook_job){all[i].id, known_us(all[i].start_us),
                                       known_us(all[i].late_us), all[i].after};
    *ret_n = n;
    return jobs;
}

static void keep(struct outlook *o, struct outlook_job *jobs, size_t n, int64_t index,
                 int64_t next_job) {
    map_free(&o->by_id);
    o->by_id = (struct map){0};
    free(o->jobs);
    o->jobs = jobs;
    o->n = n;
    for (size_t i = 0; i < n; i++)
        map_put(&o->by_id, jobs[i].id, (void *)(i + 1));
    o->index = index;
    o->next_job = next_job;
    o->made_us = timefmt_monotonic_us();
}

static void on_child_end(pid_t pid, int code, int status, void *data) {
    struct outlook *o = data;
    struct hai_err err = {0};
    off_t n_bytes = lseek(o->child_fd, 0, SEEK_END);
    size_t n = n_bytes > 0 ? (size_t)n_bytes / sizeof(struct outlook_job) : 0;
    struct outlook_job *jobs = hai_new_array(struct outlook_job, MAX(n, (size_t)1));

    if (code == CLD_EXITED && status == 0 &&
        fileio_read_full(o->child_fd, jobs, n * sizeof *jobs, 0, &err) == 0) {
        keep(o, jobs, n, o->child_index, o->child_next_job);
    } else {
        log_warning("the forecast at entry %lld did not come: %s %d", (long long)o->child_index,
                    code == CLD_EXITED ? "exit status" : "signal", status);
        free(jobs);
    }
    forget_child(o);
}

static _Noreturn void run_child(const struct outlook *o, int64_t now_us) {
    size_t n;
    const struct outlook_job *jobs = compute(schedd_state(o->s), now_us, 0, NULL, &n);

    _exit(fileio_write_full(o->child_fd, jobs, n * sizeof *jobs, 0, NULL) < 0);
}

static void start_child(struct outlook *o, int64_t now_us) {
    struct hai_err err = {0};

    o->child_fd = memfd_create("outlook", MFD_CLOEXEC);
    o->child_index = schedd_state(o->s)->r.index;
    o->child_next_job = schedd_state(o->s)->r.next_job;
    o->child_pid = o->child_fd < 0 ? -errno : programs_fork();
    if (o->child_pid == 0)
        run_child(o, now_us);
    if (o->child_pid > 0)
        o->child = loop_child_new(o->s->loop, o->child_pid, on_child_end, o, &err);
    if (o->child)
        return;
    log_warning("no forecast: %s", o->child_pid < 0 ? strerror(-o->child_pid) : hai_err_text(&err));
    o->child_pid = MAX(o->child_pid, 0);
    forget_child(o);
}

/* Jobs that wait or run, elements to come among them, and `more`: few enough for one who asks to
 * wait for the answer? */
static bool is_small(const struct state *state, int64_t more) {
    int64_t n = state->n_jobs - state->n_ended + 1 + more, n_max = SMALL / MAX(state->n_nodes, 1);

    for (const struct job *array = state->arrays; array && n <= n_max; array = array->array->next)
        n += array->array->n - MAX(array->r.array_made, 0);
    return n <= n_max;
}

static void refresh(struct outlook *o, int64_t job) {
    const struct state *state = schedd_state(o->s);
    int64_t monotonic_us = timefmt_monotonic_us(), now_us = turn_now_us(o->s->turn);
    size_t n;

    /* Who is not in it, and was there, is not foreseen. */
    bool has_it = o->index >= 0 && (o->index == state->r.index || job < o->next_job);
    if (has_it && monotonic_us < o->made_us + FRESH_US)
        return;
    if (is_small(state, 0)) {
        struct outlook_job *jobs = compute(state, now_us, 0, NULL, &n);
        keep(o, jobs, n, state->r.index, state->r.next_job);
    } else if (!o->child_pid && monotonic_us >= o->child_us + CHILD_US) {
        o->child_us = monotonic_us;
        start_child(o, now_us);
    }
}

const struct outlook_job *outlook_of(struct outlook *o, const struct job *job, int64_t *ret_index) {
    if (state_job_ended(job) || state_job_live(job) || job->r.state == JOB_STATE_HELD)
        return NULL;
    refresh(o, job->r.id);
    size_t position = (size_t)map_get(&o->by_id, job->r.id);
    *ret_index = o->index;
    return position && o->jobs[position - 1].p50_us != S_ABSENT ? &o->jobs[position - 1] : NULL;
}

bool outlook_draft(struct outlook *o, const struct entry_job_spec *spec, struct outlook_job *ret) {
    const struct state *state = schedd_state(o->s);
    struct job job;
    size_t n;

    if (!is_small(state, array_count(spec)))
        return false;
    why_draft(state, spec, &job);
    if (job.group < 0)
        return false;
    _cleanup_free_ struct outlook_job *jobs =
        compute(state, turn_now_us(o->s->turn), job.r.id, &job, &n);
    for (size_t i = 0; i < n; i++)
        if (jobs[i].id == job.r.id && jobs[i].p50_us != S_ABSENT) {
            *ret = jobs[i];
            return true;
        }
    return false;
}
