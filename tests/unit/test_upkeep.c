#include "lib/fileio.h"
#include "lib/timefmt.h"
#include "scheduler/store/query.h"
#include "scheduler/store/snapshot.h"
#include "scheduler/upkeep.h"
#include "tests/unit/test.h"

enum { N_ENTRIES = 40, BUSY_US = 300 * 1000, TURN_US = 2 * 1000 };

#define DAY_US (INT64_C(24) * 3600 * 1000000)

struct fixture {
    char dir[32];
    struct schedd s;
};

static void setup(struct fixture *f) {
    struct turn_hooks hooks = {0};
    struct hai_err err = {0};

    strcpy(f->dir, "/tmp/hai-test-upkeep-XXXXXX");
    CHECK(mkdtemp(f->dir) != NULL);
    struct store_options options = {.dir = f->dir, .create = true};
    CHECK_EQ(store_open(&options, &f->s.store, &err), 0, "%s", err.text);
    CHECK_EQ(turn_open(f->s.store, &hooks, &f->s.turn, &err), 0, "%s", err.text);
    CHECK_EQ(loop_new(&f->s.loop, &err), 0, "%s", err.text);
}

static void teardown(struct fixture *f) {
    upkeep_free(f->s.upkeep);
    loop_free(f->s.loop);
    turn_close(f->s.turn);
    store_close(f->s.store);
    CHECK_EQ(fileio_remove_tree(f->dir, NULL), 0);
}

static void append_ticks(struct turn *turn) {
    struct entry_tick tick;

    schema_init(entry_tick_schema(), &tick);
    for (int i = 0; i < N_ENTRIES; i++)
        turn_append(turn, ENTRY_TICK, &tick, "system:hai", NULL, NULL);
    turn_run(turn);
}

/* Batches follow each other without a pause: what snapshots stand for goes all the same. */
TEST(a_busy_scheduler_cuts_its_log)
{
    struct fixture f = {0};

    setup(&f);
    append_ticks(f.s.turn);
    CHECK_EQ(entry_log_first(turn_log(f.s.turn)), 1);
    CHECK_EQ(snapshot_write(f.s.store, 20, "older", 5, NULL), 0);
    CHECK_EQ(snapshot_write(f.s.store, 30, "newer", 5, NULL), 0);
    f.s.upkeep = upkeep_new(&f.s);
    for (int64_t end_us = timefmt_monotonic_us() + BUSY_US; timefmt_monotonic_us() < end_us;) {
        upkeep_on_applied(f.s.upkeep);
        loop_turn(f.s.loop, TURN_US);
    }
    CHECK_EQ(entry_log_first(turn_log(f.s.turn)), 21, "up to the older of the two snapshots");
    teardown(&f);
}

static void take_id(void *data, const struct rows_job *job) {
    *(int64_t *)data = job->id;
}

static void take_index(void *data, const struct rows_event *event) {
    *(int64_t *)data = event->index;
}

/* A job that ended, its event and its last output, all so many days old. */
static void add_old(struct fixture *f, int64_t id, int64_t days) {
    struct rows *rows = turn_rows(f->s.turn);
    int64_t at_us = turn_now_us(f->s.turn) - days * DAY_US;

    rows_add_job(rows, &(struct rows_job){.id = id,
                                          .user = "alice",
                                          .name = "old",
                                          .ended_us = at_us,
                                          .record = "",
                                          .record_bytes = 0});
    rows_add_event(rows, &(struct rows_event){.index = -1000 + id,
                                              .time_us = at_us,
                                              .kind = "ended",
                                              .job = id,
                                              .principal = "",
                                              .message = ""});
    rows_add_tail(rows, &(struct rows_tail){
                            .job = id, .attempt = 1, .time_us = at_us, .data = "x", .n_bytes = 1});
}

TEST(rows_go_when_their_time_is_over)
{
    static const struct {
        int64_t days;
        bool job, tail;
    } rows[] = {
        {401, false, false},
        {399, true,  false},
        {15,  true,  false},
        {13,  true,  true },
    };
    struct fixture f = {0};

    setup(&f);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        add_old(&f, (int64_t)i + 1, rows[i].days);
    f.s.upkeep = upkeep_new(&f.s);
    for (int64_t end_us = timefmt_monotonic_us() + BUSY_US; timefmt_monotonic_us() < end_us;)
        loop_turn(f.s.loop, TURN_US);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        int64_t id = (int64_t)i + 1, got = 0;
        struct query_tail tail = {0};
        CHECK_EQ(query_job(f.s.store, id, take_id, &got, NULL), rows[i].job, "%d", (int)id);
        CHECK_EQ(query_events(f.s.store, id, -2000, 10, take_index, &got, NULL), rows[i].job);
        CHECK_EQ(query_tail(f.s.store, id, 0, 0, &tail, NULL), rows[i].tail ? 0 : -ENOENT);
        buf_free(&tail.data);
    }
    teardown(&f);
}
