/* The agent's core: what follows from the desired set and from what happened. */
#include "agent/core/reconcile.h"
#include "tests/unit/test.h"

static const int64_t ranks[] = {4, 5};

static struct reconcile_key key(int64_t job, int64_t attempt) {
    return (struct reconcile_key){job, attempt, attempt};
}

static struct reconcile_want want(int64_t job, int64_t attempt, enum desired_phase phase) {
    return (struct reconcile_want){key(job, attempt), phase, 1000, ranks, ARRAY_SIZE(ranks)};
}

/* All actions that wait, as text: "start 1.1 kill 2.1 ". */
static const char *actions(struct reconcile *core) {
    static char text[512];
    struct reconcile_action action;
    size_t n = 0;

    text[0] = '\0';
    while (reconcile_next(core, &action))
        n += (size_t)snprintf(text + n, sizeof text - n, "%s %d.%d ",
                              reconcile_action_kind_text(action.kind), (int)action.key.job,
                              (int)action.key.attempt);
    return text;
}

static void found(struct reconcile *core, int64_t job, int64_t attempt) {
    reconcile_found(core, &(struct reconcile_key){job, attempt, attempt}, ranks, 2, 77);
}

static void end(struct reconcile *core, int64_t job, int64_t attempt) {
    struct reconcile_key k = key(job, attempt);

    for (size_t i = 0; i < ARRAY_SIZE(ranks); i++)
        reconcile_exited(core, &k, &(struct reconcile_exit){.rank = ranks[i]});
    reconcile_gone(core, &k);
}

static struct reconcile *synced(void) {
    struct reconcile *core = reconcile_new();

    reconcile_scanned(core);
    return core;
}

TEST(life_of_an_attempt)
{
    _cleanup_(reconcile_freep) struct reconcile *core = synced();
    struct reconcile_want wants[] = {want(1, 1, DESIRED_PHASE_RUN)};
    struct reconcile_key k = key(1, 1);

    reconcile_desired(core, wants, 1);
    CHECK_STR(actions(core), "start 1.1 ");
    reconcile_desired(core, wants, 1); // repeated: nothing is started twice
    CHECK_STR(actions(core), "");
    CHECK(!reconcile_unreported(core));
    found(core, 1, 1);
    CHECK(reconcile_unreported(core));
    reconcile_report(core);
    CHECK(reconcile_find(core, &k)->sent_started);
    reconcile_reported(core, false);
    CHECK(reconcile_unreported(core)); // again, until it is answered
    reconcile_report(core);
    reconcile_reported(core, true);
    CHECK(!reconcile_unreported(core));
    end(core, 1, 1);
    reconcile_report(core);
    const struct reconcile_hold *hold = reconcile_find(core, &k);
    CHECK_EQ(hold->n_exits_sent, 2);
    CHECK(hold->sent_gone);
    reconcile_desired(core, NULL, 0); // overtakes the answer to the report: not yet
    CHECK_STR(actions(core), "");
    reconcile_reported(core, true);
    CHECK_STR(actions(core), "release 1.1 ");
    CHECK(!reconcile_find(core, &k));
}

TEST(gone_stays_until_nobody_wants_it)
{
    _cleanup_(reconcile_freep) struct reconcile *core = synced();
    struct reconcile_want wants[] = {want(1, 1, DESIRED_PHASE_RUN)};

    reconcile_desired(core, wants, 1);
    found(core, 1, 1);
    end(core, 1, 1);
    reconcile_report(core);
    reconcile_reported(core, true);
    reconcile_desired(core, wants, 1);
    CHECK_STR(actions(core), "start 1.1 "); // the very first, and no other
    wants[0].phase = DESIRED_PHASE_FORGET;
    reconcile_desired(core, wants, 1);
    CHECK_STR(actions(core), "release 1.1 ");
    reconcile_desired(core, wants, 1);
    CHECK_STR(actions(core), "");
}

TEST(orders)
{
    static const struct {
        enum desired_phase phases[3];
        const char *actions;
    } cases[] = {
        {{DESIRED_PHASE_RUN, DESIRED_PHASE_TERM, DESIRED_PHASE_TERM},   "term 1.1 "         },
        {{DESIRED_PHASE_TERM, DESIRED_PHASE_KILL, DESIRED_PHASE_KILL},  "term 1.1 kill 1.1 "},
        {{DESIRED_PHASE_KILL, DESIRED_PHASE_TERM, DESIRED_PHASE_RUN},   "kill 1.1 "         },
        {{DESIRED_PHASE_FORGET, DESIRED_PHASE_KILL, DESIRED_PHASE_RUN}, "kill 1.1 "         },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(reconcile_freep) struct reconcile *core = synced();
        struct reconcile_want wants[] = {want(1, 1, DESIRED_PHASE_RUN)};
        reconcile_desired(core, wants, 1);
        found(core, 1, 1);
        actions(core);
        for (size_t k = 0; k < 3; k++) {
            wants[0].phase = cases[i].phases[k];
            reconcile_desired(core, wants, 1);
        }
        CHECK_STR(actions(core), cases[i].actions, "case %zu", i);
    }
}

TEST(an_earlier_kill_time_counts)
{
    _cleanup_(reconcile_freep) struct reconcile *core = synced();
    struct reconcile_want wants[] = {want(1, 1, DESIRED_PHASE_RUN)};

    reconcile_desired(core, wants, 1);
    found(core, 1, 1);
    wants[0].phase = DESIRED_PHASE_TERM;
    reconcile_desired(core, wants, 1);
    wants[0].kill_at_us = 2000;
    reconcile_desired(core, wants, 1);
    CHECK_STR(actions(core), "start 1.1 term 1.1 ");
    wants[0].kill_at_us = 500;
    reconcile_desired(core, wants, 1);
    CHECK_STR(actions(core), "term 1.1 ");
}

/* The removal of the old mark had not reached the disk when the agent was killed. */
TEST(an_old_mark_does_not_hold_up_a_newer_attempt)
{
    _cleanup_(reconcile_freep) struct reconcile *core = reconcile_new();
    struct reconcile_want wants[] = {want(1, 2, DESIRED_PHASE_RUN)};
    struct reconcile_key k = key(1, 1);

    reconcile_marked(core, &k);
    reconcile_scanned(core);
    reconcile_desired(core, wants, 1);
    CHECK_STR(actions(core), "start 1.2 release 1.1 ");
}

/* Both ranks have ended and something that they left is still there. One of the exits was told by
 * an agent that was killed, and the new one does not know which: telling the other would give the
 * GPUs back. */
TEST(an_adopted_attempt_tells_no_exit_until_it_is_gone)
{
    _cleanup_(reconcile_freep) struct reconcile *core = reconcile_new();
    struct reconcile_want wants[] = {want(1, 1, DESIRED_PHASE_RUN)};
    struct reconcile_key k = key(1, 1);

    reconcile_marked(core, &k);
    found(core, 1, 1);
    for (size_t i = 0; i < ARRAY_SIZE(ranks); i++)
        reconcile_exited(core, &k, &(struct reconcile_exit){.rank = ranks[i]});
    reconcile_scanned(core);
    reconcile_desired(core, wants, 1);
    reconcile_report(core);
    CHECK(reconcile_find(core, &k)->sent_started);
    CHECK_EQ(reconcile_find(core, &k)->n_exits_sent, 0);
    reconcile_reported(core, true);
    CHECK(!reconcile_unreported(core));
    reconcile_gone(core, &k);
    reconcile_report(core);
    CHECK_EQ(reconcile_find(core, &k)->n_exits_sent, 2);
    CHECK(reconcile_find(core, &k)->sent_gone);
    reconcile_reported(core, true);
}

/* One rank ran on when the attempt was adopted: its exit no agent has told before. */
TEST(an_adopted_attempt_keeps_its_last_exit_back)
{
    _cleanup_(reconcile_freep) struct reconcile *core = reconcile_new();
    struct reconcile_want wants[] = {want(1, 1, DESIRED_PHASE_RUN)};
    struct reconcile_key k = key(1, 1);

    reconcile_marked(core, &k);
    found(core, 1, 1);
    reconcile_exited(core, &k, &(struct reconcile_exit){.rank = ranks[1]});
    reconcile_scanned(core);
    reconcile_desired(core, wants, 1);
    reconcile_report(core);
    CHECK_EQ(reconcile_find(core, &k)->n_exits_sent, 1);
    reconcile_reported(core, true);
    reconcile_exited(core, &k, &(struct reconcile_exit){.rank = ranks[0]});
    CHECK(!reconcile_unreported(core));
    reconcile_gone(core, &k);
    reconcile_report(core);
    CHECK_EQ(reconcile_find(core, &k)->n_exits_sent, 2);
    reconcile_reported(core, true);
}

TEST(unwanted_is_killed)
{
    _cleanup_(reconcile_freep) struct reconcile *core = reconcile_new();
    struct reconcile_key k = key(9, 1);

    reconcile_marked(core, &k);
    found(core, 9, 1); // its shim was there when the agent came
    reconcile_desired(core, NULL, 0);
    CHECK_STR(actions(core), ""); // not before all shims were looked for
    reconcile_scanned(core);
    CHECK_STR(actions(core), "kill 9.1 ");
    reconcile_desired(core, NULL, 0);
    CHECK_STR(actions(core), "");
}

TEST(nothing_is_judged_before_a_desired_set)
{
    _cleanup_(reconcile_freep) struct reconcile *core = reconcile_new();

    found(core, 9, 1);
    reconcile_scanned(core);
    CHECK_STR(actions(core), "");
}

/* A mark without a shim: it was started once, so it is never started again. */
TEST(marked_and_lost)
{
    _cleanup_(reconcile_freep) struct reconcile *core = reconcile_new();
    struct reconcile_key k = key(1, 1), unwanted = key(2, 1);
    struct reconcile_want wants[] = {want(1, 1, DESIRED_PHASE_RUN)};

    reconcile_marked(core, &k);
    reconcile_marked(core, &unwanted);
    reconcile_scanned(core);
    reconcile_desired(core, wants, 1);
    CHECK_STR(actions(core), "release 2.1 ");
    const struct reconcile_hold *hold = reconcile_find(core, &k);
    CHECK(hold->gone);
    CHECK_EQ(hold->n_exits, 2);
    CHECK_EQ(hold->exits[0].cause, EXIT_CAUSE_UNKNOWN);
    CHECK_EQ(hold->exits[0].signal, 9);
    CHECK(reconcile_unreported(core));
}

TEST(older_attempt_goes_first)
{
    _cleanup_(reconcile_freep) struct reconcile *core = synced();
    struct reconcile_want first[] = {want(1, 1, DESIRED_PHASE_RUN)};
    struct reconcile_want second[] = {want(1, 2, DESIRED_PHASE_RUN), want(3, 1, DESIRED_PHASE_RUN)};

    reconcile_desired(core, first, 1);
    found(core, 1, 1);
    CHECK_STR(actions(core), "start 1.1 ");
    reconcile_desired(core, second, 2);
    CHECK_STR(actions(core), "start 3.1 kill 1.1 ");
    end(core, 1, 1);
    CHECK_STR(actions(core), "start 1.2 ");
}

TEST(told_to_end_before_it_began)
{
    _cleanup_(reconcile_freep) struct reconcile *core = synced();
    struct reconcile_want wants[] = {want(1, 1, DESIRED_PHASE_KILL)};
    struct reconcile_key k = key(1, 1);

    reconcile_desired(core, wants, 1);
    CHECK_STR(actions(core), "");
    CHECK(reconcile_find(core, &k)->gone);
    CHECK_EQ(reconcile_find(core, &k)->n_exits, 0);
    wants[0].phase = DESIRED_PHASE_RUN; // nor afterwards
    reconcile_desired(core, wants, 1);
    CHECK_STR(actions(core), "");
}

TEST(failures)
{
    _cleanup_(reconcile_freep) struct reconcile *core = synced();
    struct reconcile_want wants[] = {want(1, 1, DESIRED_PHASE_RUN), want(2, 1, DESIRED_PHASE_RUN)};
    struct reconcile_key one = key(1, 1), two = key(2, 1);

    reconcile_desired(core, wants, 2);
    actions(core);
    reconcile_failed(core, &one, EXIT_CAUSE_START, 5, "no shim");
    const struct reconcile_hold *hold = reconcile_find(core, &one);
    CHECK(hold->gone && !hold->started);
    CHECK_EQ(hold->n_exits, 2);
    CHECK_EQ(hold->exits[1].cause, EXIT_CAUSE_START);
    CHECK_EQ(hold->exits[1].exit_code, 127);
    CHECK_STR(hold->exits[1].message, "no shim");
    found(core, 2, 1);
    reconcile_exited(core, &two, &(struct reconcile_exit){.rank = 5, .exit_code = 3});
    reconcile_exited(core, &two, &(struct reconcile_exit){.rank = 5, .exit_code = 4});
    reconcile_lost(core, &two, 6); // what was known stays
    hold = reconcile_find(core, &two);
    CHECK_EQ(hold->n_exits, 2);
    CHECK_EQ(hold->exits[0].exit_code, 3);
    CHECK_EQ(hold->exits[1].rank, 4);
    CHECK_EQ(hold->exits[1].cause, EXIT_CAUSE_UNKNOWN);
}

TEST(walk)
{
    _cleanup_(reconcile_freep) struct reconcile *core = synced();
    int n = 0;

    for (int64_t job = 1; job <= 3; job++)
        found(core, job, 1);
    found(core, 2, 2);
    for (const struct reconcile_hold *hold = NULL; (hold = reconcile_walk(core, hold));)
        n++;
    CHECK_EQ(n, 4);
}
