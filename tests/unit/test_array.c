/* Arrays: one entry, elements made as they can run, the cap, and how an array ends. */
#include "scheduler/core/array.h"
#include "tests/unit/core_steps.h"

static int64_t submit_array(struct world *w, int64_t last, int64_t cap, int64_t gpus) {
    struct entry_range range = {0, last, 1};
    struct entry_job_spec spec = world_spec();

    spec.gpus_per_node = gpus;
    spec.restart_when = 0;
    spec.array.items = &range;
    spec.array.n = 1;
    spec.array_cap = cap ? cap : S_ABSENT;
    return world_submit(w, &spec);
}

static int64_t n_running(struct world *w, int64_t array) {
    int64_t n = 0;

    for (const struct job *job = w->state->jobs_first; job; job = job->next)
        n += job->r.array == array && state_job_live(job);
    return n;
}

/* End every element that runs with a code; returns how many did. */
static int64_t end_running(struct world *w, int64_t array, int64_t code) {
    struct job *parent = job_at(w, array), *job = array_next_open(parent, parent);
    int64_t n = 0;

    while (job) {
        int64_t id = job->r.id;
        struct job *next = array_next_open(parent, job);
        if (state_job_live(job)) {
            all_started(w, id);
            CHECK_EQ(ended(w, id, 0, code, 0, EXIT_CAUSE_SELF), 0);
            n++;
        }
        job = next;
    }
    return n;
}

TEST(indices)
{
    struct entry_range ranges[] = {
        {1,  1,  1},
        {3,  3,  1},
        {7,  9,  1},
        {20, 30, 5},
    };
    struct entry_job_spec spec = world_spec();
    static const int64_t all[] = {1, 3, 7, 8, 9, 20, 25, 30};

    spec.array.items = ranges;
    spec.array.n = ARRAY_SIZE(ranges);
    CHECK_EQ(array_check(&spec, NULL), 0);
    CHECK_EQ(array_count(&spec), (int64_t)ARRAY_SIZE(all));
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        CHECK_EQ(array_index(&spec, (int64_t)i), all[i]);
        CHECK_EQ(array_number(&spec, all[i]), (int64_t)i);
    }
    CHECK_EQ(array_number(&spec, 2), -1);
    CHECK_EQ(array_number(&spec, 21), -1);
    CHECK_EQ(array_number(&spec, 31), -1);
    CHECK_EQ(array_index(&spec, ARRAY_SIZE(all)), -1);
    ranges[2].first = 3;
    CHECK_EQ(array_check(&spec, NULL), -EINVAL);
    ranges[2].first = 7;
    ranges[3] = (struct entry_range){20, 20 + ARRAY_MAX, 1};
    CHECK_EQ(array_check(&spec, NULL), -ERANGE);
}

/* 10,000 elements are one entry and few jobs, and all of them run. */
TEST(large)
{
    struct world w;

    small_cluster(&w, 1, 16);
    size_t before = w.n_log;
    int64_t id = submit_array(&w, ARRAY_MAX - 1, 0, 1), after = submit(&w, 1, 1, 1);
    CHECK_EQ(w.n_log, before + 2);
    CHECK_EQ(after, id + ARRAY_MAX + 1);
    CHECK_EQ(w.state->n_jobs, 1 + ARRAY_AHEAD + 1);
    _cleanup_(buf_free) struct buf bytes = {0};
    state_encode(w.state, &bytes);
    CHECK(bytes.n_bytes < 32 * 1024, "%zu", bytes.n_bytes);
    world_decide(&w);
    CHECK_EQ(n_running(&w, id), 32);
    CHECK_EQ(job_at(&w, id)->array->n_fresh, ARRAY_AHEAD);
    CHECK_EQ(state_of(&w, after), JOB_STATE_QUEUED); // all of the array come first
    int64_t n_ended = 0;
    while (job_at(&w, id)->array) {
        int64_t n = end_running(&w, id, 0);
        CHECK(n > 0);
        if (!n)
            break;
        n_ended += n;
        CHECK(w.state->n_jobs - w.state->n_ended <= 2 + ARRAY_AHEAD + 32);
        world_decide(&w);
    }
    CHECK_EQ(n_ended, ARRAY_MAX);
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUCCEEDED);
    CHECK_EQ(job_at(&w, id)->r.exit_code, 0);
    CHECK_EQ(state_of(&w, after), JOB_STATE_STARTING);
    check_same(&w);
    world_free(&w);
}

/* People call an element 17_3 before it is a job as well, and until its array has ended. */
TEST(labels)
{
    struct entry_range range = {1, 999, 2};
    struct entry_job_spec spec = world_spec();
    struct world w;

    small_cluster(&w, 1, 4);
    spec.gpus_per_node = 1;
    spec.array.items = &range;
    spec.array.n = 1;
    int64_t id = world_submit(&w, &spec), after = submit(&w, 1, 1, 1);
    const struct {
        int64_t id;
        const char *format; // with the array's id
    } cases[] = {
        {id,           "%lld"    },
        {id + 1,       "%lld_1"  }, // a job
        {id + 3,       "%lld_5"  },
        {id + 1 + 300, "%lld_601"}, // not yet
        {id + 500,     "%lld_999"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char wanted[48];
        (void)snprintf(wanted, sizeof wanted, cases[i].format, (long long)id);
        CHECK_STR(array_label_of(w.state, cases[i].id).text, wanted);
    }
    CHECK_EQ(after, id + 501);
    _cleanup_free_ char *plain = hai_asprintf("%lld", (long long)after);
    _cleanup_free_ char *unknown = hai_asprintf("%lld", (long long)after + 7);
    CHECK_STR(array_label_of(w.state, after).text, plain);
    CHECK_STR(array_label_of(w.state, after + 7).text, unknown);
    world_free(&w);
}

/* Never more at once than the cap, through restarts of the scheduler. */
TEST(cap)
{
    struct why why;
    struct world w;

    small_cluster(&w, 1, 4);
    int64_t id = submit_array(&w, 9, 3, 1);
    world_decide(&w);
    CHECK_EQ(n_running(&w, id), 3);
    why_job(w.state, job_at(&w, id), &why);
    CHECK_STR(why.code, "array_cap");
    CHECK_STR(why.message, "3 of its array's elements run, as many as it allows");
    CHECK_STR(array_label(&job_at(&w, id + 3)->r).text, "1_2");
    CHECK(!job_at(&w, id + 4));
    CHECK_EQ(array_of(w.state, id + 10)->r.id, id);
    CHECK(!array_of(w.state, id + 11));
    world_restart(&w, true);
    CHECK_EQ(array_next_open(job_at(&w, id), job_at(&w, id))->r.id, id + 1);
    /* A suspended one keeps its place. */
    all_started(&w, id + 1);
    CHECK_EQ(suspend(&w, id + 1), 0);
    ended(&w, id + 1, 0, 0, 15, EXIT_CAUSE_ORDER);
    world_decide(&w);
    CHECK_EQ(state_of(&w, id + 1), JOB_STATE_SUSPENDED);
    CHECK_EQ(n_running(&w, id), 2);
    CHECK_EQ(resume(&w, id + 1), 0);
    for (int round = 0; round < 4; round++) {
        world_decide(&w);
        CHECK(n_running(&w, id) <= 3);
        end_running(&w, id, round == 2 ? 7 : 0);
        world_restart(&w, round & 1);
    }
    CHECK_EQ(state_of(&w, id), JOB_STATE_FAILED);
    CHECK_EQ(job_at(&w, id)->r.exit_code, 7);
    CHECK_STR(job_at(&w, id)->r.message,
              "7 of 10 elements succeeded, 3 failed, 0 timed out, 0 stopped");
    check_same(&w);
    world_free(&w);
}

/* stop, suspend, resume and set reach all elements, made and not made. */
TEST(whole_array)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t id = submit_array(&w, 199, 0, 1), behind = submit(&w, 1, 1, 1);
    world_decide(&w);
    CHECK_EQ(n_running(&w, id), 4);
    CHECK_EQ(suspend(&w, id), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_SUSPENDED);
    for (int64_t k = 1; k <= 4; k++)
        ended(&w, id + k, 0, 0, 15, EXIT_CAUSE_ORDER);
    world_decide(&w);
    CHECK_EQ(n_running(&w, id), 0);
    CHECK_EQ(state_of(&w, id + 4), JOB_STATE_SUSPENDED);
    CHECK_EQ(state_of(&w, id + 5), JOB_STATE_SUSPENDED);
    CHECK_EQ(state_of(&w, behind), JOB_STATE_STARTING);
    struct entry_job_set set = {id, 50, S_ABSENT, NULL};
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SET, &set), 0);
    CHECK_EQ(w.reply.id, id);
    CHECK_EQ(resume(&w, id), 0);
    world_decide(&w);
    CHECK_EQ(n_running(&w, id), 3);
    CHECK_EQ(job_at(&w, id + 1)->r.priority, 50);
    end_running(&w, id, 0);
    world_decide(&w);
    CHECK_EQ(job_at(&w, job_at(&w, id)->array->last->r.id)->r.priority, 50);
    /* One that is no job yet can be stopped. */
    CHECK(!job_at(&w, id + 150));
    CHECK_EQ(stop(&w, "submit:bob", id + 150, false), -EACCES);
    CHECK(!job_at(&w, id + 150));
    CHECK_EQ(stop(&w, "submit:alice", id + 150, false), 0);
    CHECK_EQ(state_of(&w, id + 150), JOB_STATE_STOPPED);
    CHECK_EQ(job_at(&w, id + 150)->r.array_index, 149);
    check_same(&w);
    CHECK_EQ(stop(&w, "submit:alice", id, true), 0);
    CHECK_EQ(state_of(&w, id), JOB_STATE_QUEUED); // until its last element is gone
    CHECK_EQ(suspend(&w, id), -EINVAL);           // and nothing takes the stop back
    CHECK_EQ(resume(&w, id), 0);
    CHECK_EQ(job_at(&w, id)->r.wanted, WANTED_STOP);
    for (struct job *a = job_at(&w, id), *job = array_next_open(a, a); job;) {
        int64_t last = job->r.id;
        job = array_next_open(a, job);
        ended(&w, last, 0, 0, 9, EXIT_CAUSE_ORDER);
    }
    CHECK_EQ(state_of(&w, id), JOB_STATE_STOPPED);
    CHECK_STR(job_at(&w, id)->r.message,
              "3 of 200 elements succeeded, 0 failed, 0 timed out, 197 stopped");
    check_same(&w);
    world_free(&w);
}

/* What an array waits for comes before its first element; those that wait for it, after the last.
 */
TEST(conditions)
{
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t first = submit(&w, 1, 1, 1);
    struct entry_after after = {first, AFTER_OK, (enum job_state) - 1, NULL, S_ABSENT};
    struct entry_range range = {5, 6, 1};
    struct entry_job_spec spec = world_spec();
    spec.gpus_per_node = 1;
    spec.array.items = &range;
    spec.array.n = 1;
    spec.after.items = &after;
    spec.after.n = 1;
    int64_t array = world_submit(&w, &spec);
    after.job = array;
    spec.array.n = 0;
    int64_t last = world_submit(&w, &spec);
    CHECK_EQ(last, array + 3);
    world_decide(&w);
    CHECK(!job_at(&w, array + 1));
    all_started(&w, first);
    ended(&w, first, 0, 0, 0, EXIT_CAUSE_SELF);
    world_decide(&w);
    CHECK_EQ(state_of(&w, array + 2), JOB_STATE_STARTING);
    CHECK_EQ(job_at(&w, array + 2)->r.spec.after.n, 0u);
    CHECK_EQ(state_of(&w, last), JOB_STATE_QUEUED);
    CHECK_EQ(end_running(&w, array, 0), 2);
    world_decide(&w);
    CHECK_EQ(state_of(&w, last), JOB_STATE_STARTING);
    check_same(&w);
    world_free(&w);
}

/* The key covers the whole array. */
TEST(key)
{
    uint8_t hash[KEY_HASH_BYTES] = {1}, digest[KEY_HASH_BYTES] = {2};
    struct entry_range range = {0, 9, 1};
    struct entry_job_spec spec = world_spec();
    struct world w;

    small_cluster(&w, 1, 2);
    spec.user = (char *)"alice";
    spec.name = (char *)"sweep";
    spec.group = (char *)"default";
    spec.array.items = &range;
    spec.array.n = 1;
    struct entry_job_submit in = {
        spec, {hash,   sizeof hash  },
         {digest, sizeof digest}
    };
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SUBMIT, &in), 0);
    int64_t id = w.reply.id, next = w.state->r.next_job;
    CHECK_EQ(world_append(&w, "submit:alice", ENTRY_JOB_SUBMIT, &in), 0);
    CHECK(w.reply.repeated && w.reply.id == id);
    CHECK_EQ(w.state->r.next_job, next);
    world_free(&w);
}

/* Which elements wait, as people write it. */
TEST(waiting)
{
    char text[64], small[16];
    struct world w;

    small_cluster(&w, 1, 2);
    int64_t id = submit_array(&w, 199, 0, 1);
    array_waiting_list(job_at(&w, id), text, sizeof text);
    CHECK_STR(text, "0-199");
    world_decide(&w);
    array_waiting_list(job_at(&w, id), text, sizeof text);
    CHECK_STR(text, "4-199");
    CHECK_EQ(stop(&w, "submit:alice", id + 1 + 150, false), 0); // no job yet
    CHECK_EQ(stop(&w, "submit:alice", id + 1 + 120, false), 0);
    CHECK_EQ(stop(&w, "submit:alice", id + 1 + 10, false), 0);
    CHECK_EQ(stop(&w, "submit:alice", id + 1 + 199, false), 0);
    array_waiting_list(job_at(&w, id), text, sizeof text);
    CHECK_STR(text, "4-9,11-119,121-149,151-198");
    array_waiting_list(job_at(&w, id), small, sizeof small);
    CHECK_STR(small, "4-9,11-119,...");
    end_running(&w, id, 0);
    world_decide(&w);
    array_waiting_list(job_at(&w, id), text, sizeof text);
    CHECK_STR(text, "8-9,11-119,121-149,151-198");
    check_same(&w);
    world_free(&w);
}
