/* hai drain: take nodes out after their jobs. */
#include "cli/each.h"
#include "cli/verbs.h"

static const struct option options[] = {
    {0,    "reason", "T", "shown by hai nodes"},
    {0},
};

static int run(struct cli *cli) {
    _cleanup_(json_freep) struct json *change = json_new_object();
    _cleanup_(buf_free) struct buf body = {0};

    if (cli_option(cli, "reason"))
        json_add_string(change, "reason", cli_option(cli, "reason"));
    json_dump(change, 0, &body);
    return each_change(cli, "/api/v1/nodes", "drain", "draining", buf_cstr(&body));
}

const struct verb verb_drain = {
    .name = "drain",
    .group = "operate",
    .args = "NODE...",
    .help = "take nodes out after their jobs",
    .examples = "  hai drain b2 --reason \"fan\"\n",
    .options = options,
    .words_min = 1,
    .words_max = -1,
    .run = run,
};
