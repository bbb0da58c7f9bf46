/* hai-chat - talk with a model in the terminal: `hai chat MODEL`. */
#include "jobs/answer.h"
#include "jobs/engineargs.h"
#include "jobs/jobexit.h"
#include "jobs/modelargs.h"
#include "jobs/promptline.h"
#include "jobs/talk.h"

#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define NAME "hai-chat"

static const char usage[] =
    "usage: hai chat MODEL [options]\n"
    "Talk with the model in folder MODEL. Ctrl-C stops an answer, Ctrl-D or /exit leaves. A line\n"
    "that ends with \\ goes on in the next. Without a terminal: a message a line on stdin, the\n"
    "answers on stdout.\n"
    "  --system TEXT      what the model is told before all else\n"
    "  --load FILE        go on with a conversation that /save wrote\n"
    "  --think on|off     for models that can do both\n"
    "  --form NAME        llm, coder, v3, r1 or v31 instead of the model's own template\n"
    "  --max-tokens N     of an answer (default 2048)\n"
    "  --stats            after each answer, on stderr: tokens, how many came from the cache, "
    "time\n"
    "  --json             answers as JSON objects, one a line\n"
    "  -q, --quiet        no greeting\n"
    "  --temperature T    0: the likeliest token each time (default 0.6)\n"
    "  --top-p P          default 0.95; also --seed, --top-k, --min-p, --repeat-penalty,\n"
    "                     --frequency-penalty, --presence-penalty, --stop as in "
    "hai-generate\n" ENGINEARGS_PLACE_USAGE ENGINEARGS_USAGE;

static const char commands[] =
    "/clear             forget what was said\n"
    "/system TEXT       set the system's message and begin anew; without TEXT there is none\n"
    "/retry             answer the last question again, with another seed\n"
    "/save FILE         write the conversation; /load FILE goes on with it\n"
    "/set NAME VALUE    temperature, top_p, top_k, min_p, seed, repeat_penalty, max_tokens, ...\n"
    "/think on|off      for models that can do both\n"
    "/help  /exit       a message that begins with / is written with //\n";

struct chatter {
    const char *model, *system, *load, *form;
    bool json, stats, quiet, terminal, failed;
    struct engine_options engine;
    struct talk_options options;
    struct talk *talk;
};

/* Set by Ctrl-C. In a terminal SIGINT is let in only while an answer comes or a line is waited for:
 * elsewhere it stays pending, so that none falls between two looks. */
static volatile int interrupted;

static void on_interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

static void let_in(const struct chatter *c, bool in) {
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    if (c->terminal)
        sigprocmask(in ? SIG_UNBLOCK : SIG_BLOCK, &set, NULL);
}

/* Wait until there is something to read. Returns whether Ctrl-C came first. */
static bool wait_line(const struct chatter *c) {
    struct pollfd in = {STDIN_FILENO, POLLIN, 0};
    sigset_t set;

    if (!c->terminal)
        return false;
    sigprocmask(SIG_BLOCK, NULL, &set);
    sigdelset(&set, SIGINT);
    return ppoll(&in, 1, NULL, &set) < 0 && errno == EINTR;
}

static void complain(struct chatter *c, const struct hai_err *err) {
    fprintf(stderr, "%s: %s%s%s\n", NAME, err->where, err->where[0] ? ": " : "", hai_err_text(err));
    c->failed = true;
}

static void print_piece(void *userdata, const char *text, size_t n_bytes) {
    const struct chatter *c = userdata;

    if (c->json)
        return;
    fwrite(text, 1, n_bytes, stdout);
    fflush(stdout);
}

static void print_json(const struct talk_answer *a) {
    _cleanup_(buf_free) struct buf line = {0};

    buf_add_str(&line, "{\"text\": ");
    json_dump_string((const char *)a->text.data, a->text.n_bytes, &line);
    buf_add_str(&line, ", ");
    answer_dump_usage(a->end, a->n_prompt, a->n_hit, a->n_new, &line);
    buf_add_u8(&line, '}');
    puts(buf_cstr(&line));
}

/* Ask, or with NULL ask again. */
static void ask(struct chatter *c, const char *text) {
    struct talk_answer a = {0};
    struct hai_err err = {0};

    let_in(c, true); // one that came since the line was read stops this answer

    int r = talk_ask(c->talk, text, &c->options, print_piece, c, &interrupted, &a, &err);
    let_in(c, false);
    if (r < 0) {
        complain(c, &err);
        return;
    }
    if (c->json)
        print_json(&a);
    else
        putchar('\n');
    fflush(stdout);
    if (c->terminal && a.end == BATCHER_END_CANCELLED)
        fprintf(stderr, "[stopped]\n");
    if (c->stats)
        fprintf(stderr,
                "[%d prompt tokens, %d of them from the cache; first token after %.2f s; %d new "
                "tokens, %.1f/s]\n",
                a.n_prompt, a.n_hit, a.first_s, a.n_new, a.new_s > 0 ? (a.n_new - 1) / a.new_s : 0);
    buf_free(&a.text);
}

static int set_think(const char *word, enum chat_thinking *ret) {
    bool on = hai_streq(word, "on");

    if (!on && !hai_streq(word, "off"))
        return -EINVAL;
    *ret = on ? CHAT_THINKING_ON : CHAT_THINKING_OFF;
    return 0;
}

/* "NAME VALUE" */
static int set_value(struct chatter *c, char *rest, struct hai_err *err) {
    size_t n_name = strcspn(rest, " =");
    char *value = rest + n_name, *end;

    if (*value)
        *value++ = '\0';
    value += strspn(value, " =");
    double x = strtod(value, &end);
    if (end == value || *end)
        return hai_fail(err, -EINVAL, "/set NAME VALUE: the value is '%.40s'; expected a number",
                        value);
    if (hai_streq(rest, "max_tokens") || hai_streq(rest, "max-tokens")) {
        if (!(x >= 1 && x <= PROMPTLINE_NEW_MAX))
            return hai_fail(err, -EINVAL, "max_tokens is %s; expected at least 1", value);
        c->options.n_new_max = (int64_t)x;
        return 0;
    }
    int r = sampleargs_number(&c->options.sample, rest, x, err);
    return r == -ENOENT ? hai_fail(err, -EINVAL, "/set: nothing is called '%.40s'", rest) : r;
}

/* A line that begins with /. Returns 1 to leave, 0, or a negative errno. */
static int command(struct chatter *c, char *line, struct hai_err *err) {
    size_t n_word = strcspn(line, " ");
    char *rest = line + n_word;

    if (*rest)
        *rest++ = '\0';
    rest += strspn(rest, " ");
    if (hai_streq(line, "/exit") || hai_streq(line, "/quit"))
        return 1;
    if (hai_streq(line, "/help"))
        fputs(commands, stderr);
    else if (hai_streq(line, "/clear"))
        talk_clear(c->talk);
    else if (hai_streq(line, "/system"))
        return talk_system(c->talk, rest, err);
    else if (hai_streq(line, "/set"))
        return set_value(c, rest, err);
    else if (hai_streq(line, "/think")) {
        if (set_think(rest, &c->options.thinking) < 0)
            return hai_fail(err, -EINVAL, "/think '%.40s'; expected on or off", rest);
    } else if (hai_streq(line, "/save") || hai_streq(line, "/load")) {
        if (!*rest)
            return hai_fail(err, -EINVAL, "%s: expected a file", line);
        return hai_streq(line, "/save") ? talk_save(c->talk, rest, err)
                                        : talk_load(c->talk, rest, err);
    } else if (hai_streq(line, "/retry")) {
        c->options.sample.options.seed++;
        ask(c, NULL);
    } else
        return hai_fail(err, -EINVAL, "unknown command '%.40s'; /help lists them", line);
    return 0;
}

/* A message, with the lines that belong to it. Returns false at the end. */
static bool read_message(struct chatter *c, struct buf *ret) {
    static char *text;
    static size_t text_max;
    bool more = true;

    buf_clear(ret);
    while (more) {
        interrupted = 0;
        if (c->terminal)
            fputs(ret->n_bytes ? ". " : "> ", stderr);
        if (wait_line(c)) {
            buf_clear(ret);
            fprintf(stderr, "\n(Ctrl-D or /exit leaves)\n");
            continue;
        }
        ssize_t n = getline(&text, &text_max, stdin);
        if (n < 0) {
            free(text);
            text = NULL;
            return ret->n_bytes;
        }
        if (n && text[n - 1] == '\n')
            n--;
        more = n && text[n - 1] == '\\';
        buf_add(ret, text, (size_t)(more ? n - 1 : n));
        if (more)
            buf_add_u8(ret, '\n');
    }
    return true;
}

static int talk(struct chatter *c) {
    _cleanup_(buf_free) struct buf line = {0};

    while (read_message(c, &line)) {
        struct hai_err err = {0};
        char *text = (char *)buf_cstr(&line);
        int r = 0;
        if (!text[strspn(text, " \t\r\n")])
            continue;
        if (strlen(text) < line.n_bytes)
            r = hai_fail(&err, -EINVAL, "a message has no zero bytes");
        else if (text[0] == '/' && text[1] != '/')
            r = command(c, text, &err);
        else
            ask(c, text + (text[0] == '/'));
        if (r < 0)
            complain(c, &err);
        if (r > 0 || ferror(stdout))
            break;
    }
    if (c->terminal)
        fputc('\n', stderr);
    return ferror(stdout) || fflush(stdout) ? -EIO : 0;
}

static int run(struct chatter *c, struct hai_err *err) {
    const struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    int r = talk_open(c->model, &c->engine, c->form, &c->talk, err);

    if (r == 0 && c->system)
        r = talk_system(c->talk, c->system, err);
    if (r == 0 && c->load)
        r = talk_load(c->talk, c->load, err);
    if (r < 0)
        return r;
    c->terminal = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    if (c->terminal)
        sigaction(SIGINT, &action, NULL);
    let_in(c, false);
    if (c->terminal && !c->quiet)
        fprintf(stderr, "%s; /help lists commands\n", c->model);
    r = talk(c);
    return r < 0 ? hai_fail(err, r, "writing to stdout failed") : 0;
}

static int set_option(int c, struct chatter *ret) {
    double x = 0;
    int status;

    switch (c) {
    case 'y':
        ret->system = optarg;
        return 0;
    case 'l':
        ret->load = optarg;
        return 0;
    case 'f':
        ret->form = optarg;
        return 0;
    case 't':
        if (set_think(optarg, &ret->options.thinking) == 0)
            return 0;
        return jobexit_usage(NAME, "--think is '%s'; expected on or off", optarg);
    case 'n':
        status = modelargs_number(NAME, "--max-tokens", optarg, 1, PROMPTLINE_NEW_MAX, true, &x);
        ret->options.n_new_max = (int64_t)x;
        return status;
    case 's':
        ret->stats = true;
        return 0;
    case 'j':
        ret->json = true;
        return 0;
    case 'q':
        ret->quiet = true;
        return 0;
    case 'e':
        ret->options.ignore_eos = true;
        return 0;
    case SAMPLEARGS_LOGPROBS:
        return jobexit_usage(NAME, "--logprobs is for hai-generate");
    case 'h':
        fputs(usage, stdout);
        exit(JOBEXIT_DONE);
    case '?':
        fputs(usage, stderr);
        return JOBEXIT_USAGE;
    default:
        return c >= ENGINEARGS_BACKEND ? engineargs_set(NAME, c, optarg, &ret->engine)
                                       : sampleargs_set(NAME, c, optarg, &ret->options.sample);
    }
}

/* 0, or the exit status after a message. */
static int parse(int argc, char **argv, struct chatter *ret) {
    static const struct option options[] = {
        {"system",           required_argument, NULL, 'y'},
        {"load",              required_argument, NULL, 'l'},
        {"form",                  required_argument, NULL, 'f'},
        {"think",required_argument, NULL, 't'},
        {"max-tokens",               required_argument, NULL, 'n'},
        {"ignore-eos",             no_argument, NULL, 'e'},
        SAMPLEARGS_OPTIONS,
        ENGINEARGS_PLACE_OPTIONS,
        ENGINEARGS_OPTIONS,
        {"stats",              no_argument, NULL, 's'},
        {"json",                  no_argument, NULL, 'j'},
        {"quiet",              no_argument, NULL, 'q'},
        {"help",               no_argument, NULL, 'h'},
        {0      },
    };
    int c;

    while ((c = getopt_long(argc, argv, "qh", options, NULL)) != -1) {
        int status = set_option(c, ret);
        if (status)
            return status;
    }
    if (optind + 1 != argc)
        return jobexit_usage(NAME, "expected one folder with a model");
    ret->model = argv[optind];
    if (strstr(ret->model, "://"))
        return jobexit_usage(
            NAME, "%s: talking with a server comes later; expected a folder with a model",
            ret->model);
    return 0;
}

int main(int argc, char **argv) {
    struct chatter c = {.engine = engineargs_defaults(), .options = {.n_new_max = 2048}};
    struct hai_err err = {0};

    c.engine.page_tokens = 16; // what is not a whole page is computed again
    c.engine.n_slots = 1;
    c.engine.n_requests_max = 1;
    sampleargs_init(&c.options.sample);
    c.options.sample.options.temperature = 0.6;
    c.options.sample.options.top_p = 0.95;
    int status = parse(argc, argv, &c);
    if (!status && run(&c, &err) < 0)
        status = jobexit_report(NAME, &err);
    if (!status && c.failed && !c.terminal)
        status = JOBEXIT_USAGE;
    talk_free(c.talk);
    return status;
}
