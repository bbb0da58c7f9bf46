#include "engine/data/jinja_filter.h"
#include "engine/data/jinja_test.h"
#include "engine/data/jinja_text.h"

#include <math.h>

#define FILTER(name)                                                                               \
    static int name(struct jinja_run *run, const struct jinja_value *self,                         \
                    const struct jinja_value *args, struct jinja_value *ret)

/* Filters that are methods of text take anything and make text of it first. */
static int as_text(struct jinja_run *run, const struct jinja_value *v, struct jinja_value *ret) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder b = {0};

    if (v->kind == JINJA_STRING) {
        *ret = *v;
        return 0;
    }
    int r = jinja_value_print(run, &b, v);
    if (r == 0)
        *ret = jinja_value_built(run, &b);
    return r;
}

FILTER(filter_trim) {
    struct jinja_value text;
    struct jinja_string chars = {0};
    int r = as_text(run, self, &text);

    if (r == 0)
        r = jinja_args_string(run, "trim", &args[0], &chars);
    if (r == 0)
        r = jinja_value_step(run, text.string.n_bytes);
    if (r == 0)
        *ret = jinja_text_strip(text.string, chars.text ? &chars : NULL, true, true);
    return r;
}

FILTER(filter_length) {
    switch (self->kind) {
    case JINJA_STRING:
        *ret = jinja_value_int((int64_t)jinja_value_length(self->string));
        return jinja_value_step(run, self->string.n_bytes);
    case JINJA_LIST:
        *ret = jinja_value_int((int64_t)self->list->n);
        return 0;
    case JINJA_DICT:
        *ret = jinja_value_int((int64_t)self->dict->n);
        return 0;
    case JINJA_UNDEFINED:
        *ret = jinja_value_int(0);
        return 0;
    default:
        return jinja_value_fail(run, -EINVAL, "%s has no length", jinja_value_kind_name(self));
    }
}

FILTER(filter_tojson) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder b = {0};
    int64_t indent = -1;
    int r = jinja_args_int(run, "tojson", &args[0], &indent);

    if (r == 0 && jinja_value_truth(&args[1]))
        r = jinja_value_fail(run, -ENOTSUP, "'tojson' with ensure_ascii is not built in");
    if (r == 0)
        r = jinja_value_json(run, &b, self, (int)MIN(MAX(indent, INT64_C(-1)), INT64_C(16)),
                             jinja_value_truth(&args[2]));
    if (r == 0)
        *ret = jinja_value_built(run, &b);
    return r;
}

FILTER(filter_default) {
    bool absent =
        self->kind == JINJA_UNDEFINED || (jinja_value_truth(&args[1]) && !jinja_value_truth(self));

    *ret = !absent ? *self : args[0].kind == JINJA_UNDEFINED ? jinja_value_text("") : args[0];
    return 0;
}

/* a.b.c of a value. */
static struct jinja_value attribute(const struct jinja_value *v, struct jinja_string path) {
    const struct jinja_value *at = v;

    for (size_t from = 0; at && from <= path.n_bytes;) {
        const char *dot = memchr(path.text + from, '.', path.n_bytes - from);
        size_t to = dot ? (size_t)(dot - path.text) : path.n_bytes;
        at = jinja_value_get(at, path.text + from, to - from);
        from = to + 1;
    }
    return at ? *at : jinja_value_undefined(NULL);
}

FILTER(filter_join) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder b = {0};
    struct jinja_string separator = {"", NULL, 0}, path = {0};
    struct jinja_value items;
    int r = jinja_value_items(run, self, &items);

    if (r == 0)
        r = jinja_args_string(run, "join", &args[0], &separator);
    if (r == 0)
        r = jinja_args_string(run, "join", &args[1], &path);
    for (size_t i = 0; r == 0 && i < items.list->n; i++) {
        struct jinja_value v = items.list->items[i];
        v = path.text ? attribute(&v, path) : v;
        if (i)
            r = jinja_value_add(run, &b, separator);
        if (r == 0)
            r = jinja_value_print(run, &b, &v);
    }
    if (r == 0)
        *ret = jinja_value_built(run, &b);
    return r;
}

FILTER(filter_list) {
    struct jinja_value items;
    int r = jinja_value_items(run, self, &items);

    *ret = jinja_value_list(run);
    for (size_t i = 0; r == 0 && i < items.list->n; i++)
        r = jinja_value_append(run, ret->list, items.list->items[i]);
    return r;
}

FILTER(filter_first) {
    struct jinja_value items;
    int r = jinja_value_items(run, self, &items);

    if (r == 0)
        *ret = items.list->n ? items.list->items[0] : jinja_value_undefined("first");
    return r;
}

FILTER(filter_last) {
    struct jinja_value items;
    int r = jinja_value_items(run, self, &items);

    if (r == 0)
        *ret = items.list->n ? items.list->items[items.list->n - 1] : jinja_value_undefined("last");
    return r;
}

FILTER(filter_reverse) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder b = {0};
    struct jinja_value items;
    int r = jinja_value_items(run, self, &items);

    *ret = jinja_value_list(run);
    for (size_t i = r == 0 ? items.list->n : 0; r == 0 && i > 0; i--)
        r = self->kind == JINJA_STRING
                ? jinja_value_add(run, &b, items.list->items[i - 1].string)
                : jinja_value_append(run, ret->list, items.list->items[i - 1]);
    if (r == 0 && self->kind == JINJA_STRING)
        *ret = jinja_value_built(run, &b);
    return r;
}

FILTER(filter_string) {
    return as_text(run, self, ret);
}

FILTER(filter_int) {
    double v = self->kind == JINJA_BOOL   ? self->boolean
               : self->kind == JINJA_REAL ? trunc(self->real)
                                          : 0;

    *ret = self->kind == JINJA_INT ? *self : jinja_value_int(0);
    if (self->kind == JINJA_STRING) {
        char digits[24], *end = digits;
        struct jinja_string s = jinja_text_strip(self->string, NULL, true, true).string;
        if (s.n_bytes < sizeof digits) {
            memcpy(digits, s.text, s.n_bytes);
            digits[s.n_bytes] = 0;
            errno = 0;
            int64_t n = strtoll(digits, &end, 10);
            if (end > digits && !*end && !errno)
                *ret = jinja_value_int(n);
            else if (args[0].kind != JINJA_UNDEFINED)
                *ret = args[0];
        }
    } else if (self->kind != JINJA_INT) {
        if (!(fabs(v) < 9e18))
            return jinja_value_fail(run, -EINVAL, "'int' of a number that is too large");
        *ret = jinja_value_int((int64_t)v);
    }
    return 0;
}

FILTER(filter_abs) {
    if (self->kind != JINJA_INT && self->kind != JINJA_REAL)
        return jinja_value_fail(run, -EINVAL, "'abs' of %s", jinja_value_kind_name(self));
    if (self->kind == JINJA_INT && self->integer == INT64_MIN)
        return jinja_value_fail(run, -EINVAL, "'abs' of a number that is too large");
    *ret = *self;
    if (self->kind == JINJA_INT)
        ret->integer = llabs(self->integer);
    else
        ret->real = fabs(self->real);
    return 0;
}

FILTER(filter_safe) {
    *ret = *self;
    return 0;
}

/* What of a dict: keys, values, or pairs. */
static int dict_parts(struct jinja_run *run, const struct jinja_value *v, bool keys, bool values,
                      struct jinja_value *ret) {
    int r = 0;

    *ret = jinja_value_list(run);
    if (v->kind == JINJA_UNDEFINED)
        return 0;
    if (v->kind != JINJA_DICT)
        return jinja_value_fail(run, -EINVAL, "%s has no items", jinja_value_kind_name(v));
    for (size_t i = 0; r == 0 && i < v->dict->n; i++) {
        struct jinja_value pair = jinja_value_list(run);
        if (keys && values) {
            pair.list->is_tuple = true;
            r = jinja_value_append(run, pair.list, v->dict->members[i].key);
            if (r == 0)
                r = jinja_value_append(run, pair.list, v->dict->members[i].value);
        } else
            pair = keys ? v->dict->members[i].key : v->dict->members[i].value;
        if (r == 0)
            r = jinja_value_append(run, ret->list, pair);
    }
    return r;
}

FILTER(filter_items) {
    return dict_parts(run, self, true, true, ret);
}

FILTER(method_keys) {
    return dict_parts(run, self, true, false, ret);
}

FILTER(method_values) {
    return dict_parts(run, self, false, true, ret);
}

FILTER(method_get) {
    const struct jinja_value *found =
        args[0].kind == JINJA_STRING
            ? jinja_value_get(self, args[0].string.text, args[0].string.n_bytes)
            : NULL;

    *ret = found ? *found : args[1].kind == JINJA_UNDEFINED ? jinja_value_none() : args[1];
    return jinja_value_step(run, self->dict->n);
}

/* Keep the items for which a test holds (or does not); of an attribute where path is given. */
static int choose(struct jinja_run *run, const struct jinja_value *self,
                  const struct jinja_string *path, const struct jinja_value *test,
                  const struct jinja_value *argument, bool keep, struct jinja_value *ret) {
    struct jinja_args args = {.n = argument->kind != JINJA_UNDEFINED};
    struct jinja_string name = {0};
    struct jinja_value items;
    int r = jinja_value_items(run, self, &items);

    args.values[0] = *argument;
    *ret = jinja_value_list(run);
    if (r == 0)
        r = jinja_args_string(run, "select", test, &name);
    for (size_t i = 0; r == 0 && i < items.list->n; i++) {
        struct jinja_value v = items.list->items[i];
        v = path ? attribute(&v, *path) : v;
        r = name.text ? jinja_test(run, name.text, &v, &args) : jinja_value_truth(&v);
        if (r >= 0)
            r = (r > 0) == keep ? jinja_value_append(run, ret->list, items.list->items[i]) : 0;
    }
    return r;
}

FILTER(filter_select) {
    return choose(run, self, NULL, &args[0], &args[1], true, ret);
}

FILTER(filter_reject) {
    return choose(run, self, NULL, &args[0], &args[1], false, ret);
}

static int choose_attribute(struct jinja_run *run, const struct jinja_value *self,
                            const struct jinja_value *args, bool keep, struct jinja_value *ret) {
    struct jinja_string path = {0};
    int r = jinja_args_string(run, "selectattr", &args[0], &path);

    if (r == 0 && !path.text)
        r = jinja_value_fail(run, -EINVAL, "'selectattr' needs the name of an attribute");
    return r < 0 ? r : choose(run, self, &path, &args[1], &args[2], keep, ret);
}

FILTER(filter_selectattr) {
    return choose_attribute(run, self, args, true, ret);
}

FILTER(filter_rejectattr) {
    return choose_attribute(run, self, args, false, ret);
}

/* map(attribute='x') and map('filter'). */
FILTER(filter_map) {
    static const struct jinja_args none = {0};
    struct jinja_string name = {0}, path = {0};
    struct jinja_value items, v;
    int r = jinja_value_items(run, self, &items);

    *ret = jinja_value_list(run);
    if (r == 0)
        r = jinja_args_string(run, "map", &args[0], &name);
    if (r == 0)
        r = jinja_args_string(run, "map", &args[1], &path);
    if (r == 0 && !name.text == !path.text)
        return jinja_value_fail(run, -EINVAL, "'map' takes a filter or an attribute");
    if (r == 0 && name.text && hai_streq(name.text, "map"))
        return jinja_value_fail(run, -EINVAL, "'map' of 'map'");
    for (size_t i = 0; r == 0 && i < items.list->n; i++) {
        if (path.text)
            v = attribute(&items.list->items[i], path);
        else
            r = jinja_filter(run, name.text, &items.list->items[i], &none, &v);
        if (r == 0 && path.text && v.kind == JINJA_UNDEFINED && args[2].kind != JINJA_UNDEFINED)
            v = args[2];
        if (r == 0)
            r = jinja_value_append(run, ret->list, v);
    }
    return r;
}

/* Put spaces before every line but the first and the empty ones. */
FILTER(filter_indent) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder b = {0};
    struct jinja_value text;
    int64_t width = 4;
    size_t done = 0;
    int r = as_text(run, self, &text);

    if (r == 0)
        r = jinja_args_int(run, "indent", &args[0], &width);
    if (r == 0 && (width < 0 || width > 64))
        r = jinja_value_fail(run, -EINVAL, "'indent' by %lld", (long long)width);
    bool first = jinja_value_truth(&args[1]), blank = jinja_value_truth(&args[2]);
    struct jinja_string s = r == 0 ? text.string : (struct jinja_string){"", NULL, 0};
    for (size_t at = 0; r == 0 && at <= s.n_bytes; at = done) {
        const char *end = memchr(s.text + at, '\n', s.n_bytes - at);
        done = end ? (size_t)(end - s.text) + 1 : s.n_bytes + 1;
        bool is_blank = at == s.n_bytes || s.text[at] == '\n';
        for (int64_t i = 0; r == 0 && (at ? blank || !is_blank : first) && i < width; i++)
            r = jinja_value_add_text(run, &b, " ");
        if (r == 0)
            r = jinja_value_add(run, &b, jinja_value_part(s, at, MIN(done, s.n_bytes)).string);
    }
    if (r == 0)
        *ret = jinja_value_built(run, &b);
    return r;
}

static const struct jinja_builtin filters[] = {
    {"trim",       filter_trim,       {"chars"},                               0},
    {"length",     filter_length,     {NULL},                                  0},
    {"count",      filter_length,     {NULL},                                  0},
    {"tojson",     filter_tojson,     {"indent", "ensure_ascii", "sort_keys"}, 0},
    {"default",    filter_default,    {"default_value", "boolean"},            0},
    {"d",          filter_default,    {"default_value", "boolean"},            0},
    {"join",       filter_join,       {"d", "attribute"},                      0},
    {"list",       filter_list,       {NULL},                                  0},
    {"first",      filter_first,      {NULL},                                  0},
    {"last",       filter_last,       {NULL},                                  0},
    {"reverse",    filter_reverse,    {NULL},                                  0},
    {"string",     filter_string,     {NULL},                                  0},
    {"int",        filter_int,        {"default"},                             0},
    {"abs",        filter_abs,        {NULL},                                  0},
    {"safe",       filter_safe,       {NULL},                                  0},
    {"items",      filter_items,      {NULL},                                  0},
    {"select",     filter_select,     {"test", "value"},                       0},
    {"reject",     filter_reject,     {"test", "value"},                       0},
    {"selectattr", filter_selectattr, {"attribute", "test", "value"},          1},
    {"rejectattr", filter_rejectattr, {"attribute", "test", "value"},          1},
    {"map",        filter_map,        {"filter", "attribute", "default"},      0},
    {"indent",     filter_indent,     {"width", "first", "blank"},             0},
};

static const struct jinja_builtin dict_methods[] = {
    {"items",  filter_items,  {NULL},             0},
    {"keys",   method_keys,   {NULL},             0},
    {"values", method_values, {NULL},             0},
    {"get",    method_get,    {"key", "default"}, 1},
};

const struct jinja_builtin *jinja_filter_dict_method(const char *name) {
    return jinja_args_find(dict_methods, ARRAY_SIZE(dict_methods), name);
}

int jinja_filter(struct jinja_run *run, const char *name, const struct jinja_value *v,
                 const struct jinja_args *args, struct jinja_value *ret) {
    static const char *const of_text[] = {"upper", "lower", "capitalize", "title", "replace"};
    const struct jinja_builtin *f = jinja_args_find(filters, ARRAY_SIZE(filters), name);
    struct jinja_value text, self = *v;
    int r = 0;

    for (size_t i = 0; !f && i < ARRAY_SIZE(of_text); i++)
        if (hai_streq(of_text[i], name)) {
            f = jinja_text_method(name);
            r = as_text(run, v, &text);
            self = text;
        }
    if (!f)
        return jinja_value_fail(run, -ENOTSUP, "filter '%s' is not built in", name);
    return r < 0 ? r : jinja_args_call(run, "filter", f, &self, args, ret);
}
