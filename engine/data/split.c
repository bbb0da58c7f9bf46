#include "engine/data/split.h"
#include "engine/data/charclass.h"
#include "engine/data/utf8.h"
#include "lib/pure/buf.h"
#include "lib/regex.h"

enum kind {
    KIND_REGEX,
    KIND_CLASS,    // characters of one class
    KIND_LINE_END, // `\s+$`
    KIND_V3,
    KIND_QWEN2,
    KIND_LLAMA3,
};

enum { LETTER = 1, MARK = 2, NUMBER = 4, PUNCTUATION = 8, SYMBOL = 16, SPACE = 32, PATTERNS = 6 };

static const char *const unicode_patterns[PATTERNS] = {"\\p{L}", "\\p{M}", "\\p{N}",
                                                       "\\p{P}", "\\p{S}", "\\s"};

struct split {
    enum kind kind;
    struct regex *regex;
    struct regex *patterns[PATTERNS]; // bit i of the class: does pattern i match the character?
    int n_patterns;
    struct charclass *chars;
    bool after_space;      // KIND_CLASS: one space before it belongs to it
    size_t n_max;          // KIND_CLASS: of characters
    uint8_t wanted, space; // KIND_CLASS: bits
};

static const struct {
    enum kind kind;
    const char *pattern;
} known[] = {
    {KIND_V3,       SPLIT_V3    },
    {KIND_QWEN2,    SPLIT_QWEN2 },
    {KIND_LLAMA3,   SPLIT_LLAMA3},
    {KIND_LINE_END, "\\s+$"     },
};

void split_free(struct split *s) {
    if (!s)
        return;
    for (int i = 0; i < s->n_patterns; i++)
        regex_free(s->patterns[i]);
    charclass_free(s->chars);
    regex_free(s->regex);
    free(s);
}

/* Which of a block's characters does each pattern match? Asked with all of them in one text. */
static void fill(void *userdata, uint32_t first, uint8_t ret[CHARCLASS_BLOCK]) {
    struct split *s = userdata;
    uint8_t index[4 * CHARCLASS_BLOCK];
    char text[4 * CHARCLASS_BLOCK];
    size_t n = 0, from, to;

    for (uint32_t i = 0; i < CHARCLASS_BLOCK; i++) {
        if (first + i >= 0xD800 && first + i < 0xE000)
            continue; // surrogates are no characters
        index[n] = (uint8_t)i;
        n += utf8_write(first + i, text + n);
    }
    for (int i = 0; i < s->n_patterns; i++)
        for (size_t at = 0; regex_find(s->patterns[i], text, n, at, &from, &to) > 0; at = to)
            ret[index[from]] |= (uint8_t)(1u << i);
}

static int class_add(struct split *s, const char *pattern) {
    int r = regex_new(pattern, &s->patterns[s->n_patterns], NULL);

    return r < 0 ? r : s->n_patterns++;
}

/* The end of a class at the start of a pattern: `\p{..}`, `[...]` without anything nested. NULL:
 * something else. */
static const char *class_end(const char *p) {
    if (p[0] == '\\' && p[1] == 'p' && p[2] == '{') {
        p = strchr(p, '}');
        return p ? p + 1 : NULL;
    }
    if (*p != '[' || p[1] == ']' || (p[1] == '^' && p[2] == ']'))
        return NULL;
    for (p++; *p && *p != ']'; p++) {
        if (*p == '[' || *p == '&') // POSIX names and intersections
            return NULL;
        if (*p == '\\' && p[1])
            p++;
    }
    return *p ? p + 1 : NULL;
}

/* `X`, `X+`, `X{1,3}`, `\s?X+`. Returns whether the pattern is one of those. */
static bool class_read(struct split *s, const char *pattern) {
    s->after_space = !strncmp(pattern, "\\s?", 3);
    pattern += s->after_space ? 3 : 0;
    const char *end = class_end(pattern);
    if (!end)
        return false;
    s->n_max = hai_streq(end, "+") ? SIZE_MAX : hai_streq(end, "{1,3}") ? 3 : 1;
    if (s->n_max == 1 && (*end || s->after_space))
        return false;
    _cleanup_free_ char *class = hai_strndup(pattern, (size_t)(end - pattern));
    if (class_add(s, class) < 0)
        return false;
    s->wanted = 1;
    if (s->after_space) {
        if (class_add(s, "\\s") < 0)
            return false;
        s->space = 2;
    }
    s->kind = KIND_CLASS;
    return true;
}

static void recognise(struct split *s, const char *pattern) {
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (hai_streq(pattern, known[i].pattern)) {
            for (int j = 0; j < PATTERNS; j++)
                if (class_add(s, unicode_patterns[j]) < 0)
                    return;
            s->kind = known[i].kind;
            break;
        }
    if (s->kind != KIND_REGEX || class_read(s, pattern))
        s->chars = charclass_new(fill, s);
}

int split_new(const char *pattern, bool by_hand, struct split **ret, struct hai_err *err) {
    _cleanup_(split_freep) struct split *s = hai_new(struct split);
    int r = regex_new(pattern, &s->regex, err);

    if (r < 0)
        return r;
    if (by_hand)
        recognise(s, pattern);
    *ret = TAKE_PTR(s);
    return 0;
}

bool split_by_hand(const struct split *s) {
    return s->kind != KIND_REGEX;
}

/* A text being searched. */
struct text {
    struct charclass *chars;
    const uint8_t *ascii; // kinds of the first characters
    const char *p;
    size_t n;
};

/* The kinds of the character at a place, and where the next one is; 0 at the end. */
static inline uint8_t look(const struct text *t, size_t at, size_t *ret_next) {
    uint32_t c;

    if (at >= t->n) {
        *ret_next = at;
        return 0;
    }
    if ((uint8_t)t->p[at] < 0x80) {
        *ret_next = at + 1;
        return t->ascii[(uint8_t)t->p[at]];
    }
    *ret_next = at + utf8_next(t->p + at, &c);
    return charclass_of(t->chars, c);
}

/* The end of the run of characters of these kinds from a place. */
static inline size_t run(const struct text *t, size_t at, uint8_t kinds) {
    size_t next;

    while (at < t->n && look(t, at, &next) & kinds)
        at = next;
    return at;
}

/* The end of the run of characters of none of these kinds. */
static inline size_t run_not(const struct text *t, size_t at, uint8_t kinds) {
    size_t next;

    while (at < t->n && !(look(t, at, &next) & kinds))
        at = next;
    return at;
}

static inline bool is_line(char c) {
    return c == '\r' || c == '\n';
}

static size_t run_lines(const struct text *t, size_t at) {
    while (at < t->n && is_line(t->p[at]))
        at++;
    return at;
}

/* `\s*[\r\n]+|\s+(?!\S)|\s+` at a place where a space is: up to the last line feed of the spaces;
 * else all of them at the end of the text; else all but the last, which goes with the next word. */
static size_t spaces(const struct text *t, size_t at) {
    size_t end = at, next, last = at, line = 0;

    while (end < t->n && look(t, end, &next) & SPACE) {
        last = end;
        if (is_line(t->p[end]))
            line = next;
        end = next;
    }
    return line ? line : end == t->n || last == at ? end : last;
}

static bool is_letter_ascii(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_punct_ascii(char c) {
    return c > ' ' && c < 0x7F && !is_letter_ascii(c) && !(c >= '0' && c <= '9');
}

/* The end of the match of V3's last pattern that begins at a place; that place: none does. */
static size_t match_v3(const struct text *t, size_t at) {
    size_t next, after;
    uint8_t kinds = look(t, at, &next);
    char c = t->p[at];

    if (is_punct_ascii(c) && next < t->n && is_letter_ascii(t->p[next])) {
        while (next < t->n && is_letter_ascii(t->p[next]))
            next++;
        return next;
    }
    if (!(kinds & (LETTER | PUNCTUATION | SYMBOL)) && !is_line(c) &&
        look(t, next, &after) & (LETTER | MARK))
        return run(t, after, LETTER | MARK);
    if (kinds & (LETTER | MARK))
        return run(t, next, LETTER | MARK);
    if (c == ' ' && look(t, next, &after) & (PUNCTUATION | SYMBOL))
        return run_lines(t, run(t, after, PUNCTUATION | SYMBOL));
    if (kinds & (PUNCTUATION | SYMBOL))
        return run_lines(t, run(t, next, PUNCTUATION | SYMBOL));
    return kinds & SPACE ? spaces(t, at) : at;
}

/* `(?i:'s|'t|'re|'ve|'m|'ll|'d)`; long s is an s to those who ignore case. */
static size_t match_ending(const struct text *t, size_t at) {
    const char *p = t->p + at;
    size_t n = t->n - at;

    if (n < 2 || p[0] != '\'')
        return at;
    char a = (char)(p[1] | 0x20), b = n > 2 ? (char)(p[2] | 0x20) : 0;
    if (is_letter_ascii(p[1]) && (a == 's' || a == 't' || a == 'm' || a == 'd'))
        return at + 2;
    if (n > 2 && is_letter_ascii(p[1]) && is_letter_ascii(p[2]) &&
        ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')))
        return at + 3;
    return n > 2 && !memcmp(p + 1, "\xC5\xBF", 2) ? at + 3 : at;
}

static size_t match_qwen2(const struct text *t, size_t at, int n_digits) {
    size_t next, after, end;
    uint8_t kinds = look(t, at, &next);
    char c = t->p[at];

    if (c == '\'' && (end = match_ending(t, at)) > at)
        return end;
    if (!(kinds & (LETTER | NUMBER)) && !is_line(c) && look(t, next, &after) & LETTER)
        return run(t, after, LETTER);
    if (kinds & LETTER)
        return run(t, next, LETTER);
    if (kinds & NUMBER) {
        for (int i = 1; i < n_digits && look(t, next, &after) & NUMBER; i++)
            next = after;
        return next;
    }
    if (c == ' ' && next < t->n && !(look(t, next, &after) & (SPACE | LETTER | NUMBER)))
        return run_lines(t, run_not(t, after, SPACE | LETTER | NUMBER));
    if (!(kinds & SPACE))
        return run_lines(t, run_not(t, next, SPACE | LETTER | NUMBER));
    return spaces(t, at);
}

/* `\s+$`: up to the end of the text, else to the last line feed of the spaces. */
static size_t match_line_end(const struct text *t, size_t at) {
    size_t end = run(t, at, SPACE);

    if (end == t->n)
        return end;
    while (end > at && t->p[end] != '\n')
        end--;
    return end;
}

static int find_class(const struct split *s, const struct text *t, size_t from, size_t *ret_from,
                      size_t *ret_to) {
    const uint8_t any = s->wanted | s->space;
    size_t next, after;

    for (size_t at = from; at < t->n; at = next) {
        while (at < t->n && (uint8_t)t->p[at] < 0x80 && !(t->ascii[(uint8_t)t->p[at]] & any))
            at++;
        uint8_t kinds = look(t, at, &next);
        if (kinds & s->space && look(t, next, &after) & s->wanted)
            next = after;
        else if (!(kinds & s->wanted))
            continue;
        for (size_t n = 1; n < s->n_max && look(t, next, &after) & s->wanted; n++)
            next = after;
        *ret_from = at;
        *ret_to = next;
        return 1;
    }
    return 0;
}

static int find_known(const struct split *s, const struct text *t, size_t from, size_t *ret_from,
                      size_t *ret_to) {
    size_t end, next;

    for (size_t at = from; at < t->n; at = next) {
        if (s->kind == KIND_V3)
            end = match_v3(t, at);
        else if (s->kind == KIND_LINE_END)
            end = look(t, at, &next) & SPACE ? match_line_end(t, at) : at;
        else
            end = match_qwen2(t, at, s->kind == KIND_LLAMA3 ? 3 : 1);
        if (end > at) {
            *ret_from = at;
            *ret_to = end;
            return 1;
        }
        // Spaces that end no line: none of them begins a match either.
        next = s->kind == KIND_LINE_END ? run(t, at, SPACE) : at;
        if (next == at)
            look(t, at, &next);
    }
    return 0;
}

int split_find(struct split *s, const char *text, size_t n_bytes, size_t from, size_t *ret_from,
               size_t *ret_to) {
    const struct text t = {s->chars, s->chars ? charclass_block(s->chars, 0) : NULL, text, n_bytes};
    int r;

    if (s->kind == KIND_CLASS)
        return find_class(s, &t, from, ret_from, ret_to);
    if (s->kind != KIND_REGEX)
        return find_known(s, &t, from, ret_from, ret_to);
    while ((r = regex_find(s->regex, text, n_bytes, from, ret_from, ret_to)) > 0) {
        uint32_t c;
        if (*ret_to > *ret_from)
            return 1;
        if (*ret_from == n_bytes) // an empty match cuts nothing; look on after the next character
            return 0;
        from = *ret_from + utf8_next(text + *ret_from, &c);
    }
    return r;
}
