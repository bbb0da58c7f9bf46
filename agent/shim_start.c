#include "agent/shim_start.h"
#include "agent/logkeep.h"
#include "agent/shim_box.h"
#include "agent/shim_output.h"
#include "lib/fileio.h"
#include "lib/timefmt.h"
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The next text of the spec; NULL when it ends before. */
static char *take_text(struct cursor *c) {
    const uint8_t *end = memchr(c->data + c->at, 0, cursor_left(c));
    const uint8_t *text;

    if (!end || cursor_bytes(c, (size_t)(end - c->data) - c->at + 1, &text) < 0)
        return NULL;
    return (char *)(uintptr_t)text;
}

static char **take_texts(struct cursor *c, size_t n, size_t n_more) {
    char **texts = hai_new_array(char *, n + n_more + 1);

    for (size_t i = 0; i < n; i++)
        if (!(texts[i] = take_text(c)))
            return NULL;
    return texts;
}

int shim_start_read(struct shim *s, int spec_fd) {
    struct stat st;

    if (fstat(spec_fd, &st) < 0 || st.st_size < (off_t)sizeof *s->spec)
        return -EBADMSG;
    // Private and writable: texts become the environment, which programs may change.
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, spec_fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    const struct shim_spec *spec = s->spec = map;
    struct cursor c = {map, (size_t)st.st_size, sizeof *spec};
    const uint8_t *numbers;
    if (spec->version != SHIM_VERSION || spec->n_bytes != st.st_size || !spec->n_args ||
        !spec->n_ranks || spec->box >= SHIM_BOX_COUNT ||
        cursor_bytes(&c, sizeof(int32_t) * ((size_t)spec->n_groups + spec->n_ranks), &numbers) < 0)
        return -EBADMSG;
    s->groups = (const int32_t *)(const void *)numbers;
    s->ranks_global = s->groups + spec->n_groups;
    const char **paths[] = {&s->log_dir,       &s->workdir,     &s->cgroup,
                            &s->memory_cgroup, &s->scratch_dir, &s->ckpt_dir};
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
        if (!(*paths[i] = take_text(&c)))
            return -EBADMSG;
    s->args = take_texts(&c, spec->n_args, 0);
    s->env = take_texts(&c, spec->n_env, spec->n_rank_env);
    s->rank_env = take_texts(&c, (size_t)spec->n_ranks * spec->n_rank_env, 0);
    return s->args && s->env && s->rank_env ? 0 : -EBADMSG;
}

/* ---- in the child ---- */

/* Is it the job's own fault that this failed, or may it go well on another node? */
static enum shim_cause cause_of(bool job, int error) {
    bool node = error == ENOMEM || error == EAGAIN || error == EMFILE || error == ENFILE ||
                error == EIO || error == ESTALE;

    return job && !node ? SHIM_CAUSE_START : SHIM_CAUSE_UNKNOWN;
}

/* Say why, to the shim and in the rank's output, and end. job: it asked for the impossible. */
static void fail(struct shim *s, int index, bool job, int error, const char *format, ...)
    __attribute__((noreturn, format(printf, 5, 6)));
static void fail(struct shim *s, int index, bool job, int error, const char *format, ...) {
    struct shim_start_error message = {
        .index = index, .error = error, .cause = cause_of(job, error)};
    va_list args;

    va_start(args, format);
    vsnprintf(message.what, sizeof message.what, format, args);
    va_end(args);
    dprintf(STDERR_FILENO, "hai: %s: %s\n", message.what, strerror(error));
    if (write(s->error_fd, &message, sizeof message) < 0)
        _exit(126);
    _exit(127);
}

static void become_user(struct shim *s, int index) {
    const struct shim_spec *spec = s->spec;

    if (spec->switch_user && (setgroups(spec->n_groups, (const gid_t *)s->groups) < 0 ||
                              setresgid(spec->gid, spec->gid, spec->gid) < 0 ||
                              setresuid(spec->uid, spec->uid, spec->uid) < 0))
        fail(s, index, false, errno, "cannot become uid %u, gid %u", spec->uid, spec->gid);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail(s, index, false, errno, "cannot give up new privileges");
    // Cleared by the change of user, so set after it: no rank outlives a shim that was killed, nor
    // one that was killed before this. In a PID namespace the parent is the init, and all end with
    // it. Until exec we are a copy of the shim, which the user may not look into: not dumpable.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (spec->box != SHIM_BOX_PIDNS && getppid() != s->pid)
        _exit(126);
}

static void reset_signals(void) {
    sigset_t none;

    for (int sig = 1; sig < 32; sig++)
        signal(sig, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void shim_start_become(struct shim *s, int index, int stdin_fd, int output_fd) {
    const struct shim_spec *spec = s->spec;

    reset_signals();
    setsid();
    dup2(stdin_fd, STDIN_FILENO);
    dup2(output_fd, STDOUT_FILENO);
    dup2(output_fd, STDERR_FILENO);
    int r = shim_box_enter(s);
    if (r < 0)
        fail(s, index, false, -r, "cannot enter the cgroup %s", s->cgroup);
    become_user(s, index);
    umask(022);
    if (chdir(s->workdir) < 0)
        fail(s, index, true, errno, "cannot enter the working directory %s", s->workdir);
    for (uint32_t i = 0; i < spec->n_rank_env; i++)
        s->env[spec->n_env + i] = s->rank_env[(uint32_t)index * spec->n_rank_env + i];
    environ = s->env;
    execvp(s->args[0], s->args);
    fail(s, index, true, errno, "cannot run %s", s->args[0]);
}

/* ---- in the shim ---- */

static void make_dir(const struct shim *s, const char *path, mode_t mode, bool users) {
    struct hai_err err = {0};

    if (!path[0])
        return;
    // Again: an agent may just have removed the folder of the job, empty after an older attempt.
    if (fileio_mkdir_p(path, 0755, &err) < 0 && fileio_mkdir_p(path, 0755, &err) < 0) {
        fprintf(stderr, "hai-shim: %s\n", err.text);
        return;
    }
    if (users && ((s->spec->switch_user && lchown(path, s->spec->uid, s->spec->gid) < 0) ||
                  chmod(path, mode) < 0))
        fprintf(stderr, "hai-shim: %s: %m\n", path);
}

/* As long as we live our output is not old: agents look at this lock before they drop any. The
 * user, who owns the other files, cannot lock this one. Never closed. */
static void hold_output(const struct shim *s) {
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/" LOGKEEP_LIVE, s->log_dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) < 0)
        fprintf(stderr, "hai-shim: %s: %m\n", path);
}

static void not_started(struct shim *s, int index, enum shim_cause cause, const char *message) {
    snprintf(s->ranks[index].state.message, SHIM_MESSAGE_BYTES, "%s", message);
    s->ranks[index].state.cause = cause;
}

static void none_started(struct shim *s, enum shim_cause cause, const char *message) {
    for (uint32_t i = 0; i < s->spec->n_ranks; i++)
        not_started(s, (int)i, cause, message);
}

/* In a child: whoever holds or reaches these sockets is taken for the shim. */
static void leave_sockets(void) {
    close(SHIM_LISTEN_FD);
    close(SHIM_AGENT_FD);
}

/* Standard input of a rank: for the first of the node a pipe that attach writes to. */
static int open_stdin(struct shim *s, int index) {
    int pipe_fds[2];

    if (index > 0 || pipe2(pipe_fds, O_CLOEXEC) < 0)
        return open("/dev/null", O_RDONLY | O_CLOEXEC);
    s->stdin_fd = pipe_fds[1];
    fcntl(s->stdin_fd, F_SETFL, O_NONBLOCK);
    return pipe_fds[0];
}

/* The init of the PID namespace: starts the ranks, passes SIGTERM on, tells of exits. It ends when
 * its ranks have, and the kernel ends whatever is then left in the namespace. */
static void init_main(struct shim *s, const int *stdins, const int *outputs, int exits_fd)
    __attribute__((noreturn));
static void init_main(struct shim *s, const int *stdins, const int *outputs, int exits_fd) {
    uint32_t n = s->spec->n_ranks, n_alive = n;
    pid_t *pids = hai_new_array(pid_t, n);
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (poll(&(struct pollfd){.fd = exits_fd}, 1, 0) != 0)
        _exit(1); // the shim, its only reader, was killed before this
    for (uint32_t i = 0; i < n; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            shim_start_become(s, (int)i, stdins[i], outputs[i]);
    }
    for (uint32_t i = 0; i < n; i++)
        close(outputs[i]); // their end is the ranks' end
    while (n_alive) {
        int sig = sigwaitinfo(&set, NULL);
        for (uint32_t i = 0; sig == SIGTERM && i < n; i++)
            if (pids[i] > 0 && kill(-pids[i], SIGTERM) < 0) // no group of its own yet
                kill(pids[i], SIGTERM);
        for (siginfo_t info = {0}; waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid;
             info.si_pid = 0)
            for (uint32_t i = 0; i < n; i++) {
                struct shim_init_exit message = {(int32_t)i, info.si_code, info.si_status};
                if (pids[i] != info.si_pid)
                    continue;
                if (write(exits_fd, &message, sizeof message) < 0)
                    _exit(1);
                pids[i] = 0;
                n_alive--;
            }
    }
    _exit(0);
}

/* In the new user namespace we are nobody until our own ids are mapped to themselves. */
static void map_ids(uid_t uid, gid_t gid) {
    static const char *const names[] = {"/proc/self/setgroups", "/proc/self/uid_map",
                                        "/proc/self/gid_map"};
    char texts[3][64] = {"deny"};

    snprintf(texts[1], sizeof texts[1], "%u %u 1", uid, uid);
    snprintf(texts[2], sizeof texts[2], "%u %u 1", gid, gid);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_(closep) int fd = open(names[i], O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, texts[i], strlen(texts[i])) < 0)
            dprintf(STDERR_FILENO, "hai-shim: %s: %m\n", names[i]);
    }
}

static void start_namespace(struct shim *s, const int *stdins, const int *outputs) {
    uid_t uid = geteuid();
    gid_t gid = getegid();
    int exits[2];

    if (pipe2(exits, O_CLOEXEC) < 0) {
        none_started(s, SHIM_CAUSE_UNKNOWN, "cannot make a pipe");
        return;
    }
    s->init_pid = shim_box_fork(s);
    if (s->init_pid == 0) {
        leave_sockets();
        close(exits[0]);
        if (!s->spec->switch_user)
            map_ids(uid, gid);
        init_main(s, stdins, outputs, exits[1]);
    }
    close(exits[1]);
    if (s->init_pid < 0) {
        close(exits[0]);
        none_started(s, SHIM_CAUSE_UNKNOWN, "cannot make a PID namespace");
        return;
    }
    s->init_fd = exits[0];
    fcntl(s->init_fd, F_SETFL, O_NONBLOCK);
}

static void start_directly(struct shim *s, const int *stdins, const int *outputs) {
    for (uint32_t i = 0; i < s->spec->n_ranks; i++) {
        pid_t pid = shim_box_fork(s);
        if (pid == 0) {
            leave_sockets();
            shim_start_become(s, (int)i, stdins[i], outputs[i]);
        }
        if (pid < 0)
            not_started(s, (int)i, SHIM_CAUSE_UNKNOWN, strerror(errno));
        else
            s->ranks[i].state.pid = pid;
    }
}

void shim_start_ranks(struct shim *s) {
    uint32_t n = s->spec->n_ranks;
    _cleanup_free_ int *stdins = hai_new_array(int, n);
    _cleanup_free_ int *outputs = hai_new_array(int, n);
    char message[SHIM_MESSAGE_BYTES] = "";

    s->ranks = hai_new_array(struct shim_rank, n);
    s->n_alive = (int)n;
    s->started_us = timefmt_now_us();
    make_dir(s, s->log_dir, 0755, false);
    hold_output(s);
    make_dir(s, s->scratch_dir, 0700, true);
    make_dir(s, s->ckpt_dir, 0700, true);
    for (uint32_t i = 0; i < n; i++) {
        int pipe_fds[2] = {-1, -1};
        s->ranks[i].state.rank = s->ranks_global[i];
        if (pipe2(pipe_fds, O_CLOEXEC) == 0)
            fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
        s->ranks[i].output_fd = pipe_fds[0];
        outputs[i] = pipe_fds[1];
        stdins[i] = open_stdin(s, (int)i);
        shim_output_open(s, &s->ranks[i]);
    }
    // Not a pipe: any number of ranks may fail before we read what the first one says.
    s->error_fd = memfd_create("hai-shim-errors", MFD_CLOEXEC);
    if (s->error_fd >= 0)
        fcntl(s->error_fd, F_SETFL, O_APPEND);
    /* Whoever started us may have been held up since the scheduler granted the lease, by a disk
     * that stood still: then the ranks may run elsewhere by now. */
    if (shim_box_make(s, message) < 0)
        none_started(s, SHIM_CAUSE_UNKNOWN, message); // not the job's doing
    else if (timefmt_boottime_us() >= s->lease_until_us)
        none_started(s, SHIM_CAUSE_LEASE, "the lease had run out before the start");
    else if (s->spec->box == SHIM_BOX_PIDNS)
        start_namespace(s, stdins, outputs);
    else
        start_directly(s, stdins, outputs);
    for (uint32_t i = 0; i < n; i++) {
        close(stdins[i]);
        close(outputs[i]);
    }
}
