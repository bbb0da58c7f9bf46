/* The agent's core: what it says of what it holds, and when. */
#include "agent/core/reconcile.h"
#include "tests/unit/test.h"

static const struct reconcile_key first = {1, 1, 1}, second = {1, 2, 2};

/* The next actions as text: "start 1.2 kill 1.1". */
static void actions(struct reconcile *core, char ret[static 256]) {
    struct reconcile_action action;
    int n = 0;

    ret[0] = '\0';
    while (reconcile_next(core, &action))
        n += snprintf(ret + n, (size_t)(256 - n), "%s%s %d.%d", n ? " " : "",
                      reconcile_action_kind_text(action.kind), (int)action.key.job,
                      (int)action.key.attempt);
}

#define CHECK_ACTIONS(core, expected)                                                              \
    do {                                                                                           \
        char text_[256];                                                                           \
        actions(core, text_);                                                                      \
        CHECK_STR(text_, expected);                                                                \
    } while (0)

static struct reconcile *scanned(void) {
    struct reconcile *core = reconcile_new();

    reconcile_scanned(core);
    return core;
}

/* Send a report that is answered; how many exits of an attempt it told, -1: it told of the end. */
static int report(struct reconcile *core, const struct reconcile_key *key) {
    const struct reconcile_hold *hold = reconcile_find(core, key);

    reconcile_report(core);
    int n = (int)(hold->n_exits_sent - hold->n_exits_had);
    n = hold->sent_gone && !hold->has_gone ? -1 : n;
    reconcile_reported(core, true);
    return n;
}

static void run(struct reconcile *core, const int64_t *ranks, size_t n_ranks) {
    struct reconcile_want want = {
        .key = first, .phase = DESIRED_PHASE_RUN, .ranks = ranks, .n_ranks = n_ranks};

    reconcile_desired(core, &want, 1);
    CHECK_ACTIONS(core, "start 1.1");
    reconcile_found(core, &first, ranks, n_ranks, 1);
    reconcile_desired(core, NULL, 0);
    CHECK_ACTIONS(core, "kill 1.1");
}

TEST(last_exit_waits_for_the_end)
{
    _cleanup_(reconcile_freep) struct reconcile *core = scanned();
    const int64_t ranks[] = {0, 1};

    run(core, ranks, 2);
    CHECK_EQ(report(core, &first), 0);
    reconcile_exited(core, &first, &(struct reconcile_exit){.rank = 0});
    CHECK(reconcile_unreported(core));
    CHECK_EQ(report(core, &first), 1);
    reconcile_exited(core, &first, &(struct reconcile_exit){.rank = 1});
    CHECK(!reconcile_unreported(core)); // what rank 1 left behind may still use its GPUs
    CHECK_EQ(report(core, &first), 0);
    reconcile_gone(core, &first);
    CHECK(reconcile_unreported(core));
    CHECK_EQ(report(core, &first), -1);
    CHECK_ACTIONS(core, "release 1.1");
}

TEST(many_exits_are_told_in_parts)
{
    _cleanup_(reconcile_freep) struct reconcile *core = scanned();
    enum { N = 2 * RECONCILE_EXITS_MAX + 10 };
    int64_t ranks[N];

    for (int i = 0; i < N; i++)
        ranks[i] = i;
    run(core, ranks, N);
    for (int i = 0; i < N; i++)
        reconcile_exited(core, &first, &(struct reconcile_exit){.rank = i});
    reconcile_gone(core, &first);
    CHECK_EQ(report(core, &first), RECONCILE_EXITS_MAX);
    CHECK_EQ(report(core, &first), RECONCILE_EXITS_MAX);
    CHECK(reconcile_unreported(core));
    CHECK_EQ(report(core, &first), -1); // the end only when all of them are told
    CHECK(!reconcile_unreported(core));
}

TEST(not_synced_while_a_start_waits)
{
    _cleanup_(reconcile_freep) struct reconcile *core = reconcile_new();
    const int64_t ranks[] = {0};
    struct reconcile_want wants[] = {
        {.key = first,  .phase = DESIRED_PHASE_RUN, .ranks = ranks, .n_ranks = 1},
        {.key = second, .phase = DESIRED_PHASE_RUN, .ranks = ranks, .n_ranks = 1},
    };

    CHECK(!reconcile_synced(core));
    reconcile_scanned(core);
    CHECK(reconcile_synced(core));
    reconcile_desired(core, wants, 1);
    CHECK_ACTIONS(core, "start 1.1");
    reconcile_found(core, &first, ranks, 1, 1);
    CHECK(reconcile_synced(core));
    reconcile_desired(core, wants + 1, 1);
    CHECK_ACTIONS(core, "kill 1.1");
    CHECK(!reconcile_synced(core)); // the second will start by itself, and is not held yet
    reconcile_gone(core, &first);
    CHECK_ACTIONS(core, "start 1.2");
    CHECK(reconcile_synced(core));
}

TEST(a_node_that_cannot_start_is_not_the_jobs_fault)
{
    static const enum exit_cause causes[] = {EXIT_CAUSE_START, EXIT_CAUSE_UNKNOWN};
    const int64_t ranks[] = {0};

    for (size_t i = 0; i < ARRAY_SIZE(causes); i++) {
        _cleanup_(reconcile_freep) struct reconcile *core = scanned();
        struct reconcile_want want = {
            .key = first, .phase = DESIRED_PHASE_RUN, .ranks = ranks, .n_ranks = 1};
        reconcile_desired(core, &want, 1);
        CHECK_ACTIONS(core, "start 1.1");
        reconcile_failed(core, &first, causes[i], 1, "why");
        const struct reconcile_hold *hold = reconcile_find(core, &first);
        CHECK_EQ((int)hold->n_exits, 1);
        CHECK_EQ((int)hold->exits[0].cause, (int)causes[i]);
        CHECK(hold->gone);
    }
}
