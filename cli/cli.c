#include "cli/cli.h"

#include "cli/clientconf.h"
#include "cli/patience.h"
#include "lib/pure/errline.h"
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

enum { REQUEST_MS = 60000 }; // longer than any blocking query is held

/* A scheduler whose supervisor is not known here: if it is started again, that takes 0.3 s. */
#define UNKNOWN_US INT64_C(500000)

static const struct option common[] = {
    {0,                                    "json", NULL, "print JSON"},
    {'q',                                "quiet", NULL, "print the result and nothing else"},
    {0,                                    "utc", NULL, "times as 2026-11-23T13:11:40.102Z"},
    {0,"server", "URL", "the scheduler: http://HOST:PORT or unix:/PATH"},
    {'y', "yes", NULL, "do not ask"},
    {'h',                                    "help", NULL, "this text"},
    {0                               },
};

const struct option *cli_common_options(void) {
    return common;
}

static void print_options(const struct option *options) {
    for (const struct option *o = options; o && o->name; o++) {
        char left[64];
        (void)snprintf(left, sizeof left, "%c%c%s --%s%s%s", o->letter ? '-' : ' ',
                       o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name,
                       o->arg ? " " : "", o->arg ? o->arg : "");
        printf("  %-28s %s\n", left, o->help);
    }
}

static void print_help(const struct verb *verb) {
    printf("hai %s: %s\n\nusage: hai %s [options]%s%s\n", verb->name, verb->help, verb->name,
           verb->args[0] ? " " : "", verb->args);
    if (verb->detail)
        printf("\n%s\n", verb->detail);
    printf("\noptions:\n");
    print_options(verb->options);
    print_options(verb->more);
    print_options(common);
    if (verb->examples)
        printf("\nexamples:\n%s", verb->examples);
}

static const struct option *find_in(const struct option *options, const char *name, size_t n,
                                    char letter) {
    for (const struct option *o = options; o && o->name; o++)
        if (letter ? o->letter == letter : strlen(o->name) == n && memcmp(o->name, name, n) == 0)
            return o;
    return NULL;
}

static const struct option *find_option(const struct verb *verb, const char *name, size_t n,
                                        char letter) {
    const struct option *tables[] = {verb->options, verb->more, common};
    const struct option *found = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(tables) && !found; i++)
        found = find_in(tables[i], name, n, letter);
    return found;
}

static int unknown_option(const struct cli *cli, const char *name, size_t n) {
    const struct option *tables[] = {cli->verb->options, cli->verb->more, common};
    _cleanup_free_ char *word = hai_strndup(name, n);
    const char *nearest = NULL;
    int best = INT_MAX;

    for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
        for (const struct option *o = tables[i]; o && o->name; o++)
            if (hai_nearer(word, o->name, &best))
                nearest = o->name;
    cli_usage(cli, "unknown option '--%s'%s%s%s", word, nearest ? "; did you mean '--" : "",
              nearest ? nearest : "", nearest ? "'?" : "");
    return -EINVAL;
}

static void add_value(struct cli *cli, const struct option *option, const char *value) {
    cli->values[cli->n_values++] = (struct cli_value){option, value};
    if (strcmp(option->name, "json") == 0)
        cli->json = true;
    else if (strcmp(option->name, "quiet") == 0)
        cli->quiet = true;
    else if (strcmp(option->name, "utc") == 0)
        cli->utc = true;
    else if (strcmp(option->name, "yes") == 0)
        cli->yes = true;
    else if (strcmp(option->name, "server") == 0)
        cli->server = value;
}

static int parse_long(struct cli *cli, const char *text, int left, char **argv) {
    size_t n = strcspn(text, "=");
    const struct option *o = find_option(cli->verb, text, n, 0);

    if (!o)
        return unknown_option(cli, text, n);
    if (!o->arg && text[n]) {
        cli_usage(cli, "--%s takes no value", o->name);
        return -EINVAL;
    }
    if (o->arg && !text[n] && left < 1) {
        cli_usage(cli, "--%s needs a value: --%s %s", o->name, o->name, o->arg);
        return -EINVAL;
    }
    bool next = o->arg && !text[n];
    add_value(cli, o, !o->arg ? NULL : next ? argv[0] : text + n + 1);
    return next ? 1 : 0;
}

/* -n2, -n 2, -qf; returns how many further arguments were taken. */
static int parse_short(struct cli *cli, const char *text, int left, char **argv) {
    for (; *text; text++) {
        const struct option *o = find_option(cli->verb, NULL, 0, *text);
        if (!o) {
            cli_usage(cli, "unknown option '-%c'", *text);
            return -EINVAL;
        }
        if (!o->arg) {
            add_value(cli, o, NULL);
            continue;
        }
        if (text[1]) {
            add_value(cli, o, text + 1);
            return 0;
        }
        if (left < 1) {
            cli_usage(cli, "-%c needs a value: -%c %s", o->letter, o->letter, o->arg);
            return -EINVAL;
        }
        add_value(cli, o, argv[0]);
        return 1;
    }
    return 0;
}

/* -5 is a word, and a wrong one: no option is a digit. */
static bool is_number(const char *text) {
    return strspn(text, "0123456789") == strlen(text);
}

static int check_words(struct cli *cli) {
    const struct verb *verb = cli->verb;
    const char *space = verb->args[0] ? " " : "";

    if (cli->n_words < verb->words_min)
        cli_usage(cli, "too few arguments; usage: hai %s%s%s", verb->name, space, verb->args);
    else if (verb->words_max >= 0 && cli->n_words > verb->words_max)
        cli_usage(cli, "unexpected argument '%s'; usage: hai %s%s%s", cli->words[verb->words_max],
                  verb->name, space, verb->args);
    else if (cli->has_rest && !verb->rest)
        cli_usage(cli, "'--' is not expected; usage: hai %s%s%s", verb->name, space, verb->args);
    else
        return 0;
    return -EINVAL;
}

int cli_parse(struct cli *cli, const struct verb *verb, int argc, char **argv) {
    cli->verb = verb;
    cli->values = hai_new_array(struct cli_value, (size_t)argc * 8 + 256);
    cli->words = hai_new_array(const char *, (size_t)argc + 1);
    size_t room = (size_t)argc * 8 + 256;
    // Known before the rest is read, so that a mistake in front of it is told in JSON as well.
    for (int i = 0; i < argc && !verb->literal && strcmp(argv[i], "--") != 0; i++)
        cli->json |= strcmp(argv[i], "--json") == 0;
    for (int i = 0; i < argc; i++) {
        char *text = argv[i];
        int r = 0;
        if (strlen(text) + (size_t)cli->n_values >= room) {
            cli_usage(cli, "too many options");
            return -EINVAL;
        }
        if (strcmp(text, "--") == 0) {
            cli->has_rest = true;
            cli->rest = argv + i + 1;
            cli->n_rest = argc - i - 1;
            break;
        }
        if (verb->literal && cli->n_words)
            cli->words[cli->n_words++] = text;
        else if (strncmp(text, "--", 2) == 0)
            r = parse_long(cli, text + 2, argc - i - 1, argv + i + 1);
        else if (text[0] == '-' && text[1] && !is_number(text + 1))
            r = parse_short(cli, text + 1, argc - i - 1, argv + i + 1);
        else
            cli->words[cli->n_words++] = text;
        if (r < 0)
            return r;
        i += r;
        if (cli_has(cli, "help")) {
            print_help(verb);
            return 1;
        }
    }
    return check_words(cli);
}

void cli_free(struct cli *cli) {
    http_sync_close(cli->http);
    free(cli->values);
    free(cli->words);
    free(cli->server_url);
    free(cli->server_from);
    free(cli->token);
}

const char *cli_option(const struct cli *cli, const char *name) {
    for (int i = cli->n_values; i > 0; i--)
        if (strcmp(cli->values[i - 1].option->name, name) == 0)
            return cli->values[i - 1].value;
    return NULL;
}

bool cli_has(const struct cli *cli, const char *name) {
    for (int i = 0; i < cli->n_values; i++)
        if (strcmp(cli->values[i].option->name, name) == 0)
            return true;
    return false;
}

int cli_number(const struct cli *cli, const char *name, int64_t min, int64_t max, int64_t fallback,
               int64_t *ret) {
    const char *text = cli_option(cli, name);
    char *end = NULL;

    *ret = fallback;
    if (!text)
        return 0;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (!*text || *end || errno || value < min || value > max) {
        cli_usage(cli, "--%s is '%s'; expected a whole number from %lld to %lld", name, text,
                  (long long)min, (long long)max);
        return -EINVAL;
    }
    *ret = value;
    return 0;
}

/* Messages */

static int exit_of(int r) {
    switch (r) {
    case -EACCES:
        return CLI_NOT_ALLOWED;
    case -ENOENT:
        return CLI_NOT_FOUND;
    case -EHOSTDOWN:
        return CLI_NO_ANSWER;
    case -EINVAL:  // what the scheduler refuses about a request stood on the command line
    case -EFBIG:   // or in a file
    case -EBADMSG: // a file of the user's
        return CLI_USAGE;
    default:
        return CLI_FAILED;
    }
}

static void print_error(const struct cli *cli, const struct hai_err *err) {
    char line[ERRLINE_BYTES];

    if (cli && cli->json) {
        _cleanup_(json_freep) struct json *reply = json_new_object();
        struct json *error = json_add(reply, "error", json_new_object());
        _cleanup_(buf_free) struct buf text = {0};
        json_add_string(error, "code", err->code[0] ? err->code : "failed");
        json_add_string(error, "message", hai_err_text(err));
        json_add_string(error, "where", err->where[0] ? err->where : NULL);
        json_add_string(error, "hint", err->hint[0] ? err->hint : NULL);
        json_dump(reply, 0, &text);
        fprintf(stderr, "%s\n", buf_cstr(&text));
        return;
    }
    fprintf(stderr, "hai: %s%s%s\n", errline_text(err, line), err->hint[0] ? "; " : "", err->hint);
}

/* Is that the option's own word, or the last one of a path like resources.gpus_per_node? */
static bool is_field(const char *option, const char *field, size_t n) {
    const char *dot = memrchr(field, '.', n);
    size_t n_path = dot ? (size_t)(dot + 1 - field) : 0;

    if (strlen(option) != n - n_path)
        return false;
    for (size_t i = 0; option[i]; i++)
        if (option[i] != field[n_path + i] && !(option[i] == '-' && field[n_path + i] == '_'))
            return false;
    return true;
}

/* The scheduler blames the field; who gave an option for it knows it by that. */
static void name_option(const struct cli *cli, struct hai_err *err) {
    const char *is = strstr(hai_err_text(err), " is ");
    const char *field = err->where[0] ? err->where : hai_err_text(err);
    size_t n = err->where[0] ? strlen(field) : is ? (size_t)(is - field) : 0;

    for (int i = 0; n && i < cli->n_values; i++)
        if (cli->values[i].option->arg && is_field(cli->values[i].option->name, field, n)) {
            (void)snprintf(err->where, sizeof err->where, "--%s", cli->values[i].option->name);
            return;
        }
}

int cli_fail(const struct cli *cli, int r, const struct hai_err *err) {
    struct hai_err named = *err;

    name_option(cli, &named);
    fflush(stdout);
    print_error(cli, &named);
    return exit_of(r);
}

int cli_fail_of_job(const struct cli *cli, int r, const struct hai_err *err) {
    int status = cli_fail(cli, r, err);

    return status == CLI_FAILED ? CLI_JOB_LOST : status;
}

int cli_usage(const struct cli *cli, const char *format, ...) {
    struct hai_err err = {0};
    char text[HAI_ERR_TEXT_BYTES];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    hai_fail_at(&err, -EINVAL, "usage", cli && cli->verb ? cli->verb->name : NULL, NULL, "%s",
                text);
    print_error(cli, &err);
    return CLI_USAGE;
}

void cli_note(const struct cli *cli, const char *format, ...) {
    va_list ap;

    if (cli->quiet || cli->json)
        return;
    fflush(stdout);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

bool cli_confirm(const struct cli *cli, const char *format, ...) {
    char answer[16] = "";
    va_list ap;

    if (cli->yes)
        return true;
    fflush(stdout);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    if (!isatty(STDIN_FILENO)) {
        fprintf(stderr, " no: there is no terminal to ask on; -y says yes\n");
        return false;
    }
    fprintf(stderr, " (y/N) ");
    return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

/* Requests */

int cli_connect(struct cli *cli, struct hai_err *err) {
    struct clientconf config = {0};

    if (cli->http)
        return 0;
    int r = clientconf_read(cli->server, &config, err);
    if (r == 0)
        r = http_sync_open(config.server, config.token, &cli->http, err);
    if (r == -EINVAL)
        r = -EBADMSG; // the configuration is the user's file
    if (r == 0) {
        cli->server_url = TAKE_PTR(config.server);
        cli->server_from = TAKE_PTR(config.from);
        cli->token = TAKE_PTR(config.token);
    }
    clientconf_free(&config);
    return r;
}

int cli_connect_more(struct cli *cli, struct http_sync **ret, struct hai_err *err) {
    int r = cli_connect(cli, err);

    return r < 0 ? r : http_sync_open(cli->server_url, cli->token, ret, err);
}

int cli_no_answer(const struct cli *cli, int r, struct hai_err *err) {
    char text[128];

    (void)snprintf(text, sizeof text, "%s", err && err->text[0] ? err->text : strerrordesc_np(-r));
    return hai_fail_at(err, -EHOSTDOWN, "no_answer", NULL,
                       "hai up starts a cluster here; hai doctor looks for the fault",
                       "no answer from the scheduler at %s: %s", cli->server_url, text);
}

int cli_reply_error(const struct http_sync_reply *reply, struct hai_err *err) {
    static const struct {
        int status;
        int r;
    } map[] = {
        {400, -EINVAL   },
        {401, -EACCES   },
        {403, -EACCES   },
        {404, -ENOENT   },
        {409, -EEXIST   },
        {413, -EFBIG    },
        {503, -EHOSTDOWN},
    };
    _cleanup_(json_freep) struct json *body = NULL;
    int r = -EPROTO;

    if (reply->status < 400)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(map); i++)
        if (map[i].status == reply->status)
            r = map[i].r;
    if (json_parse(reply->body.data, reply->body.n_bytes, NULL, &body, NULL) < 0 ||
        !json_get(body, "error"))
        return hai_fail(err, r, "the scheduler answered with status %d", reply->status);
    const struct json *error = json_get(body, "error");
    return hai_fail_at(err, r, json_get_string(error, "code", NULL),
                       json_get_string(error, "where", NULL), json_get_string(error, "hint", NULL),
                       "%s", json_get_string(error, "message", "the request failed"));
}

/* How long a request that failed is worth asking again.
 *
 * keyed  it carries an idempotency key: however often it is sent, it is done once
 * met    a scheduler was there since this request began, or shortly before
 */
static int64_t worth_us(const struct cli *cli, const char *method, bool keyed, bool met, int r) {
    bool refused = r == -ECONNREFUSED || r == -ENOENT; // nobody listens: it was not sent
    bool reads = strcmp(method, "GET") == 0;

    if (keyed && met)
        return PATIENCE_US;
    if (!refused && !(reads && r == -ECONNRESET))
        return 0;
    return patience_supervised(cli->server_url, cli->server_from) ? PATIENCE_US
           : reads                                                ? UNKNOWN_US
                                                                  : 0;
}

int cli_ask_raw(struct cli *cli, const char *method, const char *target, const char *headers,
                const char *body, size_t n_bytes, struct http_sync_reply *ret,
                struct hai_err *err) {
    struct http_sync_reply reply = {0};
    struct patience patience = {0};
    bool keyed = headers && strstr(headers, "Idempotency-Key:");
    int64_t enough_us;
    int sent;

    int r = cli_connect(cli, err);
    if (r < 0)
        return r;
    bool met = http_sync_fd(cli->http) >= 0;
    do {
        http_sync_reply_free(&reply);
        sent = http_sync_ask(cli->http, method, target, headers, body, n_bytes, REQUEST_MS, &reply,
                             err);
        met = met || (sent != -ECONNREFUSED && sent != -ENOENT);
        if (sent == 0 && !(keyed && reply.status == 503))
            break;
        enough_us = worth_us(cli, method, keyed, met, sent);
    } while (enough_us && patience_wait(&patience, enough_us, cli->quiet || cli->json));
    if (sent < 0)
        return cli_no_answer(cli, sent, err);
    r = cli_reply_error(&reply, err);
    if (r < 0)
        http_sync_reply_free(&reply);
    else
        *ret = reply;
    return r;
}

int cli_ask(struct cli *cli, const char *method, const char *target, const char *headers,
            const char *body, struct json **ret, struct hai_err *err) {
    _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};

    int r = cli_ask_raw(cli, method, target, headers, body, body ? strlen(body) : 0, &reply, err);
    if (r < 0 || !ret)
        return r;
    r = json_parse(reply.body.data, reply.body.n_bytes, NULL, ret, err);
    if (r < 0)
        return hai_fail(err, -EPROTO, "the scheduler's answer is not JSON");
    return 0;
}

void cli_print_json(const struct json *value) {
    _cleanup_(buf_free) struct buf text = {0};

    json_dump(value, 2, &text);
    fwrite(text.data, 1, text.n_bytes, stdout);
}

void cli_job_target(const char *job, const char *suffix, struct buf *ret) {
    buf_add_str(ret, "/api/v1/jobs/");
    http_sync_encode(job ? job : "last", ret);
    buf_add_str(ret, suffix);
}
