#include "lib/pure/buf.h"
#include "scheduler/core/jobstate.h"
#include "tests/unit/test.h"

#define DOC "docs/job-states.md"

static const struct {
    enum job_state from, to;
    const char *when;
} transitions[] = {
#define ROW_(f, t, w) {JOB_STATE_##f, JOB_STATE_##t, w},
    JOB_TRANSITIONS(ROW_)
#undef ROW_
};

static void print(struct buf *ret) {
    buf_printf(ret, "# States of a job\n\n"
                    "This table is made from `JOB_TRANSITIONS` in `scheduler/core/jobstate.h`;\n"
                    "`HAI_WRITE=1 build/tests/unit/test_jobstate` writes it again.\n\n"
                    "| from | to | when |\n| --- | --- | --- |\n");
    for (size_t i = 0; i < ARRAY_SIZE(transitions); i++)
        buf_printf(ret, "| %s | %s | %s |\n", job_state_text(transitions[i].from),
                   job_state_text(transitions[i].to), transitions[i].when);
}

TEST(the_table_in_docs_is_this_one)
{
    _cleanup_(buf_free) struct buf made = {0};
    char text[16384];

    print(&made);
    if (getenv("HAI_WRITE")) {
        FILE *out = fopen(DOC, "w");
        CHECK(out);
        if (out) {
            fwrite(made.data, 1, made.n_bytes, out);
            fclose(out);
        }
    }
    FILE *in = fopen(DOC, "r");
    CHECK(in);
    if (!in)
        return;
    size_t n = fread(text, 1, sizeof text - 1, in);
    fclose(in);
    text[n] = 0;
    CHECK_STR(text, buf_cstr(&made));
}

TEST(only_listed_changes_are_allowed)
{
    int n = 0;

    for (int from = 0; from < JOB_STATE_COUNT; from++)
        for (int to = 0; to < JOB_STATE_COUNT; to++) {
            n += jobstate_allowed(from, to);
            if (job_state_ended(from) || from == to)
                CHECK(!jobstate_allowed(from, to), "%s", job_state_text(from));
        }
    CHECK_EQ(n, (int)ARRAY_SIZE(transitions)); // each listed once
}

/* Every state can be reached from a submission, and every one has an end ahead of it. */
TEST(no_state_is_a_trap)
{
    for (int start = 0; start < JOB_STATE_COUNT; start++) {
        bool seen[JOB_STATE_COUNT] = {false};
        bool ends = job_state_ended(start);
        seen[start] = true;
        for (int round = 0; round < JOB_STATE_COUNT; round++)
            for (size_t i = 0; i < ARRAY_SIZE(transitions); i++)
                if (seen[transitions[i].from]) {
                    seen[transitions[i].to] = true;
                    ends |= job_state_ended(transitions[i].to);
                }
        CHECK(ends, "%s", job_state_text(start));
        for (int to = 0; start == JOB_STATE_HELD && to < JOB_STATE_COUNT; to++)
            CHECK(seen[to], "%s", job_state_text(to));
    }
}
