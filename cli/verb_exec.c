/* hai exec: run an executable file on every node, as HAI Platform does. */
#include "cli/hosted.h"
#include "cli/verbs.h"

static int run(struct cli *cli) {
    static const char *const before[] = {NULL};

    return hosted_run(cli, before);
}

const struct verb verb_exec = {
    .name = "exec",
    .group = "submit",
    .args = "FILE ARGS -- [options]",
    .help = "run an executable file, one process a node",
    .detail = HOSTED_DETAIL,
    .examples = "  hai exec FILE --epochs 3 -- -n 2 -p 30 --name try\n",
    .words_min = 1,
    .words_max = -1,
    .rest = true,
    .literal = true,
    .run = run,
};
