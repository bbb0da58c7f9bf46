/* When jobs start that wait for others, for their turn, for their time; and arrays. */
#include "scheduler/core/forecast.h"
#include "scheduler/core/later.h"
#include "scheduler/core/why.h"
#include "tests/unit/core_steps.h"

enum { RUN_S = 600 };

/* What the forecast says of a job. start_us is INT64_MAX also where it does not say anything. */
static struct forecast_job foreseen(struct world *w, int64_t id, const struct job *extra) {
    _cleanup_free_ struct forecast_job *all = NULL;
    struct forecast_job found = {.start_us = INT64_MAX};

    size_t n = forecast_run(w->state, w->now_us, 0, extra, &all);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++)
            CHECK(all[i].id != all[k].id, "twice: %lld", (long long)all[i].id);
        if (all[i].id == id)
            found = all[i];
    }
    return found;
}

static struct entry_job_spec limited(void) {
    struct entry_job_spec spec = world_spec();

    spec.gpus_per_node = 1;
    spec.time_limit_us = S(RUN_S);
    return spec;
}

static struct entry_after on(int64_t job, enum after_want want) {
    struct entry_after after;

    schema_init(entry_after_schema(), &after);
    after.job = job;
    after.want = want;
    return after;
}

static int64_t submit_after(struct world *w, int64_t job, enum after_want want) {
    struct entry_job_spec spec = limited();
    struct entry_after after = on(job, want);

    spec.after.items = &after;
    spec.after.n = 1;
    return world_submit(w, &spec);
}

static int64_t submit_array(struct world *w, int64_t last, int64_t cap, int64_t after_job) {
    struct entry_job_spec spec = limited();
    struct entry_range range = {0, last, 1};
    struct entry_after after = on(after_job, AFTER_OK);

    spec.array.items = &range;
    spec.array.n = 1;
    spec.array_cap = cap;
    spec.restart_when = 0;
    spec.after.items = &after;
    spec.after.n = after_job > 0;
    return world_submit(w, &spec);
}

/* One job of RUN_S runs on a node of 2 GPUs, placed now. */
static int64_t begin(struct world *w) {
    struct entry_job_spec spec = limited();

    small_cluster(w, 1, 1);
    int64_t id = world_submit(w, &spec);
    CHECK_EQ(world_decide(w), 1);
    all_started(w, id);
    return id;
}

/* Rounds of RUN_S, with what the steps of a forecast may add. */
#define CHECK_ROUNDS(w, job, rounds)                                                               \
    do {                                                                                           \
        int64_t wait_us = (job).start_us == INT64_MAX ? -1 : (job).start_us - (w)->now_us;         \
        CHECK(wait_us >= S((rounds) * (RUN_S - 1)) && wait_us <= S((rounds)*RUN_S * 11 / 10),      \
              "%lld s", (long long)wait_us / 1000000);                                             \
    } while (0)

/* Not before, and at most a step of a thirtieth after. */
#define CHECK_AT(job, at_us)                                                                       \
    CHECK((job).start_us >= (at_us) && (job).start_us - (at_us) <= S(170), "%lld s off",           \
          (long long)((job).start_us - (at_us)) / 1000000)

TEST(who_waits_for_others_comes_when_they_have_ended)
{
    struct world w;

    int64_t a = begin(&w);
    int64_t b = submit_after(&w, a, AFTER_OK), c = submit_after(&w, b, AFTER_ANY);
    struct forecast_job job = foreseen(&w, b, NULL);
    CHECK_ROUNDS(&w, job, 1);
    CHECK_EQ(job.after, a);
    job = foreseen(&w, c, NULL);
    CHECK_ROUNDS(&w, job, 2);
    CHECK_EQ(job.after, b);
    /* Of several the last one counts. */
    struct entry_job_spec spec = limited();
    struct entry_after both[] = {on(b, AFTER_OK), on(a, AFTER_OK)};
    spec.after.items = both;
    spec.after.n = 2;
    int64_t d = world_submit(&w, &spec);
    job = foreseen(&w, d, NULL);
    CHECK_ROUNDS(&w, job, 2);
    CHECK_EQ(job.after, b);
    /* A forecast for one of them ends with it. */
    _cleanup_free_ struct forecast_job *all = NULL;
    CHECK_EQ(forecast_run(w.state, w.now_us, b, NULL, &all), 3);
    CHECK_EQ(all[0].id, b);
    CHECK_ROUNDS(&w, all[0], 1);
    CHECK_EQ(all[2].start_us, INT64_MAX);
    world_free(&w);
}

TEST(what_nobody_foresees_is_not_foreseen)
{
    struct entry_job_spec spec = limited();
    struct world w;

    int64_t a = begin(&w);
    spec.held = true;
    int64_t held = world_submit(&w, &spec);
    int64_t behind = submit_after(&w, held, AFTER_ANY);
    int64_t chain = submit_after(&w, behind, AFTER_OK);
    int64_t fails = submit_after(&w, a, AFTER_FAILED);
    int64_t good = submit_after(&w, a, AFTER_OK);
    CHECK_EQ(foreseen(&w, held, NULL).start_us, INT64_MAX);
    CHECK_EQ(foreseen(&w, behind, NULL).start_us, INT64_MAX);
    CHECK_EQ(foreseen(&w, chain, NULL).start_us, INT64_MAX);
    CHECK_EQ(foreseen(&w, fails, NULL).start_us, INT64_MAX);
    CHECK_ROUNDS(&w, foreseen(&w, good, NULL), 1);
    /* One that is being stopped does not succeed, but ends. */
    CHECK_EQ(stop(&w, "submit:alice", a, false), 0);
    int64_t any = submit_after(&w, a, AFTER_ANY);
    CHECK_EQ(foreseen(&w, good, NULL).start_us, INT64_MAX);
    CHECK(foreseen(&w, any, NULL).start_us < INT64_MAX, "it ends");
    world_free(&w);
}

TEST(who_waits_for_a_time_comes_then)
{
    struct entry_job_spec spec = limited();
    struct world w;

    int64_t a = begin(&w);
    spec.not_before_us = w.now_us + S(5000);
    int64_t b = world_submit(&w, &spec);
    struct forecast_job job = foreseen(&w, b, NULL);
    CHECK_AT(job, spec.not_before_us);
    CHECK_EQ(job.after, 0);
    /* The later of the two counts: the time here, the other job below. */
    struct entry_after after = on(a, AFTER_OK);
    spec.after.items = &after;
    spec.after.n = 1;
    int64_t c = world_submit(&w, &spec);
    job = foreseen(&w, c, NULL);
    CHECK_AT(job, spec.not_before_us);
    CHECK_EQ(job.after, 0);
    spec.not_before_us = w.now_us + S(1);
    int64_t d = world_submit(&w, &spec);
    CHECK_ROUNDS(&w, foreseen(&w, d, NULL), 1);
    world_free(&w);
}

TEST(singletons_take_turns)
{
    enum { TURNS = 4 };
    struct entry_job_spec spec = limited();
    int64_t ids[TURNS];
    struct world w;

    begin(&w);
    spec.name = (char *)"nightly";
    spec.singleton = 1;
    for (int i = 0; i < TURNS; i++)
        ids[i] = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 1); // beside the other
    all_started(&w, ids[0]);
    for (int i = 1; i < TURNS; i++) {
        CHECK_ROUNDS(&w, foreseen(&w, ids[i], NULL), i);
        CHECK_EQ(foreseen(&w, ids[i], NULL).after, ids[i - 1]);
    }
    spec.held = true;
    spec.singleton = S_ABSENT;
    world_submit(&w, &spec);
    spec.held = false;
    spec.singleton = 1;
    int64_t last = world_submit(&w, &spec);
    CHECK_EQ(foreseen(&w, last, NULL).start_us, INT64_MAX); // behind the held one
    world_free(&w);
}

TEST(arrays_go_on)
{
    struct world w;

    int64_t a = begin(&w);
    int64_t array = submit_array(&w, 3, 1, 0); // one after the other on the second GPU
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, array + 1);
    int64_t behind = submit_after(&w, array, AFTER_OK);
    struct forecast_job job = foreseen(&w, behind, NULL);
    CHECK_ROUNDS(&w, job, 4);
    CHECK_EQ(job.after, array);
    CHECK_ROUNDS(&w, foreseen(&w, array, NULL), 1); // its second element
    /* One that waits itself starts with its first element; elements that run beside each other. */
    int64_t later = submit_array(&w, 1, S_ABSENT, a), last = submit_after(&w, later, AFTER_ANY);
    job = foreseen(&w, later, NULL);
    CHECK_ROUNDS(&w, job, 1);
    CHECK_EQ(job.after, a);
    CHECK_ROUNDS(&w, foreseen(&w, last, NULL), 3);
    world_free(&w);
}

/* Elements that are no jobs yet take their places before what was submitted after them. */
TEST(arrays_are_served_to_the_end_before_others)
{
    enum { ELEMENTS = 200 };
    struct world w;

    begin(&w);
    int64_t array = submit_array(&w, ELEMENTS - 1, S_ABSENT, 0);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, array + 1);
    struct entry_job_spec spec = limited();
    int64_t behind = world_submit(&w, &spec);
    CHECK_ROUNDS(&w, foreseen(&w, behind, NULL), ELEMENTS / 2);
    world_free(&w);
}

TEST(who_is_not_submitted_yet_may_wait_for_others)
{
    struct entry_job_spec spec = limited();
    struct job draft;

    spec.user = (char *)"alice";
    spec.name = (char *)"job";
    spec.group = (char *)"default";
    struct world w;

    int64_t a = begin(&w);
    struct entry_after after = on(a, AFTER_OK);
    spec.after.items = &after;
    spec.after.n = 1;
    why_draft(w.state, &spec, &draft);
    CHECK_ROUNDS(&w, foreseen(&w, draft.r.id, &draft), 1);
    spec.after.n = 0;
    spec.not_before_us = w.now_us + S(5000);
    why_draft(w.state, &spec, &draft);
    CHECK(foreseen(&w, draft.r.id, &draft).start_us >= spec.not_before_us, "not before its time");
    spec.not_before_us = S_ABSENT;
    spec.singleton = 1; // of the name of the one that runs
    why_draft(w.state, &spec, &draft);
    CHECK_ROUNDS(&w, foreseen(&w, draft.r.id, &draft), 1);
    spec.singleton = S_ABSENT;
    spec.nodes = 1;
    spec.gpus_per_node = 2;
    struct entry_range range = {0, 9, 1};
    spec.array.items = &range;
    spec.array.n = 1;
    why_draft(w.state, &spec, &draft);
    CHECK_ROUNDS(&w, foreseen(&w, draft.r.id, &draft), 1);
    world_free(&w);
}

/* After its second fault a job waits for a while. */
TEST(who_recovers_comes_after_its_delay)
{
    struct world w;

    int64_t a = begin(&w);
    CHECK_EQ(ended(&w, a, 0, 0, 9, EXIT_CAUSE_SELF), 0);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, a);
    CHECK_EQ(ended(&w, a, 0, 0, 9, EXIT_CAUSE_SELF), 0);
    int64_t due_us = job_at(&w, a)->r.not_before_us;
    CHECK_EQ(state_of(&w, a), JOB_STATE_RECOVERING);
    CHECK(due_us > w.now_us, "no delay");
    struct forecast_job job = foreseen(&w, a, NULL);
    CHECK(job.start_us >= due_us && job.start_us <= due_us + S(2), "%lld s off",
          (long long)(job.start_us - due_us) / 1000000);
    world_free(&w);
}

/* What was submitted lately is submitted again, but not into an array that is open. */
TEST(arrivals_end_no_elements)
{
    enum { ELEMENTS = 60, DONE = 20 };
    struct world w;

    begin(&w);
    int64_t array = submit_array(&w, ELEMENTS - 1, 1, 0);
    for (int i = 0; i < DONE; i++) {
        CHECK_EQ(world_decide(&w), 1);
        all_started(&w, array + 1 + i);
        w.now_us += S(RUN_S);
        all_succeed(&w, array + 1 + i);
    }
    int64_t behind = submit_after(&w, array, AFTER_ANY);
    int64_t wait_us = foreseen(&w, behind, NULL).start_us - w.now_us;
    CHECK(wait_us >= S((ELEMENTS - DONE) * (RUN_S - 60)), "%lld s", (long long)wait_us / 1000000);
    world_free(&w);
}

TEST(an_array_that_failed_does_not_succeed)
{
    struct world w;

    begin(&w);
    int64_t array = submit_array(&w, 3, 1, 0);
    CHECK_EQ(world_decide(&w), 1);
    int64_t ok = submit_after(&w, array, AFTER_OK), fails = submit_after(&w, array, AFTER_FAILED);
    CHECK(foreseen(&w, ok, NULL).start_us < INT64_MAX, "all is well yet");
    CHECK_EQ(foreseen(&w, fails, NULL).start_us, INT64_MAX);
    all_started(&w, array + 1);
    CHECK_EQ(ended(&w, array + 1, 0, 1, 0, EXIT_CAUSE_SELF), 0);
    CHECK_EQ(state_of(&w, array + 1), JOB_STATE_FAILED);
    CHECK_EQ(foreseen(&w, ok, NULL).start_us, INT64_MAX);
    CHECK(foreseen(&w, fails, NULL).start_us < INT64_MAX, "it will fail");
    world_free(&w);
}

/* Nobody knows when a person lets it go on. */
TEST(a_suspended_element_keeps_its_array)
{
    struct world w;

    begin(&w);
    int64_t array = submit_array(&w, 0, S_ABSENT, 0);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, array + 1);
    int64_t behind = submit_after(&w, array, AFTER_ANY);
    CHECK_ROUNDS(&w, foreseen(&w, behind, NULL), 1);
    CHECK_EQ(suspend(&w, array + 1), 0);
    CHECK_EQ(state_of(&w, array + 1), JOB_STATE_SUSPENDING);
    CHECK_EQ(foreseen(&w, behind, NULL).start_us, INT64_MAX);
    world_free(&w);
}

/* In strict order a job over quota waits for what nobody foresees; others do not wait for it. */
TEST(who_is_over_quota_is_not_foreseen)
{
    struct entry_quota_set quota = {QUOTA_HOLDER_USER, (char *)"alice", (char *)"default", 30, 1};
    struct entry_job_spec spec = limited();
    struct world w;

    begin(&w);
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_QUOTA_SET, &quota), 0);
    spec.priority = 30;
    spec.not_before_us = w.now_us + S(5);
    int64_t over = world_submit(&w, &spec);
    CHECK_EQ(foreseen(&w, over, NULL).start_us, INT64_MAX);
    int64_t array = submit_array(&w, 199, S_ABSENT, 0);
    int64_t chained = submit_after(&w, array, AFTER_ANY);
    spec = limited();
    spec.user = (char *)"bob";
    spec.gpus_per_node = 2;
    int64_t bob = world_submit(&w, &spec);
    CHECK_EQ(foreseen(&w, chained, NULL).start_us, INT64_MAX);
    CHECK_ROUNDS(&w, foreseen(&w, bob, NULL), 1);
    world_free(&w);
}

/* What is charged now is given back by then: within a chain, and by an array's own elements. */
TEST(charges_that_are_given_back_do_not_bar)
{
    struct entry_quota_set quota = {QUOTA_HOLDER_USER, (char *)"alice", (char *)"default", 30, 1};
    struct world w;

    int64_t a = begin(&w);
    w.state->r.remembers = S_ABSENT; // so that the limits are all that is known
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_QUOTA_SET, &quota), 0);
    int64_t b = submit_after(&w, a, AFTER_OK);
    CHECK_ROUNDS(&w, foreseen(&w, b, NULL), 1);
    all_succeed(&w, a);
    CHECK_EQ(stop(&w, "submit:alice", b, true), 0);
    int64_t array = submit_array(&w, 3, 1, 0);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, array + 1);
    int64_t behind = submit_after(&w, array, AFTER_OK);
    struct forecast_job next = foreseen(&w, array, NULL);
    CHECK_ROUNDS(&w, next, 1); // its next element
    CHECK_EQ(next.after, array + 1);
    CHECK(foreseen(&w, behind, NULL).start_us < INT64_MAX, "it will end");
    world_free(&w);
}

/* The end of a job and the begin of a reservation may fall into one step. */
TEST(an_end_beside_a_reservation_is_seen)
{
    struct entry_reserve_set set;
    struct entry_job_spec spec = limited();
    struct world w;

    small_cluster(&w, 1, 2);
    spec.gpus_per_node = 2;
    spec.time_limit_us = S(5900);
    int64_t a = world_submit(&w, &spec);
    spec.time_limit_us = S(6000);
    int64_t b = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 2);
    all_started(&w, a);
    all_started(&w, b);
    schema_init(entry_reserve_set_schema(), &set);
    set.name = (char *)"r";
    set.from_us = w.now_us + S(6050);
    set.until_us = w.now_us + S(7000);
    *LIST_ADD(&set.nodes) = (char *)node_of(&w, b, 0);
    CHECK_EQ(world_append(&w, "operate:root", ENTRY_RESERVE_SET, &set), 0);
    free(set.nodes.items);
    int64_t then = submit_after(&w, b, AFTER_OK);
    struct forecast_job job = foreseen(&w, then, NULL);
    CHECK(job.start_us >= w.now_us + S(5990) && job.start_us <= w.now_us + S(6250), "%lld s",
          (long long)(job.start_us - w.now_us) / 1000000);
    world_free(&w);
}

/* Long chains and far times do not make a forecast long. */
TEST(a_long_series_is_walked_once)
{
    enum { TURNS = 4000 };
    _cleanup_free_ struct forecast_job *all = NULL;
    struct entry_job_spec spec = limited();
    struct world w;
    int64_t last = 0;

    begin(&w);
    spec.singleton = 1;
    spec.time_limit_us = S(60);
    for (int i = 0; i < TURNS; i++) {
        last = world_submit(&w, &spec);
        world_clear(&w);
    }
    spec.singleton = S_ABSENT;
    spec.name = (char *)"far";
    spec.not_before_us = w.now_us + S(50 * 86400);
    int64_t far = world_submit(&w, &spec);
    struct forecast_job job = foreseen(&w, last, NULL);
    int64_t wait_us = job.start_us - w.now_us;
    CHECK(wait_us >= S(TURNS * 59) && wait_us < S(TURNS * 70), "%lld s",
          (long long)wait_us / 1000000);
    job = foreseen(&w, far, NULL);
    CHECK(job.start_us >= spec.not_before_us && job.start_us < spec.not_before_us + S(2 * 86400),
          "%lld s off", (long long)(job.start_us - spec.not_before_us) / 1000000);
    world_free(&w);
}
