/* Which GPUs of a node: linked ones together, whole islands left whole. */
#include "scheduler/core/gpus.h"
#include "tests/unit/core_steps.h"

TEST(gpus_are_chosen_by_island)
{
    static const struct {
        uint32_t free;
        int64_t n, size;
        uint32_t chosen;
        int cost;
    } cases[] = {
        {0xff, 3, S_ABSENT, 0x07, 0             }, // not known: the lowest
        {0xff, 2, 2,        0x03, 0             },
        {0xfe, 2, 2,        0x0c, 0             }, // 1 has lost its other half
        {0xfe, 1, 2,        0x02, 0             }, // and is taken first
        {0xff, 1, 2,        0x01, 1             }, // breaks a pair, since nothing else is there
        {0xfe, 3, 2,        0x0e, 0             }, // a pair and the single one
        {0x7d, 4, 2,        0x3c, 0             },
        {0x55, 2, 2,        0x05, GPUS_APART    }, // halves only
        {0x55, 4, 2,        0x55, 2 * GPUS_APART},
        {0xf7, 4, 4,        0xf0, 0             },
        {0xf7, 3, 4,        0x07, 0             },
        {0xf7, 5, 4,        0xf1, 0             },
        {0x3f, 6, 4,        0x3f, 0             }, // the last island has only two GPUs
        {0x0f, 0, 2,        0x00, 0             },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint32_t chosen = gpus_choose(cases[i].free, cases[i].n, cases[i].size);
        CHECK_EQ(chosen, cases[i].chosen, "case %zu", i);
        CHECK_EQ(gpus_cost(cases[i].free, chosen, cases[i].size), cases[i].cost, "case %zu", i);
    }
}

/* Nobody finds a choice with fewer islands, or one as good that breaks fewer. */
TEST(no_choice_is_better)
{
    for (int64_t size = 2; size <= 4; size *= 2)
        for (uint32_t free_gpus = 0; free_gpus < 256; free_gpus++)
            for (uint32_t other = 0; other < 256; other++) {
                int64_t n = __builtin_popcount(other);
                if (other & ~free_gpus)
                    continue;
                uint32_t chosen = gpus_choose(free_gpus, n, size);
                CHECK_EQ(__builtin_popcount(chosen), n);
                CHECK(!(chosen & ~free_gpus));
                CHECK(gpus_cost(free_gpus, chosen, size) <= gpus_cost(free_gpus, other, size),
                      "%u of %u, size %d: %u is better than %u", (unsigned)n, free_gpus, (int)size,
                      other, chosen);
            }
}

static uint32_t gpus_of(struct world *w, int64_t id) {
    return (uint32_t)job_at(w, id)->r.allocs.items[0].gpus;
}

TEST(a_pair_elsewhere_is_better_than_halves_on_a_fuller_node)
{
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 2,
                                    .gpus = 4,
                                    .cpus = 16,
                                    .nvlink = 2};
    struct world w;
    int64_t ids[4];

    world_init(&w);
    world_cluster(&w, &cluster);
    for (int i = 0; i < 4; i++) {
        ids[i] = submit(&w, 1, 1, 1);
        CHECK_EQ(world_decide(&w), 1);
        CHECK_STR(node_of(&w, ids[i], 0), "a1");
        CHECK_EQ(gpus_of(&w, ids[i]), (uint32_t)1 << i);
    }
    all_started(&w, ids[0]);
    all_started(&w, ids[2]);
    CHECK_EQ(ended(&w, ids[0], 0, 0, 0, EXIT_CAUSE_SELF), 0);
    CHECK_EQ(ended(&w, ids[2], 0, 0, 0, EXIT_CAUSE_SELF), 0);
    /* a1 has the halves 0 and 2 free. */
    int64_t pair = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, pair, 0), "a2");
    CHECK_EQ(gpus_of(&w, pair), 3);
    int64_t one = submit(&w, 1, 1, 1);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, one, 0), "a1");
    check_same(&w);
    world_free(&w);
}

TEST(a_job_that_fills_the_node_takes_what_there_is)
{
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 1,
                                    .gpus = 4,
                                    .cpus = 16,
                                    .nvlink = 2};
    struct world w;

    world_init(&w);
    world_cluster(&w, &cluster);
    int64_t first = submit(&w, 1, 1, 1);
    int64_t rest = submit(&w, 1, 3, 1);
    CHECK_EQ(world_decide(&w), 2);
    CHECK_EQ(gpus_of(&w, first), 1);
    CHECK_EQ(gpus_of(&w, rest), 14);
    world_free(&w);
}
