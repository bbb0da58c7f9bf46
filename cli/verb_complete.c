/* hai complete: what may come next on a command line; the completions in etc/ call it. */
#include "cli/verbs.h"
#include "cli/view.h"
#include <stdio.h>

static void print_option_names(const struct option *options, const char *prefix) {
    for (const struct option *o = options; o && o->name; o++)
        if (strncmp(o->name, prefix, strlen(prefix)) == 0)
            printf("--%s\n", o->name);
}

static void print_matching(const char *text, const char *prefix) {
    if (text && strncmp(text, prefix, strlen(prefix)) == 0)
        printf("%s\n", text);
}

/* Ids and names of my jobs, or names of nodes. An unreachable scheduler completes nothing. */
static void print_objects(struct cli *cli, bool nodes, const char *prefix) {
    _cleanup_(json_freep) struct json *list = NULL;
    struct hai_err err = {0};

    if (cli_ask(cli, "GET", nodes ? "/api/v1/nodes" : "/api/v1/jobs?limit=200", NULL, NULL, &list,
                &err) < 0)
        return;
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        char id[VIEW_TEXT_BYTES];
        if (!nodes)
            print_matching(view_id(v, id), prefix);
        print_matching(json_get_string(v, "name", NULL), prefix);
    }
}

/* Words after `--`: VERB, what stands between, and the word begun, which may be empty. */
static int run(struct cli *cli) {
    const char *word = cli->n_rest ? cli->rest[cli->n_rest - 1] : "";
    const struct verb *verb = cli->n_rest > 1 ? verbs_find(cli->rest[0]) : NULL;

    if (cli->n_rest <= 1) {
        for (const struct verb *const *v = verbs_all(); *v; v++)
            if (!(*v)->hidden)
                print_matching((*v)->name, word);
        for (const struct verbs_program *p = verbs_programs(); p->name; p++)
            print_matching(p->name, word);
    } else if (verb && strncmp(word, "--", 2) == 0) {
        print_option_names(verb->options, word + 2);
        print_option_names(verb->more, word + 2);
        print_option_names(cli_common_options(), word + 2);
    } else if (verb && strstr(verb->args, "JOB")) {
        print_objects(cli, false, word);
    } else if (verb && strstr(verb->args, "NODE")) {
        print_objects(cli, true, word);
    } else if (verb && strstr(verb->args, "KIND")) {
        print_matching("command", word);
        print_matching("train", word);
        print_matching("schema", word);
    }
    return CLI_OK;
}

const struct verb verb_complete = {
    .name = "complete",
    .group = "start",
    .args = "-- WORDS",
    .help = "what may come next on a command line",
    .hidden = true,
    .rest = true,
    .run = run,
};
