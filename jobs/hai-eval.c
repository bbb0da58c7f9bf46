/* hai-eval - look at a model's numbers: logits of every token, answers to multiple choice, how far
 * two models are apart over a text. */
#include "engine/infer/generate.h"
#include "engine/infer/npy.h"
#include "jobs/choices.h"
#include "jobs/evalkl.h"
#include "jobs/jobexit.h"
#include "jobs/modelargs.h"
#include "jobs/progress.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "hai-eval"

static const char usage[] =
    "usage: " NAME " logits --model DIR --token-ids \"1 2 3\" --out FILE.npy [options]\n"
    "       " NAME " choices --model DIR --input FILE.jsonl [--out FILE.jsonl] [--json] [options]\n"
    "       " NAME " kl --model DIR --other DIR --text FILE [options]\n"
    "logits:  write those of every token as a float32 array, tokens x vocabulary.\n"
    "choices: multiple choice, a line {\"prompt\": TEXT, \"choices\": [TEXT, ...], \"answer\": N "
    "from 0};\n"
    "         how often the right one has the highest log-probability, summed and per byte.\n"
    "  --input FILE   - is stdin\n"
    "  --out FILE     of choices: a line for each question with the scores\n"
    "  --json         of choices: print one JSON object\n"
    "kl:      print as JSON, over the first tokens of a text: mean KL(model || other) in nats, RMS "
    "of "
    "the\n"
    "         logits' differences, how often both find the same token likeliest, both "
    "perplexities.\n"
    "  --tokens N     of kl: so many at most (default 4096)\n"
    "  --window N     of kl: tokens read together, from an empty cache (default 256)\n"
    "  --skip N       of kl: so many of each window only read, not counted (default 0)\n"
    "  --backend B    ref, cpu (default) or cuda\n"
    "  --dtype bf16   round the weights to bf16 first, of kl both models'; arithmetic stays "
    "float32\n"
    "  --fast-prefill compute long texts in the form with the least work, of kl in the other "
    "model\n"
    "                 alone: with one folder as both, kl says what the option costs\n"
    "  --cache-dtype T of keys and values: f32 (default), f16 or bf16; of kl in the other model "
    "alone\n"
    "  -q, --quiet    no progress on stderr\n";

struct args {
    const char *model, *out, *input;
    bool choices, json, quiet;
    struct token_list ids;
    struct generate_place place;
};

struct sink {
    FILE *file;
    int64_t n_vocab;
};

static int write_rows(void *userdata, const float *rows, int64_t n_rows, struct hai_err *err) {
    const struct sink *sink = userdata;
    size_t n = (size_t)(n_rows * sink->n_vocab);

    return fwrite(rows, sizeof *rows, n, sink->file) == n ? 0 : hai_fail(err, -EIO, "writing: %m");
}

static int logits(const struct args *args, struct hai_err *err) {
    _cleanup_(generate_freep) struct generate *g = NULL;
    int64_t n = (int64_t)args->ids.n;
    struct stat st;
    int r = generate_open(args->model, &args->place, n, &g, err);

    if (r < 0)
        return r;
    struct sink sink = {fopen(args->out, "we"), generate_config(g)->n_vocab};
    if (!sink.file)
        return hai_fail(err, -errno, "%s: %m", args->out);
    // A file cut short is removed; a device or a pipe is not ours to remove.
    bool regular = fstat(fileno(sink.file), &st) == 0 && S_ISREG(st.st_mode);
    r = npy_write_header(sink.file, n, sink.n_vocab);
    r = r < 0 ? hai_fail(err, r, "%s: %m", args->out)
              : generate_logits(g, args->ids.ids, n, write_rows, &sink, err);
    if (fclose(sink.file) < 0 && r == 0)
        r = hai_fail(err, -errno, "%s: %m", args->out);
    if (r < 0 && regular)
        unlink(args->out);
    return r;
}

static void say(void *userdata, int64_t done, int64_t all) {
    progress_say(userdata, "%lld of %lld questions", (long long)done, (long long)all);
}

static void print_accuracy(const char *how, int64_t n_right, int64_t n) {
    double p = (double)n_right / (double)n;

    printf("%lld of %lld right by %s: %.4f +- %.4f\n", (long long)n_right, (long long)n, how, p,
           sqrt(p * (1 - p) / (double)n));
}

static void print_result(const struct args *args, const struct choices_result *x) {
    double n = (double)x->n_questions;

    if (args->json) {
        printf("{\"questions\": %lld, \"accuracy\": %.17g, \"accuracy_per_byte\": %.17g}\n",
               (long long)x->n_questions, (double)x->n_right / n, (double)x->n_right_per_byte / n);
        return;
    }
    print_accuracy("log-probability", x->n_right, x->n_questions);
    print_accuracy("log-probability per byte", x->n_right_per_byte, x->n_questions);
}

static int choices(const struct args *args, struct hai_err *err) {
    struct choices_result result;
    struct progress progress;

    progress_start(&progress, args->quiet);
    int r = choices_run(args->model, &args->place, args->input, args->out, say, &progress, &result,
                        err);
    progress_clear(&progress);
    if (r < 0)
        return r;
    print_result(args, &result);
    return fflush(stdout) || ferror(stdout) ? hai_fail(err, -EIO, "writing to stdout failed") : 0;
}

/* Does the verb have what it needs, and nothing else? 0, or the exit status after a message. */
static int check(const struct args *args) {
    if (args->choices && (!args->model || !args->input))
        return jobexit_usage(NAME, "expected --model and --input");
    if (args->choices && args->ids.n)
        return jobexit_usage(NAME, "--token-ids is for logits");
    if (!args->choices && (!args->model || !args->out || !args->ids.n))
        return jobexit_usage(NAME, "expected --model, --token-ids and --out");
    if (!args->choices && (args->input || args->json))
        return jobexit_usage(NAME, "--input and --json are for choices");
    return 0;
}

/* 0, or the exit status after a message. */
static int parse(int argc, char **argv, struct args *ret) {
    static const struct option options[] = {
        {"model",            required_argument, NULL, 'm'},
        {"token-ids",              required_argument, NULL, 'i'},
        {"out",                  required_argument, NULL, 'o'},
        {"input",required_argument, NULL, 'I'},
        {"json",               no_argument, NULL, 'j'},
        {"quiet",              no_argument, NULL, 'q'},
        {"backend",              required_argument, NULL, 'b'},
        {"dtype",                  required_argument, NULL, 'd'},
        {"help",              no_argument, NULL, 'h'},
        {"fast-prefill",               no_argument, NULL, 'f'},
        {"cache-dtype",             required_argument, NULL, 'c'},
        {0             },
    };
    int c, status = 0;

    while (!status && (c = getopt_long(argc, argv, "q", options, NULL)) != -1)
        switch (c) {
        case 'm':
            ret->model = optarg;
            break;
        case 'o':
            ret->out = optarg;
            break;
        case 'I':
            ret->input = optarg;
            break;
        case 'j':
            ret->json = true;
            break;
        case 'q':
            ret->quiet = true;
            break;
        case 'i':
            status = modelargs_token_ids(NAME, optarg, &ret->ids);
            break;
        case 'b':
            status = modelargs_backend(NAME, optarg, &ret->place.backend);
            break;
        case 'd':
            status = modelargs_dtype(NAME, optarg, &ret->place.dtype);
            break;
        case 'f':
            ret->place.fast_prefill = true;
            break;
        case 'c':
            status = modelargs_cache_dtype(NAME, optarg, &ret->place.cache_dtype);
            break;
        case 'h':
            fputs(usage, stdout);
            exit(JOBEXIT_DONE);
        default:
            fputs(usage, stderr);
            status = JOBEXIT_USAGE;
        }
    if (!status && optind < argc)
        return jobexit_usage(NAME, "unexpected '%s'", argv[optind]);
    return status ? status : check(ret);
}

int main(int argc, char **argv) {
    struct args args = {
        .place = {.backend = K_BACKEND_CPU, .n_threads = modelargs_threads()}
    };
    struct hai_err err = {0};

    if (argc > 1 && hai_streq(argv[1], "--help")) {
        fputs(usage, stdout);
        return JOBEXIT_DONE;
    }
    if (argc > 1 && hai_streq(argv[1], "kl"))
        return evalkl_main(argc - 1, argv + 1, usage);
    args.choices = argc > 1 && hai_streq(argv[1], "choices");
    if (argc < 2 || (!args.choices && !hai_streq(argv[1], "logits")))
        return jobexit_usage(NAME, "expected 'logits', 'choices' or 'kl'");
    int status = parse(argc - 1, argv + 1, &args);
    if (!status && (args.choices ? choices(&args, &err) : logits(&args, &err)) < 0)
        status = jobexit_report(NAME, &err);
    token_list_free(&args.ids);
    return status;
}
