#include "cli/local.h"

#include "lib/fileio.h"
#include "lib/json.h"
#include "lib/timefmt.h"
#include "lib/yaml.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { FILE_BYTES_MAX = 1 << 22 };

static int write_text(const char *dir, const char *name, const struct buf *text, mode_t mode,
                      struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);

    return fileio_replace(path, text->data, text->n_bytes, mode, err);
}

static int read_text(const char *dir, const char *name, struct buf *ret) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);

    return fileio_read_file(path, FILE_BYTES_MAX, ret, NULL);
}

/* Memory of this machine in whole GiB: what each emulated node may give to jobs that say how much
 * they need. */
static int64_t memory_gib(void) {
    int64_t bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);

    return MAX(bytes >> 30, 1);
}

/* The cluster of the numbers: nodes a1 a2 b1 b2 for 4 nodes in 2 zones. */
static void make_cluster(const struct local_shape *shape, struct buf *ret) {
    int64_t left = shape->nodes;

    buf_printf(ret, "version: 1\nname: local\nfence: hai-upd\nzones:\n");
    for (int64_t z = 0; z < shape->zones; z++)
        buf_printf(ret, "  - name: %c\n", (char)('a' + z));
    buf_printf(ret, "nodes:\n");
    for (int64_t z = 0; z < shape->zones; z++) {
        int64_t n = left / (shape->zones - z) + (left % (shape->zones - z) != 0);
        buf_printf(ret,
                   "  - {names: '%c[1-%lld]', zone: %c, gpus: %lld, cpus: 64, memory: %lldGiB, "
                   "emulated: true}\n",
                   (char)('a' + z), (long long)n, (char)('a' + z), (long long)shape->gpus,
                   (long long)memory_gib());
        left -= n;
    }
}

static int cluster_text(const struct local_shape *shape, struct buf *ret, struct hai_err *err) {
    if (shape->cluster)
        return fileio_read_file(shape->cluster, FILE_BYTES_MAX, ret, err);
    make_cluster(shape, ret);
    return 0;
}

bool local_port_free(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    _cleanup_(closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;

    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    return fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
}

static int any_port(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n_bytes = sizeof address;
    _cleanup_(closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &n_bytes) < 0)
        return -errno;
    return ntohs(address.sin_port);
}

int local_port(const char *dir) {
    _cleanup_(buf_free) struct buf text = {0};

    if (read_text(dir, "schedd.yaml", &text) < 0)
        return 0;
    const char *at = strstr(buf_cstr(&text), "listen: 127.0.0.1:");
    return at ? atoi(at + strlen("listen: 127.0.0.1:")) : 0;
}

char *local_of_config(void) {
    static const char name[] = "/client.yaml";
    const char *path = getenv("HAI_CONFIG");
    char real[PATH_MAX];
    size_t n = path ? strlen(path) : 0, n_dir = n - MIN(n, sizeof name - 1);

    if (n_dir == 0 || strcmp(path + n_dir, name) != 0)
        return NULL;
    _cleanup_free_ char *dir = hai_strndup(path, n_dir);
    if (access(path, F_OK) == 0 && !local_port(dir))
        return NULL; // of a cluster elsewhere
    return hai_strdup(realpath(dir, real) ? real : dir);
}

static int choose_port(const char *dir, int port, struct hai_err *err) {
    int before = local_port(dir);

    if (port == 0 && before && local_port_free(before))
        return before;
    if (port == 0)
        return any_port();
    if (!local_port_free(port))
        return hai_fail_at(err, -EADDRINUSE, "port_taken", NULL,
                           "hai up --port 0 takes any free one",
                           "port %d is taken by another program", port);
    return port;
}

static int write_cluster(const char *dir, const struct local_shape *shape, bool shape_given,
                         struct hai_err *err) {
    _cleanup_(buf_free) struct buf wanted = {0}, there = {0};
    _cleanup_free_ char *token = hai_asprintf("%s/schedd/tokens/admin", dir);
    bool exists = read_text(dir, "cluster.yaml", &there) == 0;

    if (exists && !shape_given)
        return 0;
    if (access(token, F_OK) < 0 && errno == ENOENT)
        exists = false; // hai-schedd never took it: it may have had an error
    int r = cluster_text(shape, &wanted, err);
    if (r < 0)
        return r;
    if (!exists)
        return write_text(dir, "cluster.yaml", &wanted, 0644, err);
    if (wanted.n_bytes != there.n_bytes || memcmp(wanted.data, there.data, wanted.n_bytes) != 0)
        return hai_fail_at(err, -EEXIST, "other_cluster", NULL,
                           "leave the options out to start it, edit cluster.yaml there to change "
                           "it, or remove it with hai down --purge",
                           "%s holds a cluster of another shape", dir);
    return 0;
}

/* Was DIR/cluster.yaml written after the supervisor came up? Then what runs was not started from
 * it.
 */
static bool edited(const char *dir) {
    _cleanup_free_ char *cluster = hai_asprintf("%s/cluster.yaml", dir);
    _cleanup_free_ char *pid = hai_asprintf("%s/upd.pid", dir);
    struct stat file, started;

    if (stat(cluster, &file) < 0 || stat(pid, &started) < 0)
        return false;
    return file.st_mtim.tv_sec != started.st_mtim.tv_sec
               ? file.st_mtim.tv_sec > started.st_mtim.tv_sec
               : file.st_mtim.tv_nsec > started.st_mtim.tv_nsec;
}

int local_same(const char *dir, const struct local_shape *shape, bool shape_given, int port,
               struct hai_err *err) {
    _cleanup_(buf_free) struct buf wanted = {0}, there = {0};
    int r = shape_given ? cluster_text(shape, &wanted, err) : 0;

    if (r < 0)
        return r;
    if (port > 0 && port != local_port(dir))
        return hai_fail_at(err, -EEXIST, "other_port", NULL, "hai down first",
                           "the cluster in %s runs already, on port %d", dir, local_port(dir));
    if (shape_given &&
        (read_text(dir, "cluster.yaml", &there) < 0 || wanted.n_bytes != there.n_bytes ||
         memcmp(wanted.data, there.data, wanted.n_bytes) != 0))
        return hai_fail_at(err, -EEXIST, "other_cluster", NULL,
                           "to change it: edit cluster.yaml there, then hai down and hai up",
                           "%s holds a cluster of another shape, which runs; nothing was changed",
                           dir);
    if (edited(dir))
        return hai_fail_at(err, -EEXIST, "other_cluster", NULL,
                           "hai down and hai up take it; jobs that run start again",
                           "%s/cluster.yaml was changed after the cluster was started, and is not "
                           "used yet",
                           dir);
    return 0;
}

/* Under sudo the folder itself is the calling user's, who finds client.yaml there. */
static int give_to(const char *path, const struct clientconf_user *user, struct hai_err *err) {
    if (geteuid() == 0 && chown(path, user->uid, user->gid) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    return 0;
}

/* The same for folders between the user's home and DIR that were made just now, by root. */
static int give_parents_to(const char *dir, const struct clientconf_user *user,
                           struct hai_err *err) {
    size_t n_home = strlen(user->home);
    int r = 0;

    if (user->uid == 0 || strncmp(dir, user->home, n_home) != 0 || dir[n_home] != '/')
        return 0;
    for (const char *at = dir + n_home + 1; r == 0 && (at = strchr(at, '/')); at++) {
        _cleanup_free_ char *path = hai_strndup(dir, (size_t)(at - dir));
        struct stat st;
        if (stat(path, &st) == 0 && st.st_uid == 0)
            r = give_to(path, user, err);
    }
    return r;
}

int local_prepare(const char *dir, const struct local_shape *shape, bool shape_given, int port,
                  const struct clientconf_user *user, int *ret_port, struct hai_err *err) {
    static const char *const folders[] = {"log", "nodes", "schedd", "jobs", "ckpt"};
    _cleanup_(buf_free) struct buf schedd = {0};

    int r = fileio_mkdir_p(dir, 0755, err);
    if (r == 0)
        r = give_parents_to(dir, user, err);
    if (r == 0)
        r = give_to(dir, user, err);
    if (r == 0)
        r = write_cluster(dir, shape, shape_given, err);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(folders); i++) {
        _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, folders[i]);
        r = fileio_mkdir_p(path, 0755, err);
    }
    if (r < 0)
        return r;
    r = choose_port(dir, port, err);
    if (r < 0)
        return r;
    *ret_port = r;
    buf_printf(&schedd,
               "version: 1\nstate_dir: %s/schedd\ncluster: %s/cluster.yaml\n"
               "listen: 127.0.0.1:%d\n",
               dir, dir, r);
    return write_text(dir, "schedd.yaml", &schedd, 0644, err);
}

/* Whether NAME is one of `a[1-2],b7`. */
static bool range_has(const char *ranges, const char *name) {
    while (*ranges) {
        const char *open = ranges + strcspn(ranges, ",[");
        size_t n_prefix = (size_t)(open - ranges);
        bool prefix = strncmp(ranges, name, n_prefix) == 0;
        if (*open != '[') {
            if (prefix && strlen(name) == n_prefix)
                return true;
            ranges = open + (*open == ',');
            continue;
        }
        const char *at = open + 1;
        const char *close = strchr(at, ']');
        if (!close)
            return false;
        const char *tail = close + 1;
        size_t n_tail = strcspn(tail, ",");
        size_t n_name = strlen(name);
        if (prefix && n_name > n_prefix + n_tail &&
            strncmp(name + n_name - n_tail, tail, n_tail) == 0) {
            char *end;
            long number = strtol(name + n_prefix, &end, 10);
            while (end == name + n_name - n_tail && at < close) {
                char *next;
                long first = strtol(at, &next, 10), last = first;
                if (*next == '-')
                    last = strtol(next + 1, &next, 10);
                if (number >= first && number <= last)
                    return true;
                at = *next == ',' ? next + 1 : close;
            }
        }
        ranges = tail + n_tail + (tail[n_tail] == ',');
    }
    return false;
}

/* GPUs and cores of a node as the cluster file has them; false if it has no such node. */
static bool node_shape(const struct json *cluster, const char *name, int64_t *ret_gpus,
                       int64_t *ret_cpus) {
    bool found = false;

    for (const struct json *n = json_first(json_get(cluster, "nodes")); n; n = json_next(n))
        if (range_has(json_get_string(n, "names", ""), name)) {
            *ret_gpus = json_get_int(n, "gpus", 0);
            *ret_cpus = json_get_int(n, "cpus", 64);
            found = true;
        }
    return found;
}

/* Returns 1, or 0 for a node that was taken out of the cluster file: hai-upd starts what it finds
 * below nodes/, and nobody would ever see that one ready. */
static int write_agent(const char *dir, int port, const char *name, const struct json *cluster,
                       struct hai_err *err) {
    _cleanup_free_ char *folder = hai_asprintf("%s/nodes/%s", dir, name);
    _cleanup_(buf_free) struct buf text = {0};
    int64_t gpus, cpus;

    if (!node_shape(cluster, name, &gpus, &cpus))
        return fileio_remove_tree(folder, err);
    int r = fileio_mkdir_p(folder, 0755, err);
    if (r < 0)
        return r;
    buf_printf(&text,
               "version: 1\nnode: %s\nserver: http://127.0.0.1:%d\n"
               "token_file: %s/schedd/tokens/node-%s\nstate_dir: %s/state\nrun_dir: %s/run\n"
               "log_dir: %s/jobs\nckpt_dir: %s/ckpt\naddress: 127.0.0.1\n"
               "gpus: %lld\ncpus: %lld\n",
               name, port, dir, name, folder, folder, dir, dir, (long long)gpus, (long long)cpus);
    r = write_text(folder, "agentd.yaml", &text, 0644, err);
    return r < 0 ? r : 1;
}

static int write_client(const char *dir, int port, const struct clientconf_user *user,
                        struct hai_err *err) {
    _cleanup_(buf_free) struct buf token = {0}, text = {0};
    _cleanup_free_ char *path = hai_asprintf("%s/client.yaml", dir);

    int r = read_text(dir, "schedd/tokens/admin", &token);
    if (r < 0)
        return hai_fail(err, r, "%s/schedd/tokens/admin: %s", dir, strerrordesc_np(-r));
    while (token.n_bytes && token.data[token.n_bytes - 1] == '\n')
        token.n_bytes--;
    buf_printf(&text, "version: 1\nserver: http://127.0.0.1:%d\ntoken: %s\n", port,
               buf_cstr(&token));
    r = write_text(dir, "client.yaml", &text, 0600, err);
    return r < 0 ? r : give_to(path, user, err);
}

int local_configure(const char *dir, int port, const struct clientconf_user *user,
                    struct hai_err *err) {
    _cleanup_free_ char *tokens = hai_asprintf("%s/schedd/tokens", dir);
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_(json_freep) struct json *cluster = NULL;
    int n_nodes = 0;

    int r = read_text(dir, "cluster.yaml", &text);
    if (r == 0)
        r = yaml_parse(text.data, text.n_bytes, "cluster.yaml", &cluster, err);
    if (r < 0)
        return r;
    DIR *folder = opendir(tokens);
    if (!folder)
        return hai_fail(err, -errno, "%s: %m", tokens);
    for (struct dirent *e; r >= 0 && (e = readdir(folder));)
        if (strncmp(e->d_name, "node-", 5) == 0) {
            r = write_agent(dir, port, e->d_name + 5, cluster, err);
            n_nodes += r > 0;
        }
    closedir(folder);
    if (r >= 0)
        r = write_client(dir, port, user, err);
    return r < 0 ? r : n_nodes;
}

/* Processes */

/* The command line of a process as one text with spaces; false when it is gone. */
static bool read_command(int pid, char *ret, size_t n_bytes_max) {
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, ret, n_bytes_max - 1);
    if (n <= 0)
        return false;
    ret[n] = '\0';
    for (ssize_t i = 0; i < n; i++)
        if (!ret[i])
            ret[i] = ' ';
    return true;
}

/* Is this one of our programs, started for DIR? */
static bool belongs(int pid, const char *dir, const char *program) {
    char command[8192];
    _cleanup_free_ char *below = hai_asprintf(" %s/", dir);
    _cleanup_free_ char *itself = hai_asprintf(" %s ", dir);

    if (!read_command(pid, command, sizeof command))
        return false;
    char *space = strchr(command, ' ');
    if (!space)
        return false;
    *space = '\0';
    const char *slash = strrchr(command, '/');
    const char *name = slash ? slash + 1 : command;
    *space = ' ';
    return strncmp(name, program, strlen(program)) == 0 &&
           (strstr(space, below) || strstr(space, itself));
}

int local_supervisor(const char *dir) {
    _cleanup_(buf_free) struct buf text = {0};

    if (read_text(dir, "upd.pid", &text) < 0)
        return 0;
    int pid = atoi(buf_cstr(&text));
    return pid > 1 && belongs(pid, dir, "hai-upd") ? pid : 0;
}

int local_start(const char *dir, const char *program, struct hai_err *err) {
    _cleanup_free_ char *log = hai_asprintf("%s/log/upd.log", dir);
    _cleanup_(closep) int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    _cleanup_(closep) int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (out < 0 || null < 0)
        return hai_fail(err, -errno, "%s: %m", log);
    pid_t pid = fork();
    if (pid < 0)
        return hai_fail(err, -errno, "fork: %m");
    if (pid == 0) {
        (void)setsid();
        (void)dup2(null, STDIN_FILENO);
        (void)dup2(out, STDOUT_FILENO);
        (void)dup2(out, STDERR_FILENO);
        (void)signal(SIGINT, SIG_DFL);
        (void)execl(program, "hai-upd", dir, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static bool gone_within(int pid, int64_t timeout_s) {
    int64_t until_us = timefmt_monotonic_us() + timeout_s * 1000000;

    while (kill(pid, 0) == 0 || errno == EPERM) {
        if (timefmt_monotonic_us() > until_us)
            return false;
        (void)poll(NULL, 0, 10);
    }
    return true;
}

/* SIGKILL to what a supervisor that was itself killed left behind. */
static int end_strays(const char *dir) {
    int n_ended = 0;

    for (int round = 0; round < 20; round++) {
        int n_found = 0;
        DIR *proc = opendir("/proc");
        for (struct dirent *e; proc && (e = readdir(proc));) {
            int pid = atoi(e->d_name);
            if (pid > 1 && pid != getpid() && belongs(pid, dir, "hai-")) {
                (void)kill(pid, SIGKILL);
                n_found++;
            }
        }
        if (proc)
            closedir(proc);
        if (n_found == 0)
            break;
        n_ended += n_found;
        (void)poll(NULL, 0, 20);
    }
    return n_ended;
}

int local_stop(const char *dir, int64_t timeout_s, struct hai_err *err) {
    int pid = local_supervisor(dir);

    if (pid > 0 && kill(pid, SIGTERM) < 0)
        return hai_fail_at(err, errno == EPERM ? -EACCES : -errno, NULL, NULL, "try sudo",
                           "hai-upd (%d): %m", pid);
    if (pid > 0 && !gone_within(pid, timeout_s)) {
        (void)kill(pid, SIGKILL);
        (void)gone_within(pid, 2);
    }
    return end_strays(dir);
}

int local_purge(const char *dir, struct hai_err *err) {
    static const char *const names[] = {"cluster.yaml", "schedd.yaml", "client.yaml", "schedd",
                                        "nodes",        "log",         "jobs",        "ckpt",
                                        "upd.pid",      "upd.lock"};
    _cleanup_free_ char *mark = hai_asprintf("%s/schedd.yaml", dir);

    if (access(mark, F_OK) < 0)
        return errno == ENOENT ? 0 : hai_fail(err, -errno, "%s: %m", mark);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, names[i]);
        int r = fileio_remove_tree(path, err);
        if (r < 0)
            return r;
    }
    (void)rmdir(dir); // stays when something else lies there
    return 1;
}
