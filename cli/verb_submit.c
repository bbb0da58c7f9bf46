/* hai submit: queue jobs of files, of a stream, or of a command line. */
#include "cli/follow.h"
#include "cli/jobopts.h"
#include "cli/submitter.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include <stdio.h>

static const struct option options[] = {
    {0,     "dry-run", NULL, "when would it start; nothing is submitted"},
    {0},
};

/* What becomes of the jobs of this call. */
struct run {
    struct cli *cli;
    struct job_spec *specs; // of files, which are all read before the first is sent
    size_t n_specs;
    struct submitter *submitter; // of a stream
    struct json *all;            // --json
    struct hai_err err;
    size_t n_submitted;
    size_t n_refused;
    int status; // of those refused
};

/* Of a dry run: when it would start. */
static void print_start(const struct cli *cli, const struct json *submitted) {
    const char *start = json_get_string(submitted, "start_at", NULL);
    const char *late = json_get_string(submitted, "start_late_at", NULL);
    char at[VIEW_TEXT_BYTES];

    if (!start)
        return;
    view_time(cli, start, at);
    printf("starts about %s", at);
    if (late && strcmp(late, start) != 0) {
        view_time(cli, late, at);
        printf("; in 9 of 10 cases by %s", at);
    }
    printf("\n");
}

static void print_one(struct cli *cli, const struct json *submitted) {
    _cleanup_(buf_free) struct buf shape = {0};
    const char *message = json_get_string(submitted, "message", NULL);
    int64_t id = json_get_int(submitted, "id", 0);

    if (cli->json) {
        cli_print_json(submitted);
        return;
    }
    if (cli->quiet) {
        if (id)
            printf("%lld\n", (long long)id);
        return;
    }
    view_shape(submitted, &shape);
    if (id)
        printf("job %lld (%s): %s\n", (long long)id, json_get_string(submitted, "name", "job"),
               buf_cstr(&shape));
    else
        printf("%s: %s\n", json_get_string(submitted, "name", "job"), buf_cstr(&shape));
    if (message) {
        _cleanup_(buf_free) struct buf sentence = {0};
        view_sentence(cli, message, &sentence);
        printf("%s\n", buf_cstr(&sentence));
    }
    print_start(cli, submitted);
    if (id && json_get_int(submitted, "elements", 0))
        cli_note(cli, "  hai status %lld    hai wait %lld    hai stop %lld", (long long)id,
                 (long long)id, (long long)id);
    else if (id && !cli_has(cli, "follow"))
        cli_note(cli, "  hai logs -f %lld    hai status %lld    hai stop %lld", (long long)id,
                 (long long)id, (long long)id);
}

static int submit_one(struct cli *cli, const struct job_spec *spec) {
    _cleanup_(json_freep) struct json *submitted = NULL;
    struct hai_err err = {0};

    int r = submitter_one(cli, spec, cli_has(cli, "dry-run"), &submitted, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    print_one(cli, submitted);
    if (!cli_has(cli, "follow") || cli_has(cli, "dry-run"))
        return CLI_OK;
    return follow_job(cli, json_get_int(submitted, "id", 0), FOLLOW_PREFIX);
}

static void take_refusal(struct run *run, const struct json *submitted) {
    int64_t status = json_get_int(submitted, "status", 0);
    int r = status == 400 ? -EINVAL : status == 403 ? -EACCES : -EIO;
    struct hai_err err = {0};
    char where[64];

    run->n_refused++;
    (void)snprintf(where, sizeof where, "job %zu of this call", run->n_submitted + run->n_refused);
    hai_fail_at(&err, r, json_get_string(submitted, "error_code", "refused"), where, NULL, "%s",
                json_get_string(submitted, "error", "refused"));
    run->status = MAX(run->status, cli_fail(run->cli, r, &err));
}

static void take_result(void *context, const struct json *submitted) {
    struct run *run = context;
    int64_t id = json_get_int(submitted, "id", 0);

    if (json_get_string(submitted, "error", NULL) || !id)
        take_refusal(run, submitted);
    else
        run->n_submitted++;
    if (run->cli->json)
        json_append(run->all, id ? json_new_int(id) : json_new_null());
    else if (id && run->cli->quiet)
        printf("%lld\n", (long long)id);
    else if (id)
        printf("job %lld (%s)\n", (long long)id, json_get_string(submitted, "name", "job"));
}

static int keep_spec(void *context, struct job_spec *spec) {
    struct run *run = context;

    if ((run->n_specs & (run->n_specs - 1)) == 0)
        run->specs =
            hai_realloc_array(run->specs, run->n_specs ? 2 * run->n_specs : 1, sizeof *run->specs);
    run->specs[run->n_specs++] = *spec;
    return 0;
}

static int send_spec(void *context, struct job_spec *spec) {
    struct run *run = context;
    int r = submitter_add(run->submitter, spec, &run->err);

    schema_free(job_spec_schema(), spec);
    return r < 0 ? -EIO : 0;
}

static int nothing(const struct cli *cli) {
    if (!cli->json)
        fprintf(stderr, "nothing was submitted\n");
    return CLI_USAGE;
}

/* After the last job of many went out. r: what reading or sending gave. */
static int close_many(struct run *run, int r) {
    struct cli *cli = run->cli;
    int status = CLI_OK;

    if (r != -EIO) {
        int end = submitter_finish(run->submitter, &run->err);
        r = end < 0 ? -EIO : r;
    }
    if (r == -EIO)
        status = cli_fail(cli, run->err.r, &run->err);
    else if (r < 0)
        status = CLI_USAGE;
    else if (run->n_refused)
        status = run->status;
    if (cli->json)
        cli_print_json(run->all);
    if (run->n_submitted == 0 && status)
        (void)nothing(cli);
    else
        cli_note(cli, "%zu job%s submitted%s", run->n_submitted, run->n_submitted == 1 ? "" : "s",
                 status ? "; the rest was not" : "");
    return status;
}

static int submit_many(struct run *run, const char *stream) {
    int r = 0;

    if (cli_has(run->cli, "dry-run") || cli_has(run->cli, "follow"))
        return cli_usage(run->cli, "--dry-run and --follow take one job");
    run->submitter = submitter_new(run->cli, take_result, run);
    run->all = json_new_array();
    if (stream)
        r = jobopts_read_file(run->cli, stream, send_spec, run);
    for (size_t i = 0; i < run->n_specs && r >= 0; i++)
        r = submitter_add(run->submitter, &run->specs[i], &run->err) < 0 ? -EIO : 0;
    int status = close_many(run, r);
    submitter_free(run->submitter);
    json_free(run->all);
    return status;
}

/* A file whose `--` gives arguments: they follow the command's last word. */
static void add_arguments(struct cli *cli, struct job_spec *spec) {
    char **words = spec->command.items;
    bool shell =
        spec->command.n == 3 && strcmp(words[0], "/bin/sh") == 0 && strcmp(words[1], "-c") == 0;

    // sh -c TEXT NAME ARGS: the text finds them as "$@", and gets them at the end of its last line.
    if (shell && cli->n_rest) {
        size_t n = strlen(words[2]);
        while (n && strchr(" \t\n", words[2][n - 1]))
            n--;
        char *text = hai_asprintf("%.*s \"$@\"", (int)n, words[2]);
        free(words[2]);
        words[2] = text;
        *LIST_ADD(&spec->command) = hai_strdup("sh");
    }
    for (int i = 0; i < cli->n_rest; i++)
        *LIST_ADD(&spec->command) = hai_strdup(cli->rest[i]);
}

static int submit_files(struct cli *cli) {
    struct run run = {.cli = cli};
    int status = CLI_OK;
    bool bad = false;

    if (cli->n_words == 1 && strcmp(cli->words[0], "-") == 0 && !cli_has(cli, "dry-run") &&
        !cli_has(cli, "follow"))
        return submit_many(&run, "-");
    for (int i = 0; i < cli->n_words; i++)
        bad |= jobopts_read_file(cli, cli->words[i], keep_spec, &run) < 0;
    if (bad) {
        status = nothing(cli);
    } else if (run.n_specs == 1) {
        add_arguments(cli, &run.specs[0]);
        status = submit_one(cli, &run.specs[0]);
    } else if (cli->n_rest) {
        status = cli_usage(cli, "arguments after -- need a file with one job");
    } else {
        status = submit_many(&run, NULL);
    }
    for (size_t i = 0; i < run.n_specs; i++)
        schema_free(job_spec_schema(), &run.specs[i]);
    free(run.specs);
    return status;
}

static int run(struct cli *cli) {
    struct job_spec spec;
    int status = CLI_USAGE;

    if (cli->n_words)
        return submit_files(cli);
    if (cli->n_rest == 0)
        return cli_usage(cli, "no job; usage: hai submit FILE... or hai submit [options] -- CMD");
    jobopts_of_command(cli->rest, cli->n_rest, &spec);
    if (jobopts_apply(cli, &spec) == 0) {
        jobopts_defaults(&spec, cli->rest[0]);
        status = submit_one(cli, &spec);
    }
    schema_free(job_spec_schema(), &spec);
    return status;
}

const struct verb verb_submit = {
    .name = "submit",
    .group = "submit",
    .args = "FILE... | - | -- CMD",
    .help = "queue jobs and return their ids",
    .detail = "A file may hold several jobs separated by `---`; - reads them from standard input "
              "as they\ncome. Options override the file. Arguments after -- follow the file's "
              "command.",
    .examples = "  hai submit train.yaml\n  hai submit -n 2 --gpus-per-node 2 -- python3 train.py\n"
                "  hai submit *.yaml\n  id=$(hai submit -q train.yaml)\n"
                "  hai submit --dry-run train.yaml\n",
    .options = options,
    .more = jobopts_table,
    .words_max = -1,
    .rest = true,
    .run = run,
};
