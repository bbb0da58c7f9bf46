/* hai-bench - how fast a model runs on this machine; folders with random weights to try shapes. */
#include "engine/data/tokenizer.h"
#include "engine/model/dummy.h"
#include "engine/model/folder.h"
#include "jobs/benchrun.h"
#include "jobs/engineargs.h"
#include "jobs/jobexit.h"
#include "jobs/jobstop.h"
#include "jobs/modelargs.h"
#include "lib/json.h"

#include <getopt.h>
#include <stdio.h>

#define NAME "hai-bench"

static const char usage[] =
    "usage: " NAME " --model DIR [--context 0,1024,4096] [--prefill N] [--decode N] [--json]\n"
    "       " NAME " --make DIR --like SHAPE [--dtype bf16|f32|fp8] [--seed N]\n"
    "Measure prefill and decoding by length of context, memory, and the time from exec to the\n"
    "first token with the files in memory and not. Median (least-most) of the repetitions after\n"
    "one to warm up. The context's keys are random numbers: they cost what computed ones cost.\n"
    "  --context N,N,...  tokens before what is measured (default 0)\n"
    "  --prefill N        tokens of a prompt (default 512)\n"
    "  --decode N         tokens, one after the other (default 64)\n"
    "  --repeat N         repetitions (default 5)\n"
    "  --requests N       also: N such requests at once through the engine\n"
    "  --no-first         not the first token after exec\n"
    "  --json             print one JSON object\n"
    "  -q, --quiet        no progress on stderr\n" ENGINEARGS_PLACE_USAGE ENGINEARGS_USAGE
    "Make a folder with random weights in the shape of a published model:\n"
    "  --like SHAPE       tiny (to try), coder-1.3b, qwen2-1.5b, moe-16b-5 (5 of 28\n"
    "                     layers), v2-lite-16 (16 of 64 experts), v3-2b (12 layers in the form of "
    "V3)\n"
    "  --dtype T          bf16 (default), f32, or fp8 with 128 x 128 scales\n"
    "  --seed N           of the values (default 0)\n";

struct args {
    struct benchrun_options bench;
    const char *make, *like, *dtype;
    double seed;
    bool json, quiet;
};

static int say_written(void *userdata, int64_t done, int64_t all) {
    progress_say(userdata, "%.1f of %.1f GB written", (double)done / 1e9, (double)all / 1e9);
    return jobstop_look();
}

static int make(const struct args *args, struct hai_err *err) {
    _cleanup_(tokenizer_freep) struct tokenizer *bytes = tokenizer_new_bytes();
    int dtype = args->dtype ? schema_enum_parse(&dummy_dtype_enum, args->dtype) : DUMMY_BF16;
    _cleanup_(folder_freep) struct folder *folder = NULL;
    struct progress progress;

    jobstop_catch();
    jobstop_hold();
    int r = folder_new(args->make, &folder, err);
    if (r < 0)
        return r;
    progress_start(&progress, args->quiet);
    r = dummy_write(folder, args->like, dtype, (uint64_t)args->seed,
                    args->bench.engine.place.n_threads, say_written, &progress, err);
    progress_clear(&progress);
    if (r == 0)
        r = tokenizer_export(bytes, folder_dir(folder), err);
    return r < 0 ? r : folder_finish(folder, err);
}

static void print_spread(const char *name, const struct benchrun_spread *x, int width) {
    char text[64];

    (void)snprintf(text, sizeof text, "%.*f (%.*f-%.*f)", x->median < 10 ? 2 : 1, x->median,
                   x->least < 10 ? 2 : 1, x->least, x->most < 10 ? 2 : 1, x->most);
    printf("%s%-*s", name, width, text);
}

static void print_first(const struct benchrun_result *r) {
    printf("first token after exec: ");
    if (r->cold_s.n)
        printf("%.2f s cold (%.2f-%.2f), ", r->cold_s.median, r->cold_s.least, r->cold_s.most);
    else
        printf("cold not measured (%s), ", r->no_cold);
    printf("%.2f s warm (%.2f-%.2f); prompt of %d tokens\n", r->warm_s.median, r->warm_s.least,
           r->warm_s.most, BENCHRUN_FIRST_TOKENS);
}

/* Which form prefill ran in. */
static const char *prefill_form(const struct benchrun_options *o, const struct benchrun_result *r) {
    if (!o->engine.place.fast_prefill)
        return "row-invariant prefill";
    return model_has_fast_prefill(&r->config) ? "fast prefill"
                                              : "row-invariant prefill (this model has no other)";
}

static void print_text(const struct benchrun_options *o, const struct benchrun_result *r) {
    printf("%s: %.2f billion parameters, kernel path %s, %d threads, %s\n", o->model,
           r->n_params / 1e9, r->kernel_path, o->engine.place.n_threads, prefill_form(o, r));
    printf("weights: %.2f GB in files, %.2f GB of matrices read a token\n",
           (double)r->weight_bytes / 1e9, r->token_bytes / 1e9);
    printf("memory: %.2f GB at most, %.2f GB of it not of mapped files\n",
           (double)r->peak_rss_bytes / 1e9, (double)r->peak_private_bytes / 1e9);
    if (o->first)
        print_first(r);
    printf("CONTEXT  PREFILL tokens/s       DECODE tokens/s        GB/s\n");
    for (int i = 0; i < o->n_contexts; i++) {
        printf("%7lld  ", (long long)o->contexts[i]);
        print_spread("", &r->prefill[i], 23);
        print_spread("", &r->decode[i], 23);
        printf("%.1f\n", r->decode[i].median * r->token_bytes / 1e9);
    }
    printf("prefill of %lld tokens, decoding of %lld; median (least-most) of %d; the context is "
           "random\n",
           (long long)o->n_prefill, (long long)o->n_decode, o->n_repeats);
    if (!o->n_requests)
        return;
    print_spread("requests at once: ", &r->requests, 0);
    printf(" new tokens/s of %d; first token after %.3f s (%.3f-%.3f), then one each %.4f s "
           "(%.4f-%.4f)\n",
           o->n_requests, r->first_s.median, r->first_s.least, r->first_s.most, r->gap_s.median,
           r->gap_s.least, r->gap_s.most);
}

static void add_spread(struct json *to, const char *name, const struct benchrun_spread *x) {
    if (!x->n) {
        json_add(to, name, json_new_null());
        return;
    }
    struct json *s = json_add(to, name, json_new_object());
    json_add_int(s, "n", x->n);
    json_add_real(s, "median", x->median);
    json_add_real(s, "least", x->least);
    json_add_real(s, "most", x->most);
}

static void print_json(const struct benchrun_options *o, const struct benchrun_result *r) {
    _cleanup_(json_freep) struct json *all = json_new_object();
    _cleanup_(buf_free) struct buf text = {0};

    json_add_string(all, "model", o->model);
    json_add_string(all, "kernel_path", r->kernel_path);
    json_add_int(all, "threads", o->engine.place.n_threads);
    json_add_bool(all, "row_invariant",
                  !o->engine.place.fast_prefill || !model_has_fast_prefill(&r->config));
    json_add_real(all, "parameters", r->n_params);
    json_add_int(all, "weights_bytes", r->weight_bytes);
    json_add_real(all, "token_bytes", r->token_bytes);
    json_add_int(all, "peak_rss_bytes", r->peak_rss_bytes);
    json_add_int(all, "peak_private_bytes", r->peak_private_bytes);
    add_spread(all, "first_token_cold_s", &r->cold_s);
    add_spread(all, "first_token_warm_s", &r->warm_s);
    json_add_int(all, "prefill_tokens", o->n_prefill);
    json_add_int(all, "decode_tokens", o->n_decode);
    struct json *contexts = json_add(all, "contexts", json_new_array());
    for (int i = 0; i < o->n_contexts; i++) {
        struct json *c = json_append(contexts, json_new_object());
        json_add_int(c, "context_tokens", o->contexts[i]);
        add_spread(c, "prefill_tokens_per_s", &r->prefill[i]);
        add_spread(c, "decode_tokens_per_s", &r->decode[i]);
        json_add_real(c, "decode_bytes_per_s", r->decode[i].median * r->token_bytes);
    }
    json_add_int(all, "requests", o->n_requests);
    add_spread(all, "requests_tokens_per_s", &r->requests);
    add_spread(all, "requests_first_token_s", &r->first_s);
    add_spread(all, "requests_gap_s", &r->gap_s);
    json_dump(all, 0, &text);
    puts(buf_cstr(&text));
}

static int bench(const struct args *args, struct hai_err *err) {
    struct benchrun_result result;
    struct progress progress;

    progress_start(&progress, args->quiet);
    int r = benchrun_all(&args->bench, &progress, &result, err);
    progress_clear(&progress);
    if (r < 0)
        return r;
    if (args->json)
        print_json(&args->bench, &result);
    else
        print_text(&args->bench, &result);
    return fflush(stdout) || ferror(stdout) ? hai_fail(err, -EIO, "writing to stdout failed") : 0;
}

/* "0,1024,4096" */
static int parse_contexts(char *text, struct benchrun_options *ret) {
    char *rest = NULL;

    ret->n_contexts = 0;
    for (char *word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        double x;
        if (ret->n_contexts == BENCHRUN_CONTEXTS_MAX)
            return jobexit_usage(NAME, "--context has more than %d", BENCHRUN_CONTEXTS_MAX);
        int status = modelargs_number(NAME, "--context", word, 0, 1 << 24, true, &x);
        if (status)
            return status;
        ret->contexts[ret->n_contexts++] = (int64_t)x;
    }
    return ret->n_contexts ? 0 : jobexit_usage(NAME, "--context is empty");
}

static int set_count(const char *name, double high, int64_t *ret) {
    double x = 0;
    int status = modelargs_number(NAME, name, optarg, 1, high, true, &x);

    *ret = (int64_t)x;
    return status;
}

static int set_option(int c, struct args *ret) {
    struct benchrun_options *b = &ret->bench;
    int64_t n = 0;
    int status;

    switch (c) {
    case 'm':
        b->model = optarg;
        return 0;
    case 'M':
        ret->make = optarg;
        return 0;
    case 'l':
        ret->like = optarg;
        return 0;
    case 's':
        return modelargs_number(NAME, "--seed", optarg, 0, 9e15, true, &ret->seed);
    case 'c':
        return parse_contexts(optarg, b);
    case 'p':
        return set_count("--prefill", 1 << 20, &b->n_prefill);
    case 'd':
        return set_count("--decode", 1 << 20, &b->n_decode);
    case 'r':
        status = set_count("--repeat", BENCHRUN_REPEATS_MAX, &n);
        b->n_repeats = (int)n;
        return status;
    case 'R':
        status = set_count("--requests", 4096, &n);
        b->n_requests = (int)n;
        return status;
    case 'f':
        b->first = false;
        return 0;
    case 'j':
        ret->json = true;
        return 0;
    case 'q':
        ret->quiet = true;
        return 0;
    case ENGINEARGS_DTYPE:
        ret->dtype = optarg;
        return 0;
    case 'h':
        fputs(usage, stdout);
        exit(JOBEXIT_DONE);
    case '?':
        fputs(usage, stderr);
        return JOBEXIT_USAGE;
    default:
        return engineargs_set(NAME, c, optarg, &b->engine);
    }
}

/* What belongs together. 0, or the exit status after a message. */
static int check(struct args *args) {
    if (!args->make == !args->bench.model)
        return jobexit_usage(NAME, "expected one of --model and --make");
    if (!args->make != !args->like)
        return jobexit_usage(NAME, "--make and --like (%s) go together", dummy_shapes());
    if (args->make && args->dtype && schema_enum_parse(&dummy_dtype_enum, args->dtype) < 0)
        return jobexit_usage(NAME, "--dtype is '%s'; expected bf16, f32 or fp8", args->dtype);
    return args->make || !args->dtype
               ? 0
               : modelargs_dtype(NAME, args->dtype, &args->bench.engine.place.dtype);
}

/* 0, or the exit status after a message. */
static int parse(int argc, char **argv, struct args *ret) {
    static const struct option options[] = {
        {"model",            required_argument, NULL, 'm'},
        {"make",              required_argument, NULL, 'M'},
        {"like",                  required_argument, NULL, 'l'},
        {"seed",required_argument, NULL, 's'},
        {"context",               required_argument, NULL, 'c'},
        {"prefill",             required_argument, NULL, 'p'},
        {"decode",              required_argument, NULL, 'd'},
        {"repeat",                  required_argument, NULL, 'r'},
        {"requests",              required_argument, NULL, 'R'},
        {"no-first",               no_argument, NULL, 'f'},
        {"json",          no_argument, NULL, 'j'},
        {"quiet",              no_argument, NULL, 'q'},
        ENGINEARGS_PLACE_OPTIONS,
        ENGINEARGS_OPTIONS,
        {"help",                  no_argument, NULL, 'h'},
        {0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "q", options, NULL)) != -1) {
        int status = set_option(c, ret);
        if (status)
            return status;
    }
    if (optind < argc)
        return jobexit_usage(NAME, "unexpected '%s'", argv[optind]);
    return check(ret);
}

int main(int argc, char **argv) {
    struct args args = {
        .bench = {.engine = engineargs_defaults(),
                  .n_contexts = 1,
                  .n_prefill = 512,
                  .n_decode = 64,
                  .n_repeats = 5,
                  .first = true}
    };
    struct hai_err err = {0};
    int status = parse(argc, argv, &args);

    if (!status && (args.make ? make(&args, &err) : bench(&args, &err)) < 0)
        status = jobstop_status(&err, jobexit_report(NAME, &err));
    return status;
}
