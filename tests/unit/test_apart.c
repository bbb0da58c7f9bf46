/* Jobs that keep apart from their like: zones first, then leaves, then nodes; never at the price of
 * not running. */
#include "scheduler/core/apart.h"
#include "tests/unit/core_steps.h"

static void setup(struct world *w) {
    struct world_cluster cluster = {
        .n_zones = 2, .leaves_per_zone = 2, .nodes_per_leaf = 2, .gpus = 2, .cpus = 8};

    world_init(w);
    world_cluster(w, &cluster);
}

static int64_t replica(struct world *w, const char *name, int64_t nodes) {
    struct entry_job_spec spec = world_spec();

    spec.name = (char *)name;
    spec.nodes = nodes;
    spec.gpus_per_node = 1;
    spec.anti_affinity = 1;
    return world_submit(w, &spec);
}

TEST(replicas_lie_in_other_zones_then_leaves_then_nodes)
{
    static const char *const expected[] = {"a1", "b1", "a3", "b3", "a2", "b2", "a4", "b4", "a1"};
    struct world w;

    setup(&w);
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        int64_t id = replica(&w, "chat", 1);
        CHECK_EQ(world_decide(&w), 1);
        CHECK_STR(node_of(&w, id, 0), expected[i]);
    }
    int64_t other = replica(&w, "other", 1); // of another name: packs
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, other, 0), "a2");
    check_same(&w);
    world_free(&w);
}

TEST(replicas_submitted_at_once_lie_apart_too)
{
    struct entry_range range = {0, 3, 1};
    struct entry_job_spec spec = world_spec();
    int on_node[8] = {0}, n = 0;
    struct world w;

    setup(&w);
    spec.gpus_per_node = 1;
    spec.anti_affinity = 1;
    spec.array.items = &range;
    spec.array.n = 1;
    CHECK(world_submit(&w, &spec) > 0);
    while (world_decide(&w) > 0)
        ;
    for (const struct job *job = w.state->jobs_first; job; job = job->next)
        if (job->r.allocs.n) {
            on_node[job->r.allocs.items[0].node]++;
            n++;
        }
    CHECK_EQ(n, 4);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(on_node[i], i % 2 == 0); // one under each leaf
    check_same(&w);
    world_free(&w);
}

TEST(a_replica_runs_beside_its_like_rather_than_not_at_all)
{
    struct world w;

    setup(&w);
    for (const char *const *node =
             (const char *const[]){"a2", "a3", "a4", "b1", "b2", "b3", "b4", NULL};
         *node; node++)
        CHECK_EQ(drain(&w, *node, true), 0);
    int64_t first = replica(&w, "chat", 1), second = replica(&w, "chat", 1);
    while (world_decide(&w) > 0)
        ;
    CHECK_STR(node_of(&w, first, 0), "a1");
    CHECK_STR(node_of(&w, second, 0), "a1");
    world_free(&w);
}

TEST(a_replica_of_several_nodes_keeps_apart_as_a_whole)
{
    struct world w;

    setup(&w);
    int64_t first = replica(&w, "chat", 2);
    CHECK_EQ(world_decide(&w), 1);
    int64_t second = replica(&w, "chat", 2);
    CHECK_EQ(world_decide(&w), 1);
    int64_t third = replica(&w, "chat", 2);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(node_of(&w, first, 0)[0], 'a');
    CHECK_EQ(node_of(&w, second, 0)[0], 'b');
    CHECK_EQ(node_of(&w, third, 0)[0], 'a');
    CHECK(strcmp(node_of(&w, third, 0), node_of(&w, first, 0)) != 0);
    world_free(&w);
}
