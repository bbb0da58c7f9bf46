#include "agent/shim_box.h"
#include "lib/fileio.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int write_at(int dir_fd, const char *name, const char *text) {
    _cleanup_(closep) int fd = openat(dir_fd, name, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        return -errno;
    return 0;
}

/* Read a small file of a cgroup as text. Returns its length or -errno. */
static ssize_t read_at(const char *dir, const char *name, char *ret, size_t n_bytes) {
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, ret, n_bytes - 1);
    if (n < 0)
        return -errno;
    ret[n] = '\0';
    return n;
}

/* The number after a word at the start of a line, 0 if it is not there. */
static int64_t count_of(const char *text, const char *word) {
    size_t n = strlen(word);

    for (const char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (!strncmp(line, word, n) && line[n] == ' ')
            return strtoll(line + n, NULL, 10);
    return 0;
}

static bool is_v2(const struct shim *s) {
    return s->spec->box == SHIM_BOX_CGROUP2;
}

/* Memory killed so far by the limit of the attempt. */
static int64_t oom_count(const struct shim *s) {
    char text[1024];

    if (s->memory_cgroup[0] &&
        read_at(s->memory_cgroup, "memory.oom_control", text, sizeof text) > 0)
        return count_of(text, "oom_kill");
    if (is_v2(s) && read_at(s->cgroup, "memory.events", text, sizeof text) > 0)
        return count_of(text, "oom_kill");
    return 0;
}

/* The memory limit: in the attempt's own cgroup in v2, in the memory hierarchy in v1. */
static int make_memory(struct shim *s) {
    char number[32];

    if (s->spec->memory_bytes <= 0)
        return 0;
    snprintf(number, sizeof number, "%" PRId64, s->spec->memory_bytes);
    if (!s->memory_cgroup[0])
        return is_v2(s) ? write_at(s->cgroup_fd, "memory.max", number) : 0;
    if (mkdir(s->memory_cgroup, 0755) < 0 && errno != EEXIST)
        return -errno;
    _cleanup_(closep) int fd = open(s->memory_cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = write_at(fd, "memory.limit_in_bytes", number);
    if (r < 0)
        return r;
    s->memory_procs_fd = openat(fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    return s->memory_procs_fd < 0 ? -errno : 0;
}

int shim_box_make(struct shim *s, char message[static SHIM_MESSAGE_BYTES]) {
    int r = 0;

    // Orphans of the ranks come to us instead of running on unseen.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (s->spec->box == SHIM_BOX_CGROUP2 || s->spec->box == SHIM_BOX_FREEZER) {
        if (mkdir(s->cgroup, 0755) < 0 && errno != EEXIST)
            r = -errno;
        else if ((s->cgroup_fd = open(s->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
            r = -errno;
    }
    if (r == 0 && s->spec->box == SHIM_BOX_FREEZER) {
        s->cgroup_procs_fd = openat(s->cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
        r = s->cgroup_procs_fd < 0 ? -errno : 0;
    }
    if (r < 0) {
        snprintf(message, SHIM_MESSAGE_BYTES, "cannot make the cgroup %s: %s", s->cgroup,
                 strerror(-r));
        return r;
    }
    r = make_memory(s);
    if (r < 0)
        snprintf(message, SHIM_MESSAGE_BYTES, "cannot limit the memory to %" PRId64 " bytes: %s",
                 s->spec->memory_bytes, strerror(-r));
    s->oom_kills = r < 0 ? 0 : oom_count(s);
    return r;
}

pid_t shim_box_fork(struct shim *s) {
    struct clone_args args = {.exit_signal = SIGCHLD};

    if (s->spec->box == SHIM_BOX_CGROUP2) {
        // Born inside: moving a process between cgroups stops the world for milliseconds.
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)s->cgroup_fd;
    } else if (s->spec->box == SHIM_BOX_PIDNS) {
        // Who may become another user needs no user namespace, and could not do it inside one.
        args.flags = CLONE_NEWPID | (s->spec->switch_user ? 0 : CLONE_NEWUSER);
    }
    return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

int shim_box_enter(struct shim *s) {
    if (s->cgroup_procs_fd >= 0 && write(s->cgroup_procs_fd, "0", 1) < 0)
        return -errno;
    if (s->memory_procs_fd >= 0 && write(s->memory_procs_fd, "0", 1) < 0)
        return -errno;
    return 0;
}

/* SIGKILL to all pids of a v1 cgroup, which is frozen meanwhile so that none can fork. */
static void kill_frozen(struct shim *s) {
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/cgroup.procs", s->cgroup);
    write_at(s->cgroup_fd, "freezer.state", "FROZEN");
    FILE *file = fopen(path, "re");
    for (int pid; file && fscanf(file, "%d", &pid) == 1;)
        kill(pid, SIGKILL);
    if (file)
        fclose(file);
    write_at(s->cgroup_fd, "freezer.state", "THAWED");
}

static pid_t parent_of(pid_t pid) {
    char path[64], text[512];
    int parent = 0;

    snprintf(path, sizeof path, "/proc/%d", pid);
    if (read_at(path, "stat", text, sizeof text) > 0) {
        const char *after = strrchr(text, ')'); // the name before it may hold anything
        if (after && sscanf(after + 1, " %*c %d", &parent) != 1)
            parent = 0;
    }
    return parent;
}

/* SIGKILL to every descendant of ours. We are their reaper, so whoever loses its parent while we
 * walk becomes our child and is found by the next walk. */
static void kill_descendants(void) {
    pid_t self = getpid();
    DIR *proc = opendir("/proc");

    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        pid_t pid = atoi(entry->d_name);
        // Opened before the look: whoever gets the number afterwards is not meant.
        _cleanup_(closep) int fd = pid > 0 ? pidfd_open(pid, 0) : -1;
        pid_t up = fd >= 0 ? parent_of(pid) : 0;
        for (int depth = 0; up > 1 && up != self && depth < 1000; depth++)
            up = parent_of(up);
        if (up == self)
            pidfd_send_signal(fd, SIGKILL, NULL, 0);
    }
    if (proc)
        closedir(proc);
}

void shim_box_kill(struct shim *s) {
    switch ((enum shim_box)s->spec->box) {
    case SHIM_BOX_CGROUP2:
        if (s->cgroup_fd >= 0)
            write_at(s->cgroup_fd, "cgroup.kill", "1");
        break;
    case SHIM_BOX_FREEZER:
        if (s->cgroup_fd >= 0)
            kill_frozen(s);
        break;
    case SHIM_BOX_PIDNS:
        if (s->init_pid > 0)
            kill(s->init_pid, SIGKILL);
        break;
    default:
        kill_descendants();
    }
}

void shim_box_term(struct shim *s) {
    if (s->init_pid > 0) {
        kill(s->init_pid, SIGTERM); // it passes it on
        return;
    }
    for (uint32_t i = 0; i < s->spec->n_ranks; i++) {
        pid_t pid = s->ranks[i].state.pid;
        // Just forked it has no group of its own yet.
        if (pid > 0 && !s->ranks[i].state.exited && kill(-pid, SIGTERM) < 0)
            kill(pid, SIGTERM);
    }
}

/* What is no more is empty; what only cannot be read is not. */
static bool is_absent(ssize_t n) {
    return n == -ENOENT || n == -ENODEV;
}

bool shim_box_empty(struct shim *s) {
    char text[256];
    ssize_t n;

    switch ((enum shim_box)s->spec->box) {
    case SHIM_BOX_CGROUP2:
        if (s->cgroup_fd < 0)
            return true;
        n = read_at(s->cgroup, "cgroup.events", text, sizeof text);
        return n < 0 ? is_absent(n) : count_of(text, "populated") == 0;
    case SHIM_BOX_FREEZER:
        if (s->cgroup_fd < 0)
            return true;
        n = read_at(s->cgroup, "cgroup.procs", text, sizeof text);
        return n < 0 ? is_absent(n) : n == 0;
    case SHIM_BOX_PIDNS:
        return s->init_pid <= 0;
    default: {
        // We are the reaper of all descendants: while one lives, we have a child.
        siginfo_t info = {0};
        return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD;
    }
    }
}

bool shim_box_oom(struct shim *s) {
    if (s->spec->memory_bytes <= 0)
        return false;
    if (oom_count(s) <= s->oom_kills)
        return false;
    s->oom_kills++;
    return true;
}

void shim_box_remove(struct shim *s) {
    if (s->cgroup_fd >= 0)
        rmdir(s->cgroup);
    if (s->memory_cgroup[0])
        rmdir(s->memory_cgroup);
}
