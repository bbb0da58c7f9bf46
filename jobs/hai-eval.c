/* hai-eval - look at a model's numbers: `hai-eval logits` writes those of every token. */
#include "engine/infer/generate.h"
#include "engine/infer/npy.h"
#include "jobs/jobexit.h"
#include "jobs/modelargs.h"

#include <getopt.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "hai-eval"

static const char usage[] =
    "usage: " NAME
    " logits --model DIR --token-ids \"1 2 3\" --out FILE.npy [--backend ref|cpu|cuda]\n"
    "                [--dtype f32|bf16]\n"
    "Write the logits of every token as a float32 array, tokens x vocabulary.\n"
    "  --dtype bf16  round the weights to bf16 first; arithmetic stays float32\n";

struct args {
    const char *model, *out;
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

/* 0, or the exit status after a message. */
static int parse(int argc, char **argv, struct args *ret) {
    static const struct option options[] = {
        {"model",            required_argument, NULL, 'm'},
        {"token-ids",              required_argument, NULL, 'i'},
        {"out",                  required_argument, NULL, 'o'},
        {"backend",required_argument, NULL, 'b'},
        {"dtype",               required_argument, NULL, 'd'},
        {"help",              no_argument, NULL, 'h'},
        {0             },
    };
    int c, status = 0;

    while (!status && (c = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (c) {
        case 'm':
            ret->model = optarg;
            break;
        case 'o':
            ret->out = optarg;
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
        case 'h':
            fputs(usage, stdout);
            exit(JOBEXIT_DONE);
        default:
            fputs(usage, stderr);
            status = JOBEXIT_USAGE;
        }
    if (!status && optind < argc)
        return jobexit_usage(NAME, "unexpected '%s'", argv[optind]);
    if (!status && (!ret->model || !ret->out || !ret->ids.n))
        return jobexit_usage(NAME, "expected --model, --token-ids and --out");
    return status;
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
    if (argc < 2 || !hai_streq(argv[1], "logits"))
        return jobexit_usage(NAME, "expected 'logits'");
    int status = parse(argc - 1, argv + 1, &args);
    if (!status && logits(&args, &err) < 0)
        status = jobexit_report(NAME, &err);
    token_list_free(&args.ids);
    return status;
}
