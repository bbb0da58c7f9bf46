/* hai-schedd - the scheduler: `hai-schedd --config F`, `--check CLUSTER.yaml`, `init ...`. */
#include "lib/log.h"
#include "lib/pure/errline.h"
#include "scheduler/cluster.h"
#include "scheduler/schedd.h"
#include "scheduler/setup.h"
#include "scheduler/usage_child.h"
#include <getopt.h>
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

static const char usage[] =
    "usage: hai-schedd [--config FILE | --dir STATE_DIR] [--listen ADDRESS]\n"
    "       hai-schedd --check CLUSTER.yaml\n"
    "       hai-schedd init --state-dir DIR --cluster FILE [--listen ADDRESS]\n"
    "                       [--user NAME] [--uid N] [--gid N]\n"
    "\n"
    "  --config FILE    configuration; default: /etc/hai/schedd.yaml\n"
    "  --dir STATE_DIR  use STATE_DIR/schedd.yaml, which init has written\n"
    "  --listen ADDRESS 127.0.0.1:PORT (0: any), [::1]:PORT or unix:/PATH\n"
    "  --check FILE     check a cluster file: exit status 0, or 2 with every error\n"
    "  init             make the state directory: store, tokens, configuration\n";

enum option_number {
    OPTION_CONFIG = 256,
    OPTION_DIR,
    OPTION_LISTEN,
    OPTION_CHECK,
    OPTION_STATE_DIR,
    OPTION_CLUSTER,
    OPTION_USER,
    OPTION_UID,
    OPTION_GID,
    OPTION_HELP,
    OPTION_VERSION
};

struct arguments {
    const char *config, *dir, *listen, *check;
    struct setup_options setup;
};

static const struct option options[] = {
    {"config",           required_argument, NULL, OPTION_CONFIG},
    {"dir",              required_argument, NULL, OPTION_DIR},
    {"listen",                  required_argument, NULL, OPTION_LISTEN},
    {"check",required_argument, NULL, OPTION_CHECK},
    {"state-dir",        required_argument, NULL, OPTION_STATE_DIR},
    {"cluster",           required_argument, NULL, OPTION_CLUSTER},
    {"user",              required_argument, NULL, OPTION_USER},
    {"uid",                  required_argument, NULL, OPTION_UID},
    {"gid",              required_argument, NULL, OPTION_GID},
    {"help",      no_argument, NULL, OPTION_HELP},
    {"version",        no_argument, NULL, OPTION_VERSION},
    {0             },
};

/* A number of an account; else 3, as take_option returns it: an account of 0 is root's. */
static int take_account(const char *name, int64_t *ret) {
    char *end;

    errno = 0;
    long long value = strtoll(optarg, &end, 10);
    if (end == optarg || *end || errno || value < 0 || value >= UINT32_MAX) {
        fprintf(stderr, "hai-schedd: --%s is '%s'; expected a number from 0 to %lld\n", name,
                optarg, (long long)UINT32_MAX - 1);
        return 3;
    }
    *ret = value;
    return 0;
}

/* 0, or the exit status plus 1. */
static int take_option(int option, struct arguments *a) {
    switch (option) {
    case OPTION_CONFIG:
        a->config = optarg;
        return 0;
    case OPTION_DIR:
        a->dir = optarg;
        return 0;
    case OPTION_LISTEN:
        a->listen = optarg;
        return 0;
    case OPTION_CHECK:
        a->check = optarg;
        return 0;
    case OPTION_STATE_DIR:
        a->setup.state_dir = optarg;
        return 0;
    case OPTION_CLUSTER:
        a->setup.cluster = optarg;
        return 0;
    case OPTION_USER:
        a->setup.user = optarg;
        return 0;
    case OPTION_UID:
        return take_account("uid", &a->setup.uid);
    case OPTION_GID:
        return take_account("gid", &a->setup.gid);
    case OPTION_HELP:
        fputs(usage, stdout);
        return 1;
    case OPTION_VERSION:
        printf("hai-schedd %s\n", HAI_VERSION);
        return 1;
    default:
        fputs(usage, stderr);
        return 3;
    }
}

static int check(const char *path) {
    struct json_schema_errors errors = {0};
    struct cluster_file file;
    char line[ERRLINE_BYTES];
    struct hai_err err = {0};

    if (cluster_read(path, &file, &errors, &err) == 0) {
        schema_free(cluster_file_schema(), &file);
        return 0;
    }
    for (int i = 0; i < MIN(errors.n, (int)JSON_SCHEMA_ERRORS_MAX); i++)
        fprintf(stderr, "hai-schedd: %s\n", errline_text(&errors.items[i], line));
    if (!errors.n)
        fprintf(stderr, "hai-schedd: %s\n", errline_text(&err, line));
    return 2;
}

static int init(struct arguments *a) {
    struct passwd *pw = getpwuid(getuid());
    char line[ERRLINE_BYTES];
    struct hai_err err = {0};

    if (!a->setup.state_dir || !a->setup.cluster) {
        fputs("hai-schedd: init needs --state-dir and --cluster\n", stderr);
        return 2;
    }
    if (!a->setup.user)
        a->setup.user = pw ? pw->pw_name : "admin";
    if (a->setup.uid == 0 && geteuid() != 0)
        a->setup.uid = getuid();
    if (a->setup.gid == 0 && geteuid() != 0)
        a->setup.gid = getgid();
    a->setup.listen = a->listen;
    if (setup_run(&a->setup, &err) < 0) {
        fprintf(stderr, "hai-schedd: %s\n", errline_text(&err, line));
        return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    struct arguments a = {0};
    char line[ERRLINE_BYTES];
    struct hai_err err = {0};

    log_open("hai-schedd", LOG_LEVEL_INFO);
    if (argc == 3 && !strcmp(argv[1], "usage")) // the daemon's child
        return usage_child_main(argv[2]);
    for (int option; (option = getopt_long(argc, argv, "h", options, NULL)) >= 0;) {
        int r = take_option(option == 'h' ? OPTION_HELP : option, &a);
        if (r)
            return r - 1;
    }
    if (a.check)
        return check(a.check);
    if (optind < argc && !strcmp(argv[optind], "init"))
        return init(&a);
    if (optind < argc) {
        fputs(usage, stderr);
        return 2;
    }
    _cleanup_free_ char *path = a.dir ? hai_asprintf("%s/schedd.yaml", a.dir) : NULL;
    int r = schedd_run(path ? path : a.config ? a.config : "/etc/hai/schedd.yaml", a.listen, &err);
    if (r < 0) {
        log_error("%s", errline_text(&err, line));
        return 1;
    }
    return r;
}
