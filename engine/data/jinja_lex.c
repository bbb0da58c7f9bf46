#include "engine/data/jinja_lex.h"
#include "engine/data/utf8.h"

struct lexer {
    const char *p;
    size_t n, at;
    int line;
    const char *name;
    struct arena *arena;
    struct jinja_token *tokens;
    size_t n_tokens, n_tokens_max;
    bool line_starts; // nothing of the template's line stands before `at`
    struct hai_err *err;
};

static int fault(const struct lexer *x, const char *what) {
    return hai_fail(x->err, -EBADMSG, "%s:%d: %s", x->name, x->line, what);
}

static int add(struct lexer *x, enum jinja_token_kind kind, const char *text, size_t n_bytes) {
    if (x->n_tokens == JINJA_TOKENS_MAX)
        return hai_fail(x->err, -E2BIG, "%s: more than %d tokens", x->name, JINJA_TOKENS_MAX);
    if (x->n_tokens == x->n_tokens_max) {
        x->n_tokens_max = MAX((size_t)256, 2 * x->n_tokens_max);
        struct jinja_token *to = arena_alloc_array(x->arena, x->n_tokens_max, sizeof *to);
        if (x->n_tokens)
            memcpy(to, x->tokens, x->n_tokens * sizeof *to);
        x->tokens = to;
    }
    char *copy = arena_alloc(x->arena, n_bytes + 1);
    if (n_bytes)
        memcpy(copy, text, n_bytes);
    x->tokens[x->n_tokens++] = (struct jinja_token){kind, x->line, copy, n_bytes};
    return 0;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_word(char c, bool first) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (!first && c >= '0' && c <= '9');
}

static void move_to(struct lexer *x, size_t to) {
    for (; x->at < to; x->at++)
        x->line += x->p[x->at] == '\n';
}

static bool starts_with(const struct lexer *x, const char *s) {
    size_t n = strlen(s);

    return x->n - x->at >= n && !memcmp(x->p + x->at, s, n);
}

/* The text before a tag that begins at `to`, less what the tag takes off its end. */
static int add_text(struct lexer *x, size_t to) {
    size_t from = x->at, end = to;
    char kind = to + 1 < x->n ? x->p[to + 1] : 0, sign = to + 2 < x->n ? x->p[to + 2] : 0;

    if (to < x->n && sign == '-') {
        while (end > from && is_space(x->p[end - 1]))
            end--;
    } else if (to < x->n && sign != '+' && kind != '{') {
        size_t start = to;
        while (start > from && (x->p[start - 1] == ' ' || x->p[start - 1] == '\t'))
            start--;
        if (start > from ? x->p[start - 1] == '\n' : x->line_starts)
            end = start;
    }
    int r = end > from ? add(x, JINJA_TOKEN_TEXT, x->p + from, end - from) : 0;
    move_to(x, to);
    return r;
}

/* Step over the end of a tag, "%}" or the like, and what it takes off the text after it. */
static void end_tag(struct lexer *x, bool trims) {
    char sign = x->p[x->at];

    move_to(x, x->at + (sign == '-' || sign == '+' ? 3 : 2));
    x->line_starts = false;
    if (sign == '-') {
        size_t to = x->at;
        while (to < x->n && is_space(x->p[to]))
            to++;
        x->line_starts = to > x->at && x->p[to - 1] == '\n';
        move_to(x, to);
    } else if (trims && sign != '+' && x->at < x->n && x->p[x->at] == '\n') {
        move_to(x, x->at + 1);
        x->line_starts = true;
    }
}

/* Is here the end of a tag, with or without its sign? */
static bool at_end(const struct lexer *x, const char *end) {
    char with[4] = {'-', end[0], end[1]};

    if (starts_with(x, end) || starts_with(x, with))
        return true;
    with[0] = '+';
    return end[0] != '}' && starts_with(x, with);
}

static int lex_comment(struct lexer *x) {
    while (x->at < x->n && !at_end(x, "#}"))
        move_to(x, x->at + 1);
    if (x->at == x->n)
        return fault(x, "a comment without its end");
    end_tag(x, true);
    return 0;
}

static int add_hex(struct lexer *x, int n_digits, struct buf *ret) {
    uint32_t c = 0;
    char text[4];

    for (int i = 0; i < n_digits; i++, x->at++) {
        const char *digits = "0123456789abcdef", *d = NULL;
        if (x->at < x->n && x->p[x->at])
            d = strchr(digits,
                       x->p[x->at] >= 'A' && x->p[x->at] <= 'F' ? x->p[x->at] + 32 : x->p[x->at]);
        if (!d)
            return fault(x, "bad escape in a string");
        c = c << 4 | (uint32_t)(d - digits);
    }
    if (!c || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
        return fault(x, "bad escape in a string");
    buf_add(ret, text, utf8_write(c, text));
    return 0;
}

static int lex_escape(struct lexer *x, struct buf *ret) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = x->p[x->at++];
    const char *p = c ? strchr(from, c) : NULL;

    if (p) {
        buf_add_u8(ret, (uint8_t)to[p - from]);
        return 0;
    }
    switch (c) {
    case '\n': // goes on in the next line
        x->line++;
        return 0;
    case 'x':
        return add_hex(x, 2, ret);
    case 'u':
        return add_hex(x, 4, ret);
    case 'U':
        return add_hex(x, 8, ret);
    default: // as Python: the backslash stays
        if (c >= '0' && c <= '7')
            return fault(x, "octal escapes are not built in");
        buf_add_u8(ret, '\\');
        buf_add_u8(ret, (uint8_t)c);
        return 0;
    }
}

static int lex_string(struct lexer *x) {
    _cleanup_(buf_free) struct buf text = {0};
    char quote = x->p[x->at++];
    int r = 0;

    while (r == 0 && x->at < x->n && x->p[x->at] != quote) {
        char c = x->p[x->at++];
        if (c == '\\' && x->at < x->n)
            r = lex_escape(x, &text);
        else {
            x->line += c == '\n';
            buf_add_u8(&text, (uint8_t)c);
        }
    }
    if (r < 0)
        return r;
    if (x->at == x->n)
        return fault(x, "a string without its end");
    x->at++;
    return add(x, JINJA_TOKEN_STRING, (const char *)text.data, text.n_bytes);
}

static int lex_number(struct lexer *x) {
    size_t from = x->at;
    bool real = false;

    while (x->at < x->n && ((x->p[x->at] >= '0' && x->p[x->at] <= '9') || x->p[x->at] == '_'))
        x->at++;
    if (x->at + 1 < x->n && x->p[x->at] == '.' && x->p[x->at + 1] >= '0' &&
        x->p[x->at + 1] <= '9') {
        real = true;
        for (x->at++; x->at < x->n && x->p[x->at] >= '0' && x->p[x->at] <= '9';)
            x->at++;
    }
    if (x->at < x->n && (x->p[x->at] | 0x20) == 'e') {
        real = true;
        x->at += 1 + (x->at + 1 < x->n && (x->p[x->at + 1] == '-' || x->p[x->at + 1] == '+'));
        if (x->at == x->n || x->p[x->at] < '0' || x->p[x->at] > '9')
            return fault(x, "a number without digits");
        while (x->at < x->n && x->p[x->at] >= '0' && x->p[x->at] <= '9')
            x->at++;
    }
    if (x->at < x->n && is_word(x->p[x->at], true))
        return fault(x, "numbers of this form are not built in");
    return add(x, real ? JINJA_TOKEN_REAL : JINJA_TOKEN_INT, x->p + from, x->at - from);
}

static int lex_operator(struct lexer *x) {
    static const char *const two[] = {"==", "!=", "<=", ">=", "//", "**"};
    size_t n = 1;

    for (size_t i = 0; i < ARRAY_SIZE(two); i++)
        n = starts_with(x, two[i]) ? 2 : n;
    if (n == 1 && (!x->p[x->at] || !strchr("+-*/%~<>=.:|,;()[]{}", x->p[x->at])))
        return fault(x, "a character that has no meaning here");
    x->at += n;
    return add(x, JINJA_TOKEN_OPERATOR, x->p + x->at - n, n);
}

static int lex_one(struct lexer *x) {
    char c = x->p[x->at];
    size_t from = x->at;

    if (is_word(c, true)) {
        while (x->at < x->n && is_word(x->p[x->at], false))
            x->at++;
        return add(x, JINJA_TOKEN_NAME, x->p + from, x->at - from);
    }
    if (c >= '0' && c <= '9')
        return lex_number(x);
    return c == '"' || c == '\'' ? lex_string(x) : lex_operator(x);
}

/* Inside {{ }} or {% %}: an end counts only outside of brackets, since dicts end likewise. */
static int lex_tag(struct lexer *x, bool is_print) {
    const char *end = is_print ? "}}" : "%}";
    int depth = 0, r = add(x, is_print ? JINJA_TOKEN_PRINT : JINJA_TOKEN_BLOCK, "", 0);

    move_to(x, x->at + 2);
    if (x->at < x->n && (x->p[x->at] == '-' || x->p[x->at] == '+'))
        x->at++;
    while (r == 0) {
        while (x->at < x->n && is_space(x->p[x->at]))
            move_to(x, x->at + 1);
        if (x->at == x->n)
            return fault(x, is_print ? "{{ without }}" : "{% without %}");
        if (depth == 0 && at_end(x, end))
            break;
        char c = x->p[x->at];
        depth += (c == '(' || c == '[' || c == '{') - (c == ')' || c == ']' || c == '}');
        if (depth < 0)
            return fault(x, "a bracket closes that was not opened");
        r = lex_one(x);
    }
    if (r == 0)
        r = add(x, is_print ? JINJA_TOKEN_PRINT_END : JINJA_TOKEN_BLOCK_END, "", 0);
    if (r == 0)
        end_tag(x, !is_print);
    return r;
}

/* Where the next tag begins. */
static size_t tag_after(const struct lexer *x) {
    for (size_t at = x->at; at + 1 < x->n; at++)
        if (x->p[at] == '{' && (x->p[at + 1] == '{' || x->p[at + 1] == '%' || x->p[at + 1] == '#'))
            return at;
    return x->n;
}

static int lex_all(struct lexer *x) {
    int r = 0;

    while (r == 0 && x->at < x->n) {
        r = add_text(x, tag_after(x));
        if (r < 0 || x->at == x->n)
            break;
        char kind = x->p[x->at + 1];
        r = kind == '#' ? lex_comment(x) : lex_tag(x, kind == '{');
    }
    return r < 0 ? r : add(x, JINJA_TOKEN_END, "", 0);
}

/* One kind of line end, and none after the last line. */
static char *normal_lines(const char *text, size_t n_bytes, struct arena *arena, size_t *ret_n) {
    char *to = arena_alloc(arena, n_bytes + 1);
    size_t n = 0;

    for (size_t i = 0; i < n_bytes; i++) {
        if (text[i] == '\r' && i + 1 < n_bytes && text[i + 1] == '\n')
            continue;
        to[n++] = text[i] == '\r' ? '\n' : text[i];
    }
    *ret_n = n && to[n - 1] == '\n' ? n - 1 : n;
    return to;
}

int jinja_lex(const char *text, size_t n_bytes, const char *name, struct arena *arena,
              struct jinja_token **ret, struct hai_err *err) {
    struct lexer x = {.line = 1, .name = name, .arena = arena, .line_starts = true, .err = err};

    if (n_bytes > JINJA_TEMPLATE_BYTES_MAX)
        return hai_fail(err, -E2BIG, "%s: a template of more than %d bytes", name,
                        JINJA_TEMPLATE_BYTES_MAX);
    if (utf8_valid(text, n_bytes) < n_bytes || memchr(text, 0, n_bytes))
        return hai_fail(err, -EBADMSG, "%s: not UTF-8 text", name);
    x.p = normal_lines(text, n_bytes, arena, &x.n);
    int r = lex_all(&x);
    if (r < 0)
        return r;
    *ret = x.tokens;
    return (int)x.n_tokens;
}
