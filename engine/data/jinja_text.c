#include "engine/data/jinja_text.h"
#include "engine/data/utf8.h"

/* White space of Python's str.isspace. */
static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

static bool is_among(const struct jinja_string *chars, const char *character, size_t n_bytes) {
    uint32_t c;

    if (!chars) {
        utf8_next(character, &c);
        return is_space(c);
    }
    for (size_t at = 0, n; at < chars->n_bytes; at += n) {
        n = utf8_next(chars->text + at, &c);
        if (n == n_bytes && !memcmp(chars->text + at, character, n))
            return true;
    }
    return false;
}

struct jinja_value jinja_text_strip(struct jinja_string s, const struct jinja_string *chars,
                                    bool left, bool right) {
    size_t from = 0, to = s.n_bytes, n, start;
    uint32_t c;

    for (; left && from < to; from += n) {
        n = utf8_next(s.text + from, &c);
        if (!is_among(chars, s.text + from, n))
            break;
    }
    for (; right && to > from; to = start) {
        for (start = to - 1; ((uint8_t)s.text[start] & 0xC0) == 0x80;)
            start--;
        if (!is_among(chars, s.text + start, to - start))
            break;
    }
    return jinja_value_part(s, from, to);
}

static int strip(struct jinja_run *run, const struct jinja_value *self,
                 const struct jinja_value *args, bool left, bool right, struct jinja_value *ret) {
    struct jinja_string chars = {0};
    int r = jinja_args_string(run, "strip", &args[0], &chars);

    if (r == 0)
        r = jinja_value_step(run, self->string.n_bytes);
    *ret = jinja_text_strip(self->string, chars.text ? &chars : NULL, left, right);
    return r;
}

static int method_strip(struct jinja_run *run, const struct jinja_value *self,
                        const struct jinja_value *args, struct jinja_value *ret) {
    return strip(run, self, args, true, true, ret);
}

static int method_lstrip(struct jinja_run *run, const struct jinja_value *self,
                         const struct jinja_value *args, struct jinja_value *ret) {
    return strip(run, self, args, true, false, ret);
}

static int method_rstrip(struct jinja_run *run, const struct jinja_value *self,
                         const struct jinja_value *args, struct jinja_value *ret) {
    return strip(run, self, args, false, true, ret);
}

/* Where a part lies in a text from a byte on; SIZE_MAX: nowhere. */
static size_t find(struct jinja_string s, struct jinja_string part, size_t from) {
    const char *p = part.n_bytes ? memmem(s.text + from, s.n_bytes - from, part.text, part.n_bytes)
                                 : s.text + from;
    return p ? (size_t)(p - s.text) : SIZE_MAX;
}

/* Split at white space: pieces are never empty. */
static int split_words(struct jinja_run *run, struct jinja_string s, int64_t most,
                       struct jinja_list *ret) {
    size_t at = 0, n;
    uint32_t c;
    int r = 0;

    while (r == 0) {
        for (; at < s.n_bytes; at += n) {
            n = utf8_next(s.text + at, &c);
            if (!is_space(c))
                break;
        }
        if (at == s.n_bytes)
            break;
        size_t from = at;
        if (most >= 0 && (int64_t)ret->n == most)
            at = s.n_bytes;
        for (; at < s.n_bytes; at += n) {
            n = utf8_next(s.text + at, &c);
            if (is_space(c))
                break;
        }
        r = jinja_value_append(run, ret, jinja_value_part(s, from, at));
    }
    return r;
}

static int method_split(struct jinja_run *run, const struct jinja_value *self,
                        const struct jinja_value *args, struct jinja_value *ret) {
    struct jinja_string s = self->string, sep = {0};
    struct jinja_value list = jinja_value_list(run);
    int64_t most = -1;
    size_t from = 0;
    int r = jinja_args_string(run, "split", &args[0], &sep);

    if (r == 0)
        r = jinja_args_int(run, "split", &args[1], &most);
    if (r == 0)
        r = jinja_value_step(run, s.n_bytes);
    *ret = list;
    if (r < 0)
        return r;
    if (!sep.text)
        return split_words(run, s, most, list.list);
    if (!sep.n_bytes)
        return jinja_value_fail(run, -EINVAL, "'split' at an empty text");
    for (size_t at; r == 0 && (most < 0 || (int64_t)list.list->n < most) &&
                    (at = find(s, sep, from)) != SIZE_MAX;
         from = at + sep.n_bytes)
        r = jinja_value_append(run, list.list, jinja_value_part(s, from, at));
    return r < 0 ? r : jinja_value_append(run, list.list, jinja_value_part(s, from, s.n_bytes));
}

static int method_splitlines(struct jinja_run *run, const struct jinja_value *self,
                             const struct jinja_value *args, struct jinja_value *ret) {
    struct jinja_string s = self->string;
    struct jinja_value list = jinja_value_list(run);
    size_t from = 0;
    int r = jinja_value_step(run, s.n_bytes);

    for (size_t at = 0; r == 0 && at < s.n_bytes; at++) {
        if (s.text[at] != '\n' && s.text[at] != '\r')
            continue;
        r = jinja_value_append(run, list.list, jinja_value_part(s, from, at));
        at += s.text[at] == '\r' && at + 1 < s.n_bytes && s.text[at + 1] == '\n';
        from = at + 1;
    }
    if (r == 0 && from < s.n_bytes)
        r = jinja_value_append(run, list.list, jinja_value_part(s, from, s.n_bytes));
    *ret = list;
    return r;
}

/* Does a text begin or end with one of several? */
static int at_edge(struct jinja_run *run, const struct jinja_value *self,
                   const struct jinja_value *what, bool at_end, bool *ret) {
    struct jinja_string s = self->string, part = {0};
    int r = 0;

    if (what->kind == JINJA_LIST) { // a tuple
        for (size_t i = 0; r == 0 && !*ret && i < what->list->n; i++)
            r = what->list->items[i].kind == JINJA_LIST
                    ? jinja_value_fail(run, -EINVAL, "a list inside of a list")
                    : at_edge(run, self, &what->list->items[i], at_end, ret);
        return r;
    }
    r = jinja_args_string(run, at_end ? "endswith" : "startswith", what, &part);
    if (r < 0 || !part.text)
        return r;
    size_t from = at_end ? s.n_bytes - MIN(s.n_bytes, part.n_bytes) : 0;
    *ret = s.n_bytes >= part.n_bytes &&
           (!part.n_bytes || !memcmp(s.text + from, part.text, part.n_bytes));
    return jinja_value_step(run, part.n_bytes);
}

static int method_startswith(struct jinja_run *run, const struct jinja_value *self,
                             const struct jinja_value *args, struct jinja_value *ret) {
    bool found = false;
    int r = at_edge(run, self, &args[0], false, &found);

    *ret = jinja_value_bool(found);
    return r;
}

static int method_endswith(struct jinja_run *run, const struct jinja_value *self,
                           const struct jinja_value *args, struct jinja_value *ret) {
    bool found = false;
    int r = at_edge(run, self, &args[0], true, &found);

    *ret = jinja_value_bool(found);
    return r;
}

static int method_removeprefix(struct jinja_run *run, const struct jinja_value *self,
                               const struct jinja_value *args, struct jinja_value *ret) {
    bool found = false;
    int r = args[0].kind != JINJA_STRING ? -EINVAL : at_edge(run, self, &args[0], false, &found);

    if (r == -EINVAL)
        return jinja_value_fail(run, r, "'removeprefix' takes a text");
    *ret = jinja_value_part(self->string, found ? args[0].string.n_bytes : 0, self->string.n_bytes);
    return r;
}

static int method_removesuffix(struct jinja_run *run, const struct jinja_value *self,
                               const struct jinja_value *args, struct jinja_value *ret) {
    bool found = false;
    int r = args[0].kind != JINJA_STRING ? -EINVAL : at_edge(run, self, &args[0], true, &found);

    if (r == -EINVAL)
        return jinja_value_fail(run, r, "'removesuffix' takes a text");
    *ret = jinja_value_part(self->string, 0,
                            self->string.n_bytes - (found ? args[0].string.n_bytes : 0));
    return r;
}

enum letter_case { CASE_UPPER, CASE_LOWER, CASE_CAPITALIZE, CASE_TITLE };

static int change_case(struct jinja_run *run, struct jinja_string s, enum letter_case to,
                       struct jinja_value *ret) {
    char *text = arena_alloc(&run->arena, s.n_bytes + 1);
    bool inside = false; // of a word, or of the text

    for (size_t i = 0; i < s.n_bytes; i++) {
        char c = s.text[i], low = (char)(c | 0x20);
        bool is_letter = low >= 'a' && low <= 'z';
        bool up = to == CASE_UPPER || (to != CASE_LOWER && !inside);
        if ((uint8_t)c >= 0x80)
            return jinja_value_fail(run, -ENOTSUP,
                                    "changing the case of letters beyond ASCII is not built in");
        text[i] = !is_letter ? c : up ? (char)(low - 0x20) : low;
        inside = to == CASE_TITLE ? is_letter : true;
    }
    *ret = (struct jinja_value){
        .kind = JINJA_STRING, .string = {text, s.marks, s.n_bytes}
    };
    return jinja_value_step(run, s.n_bytes);
}

static int method_upper(struct jinja_run *run, const struct jinja_value *self,
                        const struct jinja_value *args, struct jinja_value *ret) {
    return change_case(run, self->string, CASE_UPPER, ret);
}

static int method_lower(struct jinja_run *run, const struct jinja_value *self,
                        const struct jinja_value *args, struct jinja_value *ret) {
    return change_case(run, self->string, CASE_LOWER, ret);
}

static int method_capitalize(struct jinja_run *run, const struct jinja_value *self,
                             const struct jinja_value *args, struct jinja_value *ret) {
    return change_case(run, self->string, CASE_CAPITALIZE, ret);
}

static int method_title(struct jinja_run *run, const struct jinja_value *self,
                        const struct jinja_value *args, struct jinja_value *ret) {
    return change_case(run, self->string, CASE_TITLE, ret);
}

static int method_replace(struct jinja_run *run, const struct jinja_value *self,
                          const struct jinja_value *args, struct jinja_value *ret) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder b = {0};
    struct jinja_string s = self->string, old = {0}, new = {0};
    int64_t most = -1;
    size_t from = 0;
    int r = jinja_args_string(run, "replace", &args[0], &old);

    if (r == 0)
        r = jinja_args_string(run, "replace", &args[1], &new);
    if (r == 0)
        r = jinja_args_int(run, "replace", &args[2], &most);
    if (r == 0 && !old.n_bytes)
        r = jinja_value_fail(run, -ENOTSUP, "'replace' of an empty text is not built in");
    for (size_t at; r == 0 && most != 0 && (at = find(s, old, from)) != SIZE_MAX;
         from = at + old.n_bytes, most -= most > 0) {
        r = jinja_value_add(run, &b, jinja_value_part(s, from, at).string);
        if (r == 0 && new.text)
            r = jinja_value_add(run, &b, new);
    }
    if (r == 0)
        r = jinja_value_add(run, &b, jinja_value_part(s, from, s.n_bytes).string);
    if (r == 0)
        *ret = jinja_value_built(run, &b);
    return r;
}

static int method_find(struct jinja_run *run, const struct jinja_value *self,
                       const struct jinja_value *args, struct jinja_value *ret) {
    struct jinja_string part = {0};
    int r = jinja_args_string(run, "find", &args[0], &part);
    size_t at = r == 0 && part.text ? find(self->string, part, 0) : SIZE_MAX;

    *ret = jinja_value_int(-1);
    if (at != SIZE_MAX)
        *ret = jinja_value_int(
            (int64_t)jinja_value_length(jinja_value_part(self->string, 0, at).string));
    return r < 0 ? r : jinja_value_step(run, self->string.n_bytes);
}

static int method_count(struct jinja_run *run, const struct jinja_value *self,
                        const struct jinja_value *args, struct jinja_value *ret) {
    struct jinja_string part = {0};
    int64_t n = 0;
    int r = jinja_args_string(run, "count", &args[0], &part);

    if (r == 0 && !part.n_bytes)
        return jinja_value_fail(run, -ENOTSUP, "'count' of an empty text is not built in");
    for (size_t at = 0; r == 0 && (at = find(self->string, part, at)) != SIZE_MAX;
         at += part.n_bytes)
        n++;
    *ret = jinja_value_int(n);
    return r < 0 ? r : jinja_value_step(run, self->string.n_bytes);
}

static int method_isdigit(struct jinja_run *run, const struct jinja_value *self,
                          const struct jinja_value *args, struct jinja_value *ret) {
    struct jinja_string s = self->string;
    bool all = s.n_bytes > 0;

    for (size_t i = 0; i < s.n_bytes; i++) {
        if ((uint8_t)s.text[i] >= 0x80)
            return jinja_value_fail(run, -ENOTSUP, "'isdigit' beyond ASCII is not built in");
        all = all && s.text[i] >= '0' && s.text[i] <= '9';
    }
    *ret = jinja_value_bool(all);
    return jinja_value_step(run, s.n_bytes);
}

static int method_join(struct jinja_run *run, const struct jinja_value *self,
                       const struct jinja_value *args, struct jinja_value *ret) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder b = {0};
    struct jinja_value items;
    int r = jinja_value_items(run, &args[0], &items);

    for (size_t i = 0; r == 0 && i < items.list->n; i++) {
        if (items.list->items[i].kind != JINJA_STRING)
            return jinja_value_fail(run, -EINVAL, "'join' of %s; expected text",
                                    jinja_value_kind_name(&items.list->items[i]));
        if (i)
            r = jinja_value_add(run, &b, self->string);
        if (r == 0)
            r = jinja_value_add(run, &b, items.list->items[i].string);
    }
    if (r == 0)
        *ret = jinja_value_built(run, &b);
    return r;
}

static const struct jinja_builtin methods[] = {
    {"strip",        method_strip,        {"chars"},               0},
    {"lstrip",       method_lstrip,       {"chars"},               0},
    {"rstrip",       method_rstrip,       {"chars"},               0},
    {"split",        method_split,        {"sep", "maxsplit"},     0},
    {"splitlines",   method_splitlines,   {NULL},                  0},
    {"startswith",   method_startswith,   {"prefix"},              1},
    {"endswith",     method_endswith,     {"suffix"},              1},
    {"removeprefix", method_removeprefix, {"prefix"},              1},
    {"removesuffix", method_removesuffix, {"suffix"},              1},
    {"upper",        method_upper,        {NULL},                  0},
    {"lower",        method_lower,        {NULL},                  0},
    {"capitalize",   method_capitalize,   {NULL},                  0},
    {"title",        method_title,        {NULL},                  0},
    {"replace",      method_replace,      {"old", "new", "count"}, 2},
    {"find",         method_find,         {"sub"},                 1},
    {"count",        method_count,        {"sub"},                 1},
    {"isdigit",      method_isdigit,      {NULL},                  0},
    {"join",         method_join,         {"iterable"},            1},
};

const struct jinja_builtin *jinja_text_method(const char *name) {
    return jinja_args_find(methods, ARRAY_SIZE(methods), name);
}
