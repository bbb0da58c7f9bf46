/* hai - the command: finds the verb, or the program hai-VERB, and runs it. */
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "lib/programs.h"
#include <stdio.h>
#include <unistd.h>

static void print_groups(void) {
    static const char *const groups[] = {"start", "submit", "watch", "enter", "change", "operate"};

    for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
        printf("\n%s\n", groups[i]);
        for (const struct verb *const *v = verbs_all(); *v; v++)
            if (!(*v)->hidden && strcmp((*v)->group, groups[i]) == 0)
                printf("  %-10s %s\n", (*v)->name, (*v)->help);
        for (const struct verbs_program *p = verbs_programs(); p->name; p++)
            if (strcmp(p->group, groups[i]) == 0)
                printf("  %-10s %s\n", p->name, p->help);
    }
    printf("\nhai VERB --help tells more. JOB is an id or a name (the newest of mine with it).\n");
}

static int print_next_steps(void) {
    printf("hai " HAI_VERSION ": a GPU cluster, also on this one machine\n\n"
           "  hai up                     start a cluster here\n"
           "  hai run -- hostname        run something on it\n"
           "  hai example > job.yaml     a job file to start from\n"
           "  hai submit job.yaml        queue it; then: hai status, hai logs -f\n"
           "  hai --help                 all commands\n");
    return CLI_OK;
}

/* A verb of a program of its own: hai chat runs hai-chat. Returns only when there is none. */
static void run_program(char **argv) {
    _cleanup_free_ char *name = hai_asprintf("hai-%s", argv[1]);
    _cleanup_free_ char *path = NULL;

    if (strchr(argv[1], '/'))
        return;
    path = programs_find(name);
    if (path) {
        argv[1] = name;
        execv(path, argv + 1);
    }
}

static bool is_program(const char *word) {
    for (const struct verbs_program *p = verbs_programs(); p->name; p++)
        if (strcmp(word, p->name) == 0)
            return true;
    return false;
}

static int unknown_verb(const char *word) {
    static const char *const later[] = {
        "alerts", "backup", "drill", "forward", "restore", "top", "validate", "zone",
    };
    const char *nearest = NULL;
    int best = INT_MAX;

    if (word[0] == '-')
        return cli_usage(NULL, "options follow the command: hai COMMAND %s", word);
    for (size_t i = 0; i < ARRAY_SIZE(later); i++)
        if (strcmp(word, later[i]) == 0)
            return cli_usage(NULL, "%s is not yet supported; hai --help lists what is", word);
    for (const struct verbs_program *p = verbs_programs(); p->name; p++) {
        if (strcmp(word, p->name) == 0)
            return cli_usage(NULL, "%s is the program hai-%s, which is not installed", word, word);
        if (hai_nearer(word, p->name, &best))
            nearest = p->name;
    }
    for (const struct verb *const *v = verbs_all(); *v; v++)
        if (!(*v)->hidden && hai_nearer(word, (*v)->name, &best))
            nearest = (*v)->name;
    if (nearest)
        return cli_usage(NULL, "unknown command '%s'; did you mean '%s'?", word, nearest);
    return cli_usage(NULL, "unknown command '%s'; hai --help lists them", word);
}

int main(int argc, char **argv) {
    struct cli cli = {0};
    int status;

    terminal_catch_interrupt(NULL);
    if (argc < 2)
        return print_next_steps();
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        bool asked = argc > 2;
        if (asked) {
            argv[1] = argv[2];
            argv[2] = "--help";
        }
        if (!asked || (!verbs_find(argv[1]) && !is_program(argv[1]))) {
            printf("usage: hai VERB [options] ARGS\n");
            print_groups();
            return CLI_OK;
        }
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("hai " HAI_VERSION "\n");
        return CLI_OK;
    }
    const struct verb *verb = verbs_find(argv[1]);
    if (!verb) {
        run_program(argv);
        return unknown_verb(argv[1]);
    }
    int r = cli_parse(&cli, verb, argc - 2, argv + 2);
    status = r < 0 ? CLI_USAGE : r > 0 ? CLI_OK : verb->run(&cli);
    cli_free(&cli);
    if (fflush(stdout) != 0 && status == CLI_OK) {
        fprintf(stderr, "hai: standard output: %m\n");
        status = CLI_FAILED;
    }
    return status;
}
