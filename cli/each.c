#include "cli/each.h"

#include <stdio.h>

/* One change; its answer goes to `answers` or as a line to stdout. */
static int change_one(struct cli *cli, const char *prefix, const char *word, const char *action,
                      const char *done, const char *body, struct json *answers) {
    _cleanup_(buf_free) struct buf target = {0};
    struct json *answer = NULL;
    struct hai_err err = {0};

    buf_printf(&target, "%s/", prefix);
    http_sync_encode(word, &target);
    buf_printf(&target, "/%s", action);
    int r = cli_ask(cli, "POST", buf_cstr(&target), NULL, body, &answer, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    const char *message = json_get_string(answer, "message", NULL);
    int64_t id = json_get_int(answer, "id", 0);
    if (cli->json) {
        json_append(answers, answer);
        return CLI_OK;
    }
    if (strcmp(action, "rerun") == 0 && id)
        printf(cli->quiet ? "%lld\n" : "job %lld\n", (long long)id);
    else if (!cli->quiet)
        printf("%s: %s\n", word, message && message[0] ? message : done);
    json_free(answer);
    return CLI_OK;
}

int each_change(struct cli *cli, const char *prefix, const char *action, const char *done,
                const char *body) {
    _cleanup_(json_freep) struct json *answers = json_new_array();
    int status = CLI_OK;

    if (cli->n_words > 1 &&
        !cli_confirm(cli, "%s %d %s?", cli->verb->name, cli->n_words, strrchr(prefix, '/') + 1)) {
        fprintf(stderr, "hai: nothing was changed\n");
        return CLI_FAILED;
    }
    for (int i = 0; i < cli->n_words; i++) {
        int one = change_one(cli, prefix, cli->words[i], action, done, body, answers);
        status = status ? status : one;
        if (one == CLI_NO_ANSWER)
            break;
    }
    if (cli->json && json_count(answers))
        cli_print_json(cli->n_words > 1 ? answers : json_first(answers));
    return status;
}
