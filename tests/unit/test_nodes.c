#include "tests/unit/core_steps.h"

/* A 2-node job runs on a1 and a2 of three nodes. */
static int64_t running(struct world *w) {
    small_cluster(w, 1, 3);
    int64_t id = submit(w, 2, 2, 1);
    world_decide(w);
    all_started(w, id);
    CHECK_EQ(state_of(w, id), JOB_STATE_RUNNING);
    return id;
}

TEST(a_lost_node_holds_the_job_until_its_lease_is_over)
{
    struct world w;
    int64_t id = running(&w);

    world_pass(&w, S(20));
    int64_t granted_us = w.now_us - S(3);
    CHECK_EQ(node_lost(&w, "a1", granted_us), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    CHECK_EQ(job_at(&w, id)->r.reason, REASON_NODE_LOST);
    CHECK_EQ(job_at(&w, id)->r.phase, DESIRED_PHASE_KILL);
    ended(&w, id, 1, 0, 9, EXIT_CAUSE_ORDER);
    CHECK_EQ(w.state->nodes[1]->gpus_held, 3); // kept for its restart
    CHECK_EQ(world_decide(&w), 0);
    CHECK_EQ(state_next_wakeup(w.state), granted_us + S(11)); // lease and drift
    check_same(&w);
    world_pass(&w, S(7));
    CHECK_EQ(job_at(&w, id)->r.attempt, 1);
    world_pass(&w, S(2));
    CHECK_EQ(job_at(&w, id)->r.attempt, 2);
    CHECK_STR(node_of(&w, id, 0), "a2");
    CHECK_STR(node_of(&w, id, 1), "a3");
    CHECK_EQ(w.state->nodes[0]->gpus_held, 0);
    check_same(&w);
    world_free(&w);
}

TEST(a_fence_ends_the_wait)
{
    struct world w;
    int64_t id = running(&w);

    node_lost(&w, "a1", w.now_us);
    ended(&w, id, 1, 0, 9, EXIT_CAUSE_ORDER);
    CHECK_EQ(world_decide(&w), 0);
    CHECK_EQ(node_fenced(&w, "a1"), 0);
    CHECK_EQ(state_next_wakeup(w.state), INT64_MAX);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(job_at(&w, id)->r.attempt, 2);
    CHECK_EQ(job_at(&w, id)->r.epoch, 2);
    world_free(&w);
}

TEST(a_fence_of_an_earlier_life_touches_nothing)
{
    struct world w;
    int64_t id = running(&w);
    struct entry_node_fenced in = {(char *)"a1", NULL, (char *)"boot-0-0"};

    CHECK_EQ(world_append(&w, "operate:upd", ENTRY_NODE_FENCED, &in), 0);
    CHECK(!w.reply.changed);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RUNNING);
    in.boot_id = (char *)"boot-0-1";
    CHECK_EQ(world_append(&w, "operate:upd", ENTRY_NODE_FENCED, &in), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    CHECK_EQ(w.state->nodes[0]->r.state, NODE_STATE_LOST);
    world_free(&w);
}

TEST(a_fence_without_silence_is_a_loss)
{
    struct world w;
    int64_t id = running(&w);

    ended(&w, id, 1, 1, 0, EXIT_CAUSE_SELF); // the peer saw its partner go
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPING);
    node_fenced(&w, "a1");
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    CHECK_EQ(job_at(&w, id)->r.reason, REASON_NODE_LOST);
    CHECK_EQ(world_decide(&w), 1);
    world_free(&w);
}

/* After a restart of the scheduler nobody knows the last grants: its start bounds them. */
TEST(a_new_scheduler_counts_leases_from_its_start)
{
    struct world w;
    int64_t id = running(&w);

    world_pass(&w, S(100));
    world_restart(&w, false);
    int64_t start_us = w.now_us;
    world_pass(&w, S(5));
    node_lost(&w, "a1", S_ABSENT);
    CHECK_EQ(w.state->nodes[0]->r.hold_until_us, start_us + S(11));
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    world_free(&w);
}

/* A shorter lease in the cluster file shortens none that a node has already. */
TEST(a_shorter_lease_counts_for_new_grants_only)
{
    struct world w;
    struct world_cluster cluster = {.n_zones = 1,
                                    .leaves_per_zone = 1,
                                    .nodes_per_leaf = 3,
                                    .gpus = 2,
                                    .cpus = 8,
                                    .lone = true};

    world_init(&w);
    world_cluster(&w, &cluster);
    int64_t id = submit(&w, 2, 2, 1);
    world_decide(&w);
    all_started(&w, id);
    world_pass(&w, S(100));
    cluster.lone = false;
    int64_t set_us = w.now_us;
    world_cluster(&w, &cluster);
    for (int i = 0; i < 2; i++) { // also after the next start
        world_pass(&w, S(5));
        node_lost(&w, i ? "a2" : "a1", i ? w.now_us : S_ABSENT);
        CHECK(llabs(w.state->nodes[i]->r.hold_until_us - (set_us + S(601))) < S(1));
        world_restart(&w, i);
    }
    check_same(&w);
    world_free(&w);
}

TEST(a_node_that_comes_back_ends_its_ranks_itself)
{
    struct world w;
    int64_t id = running(&w);

    node_lost(&w, "a1", w.now_us);
    ended(&w, id, 1, 0, 9, EXIT_CAUSE_ORDER);
    CHECK_EQ(node_up(&w, "a1", "boot-0-1"), 0);
    world_pass(&w, S(60)); // its lease was renewed: time alone frees nothing
    CHECK_EQ(job_at(&w, id)->r.attempt, 1);
    struct desired_part *parts;
    CHECK_EQ(desired_node(w.state, 0, &parts), 1);
    CHECK_EQ(parts[0].phase, DESIRED_PHASE_KILL);
    CHECK_EQ(parts[0].n_ranks, 1);
    free(parts);
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_ORDER);
    CHECK_EQ(world_decide(&w), 1);
    world_free(&w);
}

TEST(a_new_boot_id_means_nothing_is_left)
{
    struct world w;
    int64_t id = running(&w);

    CHECK_EQ(node_up(&w, "a1", "boot-0-2"), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    CHECK_EQ(job_at(&w, id)->n_left, 1);
    CHECK_EQ(node_up(&w, "a1", "boot-0-2"), 0);
    CHECK(!w.reply.changed);
    world_free(&w);
}

TEST(ranks_gone_unseen_are_a_fault_of_the_node)
{
    struct world w;
    int64_t id = running(&w);
    struct entry_ranks_gone gone = {id, 1, (char *)"a1", NULL};

    CHECK_EQ(world_append(&w, "node:a2", ENTRY_RANKS_GONE, &gone), -EACCES);
    CHECK_EQ(world_append(&w, "node:a1", ENTRY_RANKS_GONE, &gone), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    CHECK_EQ(world_append(&w, "node:a1", ENTRY_RANKS_GONE, &gone), 0);
    CHECK(!w.reply.changed);
    world_free(&w);
}

TEST(reports_of_an_old_epoch_are_refused)
{
    struct world w;
    int64_t id = running(&w);
    struct entry_rank_exited late = {id, 1, 0, 1, 0, EXIT_CAUSE_SELF, NULL};
    struct entry_ckpt_committed commit = {
        id, 1, 10, (char *)"/ckpt/step-10.E1", {NULL, 0}
    };

    CHECK_EQ(world_append(&w, "node:a1", ENTRY_CKPT_COMMITTED, &commit), 0);
    CHECK_EQ(job_at(&w, id)->r.ckpt_step, 10);
    CHECK_EQ(world_append(&w, "node:a1", ENTRY_CKPT_COMMITTED, &commit), 0);
    CHECK(!w.reply.changed);
    CHECK_EQ(world_append(&w, "node:a3", ENTRY_CKPT_COMMITTED, &commit), -EACCES);
    ended(&w, id, 0, 0, 9, EXIT_CAUSE_SELF);
    commit.step = 20; // the attempt saves as it ends
    CHECK_EQ(world_append(&w, "node:a2", ENTRY_CKPT_COMMITTED, &commit), 0);
    ended(&w, id, 1, 0, 9, EXIT_CAUSE_ORDER);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(job_at(&w, id)->r.epoch, 2);
    commit.step = 30;
    CHECK_EQ(world_append(&w, "node:a1", ENTRY_CKPT_COMMITTED, &commit), -ESTALE);
    CHECK_EQ(world_append(&w, "node:a1", ENTRY_RANK_EXITED, &late), -ESTALE);
    CHECK_EQ(job_at(&w, id)->r.ckpt_step, 20);
    CHECK_STR(job_at(&w, id)->r.ckpt_dir, "/ckpt/step-10.E1");
    CHECK_EQ(state_of(&w, id), JOB_STATE_RECOVERING);
    all_started(&w, id);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RUNNING);
    check_same(&w);
    world_free(&w);
}

TEST(drained_nodes_keep_their_jobs_and_get_no_more)
{
    struct world w;
    int64_t id = running(&w);

    CHECK_EQ(drain(&w, "a1", true), 0);
    CHECK_EQ(drain(&w, "a3", true), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RUNNING);
    int64_t next = submit(&w, 1, 1, 1);
    CHECK_EQ(world_decide(&w), 0);
    CHECK_EQ(drain(&w, "a3", true), 0);
    CHECK(!w.reply.changed);
    CHECK_EQ(drain(&w, "a3", false), 0);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, next), JOB_STATE_STARTING);
    check_same(&w);
    world_free(&w);
}

TEST(a_cluster_described_anew_keeps_what_runs)
{
    struct world w;
    int64_t id = running(&w);
    struct world_cluster smaller = {
        .n_zones = 1, .leaves_per_zone = 1, .nodes_per_leaf = 1, .gpus = 2, .cpus = 16};
    struct world_cluster larger = {
        .n_zones = 2, .leaves_per_zone = 2, .nodes_per_leaf = 2, .gpus = 2, .cpus = 8};

    int64_t waits = submit(&w, 2, 2, 1);
    world_cluster(&w, &smaller);
    CHECK_EQ(state_of(&w, id), JOB_STATE_RUNNING);
    CHECK(w.state->nodes[1]->r.removed);
    check_same(&w);
    world_cluster(&w, &larger);
    CHECK_EQ(w.state->n_nodes, 8);
    CHECK_EQ(state_node_find(w.state, "a2"), 1);
    CHECK_EQ(w.state->nodes[1]->gpus_held, 3);
    CHECK_EQ(world_decide(&w), 1);
    CHECK_EQ(state_of(&w, waits), JOB_STATE_STARTING);
    check_same(&w);
    world_free(&w);
}

TEST(a_clock_set_while_nobody_served_ends_no_lease)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t id = submit(&w, 2, 2, 1);
    CHECK_EQ(world_decide(&w), 1);
    all_started(&w, id);
    CHECK_EQ(node_lost(&w, "a1", w.now_us), 0);
    CHECK(w.state->nodes[0]->timer.position);
    w.now_us += S(3600); // as somebody sets it; hardly any time has passed
    world_restart(&w, false);
    CHECK_EQ(w.state->nodes[0]->n_jobs, 1, "its ranks may still run");
    CHECK(w.state->nodes[0]->r.hold_until_us > w.now_us);
    check_same(&w);
    world_pass(&w, S(700));
    CHECK_EQ(w.state->nodes[0]->n_jobs, 0);
    check_same(&w);
    world_free(&w);
}

TEST(desired_sets_tell_a_node_its_part)
{
    struct world w;
    struct desired_part *parts;

    small_cluster(&w, 1, 2);
    int64_t id = submit(&w, 2, 2, 2);
    world_decide(&w);
    CHECK_EQ(desired_node(w.state, 1, &parts), 1);
    CHECK_EQ(parts[0].job->r.id, id);
    CHECK_EQ(parts[0].node_rank, 1);
    CHECK_EQ(parts[0].n_nodes, 2);
    CHECK_EQ(parts[0].first_rank, 2);
    CHECK_EQ(parts[0].n_ranks, 2);
    CHECK_EQ(parts[0].world_size, 4);
    CHECK_EQ(parts[0].gpus, 3);
    CHECK_EQ(parts[0].master_node, 0);
    CHECK_EQ(parts[0].phase, DESIRED_PHASE_RUN);
    free(parts);
    world_free(&w);
}
