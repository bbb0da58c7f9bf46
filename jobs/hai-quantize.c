/* hai-quantize - write a model's folder anew with matrices of 8 or 4 bits, or back with plain ones.
 */
#include "engine/infer/textruns.h"
#include "engine/model/folder.h"
#include "engine/model/quantize.h"
#include "jobs/jobexit.h"
#include "jobs/jobstop.h"
#include "jobs/modelargs.h"
#include "jobs/writeprogress.h"

#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

#define NAME "hai-quantize"

enum { WINDOW = 512, TOKENS = 16384 };

static const char usage[] =
    "usage: " NAME " IN OUT --type int8|int4|fp8|bf16 [--embedding] [--head int8] [--threads N]\n"
    "                    [--importance FILE [--calibrate TEXT [--tokens N]]]\n"
    "Read the model folder IN, write the folder OUT with quantised matrices.\n"
    "  --type int8        8 bits a weight, with a scale for every 32\n"
    "  --type int4        4 bits a weight, with a scale for every 32\n"
    "  --type fp8         E4M3 with a scale for 128 x 128, the folder as DeepSeek-V3's are "
    "published\n"
    "  --type bf16        back to a plain folder\n"
    "  --embedding        the embedding too, in 8 bits; routers and norms always stay\n"
    "  --head int8        of int4: the output matrix in 8 bits, which helps most for its size\n"
    "  --importance FILE  how much each input of a matrix matters: errors are weighted with it\n"
    "  --calibrate TEXT   measure that first by running IN over a text file, and write FILE\n"
    "  --tokens N         so many of the text at most (default 16384)\n"
    "  --threads N        default: the processors there are\n";

struct args {
    const char *in, *out, *importance, *text;
    int n_threads;
    int64_t n_tokens; // 0: not said
    struct quantize_options options;
};

/* Could FILE be written? Looked at before the model runs. */
static int check_importance(const char *path, struct hai_err *err) {
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *parent = hai_asprintf("%.*s.", slash ? (int)(slash + 1 - path) : 0, path);

    return access(parent, W_OK | X_OK) < 0 ? hai_fail(err, -errno, "%s: %m", path) : 0;
}

/* Run the model over the text. */
static int calibrate(const struct args *args, struct hai_err *err) {
    const struct generate_place place = {.backend = K_BACKEND_CPU, .n_threads = args->n_threads};
    _cleanup_free_ int32_t *ids = NULL;
    int64_t n = 0;

    int r = check_importance(args->importance, err);
    if (r == 0)
        r = textruns_read(args->in, args->text, args->n_tokens ? args->n_tokens : TOKENS, &ids, &n,
                          err);
    if (r < 0)
        return r;
    fprintf(stderr, "running %s over %lld tokens\n", args->in, (long long)n);
    return textruns_measure(args->in, &place, ids, n, MIN(n, (int64_t)WINDOW), args->importance,
                            err);
}

static int quantize(struct args *args, struct hai_err *err) {
    _cleanup_(safetensors_freep) struct safetensors *importance = NULL;
    struct writeprogress progress = writeprogress_begin();
    struct quantize_result result;
    struct k_pool *pool = NULL;
    int r = folder_check(args->out, err); // before minutes are spent

    jobstop_catch();
    if (r == 0 && args->text)
        r = calibrate(args, err);
    if (r == 0 && args->importance)
        r = safetensors_open(args->importance, &importance, err);
    if (r == 0 && args->n_threads > 1)
        r = pool_new(args->n_threads, &pool, err);
    args->options.importance = importance;
    args->options.pool = pool;
    args->options.on_progress = writeprogress_show;
    args->options.userdata = &progress;
    jobstop_hold();
    if (r == 0)
        r = quantize_folder(args->in, args->out, &args->options, &result, err);
    pool_free(pool);
    if (r < 0)
        return r;
    printf("%s: %.3f GB", args->out, (double)result.n_bytes * 1e-9);
    if (args->options.type != QUANTIZE_BF16)
        printf(", %d of %d matrices as %s", result.n_quantized, result.n_matrices,
               quantize_type_name(args->options.type));
    printf(", %.1f s\n", writeprogress_seconds(&progress));
    return fflush(stdout) ? hai_fail(err, -EIO, "writing to stdout failed") : 0;
}

static int set_option(int c, struct args *ret) {
    double number = 0;
    int status;

    switch (c) {
    case 't':
        return quantize_type_parse(optarg, &ret->options.type) < 0
                   ? jobexit_usage(NAME, "--type is '%s'; expected int8, int4, fp8 or bf16", optarg)
                   : 0;
    case 'e':
        ret->options.embedding = true;
        return 0;
    case 'o':
        ret->options.head = true;
        return hai_streq(optarg, "int8")
                   ? 0
                   : jobexit_usage(NAME, "--head is '%s'; expected int8", optarg);
    case 'i':
        ret->importance = optarg;
        return 0;
    case 'c':
        ret->text = optarg;
        return 0;
    case 'k':
        status = modelargs_number(NAME, "--tokens", optarg, 1, 1 << 30, true, &number);
        ret->n_tokens = (int64_t)number;
        return status;
    case 'n':
        status = modelargs_number(NAME, "--threads", optarg, 1, MODEL_THREADS_MAX, true, &number);
        ret->n_threads = (int)number;
        return status;
    case 'h':
        fputs(usage, stdout);
        exit(JOBEXIT_DONE);
    default:
        fputs(usage, stderr);
        return JOBEXIT_USAGE;
    }
}

/* 0, or the exit status after a message. */
static int parse(int argc, char **argv, struct args *ret) {
    static const struct option options[] = {
        {"type",             required_argument, NULL, 't'},
        {"embedding",              no_argument, NULL, 'e'},
        {"head",                  required_argument, NULL, 'o'},
        {"importance",required_argument, NULL, 'i'},
        {"calibrate",               required_argument, NULL, 'c'},
        {"tokens",             required_argument, NULL, 'k'},
        {"threads",              required_argument, NULL, 'n'},
        {"help",                  no_argument, NULL, 'h'},
        {0       },
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        int status = set_option(c, ret);
        if (status)
            return status;
    }
    if (argc - optind != 2)
        return jobexit_usage(NAME, "expected two folders, IN and OUT");
    if (ret->text && !ret->importance)
        return jobexit_usage(NAME,
                             "--calibrate needs --importance, where to write what it measures");
    if (ret->n_tokens && !ret->text)
        return jobexit_usage(NAME, "--tokens is for --calibrate");
    if (ret->options.type == QUANTIZE_TYPE_COUNT)
        return jobexit_usage(NAME, "expected --type int8, int4, fp8 or bf16");
    bool whole = ret->options.type == QUANTIZE_INT8 || ret->options.type == QUANTIZE_INT4;
    if (!whole && (ret->options.embedding || ret->importance))
        return jobexit_usage(NAME, "%s is for --type int8 or int4",
                             ret->importance ? "--importance" : "--embedding");
    if (ret->options.type != QUANTIZE_INT4 && ret->options.head)
        return jobexit_usage(NAME, "--head is for --type int4");
    ret->in = argv[optind];
    ret->out = argv[optind + 1];
    return 0;
}

int main(int argc, char **argv) {
    struct args args = {.n_threads = modelargs_threads(), .options.type = QUANTIZE_TYPE_COUNT};
    struct hai_err err = {0};

    int status = parse(argc, argv, &args);
    if (!status && quantize(&args, &err) < 0)
        status = jobstop_status(&err, jobexit_report(NAME, &err));
    return status;
}
