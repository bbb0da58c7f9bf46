#include "lib/fileio.h"
#include "scheduler/cluster.h"
#include "scheduler/core/apply.h"
#include "scheduler/ranges.h"
#include "tests/unit/test.h"

#include "lib/pure/tlv.h"

static const struct {
    const char *text;
    size_t n;
    const char *first, *last;
    int r;
} ranges[] = {
    {"a1",                1,    "a1",      "a1",      0      },
    {"gpu[0001-1250]",    1250, "gpu0001", "gpu1250", 0      },
    {"a[1-2],b7",         3,    "a1",      "b7",      0      },
    {"r[1-2]n[09-11]",    6,    "r1n09",   "r2n11",   0      },
    {"a[1,3,5-6].x",      4,    "a1.x",    "a6.x",    0      },
    {"a[8-10]",           3,    "a8",      "a10",     0      },
    {"",                  0,    NULL,      NULL,      -EINVAL},
    {"a,",                0,    NULL,      NULL,      -EINVAL},
    {"a[1-",              0,    NULL,      NULL,      -EINVAL},
    {"a[2-1]",            0,    NULL,      NULL,      -EINVAL},
    {"a[]",               0,    NULL,      NULL,      -EINVAL},
    {"a[1,]",             0,    NULL,      NULL,      -EINVAL},
    {"a b",               0,    NULL,      NULL,      -EINVAL},
    {"a/b",               0,    NULL,      NULL,      -EINVAL},
    {"a\n[1-2]",          0,    NULL,      NULL,      -EINVAL},
    {"[1-2]\xc3\xa4",     0,    NULL,      NULL,      -EINVAL},
    {"a]",                0,    NULL,      NULL,      -EINVAL},
    {"a[1-99999]",        0,    NULL,      NULL,      -ERANGE},
    {"a[1-999999999999]", 0,    NULL,      NULL,      -EINVAL},
};

TEST(ranges)
{
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        SCHEMA_LIST(char *) names = {0};
        struct hai_err err = {0};
        int r = ranges_expand(ranges[i].text, 20000, (struct schema_list *)&names, &err);
        CHECK_EQ(r, ranges[i].r, "%s", ranges[i].text);
        if (r == 0 && ranges[i].r == 0) {
            CHECK_EQ(names.n, ranges[i].n, "%s", ranges[i].text);
            CHECK_STR(names.items[0], ranges[i].first);
            CHECK_STR(names.items[names.n - 1], ranges[i].last);
        }
        for (size_t n = 0; n < names.n; n++)
            free(names.items[n]);
        free(names.items);
    }
}

TEST(the_example_is_a_cluster)
{
    struct cluster_file file;
    struct entry_cluster_set entry;
    struct hai_err err = {0};

    CHECK_EQ(cluster_read("etc/cluster.example.yaml", &file, NULL, &err), 0, "%s: %s", err.where,
             err.text);
    if (err.r)
        return;
    CHECK_EQ(cluster_entry(&file, false, &entry, &err), 0, "%s", err.text);
    CHECK_EQ(entry.nodes.n, 1266);
    CHECK_EQ(entry.leaves.n, 15 + 17 + 1);
    CHECK_EQ(entry.groups.n, 3);
    CHECK_EQ(entry.groups.items[1].nodes.n, 5);
    CHECK_EQ(entry.groups.items[1].nodes.items[4], 600);
    CHECK(entry.fence);
    /* What the entry says is what the state then is. */
    _cleanup_(state_freep) struct state *state = state_new();
    _cleanup_(buf_free) struct buf payload = {0};
    struct apply_reply reply;
    tlv_encode(entry_cluster_set_schema(), &entry, &payload);
    struct entry e = {.index = 1,
                      .term = 1,
                      .time_us = 1,
                      .principal = "system:hai",
                      .kind = ENTRY_CLUSTER_SET,
                      .version = 1,
                      .payload = payload.data,
                      .payload_bytes = payload.n_bytes};
    CHECK(!cluster_same(state, &entry));
    CHECK_EQ(apply_entry(state, &e, NULL, &reply), 0, "%s", reply.err.text);
    CHECK(cluster_same(state, &entry));
    LIST_ADD(&entry.zones)->name = hai_strdup("new");
    CHECK(!cluster_same(state, &entry), "a zone that has no nodes yet");
    entry.zones.n--;
    free(entry.zones.items[entry.zones.n].name);
    CHECK(cluster_same(state, &entry));
    entry.nodes.items[7].nvlink = 4;
    CHECK(!cluster_same(state, &entry), "linked otherwise");
    entry.nodes.items[7].nvlink = 2;
    CHECK(cluster_same(state, &entry));
    entry.nodes.items[7].gpus = 4;
    CHECK(!cluster_same(state, &entry));
    schema_free(entry_cluster_set_schema(), &entry);
    schema_free(cluster_file_schema(), &file);
}

static const struct {
    const char *text;
    const char *where;
    const char *message;
} bad[] = {
    {"version: 1\nname: x\nzones: [{name: a}]\nnodes:\n  - {names: n1, zone: z}\n",      ":5:23",
     "zone z is not among zones"                                                                         },
    {"version: 1\nname: x\nzones: [{name: a}]\nnodes: [{names: \"n[1-2]\", zone: a},\n"
     "  {names: n2, zone: a}]\n",                                                   ":5:11", "n2"   },
    {"version: 1\nname: x\nzones: [{name: a}]\nnodes: [{names: n1, zone: a}]\n"
     "groups:\n  - {name: g, nodes: n9}\n",                                         ":6:22", "n9"   },
    {"version: 1\nname: x\nzones: [{name: a}]\nnodes: [{names: n1, zone: a, gpu: 2}]\n", ":4:30",
     "'gpu'"                                                                                             },
    {"version: 1\nname: x\nzones: [{name: a}, {name: a}]\nnodes: []\n",                  ":3:27", "twice"},
    {"version: 1\nname: x\nzones: [{name: a}]\nnodes: []\nnode_silence: 10\n",           ":5:15",
     "node_silence"                                                                                      },
};

TEST(errors_have_a_place)
{
    _cleanup_free_ char *dir = hai_strdup("/tmp/hai-test-cluster-XXXXXX");
    CHECK(mkdtemp(dir) != NULL);
    _cleanup_free_ char *path = hai_asprintf("%s/c.yaml", dir);

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct json_schema_errors errors = {0};
        struct cluster_file file;
        struct hai_err err = {0};
        CHECK_EQ(fileio_replace(path, bad[i].text, strlen(bad[i].text), 0600, NULL), 0);
        CHECK(cluster_read(path, &file, &errors, &err) < 0, "%s", bad[i].text);
        CHECK(errors.n >= 1, "case %zu", i);
        CHECK(strstr(errors.items[0].where, bad[i].where), "case %zu: %s", i,
              errors.items[0].where);
        CHECK(strstr(errors.items[0].text, bad[i].message), "case %zu: %s", i,
              errors.items[0].text);
    }
    CHECK_EQ(fileio_remove_tree(dir, NULL), 0);
}

static void append_user(struct state *state, const struct entry_user_set *user) {
    _cleanup_(buf_free) struct buf payload = {0};
    struct apply_reply reply;

    tlv_encode(entry_user_set_schema(), user, &payload);
    struct entry e = {.index = 1,
                      .term = 1,
                      .time_us = 1,
                      .principal = "system:hai",
                      .kind = ENTRY_USER_SET,
                      .version = 1,
                      .payload = payload.data,
                      .payload_bytes = payload.n_bytes};
    CHECK_EQ(apply_entry(state, &e, NULL, &reply), 0, "%s", reply.err.text);
}

TEST(jobs_are_billed_to_nobody_elses_team)
{
    static const struct {
        const char *user, *team;
        bool may;
    } cases[] = {
        {"alice", "nlp",    true }, // as the file says
        {"alice", "alice",  false},
        {"alice", "free",   false},
        {"carol", "carol",  true }, // has no team in the file
        {"carol", "free",   true },
        {"carol", "nlp",    false}, // alice's
        {"carol", "alice",  false},
        {"carol", "bob",    false}, // a user of the state, and so his own team
        {"carol", "vision", false}, // a team with a quota
        {"carol", "dave",   true }, // a user's quota, who is no user
        {"bob",   "bob",    true },
        {"bob",   "carol",  false},
    };
    struct cluster_user users[] = {
        {.name = (char *)"alice", .team = (char *)"nlp"},
        {.name = (char *)"carol"                      }
    };
    struct cluster_file file = {
        .users = {.items = users, .n = ARRAY_SIZE(users)}
    };
    struct entry_user_set bob = {(char *)"bob", 2000, 2000, SCOPE_SUBMIT, false, S_ABSENT};
    struct state_quota quotas[] = {
        {QUOTA_HOLDER_USER, (char *)"dave",   (char *)"default", 30, 4},
        {QUOTA_HOLDER_TEAM, (char *)"vision", (char *)"default", 30, 4}
    };
    struct state *state = state_new();

    append_user(state, &bob);
    state->quotas = quotas;
    state->n_quotas = ARRAY_SIZE(quotas);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        CHECK_EQ(cluster_may_name_team(&file, state, cases[i].user, cases[i].team), cases[i].may,
                 "%s %s", cases[i].user, cases[i].team);
    state->quotas = NULL;
    state->n_quotas = 0;
    state_free(state);
}
