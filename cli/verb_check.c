/* hai check: read job files without submitting them. */
#include "cli/jobopts.h"
#include "cli/verbs.h"
#include <stdio.h>

static int take(void *context, struct job_spec *spec) {
    struct json *names = context;

    json_append(names, json_new_string(spec->name));
    schema_free(job_spec_schema(), spec);
    return 0;
}

static int run(struct cli *cli) {
    _cleanup_(json_freep) struct json *names = json_new_array();
    int status = CLI_OK;

    for (int i = 0; i < cli->n_words; i++) {
        int n = jobopts_read_file(cli, cli->words[i], take, names);
        if (n < 0)
            status = CLI_USAGE;
        else if (!cli->quiet && !cli->json)
            printf("%s: %d job%s, no errors\n", cli->words[i], n, n == 1 ? "" : "s");
    }
    if (cli->json)
        cli_print_json(names);
    return status;
}

const struct verb verb_check = {
    .name = "check",
    .group = "submit",
    .args = "FILE...",
    .help = "check job files without submitting them",
    .examples = "  hai check train.yaml\n  hai example | hai check -\n",
    .words_min = 1,
    .words_max = -1,
    .run = run,
};
