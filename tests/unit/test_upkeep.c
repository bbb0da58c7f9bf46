#include "lib/fileio.h"
#include "lib/timefmt.h"
#include "scheduler/store/snapshot.h"
#include "scheduler/upkeep.h"
#include "tests/unit/test.h"

enum { N_ENTRIES = 40, BUSY_US = 300 * 1000, TURN_US = 2 * 1000 };

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
    char dir[] = "/tmp/hai-test-upkeep-XXXXXX";
    struct store_options options = {.dir = dir, .create = true};
    struct turn_hooks hooks = {0};
    struct schedd s = {0};
    struct hai_err err = {0};

    CHECK(mkdtemp(dir) != NULL);
    CHECK_EQ(store_open(&options, &s.store, &err), 0, "%s", err.text);
    CHECK_EQ(turn_open(s.store, &hooks, &s.turn, &err), 0, "%s", err.text);
    CHECK_EQ(loop_new(&s.loop, &err), 0, "%s", err.text);
    append_ticks(s.turn);
    CHECK_EQ(entry_log_first(turn_log(s.turn)), 1);
    CHECK_EQ(snapshot_write(s.store, 20, "older", 5, NULL), 0);
    CHECK_EQ(snapshot_write(s.store, 30, "newer", 5, NULL), 0);
    s.upkeep = upkeep_new(&s);
    for (int64_t end_us = timefmt_monotonic_us() + BUSY_US; timefmt_monotonic_us() < end_us;) {
        upkeep_on_applied(s.upkeep);
        loop_turn(s.loop, TURN_US);
    }
    CHECK_EQ(entry_log_first(turn_log(s.turn)), 21, "up to the older of the two snapshots");
    upkeep_free(s.upkeep);
    loop_free(s.loop);
    turn_close(s.turn);
    store_close(s.store);
    CHECK_EQ(fileio_remove_tree(dir, NULL), 0);
}
