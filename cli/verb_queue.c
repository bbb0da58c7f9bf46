/* hai queue: what waits and runs, in the order it will run. */
#include "cli/table.h"
#include "cli/verbs.h"
#include "cli/view.h"

static const struct option queue_options[] = {
    {'g',      "group", "GROUP", "only this group"},
    {0},
};

/* When it began, or is to begin or go on; NULL: nobody knows. What is suspended began once, which
 * says nothing of when it runs. Of an array: the element that starts next. */
static const char *start_of(const struct json *job) {
    static const char *const wait[] = {"held", "queued", "suspended"};
    const char *state = json_get_string(job, "state", "");
    const char *foreseen = json_get_string(job, "start_at", NULL);

    for (size_t i = 0; i < ARRAY_SIZE(wait); i++)
        if (!strcmp(state, wait[i]))
            return foreseen;
    if (json_get_int(json_get(job, "elements"), "n", 0))
        return foreseen;
    return foreseen && strcmp(state, "running") != 0 ? foreseen
                                                     : json_get_string(job, "started_at", NULL);
}

static void print_queue(struct cli *cli, const struct json *jobs) {
    static const char *const headings[] = {"ID",     "USER",  "NAME",  "STATE", ">PRIO",
                                           ">NODES", ">GPUS", "GROUP", "START", "NOTE"};
    _cleanup_(table_freep) struct table *table = table_new(headings, ARRAY_SIZE(headings));
    _cleanup_(buf_free) struct buf out = {0};
    char text[VIEW_TEXT_BYTES];

    for (const struct json *job = json_first(jobs); job; job = json_next(job)) {
        _cleanup_(buf_free) struct buf note = {0};
        table_add_text(table, view_id(job, text));
        table_add_text(table, json_get_string(job, "user", NULL));
        table_add_text(table, json_get_string(job, "name", NULL));
        table_add_text(table, json_get_string(job, "state", NULL));
        view_add_shape(table, job);
        table_add_text(table, json_get_string(job, "group", NULL));
        view_time(cli, start_of(job), text);
        table_add_text(table, text);
        view_note(cli, job, &note);
        table_add_text(table, buf_cstr(&note));
    }
    table_print(table, view_color(), &out);
    view_print(&out);
}

static int run_queue(struct cli *cli) {
    _cleanup_(buf_free) struct buf target = {0};
    _cleanup_(json_freep) struct json *jobs = NULL;
    struct hai_err err = {0};

    buf_add_str(&target, "/api/v1/queue");
    if (cli_option(cli, "group")) {
        buf_add_str(&target, "?group=");
        http_sync_encode(cli_option(cli, "group"), &target);
    }
    int r = cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &jobs, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(jobs);
    else if (cli->quiet)
        view_print_ids(jobs);
    else if (json_count(jobs) == 0)
        cli_note(cli, "nothing waits or runs");
    else
        print_queue(cli, jobs);
    view_unexplained(cli, jobs);
    return CLI_OK;
}

const struct verb verb_queue = {
    .name = "queue",
    .group = "watch",
    .args = "",
    .help = "everyone's waiting and running jobs in the order they will run",
    .examples = "  hai queue\n  hai queue -g default\n",
    .options = queue_options,
    .run = run_queue,
};
