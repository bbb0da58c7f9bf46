/* Patterns of JSON Schema (ECMA-262) as deterministic automata over UTF-8.
 *
 * Taken: characters, ".", classes with ranges and ^, \d \w \s and their opposites (ASCII, \s also
 * the Unicode spaces), \t \n \r \f \v \xHH \uHHHH \/ and escaped marks, groups ( ) and (?: ), |,
 * * + ? {n} {n,} {n,m} up to 1,000, ^ at the start and $ at the end of a top-level alternative.
 * Without them the pattern may stand anywhere in the string. Refused: look-around, back references,
 * \b, named groups, \p, lazy or possessive forms (they mean the same, but say so).
 * Construction: Thompson, 1968; ranges of characters become sequences of byte ranges as in RE2.
 */
#include "engine/infer/grammar_impl.h"

enum {
    REPEAT_MAX = 1000,
    RANGES_MAX = 512, // of one class
    GROUPS_MAX = 64,  // inside each other
};

struct range {
    uint32_t low, high;
};

struct ranges {
    int n;
    struct range r[RANGES_MAX];
};

/* A node of the nondeterministic automaton: a byte range to `to`, or empty ways to `to` and `to2`.
 */
struct state {
    uint8_t low, high;
    bool is_byte;
    int32_t to, to2; // -1: none
};

struct part {
    int32_t from, to; // `to` has no way on yet
};

struct parser {
    const char *pattern, *p;
    struct state *states;
    int32_t n;
    int depth;
    struct hai_err *err;
};

static int refuse(struct parser *x, int r, const char *what) {
    return hai_fail(x->err, r, "pattern '%.100s', byte %d: %s", x->pattern,
                    (int)(x->p - x->pattern), what);
}

static int new_state(struct parser *x, struct state s, int32_t *ret) {
    if (x->n == GRAMMAR_REGEX_NODES_MAX)
        return refuse(x, -E2BIG, "too large");
    x->states[x->n] = s;
    *ret = x->n++;
    return 0;
}

static int new_empty(struct parser *x, int32_t to, int32_t to2, int32_t *ret) {
    return new_state(x, (struct state){.to = to, .to2 = to2}, ret);
}

/* ---- classes of characters ---- */

static int add_range(struct parser *x, struct ranges *c, uint32_t low, uint32_t high) {
    if (c->n == RANGES_MAX)
        return refuse(x, -E2BIG, "a class of too many ranges");
    if (low > high)
        return refuse(x, -EINVAL, "a range that goes down");
    c->r[c->n++] = (struct range){low, high};
    return 0;
}

static int ascending(const void *a, const void *b) {
    const struct range *x = a, *y = b;

    return (x->low > y->low) - (x->low < y->low);
}

/* Sort and join; with `out`, what is not in it instead. */
static void settle(struct ranges *c, bool out) {
    struct ranges joined = {0};
    uint32_t from = 0;

    qsort(c->r, (size_t)c->n, sizeof *c->r, ascending);
    for (int i = 0; i < c->n; i++) {
        if (joined.n && c->r[i].low <= joined.r[joined.n - 1].high + 1)
            joined.r[joined.n - 1].high = MAX(joined.r[joined.n - 1].high, c->r[i].high);
        else
            joined.r[joined.n++] = c->r[i];
    }
    *c = joined;
    if (!out)
        return;
    c->n = 0;
    for (int i = 0; i < joined.n; i++) {
        if (joined.r[i].low > from)
            c->r[c->n++] = (struct range){from, joined.r[i].low - 1};
        from = joined.r[i].high + 1;
    }
    if (from <= 0x10FFFF && c->n < RANGES_MAX)
        c->r[c->n++] = (struct range){from, 0x10FFFF};
}

/* \d \w \s, and upper case for what is not in them. */
static int add_named(struct parser *x, struct ranges *c, char name) {
    static const struct range digit[] =
        {
            {'0', '9'}
    },
                              word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                              blank[] = {{9, 13},          {' ', ' '},       {0xA0, 0xA0},
                                         {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                                         {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
                                         {0xFEFF, 0xFEFF}};
    char lower = (char)(name | 0x20);
    const struct range *from = lower == 'd' ? digit : lower == 'w' ? word : blank;
    size_t n = lower == 'd'   ? ARRAY_SIZE(digit)
               : lower == 'w' ? ARRAY_SIZE(word)
                              : ARRAY_SIZE(blank);
    struct ranges own = {0};
    int r = 0;

    for (size_t i = 0; i < n; i++)
        own.r[own.n++] = from[i];
    settle(&own, name != lower);
    for (int i = 0; r == 0 && i < own.n; i++)
        r = add_range(x, c, own.r[i].low, own.r[i].high);
    return r;
}

static int read_hex(struct parser *x, int n, uint32_t *ret) {
    *ret = 0;
    for (int i = 0; i < n; i++, x->p++) {
        char c = *x->p, lower = (char)(c | 0x20);
        if (c >= '0' && c <= '9')
            *ret = *ret * 16 + (uint32_t)(c - '0');
        else if (lower >= 'a' && lower <= 'f')
            *ret = *ret * 16 + (uint32_t)(lower - 'a' + 10);
        else
            return refuse(x, -EINVAL, "expected a hexadecimal digit");
    }
    return 0;
}

/* One character as UTF-8 has it; the pattern is valid UTF-8. */
static uint32_t read_char(struct parser *x) {
    uint32_t c = (uint8_t)*x->p++;
    int rest = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC0 ? 1 : 0;

    if (rest)
        c &= 0x3Fu >> rest;
    for (; rest > 0 && *x->p; rest--)
        c = c << 6 | ((uint8_t)*x->p++ & 0x3F);
    return c;
}

/* After a backslash. Returns 1 if it was a class, which is added to c; else 0 and the character. */
static int read_escape(struct parser *x, struct ranges *c, uint32_t *ret) {
    static const char from[] = "tnrfv", to[] = "\t\n\r\f\v";
    char e = *x->p;

    if (e && strchr("dDwWsS", e)) {
        int r = add_named(x, c, e);
        x->p++;
        return r < 0 ? r : 1;
    }
    if (e == 'x' || e == 'u') {
        x->p++;
        return read_hex(x, e == 'x' ? 2 : 4, ret);
    }
    const char *at = e ? strchr(from, e) : NULL;
    if (at) {
        *ret = (uint8_t)to[at - from];
        x->p++;
        return 0;
    }
    if (e && strchr("^$\\.*+?()[]{}|/-\"'#&~ :;,<>=@%!`_", e)) {
        *ret = (uint8_t)e;
        x->p++;
        return 0;
    }
    return refuse(x, -ENOTSUP, "this escape is not supported");
}

/* After '['. */
static int read_class(struct parser *x, struct ranges *c) {
    bool out = *x->p == '^';

    x->p += out;
    while (*x->p != ']') {
        uint32_t low = 0, high = 0;
        int r = 0;
        if (!*x->p)
            return refuse(x, -EINVAL, "a class without end");
        if (*x->p == '\\') {
            x->p++;
            r = read_escape(x, c, &low);
        } else {
            low = read_char(x);
        }
        if (r < 0)
            return r;
        if (r == 1)
            continue;
        high = low;
        if (x->p[0] == '-' && x->p[1] && x->p[1] != ']') {
            x->p++;
            if (*x->p == '\\') {
                x->p++;
                r = read_escape(x, c, &high);
                if (r == 1)
                    r = refuse(x, -EINVAL, "a range to a class");
            } else {
                high = read_char(x);
            }
        }
        if (r < 0 || (r = add_range(x, c, low, high)) < 0)
            return r;
    }
    x->p++;
    settle(c, out);
    return 0;
}

/* ---- parts of the automaton ---- */

/* Byte ranges for the characters low to high, from one state to another. */
static int add_utf8(struct parser *x, uint32_t low, uint32_t high, int32_t from, int32_t to) {
    static const uint32_t lengths[] = {0x7F, 0x7FF, 0xFFFF};
    uint8_t a[4], b[4];
    int n = low < 0x80 ? 1 : low < 0x800 ? 2 : low < 0x10000 ? 3 : 4, r = 0;

    for (int i = 0; i < 3; i++)
        if (low <= lengths[i] && high > lengths[i]) {
            r = add_utf8(x, low, lengths[i], from, to);
            return r < 0 ? r : add_utf8(x, lengths[i] + 1, high, from, to);
        }
    for (int i = 1; i < n; i++) {
        uint32_t m = (1u << 6 * i) - 1;
        if ((low & ~m) == (high & ~m))
            continue;
        if (low & m) {
            r = add_utf8(x, low, low | m, from, to);
            return r < 0 ? r : add_utf8(x, (low | m) + 1, high, from, to);
        }
        if ((high & m) != m) {
            r = add_utf8(x, low, (high & ~m) - 1, from, to);
            return r < 0 ? r : add_utf8(x, high & ~m, high, from, to);
        }
    }
    static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (int i = n - 1; i >= 0; i--, low >>= 6, high >>= 6) {
        a[i] = i ? 0x80 | (low & 0x3F) : lead[n] | (uint8_t)low;
        b[i] = i ? 0x80 | (high & 0x3F) : lead[n] | (uint8_t)high;
    }
    int32_t next = to, at;
    for (int i = n - 1; r == 0 && i >= 0; i--, next = at)
        r = new_state(x, (struct state){a[i], b[i], true, next, -1}, &at);
    if (r < 0)
        return r;
    // One more empty way out of `from`: a chain of them.
    if (x->states[from].to < 0) {
        x->states[from].to = next;
        return 0;
    }
    r = new_empty(x, x->states[from].to, x->states[from].to2, &at);
    x->states[from].to = next;
    x->states[from].to2 = at;
    return r;
}

/* Characters that a string of JSON can hold here: none that need \u. */
static int add_class(struct parser *x, struct ranges *c, struct part *ret) {
    static const struct range out[] = {
        {0,      7     },
        {0xB,    0xB   },
        {0xE,    0x1F  },
        {0x7F,   0x7F  },
        {0xD800, 0xDFFF}
    };
    int r = new_empty(x, -1, -1, &ret->from);

    r = r < 0 ? r : new_empty(x, -1, -1, &ret->to);
    for (int i = 0; r == 0 && i < c->n; i++) {
        uint32_t low = c->r[i].low, high = MIN(c->r[i].high, 0x10FFFFu);
        for (size_t k = 0; r == 0 && k < ARRAY_SIZE(out); k++) {
            if (out[k].high < low || out[k].low > high)
                continue;
            if (out[k].low > low)
                r = add_utf8(x, low, out[k].low - 1, ret->from, ret->to);
            low = out[k].high + 1;
        }
        if (r == 0 && low <= high)
            r = add_utf8(x, low, high, ret->from, ret->to);
    }
    return r;
}

static int parse_alternatives(struct parser *x, bool top, struct part *ret);

static int parse_group(struct parser *x, struct part *ret) {
    if (x->p[0] == '?') {
        if (x->p[1] != ':')
            return refuse(x, -ENOTSUP, "groups other than ( ) and (?: ) are not supported");
        x->p += 2;
    }
    if (x->depth == GROUPS_MAX)
        return refuse(x, -E2BIG, "groups nested too deep");
    x->depth++;
    int r = parse_alternatives(x, false, ret);
    x->depth--;
    if (r == 0 && *x->p != ')')
        r = refuse(x, -EINVAL, "expected ')'");
    x->p++;
    return r;
}

static int parse_atom(struct parser *x, struct part *ret) {
    static const struct range lines[] = {
        {'\n',   '\n'  },
        {'\r',   '\r'  },
        {0x2028, 0x2029}
    };
    struct ranges c = {0};
    uint32_t ch = 0;
    int r = 0;

    switch (*x->p) {
    case '(':
        x->p++;
        return parse_group(x, ret);
    case '[':
        x->p++;
        r = read_class(x, &c);
        break;
    case '.':
        x->p++;
        memcpy(c.r, lines, sizeof lines);
        c.n = ARRAY_SIZE(lines);
        settle(&c, true);
        break;
    case '\\':
        x->p++;
        r = read_escape(x, &c, &ch);
        if (r == 0)
            r = add_range(x, &c, ch, ch);
        break;
    case '^':
    case '$':
        return refuse(x, -ENOTSUP, "^ and $ are supported at the ends of the pattern only");
    case '*':
    case '+':
    case '?':
    case '{':
        return refuse(x, -EINVAL, "nothing to repeat");
    default:
        ch = read_char(x);
        r = add_range(x, &c, ch, ch);
    }
    return r < 0 ? r : add_class(x, &c, ret);
}

/* {n}, {n,}, {n,m} after the brace; high -1: no bound. */
static int read_bounds(struct parser *x, int *low, int *high) {
    char *end;
    long n = strtol(x->p, &end, 10), m = n;

    if (end == x->p || n < 0 || n > REPEAT_MAX)
        return refuse(x, -ENOTSUP, "expected {n}, {n,} or {n,m} up to 1000");
    if (*end == ',') {
        const char *from = end + 1;
        m = strtol(from, &end, 10);
        if (end == from)
            m = -1;
        if (m > REPEAT_MAX || (m >= 0 && m < n) || (m < 0 && end != from))
            return refuse(x, -ENOTSUP, "expected {n}, {n,} or {n,m} up to 1000");
    }
    if (*end != '}')
        return refuse(x, -EINVAL, "expected '}'");
    x->p = end + 1;
    *low = (int)n;
    *high = (int)m;
    return 0;
}

static int read_repeat(struct parser *x, int *low, int *high) {
    int r = 0;

    *low = *high = 1;
    switch (*x->p) {
    case '*':
        *low = 0;
        *high = -1;
        x->p++;
        break;
    case '+':
        *high = -1;
        x->p++;
        break;
    case '?':
        *low = 0;
        x->p++;
        break;
    case '{':
        x->p++;
        r = read_bounds(x, low, high);
        break;
    default:
        return 0;
    }
    if (r == 0 && (*x->p == '?' || *x->p == '+'))
        r = refuse(x, -ENOTSUP, "lazy and possessive repetition is not supported");
    if (r == 0 && (*x->p == '*' || *x->p == '{'))
        r = refuse(x, -EINVAL, "nothing to repeat");
    return r;
}

static void join(struct parser *x, int32_t from, int32_t to) {
    assert(x->states[from].to < 0);
    x->states[from].to = to;
}

/* An atom `low` to `high` times: its text is read anew for each copy. */
static int parse_repeated(struct parser *x, struct part *ret) {
    const char *from = x->p;
    struct part one;
    int low = 1, high = 1, r = parse_atom(x, &one);
    const char *after = x->p;

    r = r < 0 ? r : read_repeat(x, &low, &high);
    if (r < 0)
        return r;
    const char *end = x->p;
    if (low == 1 && high == 1) {
        *ret = one;
        return 0;
    }
    r = new_empty(x, -1, -1, &ret->from);
    int32_t at = ret->from, done = -1;
    if (r == 0)
        r = new_empty(x, -1, -1, &done);
    for (int i = 0; r == 0 && (high < 0 ? i < MAX(low, 1) : i < high); i++) {
        if (i > 0) {
            x->p = from;
            r = parse_atom(x, &one);
            assert(r < 0 || x->p == after);
        }
        if (r < 0)
            break;
        int32_t next;
        if (i >= low) // this one and those after it may be left out
            r = new_empty(x, one.from, done, &next);
        else
            next = one.from;
        if (r == 0)
            join(x, at, next);
        at = one.to;
        if (r == 0 && high < 0 && i == MAX(low, 1) - 1) {
            r = new_empty(x, one.from, done, &next); // again, or on
            if (r == 0)
                join(x, at, next);
            at = -1;
        }
    }
    if (r < 0)
        return r;
    if (at >= 0)
        join(x, at, done);
    x->p = end;
    ret->to = done;
    return 0;
}

/* Any characters at all. */
static int add_anything(struct parser *x, struct part *ret) {
    struct ranges all = {1, {{0, 0x10FFFF}}};
    struct part one;
    int r = add_class(x, &all, &one);

    r = r < 0 ? r : new_empty(x, -1, -1, &ret->to);
    r = r < 0 ? r : new_empty(x, one.from, ret->to, &ret->from);
    if (r == 0)
        join(x, one.to, ret->from);
    return r;
}

static int append(struct parser *x, struct part *to, struct part more) {
    join(x, to->to, more.from);
    to->to = more.to;
    return 0;
}

static int parse_sequence(struct parser *x, bool top, struct part *ret) {
    struct part more;
    int r = new_empty(x, -1, -1, &ret->from);
    bool ends = false;

    ret->to = ret->from;
    if (r == 0 && top && *x->p == '^')
        x->p++;
    else if (r == 0 && top && (r = add_anything(x, &more)) == 0)
        append(x, ret, more);
    while (r == 0 && *x->p && *x->p != '|' && *x->p != ')') {
        if (top && *x->p == '$' && (!x->p[1] || x->p[1] == '|')) {
            x->p++;
            ends = true;
            break;
        }
        if ((r = parse_repeated(x, &more)) == 0)
            append(x, ret, more);
    }
    if (r == 0 && top && !ends && (r = add_anything(x, &more)) == 0)
        append(x, ret, more);
    return r;
}

static int parse_alternatives(struct parser *x, bool top, struct part *ret) {
    int r = parse_sequence(x, top, ret);

    while (r == 0 && *x->p == '|') {
        struct part other;
        int32_t from = -1, to = -1;
        x->p++;
        r = parse_sequence(x, top, &other);
        r = r < 0 ? r : new_empty(x, ret->from, other.from, &from);
        r = r < 0 ? r : new_empty(x, -1, -1, &to);
        if (r < 0)
            return r;
        join(x, ret->to, to);
        join(x, other.to, to);
        *ret = (struct part){from, to};
    }
    return r;
}

/* ---- from sets of states to states ---- */

struct builder {
    const struct state *states;
    int32_t n, accept;
    int32_t *sets; // sorted byte states (and `accept`) of each state, one after another
    size_t n_sets, n_sets_max;
    size_t from[GRAMMAR_REGEX_STATES_MAX + 1];
    int32_t *stack, *members;
    uint32_t *seen, stamp;
    struct grammar_regex *out;
    int64_t *work; // what is left
};

static int by_number(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

/* All byte states that empty ways lead to from those on the stack, sorted. Returns their number. */
static int32_t close_over(struct builder *b, int32_t n_stack) {
    int32_t n = 0;

    b->stamp++;
    while (n_stack > 0) {
        int32_t at = b->stack[--n_stack];
        if (at < 0 || b->seen[at] == b->stamp)
            continue;
        --*b->work;
        b->seen[at] = b->stamp;
        const struct state *s = &b->states[at];
        if (s->is_byte || at == b->accept) {
            b->members[n++] = at;
            continue;
        }
        b->stack[n_stack++] = s->to2;
        b->stack[n_stack++] = s->to;
    }
    qsort(b->members, (size_t)n, sizeof *b->members, by_number);
    return n;
}

/* The state of a set of members, new if need be. -E2BIG. */
static int state_of(struct builder *b, int32_t n, struct hai_err *err) {
    struct grammar_regex *out = b->out;

    for (int i = 0; i < out->n_states; i++) {
        size_t length = b->from[i + 1] - b->from[i];
        *b->work -= length == (size_t)n ? 1 + n / 64 : 1;
        if (length == (size_t)n &&
            !memcmp(b->sets + b->from[i], b->members, length * sizeof *b->sets))
            return i;
    }
    if (out->n_states == GRAMMAR_REGEX_STATES_MAX || *b->work < 0)
        return hai_fail(err, -E2BIG, "a pattern needs more than %d states, or too much work",
                        GRAMMAR_REGEX_STATES_MAX);
    if (b->n_sets + (size_t)n > b->n_sets_max) {
        b->n_sets_max = 2 * b->n_sets_max + (size_t)n;
        b->sets = hai_realloc_array(b->sets, b->n_sets_max, sizeof *b->sets);
    }
    memcpy(b->sets + b->n_sets, b->members, (size_t)n * sizeof *b->sets);
    b->n_sets += (size_t)n;
    b->from[out->n_states + 1] = b->n_sets;
    return out->n_states++;
}

/* Where every byte leads from a state; bytes that no range begins or ends at go as the one before.
 */
static int expand(struct builder *b, int at, struct hai_err *err) {
    bool cut[257] = {[0] = true};
    uint16_t *next = b->out->next + (size_t)at * 256;

    for (size_t i = b->from[at]; i < b->from[at + 1]; i++) {
        const struct state *s = &b->states[b->sets[i]];
        if (b->sets[i] == b->accept) {
            b->out->accepts[at] = true;
            continue;
        }
        cut[s->low] = cut[s->high + 1] = true;
    }
    for (int byte = 0; byte < 256; byte++) {
        int32_t n_stack = 0;
        if (!cut[byte]) {
            next[byte] = next[byte - 1];
            continue;
        }
        for (size_t i = b->from[at]; i < b->from[at + 1]; i++) {
            const struct state *s = &b->states[b->sets[i]];
            --*b->work;
            if (s->is_byte && byte >= s->low && byte <= s->high)
                b->stack[n_stack++] = s->to;
        }
        if (n_stack == 0) {
            next[byte] = GRAMMAR_REGEX_DEAD;
            continue;
        }
        int to = state_of(b, close_over(b, n_stack), err);
        if (to < 0)
            return to;
        next[byte] = (uint16_t)to;
    }
    return 0;
}

/* Take out the ways to states from which no end can be reached. */
static void prune(struct grammar_regex *x) {
    _cleanup_free_ bool *lives = hai_new_array(bool, (size_t)x->n_states + 1);
    bool more = true;

    while (more) {
        more = false;
        for (int i = x->n_states - 1; i >= 0; i--) {
            if (lives[i])
                continue;
            lives[i] = x->accepts[i];
            for (int byte = 0; byte < 256 && !lives[i]; byte++) {
                uint16_t to = x->next[i * 256 + byte];
                lives[i] = to != GRAMMAR_REGEX_DEAD && lives[to];
            }
            more |= lives[i];
        }
    }
    for (int i = 0; i < x->n_states; i++)
        for (int byte = 0; byte < 256; byte++) {
            uint16_t *to = &x->next[i * 256 + byte];
            if (*to != GRAMMAR_REGEX_DEAD && !lives[*to])
                *to = GRAMMAR_REGEX_DEAD;
            if (*to != GRAMMAR_REGEX_DEAD && strchr("\"\\\b\f\n\r\t", byte) && byte)
                x->escapes[i] = true;
        }
    if (!lives[0])
        x->n_states = 0;
}

static int build(const struct parser *x, struct part whole, struct grammar_regex *out,
                 int64_t *work, struct hai_err *err) {
    struct builder b = {
        .states = x->states, .n = x->n, .accept = whole.to, .out = out, .work = work};
    // Every state puts at most two on the stack, and each is looked at once; doubles come on top.
    b.stack = hai_new_array(int32_t, 4 * (size_t)x->n + 4);
    b.members = hai_new_array(int32_t, (size_t)x->n + 1);
    b.n_sets_max = 64;
    b.sets = hai_new_array(int32_t, b.n_sets_max);
    b.seen = hai_new_array(uint32_t, (size_t)x->n + 1);
    out->next = hai_new_array(uint16_t, (size_t)GRAMMAR_REGEX_STATES_MAX * 256);
    out->accepts = hai_new_array(bool, GRAMMAR_REGEX_STATES_MAX);
    out->escapes = hai_new_array(bool, GRAMMAR_REGEX_STATES_MAX);
    b.stack[0] = whole.from;
    int r = state_of(&b, close_over(&b, 1), err);
    for (int i = 0; r >= 0 && i < out->n_states; i++)
        r = expand(&b, i, err);
    free(b.stack);
    free(b.members);
    free(b.seen);
    free(b.sets);
    if (r < 0)
        return r;
    size_t n_next = (size_t)MAX(out->n_states, 1) * 256;
    out->next = hai_realloc_array(out->next, n_next, sizeof *out->next);
    prune(out);
    return 0;
}

int grammar_regex_new(const char *pattern, int64_t *work, struct grammar_regex **ret,
                      struct hai_err *err) {
    _cleanup_(grammar_regex_freep) struct grammar_regex *out = hai_new(struct grammar_regex);
    _cleanup_free_ struct state *states = hai_new_array(struct state, GRAMMAR_REGEX_NODES_MAX);
    struct parser x = {.pattern = pattern, .p = pattern, .states = states, .err = err};
    struct part whole;
    int r = parse_alternatives(&x, true, &whole);

    if (r == 0 && *x.p)
        r = refuse(&x, -EINVAL, "')' without '('");
    *work -= x.n;
    if (r == 0)
        r = build(&x, whole, out, work, err);
    if (r == 0)
        *ret = TAKE_PTR(out);
    return r;
}

void grammar_regex_free(struct grammar_regex *x) {
    if (!x)
        return;
    free(x->next);
    free(x->accepts);
    free(x->escapes);
    free(x);
}

/* Days as months have them; 29 February in years divisible by 4, of full centuries by 400. */
#define DATE                                                                                       \
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"                                 \
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"                          \
    "|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
#define TIME                                                                                       \
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?"                                 \
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define BYTE "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

const char *grammar_regex_format(const char *name) {
    static const struct {
        const char *name, *pattern;
    } formats[] = {
        {"date",      "^" DATE "$"                                                    },
        {"time",      "^" TIME "$"                                                    },
        {"date-time", "^" DATE "T" TIME "$"                                           },
        {"uuid",      "^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"        },
        {"ipv4",      "^" BYTE "(?:\\." BYTE "){3}$"                                  },
        {"email",     "^[A-Za-z0-9_+-]+(?:\\.[A-Za-z0-9_+-]+)*@"
                  "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
                  "(?:\\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+$"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
        if (strcmp(name, formats[i].name) == 0)
            return formats[i].pattern;
    return NULL;
}
