/* Children that add up GPU time, and what the daemon does when their callers leave. */
#include "lib/fileio.h"
#include "lib/log.h"
#include "lib/programs.h"
#include "scheduler/usage_child.h"
#include "tests/unit/test.h"
#include <sys/mman.h>
#include <sys/wait.h>

enum { CALLS = 10, RUNNING_MAX = 4, TURNS_MAX = 1000, TURN_US = 10 * 1000 };

/* In place of our own: children that hang until they are killed, or end and say nothing. */
static int n_forks, n_waits;
static bool hangs;

pid_t programs_fork(void) {
    pid_t pid = fork();

    if (pid == 0) {
        while (hangs)
            pause();
        _exit(0);
    }
    n_forks++;
    return pid;
}

/* In place of libc's. */
pid_t waitpid(pid_t pid, int *status, int options) {
    n_waits++;
    return wait4(pid, status, options, NULL);
}

struct fixture {
    char dir[64];
    struct schedd s;
    struct api_call *calls[CALLS];
};

static void setup(struct fixture *f, bool hang) {
    struct turn_hooks hooks = {0};
    struct hai_err err = {0};

    *f = (struct fixture){0};
    n_forks = n_waits = 0;
    hangs = hang;
    strcpy(f->dir, "/tmp/hai-usage-child-XXXXXX");
    CHECK(mkdtemp(f->dir) != NULL);
    struct store_options options = {.dir = f->dir, .create = true};
    schema_init(cluster_file_schema(), &f->s.cluster);
    CHECK_EQ(store_open(&options, &f->s.store, &err), 0, "%s", err.text);
    CHECK_EQ(turn_open(f->s.store, &hooks, &f->s.turn, &err), 0, "%s", err.text);
    CHECK_EQ(loop_new(&f->s.loop, &err), 0, "%s", err.text);
    f->s.usage = usage_children_new(&f->s);
}

static void teardown(struct fixture *f) {
    usage_children_free(f->s.usage);
    loop_free(f->s.loop);
    turn_close(f->s.turn);
    store_close(f->s.store);
    schema_free(cluster_file_schema(), &f->s.cluster);
    CHECK_EQ(fileio_remove_tree(f->dir, NULL), 0);
}

static struct api_call *ask(struct fixture *f) {
    struct api_caller caller = {.principal = "read:alice"};
    struct query_usage query = {0, 20000, NULL, NULL, QUERY_BY_JOB};
    struct api_call *call = api_call_new(&f->s, NULL, NULL, &caller);

    usage_child_start(call, &query, 10);
    return call;
}

static bool was_answered;
static void (*own_free)(void *own);

static void note_answer(void *own) {
    was_answered = true;
    own_free(own);
}

/* Until so many children were begun. */
static void run(struct fixture *f, int forks) {
    for (int i = 0; i < TURNS_MAX && n_forks < forks; i++)
        loop_turn(f->s.loop, TURN_US);
    CHECK_EQ(n_forks, forks);
}

static bool any_child(void) {
    siginfo_t info;

    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

TEST(a_caller_who_leaves_is_not_waited_for)
{
    struct fixture f;

    setup(&f, true);
    for (int i = 0; i < 2 * RUNNING_MAX; i++) {
        struct api_call *call = ask(&f);
        CHECK_EQ(n_forks, MIN(i + 1, RUNNING_MAX), "children that still end count as running");
        api_call_finish(call);
    }
    CHECK_EQ(n_waits, 0, "the loop does not stand still");
    CHECK_EQ(n_forks, RUNNING_MAX);
    for (int i = 0; i < TURNS_MAX && any_child(); i++)
        loop_turn(f.s.loop, TURN_US);
    CHECK(!any_child(), "all are killed and reaped");
    struct api_call *last = ask(&f);
    CHECK_EQ(n_forks, RUNNING_MAX + 1, "there is room again");
    api_call_finish(last);
    teardown(&f);
}

TEST(whoever_waits_begins_when_one_has_left)
{
    struct fixture f;

    setup(&f, true);
    for (int i = 0; i < CALLS; i++)
        f.calls[i] = ask(&f);
    CHECK_EQ(n_forks, 1, "until it has its view");
    for (int i = 0; i < CALLS; i++) {
        run(&f, i + 1);
        api_call_finish(f.calls[i]);
    }
    CHECK_EQ(n_waits, 0);
    teardown(&f);
}

TEST(a_scheduler_that_stops_begins_no_child)
{
    struct fixture f;

    setup(&f, true);
    for (int i = 0; i < CALLS; i++)
        f.calls[i] = ask(&f);
    usage_children_close(f.s.usage);
    for (int i = 0; i < CALLS; i++)
        api_call_finish(f.calls[i]);
    CHECK_EQ(n_forks, 1);
    CHECK_EQ(rows_flush(turn_rows(f.s.turn), NULL), 0, "rows are held no more");
    teardown(&f);
}

TEST(a_child_without_an_answer_is_in_the_log)
{
    struct fixture f;
    _cleanup_(closep) int fd = memfd_create("log", MFD_CLOEXEC);
    _cleanup_(buf_free) struct buf text = {0};

    setup(&f, false);
    log_set_output(fd, LOG_FORM_JSON);
    struct api_call *call = ask(&f);
    own_free = call->own_free;
    call->own_free = note_answer;
    was_answered = false;
    for (int i = 0; i < TURNS_MAX && !was_answered; i++)
        loop_turn(f.s.loop, TURN_US);
    log_set_output(2, LOG_FORM_AUTO);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(fileio_read_end(fd, "log", 1 << 20, &text, NULL), 0);
    CHECK(strstr(buf_cstr(&text), "ended without an answer") != NULL, "%s", buf_cstr(&text));
    teardown(&f);
}
