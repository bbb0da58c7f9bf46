/* hai down: stop the cluster of hai up. */
#include "cli/local.h"
#include "cli/verbs.h"

enum { STOP_S = 30 };

static const struct option options[] = {
    {0,    "dir", "D", "where it lies (default ~/.local/share/hai)"},
    {0, "purge", NULL, "remove its data as well"},
    {0   },
};

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
    if (!cli_has(cli, "purge"))
        return CLI_OK;
    r = local_purge(dir, &err);
    return r < 0 ? cli_fail(cli, -EIO, &err) : CLI_OK;
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
