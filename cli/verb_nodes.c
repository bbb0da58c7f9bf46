/* hai nodes: nodes, what runs on them and their health. */
#include "cli/table.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include <stdio.h>

static const struct option options[] = {
    {0,     "tree", NULL, "by zone and leaf switch"},
    {0},
};

/* GPUs of nodes that take no jobs are out. */
struct totals {
    int64_t nodes, ready, gpus, busy, free, out;
};

static void count(const struct json *node, struct totals *t) {
    int64_t gpus = json_get_int(node, "gpus", 0);
    int64_t free = json_get_int(node, "gpus_free", -1);

    t->nodes++;
    t->ready += strcmp(json_get_string(node, "state", ""), "ready") == 0;
    t->gpus += gpus;
    if (free < 0)
        t->out += gpus;
    else
        t->busy += gpus - free;
    t->free += MAX(free, 0);
}

static void print_totals(const struct totals *t, struct buf *out) {
    buf_printf(out, "%lld node%s, %lld ready; %lld GPUs, %lld busy, %lld free, %lld out\n",
               (long long)t->nodes, t->nodes == 1 ? "" : "s", (long long)t->ready,
               (long long)t->gpus, (long long)t->busy, (long long)t->free, (long long)t->out);
}

static void jobs_text(const struct json *node, struct buf *ret) {
    const struct json *labels = json_get(node, "job_labels");

    for (const struct json *j = json_first(labels ? labels : json_get(node, "jobs")); j;
         j = json_next(j)) {
        buf_add_str(ret, ret->n_bytes ? "," : "");
        if (json_kind(j) == JSON_KIND_STRING)
            buf_add_str(ret, json_as_string(j));
        else
            buf_printf(ret, "%lld", (long long)json_as_int(j));
    }
}

/* What is wrong, else the reservation that keeps the node from others. */
static const char *health_of(const struct cli *cli, const struct json *node, struct buf *room) {
    const char *health = json_get_string(node, "health", NULL);
    const char *reason = json_get_string(node, "reason", NULL);
    const char *reservation = json_get_string(node, "reservation", NULL);
    const char *until = json_get_string(node, "reserved_until", NULL);
    char time[VIEW_TEXT_BYTES];

    if (health && strcmp(health, "ok") != 0)
        return health;
    if (reason || !reservation)
        return reason ? reason : health;
    view_time(cli, until, time);
    buf_printf(room, "%s%sreserved: %s%s%s", health ? health : "", health ? ", " : "", reservation,
               until ? " until " : "", until ? time : "");
    return buf_cstr(room);
}

static void print_table(const struct cli *cli, const struct json *nodes, struct buf *out) {
    static const char *const headings[] = {"NODE",  "ZONE", "STATE", ">GPUS",
                                           ">FREE", "JOBS", "HEALTH"};
    _cleanup_(table_freep) struct table *table = table_new(headings, ARRAY_SIZE(headings));
    struct totals totals = {0};

    for (const struct json *node = json_first(nodes); node; node = json_next(node)) {
        _cleanup_(buf_free) struct buf jobs = {0}, health = {0};
        int64_t free = json_get_int(node, "gpus_free", -1);
        count(node, &totals);
        jobs_text(node, &jobs);
        table_add_text(table, json_get_string(node, "name", NULL));
        table_add_text(table, json_get_string(node, "zone", NULL));
        table_add_text(table, json_get_string(node, "state", NULL));
        table_add(table, "%lld", (long long)json_get_int(node, "gpus", 0));
        if (free >= 0)
            table_add(table, "%lld", (long long)free);
        else
            table_add_text(table, NULL);
        table_add_text(table, json_get_bool(node, "spare", false) ? "spare" : buf_cstr(&jobs));
        table_add_text(table, health_of(cli, node, &health));
    }
    table_print(table, view_color(), out);
    print_totals(&totals, out);
}

static bool same(const struct json *a, const struct json *b, const char *key) {
    return a && b && hai_streq(json_get_string(a, key, "-"), json_get_string(b, key, "-"));
}

/* The scheduler lists nodes in the order of zone, leaf and number. */
static void print_tree(const struct cli *cli, const struct json *nodes, struct buf *out) {
    struct totals totals = {0};
    const struct json *before = NULL;

    for (const struct json *node = json_first(nodes); node; node = json_next(node)) {
        _cleanup_(buf_free) struct buf jobs = {0}, room = {0};
        bool zone = same(before, node, "zone");
        const char *health = health_of(cli, node, &room);
        count(node, &totals);
        if (!zone)
            buf_printf(out, "zone %s\n", json_get_string(node, "zone", "-"));
        if (!zone || !same(before, node, "leaf"))
            buf_printf(out, "  leaf %s\n", json_get_string(node, "leaf", "-"));
        jobs_text(node, &jobs);
        buf_printf(out, "    %s  %s  %lld/%lld GPUs free%s%s", json_get_string(node, "name", "?"),
                   json_get_string(node, "state", "?"),
                   (long long)MAX(json_get_int(node, "gpus_free", 0), 0),
                   (long long)json_get_int(node, "gpus", 0), jobs.n_bytes ? "  jobs " : "",
                   buf_cstr(&jobs));
        if (health && strcmp(health, "ok") != 0)
            buf_printf(out, "  %s", health);
        buf_add_str(out, "\n");
        before = node;
    }
    print_totals(&totals, out);
}

static void print_line(const char *name, const char *value, struct buf *out) {
    if (value && value[0])
        buf_printf(out, "%-9s %s\n", name, value);
}

static void print_one(struct cli *cli, const struct json *node, struct buf *out) {
    _cleanup_(buf_free) struct buf text = {0};
    char time[VIEW_TEXT_BYTES];

    buf_printf(out, "%s %s, zone %s\n", json_get_string(node, "name", "?"),
               json_get_string(node, "state", "?"), json_get_string(node, "zone", "-"));
    buf_printf(&text, "%lld of %lld free", (long long)MAX(json_get_int(node, "gpus_free", 0), 0),
               (long long)json_get_int(node, "gpus", 0));
    print_line("gpus", buf_cstr(&text), out);
    buf_clear(&text);
    buf_printf(&text, "%lld of %lld free", (long long)MAX(json_get_int(node, "cpus_free", 0), 0),
               (long long)json_get_int(node, "cpus", 0));
    print_line("cpus", buf_cstr(&text), out);
    buf_clear(&text);
    jobs_text(node, &text);
    print_line("jobs", buf_cstr(&text), out);
    print_line("leaf", json_get_string(node, "leaf", NULL), out);
    print_line("health", json_get_string(node, "health", NULL), out);
    print_line("reason", json_get_string(node, "reason", NULL), out);
    print_line("reserved", json_get_string(node, "reservation", NULL), out);
    view_time(cli, json_get_string(node, "reserved_until", NULL), time);
    print_line("until", json_get_string(node, "reserved_until", NULL) ? time : NULL, out);
    view_time(cli, json_get_string(node, "seen_at", NULL), time);
    print_line("seen", time, out);
    print_line("address", json_get_string(node, "address", NULL), out);
    print_line("version", json_get_string(node, "version", NULL), out);
}

static int run(struct cli *cli) {
    _cleanup_(buf_free) struct buf target = {0}, out = {0};
    _cleanup_(json_freep) struct json *nodes = NULL;
    struct hai_err err = {0};

    buf_add_str(&target, "/api/v1/nodes");
    if (cli->n_words) {
        buf_add_str(&target, "/");
        http_sync_encode(cli->words[0], &target);
    }
    int r = cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &nodes, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json) {
        cli_print_json(nodes);
        return CLI_OK;
    }
    if (cli->n_words)
        print_one(cli, nodes, &out);
    else if (cli_has(cli, "tree"))
        print_tree(cli, nodes, &out);
    else if (cli->quiet)
        for (const struct json *node = json_first(nodes); node; node = json_next(node))
            buf_printf(&out, "%s\n", json_get_string(node, "name", ""));
    else
        print_table(cli, nodes, &out);
    view_print(&out);
    return CLI_OK;
}

const struct verb verb_nodes = {
    .name = "nodes",
    .group = "operate",
    .args = "[NODE]",
    .help = "nodes and their health",
    .examples = "  hai nodes\n  hai nodes --tree\n  hai nodes b2 --json\n",
    .options = options,
    .words_max = 1,
    .run = run,
};
