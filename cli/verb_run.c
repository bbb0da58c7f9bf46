/* hai run: submit, stay in the foreground, end with the job's exit code. */
#include "cli/follow.h"
#include "cli/jobopts.h"
#include "cli/submitter.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include "lib/programs.h"
#include <fcntl.h>
#include <unistd.h>

/* A child gives our stdin to rank 0, as hai attach does, and ends with us: what rank 0 prints comes
 * from its log. A terminal stays ours: its Ctrl-C leaves. */
static void feed_stdin(struct cli *cli, int64_t job) {
    _cleanup_free_ char *id = hai_asprintf("%lld", (long long)job);
    const char *words[] = {id};

    if (isatty(STDIN_FILENO) || programs_fork() != 0)
        return;
    int null = open("/dev/null", O_WRONLY);
    if (null < 0)
        _exit(CLI_FAILED);
    (void)dup2(null, STDOUT_FILENO);
    (void)dup2(null, STDERR_FILENO);
    http_sync_close(cli->http);
    cli->http = NULL;
    cli->words = words;
    cli->n_words = 1;
    _exit(verb_attach.run(cli));
}

static int run(struct cli *cli) {
    _cleanup_(json_freep) struct json *submitted = NULL;
    _cleanup_(buf_free) struct buf shape = {0};
    struct job_spec spec;
    struct hai_err err = {0};

    if (cli->n_rest == 0)
        return cli_usage(cli, "no command; usage: hai run [options] -- CMD");
    jobopts_of_command(cli->rest, cli->n_rest, &spec);
    int r = jobopts_apply(cli, &spec);
    if (r < 0) {
        schema_free(job_spec_schema(), &spec);
        return CLI_USAGE;
    }
    jobopts_defaults(&spec, cli->rest[0]);
    r = submitter_one(cli, &spec, false, &submitted, &err);
    schema_free(job_spec_schema(), &spec);
    if (r < 0)
        return cli_fail_of_job(cli, r, &err);
    view_shape(submitted, &shape);
    cli_note(cli, "job %lld (%s): %s", (long long)json_get_int(submitted, "id", 0),
             json_get_string(submitted, "name", "job"), buf_cstr(&shape));
    feed_stdin(cli, json_get_int(submitted, "id", 0));
    return follow_job(cli, json_get_int(submitted, "id", 0), FOLLOW_PLAIN);
}

const struct verb verb_run = {
    .name = "run",
    .group = "submit",
    .args = "-- CMD",
    .help = "submit, stay in the foreground, end with the job's exit code",
    .detail =
        "Shows the output of rank 0 as it is (of the others: hai logs -r all). What is piped in "
        "goes to\n"
        "rank 0 (nothing: < /dev/null); from a terminal: hai attach. Ctrl-C leaves; the job runs "
        "on.",
    .examples = "  hai run -- hostname\n  hai run -n 2 --gpus-per-node 2 -- python3 train.py\n",
    .more = jobopts_table,
    .rest = true,
    .run = run,
};
