#include "sim/storm.h"
#include "tests/unit/test.h"

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
