/* hai-tokenize - text to token ids and back, one JSON value a line. */
#include "engine/data/tokenizer.h"
#include "jobs/jobexit.h"
#include "lib/json.h"
#include "storage/jsonscan.h"

#include <getopt.h>
#include <stdio.h>

#define NAME "hai-tokenize"

enum { LINE_BYTES_MAX = 256 << 20 };

static const char usage[] =
    "usage: " NAME " encode|decode (--model DIR | --tokenizer FILE) [--no-special]\n"
    "encode: one JSON string a line in, one JSON array of token ids a line out.\n"
    "decode: the way back; bytes that are no UTF-8 become U+FFFD.\n"
    "  --model DIR       folder with tokenizer.json and perhaps tokenizer_config.json\n"
    "  --tokenizer FILE  a tokenizer.json\n"
    "  --no-special      decode: leave special tokens out of the text. encode adds none, with or\n"
    "                    without; those written in the text are recognised\n"
    "  --begin           encode: put the begin token first, where the model's configuration has one\n"
    "  --plain           encode: special tokens written in the text are nothing but text\n";

struct args {
    const char *tokenizer;
    bool encode, no_special, begin, plain;
};

struct line {
    struct jsonscan scan;
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

static int bad_line(const struct line *line, struct hai_err *err) {
    return hai_fail(err, -EBADMSG, "stdin:%ld:%zu: expected %s", line->number, line->scan.at + 1,
                    line->scan.fault);
}

/* A JSON string on one line for every reader: what some take for the end of a line is escaped. */
static void add_string(const struct buf *text, struct buf *ret) {
    static const struct {
        const char *bytes, *escaped;
    } ends[] = {
        {"\xC2\x85",     "\\u0085"},
        {"\xE2\x80\xA8", "\\u2028"},
        {"\xE2\x80\xA9", "\\u2029"}
    };
    _cleanup_(buf_free) struct buf string = {0};

    json_dump_string((const char *)text->data, text->n_bytes, &string);
    const char *p = buf_cstr(&string);
    while (*p) {
        const char *from = p;
        size_t i = 0;
        p += strcspn(p, "\xC2\xE2");
        buf_add(ret, from, (size_t)(p - from));
        while (i < ARRAY_SIZE(ends) && strncmp(p, ends[i].bytes, strlen(ends[i].bytes)) != 0)
            i++;
        if (i < ARRAY_SIZE(ends)) {
            buf_add_str(ret, ends[i].escaped);
            p += strlen(ends[i].bytes);
        } else if (*p)
            buf_add_u8(ret, (uint8_t)*p++);
    }
}

static int encode_line(const struct args *args, struct tokenizer *t, struct line *line,
                       struct hai_err *err) {
    if (jsonscan_string(&line->scan, &line->text) < 0 || jsonscan_end(&line->scan) < 0)
        return bad_line(line, err);
    if (args->begin && tokenizer_begin(t) >= 0)
        token_list_add(&line->ids, tokenizer_begin(t));
    buf_clear(&line->marks);
    if (args->plain && line->text.n_bytes)
        memset(buf_extend(&line->marks, line->text.n_bytes), 1, line->text.n_bytes);
    int r = tokenizer_encode_marked(t, buf_cstr(&line->text),
                                    args->plain ? line->marks.data : NULL, line->text.n_bytes,
                                    &line->ids, err);
    if (r < 0)
        return hai_err_prefix(err, "stdin:%ld: ", line->number);
    buf_add_u8(&line->out, '[');
    for (size_t i = 0; i < line->ids.n; i++) {
        if (i)
            buf_add_str(&line->out, ", ");
        json_dump_int(line->ids.ids[i], &line->out);
    }
    buf_add_u8(&line->out, ']');
    return 0;
}

static int read_ids(struct line *line) {
    size_t n = 0;
    uint64_t id;
    int r = jsonscan_enter(&line->scan, '[');

    while (r == 0 && (r = jsonscan_next(&line->scan, ']', &n)) > 0) {
        r = jsonscan_u64(&line->scan, &id);
        token_list_add(&line->ids, (int32_t)MIN(id, (uint64_t)INT32_MAX));
    }
    return r < 0 ? r : jsonscan_end(&line->scan);
}

static int decode_line(const struct args *args, const struct tokenizer *t, struct line *line,
                       struct hai_err *err) {
    if (read_ids(line) < 0)
        return bad_line(line, err);
    buf_clear(&line->text);
    if (tokenizer_decode(t, line->ids.ids, line->ids.n, args->no_special, &line->text, err) < 0)
        return hai_err_prefix(err, "stdin:%ld: ", line->number);
    add_string(&line->text, &line->out);
    return 0;
}

static int run(const struct args *args, struct hai_err *err) {
    _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
    _cleanup_(line_free) struct line line = {0};
    _cleanup_free_ char *text = NULL;
    size_t text_max = 0;
    ssize_t n;
    int r = tokenizer_read(args->tokenizer, &t, err);

    setlinebuf(stdout);
    while (r == 0 && (n = getline(&text, &text_max, stdin)) >= 0) {
        line.number++;
        line.scan = (struct jsonscan){.text = text, .n_bytes = (size_t)n, .zeros = true};
        line.ids.n = 0;
        buf_clear(&line.out);
        if (n > LINE_BYTES_MAX)
            return hai_fail(err, -EFBIG, "stdin:%ld: longer than %d bytes", line.number,
                            LINE_BYTES_MAX);
        r = args->encode ? encode_line(args, t, &line, err) : decode_line(args, t, &line, err);
        if (r < 0)
            return r;
        buf_add_u8(&line.out, '\n');
        if (fwrite(line.out.data, 1, line.out.n_bytes, stdout) < line.out.n_bytes)
            break;
    }
    if (r == 0 && ferror(stdin))
        r = hai_fail(err, -EIO, "reading stdin: %m");
    if (r == 0 && (fflush(stdout) || ferror(stdout)))
        r = hai_fail(err, -EIO, "writing to stdout failed");
    return r;
}

/* 0, or the exit status after a message. */
static int parse(int argc, char **argv, struct args *ret) {
    static const struct option options[] = {
        {"model",      required_argument, NULL, 'm'},
        {"tokenizer",  required_argument, NULL, 'm'},
        {"no-special", no_argument,       NULL, 's'},
        {"begin",      no_argument,       NULL, 'b'},
        {"plain",      no_argument,       NULL, 'p'},
        {"help",       no_argument,       NULL, 'h'},
        {0                                         },
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (c) {
        case 'm':
            if (ret->tokenizer)
                return jobexit_usage(NAME, "expected one of --model and --tokenizer");
            ret->tokenizer = optarg;
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
        case 'h':
            fputs(usage, stdout);
            exit(JOBEXIT_DONE);
        default:
            fputs(usage, stderr);
            return JOBEXIT_USAGE;
        }
    if (optind + 1 != argc)
        return jobexit_usage(NAME, "expected encode or decode");
    ret->encode = hai_streq(argv[optind], "encode");
    if (!ret->encode && !hai_streq(argv[optind], "decode"))
        return jobexit_usage(NAME, "'%s'; expected encode or decode", argv[optind]);
    if (!ret->tokenizer)
        return jobexit_usage(NAME, "expected --model or --tokenizer");
    if (!ret->encode && (ret->begin || ret->plain))
        return jobexit_usage(NAME, "--begin and --plain are for encode");
    if (ret->begin && ret->no_special)
        return jobexit_usage(NAME, "--begin and --no-special exclude each other");
    return 0;
}

int main(int argc, char **argv) {
    struct args args = {0};
    struct hai_err err = {0};
    int status = parse(argc, argv, &args);

    if (!status && run(&args, &err) < 0)
        status = jobexit_report(NAME, &err);
    return status;
}
