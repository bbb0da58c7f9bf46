/* hai-convert - write a model's folder from a GGUF file. */
#include "engine/convert/convert.h"
#include "jobs/jobexit.h"
#include "jobs/jobstop.h"
#include "jobs/writeprogress.h"

#include <getopt.h>
#include <stdio.h>

#define NAME "hai-convert"

static const char usage[] =
    "usage: " NAME " FILE.gguf OUT [--no-tokenizer]\n"
    "Write the folder OUT from a GGUF file of the architectures llama, qwen2, deepseek or "
    "deepseek2\n"
    "with tensors in F32, F16, BF16, Q8_0 or Q4_0; the last two become our int8 and int4.\n"
    "  --no-tokenizer  leave it out, where the file's is of an unknown kind\n";

static int convert(const char *in, const char *out, struct convert_options *options,
                   struct hai_err *err) {
    struct writeprogress progress = writeprogress_begin();
    struct convert_result result;

    jobstop_catch();
    jobstop_hold();
    options->on_progress = writeprogress_show;
    options->userdata = &progress;
    int r = convert_gguf(in, out, options, &result, err);
    if (r < 0)
        return r;
    printf("%s: %.3f GB, %d matrices", out, (double)result.n_bytes * 1e-9, result.n_matrices);
    if (result.n_quantized)
        printf(", %d of them quantised", result.n_quantized);
    printf(", %.1f s\n", writeprogress_seconds(&progress));
    return fflush(stdout) ? hai_fail(err, -EIO, "writing to stdout failed") : 0;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"no-tokenizer", no_argument, NULL, 't'},
        {"help",          no_argument, NULL, 'h'},
        {0             },
    };
    struct convert_options with = {0};
    struct hai_err err = {0};
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (c) {
        case 't':
            with.no_tokenizer = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return JOBEXIT_DONE;
        default:
            fputs(usage, stderr);
            return JOBEXIT_USAGE;
        }
    if (argc - optind != 2)
        return jobexit_usage(NAME, "expected a GGUF file and a folder");
    if (convert(argv[optind], argv[optind + 1], &with, &err) == 0)
        return JOBEXIT_DONE;
    return jobstop_status(&err, jobexit_report(NAME, &err));
}
