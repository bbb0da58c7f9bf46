/* hai-shim: holds the ranks of one attempt on one node. Started by hai-agentd only (shim_proto.h).
 */
#include "agent/shim.h"
#include "agent/shim_box.h"
#include "agent/shim_control.h"
#include "agent/shim_life.h"
#include "agent/shim_output.h"
#include "agent/shim_start.h"
#include "lib/timefmt.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { AGAIN_US = 20000 }; // how soon a kill is repeated and emptiness looked at again

/* Collect the children that ended: ranks, the namespace's init, and orphans given to us. */
static void reap(struct shim *s) {
    for (siginfo_t info = {0}; waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid;
         info.si_pid = 0) {
        for (uint32_t i = 0; i < s->spec->n_ranks; i++)
            if (s->ranks[i].state.pid == info.si_pid && !s->ranks[i].state.exited)
                shim_life_ended(s, (int)i, info.si_code, info.si_status);
        if (info.si_pid == s->init_pid)
            s->init_pid = 0;
    }
}

/* What the namespace's init said; if it was killed, so were its ranks. */
static void read_init(struct shim *s) {
    struct shim_init_exit e;
    bool ended = s->init_pid == 0;

    while (read(s->init_fd, &e, sizeof e) == (ssize_t)sizeof e)
        if (e.index >= 0 && (uint32_t)e.index < s->spec->n_ranks)
            shim_life_ended(s, e.index, e.code, e.status);
    for (uint32_t i = 0; ended && i < s->spec->n_ranks; i++)
        shim_life_ended(s, (int)i, CLD_KILLED, SIGKILL);
    if (ended) { // a pipe without a writer is always ready
        close(s->init_fd);
        s->init_fd = -1;
    }
}

/* Once the ranks have ended, see what they left behind to its end. Returns whether to look again
 * soon. */
static bool finish(struct shim *s) {
    if (s->gone)
        return false;
    if (!shim_box_empty(s)) {
        // After SIGTERM the children of a shell may still be saving; else nobody waits for them.
        if (s->killing || (!s->n_alive && !s->kill_at_us))
            shim_box_kill(s);
        return s->killing || !s->n_alive;
    }
    if (s->n_alive)
        return s->killing;
    for (uint32_t i = 0; i < s->spec->n_ranks; i++)
        if (shim_life_drain(
                s,
                (int)i)) { // held open by somebody outside: not our rank's output any more
            close(s->ranks[i].output_fd);
            s->ranks[i].output_fd = -1;
            shim_output_end(s, &s->ranks[i]);
        }
    shim_box_remove(s);
    s->gone = true;
    shim_control_gone(s);
    return false;
}

static void set_timer(int timer_fd, const struct shim *s, bool again) {
    int64_t at_us = s->lease_until_us;

    if (s->kill_at_us)
        at_us = MIN(at_us, s->kill_at_us);
    if (again)
        at_us = timefmt_boottime_us() + AGAIN_US;
    struct itimerspec spec = {
        .it_value = {at_us / 1000000, at_us % 1000000 * 1000}
    };
    if (s->gone || (s->killing && !again))
        spec = (struct itimerspec){0};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

enum { POLL_LISTEN, POLL_TIMER, POLL_INIT, POLL_STDIN, POLL_CONNECTIONS };

static size_t fill_poll(const struct shim *s, int timer_fd, struct pollfd *polls) {
    size_t n = POLL_CONNECTIONS;

    polls[POLL_LISTEN] = (struct pollfd){SHIM_LISTEN_FD, POLLIN, 0};
    polls[POLL_TIMER] = (struct pollfd){timer_fd, POLLIN, 0};
    polls[POLL_INIT] = (struct pollfd){s->init_fd, POLLIN, 0};
    polls[POLL_STDIN] = (struct pollfd){s->stdin_data.n_bytes ? s->stdin_fd : -1, POLLOUT, 0};
    for (int i = 0; i < SHIM_CONNECTIONS_MAX; i++, n++) {
        const struct shim_connection *c = &s->connections[i];
        // Where rank 0 reads slowly its input is held back; orders are not.
        bool full = c->feeds && s->stdin_data.n_bytes > SHIM_STDIN_MAX;
        polls[n] = (struct pollfd){
            c->fd, (short)((full ? 0 : POLLIN) | (c->out.n_bytes ? POLLOUT : 0)), 0};
    }
    for (uint32_t i = 0; i < s->spec->n_ranks; i++, n++)
        polls[n] = (struct pollfd){s->ranks[i].output_fd, POLLIN, 0};
    return n;
}

static void run(struct shim *s, int timer_fd, const sigset_t *unblocked) {
    size_t n_max = POLL_CONNECTIONS + SHIM_CONNECTIONS_MAX + s->spec->n_ranks;
    _cleanup_free_ struct pollfd *polls = hai_new_array(struct pollfd, n_max);
    bool again = !s->n_alive;

    while (!s->gone || !s->release) {
        set_timer(timer_fd, s, again);
        size_t n = fill_poll(s, timer_fd, polls);
        if (ppoll(polls, n, NULL, unblocked) < 0)
            for (size_t i = 0; i < n; i++)
                polls[i].revents = 0;
        reap(s);
        if (s->init_fd >= 0)
            read_init(s);
        if (polls[POLL_LISTEN].revents)
            shim_control_accept(s, SHIM_LISTEN_FD);
        if (polls[POLL_STDIN].revents)
            shim_control_stdin(s);
        for (int i = 0; i < SHIM_CONNECTIONS_MAX; i++)
            if (s->connections[i].fd >= 0 && polls[POLL_CONNECTIONS + i].revents)
                shim_control_ready(s, &s->connections[i], polls[POLL_CONNECTIONS + i].revents);
        for (uint32_t i = 0; i < s->spec->n_ranks; i++)
            if (polls[POLL_CONNECTIONS + SHIM_CONNECTIONS_MAX + i].revents)
                shim_life_drain(s, (int)i);
        shim_life_orders(s);
        again = (!s->n_alive || s->killing) && finish(s);
    }
}

/* What is left in memory at the end: the sanitizers of the tests want to see it go. */
static void release(struct shim *s) {
    for (int i = 0; i < SHIM_CONNECTIONS_MAX; i++) {
        buf_free(&s->connections[i].in);
        buf_free(&s->connections[i].out);
    }
    buf_free(&s->stdin_data);
    free(s->args);
    free(s->env);
    free(s->rank_env);
    free(s->ranks);
}

static void on_child(int signal) {
}

int main(void) {
    struct shim s = {
        .pid = getpid(),
        .cgroup_fd = -1,
        .cgroup_procs_fd = -1,
        .memory_procs_fd = -1,
        .init_fd = -1,
        .stdin_fd = -1,
        .error_fd = -1,
    };
    struct sigaction action = {.sa_handler = on_child};
    sigset_t blocked, unblocked;

    // What libraries of the agent left open (its connections to the scheduler) is no rank's
    // business.
    close_range(SHIM_AGENT_FD + 1, ~0U, 0);
    // Nobody but the agent's own messages ends a shim: a terminal's or service's signals do not.
    setsid();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    sigaction(SIGCHLD, &action, NULL);
    sigemptyset(&unblocked);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    // A rank that is not itself yet shall find it waiting, instead of ignoring it as we do.
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_SETMASK, &blocked, NULL); // open inside ppoll only
    fcntl(SHIM_LISTEN_FD, F_SETFD, FD_CLOEXEC);
    fcntl(SHIM_LISTEN_FD, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < SHIM_CONNECTIONS_MAX; i++)
        s.connections[i] = (struct shim_connection){.fd = -1, .watch = -1};
    int r = shim_start_read(&s, SHIM_SPEC_FD);
    if (r < 0) {
        fprintf(stderr, "hai-shim: bad start message: %s\n", strerror(-r));
        return 125;
    }
    close(SHIM_SPEC_FD);
    prctl(PR_SET_NAME, "hai-shim");
    shim_control_add(&s, SHIM_AGENT_FD);
    s.lease_until_us = s.spec->lease_until_us;
    int timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (timer_fd < 0) {
        fprintf(stderr, "hai-shim: timerfd: %m\n");
        return 125;
    }
    shim_start_ranks(&s);
    for (uint32_t i = 0; i < s.spec->n_ranks; i++)
        if (s.ranks[i].state.message[0]) // could not be forked
            shim_life_ended(&s, (int)i, CLD_EXITED, 127);
    run(&s, timer_fd, &unblocked);
    release(&s);
    return 0;
}
