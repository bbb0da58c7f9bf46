#include "jobs/evalkl.h"
#include "engine/infer/textruns.h"
#include "jobs/jobexit.h"
#include "jobs/modelargs.h"
#include "lib/json.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>

#define NAME "hai-eval"

enum { WINDOW = 256, TOKENS = 4096 };

struct args {
    const char *usage, *model, *other, *text;
    int64_t n_tokens, window, skip;
    struct generate_place place;
};

static int set_option(int c, struct args *ret) {
    double number = 0;
    int status;

    switch (c) {
    case 'm':
        ret->model = optarg;
        return 0;
    case 'o':
        ret->other = optarg;
        return 0;
    case 't':
        ret->text = optarg;
        return 0;
    case 'n':
        status = modelargs_number(NAME, "--tokens", optarg, 2, 1 << 30, true, &number);
        ret->n_tokens = (int64_t)number;
        return status;
    case 'w':
        status = modelargs_number(NAME, "--window", optarg, 2, 1 << 20, true, &number);
        ret->window = (int64_t)number;
        return status;
    case 's':
        status = modelargs_number(NAME, "--skip", optarg, 0, 1 << 20, true, &number);
        ret->skip = (int64_t)number;
        return status;
    case 'b':
        return modelargs_backend(NAME, optarg, &ret->place.backend);
    case 'd':
        return modelargs_dtype(NAME, optarg, &ret->place.dtype);
    case 'f':
        ret->place.fast_prefill = true;
        return 0;
    case 'c':
        return modelargs_cache_dtype(NAME, optarg, &ret->place.cache_dtype);
    case 'q': // kl shows no progress
        return 0;
    case 'h':
        fputs(ret->usage, stdout);
        exit(JOBEXIT_DONE);
    default:
        fputs(ret->usage, stderr);
        return JOBEXIT_USAGE;
    }
}

/* 0, or the exit status after a message. */
static int parse(int argc, char **argv, struct args *ret) {
    static const struct option options[] = {
        {"model",            required_argument, NULL, 'm'},
        {"other",              required_argument, NULL, 'o'},
        {"text",                  required_argument, NULL, 't'},
        {"tokens",required_argument, NULL, 'n'},
        {"window",               required_argument, NULL, 'w'},
        {"skip",             required_argument, NULL, 's'},
        {"backend",              required_argument, NULL, 'b'},
        {"dtype",                  required_argument, NULL, 'd'},
        {"quiet",              no_argument, NULL, 'q'},
        {"help",               no_argument, NULL, 'h'},
        {"fast-prefill",           no_argument, NULL, 'f'},
        {"cache-dtype",              required_argument, NULL, 'c'},
        {0                 },
    };
    int c;

    while ((c = getopt_long(argc, argv, "q", options, NULL)) != -1) {
        int status = set_option(c, ret);
        if (status)
            return status;
    }
    if (optind < argc)
        return jobexit_usage(NAME, "unexpected '%s'", argv[optind]);
    if (!ret->model || !ret->other || !ret->text)
        return jobexit_usage(NAME, "kl: expected --model, --other and --text");
    if (ret->skip >= ret->window)
        return jobexit_usage(NAME, "--skip is %lld; expected less than --window, %lld",
                             (long long)ret->skip, (long long)ret->window);
    return 0;
}

/* Do the models and the text have a window's tokens? */
static int check_window(const struct args *args, int64_t n, struct hai_err *err) {
    const char *const models[] = {args->model, args->other};

    if (args->window > n)
        return hai_fail(err, -EINVAL,
                        "--window is %lld; expected at most the %lld tokens that are read of %s",
                        (long long)args->window, (long long)n, args->text);
    for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
        struct model_config config;
        int r = config_read(models[i], &config, err);
        if (r < 0)
            return r;
        if (args->window > config.n_position)
            return hai_fail(err, -EINVAL,
                            "--window is %lld; expected at most max_position_embeddings of %s, "
                            "%lld",
                            (long long)args->window, models[i], (long long)config.n_position);
    }
    return 0;
}

int evalkl_main(int argc, char **argv, const char *usage) {
    struct args args = {
        .usage = usage,
        .n_tokens = TOKENS,
        .window = WINDOW,
        .place = {.backend = K_BACKEND_CPU, .n_threads = modelargs_threads()}
    };
    struct textruns_compared c = {0};
    _cleanup_free_ int32_t *ids = NULL;
    struct hai_err err = {0};
    int64_t n = 0;

    int status = parse(argc, argv, &args);
    if (status)
        return status;
    int r = textruns_read(args.model, args.text, args.n_tokens, &ids, &n, &err);
    if (r == 0)
        r = check_window(&args, n, &err);
    if (r == 0)
        r = textruns_compare(args.model, args.other, &args.place, ids, n, args.window, args.skip,
                             &c, &err);
    if (r < 0)
        return jobexit_report(NAME, &err);
    printf("{\"positions\": %lld, \"kl\": %.6g, \"rms_logit_error\": %.6g, \"same_best\": %.6g, "
           "\"perplexity\": %.6g, \"perplexity_other\": %.6g}\n",
           (long long)c.n, c.kl, c.rms, c.same_best, exp(c.nll), exp(c.nll_other));
    if (!fflush(stdout) && !ferror(stdout))
        return JOBEXIT_DONE;
    hai_fail(&err, -EIO, "writing to stdout failed");
    return jobexit_report(NAME, &err);
}
