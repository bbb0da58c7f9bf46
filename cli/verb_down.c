/* hai down: stop the cluster of hai up. */
#include "cli/local.h"
#include "cli/verbs.h"

enum { STOP_S = 30 };

static const struct option options[] = {
    {0,    "dir", "D", "where it lies (default ~/.local/share/hai)"},
    {0, "purge", NULL, "remove its data as well"},
    {0   },
};

static void print_json(const char *dir, bool was_running, int n_killed, bool purged) {
    _cleanup_(json_freep) struct json *answer = json_new_object();

    json_add_string(answer, "dir", dir);
    json_add_bool(answer, "was_running", was_running);
    json_add_int(answer, "killed", n_killed);
    json_add_bool(answer, "purged", purged);
    cli_print_json(answer);
}

static int run(struct cli *cli) {
    struct hai_err err = {0};
    _cleanup_free_ char *dir = verb_up_dir(cli, false, &err);

    if (!dir)
        return cli_usage(cli, "%s", err.text);
    bool running = local_supervisor(dir) > 0;
    int r = local_stop(dir, STOP_S, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (r > 0)
        cli_note(cli, "%d processes had to be killed", r);
    if (!running && r == 0)
        cli_note(cli, "nothing ran in %s", dir);
    else
        cli_note(cli, "stopped%s", cli_has(cli, "purge") ? "" : "; hai up goes on where it was");
    int n_killed = r;
    r = cli_has(cli, "purge") ? local_purge(dir, &err) : 0;
    if (r < 0)
        return cli_fail(cli, -EIO, &err);
    if (r > 0)
        cli_note(cli, "removed its data in %s", dir);
    if (cli->json)
        print_json(dir, running, n_killed, cli_has(cli, "purge"));
    return CLI_OK;
}

const struct verb verb_down = {
    .name = "down",
    .group = "start",
    .args = "",
    .help = "stop the cluster of hai up (--purge: and remove its data)",
    .examples = "  hai down\n  hai down --purge\n",
    .options = options,
    .run = run,
};
