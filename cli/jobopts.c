#include "cli/jobopts.h"

#include "lib/fileio.h"
#include "lib/timefmt.h"
#include "wire/jobfile.h"
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

/* The minute that is written as 14:18 lasts so long. */
#define PAST_US INT64_C(60000000)

const struct option jobopts_table[] = {
    {'n',                                                "nodes", "N", "nodes"},
    {0,                                               "gpus-per-node", "N", "GPUs on each node; 0: a CPU job"},
    {0,                                                  "cpus", "N", "CPU cores on each node"},
    {0,"memory", "SIZE", "memory on each node, such as 80GiB"},
    {0,                 "ranks", "R", "per-gpu, per-node or a number a node"},
    {'p',                                                  "priority", "P", "50 40 30 20 10 8 5 0 or auto; higher goes first"},
    {'g',                                               "group", "GROUP", "which nodes"},
    {'e',                                                  "env", "K=V", "environment; may be given again"},
    {0,                                                      "name", "NAME", "the job's name"},
    {0,              "workdir", "DIR", "directory on the nodes; default: this one"},
    {0,                                                  "time-limit", "T", "run time at most, such as 6h"},
    {0,                                               "cross-zones", NULL, "one run may span zones"},
    {0,                                                  "reservation", "NAME", "run on the nodes of this reservation"},
    {'f',"follow", NULL, "stay, show the output, end with the job's code"},
    {0, "after", "JOB",
     "start when that job succeeded; any:JOB ended, failed:JOB failed; may be given again"},
    {0,                                                "singleton", NULL, "one job of this name at a time, earlier ones first"},
    {0,                                           "begin", "T", "start no earlier: 18:00, '2026-11-23 18:00' or a delay such as 2h"},
    {0,                                                  "array", "0-99%8", "one job for each index, at most 8 at once: an array"},
    {0},
};

static const struct {
    const char *option, *field;
} fields[] = {
    {"nodes",         "resources.nodes"        },
    {"gpus-per-node", "resources.gpus_per_node"},
    {"cpus",          "resources.cpus"         },
    {"memory",        "resources.memory"       },
    {"ranks",         "resources.ranks"        },
    {"priority",      "priority"               },
    {"group",         "resources.group"        },
    {"name",          "name"                   },
    {"workdir",       "workdir"                },
    {"time-limit",    "time_limit"             },
    {"begin",         "not_before"             },
    {"array",         "array"                  },
    {"reservation",   "resources.reservation"  },
};

/* -e K=V: replaces a variable of the file, else is one more. */
static int apply_env(struct cli *cli, struct job_spec *spec, const char *text) {
    const char *equals = strchr(text, '=');
    static const char others[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";

    if (!equals || equals == text || strspn(text, others) != (size_t)(equals - text) ||
        (text[0] >= '0' && text[0] <= '9')) {
        cli_usage(cli, "--env is '%s'; expected NAME=VALUE", text);
        return -EINVAL;
    }
    size_t n = (size_t)(equals - text);
    for (size_t i = 0; i < spec->env.n; i++)
        if (strncmp(spec->env.items[i].key, text, n) == 0 && !spec->env.items[i].key[n]) {
            hai_strset(&spec->env.items[i].value, equals + 1);
            return 0;
        }
    *LIST_ADD(&spec->env) = (struct schema_pair){hai_strndup(text, n), hai_strdup(equals + 1)};
    return 0;
}

/* --after [ok:|any:|failed:]JOB: one more than the file has. */
static int apply_after(struct cli *cli, struct job_spec *spec, const char *text) {
    const char *colon = strchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    const char *job = colon ? colon + 1 : text;
    __typeof__(spec->after.ok) *list = NULL;

    if (!colon || strncmp(text, "ok:", 3) == 0)
        list = &spec->after.ok;
    else if (n == 3 && strncmp(text, "any", n) == 0)
        list = (void *)&spec->after.any;
    else if (n == 6 && strncmp(text, "failed", n) == 0)
        list = (void *)&spec->after.failed;
    if (!list || !*job || strlen(job) > JOB_NAME_MAX) {
        cli_usage(cli, "--after is '%.80s'; expected JOB, any:JOB or failed:JOB", text);
        return -EINVAL;
    }
    if (list->n >= AFTER_MAX) {
        cli_usage(cli, "--after %.80s is one too many; expected at most %d", text, AFTER_MAX);
        return -EINVAL;
    }
    *LIST_ADD(list) = hai_strdup(job);
    return 0;
}

/* A start in the past is no start to wait for. It is not refused: a file may be submitted again. */
static void warn_past(const struct cli *cli, const struct job_spec *spec) {
    int64_t now_us = timefmt_now_us(), at_us;
    char at[TIMEFMT_ISO_BYTES];

    if (!spec->not_before || timefmt_iso_parse(spec->not_before, &at_us) < 0 ||
        at_us > now_us - PAST_US)
        return;
    timefmt_local(at_us, now_us, cli->utc, at);
    cli_note(cli, "hai: %s is %s, which is past: the job does not wait for it",
             cli_has(cli, "begin") ? "--begin" : "not_before", at);
}

int jobopts_apply(struct cli *cli, struct job_spec *spec) {
    struct hai_err err = {0};

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        const char *value = cli_option(cli, fields[i].option);
        char where[64];
        if (!value)
            continue;
        (void)snprintf(where, sizeof where, "--%s", fields[i].option);
        if (jobfile_set(spec, fields[i].field, value, where, &err) < 0) {
            (void)cli_fail(cli, -EBADMSG, &err);
            return -EINVAL;
        }
    }
    for (int i = 0; i < cli->n_values; i++)
        if (strcmp(cli->values[i].option->name, "env") == 0 &&
            apply_env(cli, spec, cli->values[i].value) < 0)
            return -EINVAL;
        else if (strcmp(cli->values[i].option->name, "after") == 0 &&
                 apply_after(cli, spec, cli->values[i].value) < 0)
            return -EINVAL;
    spec->after.singleton |= cli_has(cli, "singleton");
    spec->resources.cross_zones |= cli_has(cli, "cross-zones");
    if (jobfile_check(spec, &err) < 0) {
        (void)cli_fail(cli, -EBADMSG, &err);
        return -EINVAL;
    }
    warn_past(cli, spec);
    return 0;
}

/* Make a relative directory absolute below base. */
static void make_absolute(char **path, const char *base) {
    if (*path && (*path)[0] != '/') {
        char *joined = hai_asprintf("%s/%s", base, *path);
        free(*path);
        *path = joined;
    }
}

void jobopts_defaults(struct job_spec *spec, const char *source) {
    char here[PATH_MAX];

    if (!spec->name)
        spec->name = jobfile_name_from(source);
    if (!getcwd(here, sizeof here))
        return;
    if (!spec->workdir)
        spec->workdir = hai_strdup(here);
    make_absolute(&spec->workdir, here);
    make_absolute(&spec->checkpoint.dir, spec->workdir);
}

void jobopts_of_command(char *const *words, int n_words, struct job_spec *ret) {
    schema_init(job_spec_schema(), ret);
    ret->version = 3;
    for (int i = 0; i < n_words; i++)
        *LIST_ADD(&ret->command) = hai_strdup(words[i]);
}

static void print_errors(struct cli *cli, struct jobfile_errors *errors) {
    for (size_t i = 0; i < errors->n; i++)
        (void)cli_fail(cli, -EBADMSG, &errors->items[i]);
    jobfile_errors_free(errors);
}

static int read_jobs(struct cli *cli, struct jobfile *file, const char *path,
                     int (*take)(void *context, struct job_spec *spec), void *context) {
    struct jobfile_errors errors = {0};
    int n_jobs = 0;
    bool bad = false;

    for (;;) {
        struct job_spec spec;
        int r = jobfile_next(file, &spec, &errors);
        print_errors(cli, &errors);
        if (r == 0)
            break;
        bad |= r < 0;
        if (r == -EBADMSG)
            break;
        if (r < 0)
            continue;
        if (jobopts_apply(cli, &spec) < 0) {
            schema_free(job_spec_schema(), &spec);
            return -EINVAL;
        }
        if (bad) { // look on for errors only
            schema_free(job_spec_schema(), &spec);
            continue;
        }
        jobopts_defaults(&spec, strcmp(path, "-") == 0 ? "job" : path);
        n_jobs++;
        r = take(context, &spec);
        if (r < 0)
            return r;
    }
    if (bad)
        return -EINVAL;
    if (n_jobs == 0) {
        cli_usage(cli, "%s: no job in it; hai example prints one", path);
        return -EINVAL;
    }
    return n_jobs;
}

int jobopts_read_file(struct cli *cli, const char *path,
                      int (*take)(void *context, struct job_spec *spec), void *context) {
    _cleanup_(jobfile_closep) struct jobfile *file = NULL;
    _cleanup_(closep) int fd = -1;
    struct stat st;

    if (strcmp(path, "-") == 0) {
        file = jobfile_of_fd(STDIN_FILENO, "stdin");
        return read_jobs(cli, file, path, take, context);
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        cli_usage(cli, "%s: %s", path, strerrordesc_np(errno));
        return -EINVAL;
    }
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        cli_usage(cli, "%s: a directory; expected a job file", path);
        return -EINVAL;
    }
    file = jobfile_of_fd(fd, path);
    return read_jobs(cli, file, path, take, context);
}
