/* hai-merge - one model's folder from several of one architecture: their mean, or a base with what
 * others learnt beside it added. */
#include "engine/model/blend.h"
#include "engine/model/folder.h"
#include "jobs/dtypearg.h"
#include "jobs/jobexit.h"
#include "jobs/jobstop.h"
#include "jobs/modelargs.h"
#include "jobs/writeprogress.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>

#define NAME "hai-merge"

static const char usage[] =
    "usage: " NAME " OUT A[:WEIGHT] B[:WEIGHT]... [--dtype TYPE] [--threads N]\n"
    "       " NAME " OUT BASE --add A:WEIGHT [--add B:WEIGHT]... [--dtype TYPE] [--threads N]\n"
    "Write the folder OUT from model folders of one architecture.\n"
    "First form:   the mean of their weights, WEIGHT by WEIGHT (by default all alike); only their\n"
    "              proportions count.\n"
    "Second form:  BASE + WEIGHT * (A - BASE) + WEIGHT * (B - BASE) + ...; any sign.\n"
    "Configuration, tokenizer, shards and types are those of the first folder.\n"
    "  --dtype TYPE  f32, bf16 or f16 instead\n"
    "  --threads N   default: the processors there are\n";

struct args {
    const char *out;
    char *dirs[BLEND_MODELS_MAX]; // owned
    struct blend_model models[BLEND_MODELS_MAX];
    int n_models, n_weighted;
    enum k_dtype dtype;
    int n_threads;
};

/* "DIR" or "DIR:WEIGHT", what follows the last colon being a number. */
static int add_model(struct args *args, const char *text) {
    const char *colon = strrchr(text, ':');
    double weight = 1;
    char *end = NULL;

    if (args->n_models == BLEND_MODELS_MAX)
        return jobexit_usage(NAME, "at most %d folders", BLEND_MODELS_MAX);
    if (colon && colon[1])
        weight = strtod(colon + 1, &end);
    bool given = end && !*end;
    if (given && !isfinite(weight))
        return jobexit_usage(NAME, "the weight of '%s' is not finite", text);
    char *dir = given ? hai_strndup(text, (size_t)(colon - text)) : hai_strdup(text);
    args->dirs[args->n_models] = dir;
    args->models[args->n_models++] = (struct blend_model){dir, given ? weight : 1};
    args->n_weighted += given;
    return 0;
}

static int check_mean(const struct args *args) {
    if (args->n_models < 2)
        return jobexit_usage(NAME, "expected OUT and two or more folders, or a base and --add");
    if (args->n_weighted && args->n_weighted < args->n_models)
        return jobexit_usage(NAME, "expected a weight for every folder, or for none");
    for (int i = 0; i < args->n_models; i++)
        if (!(args->models[i].share > 0))
            return jobexit_usage(NAME, "the weight of %s is %g; expected one above 0",
                                 args->dirs[i], args->models[i].share);
    return 0;
}

/* What stands between the words of the options: OUT and folders. added: those of --add. */
static int take_folders(int argc, char **argv, char *const *added, int n_added, struct args *ret) {
    int status = 0;

    if (argc < 2)
        return jobexit_usage(NAME, "expected OUT and folders of models");
    ret->out = argv[0];
    for (int i = 1; i < argc && !status; i++)
        status = add_model(ret, argv[i]);
    if (status)
        return status;
    if (!n_added) {
        status = check_mean(ret);
        if (!status)
            blend_mean(ret->models, ret->n_models);
        return status;
    }
    if (ret->n_models != 1 || ret->n_weighted)
        return jobexit_usage(NAME, "with --add, expected OUT and one base, without a weight");
    for (int i = 0; i < n_added && !status; i++)
        status = add_model(ret, added[i]);
    if (!status && ret->n_weighted != n_added)
        return jobexit_usage(NAME, "--add needs a weight: --add DIR:0.5");
    if (!status)
        blend_add(ret->models, ret->n_models);
    return status;
}

/* 0, or the exit status after a message. */
static int parse(int argc, char **argv, struct args *ret) {
    static const struct option options[] = {
        {"add",              required_argument, NULL, 'a'},
        {"dtype",              required_argument, NULL, 'd'},
        {"threads",                  required_argument, NULL, 'n'},
        {"help",no_argument, NULL, 'h'},
        {0              },
    };
    _cleanup_free_ char **added = hai_new_array(char *, (size_t)argc);
    int c, n_added = 0, status = 0;
    double number;

    while (!status && (c = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (c) {
        case 'a':
            added[n_added++] = optarg;
            break;
        case 'd':
            status = dtypearg_parse(NAME, optarg, &ret->dtype);
            break;
        case 'n':
            status =
                modelargs_number(NAME, "--threads", optarg, 1, MODEL_THREADS_MAX, true, &number);
            ret->n_threads = status ? 0 : (int)number;
            break;
        case 'h':
            fputs(usage, stdout);
            exit(JOBEXIT_DONE);
        default:
            fputs(usage, stderr);
            return JOBEXIT_USAGE;
        }
    return status ? status : take_folders(argc - optind, argv + optind, added, n_added, ret);
}

static int merge(const struct args *args, struct hai_err *err) {
    struct writeprogress progress = writeprogress_begin();
    struct blend_options options = {
        .dtype = args->dtype, .on_progress = writeprogress_show, .userdata = &progress};
    struct blend_result result;
    int r = folder_check(args->out, err);

    jobstop_catch();
    if (r == 0 && args->n_threads > 1)
        r = pool_new(args->n_threads, &options.pool, err);
    jobstop_hold();
    if (r == 0)
        r = blend_folders(args->out, args->models, args->n_models, &options, &result, err);
    pool_free(options.pool);
    if (r < 0)
        return r;
    printf("%s: %.3f GB, %d tensors of %d models, %.1f s\n", args->out,
           (double)result.n_bytes * 1e-9, result.n_tensors, args->n_models,
           writeprogress_seconds(&progress));
    return fflush(stdout) ? hai_fail(err, -EIO, "writing to stdout failed") : 0;
}

int main(int argc, char **argv) {
    struct args args = {.n_threads = modelargs_threads(), .dtype = K_DTYPE_COUNT};
    struct hai_err err = {0};

    int status = parse(argc, argv, &args);
    if (!status && merge(&args, &err) < 0)
        status = jobstop_status(&err, jobexit_report(NAME, &err));
    for (int i = 0; i < args.n_models; i++)
        free(args.dirs[i]);
    return status;
}
