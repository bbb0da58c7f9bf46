/* hai init: use a cluster from this machine. */
#include "cli/clientconf.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "lib/fileio.h"
#include <stdio.h>
#include <unistd.h>

static const struct option options[] = {
    {0,    "token-file", "F", "file with the token; default: asked for, or standard input"},
    {0},
};

/* The token from the file, a terminal without echo, or standard input. */
static int read_token(struct cli *cli, struct buf *ret, struct hai_err *err) {
    const char *path = cli_option(cli, "token-file");
    char line[1024] = "";

    if (path) {
        int r = fileio_read_file(path, sizeof line, ret, err);
        if (r < 0)
            return r;
    } else {
        bool terminal = terminal_silent();
        if (terminal)
            fprintf(stderr, "token: ");
        if (fgets(line, sizeof line, stdin))
            buf_add_str(ret, line);
        terminal_restore();
        if (terminal)
            fprintf(stderr, "\n");
    }
    while (ret->n_bytes && strchr(" \r\n\t", ret->data[ret->n_bytes - 1]))
        ret->n_bytes--;
    if (ret->n_bytes == 0)
        return hai_fail(err, -EINVAL, "no token was given; --token-file names a file with it");
    const char *token = buf_cstr(ret);
    if (strspn(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/=") !=
        strlen(token))
        return hai_fail(err, -EINVAL, "the token has characters that no token has");
    return 0;
}

static int write_config(const char *path, const char *url, const char *token, struct hai_err *err) {
    _cleanup_free_ char *folder = hai_strdup(path);
    _cleanup_(buf_free) struct buf text = {0};
    char *slash = strrchr(folder, '/');

    if (slash && slash != folder) {
        *slash = '\0';
        int r = fileio_mkdir_p(folder, 0700, err);
        if (r < 0)
            return r;
    }
    buf_printf(&text, "version: 1\nserver: %s\ntoken: %s\n", url, token);
    return fileio_replace(path, text.data, text.n_bytes, 0600, err);
}

static int run(struct cli *cli) {
    const char *url = cli->words[0];
    _cleanup_free_ char *path = clientconf_path();
    _cleanup_(buf_free) struct buf token = {0};
    _cleanup_(json_freep) struct json *me = NULL;
    struct hai_err err = {0};

    int r = read_token(cli, &token, &err);
    if (r == 0)
        r = http_sync_open(url, buf_cstr(&token), &cli->http, &err);
    if (r < 0)
        return cli_usage(cli, "%s", err.text);
    cli->server_url = hai_strdup(url);
    // Asked before it is kept: a wrong URL or token never becomes the configuration.
    r = cli_ask(cli, "GET", "/api/v1/whoami", NULL, NULL, &me, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (access(path, F_OK) == 0 && !cli_confirm(cli, "replace %s?", path)) {
        fprintf(stderr, "hai: nothing was changed\n");
        return CLI_FAILED;
    }
    r = write_config(path, url, buf_cstr(&token), &err);
    if (r < 0)
        return cli_fail(cli, -EIO, &err);
    if (cli->json)
        cli_print_json(me);
    else
        cli_note(cli, "%s on %s; kept in %s", json_get_string(me, "user", "?"),
                 json_get_string(me, "cluster", "the cluster"), path);
    return CLI_OK;
}

const struct verb verb_init = {
    .name = "init",
    .group = "start",
    .args = "URL",
    .help = "use a cluster from this machine",
    .examples = "  hai init http://127.0.0.1:7480 --token-file token\n",
    .options = options,
    .words_min = 1,
    .words_max = 1,
    .run = run,
};
