#include "scheduler/usage_child.h"

#include "lib/fileio.h"
#include "lib/json_schema.h"
#include "lib/log.h"
#include "lib/programs.h"
#include "scheduler/usage.h"
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum {
    RUNNING_MAX = 4,
    CALLS_MAX = 64, // running and waiting
    VIEW_US = 10 * 1000 * 1000,
    RUN_US = 300 * 1000 * 1000,
    VIEW_FD = 3, // closed by the child when it has its view
    TEXT_BYTES_MAX = JSON_BYTES_MAX,
};

/* One call: it waits, or a child works for it. */
struct usage_child {
    struct usage_children *all;
    struct usage_child *next;
    struct api_call *call; // NULL: gone, and the child is about to end
    struct query_usage query;
    int64_t limit;
    pid_t pid;                  // 0: waits
    struct loop_source *ending; // of the child
    struct loop_source *viewing;
    struct loop_source *timer;
    int view_fd, answer_fd;
    bool holds; // rows, until the child has its view
};

struct usage_children {
    struct schedd *s;
    struct usage_child *first; // in the order in which they asked
    int n, n_running;
    bool closing;
};

struct usage_children *usage_children_new(struct schedd *s) {
    struct usage_children *children = hai_new(struct usage_children);

    children->s = s;
    return children;
}

void usage_children_close(struct usage_children *children) {
    children->closing = true;
}

static void let_go(struct usage_child *child) {
    if (child->holds)
        rows_hold(turn_rows(child->all->s->turn), false);
    child->holds = false;
}

static void close_fd(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void child_free(struct usage_child *child) {
    struct usage_children *all = child->all;
    struct usage_child **at = &all->first;

    while (*at != child)
        at = &(*at)->next;
    *at = child->next;
    all->n--;
    let_go(child);
    loop_source_free(child->viewing);
    loop_source_free(child->timer);
    if (child->ending)
        all->n_running--;
    loop_source_free(child->ending);
    close_fd(&child->view_fd);
    close_fd(&child->answer_fd);
    free(child);
}

void usage_children_free(struct usage_children *children) {
    while (children && children->first) {
        assert(!children->first->call);
        child_free(children->first); // it was killed; whoever outlives us reaps it
    }
    free(children);
}

static void start_next(struct usage_children *all);

/* The call is gone: it was answered, or its client left. A child is killed and not waited for: it
 * may hang in a read of a slow disk. It counts as running until it ends. */
static void on_call_gone(void *own) {
    struct usage_child *child = own;
    struct usage_children *all = child->all;

    child->call = NULL;
    if (child->pid)
        kill(child->pid, SIGKILL);
    if (child->pid && child->ending) {
        let_go(child);
        loop_io_set(child->viewing, 0);
        loop_timer_stop(child->timer);
    } else {
        child_free(child);
    }
    start_next(all);
}

static void fail(struct usage_child *child) {
    api_call_fail(child->call, 503, "not_added_up",
                  "GPU time could not be added up: the scheduler's log says why");
}

static bool read_answer(struct usage_child *child, int code, int status, struct buf *ret) {
    struct hai_err err = {0};

    if (code != CLD_EXITED || status)
        log_warning("usage: the child that adds up ended: %s %d",
                    code == CLD_EXITED ? "exit status" : "signal", status);
    else if (lseek(child->answer_fd, 0, SEEK_SET) < 0)
        log_warning("usage: the answer of the child that adds up: %m");
    else if (fileio_read_end(child->answer_fd, "usage", TEXT_BYTES_MAX, ret, &err) < 0)
        log_warning("usage: %s", hai_err_text(&err));
    else if (!ret->n_bytes)
        log_warning("usage: the child that adds up ended without an answer");
    return ret->n_bytes > 0;
}

static void on_end(pid_t pid, int code, int status, void *data) {
    struct usage_child *child = data;
    struct usage_children *all = child->all;
    struct buf text = {0};

    child->pid = 0;
    if (!child->call) {
        child_free(child);
        start_next(all);
    } else if (read_answer(child, code, status, &text)) {
        api_call_reply_json(child->call, 200, &text);
    } else {
        fail(child);
    }
    buf_free(&text);
}

static void on_late(void *data) {
    struct usage_child *child = data;

    log_warning("usage: the child that adds up took too long");
    kill(child->pid, SIGKILL);
}

/* The child has its view, or has ended. */
static void on_view(int fd, uint32_t events, void *data) {
    struct usage_child *child = data;

    loop_io_set(child->viewing, 0);
    let_go(child);
    loop_timer_after(child->timer, RUN_US);
    start_next(child->all);
}

static int write_task(struct usage_child *child, int64_t now_us, int fd, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    struct usage_task task;

    usage_gather(child->all->s, &child->query, now_us, &task);
    task.limit = child->limit;
    json_schema_dump(usage_task_schema(), &task, &text);
    return fileio_write_full(fd, text.data, text.n_bytes, 0, err);
}

/* Of the daemon's descriptors none stays open: that of schedd.lock would hold the lock for longer
 * than the daemon lives, if the daemon is killed. */
static _Noreturn void run_child(struct usage_child *child, int64_t now_us, int task_fd,
                                int view_fd) {
    struct hai_err err = {0};

    if (write_task(child, now_us, task_fd, &err) < 0) {
        fprintf(stderr, "hai-schedd: usage: %s\n", hai_err_text(&err));
        _exit(1);
    }
    int in = fcntl(task_fd, F_DUPFD, 10), out = fcntl(child->answer_fd, F_DUPFD, 10),
        view = fcntl(view_fd, F_DUPFD, 10);
    if (in >= 0 && out >= 0 && view >= 0 && dup2(in, STDIN_FILENO) >= 0 &&
        dup2(out, STDOUT_FILENO) >= 0 && dup2(view, VIEW_FD) >= 0 &&
        lseek(STDIN_FILENO, 0, SEEK_SET) == 0 && close_range(VIEW_FD + 1, UINT_MAX, 0) == 0)
        execl("/proc/self/exe", "hai-usage", "usage", child->all->s->state_dir, (char *)NULL);
    fprintf(stderr, "hai-schedd: usage: %m\n");
    _exit(1);
}

static int start(struct usage_child *child) {
    struct schedd *s = child->all->s;
    int64_t now_us = turn_now_us(s->turn);
    struct hai_err err = {0};
    int ends[2];
    _cleanup_(closep) int task_fd = memfd_create("usage", MFD_CLOEXEC);

    child->answer_fd = memfd_create("usage", MFD_CLOEXEC);
    if (task_fd < 0 || child->answer_fd < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    child->view_fd = ends[0];
    _cleanup_(closep) int view_fd = ends[1];
    /* Whoever asks again and again keeps no rows from being written. */
    if (rows_flush_some(turn_rows(s->turn), &err) < 0)
        log_warning("usage: rows are written later: %s", hai_err_text(&err));
    pid_t pid = programs_fork();
    if (pid == 0)
        run_child(child, now_us, task_fd, view_fd);
    if (pid < 0)
        return pid;
    child->pid = pid;
    child->ending = loop_child_new(s->loop, pid, on_end, child, &err);
    if (!child->ending) { // it will be killed, and is reaped when we end: nothing tells that it has
        log_warning("usage: %s", hai_err_text(&err));
        return -ECHILD;
    }
    child->all->n_running++;
    rows_hold(turn_rows(s->turn), true);
    child->holds = true;
    child->viewing = loop_io_new(s->loop, child->view_fd, EPOLLIN | EPOLLHUP, on_view, child);
    child->timer = loop_timer_new(s->loop, LOOP_MONOTONIC, on_late, child);
    loop_timer_after(child->timer, VIEW_US);
    return 0;
}

/* One after the other until it has its view: then rows are written between two. */
static void start_next(struct usage_children *all) {
    struct usage_child *next = NULL;

    if (all->closing)
        return;
    for (struct usage_child *child = all->first; child; child = child->next) {
        if (child->holds)
            return;
        if (!next && !child->pid && !child->ending)
            next = child;
    }
    if (!next || all->n_running >= RUNNING_MAX)
        return;
    int r = start(next);
    if (r < 0) {
        log_warning("usage: no child: %s", strerror(-r));
        fail(next);
    }
}

void usage_child_start(struct api_call *call, const struct query_usage *query, int64_t limit) {
    struct usage_children *all = call->s->usage;
    struct usage_child **at = &all->first;

    if (all->n >= CALLS_MAX) {
        api_call_fail(call, 503, "busy", "%d others wait for what GPUs did: try again", all->n);
        return;
    }
    struct usage_child *child = hai_new(struct usage_child);
    *child = (struct usage_child){
        .all = all, .call = call, .query = *query, .limit = limit, .view_fd = -1, .answer_fd = -1};
    while (*at)
        at = &(*at)->next;
    *at = child;
    all->n++;
    call->own = child;
    call->own_free = on_call_gone;
    api_call_hold(call);
    start_next(all);
}

/* ---- the new process ---- */

static int add_up(const char *state_dir, struct hai_err *err) {
    struct store_options options = {.dir = state_dir, .read_only = true};
    _cleanup_(store_closep) struct store *store = NULL;
    _cleanup_(buf_free) struct buf text = {0};
    struct usage_task task;
    struct usage usage;
    struct usage_view view;
    int r = store_open(&options, &store, err);

    if (r == 0)
        r = query_view(store, err);
    close(VIEW_FD);
    if (r == 0)
        r = fileio_read_end(STDIN_FILENO, "task", TEXT_BYTES_MAX, &text, err);
    if (r == 0)
        r = json_schema_parse(usage_task_schema(), text.data, text.n_bytes, 0, &task, err);
    if (r < 0)
        return r;
    r = usage_collect(store, &task, &usage, err);
    if (r == 0) {
        usage_fill(&task, &usage, &view);
        if (hai_streq(task.by, query_by_text(QUERY_BY_JOB)))
            usage_label_jobs(store, &task, &view);
        buf_clear(&text);
        json_schema_dump(usage_view_schema(), &view, &text);
        r = fileio_write_full(STDOUT_FILENO, text.data, text.n_bytes, 0, err);
        schema_free(usage_view_schema(), &view);
        usage_free(&usage);
    }
    schema_free(usage_task_schema(), &task);
    return r;
}

int usage_child_main(const char *state_dir) {
    struct hai_err err = {0};

    if (fcntl(VIEW_FD, F_GETFD) < 0) {
        fputs("hai-schedd: usage is for hai-schedd itself; people call hai usage\n", stderr);
        return 2;
    }
    if (add_up(state_dir, &err) == 0)
        return 0;
    log_error("usage: %s", hai_err_text(&err));
    return 1;
}
