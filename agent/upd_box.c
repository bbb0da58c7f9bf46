#include "agent/upd_box.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fileio.h"
#include "lib/pure/schema.h"

enum {
    PROC_BYTES_MAX = 1 << 20, // of one file below /proc
    LEFTOVER_TRIES = 100,
    LEFTOVER_PAUSE_US = 20000,
};

static const char mark_name[] = "HAI_UPD_NODE";

struct upd_box {
    char *mark;   // HAI_UPD_NODE=DIR/nodes/NAME
    char *prefix; // HAI_SOCKET=DIR/nodes/NAME/ : ranks have an environment of their own
    char *node_dir;
    char *cgroup; // NULL: the walk
    char *parent; // of the cgroup, made by us as well
    char *kind;
};

/* A mount of cgroups where we may make our own: the v2 tree, or a v1 hierarchy that has no rules
 * about processes in it. mountinfo: ... 4 root 5 mountpoint ... - type source options. */
static char *find_mount(FILE *mounts, const char *want_type, const char *want_option) {
    _cleanup_free_ char *line = NULL;
    size_t n_max = 0;

    rewind(mounts);
    while (getline(&line, &n_max, mounts) > 0) {
        char point[PATH_MAX], type[64], options[512];
        char *dash = strstr(line, " - ");
        if (!dash || sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1 ||
            sscanf(dash, " - %63s %*s %511s", type, options) != 2)
            continue;
        if (!strcmp(type, want_type) && (!want_option || strstr(options, want_option)))
            return hai_strdup(point);
    }
    return NULL;
}

/* Where this process is in a hierarchy; lines of /proc/self/cgroup are number:controllers:path. */
static char *own_path(const char *controller) {
    _cleanup_free_ char *line = NULL;
    size_t n_max = 0;
    char *found = NULL;
    FILE *f = fopen("/proc/self/cgroup", "re");

    while (f && !found && getline(&line, &n_max, f) > 0) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':');
        char *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path = 0;
        if (!strcmp(names + 1, controller))
            found = hai_strdup(path + 1);
    }
    if (f)
        fclose(f);
    return found;
}

static int make_in(const char *mount, const char *path, const char *name, struct upd_box *box) {
    char *parent =
        hai_asprintf("%s%s/hai-up-%d", mount, hai_streq(path, "/") ? "" : path, getpid());
    char *cgroup = hai_asprintf("%s/%s", parent, name);

    if ((mkdir(parent, 0755) < 0 && errno != EEXIST) || (mkdir(cgroup, 0755) < 0)) {
        int r = -errno;
        (void)rmdir(parent);
        free(parent);
        free(cgroup);
        return r;
    }
    box->parent = parent;
    box->cgroup = cgroup;
    return 0;
}

static void make_cgroup(const char *name, struct upd_box *box) {
    static const struct {
        const char *type, *option, *controller;
    } hierarchies[] = {
        {"cgroup2", NULL,      ""       },
        {"cgroup",  "freezer", "freezer"},
        {"cgroup",  "pids",    "pids"   },
    };
    FILE *mounts = fopen("/proc/self/mountinfo", "re");

    for (size_t i = 0; mounts && !box->cgroup && i < ARRAY_SIZE(hierarchies); i++) {
        _cleanup_free_ char *mount = find_mount(mounts, hierarchies[i].type, hierarchies[i].option);
        _cleanup_free_ char *path = own_path(hierarchies[i].controller);
        if (mount && path)
            (void)make_in(mount, path, name, box);
    }
    if (mounts)
        fclose(mounts);
}

static int kill_cgroup(const char *path);
static int remove_below(const char *path);

/* A supervisor that was killed leaves its boxes behind: end what runs in the one noted last. */
static void end_leftover(const char *note) {
    _cleanup_(buf_free) struct buf text = {0};

    if (fileio_read_file(note, PATH_MAX, &text, NULL) < 0)
        return;
    const char *path = buf_cstr(&text);
    if (path[0] != '/' || !strstr(path, "/hai-up-"))
        return;
    for (int i = 0; i < LEFTOVER_TRIES && kill_cgroup(path) > 0; i++)
        usleep(LEFTOVER_PAUSE_US);
    (void)remove_below(path);
}

int upd_box_new(const char *node_dir, const char *name, struct upd_box **ret, struct hai_err *err) {
    struct upd_box *box = hai_new(struct upd_box);

    box->node_dir = hai_strdup(node_dir);
    box->mark = hai_asprintf("%s=%s", mark_name, node_dir);
    box->prefix = hai_asprintf("HAI_SOCKET=%s/", node_dir);
    _cleanup_free_ char *note = hai_asprintf("%s/cgroup", node_dir);
    end_leftover(note);
    make_cgroup(name, box);
    if (!box->cgroup)
        (void)upd_box_kill(box);
    box->kind = box->cgroup ? hai_asprintf("cgroup %s", box->cgroup) : hai_strdup("process walk");
    const char *text = box->cgroup ? box->cgroup : "none";
    int r = fileio_replace(note, text, strlen(text), 0644, err);
    if (r < 0) {
        (void)upd_box_remove(box);
        upd_box_free(box);
        return r;
    }
    *ret = box;
    return 0;
}

void upd_box_free(struct upd_box *box) {
    if (!box)
        return;
    free(box->mark);
    free(box->prefix);
    free(box->node_dir);
    free(box->cgroup);
    free(box->parent);
    free(box->kind);
    free(box);
}

const char *upd_box_kind(const struct upd_box *box) {
    return box->kind;
}

static int write_text(const char *dir, const char *file, const char *text) {
    char path[PATH_MAX];

    (void)snprintf(path, sizeof path, "%s/%s", dir, file);
    _cleanup_(closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, strlen(text));
    return n < 0 ? -errno : 0;
}

int upd_box_enter(const struct upd_box *box) {
    if (setenv(mark_name, box->node_dir, 1) < 0)
        return -errno;
    return box->cgroup ? write_text(box->cgroup, "cgroup.procs", "0") : 0;
}

/* SIGKILL what a cgroup and those below hold; returns how many processes that were. What is there
 * but cannot be looked into (no descriptor is free) counts as one. */
static int kill_cgroup(const char *path) {
    char name[PATH_MAX];
    int n = 0;
    struct dirent *entry;
    pid_t pid;

    (void)snprintf(name, sizeof name, "%s/cgroup.procs", path);
    FILE *f = fopen(name, "re");
    n += !f && errno != ENOENT && errno != ENODEV;
    while (f && fscanf(f, "%d", &pid) == 1) {
        n++;
        (void)kill(pid, SIGKILL);
    }
    if (f)
        fclose(f);
    DIR *dir = opendir(path);
    n += !dir && errno != ENOENT;
    while (dir && (entry = readdir(dir))) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        (void)snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        n += kill_cgroup(name);
    }
    if (dir)
        closedir(dir);
    return n;
}

/* One process of the walk. */
struct seen {
    pid_t pid, parent;
    uint64_t started; // in clock ticks: with the number it names a process for ever
    bool inside;
};

static bool environ_has(pid_t pid, const struct upd_box *box) {
    char path[64];
    _cleanup_(buf_free) struct buf text = {0};
    size_t n_mark = strlen(box->mark) + 1;
    size_t n_prefix = strlen(box->prefix);

    (void)snprintf(path, sizeof path, "/proc/%d/environ", pid);
    if (fileio_read_file(path, PROC_BYTES_MAX, &text, NULL) < 0)
        return false;
    for (size_t at = 0; at < text.n_bytes;) {
        const char *entry = (const char *)text.data + at;
        size_t n = strnlen(entry, text.n_bytes - at);
        if (n + 1 == n_mark && !memcmp(entry, box->mark, n))
            return true;
        if (n >= n_prefix && !memcmp(entry, box->prefix, n_prefix))
            return true;
        at += n + 1;
    }
    return false;
}

/* A living process; false for a zombie or one that is gone. stat: pid (name) S ppid, then 17 more
 * before the time of its start. */
static bool look_at(pid_t pid, struct seen *ret) {
    char path[64], state;
    _cleanup_(buf_free) struct buf text = {0};

    *ret = (struct seen){.pid = pid};
    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (fileio_read_file(path, PROC_BYTES_MAX, &text, NULL) < 0)
        return false;
    const char *close = strrchr(buf_cstr(&text), ')');
    return close &&
           sscanf(close + 1,
                  " %c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                  "%" SCNu64,
                  &state, &ret->parent, &ret->started) == 3 &&
           ret->parent && state != 'Z';
}

static int walk(const struct upd_box *box, struct seen **ret, size_t *ret_n) {
    SCHEMA_LIST(struct seen) all = {0};
    struct dirent *entry;
    struct seen seen;
    DIR *dir = opendir("/proc");

    if (!dir)
        return -errno;
    while ((entry = readdir(dir))) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        if (pid == getpid() || !look_at(pid, &seen))
            continue;
        seen.inside = environ_has(pid, box);
        *LIST_ADD(&all) = seen;
    }
    closedir(dir);
    *ret = all.items;
    *ret_n = all.n;
    return 0;
}

/* Not by its number, which may be another's since the walk. */
static void kill_seen(const struct seen *seen) {
    _cleanup_(closep) int fd = pidfd_open(seen->pid, 0);
    struct seen now;

    if (fd >= 0 && look_at(seen->pid, &now) && now.started == seen->started)
        (void)pidfd_send_signal(fd, SIGKILL, NULL, 0);
}

static int kill_walk(const struct upd_box *box) {
    _cleanup_free_ struct seen *all = NULL;
    size_t n = 0;
    int n_killed = 0;
    bool changed = true;

    if (walk(box, &all, &n) < 0)
        return 1;     // nobody knows
    while (changed) { // until no child of a process inside is outside
        changed = false;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n && !all[i].inside; j++)
                if (all[j].inside && all[j].pid == all[i].parent)
                    all[i].inside = changed = true;
    }
    for (size_t i = 0; i < n; i++) {
        if (!all[i].inside)
            continue;
        kill_seen(&all[i]);
        n_killed++;
    }
    return n_killed;
}

int upd_box_kill(const struct upd_box *box) {
    if (!box->cgroup)
        return kill_walk(box);
    (void)write_text(box->cgroup, "cgroup.kill", "1"); // v2 only: reaches what forks meanwhile
    return kill_cgroup(box->cgroup);
}

static int remove_below(const char *path) {
    char name[PATH_MAX];
    struct dirent *entry;
    DIR *dir = opendir(path);

    while (dir && (entry = readdir(dir))) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        (void)snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        (void)remove_below(name);
    }
    if (dir)
        closedir(dir);
    return rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}

int upd_box_remove(const struct upd_box *box) {
    int r = box->cgroup ? remove_below(box->cgroup) : 0;

    if (r == 0 && box->parent)
        (void)rmdir(box->parent); // the last box takes it away
    return r;
}
