/* Which steps are spikes, in tables of losses and norms, and that the state is all there is. */
#include "engine/train/spikes.h"
#include "tests/unit/test.h"

#include <math.h>

static const struct spikes_rule rule = {
    .window = 8, .loss = 6, .norm = 10, .patience = 2, .backs = 1};

/* Eight steps whose median is 2 and whose spread is 1.4826 * 0.02. */
static void fill(struct spikes *s) {
    static const double losses[] = {1.98, 2, 2.02, 2, 1.98, 2.02, 2.04, 1.96};

    for (size_t i = 0; i < ARRAY_SIZE(losses); i++)
        CHECK_EQ(spikes_judge(s, losses[i], 1), SPIKES_FINE, "%zu: %s", i, spikes_text(s));
}

TEST(what_is_a_spike)
{
    static const struct {
        double loss, norm;
        enum spikes_verdict verdict;
        const char *says;
    } cases[] = {
        {2.0,  1,        SPIKES_FINE, ""                                     },
        {2.17, 1,        SPIKES_FINE, ""                                     }, // limit 2.178
        {2.19, 1,        SPIKES_SKIP, "loss 2.19, median 2, limit 2.178"     },
        {0.1,  1,        SPIKES_FINE, ""                                     }, // low is no spike
        {2.0,  1.009,    SPIKES_FINE, ""                                     }, // 0.1 % of 1 times 10
        {2.0,  1.011,    SPIKES_SKIP, "gradient norm 1.011, median 1, limit "},
        {NAN,  1,        SPIKES_SKIP, "loss nan"                             },
        {2.0,  INFINITY, SPIKES_SKIP, "gradient norm inf"                    },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(spikes_freep) struct spikes *s = spikes_new(&rule);
        fill(s);
        CHECK_EQ(spikes_judge(s, cases[i].loss, cases[i].norm), cases[i].verdict, "%zu: %s", i,
                 spikes_text(s));
        CHECK(!strncmp(spikes_text(s), cases[i].says, strlen(cases[i].says)), "%zu: %s", i,
              spikes_text(s));
    }
}

/* With too few steps only what is no number is one; a value that is not looked at may be anything.
 */
TEST(what_is_not_looked_at)
{
    struct spikes_rule norms = rule;
    norms.loss = 0;
    _cleanup_(spikes_freep) struct spikes *first = spikes_new(&rule), *s = spikes_new(&norms);

    CHECK_EQ(spikes_judge(first, 1e9, 1e9), SPIKES_FINE);
    CHECK_EQ(spikes_judge(first, NAN, 1), SPIKES_SKIP);
    fill(s);
    CHECK_EQ(spikes_judge(s, 1e9, 1), SPIKES_FINE);
    CHECK_EQ(spikes_judge(s, -INFINITY, 1), SPIKES_SKIP);
}

TEST(patience_and_going_back)
{
    _cleanup_(spikes_freep) struct spikes *s = spikes_new(&rule);
    float saved[64];
    size_t n;

    fill(s);
    float *state = spikes_state(s, &n);
    assert(n <= ARRAY_SIZE(saved));
    memcpy(saved, state, n * sizeof *state);
    CHECK_EQ(spikes_judge(s, 9, 1), SPIKES_SKIP);
    CHECK_EQ(spikes_judge(s, 9, 1), SPIKES_SKIP);
    CHECK_EQ(spikes_judge(s, 2, 1), SPIKES_FINE); // the row is broken
    CHECK_EQ(spikes_judge(s, 9, 1), SPIKES_SKIP);
    CHECK_EQ(spikes_judge(s, 9, 1), SPIKES_SKIP);
    CHECK_EQ(spikes_judge(s, 9, 1), SPIKES_BACK);
    CHECK_EQ(spikes_backs(s), 1);
    memcpy(state, saved, n * sizeof *state);
    CHECK_EQ(spikes_backs(s), 0);
    spikes_set_backs(s, 1);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(spikes_judge(s, 9, 1), SPIKES_SKIP);
    CHECK_EQ(spikes_judge(s, 9, 1), SPIKES_STOP);
}

/* Old steps leave the window: a loss that rises slowly is none, however far it goes; and one that
 * takes over the state of another judges alike from there on. */
TEST(the_window_moves)
{
    _cleanup_(spikes_freep) struct spikes *s = spikes_new(&rule), *other = spikes_new(&rule);
    size_t n;

    for (int i = 0; i < 1000; i++)
        CHECK_EQ(spikes_judge(s, 1 + 0.01 * i, 1), SPIKES_FINE, "%d: %s", i, spikes_text(s));
    CHECK_EQ(spikes_judge(s, 13, 1), SPIKES_SKIP);
    float *state = spikes_state(s, &n), *copy = spikes_state(other, &n);
    memcpy(copy, state, n * sizeof *state);
    for (int i = 0; i < 100; i++) {
        double loss = 10 + 0.05 * (i * 7 % 11);
        CHECK_EQ(spikes_judge(s, loss, 1), spikes_judge(other, loss, 1), "%d", i);
    }
    CHECK(!memcmp(copy, state, n * sizeof *state));
}
