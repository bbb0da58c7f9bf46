#include "lib/yaml.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include <yaml.h>

struct yaml_stream {
    yaml_parser_t parser;
    const char *file;
    int fd;
    int read_errno;     // why the descriptor gave no more
    int failed;         // the error that ended the stream, or 0
    size_t first_index; // where the present document starts
    struct hai_err err;
};

static int fail(const struct yaml_stream *s, yaml_mark_t at, int r, struct hai_err *err,
                const char *format, ...) _printf_(5, 6);

static int fail(const struct yaml_stream *s, yaml_mark_t at, int r, struct hai_err *err,
                const char *format, ...) {
    char where[HAI_ERR_WHERE_BYTES];
    char text[HAI_ERR_TEXT_BYTES];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    (void)snprintf(where, sizeof where, "%s%s%zu:%zu", s->file ? s->file : "", s->file ? ":" : "",
                   at.line + 1, at.column + 1);
    return hai_fail_at(err, r, NULL, where, NULL, "%s", text);
}

static void eventp(yaml_event_t *event) {
    yaml_event_delete(event);
}

static int next_event(struct yaml_stream *s, yaml_event_t *event, struct hai_err *err) {
    const yaml_parser_t *p = &s->parser;

    if (!yaml_parser_parse(&s->parser, event)) {
        if (s->read_errno)
            return hai_fail_at(err, -s->read_errno, NULL, s->file, NULL, "%s",
                               strerrordesc_np(s->read_errno));
        bool marked = p->error == YAML_SCANNER_ERROR || p->error == YAML_PARSER_ERROR;
        return fail(s, marked ? p->problem_mark : p->mark, -EBADMSG, err, "bad YAML: %s%s%s",
                    p->context ? p->context : "", p->context ? ": " : "",
                    p->problem ? p->problem : "unreadable");
    }
    if (event->end_mark.index - s->first_index > YAML_BYTES_MAX)
        return fail(s, event->start_mark, -EFBIG, err, "a document longer than %d bytes",
                    YAML_BYTES_MAX);
    return 0;
}

static bool is_word(const char *text, const char *lower, const char *title, const char *upper) {
    return strcmp(text, lower) == 0 || strcmp(text, title) == 0 || strcmp(text, upper) == 0;
}

static const char *skip_digits(const char *at) {
    while (*at >= '0' && *at <= '9')
        at++;
    return at;
}

/* Is this [-+]?[0-9]+, 0o[0-7]+ or 0x[0-9a-fA-F]+ ? Gives the base and where the digits start. */
static bool is_integer(const char *text, int *ret_base, const char **ret_digits) {
    static const char octal[] = "01234567", hex[] = "0123456789abcdefABCDEF";
    const char *at = text + (*text == '-' || *text == '+');

    *ret_base = 10;
    *ret_digits = text;
    if (text[0] == '0' && (text[1] == 'o' || text[1] == 'x')) {
        *ret_base = text[1] == 'o' ? 8 : 16;
        *ret_digits = at = text + 2;
        return *at && !at[strspn(at, *ret_base == 8 ? octal : hex)];
    }
    return *at && !*skip_digits(at);
}

/* [-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)? */
static bool is_real(const char *text) {
    const char *at = text + (*text == '-' || *text == '+');
    const char *whole = at;

    at = skip_digits(at);
    size_t n_digits = (size_t)(at - whole);
    if (*at == '.') {
        const char *fraction = ++at;
        at = skip_digits(at);
        n_digits += (size_t)(at - fraction);
    }
    if (n_digits == 0)
        return false;
    if (*at == 'e' || *at == 'E') {
        at += 1 + (at[1] == '-' || at[1] == '+');
        const char *exponent = at;
        at = skip_digits(at);
        if (at == exponent)
            return false;
    }
    return !*at;
}

static int plain_scalar(const struct yaml_stream *s, const yaml_event_t *event, struct json **ret,
                        struct hai_err *err) {
    const char *text = (const char *)event->data.scalar.value;
    const char *unsigned_text = text + (*text == '-' || *text == '+');
    const char *digits;
    int base;

    if (!*text || strcmp(text, "~") == 0 || is_word(text, "null", "Null", "NULL"))
        *ret = json_new_null();
    else if (is_word(text, "true", "True", "TRUE"))
        *ret = json_new_bool(true);
    else if (is_word(text, "false", "False", "FALSE"))
        *ret = json_new_bool(false);
    else if (is_integer(text, &base, &digits)) {
        errno = 0;
        int64_t value = strtoll(digits, NULL, base);
        if (errno == ERANGE)
            return fail(s, event->start_mark, -ERANGE, err, "%.60s is too large a number", text);
        *ret = json_new_int(value);
    } else if (is_word(unsigned_text, ".inf", ".Inf", ".INF") ||
               is_word(text, ".nan", ".NaN", ".NAN"))
        return fail(s, event->start_mark, -EBADMSG, err,
                    "%s is not a number; expected a finite one", text);
    else if (is_real(text)) {
        double value = strtod(text, NULL);
        if (!isfinite(value))
            return fail(s, event->start_mark, -ERANGE, err, "%.60s is too large a number", text);
        *ret = json_new_real(value);
    } else
        *ret = json_new_string_n(text, event->data.scalar.length);
    json_set_source(*ret, text);
    return 0;
}

static int refuse_marks(const struct yaml_stream *s, const yaml_event_t *event,
                        const yaml_char_t *anchor, const yaml_char_t *tag, struct hai_err *err) {
    if (anchor)
        return fail(s, event->start_mark, -EBADMSG, err,
                    "anchor '&%.60s': anchors and aliases are not accepted", (const char *)anchor);
    if (tag && strcmp((const char *)tag, "!") != 0)
        return fail(s, event->start_mark, -EBADMSG, err, "tag '%.60s': tags are not accepted",
                    (const char *)tag);
    return 0;
}

static int scalar(const struct yaml_stream *s, const yaml_event_t *event, struct json **ret,
                  struct hai_err *err) {
    const char *text = (const char *)event->data.scalar.value;

    int r = refuse_marks(s, event, event->data.scalar.anchor, event->data.scalar.tag, err);
    if (r < 0)
        return r;
    if (strlen(text) != event->data.scalar.length)
        return fail(s, event->start_mark, -EBADMSG, err, "a text with a zero byte");
    if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && event->data.scalar.plain_implicit)
        return plain_scalar(s, event, ret, err);
    *ret = json_new_string_n(text, event->data.scalar.length);
    return 0;
}

static int value_of(struct yaml_stream *s, const yaml_event_t *event, int depth, struct json **ret,
                    struct hai_err *err);

static int mapping(struct yaml_stream *s, int depth, struct json *object, struct hai_err *err) {
    for (;;) {
        _cleanup_(eventp) yaml_event_t key = {0};
        _cleanup_(eventp) yaml_event_t event = {0};
        _cleanup_(json_freep) struct json *value = NULL;
        int r = next_event(s, &key, err);
        if (r < 0 || key.type == YAML_MAPPING_END_EVENT)
            return r;
        if (key.type != YAML_SCALAR_EVENT)
            return fail(s, key.start_mark, -EBADMSG, err, "a key that is not text");
        const char *name = (const char *)key.data.scalar.value;
        size_t n_bytes = key.data.scalar.length;
        r = refuse_marks(s, &key, key.data.scalar.anchor, key.data.scalar.tag, err);
        if (r < 0)
            return r;
        if (strlen(name) != n_bytes)
            return fail(s, key.start_mark, -EBADMSG, err, "a key with a zero byte");
        r = next_event(s, &event, err);
        if (r == 0)
            r = value_of(s, &event, depth + 1, &value, err);
        if (r < 0)
            return r;
        json_set_key_position(value, (int)key.start_mark.line + 1, (int)key.start_mark.column + 1);
        if (!json_try_add(object, name, n_bytes, value))
            return fail(s, key.start_mark, -EBADMSG, err,
                        "'%.100s' is given twice; first on line %d", name,
                        json_key_line(json_get(object, name)));
        TAKE_PTR(value);
    }
}

static int sequence(struct yaml_stream *s, int depth, struct json *array, struct hai_err *err) {
    for (;;) {
        _cleanup_(eventp) yaml_event_t event = {0};
        struct json *value;
        int r = next_event(s, &event, err);
        if (r < 0 || event.type == YAML_SEQUENCE_END_EVENT)
            return r;
        r = value_of(s, &event, depth + 1, &value, err);
        if (r < 0)
            return r;
        json_append(array, value);
    }
}

static int container(struct yaml_stream *s, const yaml_event_t *event, int depth, struct json **ret,
                     struct hai_err *err) {
    bool map = event->type == YAML_MAPPING_START_EVENT;
    int r = map ? refuse_marks(s, event, event->data.mapping_start.anchor,
                               event->data.mapping_start.tag, err)
                : refuse_marks(s, event, event->data.sequence_start.anchor,
                               event->data.sequence_start.tag, err);

    if (r < 0)
        return r;
    if (depth >= JSON_DEPTH_MAX)
        return fail(s, event->start_mark, -EFBIG, err, "nested more than %d deep", JSON_DEPTH_MAX);
    _cleanup_(json_freep) struct json *value = map ? json_new_object() : json_new_array();
    r = map ? mapping(s, depth, value, err) : sequence(s, depth, value, err);
    if (r == 0)
        *ret = TAKE_PTR(value);
    return r;
}

static int value_of(struct yaml_stream *s, const yaml_event_t *event, int depth, struct json **ret,
                    struct hai_err *err) {
    int r;

    if (event->type == YAML_ALIAS_EVENT)
        return fail(s, event->start_mark, -EBADMSG, err,
                    "alias '*%.60s': anchors and aliases are not accepted",
                    (const char *)event->data.alias.anchor);
    if (event->type == YAML_SCALAR_EVENT)
        r = scalar(s, event, ret, err);
    else
        r = container(s, event, depth, ret, err);
    if (r == 0)
        json_set_position(*ret, (int)event->start_mark.line + 1, (int)event->start_mark.column + 1);
    return r;
}

static struct yaml_stream *stream_new(const char *file) {
    struct yaml_stream *s = hai_new(struct yaml_stream);

    if (!yaml_parser_initialize(&s->parser))
        abort(); // only when memory runs out
    yaml_parser_set_encoding(&s->parser, YAML_UTF8_ENCODING);
    s->file = file;
    s->fd = -1;
    return s;
}

struct yaml_stream *yaml_stream_of_text(const void *text, size_t n_bytes, const char *file) {
    struct yaml_stream *s = stream_new(file);

    yaml_parser_set_input_string(&s->parser, text ? text : (const void *)"", n_bytes);
    return s;
}

static int read_more(void *data, unsigned char *to, size_t size, size_t *ret_size) {
    struct yaml_stream *s = data;
    ssize_t n;

    do
        n = read(s->fd, to, size);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        s->read_errno = errno;
    *ret_size = n < 0 ? 0 : (size_t)n;
    return n >= 0;
}

struct yaml_stream *yaml_stream_of_fd(int fd, const char *file) {
    struct yaml_stream *s = stream_new(file);

    s->fd = fd;
    yaml_parser_set_input(&s->parser, read_more, s);
    return s;
}

void yaml_stream_free(struct yaml_stream *stream) {
    if (!stream)
        return;
    yaml_parser_delete(&stream->parser);
    free(stream);
}

/* 1 with a document, 0 at the end of the stream. */
static int document(struct yaml_stream *s, struct json **ret, struct hai_err *err) {
    for (;;) {
        _cleanup_(eventp) yaml_event_t event = {0};
        int r = next_event(s, &event, err);
        if (r < 0)
            return r;
        if (event.type == YAML_STREAM_END_EVENT)
            return 0;
        if (event.type == YAML_DOCUMENT_START_EVENT) {
            s->first_index = event.start_mark.index;
            continue;
        }
        if (event.type == YAML_STREAM_START_EVENT || event.type == YAML_DOCUMENT_END_EVENT)
            continue;
        if (event.type == YAML_SCALAR_EVENT && event.data.scalar.length == 0 &&
            event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
            continue; // nothing between two `---`
        r = value_of(s, &event, 0, ret, err);
        return r < 0 ? r : 1;
    }
}

int yaml_stream_next(struct yaml_stream *stream, struct json **ret, struct hai_err *err) {
    if (stream->failed == 0) {
        int r = document(stream, ret, &stream->err);
        if (r >= 0)
            return r;
        stream->failed = r;
    }
    if (err)
        *err = stream->err;
    return stream->failed;
}

int yaml_parse(const void *text, size_t n_bytes, const char *file, struct json **ret,
               struct hai_err *err) {
    _cleanup_(yaml_stream_freep) struct yaml_stream *s = yaml_stream_of_text(text, n_bytes, file);
    _cleanup_(json_freep) struct json *first = NULL;
    _cleanup_(json_freep) struct json *second = NULL;

    int r = yaml_stream_next(s, &first, err);
    if (r < 0)
        return r;
    if (r == 0)
        return hai_fail_at(err, -ENODATA, "empty", file, NULL, "nothing in it");
    r = yaml_stream_next(s, &second, err);
    if (r < 0)
        return r;
    if (r > 0)
        return fail(
            s, (yaml_mark_t){0, (size_t)json_line(second) - 1, (size_t)json_column(second) - 1},
            -EBADMSG, err, "a second document; expected one");
    *ret = TAKE_PTR(first);
    return 0;
}
