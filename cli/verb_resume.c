/* hai resume: let suspended or held jobs go on. */
#include "cli/each.h"
#include "cli/verbs.h"

static int run(struct cli *cli) {
    return each_change(cli, "/api/v1/jobs", "resume", "queued", "{}");
}

const struct verb verb_resume = {
    .name = "resume",
    .group = "change",
    .args = "JOB...",
    .help = "let suspended or held jobs go on",
    .examples = "  hai resume 42\n",
    .words_min = 1,
    .words_max = -1,
    .run = run,
};
