/* Nodes that are kept for jobs that recover. */
#include "scheduler/core/spare.h"
#include "scheduler/core/why.h"
#include "tests/unit/core_steps.h"

static void setup(struct world *w) {
    struct world_cluster cluster = {
        .n_zones = 1, .leaves_per_zone = 1, .nodes_per_leaf = 4, .gpus = 2, .cpus = 8, .spares = 1};

    world_init(w);
    world_cluster(w, &cluster);
}

static bool is_spare(struct world *w, int node) {
    _cleanup_free_ uint64_t *map = spare_map(w->state, false);

    return spare_marked(map, node);
}

TEST(spares_are_for_jobs_that_recover)
{
    struct world w;
    struct why why;
    int64_t ids[4];

    setup(&w);
    CHECK(is_spare(&w, 3));
    for (int i = 0; i < 4; i++)
        ids[i] = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 3);
    CHECK_EQ(state_of(&w, ids[3]), JOB_STATE_QUEUED);
    why_job(w.state, job_at(&w, ids[3]), &why);
    CHECK_STR(why.code, "resources");
    CHECK_STR(why.message, "needs 1 node with 2 free GPUs in group default; 3 nodes are full, "
                           "1 node is kept as a spare for recovery");
    all_started(&w, ids[0]);
    CHECK_EQ(node_lost(&w, "a1", S_ABSENT), 0);
    CHECK_EQ(node_fenced(&w, "a1"), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, ids[0], 0), "a4");
    CHECK_EQ(state_of(&w, ids[3]), JOB_STATE_QUEUED);
    CHECK(!is_spare(&w, 3));
    all_started(&w, ids[1]); // the next node that becomes free is the spare
    CHECK_EQ(ended(&w, ids[1], 0, 0, 0, EXIT_CAUSE_SELF), 0);
    CHECK_EQ(world_decide(&w), 0);
    CHECK(is_spare(&w, 1));
    check_same(&w);
    world_free(&w);
}

TEST(a_job_that_would_need_the_spares_is_refused)
{
    struct entry_job_spec spec = world_spec();
    struct world w;

    setup(&w);
    spec.nodes = 4;
    CHECK_EQ(world_submit(&w, &spec), -EINVAL);
    CHECK_STR(w.reply.err.text, "needs 4 nodes and 1 CPU each; group default has 3 such nodes "
                                "beside 1 spare");
    spec.nodes = 3;
    CHECK(world_submit(&w, &spec) > 0);
    CHECK_EQ(world_decide(&w), 1);
    world_free(&w);
}

TEST(a_job_that_recovers_takes_other_nodes_first)
{
    struct world w;

    setup(&w);
    int64_t id = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    CHECK_EQ(ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, id, 0), "a2");
    CHECK(is_spare(&w, 3));
    world_free(&w);
}
