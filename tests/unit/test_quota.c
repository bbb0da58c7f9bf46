/* Quotas, borrowing, priority auto, external users: each rule of scheduler/core/quota.h. */
#include "scheduler/core/forecast.h"
#include "scheduler/core/order.h"
#include "scheduler/core/quota.h"
#include "sim/quota_rules.h"
#include "tests/unit/core_steps.h"

static int give(struct world *w, enum quota_holder holder, const char *name, int64_t priority,
                int64_t gpus) {
    struct entry_quota_set in = {holder, (char *)name, (char *)"default", priority, gpus};

    return world_append(w, "operate:root", ENTRY_QUOTA_SET, &in);
}

static int give_user(struct world *w, const char *name, int64_t priority, int64_t gpus) {
    return give(w, QUOTA_HOLDER_USER, name, priority, gpus);
}

/* One node with so many GPUs. priority -1: auto. */
static int64_t ask(struct world *w, const char *user, const char *team, int64_t gpus,
                   int64_t priority) {
    struct entry_job_spec spec = world_spec();

    spec.user = (char *)user;
    spec.team = (char *)team;
    spec.gpus_per_node = gpus;
    if (priority < 0)
        spec.auto_priority = 1;
    else
        spec.priority = priority;
    return world_submit(w, &spec);
}

static bool is_over(struct world *w, int64_t id) {
    return quota_is_over(job_at(w, id));
}

static int64_t level_of(struct world *w, int64_t id) {
    return is_over(w, id) ? -job_at(w, id)->r.priority : job_at(w, id)->r.priority;
}

static void check_rules(struct world *w) {
    struct hai_err err = {0};

    CHECK_EQ(quota_rules(w->state, &err), 0, "%s", err.text);
    check_same(w);
}

static void decide(struct world *w) {
    world_decide(w);
    check_rules(w);
}

static void finish(struct world *w, int64_t id) {
    all_started(w, id);
    all_succeed(w, id);
}

/* A cluster of 4 nodes with 4 GPUs: in strict order, or sharing time with min_run of 60 s. */
static void begin(struct world *w, bool shares) {
    if (shares) {
        sharing_cluster(w, 1, 4, 4, 60);
        return;
    }
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 4,
                                    .gpus = 4,
                                    .cpus = 16,
                                    .fence = true};
    world_init(w);
    world_cluster(w, &cluster);
}

TEST(without_quotas_nothing_is_over_and_auto_is_30)
{
    struct world w;

    begin(&w, true);
    int64_t fixed = ask(&w, "alice", NULL, 4, 10), automatic = ask(&w, "alice", NULL, 4, -1);
    CHECK_EQ(level_of(&w, fixed), 10);
    CHECK_EQ(level_of(&w, automatic), 30);
    check_rules(&w);
    world_free(&w);
}

TEST(jobs_are_charged_in_the_order_of_ids)
{
    struct world w;

    begin(&w, true);
    CHECK_EQ(give_user(&w, "alice", 30, 6), 0);
    int64_t a = ask(&w, "alice", NULL, 4, 30), b = ask(&w, "alice", NULL, 4, 30),
            c = ask(&w, "alice", NULL, 2, 30), other = ask(&w, "bob", NULL, 4, 30);
    CHECK(!is_over(&w, a));
    CHECK(is_over(&w, b)); // 8 of 6
    CHECK(is_over(&w, c)); // would fit, but b comes first
    CHECK(!is_over(&w, other));
    CHECK_EQ(quota_used(w.state, QUOTA_HOLDER_USER, "alice", "default", 30), 4);
    decide(&w);
    CHECK_EQ(stop(&w, "submit:alice", a, true), 0);
    CHECK(is_over(&w, b)); // a has its nodes until its ranks are gone
    all_left(&w, a);
    CHECK(!is_over(&w, b));
    CHECK(!is_over(&w, c));
    check_rules(&w);
    world_free(&w);
}

/* One entry, and each job is charged by all that it says. */
TEST(quotas_that_are_set_together_take_effect_together)
{
    char *group = (char *)"default";
    struct entry_quota more[] = {
        {QUOTA_HOLDER_USER,  (char *)"bob", group, 30, 4},
        {QUOTA_HOLDER_TEAM,  (char *)"nlp", group, 10, 2},
        {QUOTA_HOLDER_EVERY, NULL,          group, 30, 0},
    };
    struct entry_quota_set set = {QUOTA_HOLDER_USER, (char *)"alice", group, 30, 4};
    struct world w;

    begin(&w, true);
    int64_t alice = ask(&w, "alice", NULL, 4, 30), second = ask(&w, "alice", NULL, 4, 30),
            bob = ask(&w, "bob", NULL, 4, 30), team = ask(&w, "bob", "nlp", 4, 10),
            carol = ask(&w, "carol", NULL, 2, 30), picks = ask(&w, "carol", NULL, 2, -1);
    set.more.items = more;
    set.more.n = ARRAY_SIZE(more);
    more[1].group = (char *)"nowhere";
    CHECK_EQ(world_append(&w, "operate:root", ENTRY_QUOTA_SET, &set), -EINVAL);
    CHECK_EQ(w.state->n_quotas, 0, "all or none");
    more[1].group = group;
    CHECK_EQ(world_append(&w, "operate:root", ENTRY_QUOTA_SET, &set), 0);
    CHECK_EQ(w.state->n_quotas, 4);
    CHECK(!is_over(&w, alice) && !is_over(&w, bob));
    CHECK(is_over(&w, second) && is_over(&w, team) && is_over(&w, carol));
    CHECK(level_of(&w, picks) < 30, "%d", (int)level_of(&w, picks));
    check_rules(&w);
    more[0].gpus = more[2].gpus = set.gpus = S_ABSENT;
    more[1].gpus = 8;
    CHECK_EQ(world_append(&w, "operate:root", ENTRY_QUOTA_SET, &set), 0);
    CHECK_EQ(w.state->n_quotas, 1);
    CHECK(!is_over(&w, second) && !is_over(&w, team) && !is_over(&w, carol));
    check_rules(&w);
    world_free(&w);
}

static int move(struct world *w, int64_t id, enum job_move how, int64_t before) {
    struct entry_job_set set = {id, S_ABSENT, S_ABSENT, NULL, how, before, S_ABSENT};

    return world_append(w, "submit:alice", ENTRY_JOB_SET, &set);
}

TEST(ones_own_order_is_that_in_which_jobs_are_charged)
{
    struct world w;

    begin(&w, false);
    CHECK_EQ(give_user(&w, "alice", 30, 6), 0);
    int64_t a = ask(&w, "alice", NULL, 4, 30), b = ask(&w, "alice", NULL, 4, 30),
            c = ask(&w, "alice", NULL, 4, 30), d = ask(&w, "alice", NULL, 2, 30);
    decide(&w);
    all_started(&w, a);
    CHECK(is_over(&w, d)); // would fit, but b comes first
    CHECK_EQ(move(&w, d, JOB_MOVE_FIRST, 0), 0);
    CHECK(!is_over(&w, d));
    check_rules(&w);
    CHECK_EQ(move(&w, c, JOB_MOVE_BEFORE, b), 0);
    check_rules(&w);
    all_succeed(&w, a);
    CHECK(!is_over(&w, c));
    CHECK(is_over(&w, b));
    check_rules(&w);
    world_free(&w);
}

TEST(who_is_larger_than_the_whole_quota_holds_up_nobody)
{
    struct world w;

    begin(&w, true);
    CHECK_EQ(give_user(&w, "alice", 30, 3), 0);
    int64_t large = ask(&w, "alice", NULL, 4, 30), small = ask(&w, "alice", NULL, 3, 30);
    CHECK(is_over(&w, large));
    CHECK(!is_over(&w, small));
    CHECK_EQ(give_user(&w, "alice", 30, 7), 0);
    CHECK(!is_over(&w, large));
    CHECK(!is_over(&w, small));
    check_rules(&w);
    world_free(&w);
}

TEST(the_team_counts_as_well_and_ones_own_replaces_everybodys)
{
    struct world w;

    begin(&w, true);
    CHECK_EQ(give(&w, QUOTA_HOLDER_EVERY, NULL, 30, 2), 0);
    CHECK_EQ(give(&w, QUOTA_HOLDER_TEAM, "nlp", 30, 4), 0);
    CHECK_EQ(give_user(&w, "alice", 30, 4), 0);
    int64_t a = ask(&w, "alice", "nlp", 3, 30), b = ask(&w, "bob", "nlp", 2, 30),
            c = ask(&w, "bob", "vision", 2, 30), d = ask(&w, "alice", NULL, 1, 30);
    CHECK(!is_over(&w, a)); // alice 3 of 4, nlp 3 of 4
    CHECK(is_over(&w, b));  // nlp has one left
    CHECK(!is_over(&w, c)); // bob's own has room: that another account stops b holds up nobody
    CHECK(!is_over(&w, d));
    check_rules(&w);
    decide(&w);
    finish(&w, a); // nlp has room for b, bob has not
    CHECK(is_over(&w, b));
    finish(&w, c);
    CHECK(!is_over(&w, b));
    check_rules(&w);
    world_free(&w);
}

TEST(over_quota_borrows_what_is_idle_and_gives_it_back)
{
    struct world w;

    begin(&w, true);
    CHECK_EQ(give_user(&w, "alice", 50, 4), 0);
    int64_t jobs[4];
    for (int i = 0; i < 4; i++)
        jobs[i] = ask(&w, "alice", "nlp", 4, 50);
    decide(&w);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(state_of(&w, jobs[i]), JOB_STATE_STARTING, "%d", i);
        all_started(&w, jobs[i]);
    }
    _cleanup_(map_free) struct map loans;
    quota_loans(w.state, &loans);
    CHECK_EQ(quota_borrowed(&loans, QUOTA_HOLDER_USER, "alice", "default", 50), 12);
    CHECK_EQ(quota_borrowed(&loans, QUOTA_HOLDER_USER, "alice", "default", 40), 0);
    CHECK_EQ(quota_borrowed(&loans, QUOTA_HOLDER_TEAM, "alice", "default", 50), 0);
    CHECK_EQ(quota_borrowed(&loans, QUOTA_HOLDER_TEAM, "nlp", "default", 50), 12);
    /* Bob is within quota, at a lower level: he gets back what is borrowed, and nothing else. */
    int64_t b = ask(&w, "bob", NULL, 4, 10);
    decide(&w);
    CHECK(!job_at(&w, b)->r.claim.n); // min_run is not over
    world_pass(&w, S(300));
    check_rules(&w);
    CHECK_EQ(job_at(&w, b)->r.claim.n, 1);
    CHECK_EQ(state_of(&w, jobs[0]), JOB_STATE_RUNNING);
    int64_t gone = 0;
    for (int i = 1; i < 4; i++)
        if (state_of(&w, jobs[i]) == JOB_STATE_SUSPENDING)
            gone = jobs[i];
    CHECK(gone);
    all_left(&w, gone);
    decide(&w);
    CHECK_EQ(state_of(&w, b), JOB_STATE_STARTING);
    /* And who is over quota asks nobody, however long it waits. */
    world_pass(&w, S(3600 * 24));
    check_rules(&w);
    CHECK_EQ(state_of(&w, gone), JOB_STATE_SUSPENDED);
    CHECK(!job_at(&w, gone)->r.claim.n);
    world_free(&w);
}

TEST(a_gang_over_quota_gives_way_to_a_single_node_within)
{
    struct world w;
    struct entry_job_spec spec = world_spec();

    begin(&w, true);
    CHECK_EQ(give_user(&w, "alice", 50, 4), 0);
    spec.nodes = 4;
    spec.gpus_per_node = 4;
    spec.priority = 50;
    int64_t gang = world_submit(&w, &spec);
    CHECK(is_over(&w, gang));
    decide(&w);
    all_started(&w, gang);
    int64_t b = ask(&w, "bob", NULL, 1, 0);
    world_pass(&w, S(300));
    CHECK_EQ(state_of(&w, gang), JOB_STATE_SUSPENDING);
    CHECK_EQ(job_at(&w, b)->r.claim.n, 1);
    world_free(&w);
}

TEST(a_running_job_comes_within_quota_and_is_not_disturbed_then)
{
    struct world w;

    begin(&w, true);
    CHECK_EQ(give_user(&w, "alice", 30, 4), 0);
    int64_t a = ask(&w, "alice", NULL, 4, 30), b = ask(&w, "alice", NULL, 4, 30);
    decide(&w);
    all_started(&w, b);
    CHECK(is_over(&w, b));
    finish(&w, a);
    CHECK(!is_over(&w, b));
    CHECK_EQ(state_of(&w, b), JOB_STATE_RUNNING);
    int64_t c = ask(&w, "bob", NULL, 4, 30); // fills up the rest
    for (int i = 0; i < 3; i++)
        c = ask(&w, "bob", NULL, 4, 30);
    decide(&w);
    CHECK_EQ(state_of(&w, c), JOB_STATE_QUEUED);
    world_pass(&w, S(120));
    CHECK_EQ(state_of(&w, b), JOB_STATE_RUNNING);
    check_rules(&w);
    world_free(&w);
}

TEST(suspended_by_a_person_gives_back_its_charge)
{
    struct world w;

    begin(&w, true);
    CHECK_EQ(give_user(&w, "alice", 30, 4), 0);
    int64_t a = ask(&w, "alice", NULL, 4, 30), b = ask(&w, "alice", NULL, 4, 30);
    CHECK_EQ(suspend(&w, a), 0);
    CHECK(!is_over(&w, b));
    CHECK(!is_over(&w, a));
    CHECK_EQ(resume(&w, a), 0);
    CHECK(is_over(&w, a)); // b is charged, and stays so
    CHECK(!is_over(&w, b));
    check_rules(&w);
    world_free(&w);
}

TEST(another_level_is_another_quota)
{
    struct world w;

    begin(&w, true);
    CHECK_EQ(give_user(&w, "alice", 30, 4), 0);
    int64_t a = ask(&w, "alice", NULL, 4, 30), b = ask(&w, "alice", NULL, 4, 30);
    struct entry_job_set set = {a, 20, S_ABSENT, NULL, JOB_MOVE_STAYS, 0, S_ABSENT};
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
    CHECK_EQ(level_of(&w, a), 20);
    CHECK(!is_over(&w, b));
    set.priority = 30;
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
    CHECK(is_over(&w, a)); // b is charged
    check_rules(&w);
    world_free(&w);
}

TEST(in_strict_order_over_quota_waits_and_others_pass)
{
    struct world w;
    struct why why;

    begin(&w, false);
    CHECK_EQ(give_user(&w, "alice", 30, 4), 0);
    int64_t a = ask(&w, "alice", NULL, 4, 30), b = ask(&w, "alice", NULL, 4, 30),
            c = ask(&w, "bob", NULL, 4, 30);
    decide(&w);
    CHECK_EQ(state_of(&w, a), JOB_STATE_STARTING);
    CHECK_EQ(state_of(&w, b), JOB_STATE_QUEUED);
    CHECK_EQ(state_of(&w, c), JOB_STATE_STARTING);
    why_job(w.state, job_at(&w, b), &why);
    CHECK_STR(why.code, "quota");
    CHECK_STR(why.message, "over quota: it has 4 GPUs, and user alice has taken 4 of 4 GPUs in "
                           "group default at priority 30");
    CHECK_STR(why.sooner, "with --priority 20 it is within quota");
    finish(&w, a);
    decide(&w);
    CHECK_EQ(state_of(&w, b), JOB_STATE_STARTING);
    /* What can never start is refused. */
    CHECK_EQ(give_user(&w, "alice", 30, 3), 0);
    CHECK_EQ(ask(&w, "alice", NULL, 4, 30), -EINVAL);
    CHECK_STR(w.reply.err.code, "quota");
    CHECK_STR(w.reply.err.text, "the job has 4 GPUs, and the quota of user alice in group default "
                                "at priority 30 is 3");
    CHECK(ask(&w, "alice", NULL, 4, 20) > 0);
    check_rules(&w);
    world_free(&w);
}

/* What --dry-run says of it, and what becomes of it. */
static void check_dry(struct world *w, struct entry_job_spec *spec, int expected) {
    struct hai_err err = {0};
    struct why why;

    spec->user = spec->user ? spec->user : (char *)"alice";
    spec->group = (char *)"default";
    CHECK_EQ(why_spec(w->state, spec, SCOPE_SUBMIT, &why, &err), expected);
    CHECK_EQ(MIN(world_submit(w, spec), 0), expected);
    if (expected < 0)
        CHECK_STR(err.text, w->reply.err.text);
}

TEST(a_dry_run_refuses_what_submission_refuses)
{
    struct world w;
    struct entry_user_set user = {(char *)"guest", 1005, 1005, SCOPE_SUBMIT, false, 1};
    struct entry_job_spec spec = world_spec();

    begin(&w, false);
    CHECK_EQ(give_user(&w, "alice", 30, 3), 0);
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &user), 0);
    spec.gpus_per_node = 4;
    spec.priority = 30;
    check_dry(&w, &spec, -EINVAL);
    spec.priority = 20;
    check_dry(&w, &spec, 0);
    spec.user = (char *)"guest";
    check_dry(&w, &spec, -EACCES);
    spec.auto_priority = 1;
    check_dry(&w, &spec, 0);
    spec.auto_priority = S_ABSENT;
    struct why why;
    CHECK_EQ(why_spec(w.state, &spec, SCOPE_OPERATE, &why, NULL), 0);
    world_free(&w);
}

TEST(in_strict_order_no_job_is_set_to_where_it_never_starts)
{
    struct world w;

    begin(&w, false);
    CHECK_EQ(give_user(&w, "alice", 30, 3), 0);
    int64_t a = ask(&w, "alice", NULL, 4, 20);
    struct entry_job_set set = {a, 30, S_ABSENT, NULL, JOB_MOVE_STAYS, 0, S_ABSENT};
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), -EINVAL);
    CHECK_STR(w.reply.err.code, "quota");
    CHECK_EQ(level_of(&w, a), 20);
    set.priority = S_ABSENT;
    set.auto_priority = 1; // 20 is below where it has no room
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
    CHECK_EQ(level_of(&w, a), 20);
    /* With a limit that is lowered later it can still be changed otherwise. */
    set.auto_priority = S_ABSENT;
    set.priority = 40;
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
    CHECK_EQ(give_user(&w, "alice", 40, 3), 0);
    set.priority = S_ABSENT;
    set.time_limit_us = S(3600);
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
    CHECK_EQ(job_at(&w, a)->r.time_limit_us, S(3600));
    check_rules(&w);
    world_free(&w);
}

TEST(over_quota_with_time_sharing_is_explained)
{
    struct world w;
    struct why why;
    int64_t last = 0;

    begin(&w, true);
    CHECK_EQ(give_user(&w, "alice", 0, 4), 0);
    for (int i = 0; i < 6; i++)
        last = ask(&w, "alice", NULL, 4, 0);
    decide(&w);
    CHECK_EQ(state_of(&w, last), JOB_STATE_QUEUED);
    why_job(w.state, job_at(&w, last), &why);
    CHECK_STR(why.code, "quota");
    CHECK_STR(why.message,
              "over quota: it has 4 GPUs, and user alice has taken 4 of 4 GPUs in group default at "
              "priority 0, and job 2 comes first; it starts once others leave GPUs idle");
    world_free(&w);
}

TEST(auto_is_the_highest_level_with_room)
{
    struct world w;

    begin(&w, true);
    CHECK_EQ(give_user(&w, "alice", 40, 4), 0);
    CHECK_EQ(give_user(&w, "alice", 30, 4), 0);
    int64_t a = ask(&w, "alice", NULL, 4, -1), b = ask(&w, "alice", NULL, 4, -1),
            c = ask(&w, "alice", NULL, 4, -1), d = ask(&w, "bob", NULL, 4, -1);
    CHECK_EQ(level_of(&w, a), 40); // a quota was given there
    CHECK_EQ(level_of(&w, b), 30);
    CHECK_EQ(level_of(&w, c), 20); // nothing limits it
    CHECK_EQ(level_of(&w, d), 30); // and not at 50, where nobody was given anything
    decide(&w);
    all_started(&w, b);
    all_started(&w, c);
    finish(&w, a); // they rise, also while they run, in the order of their ids
    CHECK_EQ(level_of(&w, b), 40);
    CHECK_EQ(level_of(&w, c), 30);
    check_rules(&w);
    /* One that runs is not moved down. */
    CHECK_EQ(give_user(&w, "alice", 40, 1), 0);
    CHECK_EQ(level_of(&w, b), 40);
    CHECK_EQ(quota_used(w.state, QUOTA_HOLDER_USER, "alice", "default", 40), 4);
    int64_t e = ask(&w, "alice", NULL, 1, -1);
    CHECK_EQ(level_of(&w, e), 20); // 40 is beyond its limit, 30 is full
    check_rules(&w);
    world_free(&w);
}

TEST(auto_that_fits_nowhere_is_over_at_the_lowest_level)
{
    struct world w;

    begin(&w, true);
    for (int level = 0; level < PRIORITY_COUNT; level++)
        CHECK_EQ(give(&w, QUOTA_HOLDER_EVERY, NULL, state_priority_at(level), 2), 0);
    int64_t a = ask(&w, "alice", NULL, 3, -1), b = ask(&w, "alice", NULL, 2, -1);
    CHECK(is_over(&w, a));
    CHECK_EQ(level_of(&w, a), 0);
    CHECK_EQ(level_of(&w, b), 50);
    CHECK_EQ(give(&w, QUOTA_HOLDER_EVERY, NULL, 10, 3), 0);
    CHECK_EQ(level_of(&w, a), 10);
    check_rules(&w);
    world_free(&w);
}

TEST(a_lowered_limit_takes_from_those_who_wait_only)
{
    struct world w;

    begin(&w, true);
    int64_t a = ask(&w, "alice", NULL, 4, 30), b = ask(&w, "alice", NULL, 4, 30);
    decide(&w);
    all_started(&w, a);
    all_started(&w, b);
    for (int i = 0; i < 2; i++)
        CHECK(ask(&w, "bob", NULL, 4, 50) > 0);
    int64_t c = ask(&w, "alice", NULL, 4, 30);
    decide(&w);
    CHECK_EQ(state_of(&w, c), JOB_STATE_QUEUED);
    CHECK_EQ(give_user(&w, "alice", 30, 4), 0);
    CHECK(!is_over(&w, a));
    CHECK(!is_over(&w, b));
    CHECK(is_over(&w, c));
    CHECK_EQ(quota_used(w.state, QUOTA_HOLDER_USER, "alice", "default", 30), 8);
    all_succeed(&w, a); // 4 of 4 is left
    CHECK(is_over(&w, c));
    CHECK_EQ(give_user(&w, "alice", 30, S_ABSENT), 0);
    CHECK(!is_over(&w, c));
    CHECK_EQ(give_user(&w, "alice", 30, S_ABSENT), -ENOENT);
    check_rules(&w);
    world_free(&w);
}

TEST(a_lowered_limit_takes_nothing_from_those_who_recover_or_gave_way)
{
    struct world w;

    begin(&w, false);
    CHECK_EQ(give_user(&w, "alice", 30, 4), 0);
    int64_t a = ask(&w, "alice", NULL, 4, 30);
    decide(&w);
    all_started(&w, a);
    CHECK_EQ(ended(&w, a, 0, 0, 9, EXIT_CAUSE_SELF), 0);
    CHECK_EQ(state_of(&w, a), JOB_STATE_RECOVERING);
    CHECK(!state_job_live(job_at(&w, a)));
    CHECK_EQ(give_user(&w, "alice", 30, 2), 0);
    CHECK(!is_over(&w, a));
    check_rules(&w);
    world_pass(&w, S(3600));
    decide(&w);
    CHECK(state_job_live(job_at(&w, a)));
    world_free(&w);

    begin(&w, true);
    int64_t jobs[4], gone = 0;
    for (int i = 0; i < 4; i++)
        jobs[i] = ask(&w, "alice", NULL, 4, 10);
    decide(&w);
    for (int i = 0; i < 4; i++)
        all_started(&w, jobs[i]);
    CHECK(ask(&w, "bob", NULL, 4, 50) > 0);
    world_pass(&w, S(300));
    for (int i = 0; i < 4; i++)
        if (state_of(&w, jobs[i]) == JOB_STATE_SUSPENDING)
            gone = jobs[i];
    CHECK(gone);
    all_left(&w, gone);
    CHECK_EQ(state_of(&w, gone), JOB_STATE_SUSPENDED);
    CHECK_EQ(give_user(&w, "alice", 10, 4), 0);
    CHECK(!is_over(&w, gone));
    CHECK_EQ(quota_used(w.state, QUOTA_HOLDER_USER, "alice", "default", 10), 16);
    check_rules(&w);
    world_free(&w);
}

TEST(external_users_have_auto_at_5_at_most)
{
    struct world w;
    struct entry_user_set user = {(char *)"guest", 1005, 1005, SCOPE_SUBMIT, false, 1};

    begin(&w, true);
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &user), 0);
    CHECK_EQ(ask(&w, "guest", NULL, 1, 30), -EACCES);
    CHECK_EQ(ask(&w, "guest", NULL, 1, 0), -EACCES);
    int64_t a = ask(&w, "guest", NULL, 4, -1);
    CHECK_EQ(level_of(&w, a), 5);
    CHECK_EQ(level_of(&w, ask(&w, "guest", NULL, 0, -1)), 5); // without GPUs, too
    struct entry_job_set set = {a, 30, S_ABSENT, NULL, JOB_MOVE_STAYS, 0, S_ABSENT};
    CHECK_EQ(world_append(&w, "submit:guest", ENTRY_JOB_SET, &set), -EACCES);
    CHECK_EQ(give_user(&w, "guest", 5, 2), 0);
    CHECK_EQ(level_of(&w, a), 0);
    user.external = S_ABSENT;
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &user), 0);
    CHECK_EQ(level_of(&w, a), 30);
    check_rules(&w);
    world_free(&w);
}

TEST(who_becomes_external_keeps_no_priority_of_his_choice)
{
    struct world w;
    struct entry_user_set user = {(char *)"guest", 1005, 1005, SCOPE_SUBMIT, false, 1};
    struct entry_job_spec spec = world_spec();

    begin(&w, true);
    int64_t runs = ask(&w, "guest", NULL, 4, 50);
    decide(&w);
    all_started(&w, runs);
    spec.user = (char *)"guest";
    spec.gpus_per_node = 4;
    spec.priority = 40;
    spec.held = true;
    int64_t held = world_submit(&w, &spec);
    spec.held = false;
    spec.array.n = 1;
    spec.array.items = &(struct entry_range){0, 9, 1};
    int64_t array = world_submit(&w, &spec), waits = ask(&w, "guest", NULL, 4, 30);
    CHECK_EQ(give_user(&w, "guest", 20, 2), 0);
    for (int level = 0; level <= 5; level += 5)
        CHECK_EQ(give_user(&w, "carol", level, 0), 0);
    int64_t over = ask(&w, "guest", NULL, 4, 20), lowest = ask(&w, "carol", NULL, 4, 20);
    struct entry_user_set carol = {(char *)"carol", 1006, 1006, SCOPE_SUBMIT, false, 1};
    CHECK_EQ(give_user(&w, "carol", 20, 2), 0);
    CHECK(is_over(&w, over));
    CHECK(is_over(&w, lowest));
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &carol), 0);
    CHECK(is_over(&w, lowest)); // and before, but at another level
    CHECK_EQ(job_at(&w, lowest)->r.priority, 0);
    CHECK_EQ(job_at(&w, lowest)->tier, order_tier(w.state, job_at(&w, lowest)));
    CHECK_EQ(world_append(&w, "admin:root", ENTRY_USER_SET, &user), 0);
    CHECK_EQ(level_of(&w, runs), 50); // it has nodes
    CHECK_EQ(level_of(&w, over), 5);
    CHECK_EQ(level_of(&w, held), 5);
    CHECK_EQ(level_of(&w, array), 5);
    CHECK_EQ(level_of(&w, waits), 5);
    check_rules(&w);
    decide(&w);
    for (const struct job *job = w.state->jobs_first; job; job = job->next)
        CHECK(quota_is_auto(job), "job %lld", (long long)job->r.id);
    for (int64_t id = array + 1; id <= array + 10; id++)
        if (job_at(&w, id))
            CHECK_EQ(level_of(&w, id), 5);
    finish(&w, runs); // elements made later, too
    decide(&w);
    for (int64_t id = array + 1; id <= array + 10; id++)
        if (job_at(&w, id))
            CHECK_EQ(level_of(&w, id), 5);
    check_rules(&w);
    world_free(&w);
}

TEST(only_operators_change_quotas)
{
    struct world w;
    struct entry_quota_set in = {QUOTA_HOLDER_USER, (char *)"alice", (char *)"default", 30, 100};

    begin(&w, true);
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_QUOTA_SET, &in), -EACCES);
    in.group = (char *)"nowhere";
    CHECK_EQ(world_append(&w, "operate:root", ENTRY_QUOTA_SET, &in), -EINVAL);
    in.group = (char *)"default";
    in.priority = 31;
    CHECK_EQ(world_append(&w, "operate:root", ENTRY_QUOTA_SET, &in), -ERANGE);
    in.priority = 30;
    in.name = NULL;
    CHECK_EQ(world_append(&w, "operate:root", ENTRY_QUOTA_SET, &in), -EINVAL);
    CHECK_EQ(w.state->n_quotas, 0);
    world_free(&w);
}

TEST(a_snapshot_decides_the_same_again)
{
    struct world w;
    _cleanup_(buf_free) struct buf first = {0}, second = {0};

    for (int snapshot = 0; snapshot < 2; snapshot++) {
        begin(&w, true);
        CHECK_EQ(give_user(&w, "alice", 30, 6), 0);
        CHECK_EQ(give(&w, QUOTA_HOLDER_TEAM, "nlp", 30, 8), 0);
        for (int i = 0; i < 12; i++)
            CHECK(ask(&w, i % 2 ? "alice" : "bob", i % 3 ? "nlp" : NULL, 1 + i % 4,
                      i % 5 ? 30 : -1) > 0);
        decide(&w);
        if (snapshot)
            world_restart(&w, true);
        else
            world_restart(&w, false);
        for (int64_t id = 1; id <= 12; id++)
            if (state_of(&w, id) == JOB_STATE_STARTING)
                finish(&w, id);
        decide(&w);
        state_encode(w.state, snapshot ? &second : &first);
        world_free(&w);
    }
    CHECK(first.n_bytes == second.n_bytes && !memcmp(first.data, second.data, first.n_bytes));
}
