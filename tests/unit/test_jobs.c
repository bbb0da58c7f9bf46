#include "tests/unit/core_steps.h"

TEST(a_job_runs_and_succeeds)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t id = submit(&w, 2, 2, 2);
    CHECK_EQ(id, 1);
    CHECK_EQ(state_of(&w, id), JOB_STATE_QUEUED);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STARTING);
    CHECK_EQ(job_at(&w, id)->r.attempt, 1);
    CHECK_EQ(job_at(&w, id)->r.epoch, 1);
    CHECK(job_at(&w, id)->r.master_port >= MASTER_PORT_FIRST);
    CHECK_EQ(w.state->nodes[0]->gpus_held, 3);
    CHECK_EQ(started(&w, id, "a1"), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STARTING);
    CHECK_EQ(started(&w, id, "a2"), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RUNNING);
    check_same(&w);
    for (int rank = 0; rank < 4; rank++) {
        CHECK_EQ(state_of(&w, id), JOB_STATE_RUNNING);
        CHECK_EQ(ended(&w, id, rank, 0, 0, EXIT_CAUSE_SELF), 0);
    }
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUCCEEDED);
    CHECK_EQ(job_at(&w, id)->r.exit_code, 0);
    CHECK_EQ(w.state->nodes[0]->gpus_held, 0);
    CHECK_EQ(w.state->nodes[1]->cpus_free, 8);
    check_same(&w);
    world_free(&w);
}

/* How the first bad end of a rank of a 2 x 1 job, and the end of the other rank, move the job. */
static const struct {
    const char *what;
    int64_t when;
    int64_t code, signal;
    enum exit_cause cause;
    enum job_state between; // while the other rank is left
    int64_t code2, signal2;
    enum exit_cause cause2;
    enum job_state after;
    enum reason reason;
} ends[] = {
    {"exit 3",             RESTART_FAULTS, 3, 0,  EXIT_CAUSE_SELF,    JOB_STATE_STOPPING,   0, 9, EXIT_CAUSE_ORDER,
     JOB_STATE_FAILED,                                                                                                                    REASON_EXIT     },
    {"exit 3 listed",      RESTART_ALL,    3, 0,  EXIT_CAUSE_SELF,    JOB_STATE_RECOVERING, 0, 9,
     EXIT_CAUSE_ORDER,                                                                                              JOB_STATE_RECOVERING, REASON_EXIT     },
    {"signal",             RESTART_FAULTS, 0, 9,  EXIT_CAUSE_SELF,    JOB_STATE_RECOVERING, 1, 0, EXIT_CAUSE_SELF,
     JOB_STATE_RECOVERING,                                                                                                                REASON_SIGNAL   },
    {"signal not listed",  RESTART_NODE,   0, 11, EXIT_CAUSE_SELF,    JOB_STATE_STOPPING,   0, 9,
     EXIT_CAUSE_ORDER,                                                                                              JOB_STATE_FAILED,     REASON_SIGNAL   },
    {"memory",             RESTART_FAULTS, 0, 9,  EXIT_CAUSE_MEMORY,  JOB_STATE_RECOVERING, 0, 9,
     EXIT_CAUSE_ORDER,                                                                                              JOB_STATE_RECOVERING, REASON_MEMORY   },
    {"no workdir",         RESTART_ALL,    0, 0,  EXIT_CAUSE_START,   JOB_STATE_STOPPING,   0, 9, EXIT_CAUSE_ORDER,
     JOB_STATE_FAILED,                                                                                                                    REASON_SETUP    },
    {"lease",              RESTART_FAULTS, 0, 9,  EXIT_CAUSE_LEASE,   JOB_STATE_RECOVERING, 0, 9, EXIT_CAUSE_ORDER,
     JOB_STATE_RECOVERING,                                                                                                                REASON_NODE_LOST},
    {"unknown",            RESTART_FAULTS, 0, 0,  EXIT_CAUSE_UNKNOWN, JOB_STATE_RECOVERING, 0, 9,
     EXIT_CAUSE_ORDER,                                                                                              JOB_STATE_RECOVERING, REASON_NODE_LOST},
 /* The peer of a killed rank ends by itself and is reported first. */
    {"exit before signal", RESTART_FAULTS, 1, 0,  EXIT_CAUSE_SELF,    JOB_STATE_STOPPING,   0, 9,
     EXIT_CAUSE_SELF,                                                                                               JOB_STATE_RECOVERING, REASON_SIGNAL   },
    {"good, then bad",     RESTART_FAULTS, 0, 0,  EXIT_CAUSE_SELF,    JOB_STATE_RUNNING,    7, 0,
     EXIT_CAUSE_SELF,                                                                                               JOB_STATE_FAILED,     REASON_EXIT     },
};

TEST(bad_ends_of_ranks)
{
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        struct entry_job_spec spec = world_spec();
        struct world w;
        small_cluster(&w, 1, 2);
        spec.nodes = 2;
        spec.gpus_per_node = 2;
        spec.restart_when = ends[i].when;
        int64_t id = world_submit(&w, &spec);
        world_decide(&w);
        all_started(&w, id);
        ended(&w, id, 0, ends[i].code, ends[i].signal, ends[i].cause);
        CHECK_EQ(state_of(&w, id), ends[i].between, "%s", ends[i].what);
        ended(&w, id, 1, ends[i].code2, ends[i].signal2, ends[i].cause2);
        CHECK_EQ(state_of(&w, id), ends[i].after, "%s", ends[i].what);
        CHECK_EQ(job_at(&w, id)->r.reason, ends[i].reason, "%s", ends[i].what);
        CHECK_EQ(w.state->nodes[0]->gpus_held, 0, "%s", ends[i].what);
        check_same(&w);
        world_free(&w);
    }
}

TEST(a_failed_job_tells_code_and_rank)
{
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t id = submit(&w, 1, 2, 2);
    world_decide(&w);
    all_started(&w, id);
    ended(&w, id, 1, 3, 0, EXIT_CAUSE_SELF);
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_ORDER);
    CHECK_EQ(state_of(&w, id), JOB_STATE_FAILED);
    CHECK_EQ(job_at(&w, id)->r.exit_code, 3);
    CHECK_EQ(job_at(&w, id)->r.fault_rank, 1);
    CHECK_STR(job_at(&w, id)->r.message, "rank 1 on a1 ended with exit status 3");
    world_free(&w);
}

TEST(an_exit_unseen_before_its_start_counts)
{
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t id = submit(&w, 1, 1, 1);
    world_decide(&w);
    ended(&w, id, 0, 0, 0, EXIT_CAUSE_SELF);
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUCCEEDED);
    CHECK(job_at(&w, id)->r.started_us != S_ABSENT);
    CHECK_EQ(started(&w, id, "a1"), 0); // late: no effect
    CHECK(!w.reply.changed);
    world_free(&w);
}

static void finish_kill(struct world *w, int64_t id) {
    for (size_t rank = 0; rank < job_at(w, id)->r.ranks.n; rank++)
        ended(w, id, (int64_t)rank, 0, 9, EXIT_CAUSE_ORDER);
}

TEST(restarts_wait_longer_and_end)
{
    static const int64_t delays_s[] = {0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300};
    struct entry_job_spec spec = world_spec();
    struct world w;

    small_cluster(&w, 1, 1);
    spec.gpus_per_node = 1;
    spec.restart_max = ARRAY_SIZE(delays_s);
    int64_t id = world_submit(&w, &spec);
    for (size_t i = 0; i < ARRAY_SIZE(delays_s); i++) {
        CHECK_EQ(world_decide(&w), 1, "%zu", i);
        all_started(&w, id);
        CHECK_EQ(state_of(&w, id), JOB_STATE_RUNNING);
        ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF);
        CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
        CHECK_EQ(job_at(&w, id)->r.restarts, i + 1);
        int64_t due_us = state_next_wakeup(w.state);
        if (delays_s[i] == 0)
            CHECK_EQ(due_us, INT64_MAX);
        else
            CHECK_EQ(due_us - w.now_us, S(delays_s[i]));
        check_same(&w);
        if (delays_s[i]) {
            CHECK_EQ(world_decide(&w), 0);
            w.now_us = due_us;
            struct entry_tick tick = {due_us};
            world_append(&w, "system:hai", ENTRY_TICK, &tick);
        }
    }
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF);
    CHECK_EQ(state_of(&w, id), JOB_STATE_FAILED);
    CHECK_EQ(job_at(&w, id)->r.reason, REASON_RESTARTS);
    CHECK_EQ(job_at(&w, id)->r.attempt, (int64_t)ARRAY_SIZE(delays_s) + 1);
    world_free(&w);
}

TEST(an_hour_of_running_clears_the_count)
{
    struct entry_job_spec spec = world_spec();
    struct world w;

    small_cluster(&w, 1, 1);
    spec.gpus_per_node = 1;
    spec.restart_max = 1;
    int64_t id = world_submit(&w, &spec);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(world_decide(&w), 1);
        all_started(&w, id);
        world_pass(&w, S(3600));
        ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF);
        CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
        CHECK_EQ(job_at(&w, id)->r.restarts, 1);
    }
    world_decide(&w);
    all_started(&w, id);
    world_pass(&w, S(3599));
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF);
    CHECK_EQ(state_of(&w, id), JOB_STATE_FAILED);
    world_free(&w);
}

static bool told(const struct world *w, const char *text) {
    for (size_t i = 0; i < w->fx->n_events; i++)
        if (hai_streq(w->fx->events[i].text, text))
            return true;
    return false;
}

TEST(events_count_ranks_and_say_how_long_a_pause_is)
{
    struct entry_job_spec spec = world_spec();
    struct world w;

    small_cluster(&w, 1, 2);
    spec.nodes = 1;
    spec.restart_when = RESTART_SIGNAL;
    int64_t id = world_submit(&w, &spec);
    world_decide(&w);
    CHECK(told(&w, "attempt 1: 1 rank on 1 node from a1"));
    all_started(&w, id);
    CHECK(told(&w, "its rank runs"));
    ended(&w, id, 0, 0, 11, EXIT_CAUSE_SELF);
    CHECK(told(&w, "restart 1 of at most 20"));
    world_decide(&w);
    all_started(&w, id);
    ended(&w, id, 0, 0, 11, EXIT_CAUSE_SELF);
    CHECK(told(&w, "restart 2 of at most 20, after a pause of 1 s"));
    world_free(&w);
}

TEST(a_stop_ends_a_job_in_every_state)
{
    struct entry_job_spec held = world_spec();
    struct world w;

    small_cluster(&w, 1, 1);
    held.held = true;
    int64_t id = world_submit(&w, &held);
    CHECK_EQ(state_of(&w, id), JOB_STATE_HELD);
    CHECK_EQ(world_decide(&w), 0);
    CHECK_EQ(stop(&w, "submit:alice", id, false), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPED);
    id = submit(&w, 1, 2, 1); // queued
    CHECK_EQ(stop(&w, "submit:alice", id, false), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPED);
    CHECK_STR(job_at(&w, id)->r.message, "stopped by alice");
    CHECK_EQ(world_decide(&w), 0);
    id = submit(&w, 1, 2, 1); // starting
    world_decide(&w);
    stop(&w, "submit:alice", id, false);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPING);
    finish_kill(&w, id);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPED);
    id = submit(&w, 1, 2, 1); // recovering without nodes
    world_decide(&w);
    all_started(&w, id);
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    stop(&w, "submit:alice", id, false);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPED);
    check_same(&w);
    world_free(&w);
}

TEST(a_stop_gives_grace_and_force_takes_it)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t id = submit(&w, 2, 2, 1);
    world_decide(&w);
    all_started(&w, id);
    int64_t revision = w.state->nodes[1]->r.revision;
    CHECK_EQ(stop(&w, "submit:alice", id, false), 0);
    CHECK(w.reply.changed);
    CHECK_EQ(job_at(&w, id)->r.phase, DESIRED_PHASE_TERM);
    CHECK_EQ(job_at(&w, id)->r.kill_at_us, w.now_us + S(30));
    CHECK_EQ(w.state->nodes[1]->r.revision, revision + 1);
    int64_t kill_at_us = job_at(&w, id)->r.kill_at_us;
    CHECK_EQ(stop(&w, "submit:alice", id, false), 0); // nothing changes
    CHECK(!w.reply.changed);
    CHECK_EQ(job_at(&w, id)->r.kill_at_us, kill_at_us);
    CHECK_EQ(w.state->nodes[1]->r.revision, revision + 1);
    ended(&w, id, 0, 0, 0, EXIT_CAUSE_SELF);
    CHECK_EQ(w.state->nodes[0]->gpus_held, 0); // freed at once
    CHECK_EQ(stop(&w, "submit:alice", id, true), 0);
    CHECK_EQ(job_at(&w, id)->r.phase, DESIRED_PHASE_KILL);
    ended(&w, id, 1, 0, 9, EXIT_CAUSE_ORDER);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPED);
    CHECK_EQ(job_at(&w, id)->r.reason, REASON_USER);
    CHECK_EQ(stop(&w, "submit:alice", id, true), 0); // ended: nothing to do
    CHECK(!w.reply.changed);
    world_free(&w);
}

TEST(the_grace_ends_by_itself)
{
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t id = submit(&w, 1, 2, 1);
    world_decide(&w);
    all_started(&w, id);
    stop(&w, "submit:alice", id, false);
    world_pass(&w, S(29));
    CHECK_EQ(job_at(&w, id)->r.phase, DESIRED_PHASE_TERM);
    world_pass(&w, S(2));
    CHECK_EQ(job_at(&w, id)->r.phase, DESIRED_PHASE_KILL);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPING);
    world_free(&w);
}

TEST(an_exit_before_the_stop_wins)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t id = submit(&w, 2, 2, 1);
    world_decide(&w);
    all_started(&w, id);
    ended(&w, id, 0, 5, 0, EXIT_CAUSE_SELF);
    CHECK_EQ(stop(&w, "submit:alice", id, false), 0);
    ended(&w, id, 1, 0, 9, EXIT_CAUSE_ORDER);
    CHECK_EQ(state_of(&w, id), JOB_STATE_FAILED);
    CHECK_EQ(job_at(&w, id)->r.exit_code, 5);

    id = submit(&w, 2, 2, 1); // a fault, then the stop: it does not start again
    world_decide(&w);
    all_started(&w, id);
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    stop(&w, "submit:alice", id, false);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPING);
    ended(&w, id, 1, 0, 9, EXIT_CAUSE_ORDER);
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPED);
    CHECK_EQ(world_decide(&w), 0);
    world_free(&w);
}

TEST(suspend_gives_back_and_resume_queues)
{
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t id = submit(&w, 1, 2, 1);
    int64_t behind = submit(&w, 1, 2, 1);
    world_decide(&w);
    all_started(&w, id);
    CHECK_EQ(suspend(&w, id), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUSPENDING);
    CHECK_EQ(job_at(&w, id)->r.phase, DESIRED_PHASE_TERM);
    ended(&w, id, 0, 0, 15, EXIT_CAUSE_ORDER);
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUSPENDED);
    check_same(&w);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, behind), JOB_STATE_STARTING);
    CHECK_EQ(suspend(&w, id), 0);
    CHECK(!w.reply.changed);
    CHECK_EQ(resume(&w, id), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_QUEUED);
    CHECK_EQ(resume(&w, id), 0);
    CHECK(!w.reply.changed);
    int64_t third = submit(&w, 1, 2, 1);
    ended(&w, behind, 0, 0, 0, EXIT_CAUSE_SELF);
    world_decide(&w); // the older job first
    CHECK_EQ(state_of(&w, id), JOB_STATE_STARTING);
    CHECK_EQ(job_at(&w, id)->r.attempt, 2);
    CHECK_EQ(state_of(&w, third), JOB_STATE_QUEUED);
    CHECK_EQ(suspend(&w, third), 0);
    CHECK_EQ(state_of(&w, third), JOB_STATE_SUSPENDED);
    CHECK_EQ(stop(&w, "submit:alice", third, false), 0);
    CHECK_EQ(state_of(&w, third), JOB_STATE_STOPPED);
    CHECK_EQ(suspend(&w, third), -EINVAL);
    CHECK_STR(w.reply.err.code, "ended");
    world_free(&w);
}

TEST(resume_while_suspending_queues_again)
{
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t id = submit(&w, 1, 2, 1);
    world_decide(&w);
    all_started(&w, id);
    suspend(&w, id);
    resume(&w, id);
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUSPENDING);
    ended(&w, id, 0, 0, 15, EXIT_CAUSE_ORDER);
    CHECK_EQ(state_of(&w, id), JOB_STATE_QUEUED);
    CHECK_EQ(world_decide(&w), 1);
    world_free(&w);
}

TEST(the_time_limit_warns_and_kills)
{
    struct entry_job_spec spec = world_spec();
    struct world w;

    small_cluster(&w, 1, 1);
    spec.gpus_per_node = 1;
    spec.time_limit_us = S(100);
    spec.warn_us = S(20);
    int64_t id = world_submit(&w, &spec);
    world_decide(&w);
    int64_t placed_us = w.now_us;
    all_started(&w, id);
    world_pass(&w, S(50));
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF); // a restart does not begin the limit anew
    world_decide(&w);
    all_started(&w, id);
    check_same(&w);
    world_pass(&w, S(80) - (w.now_us - placed_us) - S(1));
    CHECK_EQ(state_of(&w, id), JOB_STATE_RUNNING);
    world_pass(&w, S(2));
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPING);
    CHECK_EQ(job_at(&w, id)->r.phase, DESIRED_PHASE_TERM);
    world_pass(&w, S(20));
    CHECK_EQ(job_at(&w, id)->r.phase, DESIRED_PHASE_KILL);
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_ORDER);
    CHECK_EQ(state_of(&w, id), JOB_STATE_TIMED_OUT);
    CHECK_EQ(job_at(&w, id)->r.reason, REASON_TIME_LIMIT);
    world_free(&w);
}

TEST(a_hung_rank_restarts_the_gang)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t id = submit(&w, 2, 1, 1);
    world_decide(&w);
    all_started(&w, id);
    struct entry_rank_hung hung = {id, job_at(&w, id)->r.epoch, 1, (char *)"no step for 60 s"};
    CHECK_EQ(world_append(&w, "system:hai", ENTRY_RANK_HUNG, &hung), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    CHECK_EQ(job_at(&w, id)->r.phase, DESIRED_PHASE_KILL);
    finish_kill(&w, id);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(job_at(&w, id)->r.attempt, 2);
    CHECK_EQ(job_at(&w, id)->r.reason, REASON_HANG);
    world_free(&w);
}

TEST(ended_jobs_leave_in_the_end)
{
    struct world w;

    small_cluster(&w, 1, 1);
    world_clear(&w);
    for (int i = 0; i < JOBS_ENDED_KEPT + 5; i++)
        CHECK_EQ(stop(&w, "operate:root", submit(&w, 1, 1, 1), false), 0);
    CHECK_EQ(w.state->n_jobs, JOBS_ENDED_KEPT);
    CHECK(!state_job_find(w.state, 5));
    CHECK(state_job_find(w.state, 6));
    CHECK_EQ(effects_job(w.fx, w.state, 5)->r.state, JOB_STATE_STOPPED);
    CHECK_EQ(w.fx->n_jobs, JOBS_ENDED_KEPT + 5);
    world_clear(&w);
    CHECK(!effects_job(w.fx, w.state, 5));
    check_same(&w);
    world_free(&w);
}

TEST(only_owners_and_operators_change_a_job)
{
    static const struct {
        const char *principal;
        int r;
    } cases[] = {
        {"submit:bob",     -EACCES},
        {"read:alice",     -EACCES},
        {"node:a1",        -EACCES},
        {"",               -EACCES},
        {"nonsense:alice", -EACCES},
        {"submit:alice",   0      },
    };
    struct world w;

    small_cluster(&w, 1, 1);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int64_t id = submit(&w, 1, 1, 1);
        CHECK_EQ(stop(&w, cases[i].principal, id, false), cases[i].r, "%s", cases[i].principal);
        CHECK_EQ(stop(&w, "operate:root", id, false), 0);
        CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPED);
    }
    CHECK_EQ(stop(&w, "submit:alice", 99, false), -ENOENT);
    world_free(&w);
}

TEST(a_job_can_be_set)
{
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t first = submit(&w, 1, 2, 1), second = submit(&w, 1, 2, 1);
    struct entry_job_set in = {second, 35, S_ABSENT, NULL};
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &in), -ERANGE);
    in.priority = 40;
    in.time_limit_us = S(60);
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &in), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, second), JOB_STATE_STARTING);
    CHECK_EQ(state_of(&w, first), JOB_STATE_QUEUED);
    CHECK_EQ(state_next_wakeup(w.state), job_at(&w, second)->r.placed_us + S(60));
    in = (struct entry_job_set){second, S_ABSENT, S_ABSENT, (char *)"default"};
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &in), -EINVAL);
    in = (struct entry_job_set){first, S_ABSENT, S_ABSENT, (char *)"none"};
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &in), -EINVAL);
    CHECK_STR(w.reply.err.code, "unknown_group");
    check_same(&w);
    world_free(&w);
}
