#include "agent/upd_daemon.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/log.h"
#include "lib/timefmt.h"

struct upd_daemon {
    struct loop *loop;
    char *name;
    char **argv;
    char *log;
    const struct upd_box *box;
    struct loop_source *child;
    struct loop_source *timer;
    int64_t started_us;
    int64_t pause_us;
    pid_t pid;
    bool stopped;
    bool held;
};

static void on_timer(void *data) {
    upd_daemon_start(data);
}

struct upd_daemon *upd_daemon_new(struct loop *loop, const char *name, const char *const argv[],
                                  const char *log, const struct upd_box *box) {
    struct upd_daemon *daemon = hai_new(struct upd_daemon);
    size_t n = 0;

    while (argv[n])
        n++;
    daemon->argv = hai_new_array(char *, n + 1);
    for (size_t i = 0; i < n; i++)
        daemon->argv[i] = hai_strdup(argv[i]);
    daemon->loop = loop;
    daemon->name = hai_strdup(name);
    daemon->log = hai_strdup(log);
    daemon->box = box;
    daemon->pause_us = UPD_RESTART_MIN_US;
    daemon->timer = loop_timer_new(loop, LOOP_MONOTONIC, on_timer, daemon);
    return daemon;
}

void upd_daemon_free(struct upd_daemon *daemon) {
    if (!daemon)
        return;
    loop_source_free(daemon->child);
    loop_source_free(daemon->timer);
    for (char **arg = daemon->argv; *arg; arg++)
        free(*arg);
    free(daemon->argv);
    free(daemon->name);
    free(daemon->log);
    free(daemon);
}

bool upd_daemon_running(const struct upd_daemon *daemon) {
    return daemon->pid > 0;
}

/* In the child. The loop has blocked signals in this process: the daemon must not inherit that. */
static _Noreturn void become(const struct upd_daemon *daemon, pid_t supervisor) {
    sigset_t none;
    int fd = open(daemon->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)setsid();
    if (fd < 0 || null < 0 || dup2(null, 0) < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(126);
    if (daemon->box && upd_box_enter(daemon->box) < 0)
        _exit(126);
    // The scheduler does not outlive its supervisor, nor one that was killed a moment ago.
    if (!daemon->box && (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != supervisor))
        _exit(126);
    execv(daemon->argv[0], daemon->argv);
    _exit(127);
}

static void plan_restart(struct upd_daemon *daemon) {
    if (timefmt_boottime_us() - daemon->started_us >= UPD_RESTART_GOOD_US)
        daemon->pause_us = UPD_RESTART_MIN_US;
    loop_timer_after(daemon->timer, daemon->pause_us);
    daemon->pause_us = MIN(2 * daemon->pause_us, UPD_RESTART_MAX_US);
}

static void on_exit_of(pid_t pid, int code, int status, void *data) {
    struct upd_daemon *daemon = data;

    loop_source_free(daemon->child);
    daemon->child = NULL;
    daemon->pid = 0;
    if (daemon->stopped)
        return;
    log_warning("%s (pid %d) ended with %s %d; starting it again in %.1f s", daemon->name, pid,
                code == CLD_EXITED ? "status" : "signal", status, (double)daemon->pause_us / 1e6);
    plan_restart(daemon);
}

void upd_daemon_start(struct upd_daemon *daemon) {
    struct hai_err err = {0};

    if (daemon->stopped || daemon->held || daemon->pid > 0)
        return;
    daemon->started_us = timefmt_boottime_us();
    pid_t self = getpid(), pid = fork();
    if (pid == 0)
        become(daemon, self);
    if (pid < 0) {
        log_error("%s: cannot fork: %m", daemon->name);
        plan_restart(daemon);
        return;
    }
    daemon->pid = pid;
    daemon->child = loop_child_new(daemon->loop, pid, on_exit_of, daemon, &err);
    assert(daemon->child); // our own child cannot be gone before it was waited for
}

void upd_daemon_hold(struct upd_daemon *daemon) {
    daemon->held = true;
}

void upd_daemon_resume(struct upd_daemon *daemon) {
    daemon->held = false;
    upd_daemon_start(daemon); // one whose end was not heard of yet is started when it is
}

void upd_daemon_stop(struct upd_daemon *daemon, int signal) {
    daemon->stopped = true;
    loop_timer_stop(daemon->timer);
    if (daemon->pid > 0 && signal)
        (void)kill(daemon->pid, signal);
}
