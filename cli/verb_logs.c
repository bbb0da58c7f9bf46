/* hai logs: the output of a job's ranks. */
#include "cli/follow.h"
#include "cli/verbs.h"

static const struct option options[] = {
    {'f',                              "follow", NULL, "go on to the job's end and end with its exit code"},
    {'r',                            "rank", "R|all", "this rank, or all (default 0)"},
    {0,                                "attempt", "N", "only this attempt (default: all)"},
    {0,"grep", "RE", "only lines that match"},
    {0},
};

static int run(struct cli *cli) {
    struct follow_options o = {.follow = cli_has(cli, "follow"), .grep = cli_option(cli, "grep")};

    if (hai_streq(cli_option(cli, "rank"), "all"))
        o.rank = FOLLOW_ALL_RANKS;
    else if (cli_number(cli, "rank", 0, 160000, 0, &o.rank) < 0)
        return CLI_USAGE;
    if (cli_number(cli, "attempt", 1, INT64_MAX - 1, 0, &o.attempt) < 0)
        return CLI_USAGE;
    return follow_output(cli, cli->n_words ? cli->words[0] : NULL, &o);
}

const struct verb verb_logs = {
    .name = "logs",
    .group = "watch",
    .args = "[JOB]",
    .help = "output of rank 0 over all attempts (-f: as it comes)",
    .examples = "  hai logs -f 42\n  hai logs -r all 42\n  hai logs --grep 'loss|error' 42\n",
    .options = options,
    .words_max = 1,
    .run = run,
};
