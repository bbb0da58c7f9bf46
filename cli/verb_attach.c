/* hai attach: follow a job, with stdin to rank 0. */
#include "cli/stream.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

static int run(struct cli *cli) {
    struct stream_options options = {.kind = "attach"};

    terminal_catch_interrupt("\nhai: left; the job runs on\n");
    return stream_run(cli, cli->n_words ? cli->words[0] : NULL, &options);
}

const struct verb verb_attach = {
    .name = "attach",
    .group = "enter",
    .args = "[JOB]",
    .help = "follow, with stdin to rank 0; Ctrl-C leaves, the job runs on",
    .examples = "  hai attach 42\n",
    .words_max = 1,
    .run = run,
};
