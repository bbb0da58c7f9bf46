/* hai describe: the job file of a job, ready to be submitted again. */
#include "cli/verbs.h"
#include "cli/view.h"
#include "lib/json_schema.h"
#include "wire/jobtext.h"

static int run(struct cli *cli) {
    _cleanup_(buf_free) struct buf target = {0}, out = {0};
    _cleanup_(json_freep) struct json *tree = NULL;
    struct job_spec spec = {0};
    struct hai_err err = {0};

    cli_job_target(cli->n_words ? cli->words[0] : NULL, "/spec", &target);
    int r = cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &tree, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json) {
        cli_print_json(tree);
        return CLI_OK;
    }
    r = json_schema_decode(job_spec_schema(), tree, JSON_SCHEMA_WIRE, JSON_SCHEMA_IGNORE_UNKNOWN,
                           NULL, &spec, NULL, &err);
    if (r < 0)
        return cli_fail(cli, -EPROTO, &err);
    jobtext_write(&spec, &out);
    schema_free(job_spec_schema(), &spec);
    view_print(&out);
    return CLI_OK;
}

const struct verb verb_describe = {
    .name = "describe",
    .group = "watch",
    .args = "[JOB]",
    .help = "print a job's job file",
    .examples = "  hai describe 42 > again.yaml\n  hai describe 42 | hai submit -\n",
    .words_max = 1,
    .run = run,
};
