/* hai-export - write a model's folder in Hugging Face layout from a checkpoint of training. */
#include "engine/ckpt/export.h"
#include "engine/train/trainconf.h"
#include "jobs/dtypearg.h"
#include "jobs/jobexit.h"
#include "jobs/jobstop.h"
#include "jobs/writeprogress.h"
#include "lib/size.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#define NAME "hai-export"

static const char usage[] =
    "usage: " NAME " CKPT OUT --config TRAIN.yaml [options]\n"
    "       " NAME " CKPT OUT --model PATH [--tokenizer DIR|bytes] [options]\n"
    "Write the model folder OUT from a checkpoint: the folder step-N.E<epoch>, or one that holds\n"
    "several, whose newest complete one is taken.\n"
    "  --config FILE     the run's file, for its 'model' and 'data.tokenizer'\n"
    "  --model PATH      config.json or its folder; of a folder, tokenizer and such are copied "
    "too\n"
    "  --tokenizer DIR   the tokenizer's files, or bytes\n"
    "  --dtype TYPE      f32 (default), bf16 or f16\n"
    "  --ema             the averaged weights\n"
    "  --shard-size SIZE the most in a file (default 5GB); more files have an index\n";

struct args {
    const char *ckpt, *out;
    struct trainconf conf; // model and tokenizer
    bool has_config;
    struct export_options options;
};

static int set_size(const char *text, int64_t *ret) {
    return size_parse(text, ret, NULL) < 0 || *ret < 1
               ? jobexit_usage(NAME, "--shard-size is '%s'; expected a size such as 5GB", text)
               : 0;
}

/* 0, or the exit status after a message. */
static int set_option(int c, struct args *ret) {
    struct hai_err err = {0};

    switch (c) {
    case 'c':
        ret->has_config = true;
        return trainconf_read(optarg, &ret->conf, &err) < 0 ? jobexit_report(NAME, &err) : 0;
    case 'm':
        ret->options.model = optarg;
        return 0;
    case 't':
        ret->options.tokenizer = optarg;
        return 0;
    case 'd':
        return dtypearg_parse(NAME, optarg, &ret->options.dtype);
    case 'e':
        ret->options.ema = true;
        return 0;
    case 's':
        return set_size(optarg, &ret->options.shard_bytes);
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
        {"config",           required_argument, NULL, 'c'},
        {"model",              required_argument, NULL, 'm'},
        {"tokenizer",                  required_argument, NULL, 't'},
        {"dtype",required_argument, NULL, 'd'},
        {"ema",               no_argument, NULL, 'e'},
        {"shard-size",        required_argument, NULL, 's'},
        {"help",              no_argument, NULL, 'h'},
        {0                 },
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        int status = set_option(c, ret);
        if (status)
            return status;
    }
    if (argc - optind != 2)
        return jobexit_usage(NAME, "expected a checkpoint and a new folder");
    ret->ckpt = argv[optind];
    ret->out = argv[optind + 1];
    if (!ret->options.model)
        ret->options.model = trainconf_model(&ret->conf);
    if (!ret->options.tokenizer && ret->has_config)
        ret->options.tokenizer = trainconf_tokenizer(&ret->conf);
    return ret->options.model
               ? 0
               : jobexit_usage(NAME, "--model or --config must say what model it is");
}

static int export(struct args *args, struct hai_err *err) {
    struct writeprogress progress = writeprogress_begin();
    struct export_result result;

    jobstop_catch();
    jobstop_hold();
    args->options.on_progress = writeprogress_show;
    args->options.userdata = &progress;
    int r = export_ckpt(args->ckpt, args->out, &args->options, &result, err);
    if (r < 0)
        return r;
    printf("%s: step %" PRId64 ", %.3f GB, %d tensors, %.1f s\n", args->out, result.step,
           (double)result.n_bytes * 1e-9, result.n_tensors, writeprogress_seconds(&progress));
    return fflush(stdout) ? hai_fail(err, -EIO, "writing to stdout failed") : 0;
}

int main(int argc, char **argv) {
    struct args args = {
        .options = {.dtype = K_F32, .shard_bytes = 5000000000}
    };
    struct hai_err err = {0};

    trainconf_init(&args.conf);
    int status = parse(argc, argv, &args);
    if (!status && export(&args, &err) < 0)
        status = jobstop_status(&err, jobexit_report(NAME, &err));
    trainconf_free(&args.conf);
    return status;
}
