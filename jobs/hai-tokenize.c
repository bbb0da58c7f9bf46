/* hai-tokenize - texts and chats to token ids and back, one JSON value a line. */
#include "engine/data/added.h"
#include "engine/data/chat.h"
#include "engine/data/tokenline.h"
#include "jobs/jobexit.h"
#include "lib/json.h"

#include <getopt.h>
#include <stdio.h>

#define NAME "hai-tokenize"

enum { LINE_BYTES_MAX = 256 << 20, THINKING_ABSENT = 2 };

static const char usage[] =
    "usage: " NAME " encode|decode (--model DIR | --tokenizer FILE) [--no-special]\n"
    "       " NAME " chat (--model DIR | --tokenizer FILE) [--ids] [--form NAME]\n"
    "encode: one JSON string a line in, one JSON array of token ids a line out.\n"
    "decode: the way back; bytes that are no UTF-8 become U+FFFD.\n"
    "chat:   one block a line in, {\"messages\": [...], \"add_generation_prompt\": true,\n"
    "        \"thinking\": false, \"tools\": [...]}; the text that the model is given out.\n"
    "  --model DIR       folder with tokenizer.json and perhaps tokenizer_config.json\n"
    "  --tokenizer FILE  a tokenizer.json\n"
    "  --no-special      decode: leave special tokens out of the text. encode adds none, with or\n"
    "                    without; those written in the text are recognised\n"
    "  --begin           encode: put the begin token first, where the model's configuration has "
    "one\n"
    "  --plain           encode: special tokens written in the text are nothing but text\n"
    "  --ids             chat: token ids instead of text\n"
    "  --form NAME       chat: llm, coder, v3, r1 or v31 instead of the model's own template\n";

enum verb { ENCODE, DECODE, CHAT, VERB_COUNT };

static const char *const verbs[VERB_COUNT] = {"encode", "decode", "chat"};

struct args {
    const char *tokenizer, *form;
    enum verb verb;
    bool no_special, begin, plain, ids;
};

/* What is read once. */
struct model {
    struct tokenizer *tokenizer;
    struct chat *chat; // for CHAT
};

static void model_free(struct model *m) {
    chat_free(m->chat);
    tokenizer_free(m->tokenizer);
}

struct line {
    const char *json;
    size_t n_bytes;
    long number;
    struct token_list ids;
    struct buf text, marks, out;
};

static void line_free(struct line *line) {
    token_list_free(&line->ids);
    buf_free(&line->text);
    buf_free(&line->marks);
    buf_free(&line->out);
}

static int encode_line(const struct args *args, struct tokenizer *t, struct line *line,
                       struct hai_err *err) {
    int r = tokenline_read_text(line->json, line->n_bytes, &line->text, err);

    if (r < 0)
        return r;
    if (args->begin && tokenizer_begin(t) >= 0)
        token_list_add(&line->ids, tokenizer_begin(t));
    buf_clear(&line->marks);
    if (args->plain && line->text.n_bytes)
        memset(buf_extend(&line->marks, line->text.n_bytes), ADDED_BY_PERSON, line->text.n_bytes);
    r = tokenizer_encode_marked(t, buf_cstr(&line->text), args->plain ? line->marks.data : NULL,
                                line->text.n_bytes, &line->ids, err);
    tokenline_add_ids(&line->ids, &line->out);
    return r;
}

static int decode_line(const struct args *args, const struct tokenizer *t, struct line *line,
                       struct hai_err *err) {
    int r = tokenline_read_ids(line->json, line->n_bytes, &line->ids, err);

    buf_clear(&line->text);
    if (r == 0)
        r = tokenizer_decode(t, line->ids.ids, line->ids.n, args->no_special, &line->text, err);
    tokenline_add_text(&line->text, &line->out);
    return r;
}

/* true, false or absent. */
static int read_flag(const struct json *block, const char *name, int absent, struct hai_err *err) {
    const struct json *v = json_get(block, name);

    if (!v)
        return absent;
    return json_kind(v) == JSON_KIND_BOOL
               ? json_as_bool(v)
               : hai_fail(err, -EINVAL, "%s is %s; expected true or false", name,
                          json_kind_name(json_kind(v)));
}

static int chat_block(const struct args *args, const struct model *m, const struct json *block,
                      struct line *line, struct hai_err *err) {
    static const char *const known[] = {"messages", "tools", "add_generation_prompt", "thinking"};
    int prompt = read_flag(block, "add_generation_prompt", true, err);
    int thinking = prompt < 0 ? prompt : read_flag(block, "thinking", THINKING_ABSENT, err);

    for (const struct json *v = json_first(block); v; v = json_next(v)) {
        size_t i = 0;
        while (i < ARRAY_SIZE(known) && !hai_streq(known[i], json_key(v)))
            i++;
        if (i == ARRAY_SIZE(known))
            return hai_fail(err, -EINVAL, "unknown field '%s'", json_key(v));
    }
    if (thinking < 0)
        return thinking;
    const struct chat_request request = {.messages = json_get(block, "messages"),
                                         .tools = json_get(block, "tools"),
                                         .add_generation_prompt = prompt,
                                         .thinking = thinking == THINKING_ABSENT
                                                         ? CHAT_THINKING_DEFAULT
                                                     : thinking ? CHAT_THINKING_ON
                                                                : CHAT_THINKING_OFF,
                                         .now_s = -1};
    if (args->ids)
        return chat_encode(m->chat, m->tokenizer, &request, &line->ids, err);
    buf_clear(&line->text);
    return chat_render(m->chat, &request, &line->text, NULL, err);
}

static int chat_line(const struct args *args, const struct model *m, struct line *line,
                     struct hai_err *err) {
    _cleanup_(json_freep) struct json *block = NULL;
    int r = json_parse(line->json, line->n_bytes, NULL, &block, err);

    if (r < 0)
        return r;
    if (json_kind(block) != JSON_KIND_OBJECT)
        return hai_fail(err, -EBADMSG, "expected a block with messages");
    r = chat_block(args, m, block, line, err);
    if (args->ids)
        tokenline_add_ids(&line->ids, &line->out);
    else
        tokenline_add_text(&line->text, &line->out);
    return r;
}

static int do_line(const struct args *args, const struct model *m, struct line *line,
                   struct hai_err *err) {
    int r = args->verb == ENCODE   ? encode_line(args, m->tokenizer, line, err)
            : args->verb == DECODE ? decode_line(args, m->tokenizer, line, err)
                                   : chat_line(args, m, line, err);

    buf_add_u8(&line->out, '\n');
    return r < 0 ? hai_err_prefix(err, "stdin:%ld: ", line->number) : 0;
}

static int run(const struct args *args, struct hai_err *err) {
    _cleanup_(model_free) struct model m = {0};
    _cleanup_(line_free) struct line line = {0};
    _cleanup_free_ char *text = NULL;
    size_t text_max = 0;
    ssize_t n;
    int r = tokenizer_read(args->tokenizer, &m.tokenizer, err);

    if (r == 0 && args->verb == CHAT)
        r = chat_open(args->tokenizer, m.tokenizer, args->form, &m.chat, err);
    setlinebuf(stdout);
    while (r == 0 && (n = getline(&text, &text_max, stdin)) >= 0) {
        line.number++;
        line.json = text;
        line.n_bytes = (size_t)n;
        line.ids.n = 0;
        buf_clear(&line.out);
        if (n > LINE_BYTES_MAX)
            return hai_fail(err, -EFBIG, "stdin:%ld: longer than %d bytes", line.number,
                            LINE_BYTES_MAX);
        r = do_line(args, &m, &line, err);
        if (r < 0)
            return r;
        if (fwrite(line.out.data, 1, line.out.n_bytes, stdout) < line.out.n_bytes)
            break;
    }
    if (r == 0 && ferror(stdin))
        r = hai_fail(err, -EIO, "reading stdin: %m");
    if (r == 0 && (fflush(stdout) || ferror(stdout)))
        r = hai_fail(err, -EIO, "writing to stdout failed");
    return r;
}

/* Do the options belong to the verb? 0, or the exit status after a message. */
static int check(const struct args *args) {
    if (!args->tokenizer)
        return jobexit_usage(NAME, "expected --model or --tokenizer");
    if (args->verb != ENCODE && (args->begin || args->plain))
        return jobexit_usage(NAME, "--begin and --plain are for encode");
    if (args->verb != CHAT && (args->ids || args->form))
        return jobexit_usage(NAME, "--ids and --form are for chat");
    if (args->no_special && (args->begin || args->verb == CHAT))
        return jobexit_usage(NAME, "--no-special does not go with --begin or chat");
    return 0;
}

/* 0, or the exit status after a message. */
static int parse(int argc, char **argv, struct args *ret) {
    static const struct option options[] = {
        {"model",            required_argument, NULL, 'm'},
        {"tokenizer",              required_argument, NULL, 'm'},
        {"no-special",                  no_argument, NULL, 's'},
        {"begin",no_argument, NULL, 'b'},
        {"plain",               no_argument, NULL, 'p'},
        {"ids",       no_argument, NULL, 'i'},
        {"form",              required_argument, NULL, 'f'},
        {"help",                  no_argument, NULL, 'h'},
        {0                   },
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (c) {
        case 'm':
            if (ret->tokenizer)
                return jobexit_usage(NAME, "expected one of --model and --tokenizer");
            ret->tokenizer = optarg;
            break;
        case 'f':
            ret->form = optarg;
            break;
        case 's':
            ret->no_special = true;
            break;
        case 'b':
            ret->begin = true;
            break;
        case 'p':
            ret->plain = true;
            break;
        case 'i':
            ret->ids = true;
            break;
        case 'h':
            fputs(usage, stdout);
            exit(JOBEXIT_DONE);
        default:
            fputs(usage, stderr);
            return JOBEXIT_USAGE;
        }
    if (optind + 1 != argc)
        return jobexit_usage(NAME, "expected encode, decode or chat");
    for (ret->verb = 0; ret->verb < VERB_COUNT; ret->verb++)
        if (hai_streq(argv[optind], verbs[ret->verb]))
            return check(ret);
    return jobexit_usage(NAME, "'%s'; expected encode, decode or chat", argv[optind]);
}

int main(int argc, char **argv) {
    struct args args = {0};
    struct hai_err err = {0};
    int status = parse(argc, argv, &args);

    if (!status && run(&args, &err) < 0)
        status = jobexit_report(NAME, &err);
    return status;
}
