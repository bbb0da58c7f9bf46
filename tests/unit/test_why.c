#include "tests/unit/core_steps.h"

static void check_why(struct world *w, int64_t id, const char *code, const char *message,
                      const char *sooner) {
    struct why why;

    why_job(w->state, job_at(w, id), &why);
    CHECK_STR(why.code, code);
    CHECK_STR(why.message, message);
    CHECK_STR(why.sooner, sooner);
}

TEST(a_waiting_job_is_told_what_is_missing)
{
    struct world w;

    small_cluster(&w, 1, 3);
    submit(&w, 1, 2, 1);
    submit(&w, 1, 1, 1);
    world_decide(&w);
    drain(&w, "a3", true);
    int64_t id = submit(&w, 1, 2, 1);
    check_why(&w, id, "resources",
              "needs 1 node with 2 free GPUs in group default; a2 has 1 free, a3 is drained, "
              "1 node is full",
              "with --gpus-per-node 1 it starts now on a2");
    int64_t behind = submit(&w, 1, 1, 1);
    check_why(&w, behind, "behind",
              "job 3 (alice, priority 30) is ahead of it in group default and needs 1 node",
              "with a higher priority it goes first");
    int64_t large = submit(&w, 3, 2, 1);
    check_why(&w, large, "nodes_out",
              "needs 3 nodes with 2 free GPUs each in group default; not enough are in service; "
              "a3 is drained",
              "returning nodes: hai undrain, hai nodes");
    world_free(&w);
}

TEST(a_job_of_many_nodes_is_told_several)
{
    struct world w;

    small_cluster(&w, 1, 6);
    int64_t id = submit(&w, 6, 2, 1);
    check_why(&w, id, "starts_now", "starts now on a1, a2, a3, a4 and 2 more", "");
    world_free(&w);
}

/* A job that is not there yet is told what it would be told after its submission. */
TEST(a_dry_run_says_what_a_submission_would)
{
    struct world w;
    struct hai_err err = {0};
    struct why dry;

    small_cluster(&w, 1, 2);
    for (int i = 0; i < 6; i++) {
        struct entry_job_spec spec = world_spec();
        struct why why;
        spec.user = (char *)"alice";
        spec.group = (char *)"default";
        spec.gpus_per_node = 2;
        spec.priority = i == 4 ? 50 : 30; // before those that wait
        CHECK_EQ(why_spec(w.state, &spec, SCOPE_SUBMIT, &dry, &err), 0, "%s", err.text);
        int64_t id = world_submit(&w, &spec);
        why_job(w.state, job_at(&w, id), &why);
        CHECK_STR(dry.code, why.code, "job %d", i);
        CHECK_STR(dry.message, why.message, "job %d", i);
        world_decide(&w);
    }
    CHECK_STR(dry.code, "resources");
    struct entry_job_spec large = world_spec();
    large.user = (char *)"alice";
    large.group = (char *)"default";
    large.nodes = 3;
    CHECK_EQ(why_spec(w.state, &large, SCOPE_SUBMIT, &dry, &err), -EINVAL);
    CHECK_STR(err.code, "impossible");
    world_free(&w);
}

TEST(a_job_that_can_start_says_so)
{
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t id = submit(&w, 1, 1, 1);
    check_why(&w, id, "starts_now", "starts now on a1", "");
    world_decide(&w);
    check_why(&w, id, "starting", "attempt 1: 0 of 1 ranks run; waits for a1", "");
    all_started(&w, id);
    check_why(&w, id, "running", "runs on a1", "");
    stop(&w, "submit:alice", id, false);
    check_why(&w, id, "ending", "waits until its ranks are surely gone: a1 ends them", "");
    ended(&w, id, 0, 0, 15, EXIT_CAUSE_ORDER);
    check_why(&w, id, "user", "stopped by alice", "");
    world_free(&w);
}

TEST(a_job_on_a_lost_node_says_until_when)
{
    struct why why;
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t id = submit(&w, 1, 1, 1);
    world_decide(&w);
    all_started(&w, id);
    node_lost(&w, "a1", w.now_us);
    check_why(&w, id, "node_lease", "waits until its ranks are surely gone: a1 is lost",
              "when the node is fenced");
    why_job(w.state, job_at(&w, id), &why);
    CHECK_EQ(why.at_us, w.state->nodes[0]->r.hold_until_us);
    world_free(&w);
}

TEST(pauses_and_holds_are_told)
{
    struct entry_job_spec spec = world_spec();
    struct world w;

    small_cluster(&w, 1, 1);
    spec.held = true;
    int64_t id = world_submit(&w, &spec);
    check_why(&w, id, "held", "it was submitted held; it waits for hai resume 1", "");
    resume(&w, id);
    suspend(&w, id);
    check_why(&w, id, "suspended", "suspended by alice; it waits for hai resume 1", "");
    resume(&w, id);
    for (int i = 0; i < 2; i++) {
        world_decide(&w);
        all_started(&w, id);
        ended(&w, id, 0, 0, 11, EXIT_CAUSE_SELF);
    }
    check_why(&w, id, "backoff",
              "rank 0 on a1 was killed (signal 11); restart 2 of at most 20 waits a moment", "");
    world_free(&w);
}
