/* hai user: accounts. */
#include "cli/table.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include "wire/http_sync.h"

static const struct option options[] = {
    {0,                                                                             "create", NULL, "set: the user is new"},
    {0,                                                                         "scope", "S", "set: the most that tokens of the user may do: read, submit, operate, admin"},
    {0,                                                                             "uid", "N", "set: ranks run as; of a new user: the account of the same name"},
    {0,"external", NULL, "set: priority auto only, at most 5, and no names of nodes"},
    {0, "internal", NULL, "set: not external any more"},
    {0,                                                                             "disable", NULL, "set: tokens of the user are refused"},
    {0,                                                                          "enable", NULL, "set: not disabled any more"},
    {0                                                                            },
};

static void add_user(struct table *table, const struct json *user) {
    bool external = json_get_bool(user, "external", false);
    bool disabled = json_get_bool(user, "disabled", false);

    table_add_text(table, json_get_string(user, "user", NULL));
    if (json_get_int(user, "uid", -1) >= 0)
        table_add(table, "%lld", (long long)json_get_int(user, "uid", 0));
    else
        table_add_text(table, NULL);
    table_add_text(table, json_get_string(user, "team", NULL));
    const struct json *scope = json_first(json_get(user, "scopes"));
    table_add_text(table, scope ? json_as_string(scope) : NULL);
    table_add(table, "%s%s%s", external ? "external" : "", external && disabled ? ", " : "",
              disabled ? "disabled" : "");
}

static int list(struct cli *cli) {
    static const char *const headings[] = {"USER", ">UID", "TEAM", "SCOPE", "NOTE"};
    _cleanup_(table_freep) struct table *table = table_new(headings, ARRAY_SIZE(headings));
    _cleanup_(json_freep) struct json *users = NULL;
    _cleanup_(buf_free) struct buf out = {0};
    struct hai_err err = {0};

    int r = cli_ask(cli, "GET", "/api/v1/users", NULL, NULL, &users, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json) {
        cli_print_json(users);
        return CLI_OK;
    }
    for (const struct json *user = json_first(users); user; user = json_next(user))
        if (cli->quiet)
            buf_printf(&out, "%s\n", json_get_string(user, "user", ""));
        else
            add_user(table, user);
    if (!cli->quiet)
        table_print(table, false, &out);
    view_print(&out);
    return CLI_OK;
}

/* One of two switches, or neither. */
static int add_switch(struct cli *cli, const char *yes, const char *no, const char *key,
                      struct json *change) {
    if (cli_has(cli, yes) && cli_has(cli, no)) {
        cli_usage(cli, "--%s and --%s exclude each other", yes, no);
        return -EINVAL;
    }
    if (cli_has(cli, yes) || cli_has(cli, no))
        json_add_string(change, key, cli_has(cli, yes) ? "yes" : "no");
    return 0;
}

static int set(struct cli *cli, const char *name) {
    _cleanup_(json_freep) struct json *change = json_new_object();
    _cleanup_(json_freep) struct json *answer = NULL;
    _cleanup_(buf_free) struct buf target = {0};
    _cleanup_(buf_free) struct buf body = {0};
    struct hai_err err = {0};
    int64_t uid;

    if (cli_number(cli, "uid", 0, UINT32_MAX - 1, -1, &uid) < 0 ||
        add_switch(cli, "external", "internal", "external", change) < 0 ||
        add_switch(cli, "disable", "enable", "disabled", change) < 0)
        return CLI_USAGE;
    if (cli_has(cli, "create"))
        json_add_bool(change, "create", true);
    if (cli_option(cli, "scope"))
        json_add_string(change, "scope", cli_option(cli, "scope"));
    if (uid >= 0)
        json_add_int(change, "uid", uid);
    if (!json_count(change))
        return cli_usage(cli, "nothing to set; usage: hai user set NAME --external");
    json_dump(change, 0, &body);
    buf_add_str(&target, "/api/v1/users/");
    http_sync_encode(name, &target);
    int r = cli_ask(cli, "POST", buf_cstr(&target), NULL, buf_cstr(&body), &answer, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(answer);
    else
        cli_note(cli, "%s is %s", name, cli_has(cli, "create") ? "made" : "changed");
    return CLI_OK;
}

static int run(struct cli *cli) {
    const char *what = cli->n_words ? cli->words[0] : "list";

    if (!strcmp(what, "list") && cli->n_words <= 1)
        return list(cli);
    if (!strcmp(what, "set") && cli->n_words == 2)
        return set(cli, cli->words[1]);
    return cli_usage(cli, "expected list, or set NAME with what is to change");
}

const struct verb verb_user = {
    .name = "user",
    .group = "operate",
    .args = "[list | set NAME]",
    .help = "accounts: list, make, change",
    .examples = "  hai user\n  hai user set carol --create --uid 2003\n"
                "  hai user set guest --external\n  hai user set dan --disable\n",
    .options = options,
    .words_min = 0,
    .words_max = 2,
    .run = run,
};
