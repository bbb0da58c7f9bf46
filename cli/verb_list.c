/* hai list: my jobs, or everyone's. */
#include "cli/table.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include "lib/timefmt.h"
#include <stdio.h>

static const struct option list_options[] = {
    {'a',                                                   "all", NULL, "everyone's jobs"},
    {0,                                                 "since", "AGO", "not those that ended longer ago, such as 7d or 12h"},
    {0,                                                     "state", "S", "only jobs in this state, or in one of S,S"},
    {0,"name", "N", "only jobs of this name"},
    {0, "before", "ID", "only jobs with ids below"},
    {0,                                                     "limit", "N", "the newest so many (default 200)"},
    {0                                                 },
};

enum { LIMIT = 200, LIMIT_MAX = 10000 };

/* Build the query of list; -EINVAL was told. */
static int list_target(struct cli *cli, struct buf *ret, int64_t *ret_limit) {
    char iso[TIMEFMT_ISO_BYTES];
    int64_t ago_us, before;

    if (cli_number(cli, "limit", 1, LIMIT_MAX, LIMIT, ret_limit) < 0 ||
        cli_number(cli, "before", 1, INT64_MAX - 1, 0, &before) < 0)
        return -EINVAL;
    buf_printf(ret, "/api/v1/jobs?limit=%lld", (long long)*ret_limit);
    if (before)
        buf_printf(ret, "&before=%lld", (long long)before);
    if (cli_has(cli, "all"))
        buf_add_str(ret, "&all=1");
    if (cli_option(cli, "state")) {
        buf_add_str(ret, "&state=");
        http_sync_encode(cli_option(cli, "state"), ret);
    }
    if (cli_option(cli, "name")) {
        buf_add_str(ret, "&name=");
        http_sync_encode(cli_option(cli, "name"), ret);
    }
    if (cli_option(cli, "since")) {
        if (timefmt_duration_parse(cli_option(cli, "since"), &ago_us, NULL) < 0) {
            cli_usage(cli, "--since is '%s'; expected a duration with a unit, such as 7d or 12h",
                      cli_option(cli, "since"));
            return -EINVAL;
        }
        timefmt_iso(timefmt_now_us() - ago_us, iso);
        buf_add_str(ret, "&since=");
        http_sync_encode(iso, ret);
    }
    return 0;
}

static void print_list(struct cli *cli, const struct json *jobs) {
    static const char *const own[] = {"ID",    "NAME",      "STATE", ">PRIO", ">NODES",
                                      ">GPUS", "SUBMITTED", "RAN",   "NOTE"};
    static const char *const all[] = {"ID",     "USER",  "NAME",      "STATE", ">PRIO",
                                      ">NODES", ">GPUS", "SUBMITTED", "RAN",   "NOTE"};
    bool everyone = cli_has(cli, "all");
    _cleanup_(table_freep) struct table *table =
        table_new(everyone ? all : own, everyone ? ARRAY_SIZE(all) : ARRAY_SIZE(own));
    _cleanup_(buf_free) struct buf out = {0};
    char text[VIEW_TEXT_BYTES];

    for (const struct json *job = json_first(jobs); job; job = json_next(job)) {
        _cleanup_(buf_free) struct buf note = {0};
        table_add_text(table, view_id(job, text));
        if (everyone)
            table_add_text(table, json_get_string(job, "user", NULL));
        table_add_text(table, json_get_string(job, "name", NULL));
        table_add_text(table, json_get_string(job, "state", NULL));
        view_add_shape(table, job);
        view_time(cli, json_get_string(job, "submitted_at", NULL), text);
        table_add_text(table, text);
        view_seconds(job, "ran_s", text);
        table_add_text(table, json_get_string(job, "started_at", NULL) ? text : NULL);
        view_note(cli, job, &note);
        table_add_text(table, buf_cstr(&note));
    }
    table_print(table, view_color(), &out);
    view_print(&out);
}

static int run_list(struct cli *cli) {
    _cleanup_(buf_free) struct buf target = {0};
    _cleanup_(json_freep) struct json *jobs = NULL;
    struct hai_err err = {0};
    int64_t limit;

    if (list_target(cli, &target, &limit) < 0)
        return CLI_USAGE;
    int r = cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &jobs, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(jobs);
    else if (cli->quiet)
        view_print_ids(jobs);
    else if (json_count(jobs) == 0)
        cli_note(cli, "no jobs; hai submit FILE queues one, hai example shows a job file");
    else
        print_list(cli, jobs);
    if ((int64_t)json_count(jobs) == limit)
        cli_note(cli, "these are the newest %lld; --limit N gives more", (long long)limit);
    view_unexplained(cli, jobs);
    return CLI_OK;
}

const struct verb verb_list = {
    .name = "list",
    .group = "watch",
    .args = "",
    .help = "my jobs, newest first (-a: everyone's)",
    .examples = "  hai list\n  hai list -a --state running,queued\n"
                "  hai list --since 7d --json | jq '.[].id'\n",
    .options = list_options,
    .run = run_list,
};
