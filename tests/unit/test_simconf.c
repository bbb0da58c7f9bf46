#include "sim/fixed.h"
#include "sim/simconf.h"
#include "tests/unit/test.h"

static int parse(const char *text, struct simconf *ret, struct json_schema_errors *errors,
                 struct hai_err *err) {
    return simconf_parse(text, strlen(text), "s.yaml", ret, errors, err);
}

TEST(the_default_is_the_test_cluster)
{
    struct simconf conf;
    struct entry_cluster_set set;
    struct hai_err err = {0};

    simconf_init(&conf);
    simconf_entry(&conf, &set);
    CHECK_EQ(set.zones.n, 2);
    CHECK_EQ(set.leaves.n, 16);
    CHECK_EQ(set.nodes.n, 320);
    CHECK_EQ(set.cross_zone_jobs, 1);
    CHECK_EQ(schema_check(entry_cluster_set_schema(), &set, &err), 0, "%s", err.text);
    schema_free(entry_cluster_set_schema(), &set);
    simconf_free(&conf);
}

TEST(nodes_spread_over_zones_and_leaves)
{
    struct simconf conf;
    struct entry_cluster_set set;
    struct hai_err err = {0};

    CHECK_EQ(parse("cluster: {zones: 3, leaf_nodes: 4, nodes: 14, gpus: 4}\n"
                   "policy: {cross_zone_jobs: 7}\n"
                   "failures: {per_1000_node_days: 6.5}\n",
                   &conf, NULL, &err),
             0, "%s", err.text);
    CHECK_EQ(conf.failure_rate, 6500000);
    CHECK_EQ(simconf_n_nodes(&conf), 14);
    simconf_entry(&conf, &set);
    CHECK_EQ(set.nodes.n, 14);
    CHECK_EQ(set.leaves.n, 5); // for 5, 5 and 4 nodes
    CHECK_STR(set.nodes.items[4].name, "a5");
    CHECK_STR(set.leaves.items[set.nodes.items[4].leaf].name, "a-leaf2");
    CHECK_STR(set.nodes.items[13].name, "c4");
    CHECK_EQ(set.cross_zone_jobs, 7);
    schema_free(entry_cluster_set_schema(), &set);
    CHECK_EQ(simconf_nodes(&conf, 3, &err), 0);
    CHECK_EQ(simconf_n_nodes(&conf), 3);
    simconf_free(&conf);
}

static const struct {
    const char *text;
    const char *where, *says;
} bad[] = {
    {"cluster: {zones: 0}\n",                       "s.yaml:1:18", "zones is 0; expected 1 to 16"    },
    {"cluster: {node: 3}\n",                        "s.yaml:1:11", "unknown field 'node'"            },
    {"agents:\n  start: 10\n",                      "s.yaml:2:10", "a duration with a unit"          },
    {"quotas: [{user: u, priority: 7, gpus: 1}]\n", "s.yaml:1:9",  "priority is 7; expected 50, 40"  },
    {"jobs: {time_limit: maybe}\n",                 "s.yaml:1:20", "expected none, estimate or exact"},
    {"jobs: {priorities: [10, 20]}\n",              "s.yaml:1:20", "three levels"                    },
    {"jobs: {priorities: [10, 20, 35]}\n",          "s.yaml:1:20", "priority is 35"                  },
    {"cluster: {leaves: 4000, leaf_nodes: 10}\n",   "s.yaml:1:19", "more than 20000 nodes"           },
    {"failures: {per_1000_node_days: much}\n",      "s.yaml:1:32", "per_1000_node_days is 'much'"    },
    {"failures: {per_1000_node_days: -1}\n",        "s.yaml:1:32", "expected a number from 0"        },
    {"failures: {file: /nonexistent.csv}\n",        "s.yaml:1:18", "/nonexistent.csv"                },
    {"failures: {source: llama3}\n",                "s.yaml:1:20", "which rows of a file count"      },
    {"lose: [{what: b}]\n",                         "s.yaml:1:8",  "at"                              },
    {"[]\n",                                        "s.yaml:1:1",  ""                                },
    {"cluster: {zones: 2\n",                        "",            ""                                },
};

TEST(bad_descriptions_are_refused_with_their_place)
{
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct json_schema_errors errors = {0};
        struct simconf conf;
        struct hai_err err = {0};
        CHECK(parse(bad[i].text, &conf, &errors, &err) < 0, "%s", bad[i].text);
        CHECK(!bad[i].where[0] || hai_streq(err.where, bad[i].where), "%s: %s: %s", bad[i].text,
              err.where, err.text);
        CHECK(strstr(err.text, bad[i].says), "%s: %s", bad[i].text, err.text);
        simconf_free(&conf);
    }
}

TEST(all_errors_are_told)
{
    struct json_schema_errors errors = {0};
    struct simconf conf;
    struct hai_err err = {0};

    CHECK(parse("jobs: {priorities: [1]}\ncluster: {leaves: 4000, leaf_nodes: 10}\n", &conf,
                &errors, &err) < 0);
    CHECK_EQ(errors.n, 2);
    simconf_free(&conf);
}

static const struct {
    const char *text;
    int r;
    int64_t at_s, for_s;
} losses[] = {
    {"b@3d:12h", 0,       3 * 86400, 12 * 3600},
    {"a1@0s",    0,       0,         -1       },
    {"b",        -EINVAL, 0,         0        },
    {"@3d",      -EINVAL, 0,         0        },
    {"b@",       -EINVAL, 0,         0        },
    {"b@3",      -EINVAL, 0,         0        },
    {"b@3d:",    -EINVAL, 0,         0        },
    {"b@3d:0s",  -ERANGE, 0,         0        },
};

TEST(losses_on_the_command_line)
{
    for (size_t i = 0; i < ARRAY_SIZE(losses); i++) {
        struct simconf conf;
        struct hai_err err = {0};
        simconf_init(&conf);
        CHECK_EQ(simconf_lose(&conf, losses[i].text, &err), losses[i].r, "%s", losses[i].text);
        CHECK_EQ(conf.r.lose.n, losses[i].r == 0);
        if (conf.r.lose.n) {
            CHECK_EQ(conf.r.lose.items[0].at_us, losses[i].at_s * FIXED_ONE);
            CHECK_EQ(conf.r.lose.items[0].for_us,
                     losses[i].for_s < 0 ? S_ABSENT : losses[i].for_s * FIXED_ONE);
        } else {
            CHECK(err.text[0]);
        }
        simconf_free(&conf);
    }
}
