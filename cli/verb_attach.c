/* hai attach: follow a job, with stdin to rank 0. */
#include "cli/follow.h"
#include "cli/stream.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include <poll.h>

enum { AGAIN_MS = 200 }; // after a stream that broke

/* The job's view once it has ended, or runs in an attempt after this one. A scheduler that goes
 * away is waited for; with patient one that already is as well. */
static int wait_until_started(struct cli *cli, const char *job, int64_t attempt, bool patient,
                              struct json **ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf target = {0};

    cli_job_target(job, "", &target);
    for (;;) {
        _cleanup_(json_freep) struct json *view = NULL;
        int r = patient ? follow_ask(cli, buf_cstr(&target), &view, err)
                        : cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &view, err);
        if (r < 0)
            return r;
        patient = true;
        const char *state = json_get_string(view, "state", "");
        bool runs = strcmp(state, "running") == 0 && json_get_int(view, "attempt", 0) > attempt;
        if (runs || view_ended(state)) {
            *ret = TAKE_PTR(view);
            return 0;
        }
        buf_clear(&target);
        buf_printf(&target, "/api/v1/jobs/%lld?since=%lld&wait=20",
                   (long long)json_get_int(view, "id", 0),
                   (long long)json_get_int(view, "index", 0));
    }
}

/* Attempt after attempt: the end of rank 0 is not yet the job's. A stream that breaks is joined
 * again: the scheduler between us and the rank was started anew. */
static int run(struct cli *cli) {
    struct stream_options options = {.kind = "attach"};
    _cleanup_free_ char *id = hai_strdup(cli->n_words ? cli->words[0] : NULL);
    struct hai_err err = {0};
    int64_t attempt = 0, done = 0; // seen; its rank 0 has ended
    bool joined = false;

    terminal_catch_interrupt("\nhai: left; the job runs on\n");
    for (;;) {
        _cleanup_(json_freep) struct json *view = NULL;
        int status;
        int r = wait_until_started(cli, id, done, attempt > 0, &view, &err);
        if (r < 0)
            return cli_fail_of_job(cli, r, &err);
        free(id);
        id = hai_asprintf("%lld", (long long)json_get_int(view, "id", 0));
        const char *state = json_get_string(view, "state", "?");
        if (view_ended(state)) {
            if (attempt == 0)
                cli_note(cli, "job %s has ended: %s (hai logs %s)", id, state, id);
            return view_exit_code(view);
        }
        attempt = json_get_int(view, "attempt", 1);
        r = stream_join(cli, id, &options, &status, &err);
        joined |= r == 0 || r == -ECONNRESET;
        if (r == 0 || r == -EEXIST) // its rank 0 has ended, or may have just before
            done = attempt;
        else if (joined && (r == -ECONNRESET || r == -EHOSTDOWN))
            (void)poll(NULL, 0, AGAIN_MS);
        else
            return cli_fail_of_job(cli, r, &err);
    }
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
