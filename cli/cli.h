/* cli.h - what every verb of `hai` shares: its description, its parsed arguments, exit statuses,
 * messages and requests to the scheduler.
 *
 * A verb is one file cli/verb_NAME.c with one `struct verb`; cli/hai.c lists them. Results go to
 * stdout, everything else to stderr (docs/scripts.md).
 */
#pragma once
#include "lib/json.h"
#include "wire/http_sync.h"

/* Exit statuses of hai itself; run, wait, attach and logs -f also give the job's. */
enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2, // command line or file
    CLI_NOT_FOUND = 3,
    CLI_NOT_ALLOWED = 4,
    CLI_NO_ANSWER = 5,
    CLI_JOB_TIME_LIMIT = 124,
    CLI_JOB_LOST = 125, // hai itself failed while it held the job's end in its hands
    CLI_SIGNAL = 128,   // plus the signal
    CLI_INTERRUPTED = 130,
    CLI_JOB_STOPPED = 143,
};

/* arg NULL: a switch. hidden options are understood but not shown. */
struct option {
    char letter; // 0: none
    const char *name;
    const char *arg;
    const char *help;
};

struct cli;

struct verb {
    const char *name;
    const char *group;  // heading of `hai --help`
    const char *args;   // after the options in its usage line
    const char *help;   // one line
    const char *detail; // more paragraphs of its --help; may be NULL
    const char *examples;
    const struct option *options; // ends with {0}; NULL: none but the common ones
    const struct option *more;    // a second table, e.g. the job options; may be NULL
    int words_min, words_max;     // -1: any number
    bool rest;                    // takes `-- ...`
    bool literal;                 // options after the first word are words (they are the job's)
    bool hidden;                  // not in `hai --help`
    int (*run)(struct cli *cli);  // returns the exit status
};

struct cli_value {
    const struct option *option;
    const char *value;
};

struct cli {
    const struct verb *verb;
    struct cli_value *values;
    int n_values;
    const char **words; // arguments that are no options
    int n_words;
    char **rest; // after `--`
    int n_rest;
    bool has_rest;
    bool json, quiet, utc, yes;
    const char *server;
    char *server_url; // after the configuration was read
    char *server_from;
    char *token;
    struct http_sync *http;
};

/* Parse what follows the verb. Returns 0, -EINVAL (told already) or 1: --help was printed. */
int cli_parse(struct cli *cli, const struct verb *verb, int argc, char **argv);
void cli_free(struct cli *cli);

/* The options that every verb has. */
const struct option *cli_common_options(void);

/* The last value of an option, or NULL; whether a switch was given. */
const char *cli_option(const struct cli *cli, const char *name);
bool cli_has(const struct cli *cli, const char *name);

/* The option's value as a whole number within bounds, or fallback. Tells the error; -EINVAL. */
int cli_number(const struct cli *cli, const char *name, int64_t min, int64_t max, int64_t fallback,
               int64_t *ret);

/* Print an error ("hai: WHERE: TEXT; HINT", or a JSON object with --json) and return the exit
 * status that belongs to r: the errno values of cli_ask below. */
int cli_fail(const struct cli *cli, int r, const struct hai_err *err);

/* The same in verbs that end with a job's code, where 1 would be taken for the job's own:
 * CLI_JOB_LOST in its place. */
int cli_fail_of_job(const struct cli *cli, int r, const struct hai_err *err);

/* The same for a mistake on the command line: always CLI_USAGE. */
int cli_usage(const struct cli *cli, const char *format, ...) _printf_(2, 3);

/* A line for people on stderr; not with -q. */
void cli_note(const struct cli *cli, const char *format, ...) _printf_(2, 3);

/* Print "(y/N)" and read the answer. With -y true at once; without a terminal false, and a message
 * that names -y. */
bool cli_confirm(const struct cli *cli, const char *format, ...) _printf_(2, 3);

/* Open the connection by configuration. 0 or -EINVAL, -EACCES. */
int cli_connect(struct cli *cli, struct hai_err *err);

/* One more connection to the same scheduler, the caller's. */
int cli_connect_more(struct cli *cli, struct http_sync **ret, struct hai_err *err);

/* Ask the scheduler and parse its JSON answer.
 *
 * body  JSON text or NULL; POST when method is "POST"
 * ret   the parsed answer, NULL: not wanted
 *
 * Errors: -EINVAL (400), -EACCES (401, 403), -ENOENT (404), -EEXIST (409), -EFBIG (413), -EHOSTDOWN
 * (503 or no answer), -EPROTO.
 */
int cli_ask(struct cli *cli, const char *method, const char *target, const char *headers,
            const char *body, struct json **ret, struct hai_err *err);

/* The same with the raw answer, and the error of an answer that has come otherwise. */
int cli_ask_raw(struct cli *cli, const char *method, const char *target, const char *headers,
                const char *body, size_t n_bytes, struct http_sync_reply *ret, struct hai_err *err);
int cli_reply_error(const struct http_sync_reply *reply, struct hai_err *err);

/* An error of the connection itself, with the server's address and what to do. */
int cli_no_answer(const struct cli *cli, int r, struct hai_err *err);

/* Print an answer as it is for --json: one value, indented, and a line feed. */
void cli_print_json(const struct json *value);

/* Append "/api/v1/jobs/JOB" with JOB encoded; NULL: the last submitted job. */
void cli_job_target(const char *job, const char *suffix, struct buf *ret);
