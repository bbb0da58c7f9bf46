#include "sim/journal.h"
#include "sim/shims.h"
#include "sim/storm.h"
#include "sim/touched.h"
#include "tests/unit/core_steps.h"

/* The short form; `hai-sim --fuzz --seeds A..B` runs as many as one likes. */
TEST(seeded_storms_hurt_nobody)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct storm_result result;
        struct hai_err err = {0};
        CHECK_EQ(storm_run(seed, 300, &result, NULL, &err), 0, "%s", hai_err_text(&err));
        CHECK(result.placements > 0);
        CHECK(result.faults > 0);
    }
}

TEST(a_seed_repeats_exactly)
{
    struct storm_result a, b;
    struct hai_err err = {0};

    CHECK_EQ(storm_run(77, 300, &a, NULL, &err), 0, "%s", hai_err_text(&err));
    CHECK_EQ(storm_run(77, 300, &b, NULL, &err), 0, "%s", hai_err_text(&err));
    CHECK_EQ(a.entries, b.entries);
    CHECK(a.digest == b.digest);
}

/* What issue 3 asks of a seed. */
TEST(a_seed_is_long_and_stormy)
{
    struct storm_result result;
    struct hai_err err = {0};

    CHECK_EQ(storm_run(5, 1000, &result, NULL, &err), 0, "%s", hai_err_text(&err));
    CHECK(result.entries >= 5000);
    CHECK(result.faults >= 20);
}

/* Set of the jobs that are marked. */
static void collect(const struct reconcile_key *key, void *data) {
    *(int *)data |= 1 << key->job;
}

static int marked(struct journal *journal) {
    int jobs = 0;

    journal_open(journal, collect, &jobs);
    return jobs;
}

/* Job 0 is synced, 1 is written, 2 waits in the agent. */
static struct journal three_marks(void) {
    struct journal journal = {0};

    for (int64_t job = 0; job < 3; job++) {
        journal_add(&journal, &(struct reconcile_key){job, 1, 1});
        if (job < 2)
            journal_write(&journal);
        if (job < 1)
            journal_sync(&journal);
    }
    return journal;
}

TEST(a_simulated_disk_keeps_what_was_synced)
{
    int seen = 0;

    for (uint64_t seed = 0; seed < 16; seed++) {
        struct journal journal = three_marks();
        struct rng rng = {seed};
        journal_power_off(&journal, &rng);
        seen |= 1 << marked(&journal);
        journal_free(&journal);
    }
    CHECK_EQ(seen, 1 << 1 | 1 << 3); // without the one that was only written, and with it
    struct journal journal = three_marks();
    journal_killed(&journal);
    CHECK_EQ(marked(&journal), 3);
    journal_remove(&journal, &(struct reconcile_key){0, 1, 1});
    CHECK_EQ(marked(&journal), 2);
    journal_free(&journal);
}

TEST(a_simulated_shim_keeps_to_its_lease)
{
    struct agenda agenda = {0};
    struct rng rng = {1};
    struct shims shims = {.agenda = &agenda, .rng = &rng, .n_nodes = 1, .run_us = 1000000000};
    struct reconcile_key key = {1, 1, 1}, late = {2, 1, 1};
    int64_t lease_us = 10000000;

    shims.clocks[0] = (struct drift){77, 40000}; // too fast: the lease ends early by true time
    struct shim *shim = shims_start(&shims, 0, &key, 0, 2, 1, 77 + lease_us);
    for (const struct agenda_event *event; shim->left && (event = agenda_first(&agenda));) {
        agenda.now_us = event->at_us;
        agenda_take(&agenda);
        shims_step(&shims, shim);
    }
    CHECK(!shim->left);
    CHECK_EQ(shim->ranks[1].exit.cause, EXIT_CAUSE_LEASE);
    CHECK(agenda.now_us > lease_us * 96 / 100);
    CHECK(agenda.now_us < lease_us * 97 / 100 + 2 * SHIMS_KILL_US);
    shim = shims_start(&shims, 0, &late, 0, 2, 1, 77 + lease_us);
    CHECK_EQ(shim->n_running, 0); // its agent was held up for longer than the lease
    CHECK(shim->gone);
    CHECK_EQ(shims.err.r, 0);
    shims_free(&shims);
    agenda_free(&agenda);
}

struct looks {
    struct world w;
    struct shims shims;
    int n;
    struct hai_err err;
    int r;
};

static void look(void *data, enum entry_kind kind) {
    struct looks *looks = data;

    looks->n += kind == ENTRY_PLACE;
    if (looks->r == 0)
        looks->r = touched_check(&looks->w, &looks->shims, &looks->err);
}

/* A turn of one decision may place many: each is looked at. */
TEST(every_placement_of_a_turn_is_looked_at)
{
    for (int node = 0; node < 3; node++) {
        struct agenda agenda = {0};
        struct rng rng = {1};
        struct looks looks = {0};
        struct reconcile_key key = {99, 1, 1};
        small_cluster(&looks.w, 1, 3);
        looks.shims =
            (struct shims){.agenda = &agenda, .rng = &rng, .n_nodes = 3, .run_us = 1000000000};
        CHECK(shims_start(&looks.shims, node, &key, 0, 2, 3, S(1000)) != NULL);
        looks.w.appended = look;
        looks.w.userdata = &looks;
        for (int i = 0; i < 3; i++)
            submit(&looks.w, 1, 2, 1);
        CHECK_EQ(looks.r, 0, "%s", hai_err_text(&looks.err));
        CHECK_EQ(world_decide(&looks.w), 3);
        CHECK_EQ(looks.n, 3);
        CHECK_EQ(looks.r, -EINVAL, "of a%d is left what uses its GPUs", node + 1);
        world_free(&looks.w);
        shims_free(&looks.shims);
        agenda_free(&agenda);
    }
}
