/* bench_history - fill a store with finished jobs, as the projection of a long life would.
 *
 * usage: bench_history STATE_DIR N END_US
 *
 * The store must exist (hai-schedd init) and have no scheduler. Jobs 1 to N of 100 users, each with
 * one placement and two events, evenly over the 90 days before END_US; one in 7 failed. Prints
 * nothing. */
#include "lib/pure/tlv.h"
#include "scheduler/store/snapshot.h"
#include "scheduler/turn.h"

#include <stdio.h>

#define SPAN_US (INT64_C(90) * 24 * 3600 * 1000000)

enum { USERS = 100, NAMES = 300, BATCH = 500 };

static void add_event(struct rows *rows, const struct state_job *job, int64_t index,
                      const char *kind, const char *message) {
    struct rows_event event = {.index = index,
                               .time_us = job->ended_us,
                               .kind = kind,
                               .job = job->id,
                               .attempt = 1,
                               .rank = S_ABSENT,
                               .principal = "system:hai",
                               .message = message};

    rows_add_event(rows, &event);
}

static void add_job(struct rows *rows, int64_t id, int64_t n, int64_t end_us) {
    char user[16], name[32];
    struct state_job job;
    _cleanup_(buf_free) struct buf record = {0};

    (void)snprintf(user, sizeof user, "user%02d", (int)(id % USERS));
    (void)snprintf(name, sizeof name, "job-%d", (int)(id % NAMES));
    schema_init(state_job_schema(), &job);
    job.id = id;
    job.spec.user = user;
    job.spec.name = name;
    job.spec.group = (char *)"default";
    job.spec.nodes = 1 + id % 4;
    job.spec.gpus_per_node = 8;
    job.spec.uid = job.spec.gid = 1000;
    job.priority = job.spec.priority;
    job.attempt = 1;
    job.ended_us = end_us - SPAN_US + SPAN_US / n * id;
    job.submitted_us = job.ended_us - INT64_C(3600000000);
    job.started_us = job.ended_us - INT64_C(1800000000);
    job.ran_us = INT64_C(1800000000);
    job.state = id % 7 ? JOB_STATE_SUCCEEDED : JOB_STATE_FAILED;
    tlv_encode(state_job_schema(), &job, &record);
    struct rows_job row = {.id = id,
                           .user = user,
                           .name = name,
                           .state = (int)job.state,
                           .submitted_us = job.submitted_us,
                           .ended_us = job.ended_us,
                           .index = 1,
                           .record = record.data,
                           .record_bytes = record.n_bytes};
    struct rows_place place = {id, 1, 0, "a1"};
    rows_add_job(rows, &row);
    rows_add_place(rows, &place);
    add_event(rows, &job, 2 * id, "submitted", "submitted");
    add_event(rows, &job, 2 * id + 1, "ended", "all ranks ended with exit status 0");
}

/* A snapshot of the state that knows that so many jobs have been. */
static int remember(struct store *store, const struct state *state, int64_t n,
                    struct hai_err *err) {
    _cleanup_(buf_free) struct buf before = {0}, after = {0};
    _cleanup_(state_freep) struct state *copy = NULL;

    state_encode(state, &before);
    int r = state_decode(before.data, before.n_bytes, &copy, err);
    if (r < 0)
        return r;
    copy->r.next_job = n + 1;
    state_encode(copy, &after);
    return snapshot_write(store, copy->r.index, after.data, after.n_bytes, err);
}

int main(int argc, char **argv) {
    struct store_options options = {.dir = argc > 1 ? argv[1] : NULL};
    struct turn_hooks hooks = {0};
    _cleanup_(store_closep) struct store *store = NULL;
    _cleanup_(turn_closep) struct turn *turn = NULL;
    struct hai_err err = {0};

    if (argc != 4) {
        fprintf(stderr, "usage: bench_history STATE_DIR N END_US\n");
        return 2;
    }
    int64_t n = strtoll(argv[2], NULL, 10), end_us = strtoll(argv[3], NULL, 10);
    int r = store_open(&options, &store, &err);
    if (r == 0)
        r = turn_open(store, &hooks, &turn, &err);
    for (int64_t id = 1; r == 0 && id <= n; id++) {
        add_job(turn_rows(turn), id, n, end_us);
        if (id % BATCH == 0 || id == n)
            r = rows_flush(turn_rows(turn), &err);
    }
    if (r == 0)
        r = remember(store, turn_state(turn), n, &err);
    if (r < 0)
        fprintf(stderr, "bench_history: %s\n", hai_err_text(&err));
    return r < 0;
}
