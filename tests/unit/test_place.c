#include "scheduler/core/queue.h"
#include "tests/unit/core_steps.h"

/* Where a job goes on two zones of two leaves of three nodes, 2 GPUs and 8 CPUs each, with some
 * GPUs taken before by one-node jobs: "a1=1" holds 1 GPU of a1. Nodes a1-a3 and a4-a6 share leaves.
 */
static const struct {
    const char *what;
    const char *taken; // node=gpus, separated by spaces
    int64_t nodes, gpus;
    bool cross;
    const char *zones;
    const char *answer; // nodes in rank order, "" for waits
} cases[] = {
    {"best fit",             "a2=1",                               1, 1, false, NULL, "a2"               },
    {"lowest number",        "",                                   1, 1, false, NULL, "a1"               },
    {"whole node past part", "a1=1",                               1, 2, false, NULL, "a2"               },
    {"cpu job: most cpus",   "a1=1",                               1, 0, false, NULL, "a2"               },
    {"one leaf",             "",                                   3, 2, false, NULL, "a1 a2 a3"         },
    {"tightest leaf",        "a1=1",                               2, 2, false, NULL, "a2 a3"            },
    {"one leaf, next zone",  "a1=1 a4=1",                          3, 2, false, NULL, "b1 b2 b3"         },
    {"two leaves",           "",                                   4, 2, false, NULL, "a1 a4 a5 a6"      },
    {"tightest leaves",      "a1=1 a5=1",                          4, 2, false, NULL, "a2 a3 a4 a6"      },
    {"tight zone",           "b1=2 b2=2",                          4, 2, false, NULL, "b3 b4 b5 b6"      },
    {"asked zone",           "",                                   2, 2, false, "b",  "b1 b2"            },
    {"no crossing",          "a1=2 b1=2",                          6, 2, false, NULL, ""                 },
    {"crossing",             "a1=2 b1=2",                          6, 2, true,  NULL, "a4 a5 a6 b4 b5 b6"},
    {"crossing not needed",  "a1=2",                               6, 2, true,  NULL, "b1 b2 b3 b4 b5 b6"},
    {"crossing, few leaves", "a4=2 a5=2 b4=2 b5=2 b6=2",           6, 2, true,  NULL, "a1 a2 a3 b1 b2 b3"},
    {"fullest in a leaf",    "a1=1 a3=1",                          2, 1, false, NULL, "a1 a3"            },
    {"full",                 "a1=2 a2=2 a3=2 b1=2 b2=2 b3=2 a4=2", 4, 2, false, NULL, ""                 },
};

static void take(struct world *w, const char *taken) {
    for (const char *at = taken; at && *at; at = strchr(at, ' ') ? strchr(at, ' ') + 1 : NULL) {
        char name[3] = {at[0], at[1], 0};
        struct entry_job_spec spec = world_spec();
        spec.gpus_per_node = at[3] - '0';
        int64_t id = world_submit(w, &spec);
        struct entry_place_node node = {name, (1 << spec.gpus_per_node) - 1};
        struct entry_place place = {
            id, 0, {&node, 1}
        };
        CHECK_EQ(world_append(w, "system:hai", ENTRY_PLACE, &place), 0);
    }
}

static void names(struct world *w, int64_t id, char *ret, size_t size) {
    const struct job *job = job_at(w, id);
    size_t used = 0;

    ret[0] = 0;
    for (size_t i = 0; i < job->r.allocs.n; i++)
        used += (size_t)snprintf(ret + used, size - used, "%s%s", i ? " " : "", node_of(w, id, i));
}

TEST(placements)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct world_cluster cluster = {
            .n_zones = 2, .leaves_per_zone = 2, .nodes_per_leaf = 3, .gpus = 2, .cpus = 8};
        struct entry_job_spec spec = world_spec();
        char *zone = (char *)cases[i].zones;
        char answer[128];
        struct world w;
        world_init(&w);
        world_cluster(&w, &cluster);
        take(&w, cases[i].taken);
        spec.nodes = cases[i].nodes;
        spec.gpus_per_node = cases[i].gpus;
        spec.cross_zones = cases[i].cross;
        if (cases[i].zones) {
            spec.zones.items = &zone;
            spec.zones.n = 1;
        }
        int64_t id = world_submit(&w, &spec);
        CHECK(id > 0, "%s", w.reply.err.text);
        CHECK_EQ(world_decide(&w), cases[i].answer[0] != 0, "%s", cases[i].what);
        names(&w, id, answer, sizeof answer);
        CHECK_STR(answer, cases[i].answer, "%s", cases[i].what);
        check_same(&w);
        world_free(&w);
    }
}

static const struct {
    int64_t nodes, gpus, cpus;
    const char *group, *zone;
    const char *code, *text, *hint;
} impossible[] = {
    {1, 3, 0, NULL,  NULL, "impossible",
     "needs 1 node with 3 GPUs and 1 CPU; group default has 0 such nodes",                  ""                                                      },
    {5, 2, 0, NULL,  NULL, "impossible",
     "needs 5 nodes with 2 GPUs and 1 CPU each; group default has 4 such nodes",            ""                                                      },
    {3, 2, 0, NULL,  NULL, "impossible",
     "needs 3 nodes with 2 GPUs and 1 CPU in one zone; group default has 4 over all zones", "resources: {cross_zones: true} lets one run span zones"},
    {1, 1, 9, NULL,  NULL, "impossible",
     "needs 1 node with 1 GPU and 9 CPUs; group default has 0 such nodes",                  ""                                                      },
    {1, 1, 0, "big", NULL, "unknown_group", "there is no group big",                        "groups: default"                                       },
    {1, 1, 0, NULL,  "c",  "unknown_zone",  "there is no zone c",                           "zones: a, b"                                           },
};

TEST(impossible_jobs_are_refused)
{
    struct world w;

    small_cluster(&w, 2, 2);
    for (size_t i = 0; i < ARRAY_SIZE(impossible); i++) {
        struct entry_job_spec spec = world_spec();
        char *zone = (char *)impossible[i].zone;
        spec.nodes = impossible[i].nodes;
        spec.gpus_per_node = impossible[i].gpus;
        if (impossible[i].cpus)
            spec.cpus_per_node = impossible[i].cpus;
        spec.group = (char *)impossible[i].group;
        if (impossible[i].zone) {
            spec.zones.items = &zone;
            spec.zones.n = 1;
        }
        CHECK_EQ(world_submit(&w, &spec), -EINVAL);
        CHECK_STR(w.reply.err.code, impossible[i].code);
        CHECK_STR(w.reply.err.text, impossible[i].text);
        CHECK_STR(w.reply.err.hint, impossible[i].hint);
    }
    CHECK_EQ(w.state->n_jobs, 0);
    world_free(&w);
}

TEST(priorities_then_first_come)
{
    struct entry_job_spec spec = world_spec();
    int64_t ids[4];
    static const int64_t priorities[] = {10, 30, 30, 50};
    struct world w;

    small_cluster(&w, 1, 1);
    spec.gpus_per_node = 2;
    for (int i = 0; i < 4; i++) {
        spec.priority = priorities[i];
        ids[i] = world_submit(&w, &spec);
    }
    _cleanup_free_ int64_t *order = NULL;
    CHECK_EQ(queue_list(w.state, &order), 4);
    static const int expected[] = {3, 1, 2, 0};
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(order[i], ids[expected[i]]);
        CHECK_EQ(world_decide(&w), 1);
        CHECK_EQ(state_of(&w, ids[expected[i]]), JOB_STATE_STARTING);
        ended(&w, ids[expected[i]], 0, 0, 0, EXIT_CAUSE_SELF);
    }
    world_free(&w);
}

/* A large job is not starved: what comes later waits behind it, unless its nodes are out. */
TEST(a_large_job_is_not_passed)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t small = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    int64_t large = submit(&w, 2, 2, 1);
    int64_t later = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 0);
    CHECK_EQ(drain(&w, "a1", true), 0); // now it cannot start whoever ends
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, later), JOB_STATE_STARTING);
    ended(&w, small, 0, 0, 0, EXIT_CAUSE_SELF);
    ended(&w, later, 0, 0, 0, EXIT_CAUSE_SELF);
    CHECK_EQ(world_decide(&w), 0);
    CHECK_EQ(drain(&w, "a1", false), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, large), JOB_STATE_STARTING);
    world_free(&w);
}

TEST(proposals_of_a_moved_state_have_no_effect)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t id = submit(&w, 1, 2, 1);
    struct decide_list list = {0};
    CHECK_EQ(decide_run(w.decide, w.state, &list), 1);
    struct entry_place_node nodes[2] = {
        {(char *)"a1", 3},
        {(char *)"a1", 3}
    };
    struct entry_place place = {
        id, 1, {nodes, 1}
    };
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_PLACE, &place), -ESTALE); // epoch
    place = (struct entry_place){
        id, 0, {nodes, 2}
    };
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_PLACE, &place), -ESTALE); // nodes
    place = (struct entry_place){
        id, 0, {nodes, 1}
    };
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_PLACE, &place), -EACCES);
    drain(&w, "a1", true);
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_PLACE, &place), -ESTALE); // node
    stop(&w, "operate:root", id, false);
    nodes[0].node = (char *)"a2";
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_PLACE, &place), -ESTALE); // job
    CHECK_EQ(w.state->nodes[1]->gpus_held, 0);
    decide_list_free(&list);
    world_free(&w);
}

TEST(a_job_avoids_nodes_it_failed_on_if_it_can)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t id = submit(&w, 1, 2, 1);
    world_decide(&w);
    CHECK_STR(node_of(&w, id, 0), "a1");
    all_started(&w, id);
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF);
    world_decide(&w);
    CHECK_STR(node_of(&w, id, 0), "a2");
    drain(&w, "a1", true);
    all_started(&w, id);
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF);
    world_pass(&w, S(2)); // both are avoided, one is there
    CHECK_STR(node_of(&w, id, 0), "a2");
    CHECK_EQ(job_at(&w, id)->r.attempt, 3);
    world_free(&w);
}

TEST(one_gang_spans_zones_at_a_time)
{
    struct entry_job_spec spec = world_spec();
    struct world w;

    small_cluster(&w, 2, 2);
    spec.nodes = 3;
    spec.gpus_per_node = 1;
    spec.cross_zones = true;
    int64_t first = world_submit(&w, &spec), second = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(w.state->n_cross_zone, 1);
    for (int rank = 0; rank < 3; rank++)
        ended(&w, first, rank, 0, 0, EXIT_CAUSE_SELF);
    CHECK_EQ(w.state->n_cross_zone, 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, second), JOB_STATE_STARTING);
    check_same(&w);
    world_free(&w);
}

TEST(live_jobs_have_different_master_ports)
{
    struct world w;
    bool seen[MASTER_PORT_LAST - MASTER_PORT_FIRST + 1] = {false};

    small_cluster(&w, 1, 2);
    for (int i = 0; i < 16; i++)
        submit(&w, 1, 0, 1);
    CHECK_EQ(world_decide(&w), 16);
    for (int64_t id = 1; id <= 16; id++) {
        int64_t port = job_at(&w, id)->r.master_port - MASTER_PORT_FIRST;
        CHECK(!seen[port]);
        seen[port] = true;
    }
    world_free(&w);
}

/* Nodes of several kinds over two zones and two groups, all in service. */
static void mixed_cluster(struct world *w, struct rng *rng) {
    struct entry_cluster_set set;
    char name[16];

    schema_init(entry_cluster_set_schema(), &set);
    for (int z = 0; z < 2; z++) {
        LIST_ADD(&set.zones)->name = hai_strdup(z ? "b" : "a");
        *LIST_ADD(&set.leaves) =
            (struct entry_leaf){.name = hai_strdup(z ? "lb" : "la"), .zone = z};
    }
    for (int g = 0; g < 2; g++) {
        struct entry_group *group = LIST_ADD(&set.groups);
        schema_init(entry_group_schema(), group);
        group->name = hai_strdup(g ? "other" : "default");
    }
    for (int64_t i = 0; i < 24; i++) {
        (void)snprintf(name, sizeof name, "n%lld", (long long)i);
        *LIST_ADD(&set.nodes) =
            (struct entry_node){.name = hai_strdup(name),
                                .leaf = rng_below(rng, 2),
                                .gpus = 4 * rng_below(rng, 3),
                                .cpus = 8 * (1 + rng_below(rng, 2)),
                                .memory_bytes = rng_below(rng, 3) * (INT64_C(1) << 30),
                                .nvlink = S_ABSENT};
        *LIST_ADD(&set.groups.items[rng_below(rng, 2)].nodes) = i;
    }
    world_init(w);
    CHECK_EQ(world_append(w, "admin:root", ENTRY_CLUSTER_SET, &set), 0, "%s", w->reply.err.text);
    for (size_t i = 0; i < set.nodes.n; i++)
        CHECK_EQ(node_up(w, set.nodes.items[i].name, "1"), 0);
    schema_free(entry_cluster_set_schema(), &set);
}

TEST(what_could_start_is_counted_by_kinds_as_node_by_node)
{
    struct rng rng = {1};
    int n_could = 0;

    for (int i = 0; i < 20; i++) {
        struct world w;
        mixed_cluster(&w, &rng);
        for (int k = 0; k < 100; k++) {
            struct place_need need = {.group = (int)rng_below(&rng, 2),
                                      .zones = k % 3 ? UINT64_MAX : UINT64_C(1) << k % 2,
                                      .nodes = 1 + rng_below(&rng, 6),
                                      .gpus_per_node = rng_below(&rng, 9),
                                      .cpus_per_node = 1 + rng_below(&rng, 16),
                                      .memory_per_node_bytes = rng_below(&rng, 3) << 30,
                                      .cross_zones = rng_once_in(&rng, 2)};
            bool could = place_could(w.state, &need, false);
            CHECK_EQ(could, place_could(w.state, &need, true));
            n_could += could;
        }
        world_free(&w);
    }
    CHECK(n_could > 400 && n_could < 1600, "%d", n_could);
}
