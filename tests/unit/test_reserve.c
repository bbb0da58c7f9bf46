/* Reservations: nodes kept for some users, or for nobody, for a time. */
#include "scheduler/core/forecast.h"
#include "scheduler/core/reserve.h"
#include "scheduler/core/spare.h"
#include "scheduler/core/why.h"
#include "tests/unit/core_steps.h"

/* Three nodes with 2 GPUs each, a1 to a3, and the users alice and bob. */
static void setup(struct world *w) {
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 3,
                                    .gpus = 2,
                                    .cpus = 8,
                                    .min_run_us = S(600)};
    struct entry_user_set user = {(char *)"alice", 1000, 1000, SCOPE_SUBMIT, false};

    world_init(w);
    world_cluster(w, &cluster);
    CHECK_EQ(world_append(w, "admin:root", ENTRY_USER_SET, &user), 0);
    user.name = (char *)"bob";
    CHECK_EQ(world_append(w, "admin:root", ENTRY_USER_SET, &user), 0);
}

/* nodes, users: words; times in seconds from now, 0: absent. */
static int reserve(struct world *w, const char *name, const char *nodes, const char *users,
                   int64_t from_s, int64_t until_s) {
    _cleanup_free_ char *words = hai_asprintf("%s\n%s", nodes, users);
    struct entry_reserve_set in;
    bool is_user = false;

    schema_init(entry_reserve_set_schema(), &in);
    in.name = (char *)name;
    in.from_us = from_s ? w->now_us + S(from_s) : S_ABSENT;
    in.until_us = until_s ? w->now_us + S(until_s) : S_ABSENT;
    for (char *at = words; *at;) {
        size_t n = strcspn(at, " \n");
        bool ends = at[n] == '\n', last = !at[n];
        at[n] = 0;
        if (n && is_user)
            *LIST_ADD(&in.users) = at;
        else if (n)
            *LIST_ADD(&in.nodes) = at;
        is_user |= ends;
        at += n + !last;
    }
    int r = world_append(w, "operate:root", ENTRY_RESERVE_SET, &in);
    free(in.nodes.items);
    free(in.users.items);
    return r;
}

static int unreserve(struct world *w, const char *name) {
    struct entry_reserve_remove in = {(char *)name};

    return world_append(w, "operate:root", ENTRY_RESERVE_REMOVE, &in);
}

static int64_t submit_in(struct world *w, const char *user, const char *reservation, int64_t nodes,
                         int64_t gpus) {
    struct entry_job_spec spec = world_spec();

    spec.user = (char *)user;
    spec.reservation = (char *)reservation;
    spec.nodes = nodes;
    spec.gpus_per_node = gpus;
    return world_submit(w, &spec);
}

static int64_t reserved_on(struct world *w, const char *node) {
    return w->state->nodes[state_node_find(w->state, node)]->reserved;
}

/* Jobs of two GPUs on all nodes, started; returns the one on a node. */
static int64_t fill(struct world *w, const char *node) {
    int64_t found = 0;

    for (int i = 0; i < 3; i++)
        CHECK(submit(w, 1, 2, 1) > 0);
    CHECK_EQ(world_decide(w), 3);
    for (int64_t id = 1; id <= 3; id++) {
        all_started(w, id);
        if (hai_streq(node_of(w, id, 0), node))
            found = id;
    }
    return found;
}

TEST(maintenance_begins_and_ends_by_itself)
{
    struct world w;
    struct why why;

    setup(&w);
    int64_t id = fill(&w, "a2");
    CHECK_EQ(reserve(&w, "upgrade", "a2", "", 100, 500), 0, "%s", w.reply.err.text);
    CHECK_EQ(reserved_on(&w, "a2"), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RUNNING);
    check_same(&w);
    world_pass(&w, S(101));
    CHECK_EQ(reserved_on(&w, "a2"), 1);
    CHECK_EQ(reserved_on(&w, "a1"), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUSPENDING);
    CHECK_EQ(job_at(&w, id)->r.reason, REASON_MAINTENANCE);
    CHECK(
        strstr(job_at(&w, id)->r.message, "gives way to maintenance upgrade, until 2001-09-09T01:"),
        "%s", job_at(&w, id)->r.message);
    CHECK_EQ(job_at(&w, id)->r.phase, DESIRED_PHASE_TERM);
    CHECK_EQ(job_at(&w, id)->r.gave_way, S_ABSENT); // not for another job
    check_same(&w);
    w.now_us += S(3);
    all_left(&w, id);
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUSPENDED);
    CHECK(job_at(&w, id)->r.save_us >= S(3)); // its next grace is measured from this
    CHECK_EQ(world_decide(&w), 0);            // a2 is free and not for it
    why_job(w.state, job_at(&w, id), &why);
    CHECK_STR(why.code, "resources");
    CHECK(
        strstr(why.message, "2 nodes are full, 1 node is reserved (upgrade, until 2001-09-09T01:"),
        "%s", why.message);
    check_same(&w);
    world_pass(&w, S(396)); // past its end
    CHECK_EQ(reserved_on(&w, "a2"), 0);
    CHECK_EQ(w.state->n_reserves, 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STARTING); // by itself
    CHECK_STR(node_of(&w, id, 0), "a2");
    CHECK_EQ(job_at(&w, id)->r.restarts, 0);
    check_same(&w);
    world_free(&w);
}

TEST(those_who_give_way_go_on_elsewhere)
{
    struct world w;

    setup(&w);
    int64_t id = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    _cleanup_free_ char *was = hai_strdup(node_of(&w, id, 0));
    CHECK_EQ(reserve(&w, "demo", was, "bob", 0, 0), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUSPENDING);
    CHECK_EQ(job_at(&w, id)->r.reason, REASON_RESERVED);
    CHECK_STR(job_at(&w, id)->r.message, "gives way to reservation demo, until it is removed");
    all_left(&w, id);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STARTING);
    CHECK(!hai_streq(node_of(&w, id, 0), was));
    check_same(&w);
    world_free(&w);
}

TEST(a_gang_leaves_whole_and_an_attempt_that_starts_too)
{
    struct world w;

    setup(&w);
    int64_t gang = submit(&w, 2, 2, 1), small = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 2);
    all_started(&w, gang);
    CHECK_EQ(reserve(&w, "m", "a1 a2 a3 a1", "", 0, 50), 0, "%s", w.reply.err.text);
    CHECK_EQ(w.state->reserves[0].nodes.n, 3); // each once
    CHECK_EQ(state_of(&w, gang), JOB_STATE_SUSPENDING);
    CHECK_EQ(state_of(&w, small), JOB_STATE_SUSPENDING);
    all_left(&w, gang);
    all_left(&w, small);
    CHECK_EQ(world_decide(&w), 0);
    struct why why;
    why_job(w.state, job_at(&w, gang), &why);
    CHECK_STR(why.code, "reserved");
    CHECK(strstr(why.message, "; too few are left; 3 nodes are reserved (m, until 2001-"), "%s",
          why.message);
    world_pass(&w, S(51));
    CHECK_EQ(state_of(&w, gang), JOB_STATE_STARTING);
    CHECK_EQ(state_of(&w, small), JOB_STATE_STARTING);
    world_free(&w);
}

TEST(a_person_may_suspend_what_a_reservation_suspended)
{
    struct world w;

    setup(&w);
    int64_t id = fill(&w, "a1");
    CHECK_EQ(reserve(&w, "m", "a1", "", 0, 50), 0);
    CHECK_EQ(suspend(&w, id), 0);
    all_left(&w, id);
    world_pass(&w, S(60));
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUSPENDED);
    CHECK_EQ(resume(&w, id), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STARTING);
    check_same(&w);
    world_free(&w);
}

TEST(a_job_of_a_reservation_runs_there_and_only_then)
{
    struct world w;
    struct why why;

    setup(&w);
    CHECK_EQ(reserve(&w, "demo", "a3", "bob", 100, 200), 0);
    int64_t in = submit_in(&w, "bob", "demo", 1, 2);
    CHECK(in > 0, "%s", w.reply.err.text);
    CHECK_EQ(world_decide(&w), 0); // all is free, but it has not begun
    why_job(w.state, job_at(&w, in), &why);
    CHECK_STR(why.code, "reservation");
    CHECK(strstr(why.message, "waits for reservation demo, which begins at 2001-09-09T01:"), "%s",
          why.message);
    int64_t other = submit_in(&w, "bob", NULL, 1, 2); // behind it, and not kept up by it
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, other), JOB_STATE_STARTING);
    check_same(&w);
    world_pass(&w, S(101));
    CHECK_EQ(state_of(&w, in), JOB_STATE_STARTING);
    CHECK_STR(node_of(&w, in, 0), "a3");
    all_started(&w, in);
    int64_t second = submit_in(&w, "bob", "demo", 1, 1); // a1 or a2 would have room
    CHECK_EQ(world_decide(&w), 0);
    why_job(w.state, job_at(&w, second), &why);
    CHECK(strstr(why.message, "needs 1 node with 1 free GPU of reservation demo in group default; "
                              "1 node is full"),
          "%s", why.message);
    check_same(&w);
    world_pass(&w, S(100)); // over: what runs goes on, what waits is like any other
    CHECK_EQ(state_of(&w, in), JOB_STATE_RUNNING);
    CHECK_EQ(job_at(&w, in)->r.reserve, S_ABSENT);
    CHECK_EQ(state_of(&w, second), JOB_STATE_STARTING);
    check_same(&w);
    world_free(&w);
}

TEST(in_strict_order_a_reservation_and_its_group_do_not_block_each_other)
{
    struct world w;

    small_cluster(&w, 1, 3); // jobs share no time
    struct entry_user_set user = {(char *)"bob", 1000, 1000, SCOPE_SUBMIT, false};
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &user), 0);
    CHECK_EQ(reserve(&w, "demo", "a2 a3", "bob", 0, 0), 0);
    int64_t held = submit_in(&w, "bob", "demo", 1, 1);
    CHECK_EQ(world_decide(&w), 1);
    int64_t first = submit_in(&w, "bob", "demo", 2, 2); // waits for held
    int64_t behind = submit_in(&w, "bob", "demo", 1, 1);
    int64_t outside = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, held), JOB_STATE_STARTING);
    CHECK_EQ(state_of(&w, first), JOB_STATE_QUEUED);
    CHECK_EQ(state_of(&w, behind), JOB_STATE_QUEUED);
    CHECK_EQ(state_of(&w, outside), JOB_STATE_STARTING);
    struct why why;
    why_job(w.state, job_at(&w, behind), &why);
    CHECK_EQ(why.ahead, first);
    int64_t waits = submit(&w, 1, 2, 1), in;
    CHECK_EQ(stop(&w, "operate:root", first, false), 0);
    in = behind; // nobody of the reservation is ahead, and waits does not count
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, in), JOB_STATE_STARTING);
    CHECK_EQ(state_of(&w, waits), JOB_STATE_QUEUED);
    world_free(&w);
}

TEST(who_may_not_is_refused)
{
    static const struct {
        const char *user, *reservation;
        int64_t nodes;
        int r;
        const char *code, *text;
    } cases[] = {
        {"bob",   "demo", 1, 0,       "",                    ""                                  },
        {"alice", "demo", 1, -EACCES, "denied",              "alice may not use reservation demo"},
        {"bob",   "fix",  1, -EACCES, "denied",
         "reservation fix is for maintenance; no job may use it"                                 },
        {"bob",   "none", 1, -EINVAL, "unknown_reservation",
         "there is no reservation none, or it is over"                                           },
        {"bob",   "demo", 2, -EINVAL, "impossible",
         "needs 2 nodes with 1 GPU and 1 CPU each; group default has 1 such node in its "
         "reservation"                                                                           },
    };
    struct world w;

    setup(&w);
    CHECK_EQ(reserve(&w, "demo", "a3", "bob", 100, 200), 0);
    CHECK_EQ(reserve(&w, "fix", "a1", "", 0, 0), 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int64_t id = submit_in(&w, cases[i].user, cases[i].reservation, cases[i].nodes, 1);
        CHECK_EQ(MIN(id, 0), cases[i].r, "%s", w.reply.err.text);
        CHECK_STR(w.reply.err.code, cases[i].code);
        CHECK_STR(w.reply.err.text, cases[i].text);
    }
    struct entry_job_spec spec = world_spec();
    struct why why;
    struct hai_err err = {0};
    spec.user = (char *)"alice";
    spec.group = (char *)"default";
    spec.reservation = (char *)"demo";
    CHECK_EQ(why_spec(w.state, &spec, SCOPE_SUBMIT, &why, &err),
             -EACCES); // --dry-run says the same
    world_free(&w);
}

TEST(bad_reservations_are_refused)
{
    static const struct {
        const char *name, *nodes, *users;
        int64_t from_s, until_s;
        int r;
        const char *text;
    } cases[] = {
        {"x",    "a9",    "",    0,   0,   -ENOENT, "there is no node a9 in the cluster file"     },
        {"x",    "",      "",    0,   0,   -EINVAL, "reservation x has no nodes"                  },
        {"x",    "a1",    "zoe", 0,   0,   -EINVAL, "there is no user zoe"                        },
        {"x",    "a1",    "",    100, 100, -EINVAL, "reservation x would be over before it begins"},
        {"x",    "a1",    "",    0,   -5,  -EINVAL, "reservation x would be over before it begins"},
        {"x",    "a1",    "",    50,  101, -EEXIST, "a1 is reserved by demo from"                 },
        {"x",    "a1",    "",    199, 0,   -EEXIST, "a1 is reserved by demo from"                 },
        {"x",    "a1",    "",    0,   0,   -EEXIST, "a1 is reserved by demo from"                 },
        {"y",    "a1",    "",    50,  100, 0,       ""                                            },
        {"z",    "a1",    "",    200, 0,   0,       ""                                            },
        {"a2",   "a2",    "",    0,   0,   0,       ""                                            },
        {"demo", "a1",    "bob", 90,  200, -EEXIST, "a1 is reserved by y from"                    },
        {"demo", "a1 a3", "bob", 100, 150, 0,       ""                                            },
    };
    struct world w;

    setup(&w);
    w.now_us = S(1000000000) + S(10);
    CHECK_EQ(reserve(&w, "demo", "a1", "bob", 100, 200), 0);
    int64_t now_us = w.now_us;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        w.now_us = now_us; // the clock moves on by microseconds only
        CHECK_EQ(reserve(&w, cases[i].name, cases[i].nodes, cases[i].users, cases[i].from_s,
                         cases[i].until_s),
                 cases[i].r, "case %zu: %s", i, w.reply.err.text);
        CHECK(!strncmp(w.reply.err.text, cases[i].text, strlen(cases[i].text)), "case %zu: %s", i,
              w.reply.err.text);
    }
    struct entry_reserve_remove in = {(char *)"demo"};
    CHECK_EQ(world_append(&w, "submit:bob", ENTRY_RESERVE_REMOVE, &in), -EACCES);
    struct entry_reserve_set set = {.name = (char *)"q", .from_us = S_ABSENT, .until_us = S_ABSENT};
    CHECK_EQ(world_append(&w, "submit:bob", ENTRY_RESERVE_SET, &set), -EACCES);
    CHECK_EQ(unreserve(&w, "demo"), 0);
    CHECK_EQ(unreserve(&w, "demo"), -ENOENT);
    CHECK_EQ(w.state->r.last_reserve, 4);
    check_same(&w);
    world_free(&w);
}

TEST(a_reservation_is_changed_in_place)
{
    struct world w;

    setup(&w);
    CHECK_EQ(reserve(&w, "demo", "a1 a2", "alice bob", 0, 500), 0);
    int64_t number = w.reply.id;
    int64_t one = submit_in(&w, "bob", "demo", 1, 2), two = submit_in(&w, "alice", "demo", 1, 2);
    CHECK_EQ(world_decide(&w), 2);
    all_started(&w, one);
    all_started(&w, two);
    int64_t waits = submit_in(&w, "alice", "demo", 1, 2);
    struct state_reserve before = w.state->reserves[0];
    CHECK_EQ(world_decide(&w), 0);
    /* Nothing new: nothing happens. */
    w.now_us = before.until_us - S(500);
    CHECK_EQ(reserve(&w, "demo", "a2 a1", "alice bob", 0, 500), 0);
    CHECK(w.reply.changed == false);
    /* Bob has it alone, on other nodes: alice's jobs are like any others. */
    CHECK_EQ(reserve(&w, "demo", "a2 a3", "bob", 0, 900), 0, "%s", w.reply.err.text);
    CHECK_EQ(w.reply.id, number);
    CHECK_EQ(w.state->n_reserves, 1);
    CHECK_EQ(reserved_on(&w, "a1"), 0);
    CHECK_EQ(reserved_on(&w, "a2"), number);
    CHECK_EQ(reserved_on(&w, "a3"), number);
    CHECK_EQ(job_at(&w, one)->r.reserve, number);
    CHECK_EQ(job_at(&w, two)->r.reserve, S_ABSENT);
    CHECK_EQ(job_at(&w, waits)->r.reserve, S_ABSENT);
    CHECK_EQ(state_of(&w, one), JOB_STATE_RUNNING);
    CHECK_EQ(state_of(&w, two),
             hai_streq(node_of(&w, two, 0), "a2") ? JOB_STATE_SUSPENDING : JOB_STATE_RUNNING);
    check_same(&w);
    CHECK_EQ(unreserve(&w, "demo"), 0);
    CHECK_EQ(reserved_on(&w, "a2"), 0);
    CHECK_EQ(job_at(&w, one)->r.reserve, S_ABSENT);
    check_same(&w);
    world_free(&w);
}

/* A gang has three nodes, and was asked to leave them to a more important one. Returns that. */
static int64_t claimed(struct world *w, int64_t *ret_low) {
    struct entry_job_spec spec = world_spec();

    setup(w);
    spec.priority = 10;
    spec.nodes = 3;
    spec.gpus_per_node = 2;
    *ret_low = world_submit(w, &spec);
    CHECK_EQ(world_decide(w), 1);
    all_started(w, *ret_low);
    world_pass(w, S(700));
    spec.priority = 50;
    int64_t high = world_submit(w, &spec);
    world_pass(w, S(41));
    CHECK_EQ(job_at(w, high)->r.claim.n, 3);
    return high;
}

TEST(claims_to_reserved_nodes_end)
{
    struct world w;

    int64_t low, high = claimed(&w, &low);
    CHECK_EQ(reserve(&w, "m", "a2", "", 0, 1000), 0);
    CHECK_EQ(job_at(&w, high)->r.claim.n, 0);
    all_left(&w, low);
    CHECK_EQ(world_decide(&w), 0);
    check_same(&w);
    world_pass(&w, S(1001));
    CHECK_EQ(state_of(&w, high), JOB_STATE_STARTING);
    world_free(&w);
}

/* The cluster with so many of its nodes. */
static void describe(struct world *w, int n_nodes) {
    struct entry_cluster_set set;

    schema_init(entry_cluster_set_schema(), &set);
    LIST_ADD(&set.zones)->name = hai_strdup("a");
    *LIST_ADD(&set.leaves) = (struct entry_leaf){.name = hai_strdup("a-leaf1")};
    struct entry_group *group = LIST_ADD(&set.groups);
    schema_init(entry_group_schema(), group);
    group->name = hai_strdup("default");
    for (int i = 0; i < n_nodes; i++) {
        *LIST_ADD(&group->nodes) = i;
        struct entry_node *node = LIST_ADD(&set.nodes);
        schema_init(entry_node_schema(), node);
        node->name = hai_asprintf("a%d", i + 1);
        node->gpus = 2;
        node->cpus = 8;
    }
    CHECK_EQ(world_append(w, "system:hai", ENTRY_CLUSTER_SET, &set), 0, "%s", w->reply.err.text);
    schema_free(entry_cluster_set_schema(), &set);
}

TEST(a_reserved_node_leaves_the_cluster_and_comes_back)
{
    struct world w;

    setup(&w);
    CHECK_EQ(reserve(&w, "m", "a2 a3", "", 0, 1000), 0);
    describe(&w, 2);
    check_same(&w);
    CHECK_EQ(reserved_on(&w, "a3"), 1);
    int64_t id = submit(&w, 2, 1, 1);
    CHECK_EQ(world_decide(&w), 0);
    describe(&w, 3);
    CHECK_EQ(reserved_on(&w, "a3"), 1);
    CHECK_EQ(world_decide(&w), 0);
    check_same(&w);
    world_pass(&w, S(1001));
    CHECK_EQ(state_of(&w, id), JOB_STATE_STARTING);
    world_free(&w);
}

TEST(what_was_due_while_nobody_served_happens_at_once)
{
    struct world w;

    setup(&w);
    CHECK_EQ(reserve(&w, "first", "a1", "bob", 10, 20), 0);
    CHECK_EQ(reserve(&w, "second", "a1", "", 20, 100), 0);
    int64_t in = submit_in(&w, "bob", "first", 1, 1);
    w.now_us += S(30); // first came and went
    world_restart(&w, true);
    CHECK_EQ(w.state->n_reserves, 1);
    CHECK_EQ(reserved_on(&w, "a1"), 2);
    CHECK_EQ(job_at(&w, in)->r.reserve, S_ABSENT);
    CHECK_EQ(world_decide(&w), 1);
    CHECK(!hai_streq(node_of(&w, in, 0), "a1"));
    check_same(&w);
    world_free(&w);
}

static int64_t submit_limited(struct world *w, int64_t nodes, int64_t limit_s) {
    struct entry_job_spec spec = world_spec();

    spec.nodes = nodes;
    spec.gpus_per_node = 2;
    spec.time_limit_us = limit_s ? S(limit_s) : S_ABSENT;
    return world_submit(w, &spec);
}

TEST(nothing_starts_where_a_reservation_comes_too_soon)
{
    struct world w;
    struct why why;

    setup(&w); // min_run is 600 s
    CHECK_EQ(reserve(&w, "fans", "a1 a2", "", 500, 1000), 0);
    int64_t gang = submit_limited(&w, 2, 0), one = submit_limited(&w, 1, 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, one, 0), "a3"); // the gang does not keep it up
    check_same(&w);
    why_job(w.state, job_at(&w, gang), &why);
    CHECK_STR(why.code, "reserved");
    CHECK(
        strstr(why.message, "; too few are left; 2 nodes are reserved (fans, from 2001-09-09T01:"),
        "%s", why.message);
    CHECK_STR(why.sooner, "with --time-limit 8m it starts now"); // 500 s and less
    int64_t long_one = submit_limited(&w, 1, 550), short_one = submit_limited(&w, 1, 400);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, long_one), JOB_STATE_QUEUED);
    CHECK_STR(node_of(&w, short_one, 0), "a1");
    why_job(w.state, job_at(&w, long_one), &why);
    CHECK_STR(why.code, "resources");
    CHECK(strstr(why.message, "; 1 node is full, 2 nodes are reserved (fans, from "), "%s",
          why.message);
    /* Later: there is time enough. Gone: too. */
    CHECK_EQ(reserve(&w, "fans", "a1 a2", "", 570, 1000), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, long_one, 0), "a2");
    all_succeed(&w, long_one);
    all_succeed(&w, short_one);
    CHECK_EQ(world_decide(&w), 0);
    check_same(&w);
    CHECK_EQ(unreserve(&w, "fans"), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, gang), JOB_STATE_STARTING);
    check_same(&w);
    world_free(&w);
}

TEST(with_time_enough_a_job_starts_and_leaves_when_it_begins)
{
    struct world w;

    setup(&w);
    CHECK_EQ(reserve(&w, "fans", "a1 a2 a3", "", 700, 1000), 0);
    int64_t gang = submit_limited(&w, 3, 0);
    CHECK_EQ(world_decide(&w), 1); // 600 s are enough where jobs share time
    all_started(&w, gang);
    world_pass(&w, S(701));
    CHECK_EQ(state_of(&w, gang), JOB_STATE_SUSPENDING);
    world_free(&w);
}

TEST(in_strict_order_only_what_ends_before_a_reservation_starts)
{
    struct entry_ckpt_committed ckpt = {.step = 1, .dir = (char *)"/ckpt"};
    struct world w;
    struct why why;

    small_cluster(&w, 1, 3); // jobs share no time
    int64_t saved = submit_limited(&w, 1, 0);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, saved);
    ckpt.job = saved;
    ckpt.epoch = job_at(&w, saved)->r.epoch;
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_CKPT_COMMITTED, &ckpt), 0, "%s",
             w.reply.err.text);
    CHECK_EQ(suspend(&w, saved), 0);
    all_left(&w, saved);
    CHECK_EQ(reserve(&w, "fans", "a1 a2 a3", "", 86400, 90000), 0);
    int64_t open = submit_limited(&w, 1, 0), week = submit_limited(&w, 1, 7 * 86400);
    int64_t hour = submit_limited(&w, 1, 3600);
    CHECK_EQ(world_decide(&w), 1); // nor does one that cannot start block those behind it
    CHECK_EQ(state_of(&w, open), JOB_STATE_QUEUED);
    CHECK_EQ(state_of(&w, week), JOB_STATE_QUEUED);
    CHECK_EQ(state_of(&w, hour), JOB_STATE_STARTING);
    why_job(w.state, job_at(&w, open), &why);
    CHECK_STR(why.sooner, "with --time-limit 23h59m it starts now");
    CHECK_EQ(resume(&w, saved), 0); // it has a checkpoint to go on from
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, saved), JOB_STATE_STARTING);
    check_same(&w);
    /* A large job waits for nodes, in front of a short one, until it would be too late for it. */
    int64_t large = submit_limited(&w, 3, 80000), behind = submit_limited(&w, 1, 600);
    CHECK_EQ(world_decide(&w), 0);
    why_job(w.state, job_at(&w, behind), &why);
    CHECK_EQ(why.ahead, large);
    world_pass(&w, S(6460)); // looked at once a minute
    CHECK_EQ(state_of(&w, behind), JOB_STATE_STARTING);
    check_same(&w);
    all_succeed(&w, behind);
    world_pass(&w, S(90000));
    CHECK_EQ(state_of(&w, open), JOB_STATE_STARTING);
    world_free(&w);
}

TEST(a_claim_to_nodes_that_are_planned_for_others_ends)
{
    struct world w;

    int64_t low, high = claimed(&w, &low);
    CHECK_EQ(reserve(&w, "far", "a3", "", 1000, 2000), 0);
    CHECK_EQ(job_at(&w, high)->r.claim.n, 3);
    CHECK_EQ(reserve(&w, "near", "a2", "", 100, 200), 0);
    CHECK_EQ(job_at(&w, high)->r.claim.n, 0);
    all_left(&w, low);
    CHECK_EQ(world_decide(&w), 0);
    check_same(&w);
    world_free(&w);
}

TEST(elements_of_an_array_run_in_its_reservation)
{
    struct entry_range range = {0, 3, 1};
    struct entry_job_spec spec = world_spec();
    struct world w;

    setup(&w);
    CHECK_EQ(reserve(&w, "demo", "a3", "alice", 0, 100), 0);
    spec.reservation = (char *)"demo";
    spec.gpus_per_node = 1;
    spec.array.items = &range;
    spec.array.n = 1;
    int64_t array = world_submit(&w, &spec);
    CHECK_EQ(world_decide(&w), 2); // as many as a3 takes
    CHECK_STR(node_of(&w, array + 1, 0), "a3");
    CHECK_STR(node_of(&w, array + 2, 0), "a3");
    check_same(&w);
    world_pass(&w, S(101));
    CHECK_EQ(state_of(&w, array + 3), JOB_STATE_STARTING);
    CHECK_EQ(state_of(&w, array + 4), JOB_STATE_STARTING);
    check_same(&w);
    world_free(&w);
}

static bool is_spare(struct world *w, const char *node) {
    _cleanup_free_ uint64_t *spares = spare_map(w->state, false);

    return spare_marked(spares, state_node_find(w->state, node));
}

TEST(a_reserved_node_is_no_spare)
{
    struct world_cluster cluster = {
        .n_zones = 1, .leaves_per_zone = 1, .nodes_per_leaf = 3, .gpus = 2, .cpus = 8, .spares = 1};
    struct world w;

    world_init(&w);
    world_cluster(&w, &cluster);
    CHECK(is_spare(&w, "a3"));
    CHECK_EQ(reserve(&w, "fans", "a3", "", 0, 100), 0);
    CHECK(is_spare(&w, "a2"));
    CHECK(!is_spare(&w, "a3"));
    /* What would fit only with the spare could wait for ever once its reservation is over. */
    struct entry_user_set user = {(char *)"bob", 1000, 1000, SCOPE_SUBMIT, false};
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &user), 0);
    CHECK_EQ(reserve(&w, "demo", "a1 a2 a3", "bob", 100, 200), 0, "%s", w.reply.err.text);
    CHECK_EQ(submit_in(&w, "bob", "demo", 3, 1), -EINVAL);
    CHECK(strstr(w.reply.err.text, "; group default has 2 such nodes beside 1 spare"), "%s",
          w.reply.err.text);
    CHECK_EQ(unreserve(&w, "demo"), 0);
    int64_t one = submit(&w, 1, 2, 1), two = submit(&w, 1, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, one, 0), "a1");
    struct why why;
    why_job(w.state, job_at(&w, two), &why);
    CHECK(strstr(why.message, "1 node is kept as a spare for recovery, 1 node is reserved (fans, "),
          "%s", why.message);
    world_pass(&w, S(101));
    CHECK_STR(node_of(&w, two, 0), "a2"); // a3 is the spare again
    world_free(&w);
}

TEST(a_gang_does_not_wait_for_leaves_that_are_reserved)
{
    struct world w;

    sharing_cluster(&w, 2, 2, 2, 600);
    int64_t held = submit(&w, 1, 2, 1); // under the first leaf
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, held, 0), "a1");
    CHECK_EQ(reserve(&w, "fans", "a3", "", 0, 5000), 0);
    int64_t gang = submit(&w, 2, 2, 1); // a2 and a4: no better while a3 is reserved, but a1 and a2
    CHECK_EQ(world_decide(&w), 0);
    CHECK_EQ(reserve(&w, "more", "a1", "", 0, 5000), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_STR(node_of(&w, gang, 0), "a2");
    CHECK_STR(node_of(&w, gang, 1), "a4");
    check_same(&w);
    world_free(&w);
}

/* Seconds from now; -1: not foreseen. */
static int64_t starts_in(struct world *w, int64_t id) {
    struct forecast_job *all;
    int64_t start_us = INT64_MAX;
    size_t n = forecast_run(w->state, w->state->r.time_us, 0, NULL, &all);

    for (size_t i = 0; i < n; i++)
        if (all[i].id == id)
            start_us = all[i].start_us;
    free(all);
    return start_us == INT64_MAX ? -1 : (start_us - w->state->r.time_us) / 1000000;
}

TEST(the_forecast_knows_reservations)
{
    struct world w;

    setup(&w);
    CHECK_EQ(reserve(&w, "fans", "a1 a2", "", 0, 5000), 0);
    CHECK_EQ(reserve(&w, "demo", "a3", "bob", 3000, 4000), 0);
    int64_t in = submit_in(&w, "bob", "demo", 1, 1), after = submit_in(&w, "bob", "demo", 2, 1);
    CHECK_EQ(after, -EINVAL); // never fits
    int64_t gang = submit(&w, 2, 1, 1), all = submit(&w, 3, 1, 1);
    CHECK_EQ(world_decide(&w), 0);
    int64_t in_s = starts_in(&w, in), gang_s = starts_in(&w, gang), all_s = starts_in(&w, all);
    CHECK(in_s >= 2999 && in_s < 3200, "%lld", (long long)in_s);
    CHECK(gang_s >= 4999 && gang_s < 5500, "%lld", (long long)gang_s);
    CHECK(all_s >= 4999 && all_s < 7000, "%lld", (long long)all_s);
    /* What runs on nodes that are taken leaves them, and so frees its others. */
    world_free(&w);
    setup(&w);
    int64_t runs = submit_limited(&w, 3, 50000);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, runs);
    CHECK_EQ(reserve(&w, "fans", "a1", "", 2000, 9000), 0);
    int64_t waits = submit(&w, 1, 2, 1);
    int64_t waits_s = starts_in(&w, waits);
    CHECK(waits_s < 2100, "%lld", (long long)waits_s);
    CHECK_EQ(world_decide(&w), 0);
    world_free(&w);
    /* In strict order a reservation that has not begun keeps nobody up, nor does what comes soon.
     */
    small_cluster(&w, 1, 3);
    struct entry_user_set user = {(char *)"bob", 1000, 1000, SCOPE_SUBMIT, false};
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &user), 0);
    CHECK_EQ(reserve(&w, "demo", "a1 a2 a3", "bob", 3000, 4000), 0);
    in = submit_in(&w, "bob", "demo", 1, 1);
    int64_t open = submit_limited(&w, 1, 0), later = submit_limited(&w, 1, 1000);
    CHECK_EQ(starts_in(&w, later), 0);
    in_s = starts_in(&w, in);
    int64_t open_s = starts_in(&w, open);
    CHECK(in_s >= 2999 && in_s < 3200, "%lld", (long long)in_s);
    CHECK(open_s >= 3999 && open_s < 4500, "%lld", (long long)open_s);
    world_free(&w);
}

/* Who leaves for a reservation stands in front of those behind it again; a second time, too. */
TEST(the_forecast_knows_that_who_leaves_comes_back)
{
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t runs = submit_limited(&w, 1, 5000);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, runs);
    int64_t next = submit_limited(&w, 1, 4000), last = submit_limited(&w, 1, 10);
    CHECK_EQ(reserve(&w, "fans", "a1", "", 2000, 3000), 0);
    CHECK_EQ(reserve(&w, "disks", "a1", "", 11000, 12000), 0);
    int64_t next_s = starts_in(&w, next), last_s = starts_in(&w, last);
    CHECK(next_s >= 6000 && next_s < 6400, "%lld", (long long)next_s);
    CHECK(last_s >= 10000 && last_s < 10900, "%lld", (long long)last_s);
    CHECK_EQ(unreserve(&w, "disks"), 0);
    CHECK_EQ(reserve(&w, "disks", "a1", "", 4000, 9000), 0);
    next_s = starts_in(&w, next);
    CHECK(next_s >= 11000 && next_s < 12300, "%lld", (long long)next_s);
    world_free(&w);
}
