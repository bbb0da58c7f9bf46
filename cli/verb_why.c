/* hai why: why a job waits, failed or moved. */
#include "cli/verbs.h"
#include "cli/view.h"

/* The last output of a failed rank, set off from the sentences. */
static void print_output(const char *output, struct buf *out) {
    buf_add_str(out, "its last output:\n");
    while (*output) {
        size_t n = strcspn(output, "\n");
        size_t n_stamp = strlen("2026-11-23T13:11:40.102Z ");
        if (n >= n_stamp && output[n_stamp - 2] == 'Z') { // when it was written helps nobody here
            output += n_stamp;
            n -= n_stamp;
        }
        buf_add_str(out, "  ");
        buf_add(out, output, n);
        buf_add_str(out, "\n");
        output += n + (output[n] == '\n');
    }
}

static void print_why(struct cli *cli, const struct json *why, const struct json *job) {
    _cleanup_(buf_free) struct buf out = {0};
    const char *state = json_get_string(why, "state", "");
    const char *starts = json_get_string(why, "starts", NULL);
    const char *sooner = json_get_string(why, "sooner", NULL);
    const char *output = json_get_string(why, "output", NULL);
    const char *at = json_get_string(job, "submitted_at", NULL);
    const char *elements = json_get_string(why, "elements", NULL);
    const char *first = json_get_string(why, "first_waiting", NULL);
    const char *message = json_get_string(why, "message", NULL);
    const char *word = "since";
    char time[VIEW_TEXT_BYTES];

    if (view_ended(state)) {
        at = json_get_string(job, "ended_at", at);
        word = "at";
    } else if (strcmp(state, "queued") != 0 && strcmp(state, "held") != 0) {
        at = json_get_string(job, "started_at", at);
    }
    view_time(cli, at, time);
    buf_printf(&out, "%s %s %s: ", state, word, time);
    if (elements) { // of an array: they first, then the one that is next
        buf_printf(&out, "%s\n", elements);
        buf_printf(&out, "%s%s", first ? first : "", first ? " waits: " : "");
    }
    bool all_run = elements && !first && !strcmp(json_get_string(why, "reason", ""), "elements");
    if (!all_run) {
        view_sentence(cli, message ? message : "no reason is recorded", &out);
        buf_add_str(&out, "\n");
    }
    if (starts) {
        buf_add_str(&out, strncmp(starts, "starts", 6) == 0 ? "" : "starts ");
        view_sentence(cli, starts, &out);
        buf_add_str(&out, "\n");
    }
    if (sooner)
        buf_printf(&out, "sooner: %s\n", sooner);
    if (output && output[0] && !cli->quiet)
        print_output(output, &out);
    view_print(&out);
}

static int run(struct cli *cli) {
    const char *name = cli->n_words ? cli->words[0] : NULL;
    _cleanup_(buf_free) struct buf why_target = {0}, job_target = {0};
    _cleanup_(json_freep) struct json *why = NULL;
    _cleanup_(json_freep) struct json *job = NULL;
    struct hai_err err = {0};

    cli_job_target(name, "/why", &why_target);
    int r = cli_ask(cli, "GET", buf_cstr(&why_target), NULL, NULL, &why, &err);
    if (r == 0 && !cli->json) {
        cli_job_target(name, "", &job_target);
        r = cli_ask(cli, "GET", buf_cstr(&job_target), NULL, NULL, &job, &err);
    }
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(why);
    else
        print_why(cli, why, job);
    return CLI_OK;
}

const struct verb verb_why = {
    .name = "why",
    .group = "watch",
    .args = "[JOB]",
    .help = "why a job waits, failed or moved",
    .detail = "Of an array: what its elements do, and why the next of them waits.",
    .examples = "  hai why 44\n  hai why gpt-small --json\n",
    .words_max = 1,
    .run = run,
};
