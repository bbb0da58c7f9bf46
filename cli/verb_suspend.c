/* hai suspend: give their GPUs back; hai resume goes on. */
#include "cli/each.h"
#include "cli/verbs.h"

static int run(struct cli *cli) {
    return each_change(cli, "/api/v1/jobs", "suspend", "suspending", "{}");
}

const struct verb verb_suspend = {
    .name = "suspend",
    .group = "change",
    .args = "JOB...",
    .help = "give their GPUs back; hai resume goes on",
    .examples = "  hai suspend 42\n",
    .words_min = 1,
    .words_max = -1,
    .run = run,
};
