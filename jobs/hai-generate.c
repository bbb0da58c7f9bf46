/* hai-generate - continue a text, a list of token ids, or a file of many prompts with a model. */
#include "jobs/answer.h"
#include "jobs/engineargs.h"
#include "jobs/jobexit.h"
#include "jobs/jsonrules.h"
#include "jobs/modelargs.h"
#include "jobs/promptfile.h"
#include "lib/fileio.h"

#include <getopt.h>
#include <stdio.h>

#define NAME "hai-generate"

static const char usage[] =
    "usage: " NAME " --model DIR (--prompt TEXT | --token-ids \"1 2 3\") [options]\n"
    "       " NAME " --model DIR --input FILE.jsonl [--output FILE.jsonl] [options]\n"
    "Print the continuation: text, or with --print-ids one JSON array of token ids. With --input,\n"
    "a JSON object a line: {\"prompt\": TEXT}, {\"token_ids\": [1, 2]} or {\"messages\": [...]},\n"
    "and beside it \"id\", \"thinking\", \"tools\", \"priority\" and the options below with _ for "
    "-\n"
    "(max_tokens, temperature, stop, json_schema, ...); an answer a line comes out, in that "
    "order.\n"
    "  --max-tokens N     at most so many new tokens (default 128)\n" SAMPLEARGS_USAGE
    "  --json-object      print a JSON object and nothing else\n"
    "  --json-schema FILE print JSON that FILE's schema accepts, and nothing else\n"
    "  --ignore-eos       go on after an end token\n"
    "  --print-ids        print token ids, not text\n" ENGINEARGS_PLACE_USAGE
    "With --input (- is stdin, and stdout of --output):\n" ENGINEARGS_USAGE
    "  --prefix-cache FILE  start with the prompts that FILE knows, and write it at the end\n"
    "  -q, --quiet        no progress and no closing line on stderr\n";

struct args {
    const char *model, *prompt, *input, *output, *prefix_cache;
    bool print_ids, quiet, json_object, ignore_eos;
    bool serves; // an option that only --input knows was given
    struct token_list ids;
    struct engine_options engine;
    double n_new_max;
    struct sampleargs sample;
    const char *json_schema; // a file
};

struct printer {
    const struct args *args;
    struct answer answer;
    struct buf text;
};

static void print_text(struct printer *p) {
    if (!p->args->print_ids && p->args->sample.options.n_logprobs < 0 && p->text.n_bytes)
        fwrite(p->text.data, 1, p->text.n_bytes, stdout);
    buf_clear(&p->text);
}

static int print_token(void *userdata, const struct sample_result *token) {
    struct printer *p = userdata;
    bool ends = answer_add(&p->answer, token->id, &p->text);

    if (p->args->sample.options.n_logprobs >= 0 && !stop_rules_has_id(p->answer.rules, token->id)) {
        _cleanup_(buf_free) struct buf line = {0};
        answer_dump_logprobs(token, &line);
        puts(buf_cstr(&line));
    }
    print_text(p);
    return fflush(stdout) ? -EIO : ends;
}

static void print_rest(struct printer *p) {
    const struct token_list *ids = &p->answer.ids;

    if (p->args->print_ids) {
        putchar('[');
        for (size_t i = 0; i < ids->n; i++)
            printf("%s%d", i ? ", " : "", ids->ids[i]);
        puts("]");
        return;
    }
    if (p->args->sample.options.n_logprobs >= 0)
        return;
    answer_end(&p->answer, &p->text);
    print_text(p);
    putchar('\n');
}

static bool needs_tokenizer(const struct args *args) {
    return args->prompt || args->sample.n_stops || args->json_object || args->json_schema ||
           (!args->print_ids && args->sample.options.n_logprobs < 0);
}

static int run(struct generate *g, const struct tokenizer *tokenizer, struct args *args,
               const struct stop_rules *rules, const struct sample_hooks *hooks,
               struct hai_err *err) {
    struct printer printer = {.args = args};
    const struct generate_request request = {.prompt = args->ids.ids,
                                             .n_prompt = (int64_t)args->ids.n,
                                             .n_tokens_max = (int64_t)args->n_new_max,
                                             .sample = args->sample.options,
                                             .hooks = hooks,
                                             .ignore_eos = args->ignore_eos};

    answer_start(&printer.answer, tokenizer, rules);
    int r = generate_run(g, &request, print_token, &printer, err);
    if (r == 0)
        print_rest(&printer);
    if ((r == 0 && fflush(stdout)) || ferror(stdout))
        r = hai_fail(err, -EIO, "writing to stdout failed");
    answer_free(&printer.answer);
    buf_free(&printer.text);
    return r;
}

/* One prompt. */
static int generate(struct args *args, struct hai_err *err) {
    _cleanup_(tokenizer_freep) struct tokenizer *tokenizer = NULL;
    _cleanup_(stop_rules_freep) struct stop_rules *rules = NULL;
    _cleanup_(generate_freep) struct generate *g = NULL;
    _cleanup_(jsonrules_freep) struct jsonrules *json = NULL;
    int r = sampleargs_rules(&args->sample, &rules, err);

    if (r == 0 && needs_tokenizer(args))
        r = tokenizer_read(args->model, &tokenizer, err);
    if (r == 0 && args->prompt)
        r = promptline_encode(tokenizer, args->prompt, strlen(args->prompt), &args->ids, err);
    if (r == 0)
        r = generate_open(args->model, &args->engine.place,
                          (int64_t)args->ids.n + (int64_t)args->n_new_max, &g, err);
    if (r == 0 && (args->json_object || args->json_schema))
        r = jsonrules_new(tokenizer, generate_config(g), args->json_schema, &json, err);
    if (r < 0)
        return r;
    return run(g, tokenizer, args, rules, json ? jsonrules_hooks(json) : NULL, err);
}

/* Many. Returns the exit status, or a negative errno. */
static int generate_file(struct args *args, struct hai_err *err) {
    _cleanup_(buf_free) struct buf schema = {0};
    struct promptfile_options o = {
        .program = NAME,
        .model = args->model,
        .input = args->input,
        .output = args->output ? args->output : "-",
        .engine = args->engine,
        .defaults = {.n_new_max = (int64_t)args->n_new_max,
                     .ignore_eos = args->ignore_eos,
                     .sample = args->sample},
        .prefix_cache = args->prefix_cache,
        .quiet = args->quiet,
    };

    if (args->json_object)
        buf_add_str(&schema, JSONRULES_OBJECT);
    if (args->json_schema) {
        int r = fileio_read_file(args->json_schema, GRAMMAR_SCHEMA_BYTES_MAX, &schema, err);
        if (r < 0)
            return r;
    }
    if (schema.n_bytes)
        o.defaults.schema = (char *)buf_cstr(&schema);
    int r = promptfile_run(&o, err);
    return r > 0 ? JOBEXIT_USAGE : r;
}

static int set_option(int c, struct args *ret) {
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
        status = modelargs_number(NAME, "--max-tokens", optarg, 1, PROMPTLINE_NEW_MAX, true,
                                  &ret->n_new_max);
        return status;
    case 'I':
        ret->input = optarg;
        return 0;
    case 'O':
        ret->output = optarg;
        return 0;
    case 'P':
        ret->prefix_cache = optarg;
        return 0;
    case 'q':
        ret->quiet = true;
        return 0;
    case 'e':
        ret->ignore_eos = true;
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
        ret->serves |= c >= ENGINEARGS_SLOTS;
        return c >= ENGINEARGS_BACKEND ? engineargs_set(NAME, c, optarg, &ret->engine)
                                       : sampleargs_set(NAME, c, optarg, &ret->sample);
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
        {"input",              required_argument, NULL, 'I'},
        {"output",               required_argument, NULL, 'O'},
        {"prefix-cache",       required_argument, NULL, 'P'},
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
    if (!ret->model)
        return jobexit_usage(NAME, "expected --model");
    if (!!ret->prompt + !!ret->ids.n + !!ret->input != 1)
        return jobexit_usage(NAME, "expected one of --prompt and --token-ids, or --input");
    if (!ret->input && (ret->output || ret->serves || ret->prefix_cache))
        return jobexit_usage(
            NAME, "--output, --prefix-cache, --slots, --cache-tokens and --drafts are for --input");
    if (ret->input && ret->print_ids)
        return jobexit_usage(NAME, "--print-ids is not for --input; its answers have the ids");
    if (ret->json_object && ret->json_schema)
        return jobexit_usage(NAME, "expected at most one of --json-object and --json-schema");
    if (ret->print_ids && ret->sample.options.n_logprobs >= 0)
        return jobexit_usage(NAME, "expected at most one of --print-ids and --logprobs");
    return 0;
}

int main(int argc, char **argv) {
    struct args args = {.engine = engineargs_defaults(), .n_new_max = 128};
    struct hai_err err = {0};

    sampleargs_init(&args.sample);
    int status = parse(argc, argv, &args);
    if (!status) {
        status = args.input ? generate_file(&args, &err) : generate(&args, &err);
        if (status < 0)
            status = jobexit_report(NAME, &err);
    }
    token_list_free(&args.ids);
    return status;
}
