/* hai reserve: keep nodes for some users, or for nobody (maintenance), for a time. */
#include "cli/each.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include "lib/timefmt.h"
#include <stdio.h>

enum { NAMED_MAX = 4 };

static const struct option options[] = {
    {0,                                                                      "on", "LIST", "nodes, zones, leaves or ranges of nodes, with commas between"},
    {0,                                                                "from", "T", "when it begins: 2026-12-01T08:00 or 08:00, local time; default: now"},
    {0,                                                                      "until", "T", "when it ends; default: when it is removed"},
    {0, "for", "D", "how long it is, such as 4h, instead of --until"},
    {0, "user", "LIST", "who may use it, with commas between; default: nobody (maintenance)"},
    {0,                                                                      "reason", "T", "shown here and in hai events"},
    {0,                                                                   "remove", NULL, "end it now, or before it begins"},
    {0                                                                     },
};

/* ---- what there is ---- */

/* "a1,a2,a3,a4 and 12 more" of n in all */
static void add_first(const struct json *names, int64_t n, struct buf *ret) {
    int64_t n_named = 0;

    for (const struct json *name = json_first(names); name && n_named < NAMED_MAX;
         name = json_next(name))
        buf_printf(ret, "%s%s", n_named++ ? "," : "", json_as_string(name));
    if (n > n_named)
        buf_printf(ret, " and %lld more", (long long)(n - n_named));
}

static void add_names(const struct json *names, struct buf *ret) {
    add_first(names, (int64_t)json_count(names), ret);
}

/* Of a list, or only one of it. */
static void print_names(const struct json *list, const struct json *only) {
    for (const struct json *one = only ? only : json_first(list); one;
         one = only ? NULL : json_next(one))
        printf("%s\n", json_get_string(one, "name", ""));
}

static void print_list(const struct cli *cli, const struct json *list, const struct json *only) {
    static const char *const headings[] = {"NAME", "STATE", "NODES", "USERS",
                                           "FROM", "UNTIL", "BY",    "REASON"};
    _cleanup_(table_freep) struct table *table = table_new(headings, ARRAY_SIZE(headings));
    _cleanup_(buf_free) struct buf out = {0};
    char time[VIEW_TEXT_BYTES];

    for (const struct json *one = only ? only : json_first(list); one;
         one = only ? NULL : json_next(one)) {
        _cleanup_(buf_free) struct buf nodes = {0}, users = {0};
        add_names(json_get(one, "nodes"), &nodes);
        add_names(json_get(one, "users"), &users);
        table_add_text(table, json_get_string(one, "name", NULL));
        table_add_text(table, json_get_bool(one, "active", false) ? "active" : "planned");
        table_add_text(table, buf_cstr(&nodes));
        table_add_text(table, users.n_bytes ? buf_cstr(&users) : "nobody");
        view_time(cli, json_get_string(one, "starts_at", NULL), time);
        table_add_text(table, time);
        view_time(cli, json_get_string(one, "ends_at", NULL), time);
        table_add_text(table, time);
        table_add_text(table, json_get_string(one, "by", NULL));
        table_add_text(table, json_get_string(one, "reason", NULL));
    }
    table_print(table, view_color(), &out);
    view_print(&out);
}

static const struct json *find(const struct json *list, const char *name) {
    for (const struct json *one = json_first(list); one; one = json_next(one))
        if (strcmp(name, json_get_string(one, "name", "")) == 0)
            return one;
    return NULL;
}

/* All, or the one that is named. */
static int show(struct cli *cli) {
    _cleanup_(json_freep) struct json *list = NULL;
    const char *wanted = cli->n_words ? cli->words[0] : NULL;
    struct hai_err err = {0};

    int r = cli_ask(cli, "GET", "/api/v1/reservations", NULL, NULL, &list, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    const struct json *one = wanted ? find(list, wanted) : NULL;
    if (wanted && !one) {
        r = hai_fail_at(&err, -ENOENT, "not_found", NULL, "--on LIST makes one",
                        "there is no reservation %s", wanted);
        return cli_fail(cli, r, &err);
    }
    if (cli->json)
        cli_print_json(one ? one : list);
    else if (cli->quiet)
        print_names(list, one);
    else if (!json_count(list))
        cli_note(cli, "nothing is reserved");
    else
        print_list(cli, list, one);
    return CLI_OK;
}

/* ---- a new one, or a change ---- */

/* The parts of every value of an option, which may be given again. */
static void add_words(const struct cli *cli, const char *option, const char *key,
                      struct json *body) {
    struct json *list = json_add(body, key, json_new_array());

    for (int i = 0; i < cli->n_values; i++) {
        const char *at = cli->values[i].value;
        if (strcmp(cli->values[i].option->name, option) != 0)
            continue;
        for (int depth = 0; *at;) {
            size_t n = 0;
            while (at[n] && (at[n] != ',' || depth)) { // a[1-2,4] is one word
                depth += (at[n] == '[') - (at[n] == ']');
                n++;
            }
            _cleanup_free_ char *word = hai_strndup(at, n);
            if (n)
                json_append(list, json_new_string(word));
            at += n + (at[n] == ',');
        }
    }
}

static int add_time(struct cli *cli, const char *option, const char *key, struct json *body) {
    const char *text = cli_option(cli, option);
    char iso[TIMEFMT_ISO_BYTES];
    int64_t us;

    if (!text || strcmp(text, "now") == 0)
        return 0;
    if (timefmt_local_parse(text, timefmt_now_us(), &us) < 0) {
        cli_usage(cli, "--%s is '%s'; expected a local time such as 2026-12-01T08:00 or 08:00",
                  option, text);
        return -EINVAL;
    }
    timefmt_iso(us, iso);
    json_add_string(body, key, iso);
    return 0;
}

static int add_length(struct cli *cli, struct json *body) {
    const char *text = cli_option(cli, "for");
    struct hai_err err = {0};
    int64_t us;

    if (!text)
        return 0;
    if (cli_has(cli, "until")) {
        cli_usage(cli, "--for and --until are both given; expected one of them");
        return -EINVAL;
    }
    if (timefmt_duration_parse(text, &us, &err) < 0) {
        cli_usage(cli, "--for is '%s'; expected a duration such as 4h or 90m", text);
        return -EINVAL;
    }
    json_add_real(body, "length_s", (double)us / 1e6);
    return 0;
}

/* Jobs that run there and are not its own are suspended when it begins: if that is now, a person
 * agrees first. Returns 1, 0 (told) or an error. */
static int agreed(struct cli *cli, const char *body, struct hai_err *err) {
    _cleanup_(json_freep) struct json *plan = NULL;
    _cleanup_(buf_free) struct buf jobs = {0};

    if (cli->yes)
        return 1;
    int r = cli_ask(cli, "POST", "/api/v1/reservations?dry_run=1", NULL, body, &plan, err);
    if (r < 0)
        return r;
    long long n = json_get_int(plan, "n_leaving", 0);
    if (n <= 0)
        return 1;
    add_first(json_get(plan, "leaving"), n, &jobs);
    if (!json_get_bool(plan, "active", false)) {
        cli_note(cli, "%lld job%s there now (%s); what still runs when it begins is suspended", n,
                 n == 1 ? " runs" : "s run", buf_cstr(&jobs));
        return 1;
    }
    if (cli_confirm(cli, "reserve nodes where %lld job%s (%s), to be suspended now?", n,
                    n == 1 ? " runs" : "s run", buf_cstr(&jobs)))
        return 1;
    fprintf(stderr, "hai: nothing was changed\n");
    return 0;
}

/* The scheduler blames fields and writes UTC; here there are options and local times. */
static int fail(const struct cli *cli, int r, struct hai_err *err) {
    static const struct {
        const char *field, *option;
    } known[] = {
        {"nodes",     "on"   },
        {"users",     "user" },
        {"starts_at", "from" },
        {"ends_at",   "until"},
        {"until",     "until"},
        {"length_s",  "for"  },
    };
    _cleanup_(buf_free) struct buf text = {0};

    view_sentence(cli, hai_err_text(err), &text);
    (void)snprintf(err->text, sizeof err->text, "%s", buf_cstr(&text));
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (strcmp(err->where, known[i].field) == 0 && cli_has(cli, known[i].option)) {
            (void)snprintf(err->where, sizeof err->where, "--%s", known[i].option);
            break;
        }
    return cli_fail(cli, r, err);
}

static int set(struct cli *cli) {
    _cleanup_(json_freep) struct json *body = json_new_object();
    _cleanup_(json_freep) struct json *answer = NULL;
    _cleanup_(buf_free) struct buf text = {0}, line = {0};
    struct hai_err err = {0};

    json_add_string(body, "name", cli->words[0]);
    add_words(cli, "on", "nodes", body);
    add_words(cli, "user", "users", body);
    if (add_time(cli, "from", "starts_at", body) < 0 ||
        add_time(cli, "until", "ends_at", body) < 0 || add_length(cli, body) < 0)
        return CLI_USAGE;
    if (cli_option(cli, "reason"))
        json_add_string(body, "reason", cli_option(cli, "reason"));
    json_dump(body, 0, &text);
    int r = agreed(cli, buf_cstr(&text), &err);
    if (r == 0)
        return CLI_FAILED;
    if (r > 0)
        r = cli_ask(cli, "POST", "/api/v1/reservations", NULL, buf_cstr(&text), &answer, &err);
    if (r < 0)
        return fail(cli, r, &err);
    if (cli->json) {
        cli_print_json(answer);
        return CLI_OK;
    }
    if (cli->quiet)
        return CLI_OK;
    const char *until = json_get_string(answer, "ends_at", NULL);
    buf_printf(&line, "%s: ", cli->words[0]);
    add_names(json_get(answer, "nodes"), &line);
    buf_printf(&line, " from %s", json_get_string(answer, "starts_at", "?"));
    if (until)
        buf_printf(&line, " until %s", until);
    else
        buf_add_str(&line, " until it is removed");
    buf_clear(&text);
    view_sentence(cli, buf_cstr(&line), &text);
    buf_add_str(&text, "\n");
    view_print(&text);
    return CLI_OK;
}

static int run(struct cli *cli) {
    static const char *const of_set[] = {"from", "until", "for", "user", "reason"};

    if (cli_has(cli, "remove")) {
        if (!cli->n_words || cli_has(cli, "on"))
            return cli_usage(cli, "usage: hai reserve --remove NAME...");
        return each_change(cli, "/api/v1/reservations", "remove", "removed", "{}");
    }
    if (cli->n_words > 1)
        return cli_usage(cli, "'%s' is one word too many; usage: hai reserve NAME --on LIST",
                         cli->words[1]);
    if (cli_has(cli, "on"))
        return cli->n_words ? set(cli)
                            : cli_usage(cli, "no name is given; usage: hai reserve NAME --on LIST");
    for (size_t i = 0; i < ARRAY_SIZE(of_set); i++)
        if (cli_has(cli, of_set[i]))
            return cli_usage(cli, "--%s without --on; usage: hai reserve NAME --on LIST",
                             of_set[i]);
    return show(cli);
}

const struct verb verb_reserve = {
    .name = "reserve",
    .group = "operate",
    .args = "[NAME]",
    .help = "keep nodes for some users, or for maintenance, for a time",
    .detail =
        "When it begins, jobs that run there and do not belong to it save, leave and go on\n"
        "elsewhere or later by themselves: where that would be at once, it asks (-y). Jobs of its\n"
        "users run there with --reservation NAME.\n"
        "A name that is there is changed: give all of it anew. Without --on: what there is.",
    .examples =
        "  hai reserve\n"
        "  hai reserve upgrade --on a3,b --from 2026-12-01T08:00 --for 4h --reason \"new fans\"\n"
        "  hai reserve demo --on gpu[001-016] --user alice,bob --until 18:00\n"
        "  hai reserve --remove demo\n",
    .options = options,
    .words_max = -1,
    .run = run,
};
