#include "scheduler/ranges.h"

#include "lib/limits.h"
#include "lib/pure/buf.h"
#include <ctype.h>
#include <stdio.h>

enum { DIGITS_MAX = 9 };

struct expansion {
    struct schema_list *list; // of char *
    size_t n_max;
    const char *text; // whole, for errors
    struct hai_err *err;
};

static int bad_form(const struct expansion *e) {
    return hai_fail_at(e->err, -EINVAL, "invalid", NULL, NULL,
                       "'%.100s' is no list of names; expected gpu[0001-1250] or a[1-2],b7",
                       e->text);
}

static int add_name(const struct expansion *e, const char *name) {
    if (!*name || strlen(name) > NODE_NAME_MAX)
        return bad_form(e);
    if (e->list->n >= e->n_max)
        return hai_fail_at(e->err, -ERANGE, "too_many", NULL, NULL,
                           "'%.100s' makes more than %zu names", e->text, e->n_max);
    char **slot = schema_list_add(e->list, sizeof *slot);
    *slot = hai_strdup(name);
    return 0;
}

/* A number as written: its value and how many digits. */
static int read_number(const char **at, long *ret, int *ret_digits) {
    const char *start = *at;

    while (isdigit((unsigned char)**at))
        ++*at;
    *ret_digits = (int)(*at - start);
    *ret = strtol(start, NULL, 10);
    return *ret_digits >= 1 && *ret_digits <= DIGITS_MAX ? 0 : -EINVAL;
}

static int expand_one(const struct expansion *e, const char *prefix, const char *at);

/* The numbers of one bracket, each followed by whatever comes after it. */
static int expand_bracket(const struct expansion *e, const char *prefix, const char *at) {
    const char *close = strchr(at, ']');

    if (!close)
        return bad_form(e);
    for (;;) {
        long from, to;
        int digits, to_digits;
        if (read_number(&at, &from, &digits) < 0)
            return bad_form(e);
        to = from;
        if (*at == '-') {
            at++;
            if (read_number(&at, &to, &to_digits) < 0 || to < from)
                return bad_form(e);
        }
        for (long number = from; number <= to; number++) {
            _cleanup_free_ char *name = hai_asprintf("%s%0*ld", prefix, digits, number);
            int r = expand_one(e, name, close + 1);
            if (r < 0)
                return r;
        }
        if (at == close)
            return 0;
        if (*at++ != ',')
            return bad_form(e);
    }
}

/* The rest of one item, behind what was expanded so far. */
static int expand_one(const struct expansion *e, const char *prefix, const char *at) {
    size_t n = strcspn(at, "[,");
    _cleanup_free_ char *name = NULL;

    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)at[i]) && !strchr("._-", at[i]))
            return bad_form(e);
    if (strlen(prefix) + n > NODE_NAME_MAX)
        return bad_form(e);
    name = hai_asprintf("%s%.*s", prefix, (int)n, at);
    if (at[n] == '[')
        return expand_bracket(e, name, at + n + 1);
    return add_name(e, name);
}

/* The end of one item: the next comma outside brackets. */
static const char *item_end(const char *at) {
    bool inside = false;

    for (; *at && (inside || *at != ','); at++)
        inside = *at == '[' || (inside && *at != ']');
    return at;
}

int ranges_expand(const char *text, size_t n_max, struct schema_list *ret, struct hai_err *err) {
    struct expansion e = {ret, n_max, text, err};

    for (const char *at = text;; at++) {
        const char *end = item_end(at);
        _cleanup_free_ char *item = hai_strndup(at, (size_t)(end - at));
        int r = *item ? expand_one(&e, "", item) : bad_form(&e);
        if (r < 0)
            return r;
        at = end;
        if (!*at)
            return 0;
    }
}
