#include "lib/pure/errline.h"
#include "tests/unit/test.h"

TEST(errors_carry_context)
{
    struct hai_err err = {0};
    CHECK_EQ(hai_fail(&err, -EINVAL, "priority is %d", 35), -EINVAL);
    CHECK_STR(err.code, "invalid");
    hai_err_prefix(&err, "job %d: ", 7);
    CHECK_STR(err.text, "job 7: priority is 35");
    hai_fail(&err, err.r, "outer: %s", err.text);
    CHECK_STR(err.text, "outer: job 7: priority is 35");
}

TEST(a_line_says_the_field_once)
{
    static const struct {
        const char *where, *text, *line;
    } cases[] = {
        {"",                "it failed",                               "it failed"                    },
        {"bad.yaml:8:11",   "priority is 35",                          "bad.yaml:8:11: priority is 35"},
        {"priority",        "priority is 31",                          "priority is 31"               },
        {"length_s",        "length_s is 0; expected 1",               "length_s is 0; expected 1"    },
        {"after",           "after.ok is 99",                          "after.ok is 99"               },
        {"group",           "there is no group x",                     "group: there is no group x"   },
        {"priority",        "priority",                                "priority: priority"           },
        {"nodes",           "nodesets is 3",                           "nodes: nodesets is 3"         },
        {"resources.ranks", "ranks is 0",                              "resources.ranks is 0"         },
        {"ranks",           "resources.ranks is 0",                    "resources.ranks is 0"         },
        {"jobs[3].name",    "name is X",                               "jobs[3].name is X"            },
        {"jobs[3].name",    "user is X",                               "jobs[3].name: user is X"      },
        {"--priority",      "priority is 31",                          "--priority is 31"             },
        {"--gpus-per-node", "resources.gpus_per_node is 99; expected",
         "--gpus-per-node is 99; expected"                                                            },
        {"--begin",         "not_before is 6pm",                       "--begin is 6pm"               },
        {"--group",         "there is no group x",                     "--group: there is no group x" },
        {"--env",           "unknown field 'x_y'",                     "--env: unknown field 'x_y'"   },
    };
    char line[ERRLINE_BYTES];

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct hai_err err = {0};
        hai_fail_at(&err, -EINVAL, NULL, cases[i].where, NULL, "%s", cases[i].text);
        CHECK_STR(errline_text(&err, line), cases[i].line);
    }
}

TEST(distance)
{
    CHECK_EQ(hai_distance("gpu_per_node", "gpus_per_node"), 1);
    CHECK_EQ(hai_distance("", "abc"), 3);
    CHECK_EQ(hai_distance("same", "same"), 0);
}

TEST(a_proposal_is_near)
{
    static const struct {
        const char *word, *name;
        int distance; // -1: not proposed
    } cases[] = {
        {"gpu_per_node", "gpus_per_node", 1 },
        {"lsit",         "list",          2 },
        {"setps",        "steps",         2 },
        {"lrr",          "lr",            1 },
        {"user",         "set",           -1},
        {"foo",          "hold",          -1},
        {"foo",          "json",          -1},
        {"x",            "",              -1},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int best = INT_MAX;
        CHECK_EQ(hai_nearer(cases[i].word, cases[i].name, &best), cases[i].distance >= 0, "%s",
                 cases[i].word);
        CHECK_EQ(best, cases[i].distance < 0 ? INT_MAX : cases[i].distance, "%s", cases[i].word);
        CHECK(!hai_nearer(cases[i].word, cases[i].name, &best) || cases[i].distance < 0);
    }
}
