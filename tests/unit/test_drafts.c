/* Guesses from the text itself. */
#include "engine/infer/drafts.h"
#include "tests/unit/test.h"

TEST(lookup)
{
    static const struct {
        int32_t ids[12];
        int n, n_max, n_found;
        int32_t found[4];
    } cases[] = {
        {{1, 2, 3, 4, 1, 2},                   6,  4, 4, {3, 4, 1, 2}}, // what followed 1 2
        {{1, 2, 3, 4, 1, 2},                   6,  2, 2, {3, 4}      },
        {{1, 2, 3, 9, 1, 2, 4, 1, 2},          9,  1, 1, {4}         }, // the newest place counts
        {{5, 1, 2, 3, 7, 6, 1, 2, 3, 8, 5, 1}, 12, 2, 2, {2, 3}      },
        {{7, 1, 2, 8, 3, 1, 2, 9, 7, 1, 2},    11, 1, 1, {8}         }, // longer agreement goes first
        {{1, 2, 3, 4, 5, 6},                   6,  4, 0, {0}         },
        {{3, 3, 3},                            3,  4, 1, {3}         },
        {{1},                                  1,  4, 0, {0}         },
        {{0},                                  0,  4, 0, {0}         },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int32_t ret[4] = {0};
        CHECK_EQ(drafts_lookup(cases[i].ids, cases[i].n, cases[i].n_max, ret), cases[i].n_found,
                 "%zu", i);
        CHECK(memcmp(ret, cases[i].found, sizeof ret) == 0, "%zu: %d %d %d %d", i, ret[0], ret[1],
              ret[2], ret[3]);
    }
}
