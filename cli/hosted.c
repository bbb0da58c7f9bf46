#include "cli/hosted.h"

#include "cli/follow.h"
#include "cli/jobopts.h"
#include "cli/submitter.h"
#include "cli/view.h"
#include <stdio.h>

/* The verb of what follows `--`: job options only. */
static const struct verb option_part = {
    .name = "python",
    .args = "FILE ARGS -- [options]",
    .help = "job options",
    .more = jobopts_table,
};

static int submit(struct cli *cli, struct cli *options, struct job_spec *spec) {
    _cleanup_(json_freep) struct json *submitted = NULL;
    _cleanup_(buf_free) struct buf shape = {0};
    struct hai_err err = {0};

    int r = submitter_one(cli, spec, false, &submitted, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    int64_t id = json_get_int(submitted, "id", 0);
    view_shape(submitted, &shape);
    if (cli->json)
        cli_print_json(submitted);
    else if (cli->quiet)
        printf("%lld\n", (long long)id);
    else
        printf("job %lld (%s): %s\n", (long long)id, json_get_string(submitted, "name", "job"),
               buf_cstr(&shape));
    if (cli_has(options, "follow"))
        return follow_job(cli, id, FOLLOW_PREFIX);
    cli_note(cli, "  hai logs -f %lld    hai status %lld    hai stop %lld", (long long)id,
             (long long)id, (long long)id);
    return CLI_OK;
}

int hosted_run(struct cli *cli, const char *const *before) {
    struct cli options = {0};
    struct job_spec spec;
    int status = CLI_USAGE;

    if (!cli->has_rest)
        return cli_usage(cli, "no options; usage: hai %s FILE ARGS -- -n NODES [-p P] [--name X]",
                         cli->verb->name);
    int r = cli_parse(&options, &option_part, cli->n_rest, cli->rest);
    if (r != 0) {
        cli_free(&options);
        return r < 0 ? CLI_USAGE : CLI_OK;
    }
    cli->quiet |= options.quiet;
    cli->json |= options.json;
    cli->server = options.server ? options.server : cli->server;
    schema_init(job_spec_schema(), &spec);
    spec.version = 3;
    for (; *before; before++)
        *LIST_ADD(&spec.command) = hai_strdup(*before);
    for (int i = 0; i < cli->n_words; i++)
        *LIST_ADD(&spec.command) = hai_strdup(cli->words[i]);
    spec.resources.ranks = hai_strdup("per-node");
    if (jobopts_apply(&options, &spec) == 0) {
        jobopts_defaults(&spec, cli->words[0]);
        status = submit(cli, &options, &spec);
    }
    schema_free(job_spec_schema(), &spec);
    cli_free(&options);
    return status;
}
