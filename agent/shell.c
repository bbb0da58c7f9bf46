#include "agent/shell.h"
#include "lib/fileio.h"
#include <fcntl.h>
#include <grp.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void become(const struct attempt *at, const struct launch_account *account, char **argv,
                   char **env) __attribute__((noreturn));

static void fail(const char *what) __attribute__((noreturn));
static void fail(const char *what) {
    dprintf(STDERR_FILENO, "hai: %s: %m\n", what);
    _exit(126);
}

/* In the child, with the terminal or socket as 0, 1 and 2. */
static void become(const struct attempt *at, const struct launch_account *account, char **argv,
                   char **env) {
    sigset_t none;

    // libcurl's sockets are among what we have open.
    close_range(STDERR_FILENO + 1, ~0U, 0);
    for (int sig = 1; sig < 32; sig++)
        signal(sig, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (at->state.cgroup[0] && cgroups_enter(at->state.cgroup, 0) < 0)
        fail(at->state.cgroup);
    // What it uses counts against the job's memory limit, if it has one: a cgroup of its own in v1.
    char *memory =
        launch_cgroup(at->agentd->cgroups.memory, at->key.job, at->key.attempt, at->key.epoch);
    int r = memory ? cgroups_enter(memory, 0) : 0;
    if (r < 0 && r != -ENOENT)
        fail(memory);
    if (at->agentd->launch.switch_user &&
        (setgroups(account->n_groups, (const gid_t *)account->groups) < 0 ||
         setresgid(account->gid, account->gid, account->gid) < 0 ||
         setresuid(account->uid, account->uid, account->uid) < 0))
        fail("cannot become the job's user");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail("cannot give up new privileges");
    const char *dir = at->spec.workdir ? at->spec.workdir : account->home;
    if (chdir(dir) < 0)
        fail(dir);
    environ = env;
    execvp(argv[0], argv);
    fail(argv[0]);
}

/* Fork with a socket in place of a terminal. */
static pid_t fork_socket(int *ret_fd) {
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        for (int i = 0; i < 3; i++)
            dup2(pair[1], i);
        return 0;
    }
    close(pair[1]);
    *ret_fd = pair[0];
    return pid;
}

int shell_start(const struct attempt *at, size_t index, const struct stream_request *request,
                pid_t *ret_pid, int *ret_fd, struct hai_err *err) {
    struct agentd *a = at->agentd;
    _cleanup_free_ char *socket = hai_asprintf("%s/rank.sock", at->dir);
    struct winsize size = {.ws_row = (unsigned short)request->rows,
                           .ws_col = (unsigned short)request->cols};
    struct launch_account account;
    struct launch_texts env;
    char *login[] = {NULL, (char *)"-l", NULL};
    int fd = -1;

    accounts_get(a->accounts, (uint32_t)at->desired.uid, (uint32_t)at->desired.gid,
                 at->desired.user, &account);
    launch_env(&a->launch, &account, &at->desired, &at->spec, socket, index, &env);
    *(char **)schema_list_add(&env, sizeof(char *)) =
        hai_strdup(request->tty ? "TERM=xterm-256color" : "TERM=dumb");
    schema_list_add(&env, sizeof(char *)); // terminating NULL
    _cleanup_free_ char **argv = hai_new_array(char *, request->command.n + 1);
    for (size_t i = 0; i < request->command.n; i++)
        argv[i] = request->command.items[i];
    login[0] = (char *)(uintptr_t)account.shell;
    pid_t pid = request->tty ? forkpty(&fd, NULL, NULL, &size) : fork_socket(&fd);
    int e = errno;
    if (pid == 0)
        become(at, &account, request->command.n ? argv : login, env.items);
    env.n--;
    launch_texts_free(&env);
    if (pid < 0)
        return hai_fail(err, -e, "cannot start a shell: %s", strerror(e));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    *ret_pid = pid;
    *ret_fd = fd;
    return 0;
}

void shell_resize(int fd, uint16_t rows, uint16_t columns) {
    struct winsize size = {.ws_row = rows, .ws_col = columns};

    ioctl(fd, TIOCSWINSZ, &size);
}

void shell_end_input(int fd, bool tty, struct buf *waiting) {
    if (tty)
        buf_add_u8(waiting, 4); // ctrl-D
    else
        shutdown(fd, SHUT_WR);
}
