/* hai-generate - continue a text, or a list of token ids, with a model. */
#include "engine/data/tokenizer.h"
#include "engine/data/utf8.h"
#include "engine/infer/generate.h"
#include "jobs/jobexit.h"
#include "jobs/jsonrules.h"
#include "jobs/modelargs.h"
#include "jobs/sampleargs.h"
#include "lib/json.h"

#include <getopt.h>
#include <stdio.h>

#define NAME "hai-generate"

static const char usage[] =
    "usage: " NAME " --model DIR (--prompt TEXT | --token-ids \"1 2 3\") [--max-tokens N]\n"
    "                    [--temperature T] [--seed N] [--top-k N] [--top-p P] [--min-p P]\n"
    "                    [--repeat-penalty R] [--frequency-penalty F] [--presence-penalty F]\n"
    "                    [--logit-bias ID:B] [--stop TEXT] [--stop-id ID] [--keep-stop]\n"
    "                    [--json-object | --json-schema FILE]\n"
    "                    [--ignore-eos] [--print-ids | --logprobs N]\n"
    "                    [--backend ref|cpu|cuda] [--dtype f32|bf16]\n"
    "Print the continuation: text, or with --print-ids one JSON array of token ids.\n"
    "  --max-tokens N     at most so many new tokens (default 128)\n" SAMPLEARGS_USAGE
    "  --json-object      print a JSON object and nothing else\n"
    "  --json-schema FILE print JSON that FILE's schema accepts, and nothing else\n"
    "  --ignore-eos       go on after an end token\n"
    "  --dtype bf16       round the weights to bf16 first; arithmetic stays float32\n";

struct args {
    const char *model, *prompt;
    bool print_ids;
    struct token_list ids;
    struct generate_place place;
    struct generate_request request;
    struct sampleargs sample;
    bool json_object;
    const char *json_schema; // a file
};

struct printer {
    const struct tokenizer *tokenizer; // NULL: ids are collected only
    const struct args *args;
    const struct stop_rules *rules;
    struct stop *stop;
    struct token_list ids;
    struct buf pending; // bytes that may be half a character
};

/* {"id": 5, "logprob": -0.5, "top": [[5, -0.5], [7, -1.5]]} */
static void print_logprobs(const struct sample_result *token) {
    _cleanup_(buf_free) struct buf line = {0};

    buf_printf(&line, "{\"id\": %d, \"logprob\": ", token->id);
    json_dump_real(token->logprob, &line);
    buf_add_str(&line, ", \"top\": [");
    for (int i = 0; i < token->n_top; i++) {
        buf_printf(&line, "%s[%d, ", i ? ", " : "", token->top[i].id);
        json_dump_real(token->top[i].logprob, &line);
        buf_add_str(&line, "]");
    }
    buf_add_str(&line, "]}");
    puts(buf_cstr(&line));
}

static void print_text(struct printer *p) {
    _cleanup_(buf_free) struct buf text = {0};

    utf8_add_stream(&text, &p->pending);
    if (text.n_bytes)
        fwrite(text.data, 1, text.n_bytes, stdout);
}

/* A token's text goes through the stop strings, then through repair of characters in pieces. */
static int print_token(void *userdata, const struct sample_result *token) {
    struct printer *p = userdata;
    _cleanup_(buf_free) struct buf bytes = {0};
    bool prints_text = !p->args->print_ids && p->args->sample.options.n_logprobs < 0;
    int stopped = 0;

    if (stop_rules_has_id(p->rules, token->id))
        return 1;
    token_list_add(&p->ids, token->id);
    if (p->args->sample.options.n_logprobs >= 0)
        print_logprobs(token);
    // A model may have more rows than its tokenizer has tokens; those have no text.
    if (p->tokenizer && !tokenizer_is_special(p->tokenizer, token->id)) {
        tokenizer_add_bytes(p->tokenizer, token->id, &bytes);
        stopped = stop_add(p->stop, bytes.data, bytes.n_bytes, &p->pending);
    }
    if (prints_text)
        print_text(p);
    return fflush(stdout) ? -EIO : stopped;
}

static void print_rest(struct printer *p) {
    _cleanup_(buf_free) struct buf text = {0};

    if (p->args->print_ids) {
        putchar('[');
        for (size_t i = 0; i < p->ids.n; i++)
            printf("%s%d", i ? ", " : "", p->ids.ids[i]);
        puts("]");
        return;
    }
    if (p->args->sample.options.n_logprobs >= 0)
        return;
    if (stop_found(p->stop) < 0)
        stop_end(p->stop, &p->pending);
    utf8_add_lossy(&text, p->pending.data, p->pending.n_bytes);
    puts(buf_cstr(&text));
}

/* The prompt's ids, with the begin token where the model's configuration asks for one and the text
 * does not bring it. */
static int encode(struct tokenizer *tokenizer, struct args *args, struct hai_err *err) {
    struct token_list ids = {0};
    int32_t begin = tokenizer_begin(tokenizer);
    int r = tokenizer_encode(tokenizer, args->prompt, strlen(args->prompt), &ids, err);

    if (r == 0 && begin >= 0 && (!ids.n || ids.ids[0] != begin))
        token_list_add(&args->ids, begin);
    token_list_add_n(&args->ids, ids.ids, ids.n);
    token_list_free(&ids);
    if (r == 0 && !args->ids.n)
        r = hai_fail(err, -EINVAL, "--prompt is empty; expected text");
    return r;
}

static bool needs_tokenizer(const struct args *args) {
    return args->prompt || args->sample.n_stops || args->json_object || args->json_schema ||
           (!args->print_ids && args->sample.options.n_logprobs < 0);
}

static int run(struct generate *g, const struct tokenizer *tokenizer, struct args *args,
               const struct stop_rules *rules, struct hai_err *err) {
    _cleanup_(stop_freep) struct stop *stop = stop_new(rules);
    struct printer printer = {.tokenizer = tokenizer, .args = args, .rules = rules, .stop = stop};

    args->request.prompt = args->ids.ids;
    args->request.n_prompt = (int64_t)args->ids.n;
    args->request.sample = args->sample.options;
    int r = generate_run(g, &args->request, print_token, &printer, err);
    if (r == 0)
        print_rest(&printer);
    if ((r == 0 && fflush(stdout)) || ferror(stdout))
        r = hai_fail(err, -EIO, "writing to stdout failed");
    token_list_free(&printer.ids);
    buf_free(&printer.pending);
    return r;
}

static int generate(struct args *args, struct hai_err *err) {
    _cleanup_(tokenizer_freep) struct tokenizer *tokenizer = NULL;
    _cleanup_(stop_rules_freep) struct stop_rules *rules = NULL;
    _cleanup_(generate_freep) struct generate *g = NULL;
    _cleanup_(jsonrules_freep) struct jsonrules *json = NULL;
    int r = sampleargs_rules(&args->sample, &rules, err);

    if (r == 0 && needs_tokenizer(args))
        r = tokenizer_read(args->model, &tokenizer, err);
    if (r == 0 && args->prompt)
        r = encode(tokenizer, args, err);
    if (r == 0)
        r = generate_open(args->model, &args->place,
                          (int64_t)args->ids.n + args->request.n_tokens_max, &g, err);
    if (r == 0 && (args->json_object || args->json_schema))
        r = jsonrules_new(tokenizer, generate_config(g), args->json_schema, &json, err);
    if (r < 0)
        return r;
    args->request.hooks = json ? jsonrules_hooks(json) : NULL;
    return run(g, tokenizer, args, rules, err);
}

static int set_option(int c, struct args *ret) {
    double number = 0;
    int status;

    switch (c) {
    case 'm':
        ret->model = optarg;
        return 0;
    case 'p':
        ret->prompt = optarg;
        return 0;
    case 'i':
        return modelargs_token_ids(NAME, optarg, &ret->ids);
    case 'n':
        status = modelargs_number(NAME, "--max-tokens", optarg, 1, 1 << 24, true, &number);
        ret->request.n_tokens_max = (int64_t)number;
        return status;
    case 'b':
        return modelargs_backend(NAME, optarg, &ret->place.backend);
    case 'd':
        return modelargs_dtype(NAME, optarg, &ret->place.dtype);
    case 'e':
        ret->request.ignore_eos = true;
        return 0;
    case 'j':
        ret->print_ids = true;
        return 0;
    case 'o':
        ret->json_object = true;
        return 0;
    case 'c':
        ret->json_schema = optarg;
        return 0;
    case 'h':
        fputs(usage, stdout);
        exit(JOBEXIT_DONE);
    case '?':
        fputs(usage, stderr);
        return JOBEXIT_USAGE;
    default:
        return sampleargs_set(NAME, c, optarg, &ret->sample);
    }
}

/* 0, or the exit status after a message. */
static int parse(int argc, char **argv, struct args *ret) {
    static const struct option options[] = {
        {"model",            required_argument, NULL, 'm'},
        {"prompt",              required_argument, NULL, 'p'},
        {"token-ids",                  required_argument, NULL, 'i'},
        {"max-tokens",required_argument, NULL, 'n'},
        SAMPLEARGS_OPTIONS,
        {"ignore-eos",               no_argument, NULL, 'e'},
        {"json-object",        no_argument, NULL, 'o'},
        {"json-schema",              required_argument, NULL, 'c'},
        {"print-ids",                  no_argument, NULL, 'j'},
        {"backend",              required_argument, NULL, 'b'},
        {"dtype",               required_argument, NULL, 'd'},
        {"help",       no_argument, NULL, 'h'},
        {0             },
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        int status = set_option(c, ret);
        if (status)
            return status;
    }
    if (optind < argc)
        return jobexit_usage(NAME, "unexpected '%s'", argv[optind]);
    if (!ret->model)
        return jobexit_usage(NAME, "expected --model");
    if (!ret->prompt == !ret->ids.n)
        return jobexit_usage(NAME, "expected one of --prompt and --token-ids");
    if (ret->json_object && ret->json_schema)
        return jobexit_usage(NAME, "expected at most one of --json-object and --json-schema");
    if (ret->print_ids && ret->sample.options.n_logprobs >= 0)
        return jobexit_usage(NAME, "expected at most one of --print-ids and --logprobs");
    return 0;
}

int main(int argc, char **argv) {
    struct args args = {
        .place = {.backend = K_BACKEND_CPU, .n_threads = modelargs_threads()},
        .request = {.n_tokens_max = 128                       }
    };
    struct hai_err err = {0};

    sampleargs_init(&args.sample);
    int status = parse(argc, argv, &args);
    if (!status && generate(&args, &err) < 0)
        status = jobexit_report(NAME, &err);
    token_list_free(&args.ids);
    return status;
}
