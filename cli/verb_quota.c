/* hai quota: how many GPUs of a group users and teams may hold at a level, and what they hold. */
#include "cli/verbs.h"
#include "cli/view.h"
#include "lib/pure/map.h"
#include <stdio.h>
#include <stdlib.h>

static const struct option options[] = {
    {'g',  "group", "G", "group of nodes; default: default"},
    {'p', "priority", "P", "level: 50 40 30 20 10 8 5 0; default: 30"},
    {0   },
};

/* Each holder once, in the words of `hai quota remove`. */
static void print_holders(const struct json *quotas, struct buf *out) {
    _cleanup_(map_free) struct map seen = {0};

    for (const struct json *q = json_first(quotas); q; q = json_next(q)) {
        const char *team = json_get_string(q, "team", NULL);
        _cleanup_free_ char *holder = hai_asprintf("%s%s", team ? "team:" : "",
                                                   team ? team : json_get_string(q, "user", "?"));
        if (map_get_text(&seen, holder))
            continue;
        map_put_text(&seen, holder, &seen);
        buf_printf(out, "%s\n", holder);
    }
}

static int list(struct cli *cli) {
    _cleanup_(json_freep) struct json *quotas = NULL;
    _cleanup_(buf_free) struct buf out = {0};
    struct hai_err err = {0};

    int r = cli_ask(cli, "GET", "/api/v1/quotas", NULL, NULL, &quotas, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(quotas);
    else if (cli->quiet)
        print_holders(quotas, &out);
    else if (json_count(quotas))
        view_quotas(quotas, &out);
    else
        cli_note(cli, "there are no quotas: nothing is limited");
    view_print(&out);
    return CLI_OK;
}

static int change(struct cli *cli, const char *holder, const char *gpus) {
    _cleanup_(json_freep) struct json *body = json_new_object();
    _cleanup_(json_freep) struct json *answer = NULL;
    _cleanup_(buf_free) struct buf text = {0};
    const char *group = cli_option(cli, "group") ? cli_option(cli, "group") : "default";
    struct hai_err err = {0};
    int64_t priority;
    char *end = NULL;

    if (cli_number(cli, "priority", 0, 50, 30, &priority) < 0)
        return CLI_USAGE;
    errno = 0;
    long long n = gpus ? strtoll(gpus, &end, 10) : 0;
    if (gpus && (end == gpus || *end || errno || n < 0))
        return cli_usage(cli, "GPUS is '%s'; expected a whole number, 0 or more", gpus);
    if (!strncmp(holder, "team:", 5))
        json_add_string(body, "team", holder + 5);
    else
        json_add_string(body, "user", holder);
    json_add_string(body, "group", group);
    json_add_int(body, "priority", priority);
    if (gpus)
        json_add_int(body, "gpus", n);
    json_dump(body, 0, &text);
    int r = cli_ask(cli, "POST", "/api/v1/quotas", NULL, buf_cstr(&text), &answer, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(answer);
    else if (gpus)
        cli_note(cli, "%s may hold %lld GPUs of group %s at priority %lld", holder, n, group,
                 (long long)priority);
    else
        cli_note(cli, "%s has no quota of its own in group %s at priority %lld any more", holder,
                 group, (long long)priority);
    return CLI_OK;
}

static int run(struct cli *cli) {
    const char *what = cli->n_words ? cli->words[0] : "list";

    if (!strcmp(what, "list") && cli->n_words <= 1)
        return list(cli);
    if (!strcmp(what, "set") && cli->n_words == 3)
        return change(cli, cli->words[1], cli->words[2]);
    if (!strcmp(what, "remove") && cli->n_words == 2)
        return change(cli, cli->words[1], NULL);
    return cli_usage(cli, "expected list, set HOLDER GPUS or remove HOLDER");
}

const struct verb verb_quota = {
    .name = "quota",
    .group = "operate",
    .args = "[list | set HOLDER GPUS | remove HOLDER]",
    .help = "who may hold how many GPUs, and who does",
    .detail = "HOLDER is a user, team:NAME, or '*' for every user without a quota of his own. USED "
              "are the GPUs of jobs within quota that run or wait for nodes; BORROWED those that "
              "jobs over quota hold until others want them.",
    .examples = "  hai quota\n  hai quota set alice 16 -p 30\n  hai quota set team:nlp 64 -g big\n"
                "  hai quota set '*' 8\n  hai quota remove alice\n",
    .options = options,
    .words_min = 0,
    .words_max = 3,
    .run = run,
};
