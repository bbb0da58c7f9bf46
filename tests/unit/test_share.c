/* Sharing of time: less important jobs give way, and go on by themselves. */
#include "scheduler/core/why.h"
#include "tests/unit/core_steps.h"

static void setup(struct world *w) {
    sharing_cluster(w, 1, 2, 2, 600);
}

static int64_t submit_at(struct world *w, int64_t priority, int64_t nodes, int64_t gpus) {
    struct entry_job_spec spec = world_spec();

    spec.priority = priority;
    spec.nodes = nodes;
    spec.gpus_per_node = gpus;
    return world_submit(w, &spec);
}

static void run_for(struct world *w, int64_t id, int64_t us) {
    CHECK_EQ(world_decide(w), 1);
    all_started(w, id);
    world_pass(w, us);
}

/* A gang that holds all has been asked to leave it to a more important one. */
static void contested(struct world *w, int64_t *ret_low, int64_t *ret_high) {
    setup(w);
    *ret_low = submit_at(w, 10, 2, 2);
    run_for(w, *ret_low, S(700));
    *ret_high = submit_at(w, 50, 2, 2);
    CHECK_EQ(world_decide(w), 0); // it does not ask at once
    world_pass(w, S(41));
    CHECK_EQ(state_of(w, *ret_low), JOB_STATE_SUSPENDING);
    CHECK_EQ(job_at(w, *ret_high)->r.claim.n, 2);
}

TEST(a_job_gives_way_and_goes_on)
{
    struct world w;
    int64_t low, high;

    contested(&w, &low, &high);
    CHECK_EQ(job_at(&w, low)->r.reason, REASON_GAVE_WAY);
    CHECK_STR(job_at(&w, low)->r.message, "gives way to job 2 (alice, priority 50)");
    CHECK_EQ(state_of(&w, high), JOB_STATE_QUEUED);
    struct why why;
    why_job(w.state, job_at(&w, high), &why);
    CHECK_STR(why.code, "making_room");
    CHECK_STR(
        why.message,
        "waits until others have saved and left: job 1 (alice); then it starts on a1 and others");
    CHECK_EQ(why.at_us, job_at(&w, low)->r.kill_at_us);
    /* What is left is for nobody else. */
    int64_t small = submit_at(&w, 50, 1, 1);
    w.now_us += S(3);
    all_left(&w, low);
    CHECK_EQ(state_of(&w, low), JOB_STATE_SUSPENDED);
    CHECK(job_at(&w, low)->r.save_us >= S(3));
    CHECK(job_at(&w, low)->r.save_us <= S(63));
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, high), JOB_STATE_STARTING);
    CHECK_EQ(job_at(&w, high)->r.claim.n, 0);
    CHECK_EQ(state_of(&w, small), JOB_STATE_QUEUED);
    all_started(&w, high);
    check_same(&w);
    why_job(w.state, job_at(&w, low), &why);
    CHECK_STR(why.code, "resources");
    all_succeed(&w, high);
    CHECK_EQ(world_decide(&w), 1); // the small one, then the large one does not fit any more
    CHECK_EQ(state_of(&w, small), JOB_STATE_STARTING);
    CHECK_EQ(stop(&w, "submit:alice", small, true), 0);
    all_left(&w, small);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, low), JOB_STATE_STARTING);
    CHECK_EQ(job_at(&w, low)->r.attempt, 2);
    CHECK_EQ(job_at(&w, low)->r.gave_way, 1);
    CHECK_EQ(job_at(&w, low)->r.restarts, 0);
    world_free(&w);
}

TEST(nobody_gives_way_too_soon_or_to_an_equal)
{
    struct world w;

    setup(&w);
    int64_t low = submit_at(&w, 10, 2, 2);
    run_for(&w, low, S(300));
    submit_at(&w, 50, 2, 1);
    world_pass(&w, S(240));
    CHECK_EQ(state_of(&w, low), JOB_STATE_RUNNING);
    world_pass(&w, S(120)); // the wait itself brings the scheduler to look again
    CHECK_EQ(state_of(&w, low), JOB_STATE_SUSPENDING);
    world_free(&w);

    setup(&w);
    int64_t first = submit_at(&w, 10, 2, 2);
    run_for(&w, first, S(1000));
    submit_at(&w, 10, 2, 2);
    world_pass(&w, S(700)); // both are new: neither has sunk
    CHECK_EQ(state_of(&w, first), JOB_STATE_RUNNING);
    world_free(&w);

    /* Many nodes for one: not to an equal, and to a higher priority only after a while. */
    for (int64_t priority = 0; priority <= 50; priority += 50) {
        setup(&w);
        first = submit_at(&w, 0, 2, 2);
        run_for(&w, first, S(7000));
        submit_at(&w, priority, 1, 1);
        world_pass(&w, S(590));
        CHECK_EQ(state_of(&w, first), JOB_STATE_RUNNING);
        world_pass(&w, S(2000));
        CHECK_EQ(state_of(&w, first), priority ? JOB_STATE_SUSPENDING : JOB_STATE_RUNNING);
        world_free(&w);
    }
}

static void start_all(struct world *w) {
    for (const struct job *job = w->state->live_first; job; job = job->live_next)
        if (job->n_assigned)
            all_started(w, job->r.id);
}

/* Who was told to leave, else the oldest that runs. */
static int64_t next_to_end(const struct world *w) {
    const struct job *next = w->state->live_first;

    for (const struct job *job = next; job; job = job->live_next) {
        bool leaves = job->r.phase != DESIRED_PHASE_RUN;
        bool next_leaves = next->r.phase != DESIRED_PHASE_RUN;
        if (leaves > next_leaves || (leaves == next_leaves && job->r.id < next->r.id))
            next = job;
    }
    return next->r.id;
}

/* Short jobs come so fast that two nodes are never free together, and none runs for long enough to
 * be asked. Returns how long a gang of this priority waits, at most 12000 s. */
static int64_t wait_behind_short_jobs_s(int64_t priority) {
    struct world w;
    int64_t waited_s = 0;

    setup(&w);
    for (int i = 0; i < 3; i++)
        submit_at(&w, 20, 1, 2);
    CHECK_EQ(world_decide(&w), 2);
    int64_t gang = submit_at(&w, priority, 2, 2);
    for (; waited_s < 12000 && state_of(&w, gang) == JOB_STATE_QUEUED; waited_s += 60) {
        start_all(&w);
        world_pass(&w, S(60));
        submit_at(&w, 20, 1, 2);
        all_succeed(&w, next_to_end(&w));
        world_decide(&w);
    }
    world_free(&w);
    return waited_s;
}

/* Nobody who waits keeps others from nodes that he does not need. */
TEST(nobody_is_behind_anybody)
{
    struct world w;
    struct why why;

    sharing_cluster(&w, 1, 2, 2, 600);
    submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    submit(&w, 2, 2, 1); // a gang that does not fit
    int64_t small = submit(&w, 1, 1, 1);
    why_job(w.state, job_at(&w, small), &why);
    CHECK_STR(why.code, "starts_now");
    CHECK_EQ(why.ahead, 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, small), JOB_STATE_STARTING);
    world_free(&w);
}

TEST(a_stream_of_short_jobs_keeps_no_gang_waiting_for_ever)
{
    CHECK(wait_behind_short_jobs_s(50) < 16 * 600 + 300);
    CHECK(wait_behind_short_jobs_s(20) < 16 * 600 + 300);
    CHECK_EQ(wait_behind_short_jobs_s(10), 12000, "what is more important goes first");
}

TEST(only_who_is_in_the_way_gives_way)
{
    struct world w;

    setup(&w);
    int64_t a = submit_at(&w, 10, 1, 2), b = submit_at(&w, 10, 1, 2);
    CHECK_EQ(world_decide(&w), 2);
    all_started(&w, a);
    world_pass(&w, S(100));
    all_started(&w, b); // has less to lose
    world_pass(&w, S(3000));
    submit_at(&w, 30, 1, 1);
    world_pass(&w, S(360));
    CHECK_EQ(state_of(&w, a), JOB_STATE_RUNNING);
    CHECK_EQ(state_of(&w, b), JOB_STATE_SUSPENDING);
    world_free(&w);
}

TEST(more_gpus_busy_is_a_reason_too)
{
    struct world w;

    setup(&w);
    int64_t small = submit_at(&w, 10, 1, 1);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, small);
    world_pass(&w, S(3000));
    int64_t gang = submit_at(&w, 10, 2, 2); // later and of a lower tier, but it takes four GPUs
    world_pass(&w, S(590));
    CHECK_EQ(state_of(&w, small), JOB_STATE_RUNNING);
    world_pass(&w, S(40));
    CHECK_EQ(state_of(&w, small), JOB_STATE_SUSPENDING);
    CHECK_EQ(job_at(&w, gang)->r.claim.n, 2);
    world_free(&w);

    setup(&w); // not from somebody more important
    small = submit_at(&w, 20, 1, 1);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, small);
    world_pass(&w, S(3000));
    submit_at(&w, 10, 2, 2);
    world_pass(&w, S(12000));
    CHECK_EQ(state_of(&w, small), JOB_STATE_RUNNING);
    world_free(&w);

    setup(&w); // and not where as much is lost as won
    int64_t two[2];
    for (int i = 0; i < 2; i++)
        two[i] = submit_at(&w, 10, 1, 2);
    CHECK_EQ(world_decide(&w), 2);
    for (int i = 0; i < 2; i++)
        all_started(&w, two[i]);
    world_pass(&w, S(3000));
    submit_at(&w, 10, 2, 2);
    world_pass(&w, S(3000)); // neither has sunk yet
    for (int i = 0; i < 2; i++)
        CHECK_EQ(state_of(&w, two[i]), JOB_STATE_RUNNING);
    world_free(&w);
}

TEST(a_claim_ends_with_its_reason)
{
    enum { STOPPED, LOWERED, DRAINED, LOST, DESCRIBED, N_WAYS };

    for (int way = 0; way < N_WAYS; way++) {
        struct world w;
        int64_t low, high;
        contested(&w, &low, &high);
        if (way == STOPPED)
            CHECK_EQ(stop(&w, "submit:alice", high, false), 0);
        if (way == DRAINED)
            CHECK_EQ(drain(&w, "a2", true), 0);
        if (way == LOST)
            CHECK_EQ(node_lost(&w, "a1", S_ABSENT), 0);
        if (way == LOWERED) {
            struct entry_job_set set = {high, 0, S_ABSENT, NULL};
            CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
        }
        if (way == DESCRIBED) {
            struct world_cluster other = {.n_zones = 1,
                                          .leaves_per_zone = 1,
                                          .nodes_per_leaf = 3,
                                          .gpus = 2,
                                          .cpus = 8,
                                          .min_run_us = S(600)};
            world_cluster(&w, &other);
        }
        CHECK_EQ(job_at(&w, high)->r.claim.n, 0, "way %d", way);
        CHECK(!w.state->claimants, "way %d", way);
        check_same(&w);
        world_free(&w);
    }
}

TEST(a_person_may_suspend_what_gave_way)
{
    struct world w;
    int64_t low, high;

    contested(&w, &low, &high);
    all_left(&w, low);
    CHECK_EQ(world_decide(&w), 1);
    CHECK(job_at(&w, low)->queued);
    CHECK_EQ(suspend(&w, low), 0);
    CHECK(!job_at(&w, low)->queued);
    CHECK_EQ(job_at(&w, low)->r.reason, REASON_USER);
    all_started(&w, high);
    all_succeed(&w, high);
    CHECK_EQ(world_decide(&w), 0);
    CHECK_EQ(resume(&w, low), 0);
    CHECK_EQ(world_decide(&w), 1);
    check_same(&w);
    world_free(&w);
}

/* Two leaves of two nodes, a1 a2 and a3 a4; min_run is 10 min. One node of each is taken. */
static int64_t scattered(struct world *w, int64_t ret_holders[2]) {
    int64_t ids[3];

    sharing_cluster(w, 2, 2, 2, 600);
    for (int i = 0; i < 3; i++)
        ids[i] = submit_at(w, 30, 1, 2);
    CHECK_EQ(world_decide(w), 3); // a1, a2, a3
    for (int i = 0; i < 3; i++)
        all_started(w, ids[i]);
    all_succeed(w, ids[1]);
    ret_holders[0] = ids[0];
    ret_holders[1] = ids[2];
    return submit_at(w, 30, 2, 2); // a2 and a4 are free
}

TEST(a_gang_waits_a_while_for_nodes_under_fewer_leaves)
{
    int64_t holders[2];
    struct world w;
    struct why why;

    int64_t gang = scattered(&w, holders);
    int64_t submitted_us = w.now_us;
    CHECK_EQ(world_decide(&w), 0);
    why_job(w.state, job_at(&w, gang), &why);
    CHECK_STR(why.code, "leaves");
    CHECK_STR(why.message,
              "2 nodes are free, but under 2 leaf switches; it waits for nodes under 1");
    CHECK_EQ(why.at_us, job_at(&w, gang)->r.since_us + S(600));
    world_pass(&w, S(300));
    all_succeed(&w, holders[1]); // a3: now it has a leaf
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, gang, 0), "a3");
    CHECK_STR(node_of(&w, gang, 1), "a4");
    world_free(&w);

    gang = scattered(&w, holders);
    submitted_us = w.now_us;
    while (state_of(&w, gang) == JOB_STATE_QUEUED && w.now_us < submitted_us + S(2000))
        world_pass(&w, S(10));
    CHECK(w.now_us >= submitted_us + S(600));
    CHECK(w.now_us <= submitted_us + S(660));
    CHECK_STR(node_of(&w, gang, 0), "a2");
    CHECK_STR(node_of(&w, gang, 1), "a4");
    world_free(&w);

    /* Where a node is out, no leaf can hold the gang: it does not wait for what cannot be. */
    gang = scattered(&w, holders);
    CHECK_EQ(world_decide(&w), 0);
    CHECK_EQ(drain(&w, "a1", true), 0);
    CHECK_EQ(world_decide(&w), 0); // a3 and a4 could
    CHECK_EQ(drain(&w, "a3", true), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, gang, 0), "a2");
    world_free(&w);
}

TEST(a_gang_that_recovers_does_not_wait_for_leaves)
{
    int64_t holders[2];
    struct world w;

    int64_t gang = scattered(&w, holders);
    world_pass(&w, S(1000));
    CHECK_EQ(state_of(&w, gang), JOB_STATE_STARTING);
    all_started(&w, gang);
    ended(&w, gang, 0, 0, 9, EXIT_CAUSE_SELF);
    ended(&w, gang, 1, 0, 15, EXIT_CAUSE_ORDER);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(job_at(&w, gang)->r.attempt, 2);
    world_free(&w);
}

TEST(victims_lie_under_one_leaf)
{
    int64_t ids[4];
    struct world w;

    sharing_cluster(&w, 2, 2, 2, 600);
    for (int i = 0; i < 4; i++)
        ids[i] = submit_at(&w, 10, 1, 2);
    CHECK_EQ(world_decide(&w), 4);
    for (int i = 0; i < 4; i++) { // the younger has less to lose: a3, a2, a4, a1
        static const int order[] = {0, 3, 1, 2};
        all_started(&w, ids[order[i]]);
        world_pass(&w, S(100));
    }
    world_pass(&w, S(8000)); // they have sunk
    int64_t gang = submit_at(&w, 50, 2, 2);
    world_pass(&w, S(80));
    CHECK_EQ(job_at(&w, gang)->r.claim.n, 2);
    CHECK_EQ(state_of(&w, ids[0]), JOB_STATE_RUNNING);
    CHECK_EQ(state_of(&w, ids[1]), JOB_STATE_RUNNING); // a2: cheaper than a4, but elsewhere
    CHECK_EQ(state_of(&w, ids[2]), JOB_STATE_SUSPENDING);
    CHECK_EQ(state_of(&w, ids[3]), JOB_STATE_SUSPENDING);
    world_free(&w);
}
