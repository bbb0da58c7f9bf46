/* hai-prep - text, JSON lines and code as tokenised shards for training. */
#include "engine/data/fim.h"
#include "jobs/jobexit.h"
#include "jobs/jobstop.h"
#include "jobs/prep.h"
#include "lib/size.h"

#include <getopt.h>
#include <stdio.h>

#define NAME "hai-prep"

static const char usage[] =
    "usage: " NAME " OUT (--model DIR | --tokenizer FILE) SOURCE... [options]\n"
    "       " NAME " --check DIR\n"
    "Write the folder OUT with tokenised documents as shards and manifest.json, for training\n"
    "(docs/data.md). Sources are read in the order given; of documents that are the same or "
    "nearly\n"
    "so, the first is kept.\n"
    "  --text PATH        a document a file; files, folders, patterns; gzip is unpacked\n"
    "  --jsonl PATH       a document a line: a JSON object with its text\n"
    "  --code PATH        a document a folder: a repository's files, imported ones first; a "
    "pattern\n"
    "                     names several\n"
    "  --field NAME       member of a JSON line that has the text (default text)\n"
    "  --no-paths         code: no comment with the path above each file\n"
    "  --model DIR        folder with tokenizer.json; or bytes\n"
    "  --tokenizer FILE   a tokenizer.json\n"
    "  --special          special tokens written in a text are tokens; else they are text\n"
    "  --shard-tokens N   a shard ends with the document that reaches N tokens (default 1e8)\n"
    "  --fim RATE         share of the documents (code: files) rewritten so that a model learns "
    "to\n"
    "                     fill in the middle (default 0)\n"
    "  --fim-tokens A,B,C the tokens before prefix, suffix and middle (default DeepSeek's)\n"
    "  --dedup KIND       near (default), exact or none\n"
    "  --shingle N        near: words of a shingle (default 5)\n"
    "  --shingle-bytes N  near: shingles of bytes instead\n"
    "  --permutations K   near: values of a signature (default 128)\n"
    "  --bands B          near: groups of them that make candidates (default 16)\n"
    "  --threshold T      near: share of equal values from which on they are near (default 0.8)\n"
    "  --dedup-memory S   for what was seen, 450 bytes a document by default (default 1GiB)\n"
    "  --seed N           of all that is drawn (default 1)\n"
    "  -q, --quiet        print nothing but errors\n"
    "  --check DIR        read a folder that was written and compare every checksum\n"
    "Memory: one document (at most 256 MiB) with its tokens, about 10 times its size; what "
    "--dedup-memory\n"
    "says; 8 bytes a document of a shard.\n";

enum {
    OPTION_MODEL = 0x200,
    OPTION_SPECIAL,
    OPTION_NO_PATHS,
    OPTION_FIELD,
    OPTION_SHARD_TOKENS,
    OPTION_FIM,
    OPTION_FIM_TOKENS,
    OPTION_DEDUP,
    OPTION_SHINGLE,
    OPTION_SHINGLE_BYTES,
    OPTION_PERMUTATIONS,
    OPTION_BANDS,
    OPTION_THRESHOLD,
    OPTION_DEDUP_MEMORY,
    OPTION_SEED,
    OPTION_CHECK,
    OPTION_HELP,
    OPTION_SOURCE = 0x300, // + enum prep_kind
};

static const struct option options[] = {
    {"text",                      required_argument, NULL, OPTION_SOURCE + PREP_TEXT},
    {"jsonl",                       required_argument, NULL, OPTION_SOURCE + PREP_JSONL},
    {"code",                           required_argument, NULL, OPTION_SOURCE + PREP_CODE},
    {"field",required_argument, NULL, OPTION_FIELD},
    {"no-paths", no_argument, NULL, OPTION_NO_PATHS},
    {"model",                      required_argument, NULL, OPTION_MODEL},
    {"tokenizer",                       required_argument, NULL, OPTION_MODEL},
    {"special",                           no_argument, NULL, OPTION_SPECIAL},
    {"shard-tokens",                       required_argument, NULL, OPTION_SHARD_TOKENS},
    {"fim",               required_argument, NULL, OPTION_FIM},
    {"fim-tokens",                  required_argument, NULL, OPTION_FIM_TOKENS},
    {"dedup",                       required_argument, NULL, OPTION_DEDUP},
    {"shingle",                           required_argument, NULL, OPTION_SHINGLE},
    {"shingle-bytes",required_argument, NULL, OPTION_SHINGLE_BYTES},
    {"permutations",               required_argument, NULL, OPTION_PERMUTATIONS},
    {"bands",                 required_argument, NULL, OPTION_BANDS},
    {"threshold",                       required_argument, NULL, OPTION_THRESHOLD},
    {"dedup-memory",                           required_argument, NULL, OPTION_DEDUP_MEMORY},
    {"seed",required_argument, NULL, OPTION_SEED},
    {"quiet",             no_argument, NULL, 'q'},
    {"check",              required_argument, NULL, OPTION_CHECK},
    {"help",                       no_argument, NULL, OPTION_HELP},
    {0                          },
};

struct args {
    struct prep_options with;
    struct prep_source *sources; // owned
    const char *check;
    char *fim_text; // names of tokens, owned
};

/* A number of an option; 0 or the exit status after a message. */
static int number(const char *option, const char *text, double low, double high, bool whole,
                  double *ret) {
    char *end;

    errno = 0;
    double v = strtod(text, &end);
    if (errno || end == text || *end || !(v >= low && v <= high) ||
        (whole && v != (double)(int64_t)v))
        return jobexit_usage(NAME, "%s is %s; expected a %snumber from %.15g to %.15g", option,
                             text, whole ? "whole " : "", low, high);
    *ret = v;
    return 0;
}

static int whole_int(const char *option, const char *text, double high, int *ret) {
    double v;
    int status = number(option, text, 1, high, true, &v);

    if (!status)
        *ret = (int)v;
    return status;
}

static int dedup_kind(const char *text, enum prep_dedup *ret) {
    for (*ret = 0; *ret < PREP_DEDUP_COUNT; (*ret)++)
        if (hai_streq(text, prep_dedups[*ret]))
            return 0;
    return jobexit_usage(NAME, "--dedup is %s; expected near, exact or none", text);
}

static int fim_tokens(struct args *args, const char *text) {
    hai_strset(&args->fim_text, text);
    char *at = args->fim_text;

    for (int i = 0; i < 3; i++) {
        char *comma = strchr(at, ',');
        if (!*at || *at == ',' || !comma != (i == 2))
            return jobexit_usage(NAME, "--fim-tokens is %s; expected three tokens, as A,B,C", text);
        args->with.fim_names[i] = at;
        if (comma)
            *comma = 0;
        at = comma ? comma + 1 : at;
    }
    return 0;
}

static int dedup_memory(const char *text, int64_t *ret) {
    struct hai_err err = {0};

    return size_parse(text, ret, &err) < 0
               ? jobexit_usage(NAME, "--dedup-memory is %s; expected a size, as 1GiB", text)
               : 0;
}

/* Options with a value; 0 or the exit status after a message. */
static int set(int option, const char *text, struct args *args) {
    struct prep_options *with = &args->with;
    double v = 0;
    int status = 0;

    switch (option) {
    case OPTION_FIELD:
        with->field = text;
        return 0;
    case OPTION_CHECK:
        args->check = text;
        return 0;
    case OPTION_SHARD_TOKENS:
        status = number("--shard-tokens", text, 1, 1e12, true, &v);
        with->shard_tokens = (int64_t)v;
        return status;
    case OPTION_SEED:
        status = number("--seed", text, 0, 9007199254740992.0, true, &v);
        with->seed = with->minhash.seed = (uint64_t)v;
        return status;
    case OPTION_FIM:
        return number("--fim", text, 0, 1, false, &with->fim_rate);
    case OPTION_FIM_TOKENS:
        return fim_tokens(args, text);
    case OPTION_DEDUP:
        return dedup_kind(text, &with->dedup);
    case OPTION_SHINGLE:
    case OPTION_SHINGLE_BYTES:
        with->minhash.bytes = option == OPTION_SHINGLE_BYTES;
        return whole_int("--shingle", text, MINHASH_SHINGLE_MAX, &with->minhash.shingle);
    case OPTION_PERMUTATIONS:
        return whole_int("--permutations", text, MINHASH_PERMUTATIONS_MAX,
                         &with->minhash.permutations);
    case OPTION_BANDS:
        return whole_int("--bands", text, MINHASH_PERMUTATIONS_MAX, &with->minhash.bands);
    case OPTION_THRESHOLD:
        return number("--threshold", text, 1e-6, 1, false, &with->minhash.threshold);
    case OPTION_DEDUP_MEMORY:
        return dedup_memory(text, &with->dedup_bytes);
    default:
        fputs(usage, stderr);
        return JOBEXIT_USAGE;
    }
}

/* What must hold between the options. */
static int check(int n_words, struct args *args) {
    struct prep_options *with = &args->with;
    struct hai_err err = {0};

    if (args->check)
        return n_words || with->tokenizer || with->n_sources
                   ? jobexit_usage(NAME, "--check goes with nothing else")
                   : 0;
    if (n_words != 1)
        return jobexit_usage(NAME, "expected one folder to write");
    if (!with->tokenizer)
        return jobexit_usage(NAME, "expected --model or --tokenizer");
    if (!with->n_sources)
        return jobexit_usage(NAME, "expected --text, --jsonl or --code");
    if (minhash_check(&with->minhash, &err) < 0)
        return jobexit_usage(NAME, "%s", err.text);
    return 0;
}

/* 0, or the exit status after a message; -1: help was printed. */
static int parse(int argc, char **argv, struct args *ret) {
    struct prep_options *with = &ret->with;
    int c, status = 0;

    while (!status && (c = getopt_long(argc, argv, "q", options, NULL)) != -1)
        switch (c) {
        case OPTION_MODEL:
            if (with->tokenizer)
                return jobexit_usage(NAME, "expected one of --model and --tokenizer");
            with->tokenizer = optarg;
            break;
        case OPTION_SPECIAL:
            with->special = true;
            break;
        case OPTION_NO_PATHS:
            with->no_paths = true;
            break;
        case 'q':
            with->quiet = true;
            break;
        case OPTION_HELP:
            fputs(usage, stdout);
            return -1;
        case OPTION_SOURCE + PREP_TEXT:
        case OPTION_SOURCE + PREP_JSONL:
        case OPTION_SOURCE + PREP_CODE:
            ret->sources[with->n_sources++] =
                (struct prep_source){(enum prep_kind)(c - OPTION_SOURCE), optarg};
            break;
        default:
            status = set(c, optarg, ret);
        }
    if (status)
        return status;
    with->out = argv[optind];
    return check(argc - optind, ret);
}

int main(int argc, char **argv) {
    struct args args = {
        .with = {.field = "text",
                 .shard_tokens = 100000000,
                 .seed = 1,
                 .minhash = minhash_defaults(),
                 .dedup_bytes = INT64_C(1) << 30},
        .sources = hai_new_array(struct prep_source, (size_t)argc)
    };
    struct hai_err err = {0};

    args.with.sources = args.sources;
    args.with.minhash.seed = args.with.seed;
    memcpy(args.with.fim_names, fim_names, sizeof fim_names);
    int status = parse(argc, argv, &args);
    if (!status) {
        jobstop_catch();
        int r = args.check ? prep_check(args.check, &err) : prep_run(&args.with, &err);
        status = r < 0 ? jobstop_status(&err, jobexit_report(NAME, &err)) : JOBEXIT_DONE;
    }
    free(args.fim_text);
    free(args.sources);
    return MAX(status, 0);
}
