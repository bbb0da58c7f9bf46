/* hai whoami: who the scheduler takes me for, and what is free. */
#include "cli/table.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include <stdio.h>

static void print_groups(const struct json *groups, struct buf *out) {
    static const char *const headings[] = {"GROUP", ">NODES", ">GPUS", ">FREE"};
    _cleanup_(table_freep) struct table *table = table_new(headings, ARRAY_SIZE(headings));

    for (const struct json *g = json_first(groups); g; g = json_next(g)) {
        table_add_text(table, json_get_string(g, "name", NULL));
        table_add(table, "%lld", (long long)json_get_int(g, "nodes", 0));
        table_add(table, "%lld", (long long)json_get_int(g, "gpus", 0));
        table_add(table, "%lld", (long long)json_get_int(g, "gpus_free", 0));
    }
    table_print(table, false, out);
}

static void print_me(struct cli *cli, const struct json *me) {
    _cleanup_(buf_free) struct buf out = {0};
    const char *team = json_get_string(me, "team", NULL);
    char time[VIEW_TEXT_BYTES];

    buf_printf(&out, "%s", json_get_string(me, "user", "?"));
    if (json_get_int(me, "uid", -1) >= 0)
        buf_printf(&out, " (uid %lld)", (long long)json_get_int(me, "uid", 0));
    if (team)
        buf_printf(&out, ", team %s", team);
    buf_printf(&out, ", on %s at %s\n", json_get_string(me, "cluster", "the cluster"),
               cli->server_url);
    buf_add_str(&out, "may:");
    for (const struct json *s = json_first(json_get(me, "scopes")); s; s = json_next(s))
        buf_printf(&out, " %s", json_as_string(s));
    if (json_get_string(me, "expires_at", NULL)) {
        view_time(cli, json_get_string(me, "expires_at", NULL), time);
        buf_printf(&out, "; until %s", time);
    }
    buf_add_str(&out, "\n");
    const struct json *used = json_get(me, "share_used_s");
    if (used && json_kind(used) != JSON_KIND_NULL)
        buf_printf(&out, "used of late: %.2f GPU-hours; those who had any: %.2f on average\n",
                   json_as_real(used) / 3600, json_as_real(json_get(me, "share_mean_s")) / 3600);
    if (json_get_bool(me, "external", false))
        buf_add_str(&out, "external: priority auto only, at most 5\n");
    if (json_count(json_get(me, "groups")))
        print_groups(json_get(me, "groups"), &out);
    if (json_count(json_get(me, "quotas"))) {
        buf_add_str(&out, "\n");
        view_quotas(json_get(me, "quotas"), &out);
    }
    view_print(&out);
}

static int run(struct cli *cli) {
    _cleanup_(json_freep) struct json *me = NULL;
    struct hai_err err = {0};

    int r = cli_ask(cli, "GET", "/api/v1/whoami", NULL, NULL, &me, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(me);
    else if (cli->quiet)
        printf("%s\n", json_get_string(me, "user", "?"));
    else
        print_me(cli, me);
    return CLI_OK;
}

const struct verb verb_whoami = {
    .name = "whoami",
    .group = "start",
    .args = "",
    .help = "who am I here, and what is free for me",
    .examples = "  hai whoami\n",
    .run = run,
};
