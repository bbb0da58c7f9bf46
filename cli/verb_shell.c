/* hai shell: a shell, or a command, beside a rank: on its node, in its environment. */
#include "cli/stream.h"
#include "cli/verbs.h"
#include <unistd.h>

static const struct option options[] = {
    {'r',  "rank", "R", "beside this rank (default 0)"},
    {0},
};

static int run(struct cli *cli) {
    struct stream_options o = {.kind = "shell"};
    _cleanup_(json_freep) struct json *words = json_new_array();
    _cleanup_(buf_free) struct buf command = {0};

    if (cli_number(cli, "rank", 0, 160000, 0, &o.rank) < 0)
        return CLI_USAGE;
    for (int i = 0; i < cli->n_rest; i++)
        json_append(words, json_new_string(cli->rest[i]));
    json_dump(words, 0, &command);
    o.command = cli->n_rest ? buf_cstr(&command) : NULL;
    o.tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    return stream_run(cli, cli->n_words ? cli->words[0] : NULL, &o);
}

const struct verb verb_shell = {
    .name = "shell",
    .group = "enter",
    .args = "[JOB] [-- CMD]",
    .help = "a shell on a rank's node, in its environment",
    .examples = "  hai shell 42 -r 3\n  hai shell 42 -- nvidia-smi\n",
    .options = options,
    .words_max = 1,
    .rest = true,
    .run = run,
};
