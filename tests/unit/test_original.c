/* The cases in which the open release of HAI Platform's scheduler went wrong, and what is right.
 *
 * Ten nodes (or twenty) of which jobs take all; its defaults: gangs of whole nodes, one group.
 */
#include "scheduler/core/place.h"
#include "sim/invariants.h"
#include "tests/unit/core_steps.h"

enum { MIN_RUN_S = 1800, GPUS = 8, NODES = 10, MORE_NODES = 20, TICKS = 300 };

static void setup(struct world *w, int n_nodes) {
    sharing_cluster(w, 1, n_nodes, GPUS, MIN_RUN_S);
}

static int64_t submit_nodes(struct world *w, int64_t priority, int64_t nodes) {
    struct entry_job_spec spec = world_spec();

    spec.priority = priority;
    spec.nodes = nodes;
    spec.gpus_per_node = GPUS;
    return world_submit(w, &spec);
}

static int64_t run_nodes(struct world *w, int64_t priority, int64_t nodes) {
    int64_t id = submit_nodes(w, priority, nodes);

    CHECK_EQ(world_decide(w), 1);
    all_started(w, id);
    return id;
}

/* There: the job of 1 waits although 2 nodes are idle. */
TEST(what_fits_starts_behind_what_does_not)
{
    struct world w;

    setup(&w, NODES);
    int64_t eight = submit_nodes(&w, 30, 8), four = submit_nodes(&w, 30, 4);
    int64_t one = submit_nodes(&w, 30, 1);
    CHECK_EQ(world_decide(&w), 2);
    CHECK_EQ(state_of(&w, eight), JOB_STATE_STARTING);
    CHECK_EQ(state_of(&w, four), JOB_STATE_QUEUED);
    CHECK_EQ(state_of(&w, one), JOB_STATE_STARTING);
    world_free(&w);
}

/* There: a job that is larger than its group has what runs suspended, and nothing starts. */
TEST(what_can_never_run_is_refused_and_disturbs_nobody)
{
    struct world w;

    setup(&w, NODES);
    int64_t low = run_nodes(&w, 10, 8);
    world_pass(&w, S(2 * MIN_RUN_S));
    CHECK(submit_nodes(&w, 50, NODES + 1) < 0);
    CHECK(strstr(w.reply.err.text, "10"), "%s", w.reply.err.text);
    /* One that is too large only while a node is out waits for the node. */
    CHECK_EQ(drain(&w, "a10", true), 0);
    int64_t high = submit_nodes(&w, 50, NODES);
    CHECK(high > 0);
    world_pass(&w, S(10 * MIN_RUN_S));
    CHECK_EQ(state_of(&w, low), JOB_STATE_RUNNING);
    CHECK_EQ(drain(&w, "a10", false), 0);
    world_pass(&w, S(MIN_RUN_S));
    CHECK_EQ(state_of(&w, low), JOB_STATE_SUSPENDING);
    all_left(&w, low);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, high), JOB_STATE_STARTING);
    world_free(&w);
}

/* There: suspended within the tick, after no time at all, and the idle nodes left unused. Here they
 * are for whoever fits them, while those of the job that leaves become free. */
TEST(nobody_is_disturbed_at_once_and_idle_nodes_stay_useful)
{
    struct world w;

    setup(&w, NODES);
    int64_t low = run_nodes(&w, 10, 8), high = submit_nodes(&w, 50, 4);
    world_pass(&w, S(MIN_RUN_S - 60));
    CHECK_EQ(state_of(&w, low), JOB_STATE_RUNNING);
    world_pass(&w, S(120));
    CHECK_EQ(state_of(&w, low), JOB_STATE_SUSPENDING);
    int64_t two = run_nodes(&w, 10, 2);
    CHECK_EQ(state_of(&w, two), JOB_STATE_RUNNING);
    all_left(&w, low);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, high), JOB_STATE_STARTING);
    world_free(&w);
}

static void lose(struct world *w, const char *node) {
    CHECK_EQ(node_lost(w, node, S_ABSENT), 0);
    CHECK_EQ(node_fenced(w, node), 0);
}

/* There: the job goes on "running". */
TEST(a_job_that_lost_a_node_runs_on_others)
{
    struct world w;
    char node[NODE_NAME_MAX + 1];

    setup(&w, NODES);
    int64_t job = run_nodes(&w, 30, 2);
    (void)snprintf(node, sizeof node, "%s", node_of(&w, job, 1));
    lose(&w, node);
    CHECK_EQ(state_of(&w, job), JOB_STATE_RECOVERING);
    all_left(&w, job);
    world_decide(&w);
    all_started(&w, job);
    CHECK_EQ(state_of(&w, job), JOB_STATE_RUNNING);
    for (size_t i = 0; i < 2; i++)
        CHECK(strcmp(node_of(&w, job, i), node) != 0, "%s", node);
    world_free(&w);
}

/* There: the job on the dead node goes on "running", and the healthy one is suspended for it. */
TEST(a_lost_node_disturbs_a_healthy_job_only_for_one_that_then_runs)
{
    struct world w;

    setup(&w, NODES);
    int64_t high = run_nodes(&w, 50, 2), low = run_nodes(&w, 10, 8);
    world_pass(&w, S(60));
    lose(&w, node_of(&w, high, 1));
    all_left(&w, high);
    world_pass(&w, S(600)); // too soon after its start
    CHECK_EQ(state_of(&w, high), JOB_STATE_RECOVERING);
    CHECK_EQ(state_of(&w, low), JOB_STATE_RUNNING);
    world_pass(&w, S(MIN_RUN_S));
    CHECK_EQ(state_of(&w, low), JOB_STATE_SUSPENDING);
    all_left(&w, low);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, high);
    CHECK_EQ(state_of(&w, high), JOB_STATE_RUNNING);
    CHECK(job_at(&w, low)->queued, "and goes on by itself");
    world_free(&w);
}

static bool idle(const struct node *node) {
    return state_node_usable(node) && !node->gpus_held && !node->gpus_claimed;
}

/* No job waits that fits the idle nodes, and no job has others leave if the idle ones are enough.
 */
static void check_used(const struct world *w) {
    _cleanup_(place_scratch_free) struct place_scratch scratch = {0};
    struct hai_err err = {0};
    int64_t n_idle = 0;

    for (int i = 0; i < w->state->n_nodes; i++)
        n_idle += idle(w->state->nodes[i]);
    for (const struct job *job = w->state->jobs_first; job; job = job->next) {
        struct place_need need = place_need_of(w->state, job);
        int64_t n_own = 0;
        for (size_t i = 0; i < job->r.claim.n; i++)
            n_own += !w->state->nodes[job->r.claim.items[i].node]->gpus_held;
        if (job->queued && !job->r.claim.n)
            CHECK(place_find(w->state, &need, &scratch) < 0, "job %lld of %lld nodes waits",
                  (long long)job->r.id, (long long)need.nodes);
        if (job->r.claim.n)
            CHECK(n_idle + n_own < need.nodes, "job %lld has others leave", (long long)job->r.id);
    }
    CHECK_EQ(invariants_state(w->state, &err), 0, "%s", err.text);
}

/* A random job goes on to its next step. */
static void disturb(struct world *w, struct rng *rng) {
    static const int64_t levels[] = {50, 30, 10};

    if (!rng_below(rng, 3))
        submit_nodes(w, levels[rng_below(rng, 3)], 1 + rng_below(rng, 8));
    for (struct job *job = w->state->jobs_first, *next; job; job = next) {
        next = job->next;
        if (!state_job_live(job) || state_job_ended(job))
            continue;
        if (job->r.phase != DESIRED_PHASE_RUN)
            all_left(w, job->r.id);
        else if (job->n_assigned)
            all_started(w, job->r.id);
        else if (!rng_below(rng, 20))
            all_succeed(w, job->r.id);
    }
}

/* There: in 12 % of the ticks a waiting job would have fitted idle nodes. */
TEST(idle_nodes_do_not_stay_unused_over_random_ticks)
{
    struct world w;
    struct rng rng = {1};
    int64_t n_rooms = 0;

    setup(&w, MORE_NODES);
    for (int tick = 0; tick < TICKS; tick++) {
        size_t before = w.n_log;
        disturb(&w, &rng);
        world_decide(&w);
        check_used(&w);
        world_pass(&w, S(120));
        for (size_t i = before; i < w.n_log; i++)
            n_rooms += w.log[i].kind == ENTRY_MAKE_ROOM;
    }
    CHECK(n_rooms >= 10, "%lld", (long long)n_rooms);
    CHECK(w.state->n_jobs >= 80);
    world_free(&w);
}
