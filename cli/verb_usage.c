/* hai usage: GPU-hours and what they cost. */
#include "cli/table.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include "lib/timefmt.h"
#include <ctype.h>
#include <stdio.h>

static const struct option options[] = {
    {0,                                                             "by", "WHAT", "stage (the default), user, team, group, day, or job"},
    {0,                                                       "since", "AGO", "UTC days from then on, e.g. 7d or 2026-11-01; default: 30d"},
    {0,                                                             "until", "T", "up to then, e.g. 1d (ago) or 2026-11-20; default: now"},
    {'g',"group", "GROUP", "only this group of nodes"},
    {'u', "user", "USER", "only this user's jobs; operators see everybody's"},
    {0,                                                             "limit", "N", "at most so many lines, default 1000"},
    {0,                                                          "check", NULL, "only: do capacity, classes and jobs agree? Exit status 1 if not"},
    {0                                                            },
};

/* What GPU time is, in the order of the columns and lines; NULL: not of jobs. */
static const struct {
    const char *class, *heading, *words;
} classes[] = {
    {"productive",       ">PRODUCTIVE", "productive"                         },
    {"recomputed",       ">RECOMPUTED", "recomputed after faults"            },
    {"checkpoint_stall", ">STALLED",    "waiting for checkpoints"            },
    {"start_up",         ">START-UP",   "starting"                           },
    {"suspended",        ">SUSPENDED",  "giving way and loading again"       },
    {"idle",             NULL,          "idle, nobody waits"                 },
    {"idle_demand",      NULL,          "idle while a job waits in its group"},
    {"unhealthy",        NULL,          "of lost or absent nodes"            },
    {"drained",          NULL,          "drained"                            },
    {"reserved",         NULL,          "reserved"                           },
};

enum { JOB_CLASSES = 5 };

static double real(const struct json *object, const char *key) {
    const struct json *value = json_get(object, key);

    return value && json_kind(value) != JSON_KIND_NULL ? json_as_real(value) : 0;
}

static bool has(const struct json *object, const char *key) {
    const struct json *value = json_get(object, key);

    return value && json_kind(value) != JSON_KIND_NULL;
}

/* 1234567.891 as 1,234,567.89: people compare these. */
static void add_amount(struct table *table, double amount) {
    char digits[64], text[96];
    int n = snprintf(digits, sizeof digits, "%.2f", amount), at = 0;

    for (int i = 0; i < n; i++) {
        text[at++] = digits[i];
        int left = n - 4 - i; // digits before the point that follow
        if (left > 0 && left % 3 == 0 && isdigit((unsigned char)digits[i]))
            text[at++] = ',';
    }
    text[at] = '\0';
    table_add_text(table, text);
}

static void add_share(struct table *table, double part, double whole) {
    if (part > 0 && whole > 0)
        table_add(table, "%.1f %%", 100 * part / whole);
    else
        table_add_text(table, NULL);
}

static void add_sum(struct table *table, const struct json *sum, const char *key, bool costs) {
    char name[48];

    table_add_text(table, key);
    add_amount(table, real(sum, "gpu_s") / 3600);
    if (costs && has(sum, "cost"))
        add_amount(table, real(sum, "cost"));
    else if (costs)
        table_add_text(table, NULL);
    for (int i = 0; i < JOB_CLASSES; i++) {
        (void)snprintf(name, sizeof name, "%s_s", classes[i].class);
        add_share(table, real(sum, name), real(sum, "gpu_s"));
    }
}

/* Where one group has no price, sums of others still have a cost. */
static bool any_cost(const struct json *usage) {
    const struct json *sums = json_get(usage, "sums");

    for (const struct json *sum = json_first(sums); sum; sum = json_next(sum))
        if (has(sum, "cost"))
            return true;
    return has(json_get(usage, "total"), "cost");
}

static void print_sums(const struct json *usage, const char *by, struct buf *out) {
    const struct json *total = json_get(usage, "total");
    bool costs = any_cost(usage);
    _cleanup_free_ char *first = hai_strdup(by), *cost = NULL;
    const char *headings[3 + JOB_CLASSES] = {first, ">GPU-HOURS"};
    int n = 2;

    for (char *c = first; *c; c++)
        *c = (char)toupper((unsigned char)*c);
    cost = hai_asprintf(">COST %s", json_get_string(usage, "currency", ""));
    if (strlen(cost) == strlen(">COST "))
        cost[strlen(">COST")] = '\0';
    if (costs)
        headings[n++] = cost;
    for (int i = 0; i < JOB_CLASSES; i++)
        headings[n++] = classes[i].heading;
    _cleanup_(table_freep) struct table *table = table_new(headings, n);
    const struct json *sums = json_get(usage, "sums");
    for (const struct json *sum = json_first(sums); sum; sum = json_next(sum))
        add_sum(table, sum, json_get_string(sum, "label", json_get_string(sum, "key", NULL)),
                costs);
    if (json_count(sums) != 1 || json_get_int(usage, "left_out", 0))
        add_sum(table, total, "total", costs);
    table_print(table, view_color(), out);
}

/* What external users had of all. */
static void print_external(const struct json *usage, struct buf *out) {
    double all_s = real(json_get(usage, "total"), "gpu_s"), external_s = 0;
    const struct json *sums = json_get(usage, "sums");

    for (const struct json *sum = json_first(sums); sum; sum = json_next(sum))
        if (json_get_bool(sum, "external", false))
            external_s += real(sum, "gpu_s");
    if (external_s > 0)
        buf_printf(out, "external users: %.2f GPU-hours, %.1f %% of these\n", external_s / 3600,
                   100 * external_s / all_s);
}

static void print_cluster(const struct json *usage, struct buf *out) {
    static const char *const headings[] = {"CLUSTER", ">GPU-HOURS", ">SHARE"};
    _cleanup_(table_freep) struct table *table = table_new(headings, ARRAY_SIZE(headings));
    double capacity = real(usage, "capacity_s");

    for (size_t i = 0; i < ARRAY_SIZE(classes); i++)
        for (const struct json *class = json_first(json_get(usage, "classes")); class;
             class = json_next(class)) {
            double gpu_s = real(class, "gpu_s");
            if (gpu_s == 0 || !hai_streq(json_get_string(class, "class", ""), classes[i].class))
                continue;
            table_add_text(table, classes[i].words);
            add_amount(table, gpu_s / 3600);
            add_share(table, gpu_s, capacity);
        }
    table_add_text(table, "capacity");
    add_amount(table, capacity / 3600);
    add_share(table, capacity, capacity);
    buf_add_str(out, "\n");
    table_print(table, view_color(), out);
}

static void print_usage(struct cli *cli, const struct json *usage) {
    const char *since = json_get_string(usage, "since", ""), *until;
    int64_t left_out = json_get_int(usage, "left_out", 0);
    _cleanup_(buf_free) struct buf out = {0};
    char end[VIEW_TEXT_BYTES];

    until = json_get_string(usage, "until", "");
    if (json_count(json_get(usage, "sums"))) {
        print_sums(usage, json_get_string(usage, "by", "stage"), &out);
        print_external(usage, &out);
    }
    if (json_count(json_get(usage, "classes")))
        print_cluster(usage, &out);
    view_print(&out);
    if (!json_count(json_get(usage, "sums")))
        cli_note(cli, "no GPU time since %.10s", since);
    if (left_out)
        cli_note(cli, "and %lld more, which are in the total; --limit N shows more",
                 (long long)left_out);
    view_time(cli, until, end);
    cli_note(cli, "from %.10s, 00:00 UTC, to %s", since, end);
}

/* Exact on the scheduler's side; here as people read it. */
static int print_check(const struct json *usage) {
    static const struct {
        const char *words, *key;
    } lines[] = {
        {"capacity",        "capacity_s"},
        {"sum of classes",  "classes_s" },
        {"classes of jobs", "of_jobs_s" },
    };
    bool agrees = json_get_bool(usage, "agrees", false);

    for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
        printf("%-15s  %.6f GPU-seconds\n", lines[i].words, real(usage, lines[i].key));
    printf("%-15s  %.6f GPU-seconds\n", "sum of jobs", real(json_get(usage, "total"), "gpu_s"));
    printf("%s\n", agrees ? "they agree" : "they do NOT agree");
    return agrees ? CLI_OK : CLI_FAILED;
}

/* A duration ago, a day, or a time of ISO 8601. */
static int add_time(struct cli *cli, const char *option, struct buf *target) {
    const char *text = cli_option(cli, option);
    char iso[TIMEFMT_ISO_BYTES];
    int64_t us, ago_us;

    if (!text)
        return 0;
    _cleanup_free_ char *day = hai_asprintf("%sT00:00:00Z", text);
    if (timefmt_duration_parse(text, &ago_us, NULL) == 0)
        us = timefmt_now_us() - ago_us;
    else if (timefmt_iso_parse(day, &us) < 0 && timefmt_iso_parse(text, &us) < 0) {
        cli_usage(cli, "--%s is '%s'; expected a duration such as 7d, or 2026-11-23", option, text);
        return -EINVAL;
    }
    timefmt_iso(us, iso);
    buf_printf(target, "&%s=", option);
    http_sync_encode(iso, target);
    return 0;
}

static int target_of(struct cli *cli, struct buf *ret) {
    static const char *const words[] = {"by", "group", "user"};
    int64_t limit;

    if (cli_number(cli, "limit", 1, 100000, 1000, &limit) < 0)
        return -EINVAL;
    buf_printf(ret, "/api/v1/usage?limit=%lld", (long long)limit);
    if (add_time(cli, "since", ret) < 0 || add_time(cli, "until", ret) < 0)
        return -EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (cli_option(cli, words[i])) {
            buf_printf(ret, "&%s=", words[i]);
            http_sync_encode(cli_option(cli, words[i]), ret);
        }
    return 0;
}

static int run(struct cli *cli) {
    _cleanup_(buf_free) struct buf target = {0};
    _cleanup_(json_freep) struct json *usage = NULL;
    bool check = cli_has(cli, "check");
    struct hai_err err = {0};

    if (check && (cli_option(cli, "group") || cli_option(cli, "user")))
        return cli_usage(cli, "--check is of the whole cluster: not with --group or --user");
    if (target_of(cli, &target) < 0)
        return CLI_USAGE;
    int r = cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &usage, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (json_get_string(usage, "unknown", NULL)) {
        hai_fail_at(&err, -ENOENT, "not_found", NULL, NULL, "%s",
                    json_get_string(usage, "unknown", ""));
        return cli_fail(cli, -ENOENT, &err);
    }
    if (check && !has(usage, "capacity_s")) {
        hai_fail(&err, -EACCES, "--check needs a token of scope operate");
        return cli_fail(cli, -EACCES, &err);
    }
    if (cli->json)
        cli_print_json(usage);
    if (check)
        return cli->json || cli->quiet
                   ? (json_get_bool(usage, "agrees", false) ? CLI_OK : CLI_FAILED)
                   : print_check(usage);
    if (cli->json)
        return CLI_OK;
    if (cli->quiet)
        printf("%.2f\n", real(json_get(usage, "total"), "gpu_s") / 3600);
    else
        print_usage(cli, usage);
    return CLI_OK;
}

const struct verb verb_usage = {
    .name = "usage",
    .group = "operate",
    .args = "",
    .help = "GPU-hours and cost",
    .detail =
        "GPU time of one's own jobs, of everybody's for operators, by what it went into; for\n"
        "operators also what all GPUs of the cluster did. Costs are at the prices of the\n"
        "cluster file. -q prints the GPU-hours in all and nothing else.",
    .examples = "  hai usage\n  hai usage --by user --since 7d\n"
                "  hai usage --by job -g default --since 2026-11-01 --until 2026-11-08\n"
                "  hai usage --check\n",
    .options = options,
    .run = run,
};
