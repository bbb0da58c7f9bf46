/* hai rerun: start again as new jobs. */
#include "cli/each.h"
#include "cli/verbs.h"

static int run(struct cli *cli) {
    return each_change(cli, "/api/v1/jobs", "rerun", "submitted", "{}");
}

const struct verb verb_rerun = {
    .name = "rerun",
    .group = "change",
    .args = "JOB...",
    .help = "start again as new jobs",
    .examples = "  hai rerun 42\n"
                "  hai rerun -q 42        # prints the new id\n",
    .words_min = 1,
    .words_max = -1,
    .run = run,
};
