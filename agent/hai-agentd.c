/* hai-agentd: the agent of one node. Keeps what runs here equal to what the scheduler wants.
 */
#include "agent/agentd.h"
#include "agent/attempts.h"
#include "agent/logkeep.h"
#include "agent/meeting.h"
#include "agent/rankhub.h"
#include "agent/rankstream.h"
#include "agent/uplink.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/json_schema.h"
#include "lib/log.h"
#include "lib/programs.h"
#include "lib/pure/errline.h"
#include "lib/random.h"
#include "lib/timefmt.h"
#include "lib/yaml.h"
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAME "hai-agentd"
#define RANK_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum {
    QUIET_US = 1000 * 1000,
    SWEEP_US = 600 * 1000 * 1000, // between two looks for old output
    YOUNG_US = 60 * 1000 * 1000,  // output that is not looked at yet
    GIVE_BACK_BYTES = 512 * 1024, // freed and kept by malloc
    CONFIG_BYTES_MAX = 1 << 20,
    RUN_DIR_BYTES_MAX = 64, // a socket's path has 107, and JOB.ATTEMPT.EPOCH/rank.sock is in it
};

static const char usage[] = "usage: " NAME " [--config FILE]\n"
                            "The agent of one node. FILE: /etc/hai/agentd.yaml by default.\n";

static int read_config(const char *path, struct agentd_config *ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_(json_freep) struct json *tree = NULL;

    int r = fileio_read_file(path, CONFIG_BYTES_MAX, &text, err);
    if (r < 0)
        return r;
    r = yaml_parse(text.data, text.n_bytes, path, &tree, err);
    if (r < 0)
        return r;
    return json_schema_decode(agentd_config_schema(), tree, JSON_SCHEMA_FILE, 0, path, ret, NULL,
                              err);
}

static void set_default(char **text, const char *value) {
    if (!*text)
        *text = hai_strdup(value);
}

static int make_dirs(struct agentd *a, struct hai_err *err) {
    struct agentd_config *c = &a->config;

    set_default(&c->state_dir, "/var/lib/hai");
    set_default(&c->run_dir, "/run/hai");
    set_default(&c->log_dir, "/var/log/hai/jobs");
    set_default(&c->address, "127.0.0.1");
    if (strlen(c->run_dir) > RUN_DIR_BYTES_MAX)
        return hai_fail(err, -ENAMETOOLONG,
                        "run_dir %s is too long for the sockets in it: at most %d bytes",
                        c->run_dir, RUN_DIR_BYTES_MAX);
    a->scratch_dir = hai_asprintf("%s/scratch", c->state_dir);
    a->ckpt_dir = c->ckpt_dir ? hai_strdup(c->ckpt_dir) : hai_asprintf("%s/ckpt", c->state_dir);
    const char *dirs[] = {c->state_dir, c->run_dir, c->log_dir, a->scratch_dir, a->ckpt_dir};
    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
        int r = fileio_mkdir_p(dirs[i], 0755, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static void read_boot_id(struct agentd *a) {
    _cleanup_free_ char *emulated = hai_asprintf("%s/boot_id", a->config.run_dir);
    const char *paths[] = {emulated, "/proc/sys/kernel/random/boot_id"};

    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        _cleanup_(buf_free) struct buf text = {0};
        if (fileio_read_file(paths[i], 256, &text, NULL) < 0)
            continue;
        snprintf(a->boot_id, sizeof a->boot_id, "%.64s", buf_cstr(&text));
        a->boot_id[strcspn(a->boot_id, "\n")] = '\0';
        return;
    }
}

static int open_client(struct agentd *a, struct hai_err *err) {
    _cleanup_(buf_free) struct buf token = {0};

    int r = fileio_read_file(a->config.token_file, 4096, &token, err);
    if (r < 0)
        return r;
    char *text = (char *)(uintptr_t)buf_cstr(&token);
    text[strcspn(text, "\r\n \t")] = '\0';
    return http_client_new(a->loop, a->config.server, text, &a->client, err);
}

static void on_mark(const struct reconcile_key *key, void *data) {
    reconcile_marked(((struct agentd *)data)->core, key);
}

static void set_launch(struct agentd *a) {
    a->launch = (struct launch_node){
        .node = a->config.node,
        .log_dir = a->config.log_dir,
        .ckpt_dir = a->ckpt_dir,
        .scratch_dir = a->scratch_dir,
        .hai_train = a->hai_train,
        .path = RANK_PATH,
        .box = a->cgroups.box,
        .cgroup = a->cgroups.base,
        .memory_cgroup = a->cgroups.memory,
        .rank_log_bytes = a->config.rank_log_bytes,
        .switch_user = geteuid() == 0,
    };
}

/* An agent sits beside jobs that want the memory: what a burst of them left free goes back. */
static void give_back(void *data) {
    if (mallinfo2().fordblks >= GIVE_BACK_BYTES)
        malloc_trim(0);
}

static bool is_here(int64_t job, int64_t attempt, void *data) {
    return attempts_find_job(data, job, attempt);
}

/* Drop output that is too old or too much. In a child: there may be many files. */
static void sweep_output(void *data) {
    struct agentd *a = data;
    struct statvfs disk;

    loop_timer_after(a->sweep, SWEEP_US);
    if (fork() != 0)
        return;
    // Nothing of ours stays open there: our lock and port must be free for the next agent.
    close_range(STDERR_FILENO + 1, ~0U, 0);
    if (statvfs(a->config.log_dir, &disk) < 0)
        _exit(1);
    struct logkeep keep = {
        .log_dir = a->config.log_dir,
        .age_us = a->config.log_age_us,
        .bytes_max = (int64_t)(disk.f_blocks / 100 * disk.f_frsize) * a->config.log_disk_percent,
        .young_us = MIN((int64_t)YOUNG_US, a->config.log_age_us),
        .is_live = is_here,
        .data = a,
    };
    logkeep_sweep(&keep, timefmt_now_us());
    _exit(0);
}

static void on_turn_end(void *data) {
    struct agentd *a = data;

    attempts_act(a);
    uplink_turn_end(a);
    loop_timer_after(a->quiet, QUIET_US);
}

static void on_signal(int signal, void *data) {
    struct agentd *a = data;

    log_notice("stopping on signal %d; ranks run on", signal);
    loop_quit(a->loop, 0);
}

static void on_child(int signal, void *data) {
    int status;

    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        rankstream_reaped(data, pid, status);
}

static int setup(struct agentd *a, struct hai_err *err) {
    _cleanup_free_ char *marks = NULL;

    int r = make_dirs(a, err);
    if (r < 0)
        return r;
    _cleanup_free_ char *lock = hai_asprintf("%s/agentd.lock", a->config.state_dir);
    r = fileio_lock(lock, &a->lock_fd, err);
    if (r < 0)
        return r;
    if (!(a->shim = programs_find("hai-shim")))
        return hai_fail(err, -ENOENT, "hai-shim is not beside hai-agentd, nor in PATH");
    a->hai_train = programs_find("hai-train");
    random_token(a->instance);
    a->started_us = timefmt_boottime_us();
    read_boot_id(a);
    _cleanup_free_ char *name =
        hai_asprintf("%s.%08x", a->config.node,
                     (unsigned)digest_xxh3(a->config.state_dir, strlen(a->config.state_dir)));
    cgroups_find(a->config.cgroup, name, &a->cgroups);
    set_launch(a);
    a->accounts = accounts_new();
    a->core = reconcile_new();
    schema_init(agent_desired_schema(), &a->desired);
    a->round_complete = rankhub_complete;
    marks = hai_asprintf("%s/marks", a->config.state_dir);
    if ((r = marks_open(marks, on_mark, a, &a->marks, err)) < 0 || (r = open_client(a, err)) < 0 ||
        (r = meeting_new(a, &a->meeting, err)) < 0)
        return r;
    // No shim is given a lease that the scheduler did not grant; those found have their own.
    a->lease_until_us = timefmt_boottime_us();
    a->clock_offset_us = S_ABSENT;
    a->streams = rankstream_new(a);
    return attempts_adopt(a, err);
}

static void teardown(struct agentd *a) {
    uplink_free(a->uplink);
    rankstream_free(a->streams);
    attempts_free(a);
    meeting_free(a->meeting);
    http_client_free(a->client);
    marks_free(a->marks);
    reconcile_free(a->core);
    accounts_free(a->accounts);
    schema_free(agent_desired_schema(), &a->desired);
    attempts_free_wants(a);
    cgroups_free(&a->cgroups);
    free(a->scratch_dir);
    free(a->ckpt_dir);
    free(a->shim);
    free(a->hai_train);
    schema_free(agentd_config_schema(), &a->config);
    if (a->lock_fd >= 0)
        close(a->lock_fd);
}

static int run(struct agentd *a, struct hai_err *err) {
    static const int ends[] = {SIGTERM, SIGINT};
    struct loop_source *signals[3];

    int r = loop_new(&a->loop, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
        signals[i] = loop_signal_new(a->loop, ends[i], on_signal, a);
    signals[2] = loop_signal_new(a->loop, SIGCHLD, on_child, a);
    a->quiet = loop_timer_new(a->loop, LOOP_MONOTONIC, give_back, a);
    r = setup(a, err);
    if (r == 0) {
        a->uplink = uplink_new(a);
        a->sweep = loop_timer_new(a->loop, LOOP_MONOTONIC, sweep_output, a);
        sweep_output(a); // what lives was found by now
        loop_set_turn_end(a->loop, on_turn_end, a);
        loop_notify("READY=1");
        loop_watchdog(a->loop);
        log_write(LOG_LEVEL_NOTICE, LOG_FIELDS(.node = a->config.node),
                  "node %s: ranks are held by a %s%s", a->config.node,
                  ((const char *const[]){"cgroup", "freezer cgroup", "PID namespace",
                                         "process walk"})[a->cgroups.box],
                  a->cgroups.limits_memory ? ", memory limits work" : "");
        r = loop_run(a->loop);
    }
    teardown(a);
    loop_source_free(a->quiet);
    loop_source_free(a->sweep);
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
        loop_source_free(signals[i]);
    loop_free(a->loop);
    return r;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"config",     required_argument, NULL, 'c'},
        {"help",        no_argument, NULL, 'h'},
        {"version",            no_argument, NULL, 'V'},
        {0},
    };
    const char *config = "/etc/hai/agentd.yaml";
    struct agentd a = {.lock_fd = -1};
    char line[ERRLINE_BYTES];
    struct hai_err err = {0};

    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'c') {
            config = optarg;
        } else if (c == 'V') {
            puts(NAME " " HAI_VERSION);
            return 0;
        } else {
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    log_open(NAME, LOG_LEVEL_INFO);
    umask(022); // ranks of other users pass through our directories
    signal(SIGPIPE, SIG_IGN);
    int r = read_config(config, &a.config, &err);
    if (r < 0) {
        log_error("%s", errline_text(&err, line));
        return 2;
    }
    r = run(&a, &err);
    if (r < 0) {
        log_error("%s", hai_err_text(&err));
        return 1;
    }
    return 0;
}
