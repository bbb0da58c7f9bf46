/* hai down: stop the cluster of hai up. */
#include "cli/local.h"
#include "cli/verbs.h"

enum { STOP_S = 30, ASK_MS = 2000 };

static const struct option options[] = {
    {0,    "dir", "D", "where it lies (default: that of HAI_CONFIG, else ~/.local/share/hai)"},
    {0, "purge", NULL, "remove its data as well"},
    {0   },
};

/* Jobs that have not ended: those whose ranks stop with the nodes, and those that wait. */
struct left {
    int64_t running, waiting;
    bool known;
};

/* A scheduler that hangs must not keep the cluster from being stopped. */
static void count_jobs(struct cli *cli, const char *dir, struct left *ret) {
    _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};
    _cleanup_(json_freep) struct json *jobs = NULL;
    struct hai_err err = {0};

    if (verb_up_connect(cli, dir, local_port(dir), &err) < 0 ||
        http_sync_ask(cli->http, "GET", "/api/v1/queue", NULL, NULL, 0, ASK_MS, &reply, &err) < 0 ||
        reply.status != 200 ||
        json_parse(reply.body.data, reply.body.n_bytes, NULL, &jobs, NULL) < 0)
        return;
    ret->known = true;
    for (const struct json *job = json_first(jobs); job; job = json_next(job)) {
        const char *state = json_get_string(job, "state", "");
        const struct json *array = json_get(job, "elements");
        if (json_get_int(array, "n", 0)) // elements that run are jobs of their own
            ret->waiting += json_get_int(array, "waiting", 0) > 0;
        else if (!strcmp(state, "held") || !strcmp(state, "queued") || !strcmp(state, "suspended"))
            ret->waiting++;
        else
            ret->running++;
    }
}

/* What becomes of them. Nobody is asked: they are not lost, or --purge said that they shall be. */
static void tell_jobs(const struct cli *cli, const struct left *left, bool purge) {
    long long running = left->running, waiting = left->waiting;

    if (purge && running + waiting)
        cli_note(cli, "%lld job%s had not ended: removed with the data", running + waiting,
                 running + waiting == 1 ? "" : "s");
    if (purge)
        return;
    if (running)
        cli_note(cli,
                 "%lld job%s ran and %s cut off: from the last checkpoint %s on at the next hai up "
                 "(not with restarts switched off)",
                 running, running == 1 ? "" : "s", running == 1 ? "was" : "were",
                 running == 1 ? "it goes" : "they go");
    if (waiting)
        cli_note(cli, "%lld job%s wait%s on", waiting, waiting == 1 ? "" : "s",
                 waiting == 1 ? "s" : "");
}

/* dir: NULL where `hai up` alone means it. */
static void tell_stopped(const struct cli *cli, const char *dir) {
    if (cli_has(cli, "purge"))
        cli_note(cli, "stopped");
    else
        cli_note(cli, "stopped; hai up%s%s goes on where it was", dir ? " --dir " : "",
                 dir ? dir : "");
}

static void print_json(const char *dir, bool was_running, int n_killed, bool purged,
                       const struct left *left) {
    _cleanup_(json_freep) struct json *answer = json_new_object();

    json_add_string(answer, "dir", dir);
    json_add_bool(answer, "was_running", was_running);
    json_add_int(answer, "killed", n_killed);
    json_add_bool(answer, "purged", purged);
    json_add(answer, "jobs_cut_off", left->known ? json_new_int(left->running) : json_new_null());
    json_add(answer, "jobs_waiting", left->known ? json_new_int(left->waiting) : json_new_null());
    cli_print_json(answer);
}

static int stop(struct cli *cli, const char *dir, bool is_default) {
    struct hai_err err = {0};
    struct left left = {0};
    bool running = local_supervisor(dir) > 0;

    if (running)
        count_jobs(cli, dir, &left);
    int r = local_stop(dir, STOP_S, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (r > 0)
        cli_note(cli, "%d processes had to be killed", r);
    if (!running && r == 0)
        cli_note(cli, "nothing ran in %s", dir);
    else
        tell_stopped(cli, is_default ? NULL : dir);
    tell_jobs(cli, &left, cli_has(cli, "purge"));
    int n_killed = r;
    r = cli_has(cli, "purge") ? local_purge(dir, &err) : 0;
    if (r < 0)
        return cli_fail(cli, -EIO, &err);
    if (r > 0)
        cli_note(cli, "removed its data in %s", dir);
    if (cli->json)
        print_json(dir, running, n_killed, cli_has(cli, "purge"), &left);
    return CLI_OK;
}

/* Of --dir, else the one that the other verbs talk to, else the default one. */
static int run(struct cli *cli) {
    struct hai_err err = {0};
    struct left left = {0};
    _cleanup_free_ char *of_config = cli_has(cli, "dir") ? NULL : local_of_config();
    _cleanup_free_ char *dir = of_config ? NULL : verb_up_dir(cli, false, &err);

    if (!of_config)
        return dir ? stop(cli, dir, !cli_has(cli, "dir")) : cli_usage(cli, "%s", err.text);
    if (local_port(of_config))
        return stop(cli, of_config, false);
    // It was purged. What else runs below that directory is not looked at: it may be /tmp.
    cli_note(cli, "nothing ran in %s", of_config);
    if (cli->json)
        print_json(of_config, false, 0, cli_has(cli, "purge"), &left);
    return CLI_OK;
}

const struct verb verb_down = {
    .name = "down",
    .group = "start",
    .args = "",
    .help = "stop the cluster of hai up (--purge: and remove its data)",
    .detail =
        "Jobs that run are cut off; at the next hai up they go on from their last checkpoint, as\n"
        "after a fault of their nodes. Jobs that wait go on waiting.",
    .examples = "  hai down\n  hai down --purge\n",
    .options = options,
    .run = run,
};
