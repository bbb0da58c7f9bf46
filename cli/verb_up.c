/* hai up: a cluster on this machine. */
#include "cli/local.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "lib/fileio.h"
#include "lib/programs.h"
#include "lib/timefmt.h"
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { READY_S = 60, RUNNING_S = 10, LOG_TAIL_SHOWN = 2000 };

static const struct option options[] = {
    {0,                                                                     "dir", "D", "where everything lies (default ~/.local/share/hai)"},
    {0,                                                                  "port", "N", "of the API on 127.0.0.1 (default: the last one, else 7480; 0: any)"},
    {0,                                                                     "nodes", "N", "nodes (default 4)"},
    {0,"gpus", "N", "emulated GPUs of each (default 2)"},
    {0, "zones", "N", "zones (default 2)"},
    {0,                                                                     "cluster", "F", "a cluster file instead of the three"},
    {0                                                                 },
};

static void show_log_tail(const char *dir, const char *name) {
    _cleanup_free_ char *path = hai_asprintf("%s/log/%s", dir, name);
    _cleanup_(buf_free) struct buf text = {0};

    if (fileio_read_file(path, 1 << 26, &text, NULL) < 0 || text.n_bytes == 0)
        return;
    size_t n = MIN(text.n_bytes, (size_t)LOG_TAIL_SHOWN);
    fprintf(stderr, "--- end of %s\n%.*s", path, (int)n,
            (const char *)text.data + text.n_bytes - n);
}

static char *find_scheduler(struct hai_err *err) {
    char *program = programs_find("hai-schedd");

    if (!program)
        hai_fail_at(err, -ENOENT, NULL, NULL, "meson install puts them side by side",
                    "the program hai-schedd is not beside hai and not in PATH");
    return program;
}

/* Every error of a person's cluster file, before anything is made of it. tail: of what is said. */
static int check_cluster(const char *path, const char *tail, struct hai_err *err) {
    _cleanup_free_ char *program = find_scheduler(err);
    char *argv[] = {"hai-schedd", "--check", (char *)path, NULL};

    if (!program)
        return -ENOENT;
    return programs_run(program, argv) == 0
               ? 0
               : hai_fail(err, -EBADMSG, "the cluster file is refused; %s", tail);
}

/* The same of the one that lies there, which a person may have edited. */
static int check_own_cluster(const char *dir, const char *tail, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/cluster.yaml", dir);

    return access(path, F_OK) == 0 ? check_cluster(path, tail, err) : 0;
}

/* hai-schedd init makes the store and the tokens; it may be repeated. */
static int init_scheduler(const char *dir, const struct clientconf_user *user,
                          struct hai_err *err) {
    _cleanup_free_ char *program = find_scheduler(err);
    _cleanup_free_ char *state = hai_asprintf("%s/schedd", dir);
    _cleanup_free_ char *cluster = hai_asprintf("%s/cluster.yaml", dir);
    _cleanup_free_ char *uid = hai_asprintf("%u", user->uid);
    _cleanup_free_ char *gid = hai_asprintf("%u", user->gid);

    if (!program)
        return -ENOENT;
    char *argv[] = {"hai-schedd", "init",  "--state-dir", state,   "--cluster", cluster, "--user",
                    user->name,   "--uid", uid,           "--gid", gid,         NULL};
    int status = programs_run(program, argv);
    if (status != 0)
        return hai_fail(err, -EIO, "hai-schedd init ended with %d", status);
    return 0;
}

/* Number of nodes that are ready, or an error while the scheduler does not answer. */
static int count_ready(struct cli *cli) {
    _cleanup_(json_freep) struct json *nodes = NULL;
    struct hai_err err = {0};
    int n = 0;

    int r = cli_ask(cli, "GET", "/api/v1/nodes", NULL, NULL, &nodes, &err);
    if (r < 0)
        return r;
    for (const struct json *node = json_first(nodes); node; node = json_next(node))
        n += strcmp(json_get_string(node, "state", ""), "ready") == 0;
    return n;
}

static int wait_ready(struct cli *cli, const char *dir, int upd, int n_nodes, struct hai_err *err) {
    int64_t until_us = timefmt_monotonic_us() + READY_S * INT64_C(1000000);
    int n_ready = -1;

    while (timefmt_monotonic_us() < until_us) {
        int status;
        if (waitpid(upd, &status, WNOHANG) == upd) {
            show_log_tail(dir, "upd.log");
            show_log_tail(dir, "schedd.log");
            return hai_fail(err, -EIO, "hai-upd ended at once");
        }
        n_ready = count_ready(cli);
        if (n_ready >= n_nodes)
            return 0;
        (void)poll(NULL, 0, 10);
    }
    show_log_tail(dir, "schedd.log");
    return hai_fail(err, -ETIMEDOUT, "after %d s %d of %d nodes are ready; see %s/log", READY_S,
                    MAX(n_ready, 0), n_nodes, dir);
}

int verb_up_connect(struct cli *cli, const char *dir, int port, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/schedd/tokens/admin", dir);
    _cleanup_(buf_free) struct buf token = {0};

    cli->server_url = hai_asprintf("http://127.0.0.1:%d", port);
    int r = fileio_read_file(path, 4096, &token, err);
    while (token.n_bytes && token.data[token.n_bytes - 1] == '\n')
        token.n_bytes--;
    return r < 0 ? r : http_sync_open(cli->server_url, buf_cstr(&token), &cli->http, err);
}

static void tell(struct cli *cli, const char *dir, int port, int n_nodes, int64_t took_us,
                 bool own_dir) {
    if (cli->json) {
        _cleanup_(json_freep) struct json *answer = json_new_object();
        json_add_string(answer, "server", cli->server_url);
        json_add_string(answer, "dir", dir);
        json_add_int(answer, "nodes", n_nodes);
        cli_print_json(answer);
        return;
    }
    if (cli->quiet) {
        printf("%s\n", cli->server_url);
        return;
    }
    if (took_us)
        printf("%d node%s ready after %.2f s; http://127.0.0.1:%d, files in %s\n", n_nodes,
               n_nodes == 1 ? "" : "s", (double)took_us / 1e6, port, dir);
    else
        printf("already running; http://127.0.0.1:%d, files in %s\n", port, dir);
    if (own_dir)
        cli_note(cli, "  export HAI_CONFIG=%s/client.yaml", dir);
    cli_note(cli, "  hai run -- hostname    hai nodes    hai example    hai down%s%s",
             own_dir ? " --dir " : "", own_dir ? dir : "");
}

static int start(struct cli *cli, const char *dir, const struct local_shape *shape,
                 bool shape_given, int port, struct hai_err *err) {
    _cleanup_(clientconf_user_free) struct clientconf_user user = {0};
    _cleanup_free_ char *upd = programs_find("hai-upd");
    int64_t started_us = timefmt_monotonic_us();

    clientconf_caller(&user);
    if (!upd)
        return hai_fail_at(err, -ENOENT, NULL, NULL, "meson install puts them side by side",
                           "the program hai-upd is not beside hai and not in PATH");
    int r = shape->cluster ? check_cluster(shape->cluster, "nothing was started", err)
            : shape_given  ? 0
                           : check_own_cluster(dir, "nothing was started", err);
    if (r == 0)
        r = local_prepare(dir, shape, shape_given, port, &user, &port, err);
    if (r == 0)
        r = init_scheduler(dir, &user, err);
    if (r < 0)
        return r;
    int n_nodes = local_configure(dir, port, &user, err);
    if (n_nodes < 0)
        return n_nodes;
    cli_note(cli, "starting %d node%s as %s in %s", n_nodes, n_nodes == 1 ? "" : "s", user.name,
             dir);
    r = verb_up_connect(cli, dir, port, err);
    if (r == 0)
        r = local_start(dir, upd, err);
    if (r < 0)
        return r;
    terminal_catch_interrupt("\nhai: left; the cluster goes on starting (hai down stops it)\n");
    r = wait_ready(cli, dir, r, n_nodes, err);
    if (r < 0) {
        struct hai_err ignored = {0};
        (void)local_stop(dir, 10, &ignored);
        return r;
    }
    tell(cli, dir, port, n_nodes, timefmt_monotonic_us() - started_us, cli_has(cli, "dir"));
    return 0;
}

/* It runs already: then it is what was asked for, or nothing was done. */
static int look_at_running(struct cli *cli, const char *dir, const struct local_shape *shape,
                           bool shape_given, int port, struct hai_err *err) {
    int64_t until_us = timefmt_monotonic_us() + RUNNING_S * INT64_C(1000000);
    int n_ready;

    int r = check_own_cluster(dir, "a scheduler that ends does not start again", err);
    if (r == 0)
        r = local_same(dir, shape, shape_given, port, err);
    if (r == 0)
        r = verb_up_connect(cli, dir, local_port(dir), err);
    if (r < 0)
        return r;
    while ((n_ready = count_ready(cli)) < 0 && timefmt_monotonic_us() < until_us)
        (void)poll(NULL, 0, 100);
    if (n_ready < 0) {
        show_log_tail(dir, "schedd.log");
        return hai_fail(err, -EHOSTDOWN,
                        "hai-upd runs, but the scheduler does not answer; see %s/log", dir);
    }
    tell(cli, dir, local_port(dir), n_ready, 0, cli_has(cli, "dir"));
    return 0;
}

/* An absolute path of --dir, made if needed, or the default. */
char *verb_up_dir(const struct cli *cli, bool make, struct hai_err *err) {
    const char *given = cli_option(cli, "dir");
    char real[PATH_MAX];

    if (!given)
        return clientconf_up_dir();
    if (make && fileio_mkdir_p(given, 0755, err) < 0)
        return NULL;
    if (!realpath(given, real)) {
        hai_fail(err, -errno, "%s: %m", given);
        return NULL;
    }
    if (strpbrk(real, " \t\n'\"#:{}[],&*!|>%@`\\")) {
        hai_fail(err, -EINVAL, "--dir is '%s'; expected letters, digits and /._-+", real);
        return NULL;
    }
    return hai_strdup(real);
}

static int run(struct cli *cli) {
    struct local_shape shape = {.cluster = cli_option(cli, "cluster")};
    struct hai_err err = {0};
    int64_t port;
    bool shape_given =
        shape.cluster || cli_has(cli, "nodes") || cli_has(cli, "gpus") || cli_has(cli, "zones");

    if (cli_number(cli, "nodes", 1, 1000, 4, &shape.nodes) < 0 ||
        cli_number(cli, "gpus", 0, 16, 2, &shape.gpus) < 0 ||
        cli_number(cli, "zones", 1, 16, MIN(shape.nodes, 2), &shape.zones) < 0 ||
        cli_number(cli, "port", 0, 65535, 7480, &port) < 0)
        return CLI_USAGE;
    if (shape.zones > shape.nodes)
        return cli_usage(cli, "--zones is %lld; expected at most one for each node",
                         (long long)shape.zones);
    if (shape.cluster && (cli_has(cli, "nodes") || cli_has(cli, "gpus") || cli_has(cli, "zones")))
        return cli_usage(cli, "--cluster and --nodes, --gpus or --zones exclude each other");
    // Ranks of other users pass through the directories of the cluster; its secrets have modes of
    // their own.
    umask(022);
    _cleanup_free_ char *dir = verb_up_dir(cli, true, &err);
    if (!dir)
        return cli_usage(cli, "%s", err.text);
    if (local_supervisor(dir)) {
        int r = look_at_running(cli, dir, &shape, shape_given,
                                cli_has(cli, "port") ? (int)port : -1, &err);
        return r < 0 ? cli_fail(cli, r, &err) : CLI_OK;
    }
    if (!cli_has(cli, "port") && local_port(dir))
        port = local_port(dir);
    int r = start(cli, dir, &shape, shape_given, (int)port, &err);
    if (r == -ENOENT)
        r = -EIO; // a missing file here is no missing job
    return r < 0 ? cli_fail(cli, r, &err) : CLI_OK;
}

const struct verb verb_up = {
    .name = "up",
    .group = "start",
    .args = "",
    .help = "start a cluster on this machine",
    .detail = "Nodes and their GPUs are emulated; jobs are real processes. A cluster that was "
              "stopped goes on\nwhere it was. Everything lies below one directory.",
    .examples = "  hai up\n  hai up --nodes 8 --gpus 4 --zones 4\n"
                "  hai up --dir /tmp/c --port 0; export HAI_CONFIG=/tmp/c/client.yaml\n",
    .options = options,
    .run = run,
};
