#include "lib/fileio.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/timefmt.h"
#include "tests/unit/test.h"

#include <signal.h>
#include <sys/wait.h>

struct seen {
    struct loop *loop;
    struct loop_source *source;
    char order[32];
    int n;
    int code;
    int status;
};

static struct loop *loop_make(void) {
    struct loop *loop = NULL;

    CHECK_EQ(loop_new(&loop, NULL), 0);
    return loop;
}

static void mark(struct seen *seen, char c) {
    if (seen->n < (int)sizeof seen->order - 1)
        seen->order[seen->n++] = c;
}

static void on_io(int fd, uint32_t events, void *data) {
    char c;

    CHECK(events & EPOLLIN);
    if (read(fd, &c, 1) == 1)
        mark(data, c);
}

static void on_turn_end(void *data) {
    mark(data, '|');
}

TEST(turn_collects_and_ends_once)
{
    _cleanup_(loop_freep) struct loop *loop = loop_make();
    struct seen seen = {0};
    int a[2];
    int b[2];

    CHECK_EQ(pipe(a), 0);
    CHECK_EQ(pipe(b), 0);
    _cleanup_(loop_source_freep) struct loop_source *first =
        loop_io_new(loop, a[0], EPOLLIN, on_io, &seen);
    _cleanup_(loop_source_freep) struct loop_source *second =
        loop_io_new(loop, b[0], EPOLLIN, on_io, &seen);
    loop_set_turn_end(loop, on_turn_end, &seen);
    CHECK_EQ(loop_turn(loop, 0), 0);
    CHECK_STR(seen.order, "", "no turn without work");
    CHECK_EQ(write(a[1], "xx", 2), 2);
    CHECK_EQ(write(b[1], "x", 1), 1);
    CHECK_EQ(loop_turn(loop, -1), 1);
    CHECK_STR(seen.order, "xxx|");
    loop_io_set(first, 0);
    CHECK_EQ(write(a[1], "y", 1), 1);
    CHECK_EQ(loop_turn(loop, 0), 0, "paused");
    loop_io_set(first, EPOLLIN);
    CHECK_EQ(loop_turn(loop, 0), 1);
    CHECK_STR(seen.order, "xxx|y|");
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
    }
}

static void on_timer(void *data) {
    struct seen *seen = data;

    mark(seen, 't');
    loop_quit(seen->loop, 7);
    loop_quit(seen->loop, 8);
}

static void timer_from_hook(void *data) {
    struct seen *seen = data;

    if (seen->n == 1)
        loop_timer_after(seen->source, 1000);
}

static void on_post(void *data) {
    mark(data, 'p');
}

/* A timer that the hook sets must fire though nothing else happens. */
TEST(timers_posts_and_quit)
{
    for (int clock = LOOP_MONOTONIC; clock <= LOOP_BOOTTIME; clock++) {
        _cleanup_(loop_freep) struct loop *loop = loop_make();
        struct seen seen = {.loop = loop};
        seen.source = loop_timer_new(loop, clock, on_timer, &seen);
        int64_t start_us = timefmt_monotonic_us();
        loop_set_turn_end(loop, timer_from_hook, &seen);
        loop_post(loop, on_post, &seen);
        CHECK_STR(seen.order, "", "not from within the caller");
        CHECK_EQ(loop_run(loop), 7);
        CHECK_STR(seen.order, "pt");
        CHECK(timefmt_monotonic_us() - start_us >= 1000);
        loop_source_free(seen.source);
    }
}

TEST(timer_stop_and_rearm)
{
    _cleanup_(loop_freep) struct loop *loop = loop_make();
    struct seen seen = {.loop = loop};
    _cleanup_(loop_source_freep) struct loop_source *timer =
        loop_timer_new(loop, LOOP_BOOTTIME, on_timer, &seen);

    loop_timer_at(timer, timefmt_boottime_us());
    loop_timer_stop(timer);
    CHECK_EQ(loop_turn(loop, 2000), 0);
    loop_timer_at(timer, 0);
    CHECK_EQ(loop_turn(loop, 2000), 1);
    CHECK_STR(seen.order, "t");
}

TEST(posts_left_behind_are_freed)
{
    struct seen seen = {0};
    struct loop *loop = loop_make();

    loop_post(loop, on_post, &seen);
    loop_free(loop);
    CHECK_STR(seen.order, "");
}

TEST(defers_fire_once_for_each_arming)
{
    _cleanup_(loop_freep) struct loop *loop = loop_make();
    struct seen seen = {0};
    _cleanup_(loop_source_freep) struct loop_source *defer = loop_defer_new(loop, on_post, &seen);

    CHECK_EQ(loop_turn(loop, 0), 0);
    loop_defer_arm(defer);
    loop_defer_arm(defer);
    CHECK_EQ(loop_turn(loop, 0), 1);
    CHECK_EQ(loop_turn(loop, 0), 0);
    loop_defer_arm(defer);
    CHECK_EQ(loop_turn(loop, 0), 1);
    CHECK_STR(seen.order, "pp");
}

static void on_child(pid_t pid, int code, int status, void *data) {
    struct seen *seen = data;

    seen->code = code;
    seen->status = status;
    loop_source_free(TAKE_PTR(seen->source)); // allowed within the callback
    loop_quit(seen->loop, 0);
}

static void child_case(int exit_code, int signal, int code, int status) {
    _cleanup_(loop_freep) struct loop *loop = loop_make();
    struct seen seen = {.loop = loop};

    pid_t pid = fork();
    if (pid == 0) {
        if (signal)
            raise(signal);
        _exit(exit_code);
    }
    seen.source = loop_child_new(loop, pid, on_child, &seen, NULL);
    CHECK(seen.source != NULL);
    CHECK_EQ(loop_run(loop), 0);
    CHECK_EQ(seen.code, code);
    CHECK_EQ(seen.status, status);
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), -1, "reaped");
}

TEST(children)
{
    child_case(3, 0, CLD_EXITED, 3);
    child_case(0, SIGKILL, CLD_KILLED, SIGKILL);
    _cleanup_(loop_freep) struct loop *loop = loop_make();
    struct hai_err err = {0};
    CHECK(!loop_child_new(loop, 0x3ffffffe, on_child, NULL, &err));
    CHECK_EQ(err.r, -ESRCH);
}

/* A grandchild: its exit is seen, its status is not ours to know. */
TEST(processes_of_others)
{
    _cleanup_(loop_freep) struct loop *loop = loop_make();
    struct seen seen = {.loop = loop, .code = -1};
    int ends[2];
    pid_t grandchild = 0;

    CHECK_EQ(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        grandchild = fork();
        if (grandchild == 0) {
            usleep(20000);
            _exit(5);
        }
        (void)!write(ends[1], &grandchild, sizeof grandchild);
        waitpid(grandchild, NULL, 0);
        _exit(0);
    }
    CHECK_EQ(fileio_read_full(ends[0], &grandchild, sizeof grandchild, FILEIO_HERE, NULL), 0);
    seen.source = loop_child_new(loop, grandchild, on_child, &seen, NULL);
    CHECK_EQ(loop_run(loop), 0);
    CHECK_EQ(seen.code, 0);
    waitpid(pid, NULL, 0);
    close(ends[0]);
    close(ends[1]);
}

static void on_signal(int signal, void *data) {
    struct seen *seen = data;

    CHECK_EQ(signal, SIGUSR1);
    loop_quit(seen->loop, 4);
}

TEST(signals)
{
    _cleanup_(loop_freep) struct loop *loop = loop_make();
    struct seen seen = {.loop = loop};
    _cleanup_(loop_source_freep) struct loop_source *source =
        loop_signal_new(loop, SIGUSR1, on_signal, &seen);

    raise(SIGUSR1);
    CHECK_EQ(loop_run(loop), 4);
}

static void block(void *data) {
    usleep(LOOP_SLOW_US + 5000);
}

TEST(slow_turns_are_counted_and_logged)
{
    _cleanup_(loop_freep) struct loop *loop = loop_make();
    char line[512] = "";
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    log_set_output(ends[1], LOG_FORM_JSON);
    loop_post(loop, block, NULL);
    CHECK_EQ(loop_turn(loop, 0), 1);
    log_set_output(STDERR_FILENO, LOG_FORM_AUTO);
    CHECK_EQ(loop_stats(loop).n_slow, 1);
    CHECK(loop_stats(loop).longest_us > LOOP_SLOW_US);
    CHECK(read(ends[0], line, sizeof line - 1) > 0);
    CHECK(strstr(line, "the event loop stood for") != NULL);
    close(ends[0]);
    close(ends[1]);
}
