/* hai token: make, list and revoke tokens. */
#include "cli/table.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include "lib/timefmt.h"
#include "wire/http_sync.h"
#include <stdio.h>

static const struct option options[] = {
    {0,                                                          "user", "U", "create: for this user; default: my own"},
    {0,                                                       "scope", "S", "create: read, submit, operate or admin; default: submit"},
    {0,                                                          "label", "T", "create: what it is for"},
    {0,"lasts", "D", "create: refused after this time, e.g. 30d; default: never"},
    {0},
};

static int list(struct cli *cli) {
    static const char *const headings[] = {">ID", "USER", "SCOPE", "CREATED", "UNTIL", "LABEL"};
    _cleanup_(table_freep) struct table *table = table_new(headings, ARRAY_SIZE(headings));
    _cleanup_(json_freep) struct json *tokens = NULL;
    _cleanup_(buf_free) struct buf out = {0};
    struct hai_err err = {0};
    char time[VIEW_TEXT_BYTES];

    int r = cli_ask(cli, "GET", "/api/v1/tokens", NULL, NULL, &tokens, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json) {
        cli_print_json(tokens);
        return CLI_OK;
    }
    for (const struct json *t = json_first(tokens); t; t = json_next(t)) {
        if (cli->quiet) {
            buf_printf(&out, "%lld\n", (long long)json_get_int(t, "id", 0));
            continue;
        }
        table_add(table, "%lld", (long long)json_get_int(t, "id", 0));
        table_add_text(table, json_get_string(t, "user", NULL));
        table_add_text(table, json_get_string(t, "scope", NULL));
        view_time(cli, json_get_string(t, "created_at", NULL), time);
        table_add_text(table, time);
        view_time(cli, json_get_string(t, "expires_at", NULL), time);
        table_add_text(table, time);
        table_add_text(table, json_get_string(t, "label", NULL));
    }
    if (!cli->quiet)
        table_print(table, false, &out);
    view_print(&out);
    return CLI_OK;
}

static int create(struct cli *cli) {
    static const char *const keys[] = {"user", "scope", "label"};
    _cleanup_(json_freep) struct json *body = json_new_object();
    _cleanup_(json_freep) struct json *answer = NULL;
    _cleanup_(buf_free) struct buf text = {0};
    const char *lasts = cli_option(cli, "lasts");
    struct hai_err err = {0};
    int64_t lasts_us;

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (cli_option(cli, keys[i]))
            json_add_string(body, keys[i], cli_option(cli, keys[i]));
    if (lasts && timefmt_duration_parse(lasts, &lasts_us, NULL) < 0)
        return cli_usage(cli, "--lasts is '%s'; expected a duration such as 12h or 30d", lasts);
    if (lasts)
        json_add_real(body, "lasts_s", (double)lasts_us / 1e6);
    json_dump(body, 0, &text);
    int r = cli_ask(cli, "POST", "/api/v1/tokens", NULL, buf_cstr(&text), &answer, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(answer);
    else
        printf("%s\n", json_get_string(answer, "token", ""));
    if (!cli->json)
        cli_note(cli, "token %lld of %s; it is shown only now",
                 (long long)json_get_int(answer, "id", 0), json_get_string(answer, "user", "?"));
    return CLI_OK;
}

static int revoke(struct cli *cli, const char *id) {
    _cleanup_(json_freep) struct json *answer = NULL;
    _cleanup_(buf_free) struct buf target = {0};
    struct hai_err err = {0};

    buf_add_str(&target, "/api/v1/tokens/");
    http_sync_encode(id, &target);
    buf_add_str(&target, "/revoke");
    int r = cli_ask(cli, "POST", buf_cstr(&target), NULL, NULL, &answer, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(answer);
    else
        cli_note(cli, "token %s is revoked", id);
    return CLI_OK;
}

static int run(struct cli *cli) {
    const char *what = cli->n_words ? cli->words[0] : "list";

    if (!strcmp(what, "list") && cli->n_words <= 1)
        return list(cli);
    if (!strcmp(what, "create") && cli->n_words == 1)
        return create(cli);
    if (!strcmp(what, "revoke") && cli->n_words == 2)
        return revoke(cli, cli->words[1]);
    return cli_usage(cli, "expected list, create or revoke ID");
}

const struct verb verb_token = {
    .name = "token",
    .group = "operate",
    .args = "[list | create | revoke ID]",
    .help = "tokens: list, make, revoke",
    .examples = "  hai token create --label laptop --lasts 30d\n"
                "  hai token create --user guest --scope submit\n  hai token revoke 7\n",
    .options = options,
    .words_min = 0,
    .words_max = 2,
    .run = run,
};
