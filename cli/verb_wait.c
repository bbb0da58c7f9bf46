/* hai wait: wait for jobs and give their exit code. */
#include "cli/follow.h"
#include "cli/verbs.h"
#include "cli/view.h"

static int run(struct cli *cli) {
    const char *last = NULL;
    const char **jobs = cli->n_words ? cli->words : &last;
    int n = cli->n_words ? cli->n_words : 1;
    _cleanup_(json_freep) struct json *all = json_new_array();
    int status = CLI_OK;

    for (int i = 0; i < n; i++) {
        struct hai_err err = {0};
        struct json *view = NULL;
        int r = follow_wait(cli, jobs[i], &view, &err);
        if (r < 0)
            return cli_fail_of_job(cli, r, &err);
        int code = view_exit_code(view);
        char id[VIEW_TEXT_BYTES];
        cli_note(cli, "%s (%s) %s", json_get_string(view, "name", "job"), view_id(view, id),
                 json_get_string(view, "state", "?"));
        status = status ? status : code;
        json_append(all, view);
    }
    if (cli->json)
        cli_print_json(n > 1 ? all : json_first(all));
    return status;
}

const struct verb verb_wait = {
    .name = "wait",
    .group = "watch",
    .args = "[JOB...]",
    .help = "wait for a job and return its exit code",
    .detail = "With several jobs: the first code that is not 0.",
    .examples = "  hai wait 42 && echo done\n",
    .words_max = -1,
    .run = run,
};
