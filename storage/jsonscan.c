#include "storage/jsonscan.h"

enum { DEPTH_MAX = 32 };

static int fault(struct jsonscan *s, const char *expected) {
    s->fault = expected;
    return -EBADMSG;
}

static int peek(struct jsonscan *s) {
    while (s->at < s->n_bytes && (s->text[s->at] == ' ' || s->text[s->at] == '\n' ||
                                  s->text[s->at] == '\t' || s->text[s->at] == '\r'))
        s->at++;
    return s->at < s->n_bytes ? (unsigned char)s->text[s->at] : -1;
}

int jsonscan_enter(struct jsonscan *s, char bracket) {
    if (peek(s) != bracket)
        return fault(s, bracket == '{' ? "'{'" : "'['");
    s->at++;
    return 0;
}

int jsonscan_next(struct jsonscan *s, char closing, size_t *n_seen) {
    int c = peek(s);

    if (c == closing) {
        s->at++;
        return 0;
    }
    if (*n_seen) {
        if (c != ',')
            return fault(s, closing == '}' ? "',' or '}'" : "',' or ']'");
        s->at++;
    }
    ++*n_seen;
    return 1;
}

static int hex4(struct jsonscan *s, uint32_t *ret) {
    uint32_t v = 0;

    if (s->n_bytes - s->at < 4)
        return fault(s, "four hexadecimal digits");
    for (int i = 0; i < 4; i++) {
        char c = s->text[s->at++];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return fault(s, "a hexadecimal digit");
        v = v << 4 | (uint32_t)digit;
    }
    *ret = v;
    return 0;
}

static void add_utf8(struct buf *b, uint32_t c) {
    if (c < 0x80) {
        buf_add_u8(b, (uint8_t)c);
    } else if (c < 0x800) {
        buf_add_u8(b, (uint8_t)(0xC0 | c >> 6));
        buf_add_u8(b, (uint8_t)(0x80 | (c & 0x3F)));
    } else if (c < 0x10000) {
        buf_add_u8(b, (uint8_t)(0xE0 | c >> 12));
        buf_add_u8(b, (uint8_t)(0x80 | (c >> 6 & 0x3F)));
        buf_add_u8(b, (uint8_t)(0x80 | (c & 0x3F)));
    } else {
        buf_add_u8(b, (uint8_t)(0xF0 | c >> 18));
        buf_add_u8(b, (uint8_t)(0x80 | (c >> 12 & 0x3F)));
        buf_add_u8(b, (uint8_t)(0x80 | (c >> 6 & 0x3F)));
        buf_add_u8(b, (uint8_t)(0x80 | (c & 0x3F)));
    }
}

static int escape_unicode(struct jsonscan *s, struct buf *ret) {
    uint32_t c, low;
    int r = hex4(s, &c);

    if (r < 0)
        return r;
    if (c >= 0xDC00 && c <= 0xDFFF)
        return fault(s, "the first half of a surrogate pair");
    if (c >= 0xD800 && c <= 0xDBFF) {
        if (s->n_bytes - s->at < 2 || s->text[s->at] != '\\' || s->text[s->at + 1] != 'u')
            return fault(s, "the second half of a surrogate pair");
        s->at += 2;
        r = hex4(s, &low);
        if (r < 0)
            return r;
        if (low < 0xDC00 || low > 0xDFFF)
            return fault(s, "the second half of a surrogate pair");
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    if (!c && !s->zeros)
        return fault(s, "text without zero bytes");
    add_utf8(ret, c);
    return 0;
}

static int escape(struct jsonscan *s, struct buf *ret) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";

    if (s->at == s->n_bytes)
        return fault(s, "an escaped character");
    char c = s->text[s->at++];
    if (c == 'u')
        return escape_unicode(s, ret);
    const char *p = c ? strchr(from, c) : NULL;
    if (!p)
        return fault(s, "an escaped character");
    buf_add_u8(ret, (uint8_t)to[p - from]);
    return 0;
}

/* How many bytes the UTF-8 character at s->at has; 0 if it is none (overlong, surrogate, ...). */
static int utf8_length(const struct jsonscan *s) {
    const uint8_t *p = (const uint8_t *)s->text + s->at;
    size_t left = s->n_bytes - s->at;
    int n = p[0] < 0x80   ? 1
            : p[0] < 0xC2 ? 0
            : p[0] < 0xE0 ? 2
            : p[0] < 0xF0 ? 3
            : p[0] < 0xF5 ? 4
                          : 0;

    if (!n || (size_t)n > left)
        return 0;
    for (int i = 1; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
        (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
        return 0;
    return n;
}

/* Step over characters that stand for themselves, for speed in one run. */
static int plain_run(struct jsonscan *s, struct buf *ret) {
    size_t first = s->at;
    int n = 1;

    while (n && s->at < s->n_bytes) {
        unsigned char c = (unsigned char)s->text[s->at];
        if (c < 0x20 || c == '"' || c == '\\')
            break;
        n = c < 0x80 ? 1 : utf8_length(s);
        s->at += (size_t)n;
    }
    buf_add(ret, s->text + first, s->at - first);
    return n ? 0 : fault(s, "UTF-8");
}

int jsonscan_string(struct jsonscan *s, struct buf *ret) {
    buf_clear(ret);
    if (peek(s) != '"')
        return fault(s, "a string");
    s->at++;
    while (s->at < s->n_bytes) {
        unsigned char c = (unsigned char)s->text[s->at];
        if (c == '"') {
            s->at++;
            return 0;
        }
        if (c < 0x20)
            return fault(s, "no control character in a string");
        if (c == '\\') {
            s->at++;
            int r = escape(s, ret);
            if (r < 0)
                return r;
            continue;
        }
        int r = plain_run(s, ret);
        if (r < 0)
            return r;
    }
    return fault(s, "the end of the string");
}

int jsonscan_key(struct jsonscan *s, struct buf *ret) {
    int r = jsonscan_string(s, ret);

    if (r < 0)
        return r;
    if (peek(s) != ':')
        return fault(s, "':'");
    s->at++;
    return 0;
}

int jsonscan_u64(struct jsonscan *s, uint64_t *ret) {
    uint64_t v = 0;
    int c = peek(s);
    size_t first = s->at;

    if (c < '0' || c > '9')
        return fault(s, "a whole number from 0");
    for (; s->at < s->n_bytes && (c = s->text[s->at]) >= '0' && c <= '9'; s->at++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(c - '0'), &v))
            return fault(s, "a number below 2^64");
    if (s->at - first > 1 && s->text[first] == '0')
        return fault(s, "a number without leading zeros");
    if (s->at < s->n_bytes && s->text[s->at] && strchr(".eE", s->text[s->at]))
        return fault(s, "a whole number");
    *ret = v;
    return 0;
}

static int skip_word(struct jsonscan *s, const char *word) {
    size_t n = strlen(word);

    if (s->n_bytes - s->at < n || memcmp(s->text + s->at, word, n))
        return fault(s, "a value");
    s->at += n;
    return 0;
}

static size_t skip_digits(struct jsonscan *s) {
    size_t first = s->at;

    while (s->at < s->n_bytes && s->text[s->at] >= '0' && s->text[s->at] <= '9')
        s->at++;
    return s->at - first;
}

static int skip_number(struct jsonscan *s) {
    if (s->text[s->at] == '-')
        s->at++;
    size_t first = s->at, n = skip_digits(s);
    if (!n || (n > 1 && s->text[first] == '0'))
        return fault(s, "a number");
    if (s->at < s->n_bytes && s->text[s->at] == '.') {
        s->at++;
        if (!skip_digits(s))
            return fault(s, "a number");
    }
    if (s->at < s->n_bytes && (s->text[s->at] == 'e' || s->text[s->at] == 'E')) {
        s->at++;
        if (s->at < s->n_bytes && (s->text[s->at] == '+' || s->text[s->at] == '-'))
            s->at++;
        if (!skip_digits(s))
            return fault(s, "a number");
    }
    return 0;
}

static int skip_value(struct jsonscan *s, struct buf *scratch, int depth) {
    int c = peek(s), r;

    if (depth > DEPTH_MAX)
        return fault(s, "less nesting");
    switch (c) {
    case '"':
        return jsonscan_string(s, scratch);
    case 't':
        return skip_word(s, "true");
    case 'f':
        return skip_word(s, "false");
    case 'n':
        return skip_word(s, "null");
    case '{':
    case '[': {
        char closing = c == '{' ? '}' : ']';
        size_t n = 0;
        s->at++;
        while ((r = jsonscan_next(s, closing, &n)) > 0) {
            r = c == '{' ? jsonscan_key(s, scratch) : 0;
            if (r == 0)
                r = skip_value(s, scratch, depth + 1);
            if (r < 0)
                return r;
        }
        return r;
    }
    default:
        if (c == '-' || (c >= '0' && c <= '9'))
            return skip_number(s);
        return fault(s, "a value");
    }
}

int jsonscan_skip(struct jsonscan *s) {
    _cleanup_(buf_free) struct buf scratch = {0};
    return skip_value(s, &scratch, 0);
}

int jsonscan_end(struct jsonscan *s) {
    return peek(s) < 0 ? 0 : fault(s, "the end");
}

int jsonscan_fail(const struct jsonscan *s, const char *path, struct hai_err *err) {
    int line = 1;

    for (size_t i = 0; i < s->at; i++)
        line += s->text[i] == '\n';
    return hai_fail(err, -EBADMSG, "%s:%d: bad JSON: expected %s", path, line,
                    s->fault ? s->fault : "a value");
}
