#include "agent/cgroups.h"
#include "lib/fileio.h"
#include "lib/pure/buf.h"
#include "lib/timefmt.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { AGAIN_US = 5000 };

static int write_file(const char *dir, const char *name, const char *text) {
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    _cleanup_(closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        return -errno;
    return 0;
}

static bool has_file(const char *dir, const char *name) {
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

/* Where a hierarchy is mounted: v1 by its controller, v2 for NULL. */
static char *mount_of(const char *controller) {
    FILE *file = setmntent("/proc/mounts", "re");
    char *found = NULL;

    for (struct mntent *m; file && !found && (m = getmntent(file));)
        if (controller ? !strcmp(m->mnt_type, "cgroup") && hasmntopt(m, controller)
                       : !strcmp(m->mnt_type, "cgroup2"))
            found = hai_strdup(m->mnt_dir);
    if (file)
        endmntent(file);
    return found;
}

/* Our own place in a hierarchy, as a directory. */
static char *own_of(const char *controller) {
    _cleanup_free_ char *mount = mount_of(controller);
    FILE *file = mount ? fopen("/proc/self/cgroup", "re") : NULL;
    char line[PATH_MAX + 64], *found = NULL;

    // Lines are NUMBER:CONTROLLERS:PATH; v2 has number 0 and no controllers.
    while (file && !found && fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':'),
             *path = controllers ? strchr(controllers + 1, ':') : 0;
        if (!path)
            continue;
        *controllers++ = *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        if (controller ? !strcmp(controllers, controller) : !*controllers)
            found = hai_asprintf("%s%s", mount, strcmp(path, "/") ? path : "");
    }
    if (file)
        fclose(file);
    return found;
}

/* Can we make cgroups below it that can be killed? */
static bool is_usable(const char *dir, bool v2) {
    _cleanup_free_ char *probe = hai_asprintf("%s/hai-probe.%d", dir, getpid());

    if (mkdir(probe, 0755) < 0)
        return false;
    bool ok = !v2 || has_file(probe, "cgroup.kill");
    rmdir(probe);
    return ok;
}

char *cgroups_own(void) {
    static const char *const hierarchies[] = {NULL, "freezer"};

    for (size_t i = 0; i < ARRAY_SIZE(hierarchies); i++) {
        char *own = own_of(hierarchies[i]);
        if (own && is_usable(own, !hierarchies[i]))
            return own;
        free(own);
    }
    return NULL;
}

/* Put ourselves beside the attempts, so that the base may get controllers. Into a new cgroup at
 * every start: Linux ends a process born into another cgroup (clone3) at once when its parent's
 * cgroup was ever ended by cgroup.kill, as the fence of an emulated node does. Old ones go when
 * they are empty; shims live in them. */
static int enter_base(const char *base) {
    _cleanup_free_ char *ours = hai_asprintf("%s/agent.%d", base, getpid());

    if ((mkdir(base, 0755) < 0 && errno != EEXIST) || (mkdir(ours, 0755) < 0 && errno != EEXIST))
        return -errno;
    int r = cgroups_enter(ours, 0);
    DIR *dir = opendir(base);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (!strncmp(entry->d_name, "agent.", 6))
            unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR); // refused while something is in it
    if (dir)
        closedir(dir);
    return r;
}

static bool try_hierarchy(const char *controller, const char *wanted, const char *name,
                          struct cgroups *ret) {
    char *own = wanted ? hai_strdup(wanted) : own_of(controller);

    if (!own)
        return false;
    _cleanup_free_ char *base = wanted ? TAKE_PTR(own) : hai_asprintf("%s/hai-%s", own, name);
    free(own);
    if (enter_base(base) < 0 || !is_usable(base, !controller))
        return false;
    ret->box = controller ? SHIM_BOX_FREEZER : SHIM_BOX_CGROUP2;
    if (!controller && write_file(base, "cgroup.subtree_control", "+memory") == 0)
        ret->limits_memory = true;
    ret->base = TAKE_PTR(base);
    return true;
}

static bool namespaces_allowed(void) {
    int flags = CLONE_NEWPID | (geteuid() == 0 ? 0 : CLONE_NEWUSER); // as shim_box_fork
    pid_t pid = fork();

    if (pid == 0)
        _exit(unshare(flags) == 0 ? 0 : 1);
    int status = 1;
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

void cgroups_find(const char *wanted, const char *name, struct cgroups *ret) {
    *ret = (struct cgroups){.box = SHIM_BOX_WALK};
    bool without = wanted && !strcmp(wanted, "none");
    if (!without && !try_hierarchy(NULL, wanted, name, ret))
        try_hierarchy("freezer", wanted, name, ret);
    if (!without && !ret->limits_memory) {
        ret->memory = own_of("memory");
        if (ret->memory && is_usable(ret->memory, false))
            ret->limits_memory = true;
        else
            hai_strset(&ret->memory, NULL);
    }
    if (!ret->base && namespaces_allowed())
        ret->box = SHIM_BOX_PIDNS;
}

void cgroups_free(struct cgroups *cgroups) {
    free(cgroups->base);
    free(cgroups->memory);
    *cgroups = (struct cgroups){0};
}

/* Call fn for every pid in a cgroup and below. Returns how many; what is there but cannot be looked
 * into (no descriptor is free) counts as one. */
static int walk(const char *path, void (*fn)(pid_t pid)) {
    _cleanup_free_ char *procs = hai_asprintf("%s/cgroup.procs", path);
    FILE *file = fopen(procs, "re");
    int n = !file && errno != ENOENT && errno != ENODEV;

    for (int pid; file && fscanf(file, "%d", &pid) == 1; n++)
        if (fn)
            fn(pid);
    if (file)
        fclose(file);
    DIR *dir = opendir(path);
    n += !dir && errno != ENOENT;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        _cleanup_free_ char *below = hai_asprintf("%s/%s", path, entry->d_name);
        n += walk(below, fn);
    }
    if (dir)
        closedir(dir);
    return n;
}

int cgroups_count(const char *path) {
    return walk(path, NULL);
}

static void kill_one(pid_t pid) {
    kill(pid, SIGKILL);
}

static void remove_below(const char *path) {
    DIR *dir = opendir(path);

    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        _cleanup_free_ char *below = hai_asprintf("%s/%s", path, entry->d_name);
        remove_below(below);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

int cgroups_end(const char *path, int64_t wait_us) {
    int64_t end_us = timefmt_monotonic_us() + wait_us;

    while (access(path, F_OK) == 0) {
        if (write_file(path, "cgroup.kill", "1") < 0) {
            // v1: stop them all first, so that none can fork away from the walk.
            write_file(path, "freezer.state", "FROZEN");
            walk(path, kill_one);
            write_file(path, "freezer.state", "THAWED");
        }
        if (cgroups_count(path) == 0) {
            remove_below(path);
            if (access(path, F_OK) < 0)
                break;
        }
        if (timefmt_monotonic_us() >= end_us)
            return -ETIMEDOUT;
        usleep(AGAIN_US);
    }
    return 0;
}

int cgroups_enter(const char *path, pid_t pid) {
    char text[16];

    snprintf(text, sizeof text, "%d", pid);
    return write_file(path, "cgroup.procs", text);
}
