/* Jobs that wait: for others to end, for their turn, for their time. */
#include "scheduler/core/eligible.h"
#include "tests/unit/core_steps.h"

struct wish {
    struct entry_after after[4];
    size_t n;
    const char *name;
    bool singleton, held;
    int64_t not_before_us;
};

static struct entry_after on(int64_t job, enum after_want want) {
    struct entry_after after;

    schema_init(entry_after_schema(), &after);
    after.job = job;
    after.want = want;
    return after;
}

static int64_t submit_wish(struct world *w, const struct wish *wish) {
    struct entry_job_spec spec = world_spec();

    spec.gpus_per_node = 1;
    spec.after.items = (struct entry_after *)wish->after;
    spec.after.n = wish->n;
    spec.name = (char *)wish->name;
    spec.singleton = wish->singleton ? 1 : S_ABSENT;
    spec.not_before_us = wish->not_before_us ? wish->not_before_us : S_ABSENT;
    spec.held = wish->held;
    return world_submit(w, &spec);
}

static int64_t submit_after(struct world *w, int64_t job, enum after_want want) {
    struct wish wish = {.after = {on(job, want)}, .n = 1};

    return submit_wish(w, &wish);
}

/* Run a job that waits for nothing to an end. */
static void run_to(struct world *w, int64_t id, enum job_state end) {
    world_decide(w);
    CHECK_EQ(state_of(w, id), JOB_STATE_STARTING);
    all_started(w, id);
    if (end == JOB_STATE_STOPPED)
        stop(w, "submit:alice", id, true);
    if (end == JOB_STATE_TIMED_OUT)
        world_pass(w, S(11));
    ended(w, id, 0, end == JOB_STATE_FAILED, 0,
          end == JOB_STATE_STOPPED || end == JOB_STATE_TIMED_OUT ? EXIT_CAUSE_ORDER
                                                                 : EXIT_CAUSE_SELF);
    if (job_at(w, id)) // else dropped meanwhile
        CHECK_EQ(state_of(w, id), end);
}

static int64_t submit_limited(struct world *w) {
    struct entry_job_spec spec = world_spec();

    spec.gpus_per_node = 1;
    spec.time_limit_us = S(10);
    spec.restart_when = 0;
    return world_submit(w, &spec);
}

/* How a job ends and what that means for those that wait for it, before and after. */
TEST(after_ends)
{
    static const struct {
        enum job_state end;
        bool starts[AFTER_COUNT];
        const char *why; // of those that wait for ok
    } cases[] = {
        {JOB_STATE_SUCCEEDED, {true, true, false}, NULL                                },
        {JOB_STATE_FAILED,
         {false, true, true},
         "job 1 (alice) failed; this job starts only if it succeeds"                   },
        {JOB_STATE_TIMED_OUT,
         {false, true, true},
         "job 1 (alice) ran for as long as it may; this job starts only if it succeeds"},
        {JOB_STATE_STOPPED,
         {false, true, false},
         "job 1 (alice) was stopped; this job starts only if it succeeds"              },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const char *end = job_state_text(cases[i].end);
        int64_t waits[AFTER_COUNT], late[AFTER_COUNT];
        struct world w;
        small_cluster(&w, 1, 4);
        CHECK_EQ(submit_limited(&w), 1);
        for (int want = 0; want < AFTER_COUNT; want++)
            waits[want] = submit_after(&w, 1, (enum after_want)want);
        world_decide(&w);
        for (int want = 0; want < AFTER_COUNT; want++) {
            CHECK_EQ(state_of(&w, waits[want]), JOB_STATE_QUEUED);
            CHECK(!job_at(&w, waits[want])->queued);
        }
        run_to(&w, 1, cases[i].end);
        for (int want = 0; want < AFTER_COUNT; want++)
            late[want] = submit_after(&w, 1, (enum after_want)want);
        world_decide(&w);
        for (int want = 0; want < AFTER_COUNT; want++) {
            enum job_state state = cases[i].starts[want] ? JOB_STATE_STARTING : JOB_STATE_STOPPED;
            CHECK_EQ(state_of(&w, waits[want]), state, "%s, %d", end, want);
            CHECK_EQ(state_of(&w, late[want]), state, "%s, %d, late", end, want);
        }
        if (cases[i].why) {
            CHECK_STR(job_at(&w, waits[AFTER_OK])->r.message, cases[i].why);
            CHECK_EQ(job_at(&w, waits[AFTER_OK])->r.reason, REASON_DEPENDENCY);
        }
        check_same(&w);
        world_free(&w);
    }
}

/* A chain of more jobs than the state keeps ended ones falls with its first; none is told within
 * another, or the stack would not hold it. */
TEST(after_chain)
{
    enum { N = 3 * JOBS_ENDED_KEPT };
    struct world w;

    small_cluster(&w, 1, 1);
    CHECK_EQ(submit_limited(&w), 1);
    for (int64_t id = 2; id <= N; id++)
        CHECK_EQ(submit_after(&w, id - 1, AFTER_OK), id);
    CHECK_EQ(submit_after(&w, N, AFTER_ANY), N + 1);
    run_to(&w, 1, JOB_STATE_FAILED);
    CHECK_EQ(w.state->n_ended, JOBS_ENDED_KEPT);
    CHECK_EQ(state_of(&w, N), JOB_STATE_STOPPED);
    CHECK(!job_at(&w, 1));
    world_decide(&w);
    CHECK_EQ(state_of(&w, N + 1), JOB_STATE_STARTING);
    /* Dropped from the state: only whoever submits can still know how it ended. */
    struct wish wish = {.after = {on(1, AFTER_FAILED)}, .n = 1};
    CHECK_EQ(submit_wish(&w, &wish), -ENOENT);
    wish.after[0].ended = JOB_STATE_FAILED;
    int64_t id = submit_wish(&w, &wish);
    world_decide(&w);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STARTING);
    check_same(&w);
    world_free(&w);
}

/* All of several, held and suspended ones too, through a restart with and without a snapshot. */
TEST(after_several)
{
    for (int snapshot = 0; snapshot < 2; snapshot++) {
        struct world w;
        small_cluster(&w, 1, 4);
        int64_t a = submit(&w, 1, 1, 1), b = submit(&w, 1, 1, 1);
        struct wish wish = {
            .after = {on(a, AFTER_OK), on(b, AFTER_ANY), on(a, AFTER_OK)},
              .n = 3
        };
        int64_t both = submit_wish(&w, &wish);
        wish.held = true;
        int64_t held = submit_wish(&w, &wish);
        int64_t paused = submit_wish(&w, &(struct wish){.after = {on(a, AFTER_OK)}, .n = 1});
        CHECK_EQ(suspend(&w, paused), 0);
        run_to(&w, a, JOB_STATE_SUCCEEDED);
        CHECK(!job_at(&w, both)->queued);
        world_restart(&w, snapshot);
        CHECK(!job_at(&w, both)->queued);
        all_started(&w, b);
        ended(&w, b, 0, 1, 0, EXIT_CAUSE_SELF);
        world_decide(&w);
        CHECK_EQ(state_of(&w, both), JOB_STATE_STARTING);
        CHECK_EQ(state_of(&w, held), JOB_STATE_HELD);
        CHECK_EQ(state_of(&w, paused), JOB_STATE_SUSPENDED);
        resume(&w, held);
        resume(&w, paused);
        world_decide(&w);
        CHECK_EQ(state_of(&w, held), JOB_STATE_STARTING);
        CHECK_EQ(state_of(&w, paused), JOB_STATE_STARTING);
        check_same(&w);
        world_free(&w);
    }
}

/* Later jobs, and ones that there are not, cannot be waited for: there is no circle. */
TEST(after_refused)
{
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t first = submit(&w, 1, 1, 1);
    CHECK_EQ(submit_after(&w, first + 1, AFTER_ANY), -ENOENT);
    CHECK_EQ(submit_after(&w, 99, AFTER_OK), -ENOENT);
    CHECK_STR(w.reply.err.text, "after.ok is 99; there is no such job, or it is no longer kept");
    CHECK_EQ(w.state->r.next_job, first + 1);
    world_free(&w);
}

/* A name is the user's newest job of that name, one that came in the same batch included. */
TEST(after_name)
{
    struct world w;

    small_cluster(&w, 1, 2);
    struct wish wish = {.name = "prep"};
    int64_t old = submit_wish(&w, &wish);
    run_to(&w, old, JOB_STATE_SUCCEEDED);
    int64_t since = w.state->r.next_job;
    struct wish later = {.after = {on(old, AFTER_OK)}, .n = 1};
    later.after[0].name = (char *)"prep";
    later.after[0].since = since;
    int64_t a = submit_wish(&w, &later);
    CHECK_EQ(job_at(&w, a)->r.spec.after.items[0].job, old);
    int64_t newer = submit_wish(&w, &wish);
    int64_t b = submit_wish(&w, &later);
    CHECK_EQ(job_at(&w, b)->r.spec.after.items[0].job, newer);
    CHECK(!job_at(&w, b)->r.spec.after.items[0].name);
    later.after[0].job = S_ABSENT;
    later.after[0].name = (char *)"other";
    CHECK_EQ(submit_wish(&w, &later), -ENOENT);
    CHECK_STR(w.reply.err.text, "after.ok is other; alice has no job of that name");
    check_same(&w);
    world_free(&w);
}

/* Earlier ids first, one at a time; whoever is stopped while it waits is passed over. */
TEST(after_singleton)
{
    struct wish wish = {.name = "sync", .singleton = true};
    struct eligible_wait wait;
    struct world w;

    small_cluster(&w, 1, 4);
    int64_t a = submit_wish(&w, &wish), b = submit_wish(&w, &wish), c = submit_wish(&w, &wish);
    int64_t d = submit_wish(&w, &wish), other = submit(&w, 1, 1, 1);
    world_decide(&w);
    CHECK_EQ(state_of(&w, a), JOB_STATE_STARTING);
    CHECK_EQ(state_of(&w, other), JOB_STATE_STARTING);
    CHECK(eligible_wait(w.state, job_at(&w, d), &wait));
    CHECK_EQ(wait.ahead, a);
    CHECK_STR(wait.text, "waits for job 1 to end: one job of alice named sync at a time");
    CHECK_EQ(stop(&w, "submit:alice", b, false), 0);
    CHECK_EQ(state_of(&w, c), JOB_STATE_QUEUED);
    CHECK(!job_at(&w, c)->queued);
    run_to(&w, a, JOB_STATE_FAILED);
    world_restart(&w, true);
    run_to(&w, c, JOB_STATE_SUCCEEDED);
    run_to(&w, d, JOB_STATE_SUCCEEDED);
    CHECK_EQ(map_count(&w.state->series), 1u); // the other one's
    check_same(&w);
    world_free(&w);
}

/* The time wakes the core by itself; held and suspended jobs start no clock. */
TEST(not_before)
{
    struct eligible_wait wait;
    struct world w;

    small_cluster(&w, 1, 4);
    int64_t at_us = w.now_us + S(3600);
    int64_t id = submit_wish(&w, &(struct wish){.not_before_us = at_us});
    int64_t held = submit_wish(&w, &(struct wish){.not_before_us = at_us - S(60), .held = true});
    int64_t past = submit_wish(&w, &(struct wish){.not_before_us = 1});
    world_decide(&w);
    CHECK_EQ(state_of(&w, past), JOB_STATE_STARTING);
    CHECK_EQ(state_of(&w, id), JOB_STATE_QUEUED);
    CHECK_EQ(state_next_wakeup(w.state), at_us);
    CHECK(eligible_wait(w.state, job_at(&w, id), &wait));
    CHECK_EQ(wait.at_us, at_us);
    world_restart(&w, true);
    CHECK_EQ(state_next_wakeup(w.state), at_us);
    world_pass(&w, S(3599));
    CHECK_EQ(state_of(&w, id), JOB_STATE_QUEUED);
    CHECK_EQ(state_of(&w, held), JOB_STATE_HELD);
    world_pass(&w, S(2));
    CHECK_EQ(state_of(&w, id), JOB_STATE_STARTING);
    CHECK_EQ(state_next_wakeup(w.state), INT64_MAX);
    check_same(&w);
    world_free(&w);
}
