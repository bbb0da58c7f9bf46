#include "lib/programs.h"
#include "lib/fileio.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static char *try_folder(const char *folder, size_t n, const char *name) {
    char *path = n ? hai_asprintf("%.*s/%s", (int)n, folder, name) : NULL;

    if (path && access(path, X_OK) == 0)
        return path;
    free(path);
    return NULL;
}

static char *try_list(const char *list, const char *name) {
    char *found = NULL;

    while (list && *list && !found) {
        size_t n = strcspn(list, ":");
        found = try_folder(list, n, name);
        list += n + (list[n] == ':');
    }
    return found;
}

char *programs_find(const char *name) {
    static const char *const beside[] = {".",       "../scheduler", "../agent",
                                         "../jobs", "../sim",       "../cli"};
    char self[PATH_MAX];
    char *found = try_list(getenv("HAI_PROGRAMS"), name);

    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0 && !found) {
        self[n] = '\0';
        *strrchr(self, '/') = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(beside) && !found; i++) {
            _cleanup_free_ char *folder =
                i ? hai_asprintf("%s/%s", self, beside[i]) : hai_strdup(self);
            found = try_folder(folder, strlen(folder), name);
        }
    }
    return found ? found : try_list(getenv("PATH"), name);
}

pid_t programs_fork(void) {
    pid_t parent = getpid(), pid = fork();
    sigset_t none;

    if (pid != 0)
        return pid < 0 ? -errno : pid;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
        _exit(127);
    return 0;
}

static pid_t start(const char *path, char *const *argv, int stdout_fd) {
    pid_t pid = fork();

    if (pid == 0) {
        if (stdout_fd < 0 || dup2(stdout_fd, STDOUT_FILENO) >= 0)
            execv(path, argv);
        _exit(127);
    }
    return pid < 0 ? -errno : pid;
}

static int wait_for(pid_t pid) {
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int programs_run(const char *path, char *const *argv) {
    pid_t pid = start(path, argv, -1);

    return pid < 0 ? pid : wait_for(pid);
}

int programs_read(const char *path, char *const *argv, size_t n_bytes_max, struct buf *ret,
                  struct hai_err *err) {
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        return hai_fail(err, -errno, "a pipe to %s: %m", path);
    pid_t pid = start(path, argv, ends[1]);
    close(ends[1]);
    int r = pid < 0 ? hai_fail(err, pid, "%s: %s", path, strerrordesc_np(-pid))
                    : fileio_read_end(ends[0], path, n_bytes_max, ret, err);
    close(ends[0]); // what does not read on ends by SIGPIPE
    int status = pid < 0 ? 0 : wait_for(pid);
    return r < 0 ? r : status;
}
