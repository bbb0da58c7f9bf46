/* hai stop: end jobs: SIGTERM, after the grace SIGKILL. */
#include "cli/each.h"
#include "cli/verbs.h"

static const struct option options[] = {
    {0,     "force", NULL, "SIGKILL at once"},
    {0, "reason", "T", "shown in hai events"},
    {0    },
};

static int run(struct cli *cli) {
    _cleanup_(json_freep) struct json *change = json_new_object();
    _cleanup_(buf_free) struct buf body = {0};

    json_add_bool(change, "force", cli_has(cli, "force"));
    if (cli_option(cli, "reason"))
        json_add_string(change, "reason", cli_option(cli, "reason"));
    json_dump(change, 0, &body);
    return each_change(cli, "/api/v1/jobs", "stop", "stopping", buf_cstr(&body));
}

const struct verb verb_stop = {
    .name = "stop",
    .group = "change",
    .args = "JOB...",
    .help = "end jobs: SIGTERM, after the grace SIGKILL",
    .detail = "A second stop changes nothing. What has ended stays as it ended.",
    .examples = "  hai stop 42\n"
                "  hai stop 42 43 44 -y\n",
    .options = options,
    .words_min = 1,
    .words_max = -1,
    .run = run,
};
