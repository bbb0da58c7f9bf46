#include "scheduler/upkeep.h"

#include "lib/log.h"
#include "lib/timefmt.h"
#include "scheduler/store/snapshot.h"
#include <signal.h>
#include <sys/wait.h>

enum {
    QUIET_US = 30 * 1000,         // after the last batch: nobody takes the rows along any more
    LOOK_US = 1000 * 1000,        // at the latest
    SNAPSHOT_ENTRIES = 20 * 1000, // at least, between snapshots
    TRUNCATE_MAX = 2000,          // entries dropped in one step
    EXPIRE_MAX = 500,             // rows of a table dropped in one step
    JOBS_KEPT_DAYS = 400,
    TAILS_KEPT_DAYS = 14,
};

#define DAY_US (INT64_C(24) * 3600 * 1000000)
#define EXPIRE_EVERY_US (INT64_C(3600) * 1000000)

struct upkeep {
    struct schedd *s;
    struct loop_source *timer;
    struct loop_source *child;
    pid_t child_pid;        // 0: none
    int64_t snapshot_index; // newest, or the one being written
    int64_t keep_from;      // log entries up to here may go
    int64_t expire_us;      // CLOCK_MONOTONIC: when to look for old rows next
    int64_t latest_us;      // CLOCK_MONOTONIC: when to look at the latest
};

static void encode(const void *state, struct buf *ret) {
    state_encode(state, ret);
}

static void prune(struct upkeep *upkeep) {
    struct hai_err err = {0};
    int64_t index = snapshot_prune(upkeep->s->store, &err);

    if (index < 0)
        log_warning("snapshots: %s", hai_err_text(&err));
    else
        upkeep->keep_from = MAX(upkeep->keep_from, index);
}

static void on_child_end(pid_t pid, int code, int status, void *data) {
    struct upkeep *upkeep = data;

    upkeep->child_pid = 0;
    loop_source_free(upkeep->child);
    upkeep->child = NULL;
    if (code == CLD_EXITED && status == 0)
        prune(upkeep);
    else
        log_warning("the snapshot at entry %lld was not written",
                    (long long)upkeep->snapshot_index);
}

/* Encoding grows with the number of jobs, and so does the distance between snapshots. */
static bool snapshot_due(const struct upkeep *upkeep) {
    const struct state *state = schedd_state(upkeep->s);
    int64_t interval = MAX((int64_t)SNAPSHOT_ENTRIES, state->n_jobs);

    return !upkeep->child_pid && state->r.index - upkeep->snapshot_index >= interval;
}

/* Rows must not lag behind a snapshot: a restart projects only what it replays. */
static void start_snapshot(struct upkeep *upkeep) {
    const struct state *state = schedd_state(upkeep->s);
    struct hai_err err = {0};

    int more = rows_flush_some(turn_rows(upkeep->s->turn), &err);
    if (more < 0)
        log_warning("no snapshot: %s", hai_err_text(&err));
    if (more < 0 || rows_written_index(turn_rows(upkeep->s->turn)) < state->r.index)
        return; // later: a day has ended, and its rows are written in parts
    upkeep->snapshot_index = state->r.index;
    pid_t pid = snapshot_start(upkeep->s->store, state->r.index, encode, state);
    if (pid < 0) {
        log_warning("no snapshot: fork: %s", strerror(-pid));
        return;
    }
    upkeep->child = loop_child_new(upkeep->s->loop, pid, on_child_end, upkeep, &err);
    if (!upkeep->child)
        log_warning("the snapshot's child: %s", hai_err_text(&err));
    else
        upkeep->child_pid = pid;
}

/* True: there is more to drop. */
static bool truncate_log(struct upkeep *upkeep) {
    struct hai_err err = {0};
    int n = entry_log_truncate_before(turn_log(upkeep->s->turn), upkeep->keep_from + 1,
                                      TRUNCATE_MAX, &err);

    if (n < 0)
        log_warning("old log entries stay: %s", hai_err_text(&err));
    return n == TRUNCATE_MAX;
}

static bool expire_rows(struct upkeep *upkeep) {
    int64_t now_us = turn_now_us(upkeep->s->turn);
    struct hai_err err = {0};

    if (timefmt_monotonic_us() < upkeep->expire_us)
        return false;
    int n = rows_expire(turn_rows(upkeep->s->turn), now_us - JOBS_KEPT_DAYS * DAY_US,
                        now_us - TAILS_KEPT_DAYS * DAY_US, EXPIRE_MAX, &err);
    if (n > 0)
        return true;
    if (n < 0)
        log_warning("old rows stay: %s", hai_err_text(&err));
    upkeep->expire_us = timefmt_monotonic_us() + EXPIRE_EVERY_US;
    return false;
}

static void look(void *data) {
    struct upkeep *upkeep = data;
    struct hai_err err = {0};

    int left = rows_flush_some(turn_rows(upkeep->s->turn), &err);
    if (left < 0)
        log_warning("rows are written later: %s", hai_err_text(&err));
    bool more = truncate_log(upkeep);
    more = expire_rows(upkeep) || left > 0 || more;
    upkeep->latest_us = timefmt_monotonic_us() + (more ? QUIET_US : LOOK_US);
    loop_timer_at(upkeep->timer, upkeep->latest_us);
}

void upkeep_on_applied(struct upkeep *upkeep) {
    if (snapshot_due(upkeep))
        start_snapshot(upkeep);
    /* Where it never gets quiet, the log must be cut all the same. */
    loop_timer_at(upkeep->timer, MIN(timefmt_monotonic_us() + QUIET_US, upkeep->latest_us));
}

struct upkeep *upkeep_new(struct schedd *s) {
    struct upkeep *upkeep = hai_new(struct upkeep);
    _cleanup_free_ int64_t *list = NULL;

    upkeep->s = s;
    if (snapshot_list(s->store, &list, NULL) > 0)
        upkeep->snapshot_index = list[0];
    prune(upkeep);
    upkeep->timer = loop_timer_new(s->loop, LOOP_MONOTONIC, look, upkeep);
    upkeep->latest_us = timefmt_monotonic_us() + QUIET_US;
    loop_timer_at(upkeep->timer, upkeep->latest_us);
    return upkeep;
}

void upkeep_free(struct upkeep *upkeep) {
    if (!upkeep)
        return;
    loop_source_free(upkeep->child);
    if (upkeep->child_pid)
        waitpid(upkeep->child_pid, NULL, 0);
    loop_source_free(upkeep->timer);
    free(upkeep);
}
