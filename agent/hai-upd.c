/* hai-upd - the supervisor of `hai up`: one scheduler and some emulated nodes on this machine.
 *
 * usage: hai-upd DIR
 *
 * DIR/schedd.yaml              configuration of hai-schedd; its state is DIR/schedd
 * DIR/nodes/NAME/agentd.yaml   configuration of one hai-agentd each
 * DIR/nodes/NAME/cgroup        written: the cgroup that holds all of the node, or "none"
 * DIR/nodes/NAME/run/boot_id   written: new at every start and after every fence
 * DIR/upd.pid, DIR/upd.lock    written: this process; one supervisor a DIR
 * DIR/log/NAME.log             output of the daemons
 *
 * Restarts daemons that end, fences nodes that the scheduler calls lost. SIGTERM ends all of it and
 * leaves no process and no cgroup behind.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "agent/upd_daemon.h"
#include "agent/upd_fence.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/log.h"
#include "lib/programs.h"
#include "lib/pure/schema.h"
#include "lib/random.h"

#define KILL_AGAIN_US INT64_C(20000)
#define BOOT_AGAIN_US INT64_C(1000000)
#define STOP_CHECK_US INT64_C(20000)
#define STOP_PATIENCE_US INT64_C(10000000)

struct upd;

struct node {
    struct upd *upd;
    char *name;
    char boot_id[UPD_BOOT_ID_BYTES + 1];
    struct upd_report report; // of the life before
    struct upd_box *box;
    struct upd_daemon *agent;
    struct loop_source *again; // kill until nothing is left
    bool fencing;
    int n_rounds;
};

struct upd {
    struct loop *loop;
    const char *dir;
    struct upd_daemon *schedd;
    struct upd_fence *fence;
    SCHEMA_LIST(struct node *) nodes;
    struct loop_source *stop_timer;
    int64_t stop_waited_us;
    bool stopping;
    bool schedd_told;
};

/* An emulated node boots when it is made and when it was fenced: agents tell the scheduler this id,
 * and a new one says that nothing of an earlier life can still run. */
static int new_boot(struct node *node, struct hai_err *err) {
    _cleanup_free_ char *run_dir = hai_asprintf("%s/nodes/%s/run", node->upd->dir, node->name);
    _cleanup_free_ char *path = hai_asprintf("%s/boot_id", run_dir);
    char boot_id[UPD_BOOT_ID_BYTES + 1];
    uint8_t bytes[UPD_BOOT_ID_BYTES / 2];

    random_bytes(bytes, sizeof bytes);
    digest_hex(bytes, sizeof bytes, boot_id);
    int r = fileio_mkdir_p(run_dir, 0755, err);
    if (r == 0)
        r = fileio_replace(path, boot_id, strlen(boot_id), 0644, err);
    if (r == 0)
        memcpy(node->boot_id, boot_id, sizeof boot_id);
    return r;
}

/* Its life ends when nothing of it is left and the next one has an id, in this order; only then is
 * the end told and an agent started. So no agent ever speaks under an id that was reported as
 * ended, and what is reported again is the life that ended, not the one that runs. */
static void fence_round(void *data) {
    struct node *node = data;
    struct upd_report *report = &node->report;
    struct hai_err err = {0};
    int n_left = upd_box_kill(node->box);

    node->n_rounds++;
    if (n_left > 0) {
        loop_timer_after(node->again, KILL_AGAIN_US);
        return;
    }
    memcpy(report->boot_id, node->boot_id, sizeof report->boot_id);
    if (new_boot(node, &err) < 0) {
        log_error("node %s: %s", node->name, hai_err_text(&err));
        loop_timer_after(node->again, BOOT_AGAIN_US);
        return;
    }
    node->fencing = false;
    _cleanup_free_ char *evidence =
        hai_asprintf("hai-upd found no process left in the %s after %d rounds of SIGKILL",
                     upd_box_kind(node->box), node->n_rounds);
    log_write(LOG_LEVEL_NOTICE, LOG_FIELDS(.node = node->name), "node %s is fenced: %s", node->name,
              evidence);
    hai_strset(&report->evidence, evidence);
    report->waits = true;
    upd_fence_report(node->upd->fence, report);
    upd_daemon_resume(node->agent);
}

static void on_lost(const char *name, void *data) {
    struct upd *upd = data;

    if (upd->stopping)
        return;
    for (size_t i = 0; i < upd->nodes.n; i++) {
        struct node *node = upd->nodes.items[i];
        if (!hai_streq(node->name, name) || node->fencing)
            continue;
        if (node->report.waits) {
            upd_fence_report(upd->fence, &node->report);
            continue;
        }
        log_write(LOG_LEVEL_NOTICE, LOG_FIELDS(.node = name), "node %s is lost: fencing it", name);
        node->fencing = true;
        node->n_rounds = 0;
        upd_daemon_hold(node->agent);
        fence_round(node);
    }
}

/* All nodes first, so that nothing reports to a scheduler that is going; then the scheduler, which
 * saves its state; then the cgroups. */
static void stop_round(void *data) {
    struct upd *upd = data;
    int n_left = 0;

    for (size_t i = 0; i < upd->nodes.n; i++)
        n_left += upd_box_kill(upd->nodes.items[i]->box);
    if (n_left == 0)
        upd_daemon_stop(upd->schedd, upd->stop_waited_us < STOP_PATIENCE_US ? SIGTERM : SIGKILL);
    if (n_left == 0 && !upd_daemon_running(upd->schedd)) {
        loop_quit(upd->loop, 0);
        return;
    }
    upd->stop_waited_us += STOP_CHECK_US;
    loop_timer_after(upd->stop_timer, STOP_CHECK_US);
}

static void on_signal(int signal, void *data) {
    struct upd *upd = data;

    if (upd->stopping)
        return;
    upd->stopping = true;
    log_notice("stopping on signal %d", signal);
    for (size_t i = 0; i < upd->nodes.n; i++)
        upd_daemon_stop(upd->nodes.items[i]->agent, 0);
    stop_round(upd);
}

static struct upd_daemon *make_daemon(struct upd *upd, const char *program, const char *name,
                                      const char *config, const struct upd_box *box) {
    _cleanup_free_ char *path = programs_find(program);
    _cleanup_free_ char *log = hai_asprintf("%s/log/%s.log", upd->dir, name);
    const char *argv[] = {path ? path : program, "--config", config, NULL};

    return upd_daemon_new(upd->loop, name, argv, log, box);
}

static int add_node(struct upd *upd, const char *name, struct hai_err *err) {
    _cleanup_free_ char *dir = hai_asprintf("%s/nodes/%s", upd->dir, name);
    _cleanup_free_ char *config = hai_asprintf("%s/agentd.yaml", dir);

    if (access(config, R_OK) < 0)
        return hai_fail(err, -errno, "%s: %m", config);
    struct node *node = hai_new(struct node);
    *LIST_ADD(&upd->nodes) = node;
    node->upd = upd;
    node->name = hai_strdup(name);
    node->report.node = node->name;
    int r = upd_box_new(dir, name, &node->box, err);
    if (r < 0)
        return r;
    r = new_boot(node, err);
    if (r < 0)
        return r;
    node->agent = make_daemon(upd, "hai-agentd", name, config, node->box);
    node->again = loop_timer_new(upd->loop, LOOP_MONOTONIC, fence_round, node);
    return 0;
}

static void node_free(struct node *node) {
    loop_source_free(node->again);
    upd_daemon_free(node->agent);
    if (node->box && upd_box_remove(node->box) < 0)
        log_warning("node %s: something is left in the %s", node->name, upd_box_kind(node->box));
    upd_box_free(node->box);
    free(node->report.evidence);
    free(node->name);
    free(node);
}

static int not_hidden(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

static int add_nodes(struct upd *upd, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/nodes", upd->dir);
    struct dirent **names = NULL;
    int n = scandir(path, &names, not_hidden, alphasort);
    int r = n < 0 ? hai_fail(err, -errno, "%s: %m", path) : 0;

    for (int i = 0; i < n; i++) {
        if (r == 0)
            r = add_node(upd, names[i]->d_name, err);
        free(names[i]);
    }
    free(names);
    return r;
}

static int claim(struct upd *upd, int *ret_lock, struct hai_err *err) {
    _cleanup_free_ char *lock = hai_asprintf("%s/upd.lock", upd->dir);
    _cleanup_free_ char *pid_file = hai_asprintf("%s/upd.pid", upd->dir);
    _cleanup_free_ char *log_dir = hai_asprintf("%s/log", upd->dir);
    _cleanup_free_ char *text = hai_asprintf("%d\n", getpid());

    int r = fileio_mkdir_p(log_dir, 0755, err);
    if (r < 0)
        return r;
    r = fileio_lock(lock, ret_lock, err);
    if (r < 0)
        return r;
    return fileio_replace(pid_file, text, strlen(text), 0644, err);
}

static int run(struct upd *upd, struct hai_err *err) {
    _cleanup_free_ char *state = hai_asprintf("%s/schedd", upd->dir);
    _cleanup_free_ char *config = hai_asprintf("%s/schedd.yaml", upd->dir);

    upd->schedd = make_daemon(upd, "hai-schedd", "schedd", config, NULL);
    upd->stop_timer = loop_timer_new(upd->loop, LOOP_MONOTONIC, stop_round, upd);
    upd->fence = upd_fence_new(upd->loop, state, on_lost, upd);
    _cleanup_(loop_source_freep) struct loop_source *term =
        loop_signal_new(upd->loop, SIGTERM, on_signal, upd);
    _cleanup_(loop_source_freep) struct loop_source *interrupt =
        loop_signal_new(upd->loop, SIGINT, on_signal, upd);
    int r = add_nodes(upd, err);
    if (r < 0)
        return r;
    upd_daemon_start(upd->schedd);
    for (size_t i = 0; i < upd->nodes.n; i++)
        upd_daemon_start(upd->nodes.items[i]->agent);
    log_notice("supervising the scheduler and %zu nodes in %s", upd->nodes.n, upd->dir);
    return loop_run(upd->loop);
}

static void upd_release(struct upd *upd) {
    upd_fence_free(upd->fence);
    for (size_t i = 0; i < upd->nodes.n; i++)
        node_free(upd->nodes.items[i]);
    free(upd->nodes.items);
    upd_daemon_free(upd->schedd);
    loop_source_free(upd->stop_timer);
    loop_free(upd->loop);
}

int main(int argc, char **argv) {
    struct hai_err err = {0};
    _cleanup_(closep) int lock = -1;
    char dir[PATH_MAX];

    log_open("hai-upd", LOG_LEVEL_INFO);
    if (argc != 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: hai-upd DIR\n");
        return 2;
    }
    if (!realpath(argv[1], dir)) {
        fprintf(stderr, "hai-upd: %s: %m\n", argv[1]);
        return 1;
    }
    struct upd upd = {.dir = dir};
    int r = loop_new(&upd.loop, &err);
    if (r == 0)
        r = claim(&upd, &lock, &err);
    if (r == 0)
        r = run(&upd, &err);
    if (r < 0)
        log_error("%s", hai_err_text(&err));
    upd_release(&upd);
    if (lock >= 0) {
        _cleanup_free_ char *pid_file = hai_asprintf("%s/upd.pid", dir);
        (void)unlink(pid_file);
    }
    return r < 0 ? 1 : r;
}
