/* hai-generate - continue a text, or a list of token ids, with a model. */
#include "engine/data/textstream.h"
#include "engine/infer/generate.h"
#include "jobs/jobexit.h"
#include "jobs/modelargs.h"

#include <getopt.h>
#include <stdio.h>

#define NAME "hai-generate"

static const char usage[] =
    "usage: " NAME " --model DIR (--prompt TEXT | --token-ids \"1 2 3\") --max-tokens N\n"
    "                    --temperature T [--seed N] [--ignore-eos] [--print-ids]\n"
    "                    [--backend ref|cpu|cuda] [--dtype f32|bf16]\n"
    "Print the continuation: text, or with --print-ids one JSON array of token ids.\n"
    "  --max-tokens N     at most so many new tokens (default 128)\n"
    "  --temperature T    0: the likeliest token each time (default)\n"
    "  --seed N           of the draws at other temperatures (default 0)\n"
    "  --ignore-eos       go on after an end token\n"
    "  --dtype bf16       round the weights to bf16 first; arithmetic stays float32\n";

struct args {
    const char *model, *prompt;
    bool print_ids;
    struct token_list ids;
    struct generate_place place;
    struct generate_request request;
};

struct printer {
    struct textstream text; // unless ids are printed
    const struct args *args;
    struct token_list ids;
};

static int print_token(void *userdata, int32_t id) {
    struct printer *p = userdata;
    _cleanup_(buf_free) struct buf text = {0};

    token_list_add(&p->ids, id);
    if (p->args->print_ids)
        return 0;
    // A model may have more rows than its tokenizer has tokens; those have no text.
    (void)textstream_feed(&p->text, id, &text);
    if (text.n_bytes)
        fwrite(text.data, 1, text.n_bytes, stdout);
    return fflush(stdout) ? -EIO : 0;
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
    textstream_flush(&p->text, &text);
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

static int generate(struct args *args, struct hai_err *err) {
    _cleanup_(tokenizer_freep) struct tokenizer *tokenizer = NULL;
    _cleanup_(generate_freep) struct generate *g = NULL;
    struct printer printer = {.args = args};
    int r = 0;

    if (args->prompt || !args->print_ids)
        r = tokenizer_read(args->model, &tokenizer, err);
    if (r == 0 && args->prompt)
        r = encode(tokenizer, args, err);
    if (r == 0)
        r = generate_open(args->model, &args->place,
                          (int64_t)args->ids.n + args->request.n_tokens_max, &g, err);
    if (r < 0)
        return r;
    args->request.prompt = args->ids.ids;
    args->request.n_prompt = (int64_t)args->ids.n;
    printer.text = (struct textstream){.tokenizer = tokenizer, .skip_special = true};
    r = generate_run(g, &args->request, print_token, &printer, err);
    if (r == 0)
        print_rest(&printer);
    if ((r == 0 && fflush(stdout)) || ferror(stdout))
        r = hai_fail(err, -EIO, "writing to stdout failed");
    token_list_free(&printer.ids);
    textstream_free(&printer.text);
    return r;
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
    case 't':
        return modelargs_number(NAME, "--temperature", optarg, 0, 1000, false,
                                &ret->request.temperature);
    case 's':
        status = modelargs_number(NAME, "--seed", optarg, 0, 9e15, true, &number);
        ret->request.seed = (uint64_t)number;
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
        {"model",            required_argument, NULL, 'm'},
        {"prompt",              required_argument, NULL, 'p'},
        {"token-ids",                  required_argument, NULL, 'i'},
        {"max-tokens",required_argument, NULL, 'n'},
        {"temperature",               required_argument, NULL, 't'},
        {"seed",        required_argument, NULL, 's'},
        {"ignore-eos",              no_argument, NULL, 'e'},
        {"print-ids",                  no_argument, NULL, 'j'},
        {"backend",              required_argument, NULL, 'b'},
        {"dtype",               required_argument, NULL, 'd'},
        {"help",      no_argument, NULL, 'h'},
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
    return 0;
}

int main(int argc, char **argv) {
    struct args args = {
        .place = {.backend = K_BACKEND_CPU, .n_threads = modelargs_threads()},
        .request = {.n_tokens_max = 128                       }
    };
    struct hai_err err = {0};

    int status = parse(argc, argv, &args);
    if (!status && generate(&args, &err) < 0)
        status = jobexit_report(NAME, &err);
    token_list_free(&args.ids);
    return status;
}
