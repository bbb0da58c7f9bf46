/* hai events: what happened to a job, in order; without JOB, to the cluster. */
#include "cli/table.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include "lib/timefmt.h"

enum { EVENTS_MAX = 10000 }; // the scheduler gives no more at a time

static const struct option options[] = {
    {'a',   "all", NULL, "events of the whole cluster"},
    {0, "limit", "N", "of a job the first N (default 10000), with -a the newest (default 1000)"},
    {0    },
};

static void print_events(struct cli *cli, const struct json *events, bool all) {
    static const char *const of_job[] = {"TIME", "EVENT", "WHERE", "MESSAGE"};
    static const char *const of_all[] = {"TIME", "JOB", "EVENT", "WHERE", "MESSAGE"};
    _cleanup_(table_freep) struct table *table =
        table_new(all ? of_all : of_job, all ? ARRAY_SIZE(of_all) : ARRAY_SIZE(of_job));
    _cleanup_(buf_free) struct buf out = {0};
    int64_t now_us = timefmt_now_us();

    for (const struct json *event = json_first(events); event; event = json_next(event)) {
        _cleanup_(buf_free) struct buf message = {0};
        char time[TIMEFMT_ISO_BYTES] = "-";
        int64_t at_us;
        int64_t rank = json_get_int(event, "rank", -1);
        const char *node = json_get_string(event, "node", NULL);
        if (timefmt_iso_parse(json_get_string(event, "at", ""), &at_us) == 0)
            timefmt_clock(at_us, now_us, cli->utc, time);
        table_add_text(table, time);
        if (all && json_get_int(event, "job", 0))
            table_add(table, "%lld", (long long)json_get_int(event, "job", 0));
        else if (all)
            table_add_text(table, NULL);
        table_add_text(table, json_get_string(event, "kind", NULL));
        if (rank >= 0)
            table_add(table, "rank %lld%s%s", (long long)rank, node ? " on " : "",
                      node ? node : "");
        else
            table_add_text(table, node);
        view_sentence(cli, json_get_string(event, "message", ""), &message);
        table_add_text(table, buf_cstr(&message));
    }
    table_print(table, view_color(), &out);
    view_print(&out);
}

static int run(struct cli *cli) {
    _cleanup_(buf_free) struct buf target = {0};
    _cleanup_(json_freep) struct json *events = NULL;
    struct hai_err err = {0};
    bool all = cli_has(cli, "all");
    int64_t limit;

    if (cli_number(cli, "limit", 1, EVENTS_MAX, all ? 1000 : EVENTS_MAX, &limit) < 0)
        return CLI_USAGE;
    if (all)
        buf_add_str(&target, "/api/v1/events");
    else
        cli_job_target(cli->n_words ? cli->words[0] : NULL, "/events", &target);
    buf_printf(&target, "?%slimit=%lld", all ? "newest=1&" : "", (long long)limit);
    int r = cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &events, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(events);
    else if (json_count(events))
        print_events(cli, events, all);
    if ((int64_t)json_count(events) >= limit)
        cli_note(cli, "these are the %s %lld", all ? "newest" : "first", (long long)limit);
    return CLI_OK;
}

const struct verb verb_events = {
    .name = "events",
    .group = "watch",
    .args = "[JOB]",
    .help = "a job's story in order",
    .examples = "  hai events 42\n  hai events -a\n",
    .options = options,
    .words_max = 1,
    .run = run,
};
